"""The secrets of webhooks, and the inbox, in tables.

May import: `ports`, `domain`, and its neighbours.
"""

from __future__ import annotations

from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from sqlalchemy import Integer, Table, any_, bindparam, insert, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from integration_hub.database.faults import webhooks_there
from integration_hub.domain.webhook_secret import WebhookSecret
from integration_hub.ports.secrets import InboxLife, SecretsLife
from integration_hub.sql.mapping import SECRETS
from integration_hub.sql.models import InboxMessageRow
from integration_hub.sql.prepared import Prepared, delete_those
from integration_hub.sql.statements import INSERTS

if TYPE_CHECKING:
    from integration_hub.sql.unit_of_work import SqlUnitOfWork

_SECRETS: Table = SECRETS.table
_INBOX: Any = InboxMessageRow.__table__


class SqlSecretRepository(SecretsLife["SqlUnitOfWork"]):
    """Secrets in a table."""

    OF: ClassVar[Prepared]

    def __init__(self, uow: SqlUnitOfWork) -> None:
        self._uow = uow
        self.clock = uow.clock

    def _all_of(self, webhook_ids: list[UUID]) -> list[WebhookSecret]:
        rows = self._uow.rows(self.OF, {"webhook_ids": webhook_ids})
        return [SECRETS.load(row) for row in rows]

    def _put(self, secret: WebhookSecret) -> None:
        with webhooks_there():
            self._uow.touch(_PUT_SECRET, SECRETS.parameters(secret))

    def _expire(self, webhook_ids: list[UUID], until: datetime) -> None:
        for id in webhook_ids:
            self._uow.touch(_EXPIRE, {"of_webhook": id, "until": until})


class PostgresSecretRepository(SqlSecretRepository):
    """Secrets on Postgres."""

    _IDS = bindparam("webhook_ids", type_=ARRAY(_SECRETS.c.webhook_id.type))
    OF = Prepared(select(_SECRETS).where(_SECRETS.c.webhook_id == any_(_IDS)))


class SqliteSecretRepository(SqlSecretRepository):
    """Secrets on SQLite."""

    _IDS = bindparam("webhook_ids", type_=_SECRETS.c.webhook_id.type, expanding=True)
    OF = Prepared(select(_SECRETS).where(_SECRETS.c.webhook_id.in_(_IDS)))


_PUT_SECRET = Prepared(insert(_SECRETS).values(SECRETS.new_values()))
_EXPIRE = Prepared(
    update(_SECRETS)
    .where(
        _SECRETS.c.webhook_id == bindparam("of_webhook", type_=_SECRETS.c.webhook_id.type),
        _SECRETS.c.expires_at.is_(None),
    )
    .values(
        expires_at=bindparam("until", type_=_SECRETS.c.expires_at.type),
        version=_SECRETS.c.version + 1,
    )
)


class InboxStatements:
    """The statements on the inbox, built once per dialect."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self.forget = lru_cache(self._forget)

    @cached_property
    def accept(self) -> Prepared:
        """Touches a row where the message is new, or was accepted before `oldest`."""
        names = ("tenant_id", "source", "message_id", "received_at")
        values = {name: bindparam(f"new_{name}", type_=_INBOX.c[name].type) for name in names}
        statement = INSERTS[self._dialect](_INBOX).values(values)
        oldest = bindparam("oldest", type_=_INBOX.c.received_at.type)
        statement = statement.on_conflict_do_update(
            index_elements=["tenant_id", "source", "message_id"],
            set_={"received_at": statement.excluded.received_at},
            where=_INBOX.c.received_at < oldest,
        )
        return Prepared(statement.execution_options(preserve_rowcount=True))

    def _forget(self, *, scoped: bool) -> Prepared:
        key = (_INBOX.c.tenant_id, _INBOX.c.source, _INBOX.c.message_id)
        before = bindparam("received_at", type_=_INBOX.c.received_at.type)
        old = select(*key).where(_INBOX.c.received_at < before)
        if scoped:
            tenant = bindparam("tenant_id", type_=_INBOX.c.tenant_id.type)
            old = old.where(_INBOX.c.tenant_id == tenant)
        old = old.order_by(_INBOX.c.received_at).limit(bindparam("limit", type_=Integer))
        return Prepared(delete_those(_INBOX, old))


class SqlInboxRepository(InboxLife["SqlUnitOfWork"]):
    """The inbox in a table."""

    STATEMENTS: ClassVar[InboxStatements]

    def __init__(self, uow: SqlUnitOfWork) -> None:
        self._uow = uow
        self.clock = uow.clock

    def _accept(self, key: tuple[str, str, str], now: datetime, oldest: datetime) -> bool:
        values = dict(zip(("new_tenant_id", "new_source", "new_message_id"), key, strict=True))
        given = {**values, "new_received_at": now, "oldest": oldest}
        return self._uow.touch(self.STATEMENTS.accept, given) == 1

    def _forget(self, before: datetime, limit: int) -> int:
        values = self._uow.scoped(received_at=before, limit=limit)
        return self._uow.touch(self.STATEMENTS.forget(scoped=self._uow.is_scoped), values)


class PostgresInboxRepository(SqlInboxRepository):
    """The inbox on Postgres."""

    STATEMENTS = InboxStatements("postgresql")


class SqliteInboxRepository(SqlInboxRepository):
    """The inbox on SQLite."""

    STATEMENTS = InboxStatements("sqlite")

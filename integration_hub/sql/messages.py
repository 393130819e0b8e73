"""Messages to webhooks, their deliveries and attempts, in tables.

May import: `ports`, `domain`, and its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from integration_hub.database.faults import webhooks_there
from integration_hub.domain.frozen import evolved
from integration_hub.domain.webhook import Webhook
from integration_hub.domain.webhook_message import (
    STATUSES,
    DeliveryStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookHealth,
    WebhookMessage,
)
from integration_hub.ports.message_life import OLDEST_FIRST, Made, MessagesLife, Waiting
from integration_hub.ports.query import WebhookFilter
from integration_hub.sql.filtering import asked
from integration_hub.sql.mapping import ATTEMPTS, DELIVERIES, HEALTH, MESSAGES, WEBHOOKS, Mapper
from integration_hub.sql.message_statements import CHANGES, MessageStatements

if TYPE_CHECKING:
    from integration_hub.sql.unit_of_work import SqlUnitOfWork


class SqlMessageRepository(MessagesLife["SqlUnitOfWork"]):
    """Messages in tables."""

    STATEMENTS: ClassVar[MessageStatements]

    def __init__(self, uow: SqlUnitOfWork) -> None:
        self._uow = uow
        self.clock = uow.clock

    def counts(self) -> dict[DeliveryStatus, int]:
        self._uow.require_active()
        rows = self._uow.rows(
            self.STATEMENTS.counts(scoped=self._uow.is_scoped), self._uow.scoped()
        )
        found = dict.fromkeys(STATUSES.values(), 0)
        found.update((STATUSES[status], count) for status, count in rows)
        return found

    def _webhooks_of(self, tenant: str, wanted: WebhookFilter, limit: int | None) -> list[Webhook]:
        shape, values = asked(wanted)
        rows = self._uow.webhooks.STATEMENTS.rows
        statement = rows(shape, OLDEST_FIRST, scoped=True, limited=limit is not None)
        values["tenant_id"] = tenant
        if limit is not None:
            values["limit"] = limit
        return [WEBHOOKS.load(row) for row in self._uow.rows(statement, values)]

    def _put_message(self, message: WebhookMessage) -> WebhookMessage | None:
        if self._uow.touch(self.STATEMENTS.put_message, MESSAGES.parameters(message)):
            return None
        key = {"tenant_id": message.tenant, "idempotency_key": message.idempotency_key}
        return MESSAGES.load(self._uow.rows(self.STATEMENTS.by_key, key)[0])

    def _put_deliveries(self, deliveries: list[WebhookDelivery]) -> None:
        for each in deliveries:
            with webhooks_there():
                self._uow.touch(self.STATEMENTS.put_delivery, DELIVERIES.parameters(each))

    def _put_attempt(self, attempt: WebhookAttempt) -> None:
        self._uow.touch(self.STATEMENTS.put_attempt, ATTEMPTS.parameters(attempt))

    def _message(self, id: UUID) -> WebhookMessage | None:
        found: WebhookMessage | None = self._one(MESSAGES, id)
        return found

    def _delivery(self, id: UUID) -> WebhookDelivery | None:
        found: WebhookDelivery | None = self._one(DELIVERIES, id)
        return found

    def _one(self, mapper: Mapper[Any], id: UUID) -> Any:
        statement = self.STATEMENTS.get(mapper, scoped=self._uow.is_scoped)
        for row in self._uow.rows(statement, self._uow.scoped(id=id)):
            return mapper.load(row)
        return None

    def _deliveries_of(self, message: WebhookMessage) -> list[WebhookDelivery]:
        rows = self._uow.rows(self.STATEMENTS.deliveries_of, {"message_id": message.id})
        return [DELIVERIES.load(row) for row in rows]

    def _deliveries_to(
        self, webhook_id: UUID, statuses: list[str], limit: int
    ) -> list[WebhookDelivery]:
        values = {"webhook_id": webhook_id, "limit": limit}
        rows = self._uow.rows(self.STATEMENTS.deliveries_to(tuple(statuses)), values)
        return [DELIVERIES.load(row) for row in rows]

    def _attempts_of(self, delivery: WebhookDelivery) -> list[WebhookAttempt]:
        rows = self._uow.rows(self.STATEMENTS.attempts_of, {"delivery_id": delivery.id})
        return [ATTEMPTS.load(row) for row in rows]

    def _not_fanned_out(self, limit: int) -> list[WebhookMessage]:
        self._uow.begun()
        statement = self.STATEMENTS.not_fanned_out(scoped=self._uow.is_scoped)
        rows = self._uow.rows(statement, self._uow.scoped(limit=limit))
        return [MESSAGES.load(row) for row in rows]

    def _fanned_out(self, message: WebhookMessage) -> None:
        self._uow.touch(self.STATEMENTS.fanned_out, {"new_id": message.id})

    def _waiting(self, now: datetime, limit: int) -> list[Waiting]:
        statement = self.STATEMENTS.waiting(scoped=self._uow.is_scoped)
        rows = self._uow.rows(statement, self._uow.scoped(now=now, limit=limit))
        return [Waiting(WEBHOOKS.load(row[:-2]), bool(row[-2]), row[-1]) for row in rows]

    def _finish(
        self, after: WebhookDelivery, before: WebhookDelivery, attempt: WebhookAttempt | None
    ) -> bool:
        values = DELIVERIES.picked(after, ("id", *CHANGES), "new_")
        values["was"] = before.version
        if not self._uow.touch(self.STATEMENTS.finish, values):
            return False
        if attempt is not None:
            self._put_attempt(attempt)
        return True

    def _open_failed(self, webhook: Webhook, since: datetime | None, now: datetime) -> int:
        values: dict[str, Any] = {"of_webhook": webhook.id, "due": now}
        if since is not None:
            values["since"] = since
        return self._uow.touch(self.STATEMENTS.open_failed(dated=since is not None), values)

    def _health(self, webhook: Webhook) -> WebhookHealth | None:
        found: WebhookHealth | None = self._one(HEALTH, webhook.id)
        return found

    def _count_failure(
        self, webhook: Webhook, now: datetime, throttled_until: datetime | None
    ) -> WebhookHealth:
        known = WebhookHealth(id=webhook.id, tenant=webhook.tenant, version=0)
        first = known.failed(now, throttled_until)
        self._uow.begun()
        with webhooks_there():
            rows = self._uow.rows(self.STATEMENTS.count_failure, HEALTH.parameters(first))
        return HEALTH.load(rows[0])

    def _clear_health(self, webhook: Webhook) -> None:
        self._uow.touch(self.STATEMENTS.clear_health, {"id": webhook.id})

    def _forget(self, before: datetime, limit: int) -> int:
        values = self._uow.scoped(occurred_at=before, limit=limit)
        statement = self.STATEMENTS.forget(scoped=self._uow.is_scoped)
        return self._uow.touch(statement, values, is_whole=True)


class PostgresMessageRepository(SqlMessageRepository):
    """Messages on Postgres: many dispatchers at once, and nobody waits."""

    STATEMENTS = MessageStatements("postgresql")

    def _put_deliveries(self, deliveries: list[WebhookDelivery]) -> None:
        if len(deliveries) == 1:
            super()._put_deliveries(deliveries)
        elif deliveries:
            rows = json.dumps([DELIVERIES.dump(each) for each in deliveries], default=str)
            with webhooks_there():
                self._uow.touch(self.STATEMENTS.put_deliveries, {"rows": rows})

    def _take(
        self, rooms: Mapping[UUID, int], now: datetime, lease: timedelta
    ) -> list[tuple[WebhookDelivery, WebhookDelivery]]:
        wanted = [{"webhook_id": str(id), "room": room} for id, room in rooms.items()]
        values = {"now": now, "expires": now + lease, "rooms": json.dumps(wanted)}
        self._uow.begun()
        rows = self._uow.rows(self.STATEMENTS.take, values)
        messages = MESSAGES.told(rows, _MESSAGE_AT)
        return [_both(row, messages) for row in sorted(rows, key=_due_before)]

    def _finish_many(self, made: list[Made]) -> set[tuple[UUID, int]]:
        rows = [
            {
                **DELIVERIES.picked(each.after, ("id", *CHANGES), ""),
                "was": each.before.version,
                **ATTEMPTS.picked(each.outcome.attempt(each.before), ATTEMPTS.columns, "attempt_"),
            }
            for each in made
        ]
        if not rows:
            return set()
        self._uow.begun()
        given = {"made": json.dumps(rows, default=str)}
        return {(row[0], row[1]) for row in self._uow.rows(self.STATEMENTS.finish_many, given)}


def _due_before(row: Any) -> Any:
    return row[1], row[3]


_WIDTH = len(DELIVERIES.columns)
_DELIVERY_AT = 3  # in a row of a claim, behind what the delivery was
_MESSAGE_AT = _DELIVERY_AT + _WIDTH


def _both(
    row: Any, messages: Mapping[UUID, WebhookMessage]
) -> tuple[WebhookDelivery, WebhookDelivery]:
    """A delivery as it was, and as it is, with its message."""
    delivery = DELIVERIES.load(row[_DELIVERY_AT:_MESSAGE_AT])
    taken = evolved(delivery, message=messages[delivery.message_id])
    before = evolved(
        taken,
        status=STATUSES[row[0]],
        attempt_count=taken.attempt_count - 1,
        last_attempt_at=row[2],
    )
    return before, taken


class SqliteMessageRepository(SqlMessageRepository):
    """Messages on SQLite, which has one writer at a time: it looks, and takes."""

    STATEMENTS = MessageStatements("sqlite")

    def _take(
        self, rooms: Mapping[UUID, int], now: datetime, lease: timedelta
    ) -> list[tuple[WebhookDelivery, WebhookDelivery]]:
        self._uow.begun()
        found = []
        for id, room in rooms.items():
            values = {"webhook_id": id, "next_attempt_at": now, "limit": room}
            for row in self._uow.rows(self.STATEMENTS.due, values):
                before = DELIVERIES.load(row[:_WIDTH])
                taken = before.claimed(now, lease)
                self._finish(taken, before, None)
                found.append((before, evolved(taken, message=MESSAGES.load(row[_WIDTH:]))))
        return sorted(found, key=lambda each: (each[0].next_attempt_at, each[0].id))

"""Rows to domain objects and back.

May import: `domain`, `models`. What comes from a row was checked before it went in, so objects
are put together field by field, past the checks of their constructors: reading is the hot path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import ColumnClause, Table, bindparam, column

from integration_hub.domain import integration, sync_job, sync_run, webhook, webhook_message
from integration_hub.domain.aggregate import Aggregate
from integration_hub.domain.frozen import draft, frozen
from integration_hub.domain.frozen_json import FrozenDict, stored_json
from integration_hub.domain.integration import Integration
from integration_hub.domain.schedule import Schedule
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.sync_run import SyncRun
from integration_hub.domain.webhook import Webhook
from integration_hub.domain.webhook_message import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookHealth,
    WebhookMessage,
)
from integration_hub.domain.webhook_secret import WebhookSecret
from integration_hub.sql.models import (
    Base,
    IntegrationRow,
    SyncJobRow,
    SyncRunRow,
    WebhookAttemptRow,
    WebhookDeliveryRow,
    WebhookHealthRow,
    WebhookMessageRow,
    WebhookRow,
    WebhookSecretRow,
)

Kept: TypeAlias = (
    Aggregate
    | SyncRun
    | WebhookMessage
    | WebhookDelivery
    | WebhookAttempt
    | WebhookHealth
    | WebhookSecret
)
A = TypeVar("A", bound=Kept)
Convert = Callable[[Any], Any]

_FIELDS: Mapping[str, str] = {"tenant_id": "tenant"}


def _object(value: Any) -> FrozenDict:
    """A JSON object; what else somebody wrote there by hand is as nothing."""
    found = stored_json(value)
    return found if isinstance(found, FrozenDict) else FrozenDict()


def _words(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else ()


_FROM_ROW: Mapping[str, Convert] = {"config": _object, "tags": _words}
_TO_ROW: Mapping[str, Convert] = {"tags": list}
_NOTHING: Mapping[str, Convert] = {}


class Mapper(Generic[A]):
    """Turns the rows of one table into objects of one kind, and back."""

    def __init__(
        self,
        kind: type[A],
        model: type[Base],
        *,
        from_row: Mapping[str, Convert] = _NOTHING,
        to_row: Mapping[str, Convert] = _NOTHING,
    ) -> None:
        table = model.__table__
        assert isinstance(table, Table)
        self.kind = kind
        self.table = table
        self.columns = tuple(column.name for column in table.columns)
        fields = [str(_FIELDS.get(name, name)) for name in self.columns]
        self._draft = draft(kind, fields)  # what no column has is as the class has it by default
        reading = {**_FROM_ROW, **from_row}
        self._reading = [(at, reading[n]) for at, n in enumerate(self.columns) if n in reading]
        writing = {**_TO_ROW, **to_row}
        self._writing = [(n, f, writing.get(n)) for n, f in zip(self.columns, fields, strict=True)]

        self._picking: dict[tuple[tuple[str, ...], str], list[tuple[str, str, Any]]] = {}

    def load(self, row: Sequence[Any]) -> A:
        """The object of a row whose values come in the order of `columns`."""
        values = list(row)
        for position, convert in self._reading:
            values[position] = convert(values[position])
        return frozen(self.kind, self._draft(*values))

    def told(self, rows: Sequence[Sequence[Any]], at: int) -> dict[UUID, A]:
        """The objects that rows have from a column on, by their ids; those without have nulls."""
        found = [self.load(row[at:]) for row in rows if row[at] is not None]
        return {item.id: item for item in found}

    def listed(self, alias: str) -> str:
        """The columns of a table that is called `alias`, for SQL in text."""
        return ", ".join(f"{alias}.{name}" for name in self.columns)

    def typed(self, alias: str) -> list[ColumnClause[Any]]:
        """The same, with the types that a result has, and names unlike those of other tables."""
        return [column(f"{alias}_{each.name}", each.type) for each in self.table.columns]

    def new_values(self) -> dict[str, Any]:
        """A parameter for each column; `parameters` gives their values."""
        return {
            each.name: bindparam(f"new_{each.name}", type_=each.type) for each in self.table.columns
        }

    def dump(self, item: A) -> dict[str, Any]:
        """The row of an object, by column."""
        return {
            name: getattr(item, field) if convert is None else convert(getattr(item, field))
            for name, field, convert in self._writing
        }

    def parameters(self, item: A) -> dict[str, Any]:
        """The row of an object, by the names that statements give their parameters."""
        return {f"new_{name}": value for name, value in self.dump(item).items()}

    def picked(self, item: A, names: tuple[str, ...], prefix: str) -> dict[str, Any]:
        """Some columns of an object, by their names behind a prefix."""
        key = (names, prefix)
        writing = self._picking.get(key)
        if writing is None:
            all_ = {name: (f"{prefix}{name}", f, convert) for name, f, convert in self._writing}
            writing = self._picking[key] = [all_[name] for name in names]
        return {
            name: getattr(item, field) if convert is None else convert(getattr(item, field))
            for name, field, convert in writing
        }


INTEGRATIONS = Mapper(
    Integration,
    IntegrationRow,
    from_row={"status": integration.STATUSES.__getitem__},
    to_row={},
)
WEBHOOKS = Mapper(
    Webhook,
    WebhookRow,
    from_row={"events": _words, "status": webhook.STATUSES.__getitem__},
    to_row={"events": list},
)
SYNC_JOBS = Mapper(
    SyncJob,
    SyncJobRow,
    from_row={
        "schedule": Schedule.from_json,
        "direction": sync_job.DIRECTIONS.__getitem__,
        "status": sync_job.STATUSES.__getitem__,
        "checkpoint": stored_json,
    },
    to_row={"schedule": Schedule.to_json},
)
SYNC_RUNS = Mapper(
    SyncRun,
    SyncRunRow,
    from_row={
        "status": sync_run.STATUSES.__getitem__,
        "checkpoint_before": stored_json,
        "checkpoint_after": stored_json,
    },
    to_row={},
)
MESSAGES = Mapper(WebhookMessage, WebhookMessageRow, from_row={"payload": bytes})
DELIVERIES = Mapper(
    WebhookDelivery,
    WebhookDeliveryRow,
    from_row={"status": webhook_message.STATUSES.__getitem__},
)
ATTEMPTS = Mapper(WebhookAttempt, WebhookAttemptRow)
SECRETS = Mapper(WebhookSecret, WebhookSecretRow)
HEALTH = Mapper(WebhookHealth, WebhookHealthRow)

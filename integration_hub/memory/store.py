"""Where the dict-backed store keeps its objects: tables of dicts with real indexes.

May import: `domain`.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar
from uuid import UUID, uuid5

from integration_hub.domain.aggregate import Aggregate
from integration_hub.domain.errors import NotFound
from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import SyncJob, SyncJobStatus
from integration_hub.domain.sync_run import SyncRun
from integration_hub.domain.webhook import Webhook
from integration_hub.domain.webhook_message import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookHealth,
    WebhookMessage,
)
from integration_hub.domain.webhook_secret import WebhookSecret


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEntry:
    """A message that was received; its id is made of its tenant, source and message id."""

    KIND: ClassVar[str] = "inbox message"
    NOT_FOUND: ClassVar[type[NotFound]] = NotFound

    id: UUID
    tenant: str
    received_at: datetime
    version: int = 1

    @classmethod
    def of(cls, key: tuple[str, str, str], now: datetime) -> InboxEntry:
        return cls(id=uuid5(_INBOX, json.dumps(key)), tenant=key[0], received_at=now)


_INBOX = UUID("6d1f4c1e-53a5-5d0a-9c55-1b0f6a1f7f10")
Row: TypeAlias = (
    Aggregate
    | SyncRun
    | WebhookMessage
    | WebhookDelivery
    | WebhookAttempt
    | WebhookHealth
    | WebhookSecret
    | InboxEntry
)
A = TypeVar("A", bound=Row)
Keys = Callable[[Any], Iterable[Hashable]]
Due = tuple[datetime, UUID]

_COMMON: Mapping[str, Keys] = {
    "tenant": lambda item: (item.tenant,),
    "status": lambda item: (item.status,),
    "tags": lambda item: item.tags,
}
_OF_INTEGRATION: Mapping[str, Keys] = {
    "name": lambda item: ((item.integration_id, item.name),),
    "integration_id": lambda item: (item.integration_id,),
}
INDEXES: Mapping[type[Any], Mapping[str, Keys]] = {
    Integration: {
        **_COMMON,
        "name": lambda item: (item.name,),
        "type": lambda item: (item.type,),
    },
    Webhook: {**_COMMON, **_OF_INTEGRATION, "events": lambda item: item.events},
    SyncJob: {**_COMMON, **_OF_INTEGRATION},
    SyncRun: {
        "tenant": lambda run: (run.tenant,),
        "integration_id": lambda run: (run.integration_id,),
        "sync_job_id": lambda run: (run.sync_job_id,),
        "running": lambda run: (ANY, run.integration_id, run.sync_job_id) if run.is_running else (),
    },
    WebhookMessage: {
        "key": lambda message: (
            () if message.idempotency_key is None else ((message.tenant, message.idempotency_key),)
        ),
        "not_fanned_out": lambda message: () if message.is_fanned_out else (ANY,),
    },
    WebhookDelivery: {
        "message_id": lambda delivery: (delivery.message_id,),
        "webhook_id": lambda delivery: (delivery.webhook_id,),
        "open": lambda delivery: (ANY, delivery.webhook_id) if delivery.is_open else (),
    },
    WebhookAttempt: {"delivery_id": lambda attempt: (attempt.delivery_id,)},
    WebhookSecret: {"webhook_id": lambda secret: (secret.webhook_id,)},
    WebhookHealth: {"webhook_id": lambda health: (health.id,)},
    InboxEntry: {},
}
#: What goes with what, and by which index it is found.
CHILDREN: Mapping[type[Any], tuple[tuple[type[Any], str], ...]] = {
    Integration: (
        (Webhook, "integration_id"),
        (SyncRun, "integration_id"),
        (SyncJob, "integration_id"),
    ),
    SyncJob: ((SyncRun, "sync_job_id"),),
    Webhook: (
        (WebhookDelivery, "webhook_id"),
        (WebhookSecret, "webhook_id"),
        (WebhookHealth, "webhook_id"),
    ),
    WebhookMessage: ((WebhookDelivery, "message_id"),),
    WebhookDelivery: ((WebhookAttempt, "delivery_id"),),
}


ANY = "any"
"""The key under which an index has everything that it holds."""

#: What a commit must find: anything, the row as such, or the very version that was changed. Where
#: SQL would have waited for another's change, and gone on from that (`AS_FOUND`), it is a conflict,
#: to be run again; where somebody named the version, it is stale.
ANYTHING, THE_ROW, AS_FOUND, THE_VERSION = range(4)


class DueIndex:
    """The pending, active jobs in the order of their next run: the twin of the partial index."""

    def __init__(self) -> None:
        self._entries: list[Due] = []

    def add(self, item: Any) -> None:
        if (entry := _due_entry(item)) is not None:
            insort(self._entries, entry)

    def discard(self, item: Any) -> None:
        if (entry := _due_entry(item)) is not None:
            del self._entries[bisect_left(self._entries, entry)]

    def extend(self, items: Iterable[Any]) -> None:
        """Many at once: one sort, which takes runs that are sorted already as they are."""
        self._entries.extend(entry for entry in map(_due_entry, items) if entry is not None)
        self._entries.sort()

    def until(self, moment: datetime) -> list[UUID]:
        """The ids of the jobs whose next run is not after `moment`, the earliest first."""
        return [id for _, id in self._entries[: self._end_of(moment)]]

    def after(self, moment: datetime) -> list[UUID]:
        """The ids of the others."""
        return [id for _, id in self._entries[self._end_of(moment) :]]

    def _end_of(self, moment: datetime) -> int:
        return bisect_right(self._entries, (moment, UUID(int=2**128 - 1)))


def _due_entry(item: Any) -> Due | None:
    if not isinstance(item, SyncJob) or item.next_run_at is None:
        return None
    waits = item.status == SyncJobStatus.PENDING and item.is_active
    return (item.next_run_at, item.id) if waits else None


class Table(Generic[A]):
    """Objects of one kind by id, and by everything that they are looked up by."""

    def __init__(self, kind: type[A]) -> None:
        self.rows: dict[UUID, A] = {}
        self.due = DueIndex()
        self._keys = INDEXES[kind]
        # Inner dicts serve as ordered sets.
        self._indexes: dict[str, dict[Hashable, dict[UUID, None]]] = {n: {} for n in self._keys}

    def put(self, item: A) -> None:
        """Keep the object, in the place of the one with its id."""
        self.discard(item.id)
        self._index(item)
        self.due.add(item)

    def put_new(self, items: Iterable[A]) -> None:
        """Keep many objects whose ids are new."""
        items = list(items)
        for item in items:
            self._index(item)
        self.due.extend(items)

    def _index(self, item: A) -> None:
        self.rows[item.id] = item
        for name, keys in self._keys.items():
            index = self._indexes[name]
            for key in keys(item):
                index.setdefault(key, {})[item.id] = None

    def discard(self, id: UUID) -> None:
        item = self.rows.pop(id, None)
        if item is None:
            return
        for name, keys in self._keys.items():
            index = self._indexes[name]
            for key in keys(item):
                ids = index[key]
                del ids[id]
                if not ids:
                    del index[key]
        self.due.discard(item)

    def ids(self, index: str, key: Hashable) -> Mapping[UUID, None]:
        """The ids under one key of an index."""
        return self._indexes[index].get(key, _NONE)


_NONE: Mapping[UUID, None] = {}


class MemoryStore:
    """What is committed, of all kinds; one lock guards it, held for the length of one call."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        #: By id: the jobs and runs that a unit of work has claimed or ended and not yet committed,
        #: which others pass by, as Postgres' SKIP LOCKED does.
        self.held: dict[UUID, object] = {}
        self._tables: dict[type[Any], Table[Any]] = {kind: Table(kind) for kind in INDEXES}

    def table(self, kind: type[A]) -> Table[A]:
        return self._tables[kind]

    def __iter__(self) -> Iterator[type[Row]]:
        return iter(self._tables)

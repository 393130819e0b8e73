"""The unit of work over dicts: changes lie over what is committed until they join it.

May import: `ports`, `domain`, and its neighbours.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

from integration_hub.domain.errors import (
    DuplicateId,
    DuplicateName,
    HubError,
    IntegrationNotFound,
    SerializationConflict,
    StaleVersion,
)
from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.sync_run import SyncRun
from integration_hub.domain.webhook import Webhook
from integration_hub.domain.webhook_message import WebhookDelivery, WebhookHealth, WebhookMessage
from integration_hub.domain.webhook_secret import WebhookSecret
from integration_hub.memory.messages import InMemoryMessageRepository
from integration_hub.memory.repositories import (
    InMemoryIntegrationRepository,
    InMemorySyncJobRepository,
    InMemoryWebhookRepository,
)
from integration_hub.memory.secrets import InMemoryInboxRepository, InMemorySecretRepository
from integration_hub.memory.store import (
    ANYTHING,
    AS_FOUND,
    CHILDREN,
    THE_ROW,
    MemoryStore,
    Row,
    Table,
)
from integration_hub.memory.sync_runs import InMemorySyncRunRepository
from integration_hub.ports.clock import Clock, SystemClock
from integration_hub.ports.repositories import scope_of
from integration_hub.ports.unit_of_work import Tenant, UnitOfWorkLifecycle

A = TypeVar("A", bound=Row)


class Layer(Generic[A]):
    """The changes of one unit of work to one table, and the sight through them."""

    def __init__(self, kind: type[A], base: Table[A]) -> None:
        self.kind = kind
        self.base = base
        self.changed = Table(kind)
        #: By id: the version that the first change was based on; None for what was not there.
        self.based_on: dict[UUID, int | None] = {}
        self.expects: dict[UUID, int] = {}

    def get(self, id: UUID) -> A | None:
        return (self.changed if id in self.based_on else self.base).rows.get(id)

    def ids(self, index: str, keys: Iterable[Hashable]) -> list[UUID]:
        """Ids under the keys, each once, as this unit of work sees them."""
        found: dict[UUID, None] = {}
        for key in keys:
            found.update((id, None) for id in self.base.ids(index, key) if id not in self.based_on)
            found.update(self.changed.ids(index, key))
        return list(found)

    def count(self, index: str, keys: Iterable[Hashable]) -> int:
        """At most how many `ids` would find: the sizes alone, without looking."""
        return sum(len(self.base.ids(index, k)) + len(self.changed.ids(index, k)) for k in keys)

    def due(self, moment: datetime) -> list[UUID]:
        base = [id for id in self.base.due.until(moment) if id not in self.based_on]
        return base + self.changed.due.until(moment)

    def later(self, moment: datetime) -> list[UUID]:
        base = [id for id in self.base.due.after(moment) if id not in self.based_on]
        return base + self.changed.due.after(moment)

    def all_ids(self) -> list[UUID]:
        base = [id for id in self.base.rows if id not in self.based_on]
        return base + list(self.changed.rows)

    def slots_of(self, integration_id: UUID) -> set[int]:
        """Of runs: the places of an integration that those changed here take."""
        runs = map(self.changed.rows.get, self.changed.ids("running", integration_id))
        return {run.slot for run in runs if isinstance(run, SyncRun)}

    def named(self, scope: Hashable, name: str) -> A | None:
        """The one of this name within its scope."""
        if self.kind is not Integration:
            ids = self.ids("name", [(scope, name)])
            return self.get(ids[0]) if ids else None
        return next((item for item in self.sharing(name) if item.tenant == scope), None)

    def sharing(self, name: str) -> list[A]:
        """The integrations of this name, of all tenants."""
        items = map(self.get, self.ids("name", [name]))
        return [item for item in items if item is not None]


class MemoryUnitOfWork(UnitOfWorkLifecycle):
    """A unit of work on a `MemoryStore`: one of its own, unless it is given.

    Isolation is that of Postgres' READ COMMITTED. Nothing waits: of two units of work that changed
    the same row, the second one to commit raises `StaleVersion`, where on SQL its `save` would
    have waited for the first one to end; or, where it would then have gone on (runs, deliveries,
    an upsert), `SerializationConflict`, so that `hub.run` comes to the same.
    """

    def __init__(
        self,
        store: MemoryStore | None = None,
        *,
        tenant: Tenant = "default",
        actor: str = "system",
        clock: Clock | None = None,
    ) -> None:
        super().__init__(tenant=tenant, actor=actor, clock=clock or SystemClock())
        self.store = MemoryStore() if store is None else store
        self._layers: dict[type[Any], Layer[Any]] = {
            kind: Layer(kind, self.store.table(kind)) for kind in self.store
        }
        self._undo: list[tuple[Layer[Any], UUID, Row | None, int | None]] = []
        self.integrations = InMemoryIntegrationRepository(self)
        self.webhooks = InMemoryWebhookRepository(self)
        self.sync_runs = InMemorySyncRunRepository(self)
        self.sync_jobs = InMemorySyncJobRepository(self)
        self.messages = InMemoryMessageRepository(self)
        self.secrets = InMemorySecretRepository(self)
        self.inbox = InMemoryInboxRepository(self)

    def __enter__(self) -> Self:
        self._enter()
        return self

    def layer(self, kind: type[A]) -> Layer[A]:
        return self._layers[kind]

    # --- changing -----------------------------------------------------------------------------

    def put(self, kind: type[A], item: A, *, expects: int = AS_FOUND) -> None:
        self._touch(kind, item.id, expects).changed.put(item)

    def put_new(self, kind: type[A], items: list[A], *, expects: int = AS_FOUND) -> None:
        for item in items:
            self._touch(kind, item.id, expects)
        self.layer(kind).changed.put_new(items)

    def discard(self, kind: type[A], id: UUID, *, is_cascade: bool = False) -> None:
        self._touch(kind, id, ANYTHING if is_cascade else THE_ROW).changed.discard(id)

    def discard_tree(self, kind: type[A], id: UUID, *, is_cascade: bool = False) -> None:
        """Discard a row, and all that hangs on it."""
        for child, key in CHILDREN.get(kind, ()):
            for each in self.layer(child).ids(key, [id]):
                self.discard_tree(child, each, is_cascade=True)
        self.discard(kind, id, is_cascade=is_cascade)

    def _touch(self, kind: type[A], id: UUID, expectation: int) -> Layer[A]:
        layer = self.layer(kind)
        before = layer.expects.get(id)
        self._undo.append((layer, id, layer.changed.rows.get(id), before))
        if before is None:
            found = layer.base.rows.get(id)
            layer.based_on[id] = None if found is None else found.version
        layer.expects[id] = max(expectation, before or ANYTHING)
        return layer

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A block whose changes are undone if it is left by an exception."""
        self.require_active()
        mark = len(self._undo)
        try:
            yield
        except BaseException:
            if self.state == "active":
                self._undo_to(mark)
            raise

    def _undo_to(self, mark: int) -> None:
        while len(self._undo) > mark:
            layer, id, item, expectation = self._undo.pop()
            layer.changed.discard(id)
            if item is not None:
                layer.changed.put(item)
            if expectation is None:
                del layer.based_on[id], layer.expects[id]
            else:
                layer.expects[id] = expectation

    # --- ending -------------------------------------------------------------------------------

    def _commit(self) -> None:
        with self.store.lock:
            try:
                for layer in self._layers.values():
                    self._check(layer)
                for layer in self._layers.values():
                    self._apply(layer)
            finally:
                self._let_go()

    def _rollback(self) -> None:
        self._undo.clear()
        with self.store.lock:
            self._let_go()

    def _let_go(self) -> None:
        for id in [id for id, uow in self.store.held.items() if uow is self]:
            del self.store.held[id]

    def _check(self, layer: Layer[Any]) -> None:
        """Everything that was true when the change was made must be true at its commit."""
        for id in layer.based_on:
            if (refusal := self._refusal(layer, id)) is not None:
                is_conflict = layer.expects[id] == AS_FOUND
                raise _conflict(layer.kind) if is_conflict else refusal
        for item in layer.changed.rows.values():
            self._check_neighbours(layer, item)

    @staticmethod
    def _refusal(layer: Layer[Any], id: UUID) -> HubError | None:
        kind: Any = layer.kind
        version, expectation = layer.based_on[id], layer.expects[id]
        found = layer.base.rows.get(id)
        if expectation == ANYTHING:
            return None
        if version is None:
            is_taken = found is not None and id in layer.changed.rows
            return DuplicateId(kind.KIND, id) if is_taken else None
        if found is None:
            missing: HubError = kind.NOT_FOUND(id)
            return missing
        if expectation != THE_ROW and found.version != version:
            return StaleVersion(kind.KIND, id, version, found.version)
        return None

    def _check_neighbours(self, layer: Layer[Any], item: Any) -> None:
        if isinstance(item, WebhookMessage) and item.idempotency_key is not None:
            ids = layer.ids("key", [(item.tenant, item.idempotency_key)])
            if ids != [item.id]:
                raise _conflict(WebhookMessage)
        is_of_webhook = isinstance(item, WebhookDelivery | WebhookSecret | WebhookHealth)
        if is_of_webhook and self.layer(Webhook).get(item.webhook_id) is None:
            raise _conflict(Webhook)
        if not isinstance(item, Integration | Webhook | SyncJob):
            return
        other = layer.named(scope_of(item), item.name)
        if other is not None and other.id != item.id:
            if layer.expects[item.id] == AS_FOUND:
                raise _conflict(layer.kind)
            raise DuplicateName(layer.kind.KIND, item.name)
        if not isinstance(item, Integration):
            parent = self.layer(Integration).get(item.integration_id)
            if parent is None or parent.tenant != item.tenant:
                raise IntegrationNotFound(item.integration_id)

    def _apply(self, layer: Layer[Any]) -> None:
        new = []
        for id in layer.based_on:
            item = layer.changed.rows.get(id)
            if item is not None and id not in layer.base.rows:
                new.append(item)
            elif item is not None:
                layer.base.put(item)
            else:
                layer.base.discard(id)
                self._remove_children(layer.kind, id)
        layer.base.put_new(new)

    def _remove_children(self, kind: type[Row], id: UUID) -> None:
        """Also those that others committed since this unit of work removed their parent."""
        for child, key in CHILDREN.get(kind, ()):
            table = self.store.table(child)
            for each in list(table.ids(key, id)):
                table.discard(each)
                self._remove_children(child, each)


def _conflict(kind: type[Any]) -> SerializationConflict:
    return SerializationConflict(f"another unit of work changed the same {kind.KIND}; run it again")


InMemoryUnitOfWork = MemoryUnitOfWork

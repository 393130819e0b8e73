"""The repositories over dicts.

May import: `ports`, `domain`, and its neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from uuid import UUID

from integration_hub.domain.aggregate import Aggregate, checked_item, require_way
from integration_hub.domain.errors import (
    DuplicateName,
    IntegrationNotFound,
    StaleVersion,
)
from integration_hub.domain.frozen import evolved
from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.sync_run import SyncRun
from integration_hub.domain.values import checked_count, checked_id, checked_time, searchable
from integration_hub.domain.webhook import DELIVERABLE, IN_TROUBLE, Webhook
from integration_hub.memory.matching import index_keys, matcher, sort_key
from integration_hub.memory.store import AS_FOUND, THE_VERSION
from integration_hub.ports.query import (
    MAX_PAGE_SIZE,
    NEWEST_FIRST,
    Cursor,
    CursorPage,
    Filter,
    IntegrationFilter,
    Page,
    PageRequest,
    Sort,
    SyncJobFilter,
    WebhookFilter,
    checked_filter,
    checked_limit,
    checked_sort,
)
from integration_hub.ports.repositories import require_free, scope_of, the_only_one
from integration_hub.ports.sync_runs import CLAIM_LEASE

if TYPE_CHECKING:
    from integration_hub.memory.unit_of_work import Layer, MemoryUnitOfWork

A = TypeVar("A", bound=Aggregate)
F = TypeVar("F", bound=Filter)


class MemoryRepository(Generic[A, F]):
    """What the three have in common; see `ports.repositories.Repository`."""

    KIND: ClassVar[type[Any]]
    FILTER: ClassVar[type[Any]]

    def __init__(self, uow: MemoryUnitOfWork) -> None:
        self._uow = uow
        self._layer: Layer[A] = uow.layer(self.KIND)

    # --- changing -----------------------------------------------------------------------------

    def add(self, item: A, /) -> A:
        return self._add(item, THE_VERSION)

    def _add(self, item: A, expects: int) -> A:
        new = self._new(item)
        with self._uow.store.lock:
            self._require_parents([new])
            self._require_free([new])
            self._uow.put(self.KIND, new, expects=expects)
        return new

    def add_many(self, items: Iterable[A], /) -> int:
        new = [self._new(item) for item in items]
        with self._uow.store.lock:
            self._require_parents(new)
            self._require_free(new)
            self._uow.put_new(self.KIND, new, expects=THE_VERSION)
        return len(new)

    def save(self, item: A, /) -> A:
        return self._save(item, THE_VERSION)

    def _save(self, item: A, expects: int) -> A:
        self._uow.require_active()
        item = self._uow.owned(checked_item(self.KIND, item))
        with self._uow.store.lock:
            found = self._seen(item.id)
            if found is None or found.tenant != item.tenant:
                raise self.KIND.NOT_FOUND(item.id)
            if found.version != item.version:
                raise StaleVersion(self.KIND.KIND, item.id, item.version, found.version)
            require_way(found, item)
            changed = item.saved(actor=self._uow.actor, now=self._uow.clock.now())
            self._require_parents([changed])
            other = self._layer.named(scope_of(changed), changed.name)
            if other is not None and other.id != changed.id:
                raise DuplicateName(self.KIND.KIND, changed.name)
            created = {name: getattr(found, name) for name in ("created_at", "created_by")}
            self._uow.put(self.KIND, evolved(changed, **created), expects=expects)
        return changed

    def upsert(self, item: A, /) -> A:
        new = self._new(item)
        with self._uow.store.lock:
            self._require_parents([new])
            found = self._layer.named(scope_of(new), new.name)
            if found is None:
                return self._add(item, AS_FOUND)
            return self._save(found.redeclared(new), AS_FOUND)

    def remove(self, id: UUID) -> None:
        self._uow.require_active()
        with self._uow.store.lock:
            self._get(checked_id("id", id))
            self._uow.discard_tree(self.KIND, id)

    def clear(self) -> None:
        """Remove every object of the tenant, as one change of the unit of work."""
        for item in self.find():
            self.remove(item.id)

    # --- looking up ---------------------------------------------------------------------------

    def get(self, id: UUID) -> A:
        self._uow.require_active()
        with self._uow.store.lock:
            return self._get(checked_id("id", id))

    def get_many(self, ids: Iterable[UUID]) -> dict[UUID, A]:
        self._uow.require_active()
        wanted = [checked_id("ids", id) for id in ids]
        with self._uow.store.lock:
            found = ((id, self._seen(id)) for id in wanted)
            return {id: item for id, item in found if item is not None}

    def find(
        self, filter: F | None = None, *, sort: Sort = NEWEST_FIRST, limit: int | None = None
    ) -> list[A]:
        return self._matching(filter, sort)[: checked_limit(limit)]

    def page(
        self,
        filter: F | None = None,
        *,
        sort: Sort = NEWEST_FIRST,
        number: int = 1,
        size: int = 50,
    ) -> Page[A]:
        request = PageRequest(number, size)
        items = self._matching(filter, sort)
        shown = items[request.offset : request.offset + size]
        return Page(items=shown, number=number, size=size, total=len(items))

    def scroll(
        self,
        filter: F | None = None,
        *,
        sort: Sort = NEWEST_FIRST,
        size: int = 50,
        after: str | None = None,
    ) -> CursorPage[A]:
        checked_count("size", size, least=1, most=MAX_PAGE_SIZE)
        asked = checked_filter(filter, self.FILTER)
        items = self._matching(asked, sort)
        key = sort_key(sort)
        if after is not None:
            cursor = Cursor.decode(after, asked, sort)
            place = (cursor.key, cursor.id)
            items = [i for i in items if (key(i) < place if sort.is_descending else key(i) > place)]
        shown = items[:size]
        next = Cursor.of(shown[-1], sort).encode(asked, sort) if len(items) > size else None
        return CursorPage(items=shown, next=next)

    def stream(
        self, filter: F | None = None, *, sort: Sort = NEWEST_FIRST, batch: int = 500
    ) -> Iterator[A]:
        checked_count("batch", batch, least=1)
        self._uow.require_active()
        asked, order = checked_filter(filter, self.FILTER), checked_sort(sort, self.FILTER)
        return self._streamed(asked, order)

    def _streamed(self, filter: F, sort: Sort) -> Iterator[A]:
        for item in self._matching(filter, sort):
            self._uow.require_active()
            yield item

    def count(self, filter: F | None = None) -> int:
        return len(self._passing(filter))

    def exists(self, filter: F) -> bool:
        return bool(self._passing(filter))

    def __len__(self) -> int:
        return self.count()

    # --- inside -------------------------------------------------------------------------------

    def _new(self, item: A) -> A:
        self._uow.require_active()
        tenant = self._uow.tenant_for(checked_item(self.KIND, item).tenant)
        return item.added(tenant=tenant, actor=self._uow.actor, now=self._uow.clock.now())

    def _is_seen(self, item: Aggregate) -> bool:
        return self._uow.sees(item.tenant)

    def _seen(self, id: UUID) -> A | None:
        item = self._layer.get(id)
        return item if item is not None and self._is_seen(item) else None

    def _get(self, id: UUID) -> A:
        item = self._seen(id)
        if item is None:
            raise self.KIND.NOT_FOUND(id)
        return item

    def _require_parents(self, items: Iterable[Any]) -> None:
        if self.KIND is not Integration:
            integrations = self._uow.layer(Integration)
            for item in items:
                parent = integrations.get(item.integration_id)
                if parent is None or parent.tenant != item.tenant:
                    raise IntegrationNotFound(item.integration_id)

    def _require_free(self, items: list[A]) -> None:
        require_free(
            items,
            id_is_taken=lambda id: self._layer.get(id) is not None,
            name_is_taken=lambda item: self._layer.named(scope_of(item), item.name) is not None,
        )

    def _named(self, scope: Any, name: str) -> A:
        found = self._layer.named(scope, searchable("name", name))
        if found is None or not self._is_seen(found):
            raise self.KIND.NOT_FOUND(name)
        return found

    def _matching(self, filter: F | None, sort: Sort) -> list[A]:
        key = sort_key(checked_sort(sort, self.FILTER))
        return sorted(self._passing(filter), key=key, reverse=sort.is_descending)

    def _passing(self, filter: F | None) -> list[A]:
        self._uow.require_active()
        asked = checked_filter(filter, self.FILTER)
        passes = matcher(asked)
        with self._uow.store.lock:
            items = map(self._seen, self._candidates(asked))
            return [item for item in items if item is not None and passes(item)]

    def _candidates(self, filter: F) -> list[UUID]:
        """The shortest list of ids that an index gives; all of the tenant's where none helps."""
        layer = self._layer
        due_by = getattr(filter, "due_by", None)
        if due_by is not None:
            return layer.due(due_by)
        choices = index_keys(filter)
        if self._uow.scope is not None:
            choices["tenant"] = [self._uow.scope]
        if not choices:
            return layer.all_ids()
        index = min(choices, key=lambda name: layer.count(name, choices[name]))
        return layer.ids(index, choices[index])


class InMemoryIntegrationRepository(MemoryRepository[Integration, IntegrationFilter]):
    """Integrations over dicts."""

    KIND = Integration
    FILTER = IntegrationFilter

    def get_by_name(self, name: str) -> Integration:
        self._uow.require_active()
        with self._uow.store.lock:
            if self._uow.scope is not None:
                return self._named(self._uow.scope, name)
            return the_only_one(self._layer.sharing(searchable("name", name)), name)

    def by_type(self, *types: str) -> list[Integration]:
        return self.find(IntegrationFilter(type=types))

    def by_status(self, *statuses: str) -> list[Integration]:
        return self.find(IntegrationFilter(status=statuses))

    def by_tag(self, *tags: str) -> list[Integration]:
        return self.find(IntegrationFilter(tags_any=tags))


class InMemoryWebhookRepository(MemoryRepository[Webhook, WebhookFilter]):
    """Webhooks over dicts."""

    KIND = Webhook
    FILTER = WebhookFilter

    def get_by_name(self, name: str, integration_id: UUID) -> Webhook:
        self._uow.require_active()
        with self._uow.store.lock:
            return self._named(checked_id("integration_id", integration_id), name)

    def for_event(self, event: str) -> list[Webhook]:
        return self.find(WebhookFilter(event=event, is_active=True, status=DELIVERABLE))

    def for_integration(self, id: UUID) -> list[Webhook]:
        return self.find(WebhookFilter(integration_id=id))

    def failed(self) -> list[Webhook]:
        return self.find(WebhookFilter(status=IN_TROUBLE))


class InMemorySyncJobRepository(MemoryRepository[SyncJob, SyncJobFilter]):
    """Sync jobs over dicts."""

    KIND = SyncJob
    FILTER = SyncJobFilter

    def get_by_name(self, name: str, integration_id: UUID) -> SyncJob:
        self._uow.require_active()
        with self._uow.store.lock:
            return self._named(checked_id("integration_id", integration_id), name)

    def due(self, now: datetime | None = None, *, limit: int = 100) -> list[SyncJob]:
        moment = self._uow.clock.now() if now is None else checked_time("now", now)
        checked_count("limit", limit, least=1)
        with self._uow.store.lock:
            jobs = self._matching(SyncJobFilter(due_by=moment), Sort("next_run_at"))
            return [job for job in jobs if self._runs(job)][:limit]

    def next_due(self, now: datetime | None = None) -> datetime | None:
        self._uow.require_active()
        moment = self._uow.clock.now() if now is None else checked_time("now", now)
        with self._uow.store.lock:
            later = map(self._seen, self._layer.later(moment))
            return min((job.next_run_at for job in later if job and job.next_run_at), default=None)

    def claim(
        self,
        worker: str,
        *,
        limit: int = 10,
        lease: timedelta | float = CLAIM_LEASE,
        now: datetime | None = None,
        types: str | Collection[str] | None = None,
    ) -> list[SyncRun]:
        return self._uow.sync_runs.claim(worker, limit, lease, now, types)

    def waiting(self, now: datetime) -> list[SyncJob]:
        """The due jobs, the longest waiting first; the caller has the store's lock."""
        jobs = self._matching(SyncJobFilter(due_by=now), Sort("next_run_at"))
        return [job for job in jobs if self._runs(job)]

    def _runs(self, job: SyncJob) -> bool:
        integration = self._uow.layer(Integration).get(job.integration_id)
        return integration is not None and not integration.is_resting

    def running(self) -> list[SyncJob]:
        return self.find(SyncJobFilter(running=True))

    def failed(self) -> list[SyncJob]:
        return self.find(SyncJobFilter(failed=True))

    def for_integration(self, id: UUID) -> list[SyncJob]:
        return self.find(SyncJobFilter(integration_id=id))

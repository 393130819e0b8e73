"""What a repository of each aggregate answers, whatever store is behind it.

May import: `domain`, `query`. Every call is confined to the tenant of its unit of work: another
tenant's object is `NotFound`, and its name is free.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from integration_hub.domain.aggregate import Aggregate
from integration_hub.domain.errors import (
    DuplicateId,
    DuplicateName,
    IntegrationNotFound,
    ValidationError,
)
from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.sync_run import SyncRun
from integration_hub.domain.webhook import Webhook
from integration_hub.ports.query import (
    NEWEST_FIRST,
    CursorPage,
    Filter,
    IntegrationFilter,
    Page,
    Sort,
    SyncJobFilter,
    WebhookFilter,
)
from integration_hub.ports.sync_runs import CLAIM_LEASE

A = TypeVar("A")
N = TypeVar("N", bound=Aggregate)
F = TypeVar("F", bound=Filter, contravariant=True)


class Repository(Protocol[A, F]):
    """What the three repositories have in common."""

    def add(self, item: A, /) -> A:
        """Store a new object; gives it back as stored: version 1, tenant, times and actors.

        Raises `DuplicateName`, `DuplicateId`, and `IntegrationNotFound` for a missing parent. The
        unit of work can go on after any of them.
        """
        ...

    def add_many(self, items: Iterable[A], /) -> int:
        """Store new objects, all or none; gives their number. Built for 100,000 at a time."""
        ...

    def save(self, item: A, /) -> A:
        """Store a change to an object that was loaded or added; gives the next version.

        When it was created, and by whom, is not changed, whatever the object says.
        Raises `NotFound`, `StaleVersion` if somebody changed it since, `InvalidTransition` if no
        number of steps leads from the stored status to its own, `DuplicateName`.
        """
        ...

    def upsert(self, item: A, /) -> A:
        """Add, or change the object of that name into what `item` declares.

        What exists keeps its id, its creation and its state (status, error, and a job's progress
        and checkpoint), so that declaring configuration at every start of a service is safe.
        """
        ...

    def remove(self, id: UUID) -> None:
        """Remove the object, and with an integration all that hangs on it. Raises `NotFound`."""
        ...

    def get(self, id: UUID) -> A:
        """The object with this id. Raises `NotFound`."""
        ...

    def get_many(self, ids: Iterable[UUID]) -> dict[UUID, A]:
        """Those of the objects that exist, by id, in the order of `ids`."""
        ...

    def find(
        self, filter: F | None = None, *, sort: Sort = NEWEST_FIRST, limit: int | None = None
    ) -> list[A]:
        """All that match, or the first `limit` of them."""
        ...

    def page(
        self,
        filter: F | None = None,
        *,
        sort: Sort = NEWEST_FIRST,
        number: int = 1,
        size: int = 50,
    ) -> Page[A]:
        """A numbered page with the total; costs more the deeper it lies, unlike `scroll`."""
        ...

    def scroll(
        self,
        filter: F | None = None,
        *,
        sort: Sort = NEWEST_FIRST,
        size: int = 50,
        after: str | None = None,
    ) -> CursorPage[A]:
        """The page after `after`, the `next` of the page before; the same cost at any depth.

        Raises `InvalidCursor` for a cursor of another filter or sort, or one that was changed.
        """
        ...

    def stream(
        self, filter: F | None = None, *, sort: Sort = NEWEST_FIRST, batch: int = 500
    ) -> Iterator[A]:
        """All that match, one by one, in constant memory; `batch` are fetched at a time."""
        ...

    def count(self, filter: F | None = None) -> int: ...

    def exists(self, filter: F) -> bool: ...


class IntegrationRepository(Repository[Integration, IntegrationFilter], Protocol):
    """The integrations of a tenant."""

    def get_by_name(self, name: str) -> Integration:
        """Raises `IntegrationNotFound`; and `ValidationError` where, through `EVERY_TENANT`, the
        name stands for several.
        """
        ...

    def by_type(self, *types: str) -> list[Integration]: ...

    def by_status(self, *statuses: str) -> list[Integration]: ...

    def by_tag(self, *tags: str) -> list[Integration]:
        """Those that carry at least one of the tags."""
        ...


class WebhookRepository(Repository[Webhook, WebhookFilter], Protocol):
    """The webhooks of a tenant's integrations."""

    def get_by_name(self, name: str, integration_id: UUID) -> Webhook:
        """Raises `WebhookNotFound`."""
        ...

    def for_event(self, event: str) -> list[Webhook]:
        """Those that are told of it: subscribed, active, and neither paused nor disabled."""
        ...

    def for_integration(self, id: UUID) -> list[Webhook]: ...

    def failed(self) -> list[Webhook]:
        """Those in trouble: failing, or disabled."""
        ...


class SyncJobRepository(Repository[SyncJob, SyncJobFilter], Protocol):
    """The sync jobs of a tenant's integrations."""

    def get_by_name(self, name: str, integration_id: UUID) -> SyncJob:
        """Raises `SyncJobNotFound`."""
        ...

    def due(self, now: datetime | None = None, *, limit: int = 100) -> list[SyncJob]:
        """What should run at `now` (the clock's, if left out), the longest waiting first.

        Pending, active jobs whose time has come, of integrations that are active and neither
        paused nor archived.
        """
        ...

    def next_due(self, now: datetime | None = None) -> datetime | None:
        """When the next time of a pending, active job comes that is later than `now` (the clock's,
        if left out), whether its integration rests or not; None if no job waits for a time.
        """
        ...

    def claim(
        self,
        worker: str,
        *,
        limit: int = 10,
        lease: timedelta | float = CLAIM_LEASE,
        now: datetime | None = None,
        types: str | Collection[str] | None = None,
    ) -> list[SyncRun]:
        """Take up to `limit` due jobs for a worker, the longest waiting first, each as a new run.

        With `types`, those of integrations of these types alone; others are left to other workers.

        They are running from the commit on, for as long as `lease` (at least a second) is renewed
        by heartbeats. Of an integration no more run at once than ``config["sync"]
        ["max_concurrency"]`` says (1, if it says nothing). Jobs that another unit of work is just
        claiming are passed by. Each run has its `job` and its `integration` with it. Two claims
        can get into each other's way, above all in units of work that have ended runs before: then
        one raises `SerializationConflict`, has claimed nothing, and may try again, as `hub.run`
        does. So claim in a unit of work of its own.
        """
        ...

    def running(self) -> list[SyncJob]: ...

    def failed(self) -> list[SyncJob]: ...

    def for_integration(self, id: UUID) -> list[SyncJob]: ...


def the_only_one(found: Sequence[Integration], name: str) -> Integration:
    """The integration that bears a name; a name alone may mean several across the tenants."""
    if not found:
        raise IntegrationNotFound(name)
    if len(found) > 1:
        problem = f"is borne by integrations of {len(found)} tenants; open a unit of work on one"
        raise ValidationError("name", name, problem)
    return found[0]


def require_free(
    items: Iterable[N],
    *,
    id_is_taken: Callable[[UUID], bool],
    name_is_taken: Callable[[N], bool],
) -> None:
    """All or none: raises for the first new object whose id, or else whose name, is taken.

    Taken is what is stored, or what an earlier one of the new objects bears.
    """
    items = list(items)
    ids: set[UUID] = set()
    for item in items:
        if item.id in ids or id_is_taken(item.id):
            raise DuplicateId(item.KIND, item.id)
        ids.add(item.id)
    names: set[tuple[UUID | str, str]] = set()
    for item in items:
        name = (scope_of(item), item.name)
        if name in names or name_is_taken(item):
            raise DuplicateName(item.KIND, item.name)
        names.add(name)


def scope_of(item: Aggregate) -> UUID | str:
    """Within what an object's name is unique: its integration, or its tenant."""
    return item.integration_id if isinstance(item, Webhook | SyncJob) else item.tenant

"""The repositories of integrations, webhooks and sync jobs, for Postgres and for SQLite.

May import: `ports`, `domain`, `repositories` and what stands below it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from uuid import UUID

from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import SyncJob, SyncJobStatus
from integration_hub.domain.sync_run import SyncRun
from integration_hub.domain.values import checked_count, checked_time, searchable
from integration_hub.domain.webhook import DELIVERABLE, IN_TROUBLE, Webhook
from integration_hub.ports.query import IntegrationFilter, SyncJobFilter, WebhookFilter
from integration_hub.ports.repositories import the_only_one
from integration_hub.ports.sync_runs import CLAIM_LEASE
from integration_hub.ports.waiting import DELIVERY_WORK, SYNC_WORK
from integration_hub.sql.mapping import INTEGRATIONS, SYNC_JOBS, WEBHOOKS
from integration_hub.sql.repositories import SqlRepository
from integration_hub.sql.statements import Statements

_SOON = timedelta(minutes=1)


class SqlIntegrationRepository(SqlRepository[Integration, IntegrationFilter]):
    """Integrations in a table."""

    MAPPER = INTEGRATIONS
    FILTER = IntegrationFilter

    def get_by_name(self, name: str) -> Integration:
        self._uow.require_active()
        return the_only_one(self._by_name(name=searchable("name", name)), name)

    def by_type(self, *types: str) -> list[Integration]:
        return self.find(IntegrationFilter(type=types))

    def by_status(self, *statuses: str) -> list[Integration]:
        return self.find(IntegrationFilter(status=statuses))

    def by_tag(self, *tags: str) -> list[Integration]:
        return self.find(IntegrationFilter(tags_any=tags))


class SqlWebhookRepository(SqlRepository[Webhook, WebhookFilter]):
    """Webhooks in a table."""

    MAPPER = WEBHOOKS
    FILTER = WebhookFilter

    def get_by_name(self, name: str, integration_id: UUID) -> Webhook:
        return self._named(name, integration_id)

    def for_event(self, event: str) -> list[Webhook]:
        return self.find(WebhookFilter(event=event, is_active=True, status=DELIVERABLE))

    def for_integration(self, id: UUID) -> list[Webhook]:
        return self.find(WebhookFilter(integration_id=id))

    def failed(self) -> list[Webhook]:
        return self.find(WebhookFilter(status=IN_TROUBLE))


class SqlSyncJobRepository(SqlRepository[SyncJob, SyncJobFilter]):
    """Sync jobs in a table."""

    MAPPER = SYNC_JOBS
    FILTER = SyncJobFilter

    def get_by_name(self, name: str, integration_id: UUID) -> SyncJob:
        return self._named(name, integration_id)

    def due(self, now: datetime | None = None, *, limit: int = 100) -> list[SyncJob]:
        self._uow.require_active()
        moment = self._uow.clock.now() if now is None else checked_time("now", now)
        checked_count("limit", limit, least=1)
        shape, values = self._asked(SyncJobFilter(due_by=moment))
        return self._loaded(
            self.STATEMENTS.due(shape, scoped=self._uow.is_scoped), {**values, "limit": limit}
        )

    def next_due(self, now: datetime | None = None) -> datetime | None:
        self._uow.require_active()
        moment = self._uow.clock.now() if now is None else checked_time("now", now)
        statement = self.STATEMENTS.next_due(scoped=self._uow.is_scoped)
        found: datetime
        for (found,) in self._uow.rows(statement, self._uow.scoped(moment=moment)):
            return found
        return None

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

    def running(self) -> list[SyncJob]:
        return self.find(SyncJobFilter(running=True))

    def failed(self) -> list[SyncJob]:
        return self.find(SyncJobFilter(failed=True))

    def for_integration(self, id: UUID) -> list[SyncJob]:
        return self.find(SyncJobFilter(integration_id=id))


def _is_resumed(item: Integration | Webhook) -> bool:
    """Whether it became active since it was loaded, so that what waited for that can go on."""
    stored_at, changed_at = item.updated_at, item.status_changed_at
    is_changed = changed_at is not None and (stored_at is None or changed_at >= stored_at)
    return is_changed and item.status == "active"


class PostgresIntegrationRepository(SqlIntegrationRepository):
    """Integrations on Postgres."""

    STATEMENTS = Statements(INTEGRATIONS, "postgresql")

    def save(self, item: Integration, /) -> Integration:
        saved = super().save(item)
        if _is_resumed(item):
            self._uow.announce(SYNC_WORK)
        return saved


class PostgresWebhookRepository(SqlWebhookRepository):
    """Webhooks on Postgres."""

    STATEMENTS = Statements(WEBHOOKS, "postgresql")

    def save(self, item: Webhook, /) -> Webhook:
        saved = super().save(item)
        if _is_resumed(item):
            self._uow.announce(DELIVERY_WORK)
        return saved


class PostgresSyncJobRepository(SqlSyncJobRepository):
    """Sync jobs on Postgres."""

    STATEMENTS = Statements(SYNC_JOBS, "postgresql")

    def add(self, item: SyncJob, /) -> SyncJob:
        return self._announced(super().add(item))

    def add_many(self, items: Iterable[SyncJob], /) -> int:
        self._uow.announce(SYNC_WORK)
        return super().add_many(items)

    def save(self, item: SyncJob, /) -> SyncJob:
        return self._announced(super().save(item))

    def _announced(self, job: SyncJob) -> SyncJob:
        """Workers are told of a job that is due, or will be soon; others they find themselves."""
        is_waiting = job.status == SyncJobStatus.PENDING and job.is_active
        at = job.next_run_at
        if is_waiting and at is not None and at <= self._uow.clock.now() + _SOON:
            self._uow.announce(SYNC_WORK)
        return job


class SqliteIntegrationRepository(SqlIntegrationRepository):
    """Integrations on SQLite."""

    STATEMENTS = Statements(INTEGRATIONS, "sqlite")


class SqliteWebhookRepository(SqlWebhookRepository):
    """Webhooks on SQLite."""

    STATEMENTS = Statements(WEBHOOKS, "sqlite")


class SqliteSyncJobRepository(SqlSyncJobRepository):
    """Sync jobs on SQLite."""

    STATEMENTS = Statements(SYNC_JOBS, "sqlite")

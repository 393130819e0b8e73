"""Every contract on every store: dicts, SQLite and Postgres."""

from __future__ import annotations

import pytest

from integration_hub import Hub
from integration_hub.testing import contracts


class OnMemory:
    """The plugin's own `hub` is the one in memory."""


class OnSqlite:
    @pytest.fixture
    def hub(self, hub_sqlite: Hub) -> Hub:
        return hub_sqlite


class OnPostgres:
    @pytest.fixture
    def hub(self, hub_postgres: Hub) -> Hub:
        return hub_postgres


class TestIntegrationsInMemory(OnMemory, contracts.IntegrationContract): ...


class TestIntegrationsOnSqlite(OnSqlite, contracts.IntegrationContract): ...


class TestIntegrationsOnPostgres(OnPostgres, contracts.IntegrationContract): ...


class TestWebhooksInMemory(OnMemory, contracts.WebhookContract): ...


class TestWebhooksOnSqlite(OnSqlite, contracts.WebhookContract): ...


class TestWebhooksOnPostgres(OnPostgres, contracts.WebhookContract): ...


class TestSyncJobsInMemory(OnMemory, contracts.SyncJobContract): ...


class TestSyncJobsOnSqlite(OnSqlite, contracts.SyncJobContract): ...


class TestSyncJobsOnPostgres(OnPostgres, contracts.SyncJobContract): ...


class TestJsonInMemory(OnMemory, contracts.JsonContract): ...


class TestJsonOnSqlite(OnSqlite, contracts.JsonContract): ...


class TestJsonOnPostgres(OnPostgres, contracts.JsonContract): ...


class TestUnitsOfWorkInMemory(OnMemory, contracts.UnitOfWorkContract): ...


class TestUnitsOfWorkOnSqlite(OnSqlite, contracts.UnitOfWorkContract): ...


class TestUnitsOfWorkOnPostgres(OnPostgres, contracts.UnitOfWorkContract): ...


class TestTenantsInMemory(OnMemory, contracts.TenantContract): ...


class TestTenantsOnSqlite(OnSqlite, contracts.TenantContract): ...


class TestTenantsOnPostgres(OnPostgres, contracts.TenantContract): ...


class TestSyncRunsInMemory(OnMemory, contracts.SyncRunContract): ...


class TestSyncRunsOnSqlite(OnSqlite, contracts.SyncRunContract): ...


class TestSyncRunsOnPostgres(OnPostgres, contracts.SyncRunContract): ...


class TestSyncRunsStoredAsMadeInMemory(OnMemory, contracts.SyncRunContract):
    atomic = False


class TestSyncRunsStoredAsMadeOnSqlite(OnSqlite, contracts.SyncRunContract):
    atomic = False


class TestSyncRunsStoredAsMadeOnPostgres(OnPostgres, contracts.SyncRunContract):
    atomic = False


class TestMessagesInMemory(OnMemory, contracts.MessageContract): ...


class TestMessagesOnSqlite(OnSqlite, contracts.MessageContract): ...


class TestMessagesOnPostgres(OnPostgres, contracts.MessageContract): ...


class TestConflictsInMemory(OnMemory, contracts.ConflictContract): ...


class TestConflictsOnSqlite(OnSqlite, contracts.ConflictContract): ...


class TestConflictsOnPostgres(OnPostgres, contracts.ConflictContract): ...

"""Every contract on every store: what they keep, in units of work, for each tenant."""

from __future__ import annotations

from hubs import OnMemory, OnPostgres, OnSqlite
from integration_hub.testing import contracts


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

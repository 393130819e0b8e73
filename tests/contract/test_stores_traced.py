"""Every contract on Postgres, where somebody traces what is executed there."""

from __future__ import annotations

import pytest

from hubs import OnTracedPostgres
from integration_hub.testing import contracts

pytestmark = pytest.mark.once  # the statements are the same on every interpreter


class TestIntegrationsTraced(OnTracedPostgres, contracts.IntegrationContract): ...


class TestWebhooksTraced(OnTracedPostgres, contracts.WebhookContract): ...


class TestSyncJobsTraced(OnTracedPostgres, contracts.SyncJobContract): ...


class TestJsonTraced(OnTracedPostgres, contracts.JsonContract): ...


class TestUnitsOfWorkTraced(OnTracedPostgres, contracts.UnitOfWorkContract): ...


class TestTenantsTraced(OnTracedPostgres, contracts.TenantContract): ...


class TestSyncRunsTraced(OnTracedPostgres, contracts.SyncRunContract): ...


class TestMessagesTraced(OnTracedPostgres, contracts.MessageContract): ...


class TestConflictsTraced(OnTracedPostgres, contracts.ConflictContract): ...

"""integration_hub: integrations, webhooks and sync jobs, kept safely for other services.

The face of the package: every public name, and nothing else. `integration_hub.database` has
`migrations_path`; `integration_hub.testing` is what a service's own tests import.
"""

from integration_hub.database.engine import (
    DatabaseConnectionManager,
    PoolSettings,
    QueryResult,
)
from integration_hub.database.health import Health, PoolFigures, SchemaRevision
from integration_hub.database.mock import MockDatabaseConnection
from integration_hub.database.schema import DatabaseSchemaManager
from integration_hub.domain.errors import (
    DatabaseUnavailable,
    DuplicateId,
    DuplicateName,
    HubError,
    IntegrationNotFound,
    InvalidCursor,
    InvalidSchedule,
    InvalidSort,
    InvalidTransition,
    NotFound,
    PoolExhausted,
    QueryTimeout,
    SchemaOutOfDate,
    SerializationConflict,
    StaleVersion,
    StorageError,
    SyncJobNotFound,
    UnitOfWorkClosed,
    ValidationError,
    WebhookNotFound,
)
from integration_hub.domain.integration import Integration, IntegrationStatus
from integration_hub.domain.result import Err, Ok, Result
from integration_hub.domain.schedule import Schedule, ScheduleKind
from integration_hub.domain.sync_job import SyncDirection, SyncJob, SyncJobStatus
from integration_hub.domain.webhook import Webhook, WebhookStatus
from integration_hub.hub import Hub, UnitOfWorkFactory
from integration_hub.memory.repositories import (
    InMemoryIntegrationRepository,
    InMemorySyncJobRepository,
    InMemoryWebhookRepository,
)
from integration_hub.memory.unit_of_work import InMemoryUnitOfWork
from integration_hub.ports.clock import Clock, SystemClock
from integration_hub.ports.query import (
    Cursor,
    CursorPage,
    Filter,
    IntegrationFilter,
    Page,
    PageRequest,
    Sort,
    SyncJobFilter,
    WebhookFilter,
)
from integration_hub.ports.repositories import (
    IntegrationRepository,
    SyncJobRepository,
    WebhookRepository,
)
from integration_hub.ports.unit_of_work import EVERY_TENANT, UnitOfWork, UnitOfWorkManager
from integration_hub.settings import HubSettings
from integration_hub.sql.aggregates import (
    PostgresIntegrationRepository,
    PostgresSyncJobRepository,
    PostgresWebhookRepository,
    SqliteIntegrationRepository,
    SqliteSyncJobRepository,
    SqliteWebhookRepository,
)
from integration_hub.sql.unit_of_work import PostgresUnitOfWork, SqliteUnitOfWork

__all__ = [
    "EVERY_TENANT",
    "Clock",
    "Cursor",
    "CursorPage",
    "DatabaseConnectionManager",
    "DatabaseSchemaManager",
    "DatabaseUnavailable",
    "DuplicateId",
    "DuplicateName",
    "Err",
    "Filter",
    "Health",
    "Hub",
    "HubError",
    "HubSettings",
    "InMemoryIntegrationRepository",
    "InMemorySyncJobRepository",
    "InMemoryUnitOfWork",
    "InMemoryWebhookRepository",
    "Integration",
    "IntegrationFilter",
    "IntegrationNotFound",
    "IntegrationRepository",
    "IntegrationStatus",
    "InvalidCursor",
    "InvalidSchedule",
    "InvalidSort",
    "InvalidTransition",
    "MockDatabaseConnection",
    "NotFound",
    "Ok",
    "Page",
    "PageRequest",
    "PoolExhausted",
    "PoolFigures",
    "PoolSettings",
    "PostgresIntegrationRepository",
    "PostgresSyncJobRepository",
    "PostgresUnitOfWork",
    "PostgresWebhookRepository",
    "QueryResult",
    "QueryTimeout",
    "Result",
    "Schedule",
    "ScheduleKind",
    "SchemaOutOfDate",
    "SchemaRevision",
    "SerializationConflict",
    "Sort",
    "SqliteIntegrationRepository",
    "SqliteSyncJobRepository",
    "SqliteUnitOfWork",
    "SqliteWebhookRepository",
    "StaleVersion",
    "StorageError",
    "SyncDirection",
    "SyncJob",
    "SyncJobFilter",
    "SyncJobNotFound",
    "SyncJobRepository",
    "SyncJobStatus",
    "SystemClock",
    "UnitOfWork",
    "UnitOfWorkClosed",
    "UnitOfWorkFactory",
    "UnitOfWorkManager",
    "ValidationError",
    "Webhook",
    "WebhookFilter",
    "WebhookNotFound",
    "WebhookRepository",
    "WebhookStatus",
]

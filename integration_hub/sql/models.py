"""The tables: declarative ORM models with their constraints and indexes.

May import: `domain`, `database`. The repositories work on these tables; a service may map
relationships to the models and query them in its own Session. Every constraint has a name, since
errors are told apart by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from integration_hub.database.types import UtcDateTime, json_type, ordered_text
from integration_hub.domain import integration, sync_job, sync_run, webhook, webhook_message

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

WAITING = text("status = 'pending' AND is_active")
"""What the partial index on due jobs holds; queries repeat it to the letter, so that it serves."""
WAITING_ON_SQLITE = text("status = 'pending' AND is_active = 1")


class Base(DeclarativeBase):
    """The ground of the models."""

    metadata = metadata


class AggregateColumns:
    """What the three tables have in common."""

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, sort_order=-10)
    tenant_id: Mapped[str] = mapped_column(Text, server_default="default", sort_order=-9)
    name: Mapped[str] = mapped_column(ordered_text(), sort_order=-8)
    description: Mapped[str | None] = mapped_column(Text)
    config: Mapped[dict[str, Any]] = mapped_column(json_type())
    tags: Mapped[list[str]] = mapped_column(json_type())
    is_active: Mapped[bool]
    error_message: Mapped[str | None] = mapped_column(Text)
    status_changed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(Text)
    updated_by: Mapped[str] = mapped_column(Text)


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _gin(name: str, column: str, operators: str | None = None) -> Index:
    ops = {column: operators} if operators else {}
    index = Index(name, column, postgresql_using="gin", postgresql_ops=ops)
    return index.ddl_if(dialect="postgresql")


def _common() -> tuple[CheckConstraint, ...]:
    return (
        CheckConstraint("length(name) BETWEEN 1 AND 255", name="name_length"),
        CheckConstraint("version >= 1", name="version"),
    )


class IntegrationRow(AggregateColumns, Base):
    """A row of ``integrations``."""

    __tablename__ = "integrations"

    type: Mapped[str] = mapped_column(ordered_text())
    status: Mapped[str] = mapped_column(ordered_text())

    __table_args__ = (
        UniqueConstraint("tenant_id", "name"),
        *_common(),
        _one_of("status", integration.STATUSES),
        Index(None, "tenant_id", "type"),
        Index(None, "tenant_id", "status"),
        Index(None, "tenant_id", "created_at", "id"),
        _gin("ix_integrations_config", "config", "jsonb_path_ops"),
        _gin("ix_integrations_tags", "tags"),
    )


def _parent() -> Mapped[UUID]:
    return mapped_column(ForeignKey("integrations.id", ondelete="CASCADE"), sort_order=-8)


class WebhookRow(AggregateColumns, Base):
    """A row of ``webhooks``."""

    __tablename__ = "webhooks"

    integration_id: Mapped[UUID] = _parent()
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(json_type())
    status: Mapped[str] = mapped_column(ordered_text())

    __table_args__ = (
        UniqueConstraint("integration_id", "name"),
        *_common(),
        _one_of("status", webhook.STATUSES),
        Index(None, "tenant_id", "status"),
        Index(None, "tenant_id", "created_at", "id"),
        _gin("ix_webhooks_events", "events"),
        _gin("ix_webhooks_tags", "tags"),
    )


class SyncJobRow(AggregateColumns, Base):
    """A row of ``sync_jobs``."""

    __tablename__ = "sync_jobs"

    integration_id: Mapped[UUID] = _parent()
    schedule: Mapped[dict[str, Any]] = mapped_column(json_type())
    direction: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(ordered_text())
    max_attempts: Mapped[int]
    attempt: Mapped[int]
    next_run_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_run_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    records_processed: Mapped[int] = mapped_column(BigInteger)
    checkpoint: Mapped[Any | None] = mapped_column(json_type())
    scheduled_for: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        UniqueConstraint("integration_id", "name"),
        *_common(),
        _one_of("status", sync_job.STATUSES),
        _one_of("direction", sync_job.DIRECTIONS),
        CheckConstraint("max_attempts >= 1 AND attempt >= 0", name="attempts"),
        CheckConstraint("records_processed >= 0", name="records_processed"),
        Index(None, "tenant_id", "status"),
        Index(None, "tenant_id", "created_at", "id"),
        Index(
            "ix_sync_jobs_due",
            "next_run_at",
            "id",
            postgresql_where=WAITING,
            sqlite_where=WAITING_ON_SQLITE,
        ),
        _gin("ix_sync_jobs_tags", "tags"),
    )


#: What the indexes on running runs hold: the same, each in words of its own. A query says it in the
#: words of the index that it wants, and Postgres can't take another: by its figures, for which next
#: to no run is running, they would be all the same to it.
BY_SLOT = text("status = 'running'")
BY_JOB = text("finished_at IS NULL")
BY_LEASE = text("status = 'running' AND slot >= 1")
ENDED = text("finished_at IS NOT NULL")


class SyncRunRow(Base):
    """A row of ``sync_runs``: one per attempt; it changes only until its end."""

    __tablename__ = "sync_runs"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(Text, server_default="default")
    sync_job_id: Mapped[UUID] = mapped_column(ForeignKey("sync_jobs.id", ondelete="CASCADE"))
    integration_id: Mapped[UUID]
    slot: Mapped[int]
    attempt: Mapped[int]
    status: Mapped[str] = mapped_column(ordered_text())
    worker: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime] = mapped_column(UtcDateTime)
    lease_expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    records_processed: Mapped[int] = mapped_column(BigInteger)
    checkpoint_before: Mapped[Any | None] = mapped_column(json_type())
    checkpoint_after: Mapped[Any | None] = mapped_column(json_type())
    error_code: Mapped[str | None] = mapped_column(Text)
    error_message: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int]

    __table_args__ = (
        _one_of("status", sync_run.STATUSES),
        CheckConstraint("attempt >= 1 AND slot >= 1", name="attempt"),
        CheckConstraint("(status = 'running') = (finished_at IS NULL)", name="finished"),
        Index("ix_sync_runs_history", "sync_job_id", "started_at", "id"),  # read backwards
        *(
            Index(
                name,
                *columns,
                unique=name.startswith("uq"),
                postgresql_where=where,
                sqlite_where=where,
            )
            for name, columns, where in (
                ("ix_sync_runs_ended", ("finished_at", "id"), ENDED),
                ("ix_sync_runs_leases", ("lease_expires_at", "id"), BY_LEASE),
                ("uq_sync_runs_running_job", ("sync_job_id",), BY_JOB),
                ("uq_sync_runs_running_slot", ("integration_id", "slot"), BY_SLOT),
            )
        ),
    )


OPEN = text("status IN ('pending', 'delivering')")
"""What the index on deliveries that are still to be made holds; queries repeat it to the letter."""


class _MessageColumns:
    """What the tables around messages have in common."""

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, sort_order=-10)
    tenant_id: Mapped[str] = mapped_column(Text, server_default="default", sort_order=-9)
    version: Mapped[int] = mapped_column(sort_order=10)


class WebhookMessageRow(_MessageColumns, Base):
    """A row of ``webhook_messages``: the outbox; `payload` is what is signed and sent."""

    __tablename__ = "webhook_messages"

    event_type: Mapped[str] = mapped_column(Text)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    occurred_at: Mapped[datetime] = mapped_column(UtcDateTime)
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    is_fanned_out: Mapped[bool]

    __table_args__ = (
        UniqueConstraint("tenant_id", "idempotency_key"),
        Index("ix_webhook_messages_occurred_at_id", "occurred_at", "id"),
        Index(
            "ix_webhook_messages_not_fanned_out",
            "id",
            postgresql_where=text("NOT is_fanned_out"),
            sqlite_where=text("is_fanned_out = 0"),
        ),
    )


def _hook() -> Mapped[UUID]:
    return mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))


class WebhookDeliveryRow(_MessageColumns, Base):
    """A row of ``webhook_deliveries``: a message to one webhook."""

    __tablename__ = "webhook_deliveries"

    message_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_messages.id", ondelete="CASCADE"))
    webhook_id: Mapped[UUID] = _hook()
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    status: Mapped[str] = mapped_column(ordered_text())
    attempt_count: Mapped[int]
    next_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    retries_used: Mapped[int]

    __table_args__ = (
        UniqueConstraint("message_id", "webhook_id"),
        _one_of("status", webhook_message.STATUSES),
        CheckConstraint("(finished_at IS NULL) = (next_attempt_at IS NOT NULL)", name="finished"),
        Index("ix_webhook_deliveries_webhook_id_created_at_id", "webhook_id", "created_at", "id"),
        Index(
            "ix_webhook_deliveries_open",
            "webhook_id",
            "next_attempt_at",
            "id",
            postgresql_where=OPEN,
            sqlite_where=OPEN,
        ),
    )


class WebhookAttemptRow(_MessageColumns, Base):
    """A row of ``webhook_attempts``: one try at a delivery."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[UUID] = mapped_column(
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE")
    )
    number: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    duration_ms: Mapped[int]
    response_status: Mapped[int | None]
    response_body: Mapped[str] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(Text)
    error_message: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (Index("ix_webhook_attempts_delivery_id_number", "delivery_id", "number"),)


class WebhookSecretRow(_MessageColumns, Base):
    """A row of ``webhook_secrets``: apart from the webhooks, so that no list brings them along."""

    __tablename__ = "webhook_secrets"

    webhook_id: Mapped[UUID] = _hook()
    secret: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (Index("ix_webhook_secrets_webhook_id", "webhook_id"),)


class WebhookHealthRow(_MessageColumns, Base):
    """A row of ``webhook_health``, of an endpoint that has failed since its last success."""

    __tablename__ = "webhook_health"

    id: Mapped[UUID] = mapped_column(
        ForeignKey("webhooks.id", ondelete="CASCADE"), primary_key=True, sort_order=-10
    )
    failures: Mapped[int]
    failing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    throttled_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class InboxMessageRow(Base):
    """A row of ``inbox_messages``: what was received from others, and when."""

    __tablename__ = "inbox_messages"

    tenant_id: Mapped[str] = mapped_column(Text, primary_key=True)
    source: Mapped[str] = mapped_column(Text, primary_key=True)
    message_id: Mapped[str] = mapped_column(Text, primary_key=True)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index("ix_inbox_messages_received_at", "received_at"),)

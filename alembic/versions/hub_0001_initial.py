"""Integrations, webhooks and sync jobs.

Revision: hub_0001, the first; 2026-11-24. The prefix and the branch label keep our revisions apart
from those of a service that keeps both in one history.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from integration_hub.database.types import UtcDateTime, json_type, ordered_text

revision = "hub_0001"
down_revision = None
branch_labels = ("integration_hub",)
depends_on = None

STATUSES = {
    "integrations": "'pending', 'active', 'paused', 'error', 'archived'",
    "webhooks": "'active', 'paused', 'failing', 'disabled'",
    "sync_jobs": "'pending', 'running', 'completed', 'failed', 'paused', 'cancelled'",
}


def upgrade() -> None:
    op.create_table(
        "integrations",
        *_identity(),
        *_common("integrations"),
        sa.Column("type", ordered_text(), nullable=False),
        sa.Column("status", ordered_text(), nullable=False),
        sa.UniqueConstraint("tenant_id", "name", name="uq_integrations_tenant_id_name"),
    )
    op.create_index("ix_integrations_tenant_id_type", "integrations", ["tenant_id", "type"])
    _index_status_and_time("integrations")
    _gin("ix_integrations_config", "integrations", "config", "jsonb_path_ops")
    _gin("ix_integrations_tags", "integrations", "tags")

    op.create_table(
        "webhooks",
        *_identity(),
        _parent("webhooks"),
        *_common("webhooks"),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("events", json_type(), nullable=False),
        sa.Column("status", ordered_text(), nullable=False),
        sa.UniqueConstraint("integration_id", "name", name="uq_webhooks_integration_id_name"),
    )
    _index_status_and_time("webhooks")
    _gin("ix_webhooks_events", "webhooks", "events")
    _gin("ix_webhooks_tags", "webhooks", "tags")

    op.create_table(
        "sync_jobs",
        *_identity(),
        _parent("sync_jobs"),
        *_common("sync_jobs"),
        sa.Column("schedule", json_type(), nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("status", ordered_text(), nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("next_run_at", UtcDateTime),
        sa.Column("last_run_at", UtcDateTime),
        sa.Column("records_processed", sa.BigInteger, nullable=False),
        sa.Column("checkpoint", json_type()),
        sa.UniqueConstraint("integration_id", "name", name="uq_sync_jobs_integration_id_name"),
        _check("sync_jobs", "direction", "direction IN ('pull', 'push', 'both')"),
        _check("sync_jobs", "attempts", "max_attempts >= 1 AND attempt >= 0"),
        _check("sync_jobs", "records_processed", "records_processed >= 0"),
    )
    _index_status_and_time("sync_jobs")
    op.create_index(
        "ix_sync_jobs_due",
        "sync_jobs",
        ["next_run_at", "id"],
        postgresql_where=sa.text("status = 'pending' AND is_active"),
        sqlite_where=sa.text("status = 'pending' AND is_active = 1"),
    )
    _gin("ix_sync_jobs_tags", "sync_jobs", "tags")


def downgrade() -> None:
    for table in ("sync_jobs", "webhooks", "integrations"):
        op.drop_table(table)


def _identity() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False, server_default="default"),
        sa.Column("name", ordered_text(), nullable=False),
    )


def _parent(table: str) -> sa.Column[object]:
    name = op.f(f"fk_{table}_integration_id_integrations")
    key = sa.ForeignKey("integrations.id", name=name, ondelete="CASCADE")
    return sa.Column("integration_id", sa.Uuid, key, nullable=False)


def _common(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    return (
        sa.Column("description", sa.Text),
        sa.Column("config", json_type(), nullable=False),
        sa.Column("tags", json_type(), nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("error_message", sa.Text),
        sa.Column("status_changed_at", UtcDateTime),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("updated_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
        _check(table, "name_length", "length(name) BETWEEN 1 AND 255"),
        _check(table, "version", "version >= 1"),
        _check(table, "status", f"status IN ({STATUSES[table]})"),
    )


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _index_status_and_time(table: str) -> None:
    op.create_index(f"ix_{table}_tenant_id_status", table, ["tenant_id", "status"])
    columns = ["tenant_id", "created_at", "id"]
    op.create_index(f"ix_{table}_tenant_id_created_at_id", table, columns)


def _gin(name: str, table: str, column: str, operators: str | None = None) -> None:
    """On Postgres alone: SQLite has nothing of the kind."""
    if op.get_context().dialect.name == "postgresql":
        ops = {column: operators} if operators else {}
        op.create_index(name, table, [column], postgresql_using="gin", postgresql_ops=ops)

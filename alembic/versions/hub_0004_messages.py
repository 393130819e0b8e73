"""Messages to webhooks: the outbox, deliveries, attempts, secrets, health; and the inbox.

Revision: hub_0004, after hub_0003; 2026-11-24
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from integration_hub.database.types import UtcDateTime, ordered_text

revision = "hub_0004"
down_revision = "hub_0003"
branch_labels = None
depends_on = None

STATUSES = "'pending', 'delivering', 'delivered', 'failed', 'cancelled'"
OPEN = sa.text("status IN ('pending', 'delivering')")


def upgrade() -> None:
    _create(
        "webhook_messages",
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("occurred_at", UtcDateTime, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("is_fanned_out", sa.Boolean, nullable=False),
        sa.UniqueConstraint(
            "tenant_id",
            "idempotency_key",
            name=op.f("uq_webhook_messages_tenant_id_idempotency_key"),
        ),
    )
    _index("ix_webhook_messages_occurred_at_id", "webhook_messages", ["occurred_at", "id"])
    op.create_index(
        "ix_webhook_messages_not_fanned_out",
        "webhook_messages",
        ["id"],
        postgresql_where=sa.text("NOT is_fanned_out"),
        sqlite_where=sa.text("is_fanned_out = 0"),
    )
    _create(
        "webhook_deliveries",
        _reference("webhook_deliveries", "message_id", "webhook_messages"),
        _reference("webhook_deliveries", "webhook_id", "webhooks"),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("status", ordered_text(), nullable=False),
        sa.Column("attempt_count", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", UtcDateTime),
        sa.Column("last_attempt_at", UtcDateTime),
        sa.Column("finished_at", UtcDateTime),
        sa.Column("retries_used", sa.Integer, nullable=False),
        sa.UniqueConstraint(
            "message_id", "webhook_id", name=op.f("uq_webhook_deliveries_message_id_webhook_id")
        ),
        _check("webhook_deliveries", "status", f"status IN ({STATUSES})"),
        _check(
            "webhook_deliveries",
            "finished",
            "(finished_at IS NULL) = (next_attempt_at IS NOT NULL)",
        ),
    )
    _index(
        "ix_webhook_deliveries_webhook_id_created_at_id",
        "webhook_deliveries",
        ["webhook_id", "created_at", "id"],
    )
    op.create_index(
        "ix_webhook_deliveries_open",
        "webhook_deliveries",
        ["webhook_id", "next_attempt_at", "id"],
        postgresql_where=OPEN,
        sqlite_where=OPEN,
    )
    _create(
        "webhook_attempts",
        _reference("webhook_attempts", "delivery_id", "webhook_deliveries"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("response_status", sa.Integer),
        sa.Column("response_body", sa.Text, nullable=False),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
    )
    _index("ix_webhook_attempts_delivery_id_number", "webhook_attempts", ["delivery_id", "number"])
    _create(
        "webhook_secrets",
        _reference("webhook_secrets", "webhook_id", "webhooks"),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime),
    )
    _index("ix_webhook_secrets_webhook_id", "webhook_secrets", ["webhook_id"])
    _create(
        "webhook_health",
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("failing_since", UtcDateTime),
        sa.Column("throttled_until", UtcDateTime),
        sa.ForeignKeyConstraint(
            ["id"], ["webhooks.id"], name=op.f("fk_webhook_health_id_webhooks"), ondelete="CASCADE"
        ),
    )
    op.create_table(
        "inbox_messages",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("received_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "source", "message_id", name=op.f("pk_inbox_messages")
        ),
    )
    _index("ix_inbox_messages_received_at", "inbox_messages", ["received_at"])


def downgrade() -> None:
    for table in (
        *("inbox_messages", "webhook_health", "webhook_secrets", "webhook_attempts"),
        *("webhook_deliveries", "webhook_messages"),
    ):
        op.drop_table(table)


def _create(table: str, *items: Any) -> None:
    op.create_table(
        table,
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False, server_default="default"),
        *items,
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
    )


def _reference(table: str, column: str, to: str) -> sa.Column[Any]:
    name = op.f(f"fk_{table}_{column}_{to}")
    return sa.Column(
        column, sa.Uuid, sa.ForeignKey(f"{to}.id", name=name, ondelete="CASCADE"), nullable=False
    )


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _index(name: str, table: str, columns: list[str]) -> None:
    op.create_index(name, table, columns)

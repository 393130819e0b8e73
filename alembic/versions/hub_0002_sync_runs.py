"""Sync runs: who works on which sync job, until when, and what came of it.

Revision: hub_0002, after hub_0001; 2026-11-24
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from integration_hub.database.types import UtcDateTime, json_type, ordered_text

revision = "hub_0002"
down_revision = "hub_0001"
branch_labels = None
depends_on = None

STATUSES = "'running', 'succeeded', 'failed', 'lost', 'cancelled'"
RUNNING = sa.text("status = 'running'")


def upgrade() -> None:
    key = sa.ForeignKey(
        "sync_jobs.id", name=op.f("fk_sync_runs_sync_job_id_sync_jobs"), ondelete="CASCADE"
    )
    op.create_table(
        "sync_runs",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False, server_default="default"),
        sa.Column("sync_job_id", sa.Uuid, key, nullable=False),
        sa.Column("integration_id", sa.Uuid, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("status", ordered_text(), nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("heartbeat_at", UtcDateTime, nullable=False),
        sa.Column("lease_expires_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime),
        sa.Column("records_processed", sa.BigInteger, nullable=False),
        sa.Column("checkpoint_before", json_type()),
        sa.Column("checkpoint_after", json_type()),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_runs")),
        _check("status", f"status IN ({STATUSES})"),
        _check("attempt", "attempt >= 1 AND slot >= 1"),
        _check("finished", "(status = 'running') = (finished_at IS NULL)"),
    )
    op.create_index("ix_sync_runs_history", "sync_runs", ["sync_job_id", "started_at", "id"])
    op.create_index("ix_sync_runs_ended", "sync_runs", ["finished_at", "id"])
    _index_running("ix_sync_runs_leases", ["lease_expires_at", "id"])
    # The database itself forbids two runs of one job at once, and more than there are places for.
    _index_running("uq_sync_runs_running_job", ["sync_job_id"], unique=True)
    _index_running("uq_sync_runs_running_slot", ["integration_id", "slot"], unique=True)


def downgrade() -> None:
    # With its run gone, nobody would ever take a running job for lost.
    op.execute("UPDATE sync_jobs SET status = 'pending' WHERE status = 'running'")
    op.drop_table("sync_runs")


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_sync_runs_{name}"))


def _index_running(name: str, columns: list[str], *, unique: bool = False) -> None:
    op.create_index(
        name, "sync_runs", columns, unique=unique, postgresql_where=RUNNING, sqlite_where=RUNNING
    )

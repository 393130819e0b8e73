"""The time that tries of a failed job are for; each index on running runs in words of its own.

Revision: hub_0003, after hub_0002; 2026-11-24
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from integration_hub.database.types import UtcDateTime

revision = "hub_0003"
down_revision = "hub_0002"
branch_labels = None
depends_on = None

RUNNING = "status = 'running'"


def upgrade() -> None:
    op.add_column("sync_jobs", sa.Column("scheduled_for", UtcDateTime))
    # Postgres, by whose figures next to no run is running, would else take any of the three.
    _replace_indexes(
        ended="finished_at IS NOT NULL",
        leases=f"{RUNNING} AND slot >= 1",
        running_job="finished_at IS NULL",
    )


def downgrade() -> None:
    _replace_indexes(ended=None, leases=RUNNING, running_job=RUNNING)
    op.drop_column("sync_jobs", "scheduled_for")


def _replace_indexes(*, ended: str | None, leases: str, running_job: str) -> None:
    _replace("ix_sync_runs_ended", ["finished_at", "id"], ended)
    _replace("ix_sync_runs_leases", ["lease_expires_at", "id"], leases)
    _replace("uq_sync_runs_running_job", ["sync_job_id"], running_job)


def _replace(name: str, columns: list[str], condition: str | None) -> None:
    op.drop_index(name, table_name="sync_runs")
    where = None if condition is None else sa.text(condition)
    is_unique = name.startswith("uq")
    op.create_index(
        name, "sync_runs", columns, unique=is_unique, postgresql_where=where, sqlite_where=where
    )

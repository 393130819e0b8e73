"""The time of the schedule that the tries of a failed sync job are for.

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


def upgrade() -> None:
    op.add_column("sync_jobs", sa.Column("scheduled_for", UtcDateTime))


def downgrade() -> None:
    op.drop_column("sync_jobs", "scheduled_for")

"""SQLAlchemy that knows no table of ours: connections, faults, health, schema, types.

May import: `domain`.
"""

from integration_hub.database.schema import migrations_path

__all__ = ["migrations_path"]

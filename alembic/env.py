"""Runs the migrations: online on a connection, or offline as SQL.

Called by `alembic` in a checkout (the URL is that of ``-x url=…`` or ``HUB_DATABASE_URL``), and by
`DatabaseSchemaManager`, which hands its connection or its URL over.
"""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from integration_hub.database.engine import DatabaseConnectionManager, checked_database_url
from integration_hub.database.schema import VERSION_TABLE, lock_migrations
from integration_hub.settings import settings_of_the_environment
from integration_hub.sql.models import metadata

TABLES = set(metadata.tables)
attributes = context.config.attributes


def is_ours(
    object: Any,
    name: str | None,
    type_: Literal[
        "schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint"
    ],
    reflected: bool,
    compare_to: Any,
) -> bool:
    """A service's own tables are none of our business; SQLite has no GIN indexes."""
    if type_ == "table":
        return name in TABLES
    if type_ == "index" and context.get_context().dialect.name == "sqlite":
        return object.dialect_options["postgresql"].get("using") != "gin"
    return True


def migrate(connection: Connection) -> None:
    if attributes.get("create_all"):
        metadata.create_all(connection)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_object=is_ours,
        transactional_ddl=True,
    )
    if attributes.get("create_all"):
        context.get_context().stamp(context.script, "head")
        return
    lock_migrations(connection)
    context.run_migrations()


def run_online() -> None:
    connection = attributes.get("connection")
    if connection is not None:
        with connection.begin():
            migrate(connection)
        return
    manager = DatabaseConnectionManager(chosen_url())
    try:
        with manager.transaction() as connection:
            migrate(connection)
    finally:
        manager.close()


def run_offline() -> None:
    url = checked_database_url(attributes.get("url") or chosen_url())
    context.configure(
        url=url,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        transactional_ddl=True,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def chosen_url() -> str:
    given = context.get_x_argument(as_dictionary=True).get("url")
    return given or settings_of_the_environment().database_url.get_secret_value()


if context.is_offline_mode():
    run_offline()
else:
    run_online()

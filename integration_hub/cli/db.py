"""`integration-hub db`: the tables, and how the database is.

May import everything.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from integration_hub.cli.shared import Url, console, opened, plain

db = typer.Typer(no_args_is_help=True, help="The tables: upgrade, downgrade, and how they are.")


@db.command()
def upgrade(revision: Annotated[str, typer.Argument()] = "head", url: Url = None) -> None:
    """Bring the schema up to a revision (the newest, if left out)."""
    with opened(url) as hub:
        console.print(f"schema is at {hub.schema.upgrade(revision).current}")


@db.command()
def downgrade(revision: str, url: Url = None) -> None:
    """Bring the schema down to a revision; 'base' removes all tables and their rows."""
    with opened(url) as hub:
        console.print(f"schema is at {_named(hub.schema.downgrade(revision).current)}")


@db.command()
def current(url: Url = None) -> None:
    """Show the schema's revision and the one that the code needs."""
    with opened(url) as hub:
        found = hub.schema.current()
        console.print(f"schema is at {_named(found.current)}, the code needs {found.head}")


@db.command()
def check(url: Url = None) -> None:
    """Exit with 1 unless the tables are what the code needs."""
    with opened(url) as hub:
        console.print(f"schema is at {hub.schema.check().current} and fits the code")


@db.command()
def sql(revision: Annotated[str, typer.Argument()] = "head", url: Url = None) -> None:
    """Print the SQL of an upgrade from nothing."""
    with opened(url) as hub:
        typer.echo(hub.schema.sql(revision), nl=False)


@db.command()
def health(url: Url = None) -> None:
    """Show how the database is; exit with 1 unless it can be used."""
    with opened(url) as hub:
        found = hub.health()
        table = Table("", "", show_header=False)
        table.add_row("ok", "[green]yes[/green]" if found.ok else "[red]no[/red]")
        table.add_row("latency", f"{found.latency.total_seconds() * 1000:.1f} ms")
        table.add_row("database", found.database_version or "-")
        pool = found.pool
        table.add_row("pool", f"{pool.size} kept, {pool.in_use} in use, {pool.overflow} beyond")
        current, head = _named(found.schema.current), found.schema.head
        table.add_row("schema", f"{current} (the code needs {head})" if head else "-")
        if found.clock_skew is not None:
            ahead = found.clock_skew.total_seconds()
            table.add_row("clock", f"{ahead:+.3f} s to the database's, which is gone by")
        if found.error:
            table.add_row("error", plain(found.error))
        console.print(table)
        if not found.ok:
            raise typer.Exit(1)


def _named(revision: str | None) -> str:
    return revision or "none"

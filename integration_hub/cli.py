"""`integration-hub`: the demo, and the schema and health of a database.

May import everything. Exits with 1 where something is not as it should be, and says what.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from integration_hub.demo import run_demo
from integration_hub.domain.errors import HubError
from integration_hub.hub import Hub
from integration_hub.settings import settings_of_the_environment

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
db = typer.Typer(no_args_is_help=True, help="The tables: upgrade, downgrade, and how they are.")
app.add_typer(db, name="db")

console = Console()
problems = Console(stderr=True)
Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="The database; HUB_DATABASE_URL, or a SQLite file here, if left out."
    ),
]


def main() -> None:
    """The entry point: errors of ours become one line and exit code 1."""
    logging.basicConfig(level=logging.WARNING)
    try:
        app()
    except HubError as error:
        # One line, unwrapped: it may hold a command to be copied.
        problems.print(Text.assemble((error.code, "red"), " ", error.message), soft_wrap=True)
        sys.exit(1)


@app.callback()
def root() -> None:
    """integration_hub keeps integrations, webhooks and sync jobs for other services."""


@app.command()
def demo(url: Url = None) -> None:
    """Show what the hub does, step by step, on SQLite in a temporary folder or on --url."""
    if not run_demo(url or "sqlite://", console):
        raise typer.Exit(1)


@db.command()
def upgrade(revision: Annotated[str, typer.Argument()] = "head", url: Url = None) -> None:
    """Bring the schema up to a revision (the newest, if left out)."""
    with _hub(url) as hub:
        console.print(f"schema is at {hub.schema.upgrade(revision).current}")


@db.command()
def downgrade(revision: str, url: Url = None) -> None:
    """Bring the schema down to a revision; 'base' removes all tables and their rows."""
    with _hub(url) as hub:
        console.print(f"schema is at {hub.schema.downgrade(revision).current}")


@db.command()
def current(url: Url = None) -> None:
    """Show the schema's revision and the one that the code needs."""
    with _hub(url) as hub:
        found = hub.schema.current()
        console.print(f"schema is at {found.current}, the code needs {found.head}")


@db.command()
def check(url: Url = None) -> None:
    """Exit with 1 unless the tables are what the code needs."""
    with _hub(url) as hub:
        console.print(f"schema is at {hub.schema.check().current} and fits the code")


@db.command()
def sql(revision: Annotated[str, typer.Argument()] = "head", url: Url = None) -> None:
    """Print the SQL of an upgrade from nothing."""
    with _hub(url) as hub:
        typer.echo(hub.schema.sql(revision), nl=False)


@db.command()
def health(url: Url = None) -> None:
    """Show how the database is; exit with 1 unless it can be used."""
    with _hub(url) as hub:
        found = hub.health()
        table = Table("", "", show_header=False)
        table.add_row("ok", "[green]yes[/green]" if found.ok else "[red]no[/red]")
        table.add_row("latency", f"{found.latency.total_seconds() * 1000:.1f} ms")
        table.add_row("database", found.database_version or "-")
        pool = found.pool
        table.add_row("pool", f"{pool.size} kept, {pool.in_use} in use, {pool.overflow} beyond")
        table.add_row("schema", f"{found.schema.current} (the code needs {found.schema.head})")
        if found.error:
            table.add_row("error", found.error)
        console.print(table)
        if not found.ok:
            raise typer.Exit(1)


def _hub(url: str | None) -> Hub:
    settings = settings_of_the_environment()
    return Hub.from_url(url, settings=settings) if url else Hub.from_settings(settings)

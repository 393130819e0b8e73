"""`integration-hub`: the demo, the schema, the workers, and what they have done.

May import everything. Exits with 1 where something is not as it should be, and says what.
"""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer
from rich.text import Text

from integration_hub.cli.db import db
from integration_hub.cli.integrations import integrations
from integration_hub.cli.shared import Url, console, plain, problems
from integration_hub.cli.sync import sync
from integration_hub.cli.webhooks import webhooks
from integration_hub.demo import run_demo
from integration_hub.domain.errors import HubError

_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(db, name="db")
app.add_typer(integrations, name="integrations")
app.add_typer(sync, name="sync")
app.add_typer(webhooks, name="webhooks")


def main() -> None:
    """The entry point: errors of ours become one line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format=_LINE)
    if isinstance(sys.stdout, TextIOWrapper):
        # As stderr does by itself: names, and answers, may have letters that a console lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except HubError as error:
        # One line, unwrapped: it may hold a command to be copied.
        line = Text.assemble((error.code, "red"), " ", plain(error.message))
        problems.print(line, soft_wrap=True)
        sys.exit(1)


def _tell_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(version("integration-hub"))
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell it, and end."),
    ] = False,
) -> None:
    """integration_hub keeps integrations, webhooks and sync jobs for other services."""


@app.command()
def demo(url: Url = None) -> None:
    """Show what the hub does, step by step, on SQLite in a temporary folder or on --url."""
    if not run_demo(url or "sqlite://", console):
        raise typer.Exit(1)

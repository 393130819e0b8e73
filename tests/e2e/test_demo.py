"""The demo, run as a newcomer would."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from sqlalchemy import URL

from integration_hub.demo import STEPS, run_demo
from integration_hub.testing.postgres import temporary_database


def test_every_step_of_the_demo_comes_out_on_sqlite() -> None:
    shown = StringIO()
    assert run_demo("sqlite://", Console(file=shown, width=200))
    assert shown.getvalue().count("✓") == len(STEPS)


def test_every_step_of_the_demo_comes_out_on_postgres_twice(hub_postgres_server: URL) -> None:
    with temporary_database(hub_postgres_server) as url:
        for _ in range(2):
            shown = StringIO()
            assert run_demo(url, Console(file=shown, width=200)), shown.getvalue()

"""The wheel, in an empty venv elsewhere: what a service gets from its package index.

Needs the package index, so it runs in an environment of its own: ``tox -e once``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from sqlalchemy import URL

from integration_hub.testing.postgres import temporary_database

pytestmark = pytest.mark.wheel
Alone: TypeAlias = Callable[[list[str | Path], Path], str]
Installed: TypeAlias = Callable[..., Path]
CHECKOUT = Path(__file__).parents[2]
HEAD = "hub_0004"


@pytest.fixture(scope="session")
def bin(wheel: Path, installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a venv that has the wheel and what it needs, and nothing else."""
    return installed(tmp_path_factory.mktemp("service"), wheel)


def test_it_holds_the_types_the_migrations_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "integration_hub/py.typed" in names
    assert "integration_hub/_migrations/env.py" in names
    assert "integration_hub/_migrations/versions/hub_0001_initial.py" in names
    assert not [name for name in names if name.startswith(("tests", "alembic", "docs"))]


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_service_goes_up_runs_the_demo_and_goes_down(
    bin: Path, alone: Alone, tmp_path: Path, store: str, request: pytest.FixtureRequest
) -> None:
    def go(url: str) -> None:
        hub = bin / "integration-hub"
        told = [
            alone([hub, "db", *words, "--url", url], tmp_path)
            for words in (["upgrade"], ["check"], ["health"])
        ]
        assert f"schema is at {HEAD}" in told[0]
        assert "fits the code" in told[1]
        shown = alone([hub, "demo", "--url", url], tmp_path)
        assert "✗" not in shown
        assert shown.count("✓") >= 7
        assert "schema is at none" in alone(
            [hub, "db", "downgrade", "base", "--url", url], tmp_path
        )

    if store == "sqlite":
        go(f"sqlite:///{tmp_path / 'hub.db'}")
        return
    server: URL = request.getfixturevalue("hub_postgres_server")
    with temporary_database(server) as database:
        go(database.render_as_string(hide_password=False))


def test_a_service_keeps_both_in_one_history(
    bin: Path, tmp_path: Path, walk: Callable[[Path, Path, Path], list[str]]
) -> None:
    done = walk(CHECKOUT / "docs" / "own-history.md", tmp_path, bin)
    assert "$ alembic upgrade heads" in done
    assert (tmp_path / "service.db").exists()


def test_the_face_can_be_imported_without_the_testing_extra(
    bin: Path, alone: Alone, tmp_path: Path
) -> None:
    code = "import integration_hub as i; print(len(i.__all__)); i.Hub.in_memory().close()"
    assert int(alone([bin / "python", "-W", "error", "-c", code], tmp_path)) > 50

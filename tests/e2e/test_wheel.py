"""The wheel, in an empty venv elsewhere: what a service gets from its package index.

Needs the package index, so it runs in an environment of its own: ``tox -e once``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import URL

from integration_hub.testing.postgres import temporary_database

pytestmark = pytest.mark.wheel
CHECKOUT = Path(__file__).parents[2]
HEAD = "hub_0004"


def run(command: list[str | Path], cwd: Path) -> str:
    """What a command prints, run with none of our own environment; fails with its errors."""
    kept = {"PATH", "HOME", "TMPDIR", "LANG"} | {n for n in os.environ if n.startswith("PIP_")}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as an index would hand it out."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, CHECKOUT], folder)
    (built,) = folder.glob("integration_hub-*.whl")
    return built


@pytest.fixture(scope="session")
def bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a venv that has the wheel and what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("service")
    venv.create(folder / "venv", with_pip=True)
    found = folder / "venv" / "bin"
    run([found / "pip", "install", "-q", wheel], folder)
    return found


def test_it_holds_the_types_the_migrations_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "integration_hub/py.typed" in names
    assert "integration_hub/_migrations/env.py" in names
    assert "integration_hub/_migrations/versions/hub_0001_initial.py" in names
    assert not [name for name in names if name.startswith(("tests", "alembic", "docs"))]


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_service_goes_up_runs_the_demo_and_goes_down(
    bin: Path, tmp_path: Path, store: str, request: pytest.FixtureRequest
) -> None:
    def go(url: str) -> None:
        hub = bin / "integration-hub"
        told = [
            run([hub, "db", *words, "--url", url], tmp_path)
            for words in (["upgrade"], ["check"], ["health"])
        ]
        assert f"schema is at {HEAD}" in told[0]
        assert "fits the code" in told[1]
        shown = run([hub, "demo", "--url", url], tmp_path)
        assert "✗" not in shown
        assert shown.count("✓") >= 7
        assert "schema is at none" in run([hub, "db", "downgrade", "base", "--url", url], tmp_path)

    if store == "sqlite":
        go(f"sqlite:///{tmp_path / 'hub.db'}")
        return
    server: URL = request.getfixturevalue("hub_postgres_server")
    with temporary_database(server) as database:
        go(database.render_as_string(hide_password=False))


def test_a_service_tests_itself_with_the_kit(wheel: Path, tmp_path: Path) -> None:
    service = tmp_path / "service"
    shutil.copytree(CHECKOUT / "tests" / "e2e" / "sample_service", service)
    venv.create(tmp_path / "venv", with_pip=True)
    bin = tmp_path / "venv" / "bin"
    run([bin / "pip", "install", "-q", f"{wheel}[testing]", service], tmp_path)
    shown = run([bin / "pytest", "-q", "-p", "no:cacheprovider"], service)
    assert re.search(r"^(\d+) passed in", shown, re.MULTILINE), shown
    assert "skipped" not in shown


def test_a_service_keeps_both_in_one_history(
    bin: Path, tmp_path: Path, walk: Callable[[Path, Path, Path], list[str]]
) -> None:
    done = walk(CHECKOUT / "docs" / "own-history.md", tmp_path, bin)
    assert "$ alembic upgrade heads" in done
    assert (tmp_path / "service.db").exists()


def test_the_face_can_be_imported_without_the_testing_extra(bin: Path, tmp_path: Path) -> None:
    code = "import integration_hub as i; print(len(i.__all__)); i.Hub.in_memory().close()"
    assert int(run([bin / "python", "-W", "error", "-c", code], tmp_path)) > 50

"""Runs a page of the docs as its reader would (files are written, code and commands are run), and
the wheel as a service would.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Alone: TypeAlias = Callable[[list[Any], Path], str]
Installed: TypeAlias = Callable[..., Path]
Walk: TypeAlias = Callable[[Path, Path, Path], list[str]]
Blocks: TypeAlias = Callable[[Path], list[tuple[str, str, str]]]
CHECKOUT = Path(__file__).parents[2]
_PATIENCE = 300  # seconds, for what only ends late on a machine that is busy
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def blocks() -> Blocks:
    """``blocks(page)`` gives the language, the title and the text of each block on a page."""
    return _blocks


def _blocks(page: Path) -> list[tuple[str, str, str]]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def walk() -> Walk:
    """``walk(page, folder, bin)`` does everything on a page in its order, within `folder`.

    A block with a title is a file. Python between two commands is run in one piece, by the
    interpreter in `bin`; of a ``console`` block, each line behind ``$`` is run, and each other
    line must be part of what the command before it printed. Gives what was done.
    """
    return _walk


def _walk(page: Path, folder: Path, bin: Path) -> list[str]:
    done: list[str] = []
    code = ""
    for language, file, text in _blocks(page):
        if file:
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            done.append(file)
        elif language == "python":
            code += text
        elif language == "console":
            done += [*_python(code, folder, bin), *_console(text, folder, bin)]
            code = ""
    return [*done, *_python(code, folder, bin)]


def _python(code: str, folder: Path, bin: Path) -> list[str]:
    if not code:
        return []
    _run([bin / "python", "-W", "error", "-c", code], folder, bin)
    return ["python"]


def _console(text: str, folder: Path, bin: Path) -> list[str]:
    done, printed = [], ""
    for line in text.splitlines():
        if line.startswith("$ "):
            printed = _run(["bash", "-c", line[2:]], folder, bin)
            done.append(line)
        else:
            assert line in printed, f"{line!r} is not in {printed!r}"
    return done


def _run(command: list[Any], folder: Path, bin: Path) -> str:
    path = f"{bin}{os.pathsep}{os.environ['PATH']}"
    return _printed(command, folder, {**os.environ, "PATH": path})


@pytest.fixture(scope="session")
def alone() -> Alone:
    """``alone(command, folder)`` gives what it prints, run with none of our own environment."""
    kept = {"PATH", "HOME", "TMPDIR", "LANG"} | {n for n in os.environ if n.startswith("PIP_")}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    return lambda command, folder: _printed(command, folder, environment)


@pytest.fixture(scope="session")
def wheel(alone: Alone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as an index would hand it out."""
    folder = tmp_path_factory.mktemp("wheel")
    alone([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, CHECKOUT], folder)
    (built,) = folder.glob("integration_hub-*.whl")
    return built


@pytest.fixture(scope="session")
def installed(alone: Alone) -> Installed:
    """``installed(folder, …)`` gives the commands of a venv with what pip installs, and no more."""

    def install(folder: Path, *what: str | Path) -> Path:
        venv.create(folder / "venv")
        bin = folder / "venv" / "bin"
        # By the pip that is here, and what is not imported is not compiled: it takes half as long.
        pip = [sys.executable, "-m", "pip", "--python", bin / "python"]
        alone([*pip, "install", "-q", "--no-compile", *what], folder)
        return bin

    return install


def _printed(command: list[Any], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_PATIENCE
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout

"""Runs a page of the docs as its reader would: files are written, code and commands are run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Walk: TypeAlias = Callable[[Path, Path, Path], list[str]]
Blocks: TypeAlias = Callable[[Path], list[tuple[str, str, str]]]
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
    environment = {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout

"""Every page of the docs runs, and says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
BIN = Path(sys.executable).parent
#: Of an installed wheel: see test_wheel.
ELSEWHERE = {"own-history.md"}
PAGES = [
    CHECKOUT / "README.md",
    *sorted(page for page in DOCS.glob("*.md") if page.name not in ELSEWHERE),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_runs(
    page: Path, tmp_path: Path, walk: Callable[[Path, Path, Path], list[str]]
) -> None:
    shows_code = "```python" in page.read_text(encoding="utf-8")
    assert bool(walk(page, tmp_path, BIN)) is shows_code


def test_the_generated_parts_are_current() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_the_readme_opens_with_the_two_commands() -> None:
    commands = re.findall(r"^    (python3 .*)$", (CHECKOUT / "README.md").read_text(), re.MULTILINE)
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/integration-hub demo",
        "python3 -m venv .venv && .venv/bin/pip install -q tox && .venv/bin/tox",
    ]


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

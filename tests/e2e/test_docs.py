"""Every page of the docs runs, and says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
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


@pytest.mark.typed
@pytest.mark.parametrize("checker", [["mypy", "--strict", "."], ["pyright"]], ids=lambda c: c[0])
def test_what_the_pages_show_is_typed(
    checker: list[str], tmp_path: Path, blocks: Callable[[Path], list[tuple[str, str, str]]]
) -> None:
    """Strictly, as a reader's own checker does it, which knows nothing of this package's."""
    files = {}
    for page in PAGES:
        plain = []
        for at, (language, title, code) in enumerate(blocks(page)):
            if language != "python":
                continue
            if title:
                files[f"{page.stem}_{at}_{Path(title).name}"] = code
            else:
                plain.append(code)
        files[f"{page.stem}_page.py"] = "".join(plain)
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    done = subprocess.run(
        [BIN / checker[0], *checker[1:]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


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

"""What a service gets to test itself with: the wheel's testing extra, in a venv of its own."""

from __future__ import annotations

import re
import shutil
import venv
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

pytestmark = pytest.mark.wheel
Alone: TypeAlias = Callable[[list[str | Path], Path], str]
SERVICE = Path(__file__).parent / "sample_service"


def test_a_service_tests_itself_with_the_kit(wheel: Path, alone: Alone, tmp_path: Path) -> None:
    service = tmp_path / "service"
    shutil.copytree(SERVICE, service)
    venv.create(tmp_path / "venv", with_pip=True)
    bin = tmp_path / "venv" / "bin"
    alone([bin / "pip", "install", "-q", f"{wheel}[testing]", service], tmp_path)
    shown = alone([bin / "pytest", "-q", "-p", "no:cacheprovider"], service)
    assert re.search(r"^(\d+) passed in", shown, re.MULTILINE), shown
    assert "skipped" not in shown

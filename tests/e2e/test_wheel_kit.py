"""What a service gets to test itself with: the wheel's testing extra, in a venv of its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

pytestmark = pytest.mark.wheel
Alone: TypeAlias = Callable[[list[str | Path], Path], str]
Installed: TypeAlias = Callable[..., Path]
SERVICE = Path(__file__).parent / "sample_service"


def test_a_service_tests_itself_with_the_kit(
    wheel: Path, alone: Alone, installed: Installed, tmp_path: Path
) -> None:
    service = tmp_path / "service"
    shutil.copytree(SERVICE, service)
    bin = installed(tmp_path, f"{wheel}[testing]", service)
    shown = alone([bin / "pytest", "-q", "-p", "no:cacheprovider"], service)
    assert re.search(r"^(\d+) passed in", shown, re.MULTILINE), shown
    assert "skipped" not in shown

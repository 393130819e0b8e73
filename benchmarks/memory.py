"""How much memory a stream of 200,000 objects takes: measured in a process of its own.

Run as ``python memory.py URL``, it prints the count, and by how many bytes the peak lies above
the start.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sqlalchemy import URL

from integration_hub import Hub

ALLOWED = 50  # MB above the start


def held(what: str) -> int:
    """Bytes of this process in memory: ``VmRSS`` now, ``VmHWM`` at the most (proc(5))."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024


def stream(url: str) -> tuple[int, int]:
    """The number of objects streamed, and how many bytes the peak lies above the start."""
    with Hub.from_url(url) as hub, hub.unit_of_work() as uow:
        uow.integrations.find(limit=10)  # what is loaded once is no part of a stream
        before = held("VmRSS")
        count = sum(1 for _ in uow.integrations.stream())
        return count, held("VmHWM") - before


def run(url: URL) -> str:
    """A sentence."""
    command = [sys.executable, str(Path(__file__)), url.render_as_string(hide_password=False)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    count, grown = map(int, told.split())
    met = "met" if grown < ALLOWED * 1e6 else "missed"
    taken = f"{grown / 1e6:.1f} MB beyond the start"
    return f"Streaming {count:,} objects took {taken} (at most {ALLOWED}: {met})."


if __name__ == "__main__":
    print(*stream(sys.argv[1]))

"""Runs the benchmarks, prints their tables, and writes them into docs/performance.md.

``tox -e bench``, or ``python benchmarks operations growth`` for some of them.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import claim
import delivery
import growth
import http_client
import memory
import operations
import stores
from sqlalchemy import URL

from integration_hub import DatabaseConnectionManager, Hub
from integration_hub.testing.postgres import postgres_server, temporary_database

PACKAGES = ("sqlalchemy", "psycopg", "advanced-alchemy", "requests", "urllib3", "httpx")
PEERS_OF = {"claim": ("procrastinate", "pgqueuer", "asyncpg")}
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def of_operations(server: URL) -> str:
    """What each operation costs, and then, on the same rows, the memory of a stream."""
    with temporary_database(server) as url, Hub.from_url(url) as hub:
        hub.schema.upgrade()
        costs = operations.run(hub, url)
        return f"{costs}\n\n{memory.run(url)}"


BENCHMARKS: dict[str, Callable[[URL], str]] = {
    "operations": of_operations,
    "growth": growth.run,
    "stores": stores.run,
    "http": http_client.run,
    "claim": claim.run,
    "delivery": delivery.run,
}


def where(server: URL, *peers: str) -> str:
    """The machine and the versions that the figures are of."""
    manager = DatabaseConnectionManager(server)
    postgres = manager.health().database_version
    manager.close()
    packages = ", ".join(f"{name} {version(name)}" for name in (*PACKAGES, *peers))
    python = f"Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, 2 cores, {postgres}, {python}, {packages}"


def write(name: str, body: str) -> None:
    """Put a table between the comments that bear its name."""
    text = PAGE.read_text(encoding="utf-8")
    between = re.compile(f"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    written, count = between.subn(lambda found: f"{found[1]}{body}\n{found[2]}", text)
    assert count == 1, f"docs/performance.md has no place for {name}"
    PAGE.write_text(written, encoding="utf-8")


def main(chosen: list[str]) -> None:
    with postgres_server() as server:
        for name in chosen or BENCHMARKS:
            body = f"{BENCHMARKS[name](server)}\n\n({where(server, *PEERS_OF.get(name, ()))})"
            print(f"\n{name}\n\n{body}\n")
            write(name, body)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Three hubs, one on each store, for tests that drive them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine

from integration_hub import Hub
from integration_hub.testing import ManualClock
from integration_hub.testing.postgres import temporary_database
from strategies import START


@contextmanager
def side_by_side(
    server: URL, folder: Path, tables: Sequence[str], clock: ManualClock
) -> Iterator[Callable[[], dict[str, Hub]]]:
    """Gives a function that empties the tables, sets the clock to `START`, and gives three hubs."""
    with temporary_database(server) as database, ExitStack() as stack:
        urls: dict[str, str | URL] = {
            "sqlite": f"sqlite:///{folder / 'hub.db'}",
            "postgres": database,
        }
        hubs = {
            store: stack.enter_context(Hub.from_url(url, clock=clock))
            for store, url in urls.items()
        }
        engines = [create_engine(url) for url in urls.values()]
        for engine in engines:
            stack.callback(engine.dispose)
        for hub in hubs.values():
            hub.schema.upgrade()

        def start_over() -> dict[str, Hub]:
            clock.set(START)
            for engine in engines:
                with engine.begin() as connection:
                    for table in tables:
                        connection.exec_driver_sql(f"DELETE FROM {table}")
            return {"memory": Hub.in_memory(clock=clock), **hubs}

        yield start_over

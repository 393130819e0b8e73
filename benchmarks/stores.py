"""The three stores side by side: what a test saves by the dict store, and what SQLite costs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from contenders import OfHub, fill, integration, numbers, pages
from harness import compare, shown, table
from sqlalchemy import URL, create_engine

from integration_hub import Hub
from integration_hub.testing.postgres import temporary_database

ROWS = 20_000


def run(server: URL) -> str:
    """The table, in Markdown."""
    lines = []
    with temporary_database(server) as url, tempfile.TemporaryDirectory() as folder:
        hubs = {
            "Postgres": Hub.from_url(url),
            "SQLite": Hub.from_url(f"sqlite:///{Path(folder) / 'hub.db'}"),
            "dict": Hub.in_memory(),
        }
        each: dict[str, OfHub] = {}
        for name, hub in hubs.items():
            hub.schema.upgrade()
            each[name] = OfHub(hub, fill(hub, ROWS))
        analyze = create_engine(url, isolation_level="AUTOCOMMIT")
        with analyze.connect() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")  # as autovacuum would, a minute later
        analyze.dispose()
        middle = {name: pages(one.hub, ROWS // 2)[0] for name, one in each.items()}
        calls = {
            "get by id": {name: one.get for name, one in each.items()},
            "add and commit": {name: one.add for name, one in each.items()},
            "load, change, save, commit": {name: one.save for name, one in each.items()},
            "webhooks for one event": {name: one.for_event for name, one in each.items()},
            "scroll, page of 50, in the middle": {
                name: one.scroll(middle[name]) for name, one in each.items()
            },
            "count by status": {name: one.count for name, one in each.items()},
        }
        for operation, contenders in calls.items():
            found = compare(contenders)
            lines.append([operation, *(shown(timing.seconds) for timing in found.values())])
            print(" | ".join(lines[-1]), flush=True)
        thousand = {
            name: one.add_many([integration(next(numbers)) for _ in range(1_000)])
            for name, one in each.items()
        }

        def empty() -> None:
            for hub in hubs.values():
                with hub.unit_of_work(tenant="bulk") as uow:
                    for item in uow.integrations.find():
                        uow.integrations.remove(item.id)
                    uow.commit()

        found = compare(thousand, calls=1, rounds=5, between=empty)
        lines.append(["add_many of 1,000", *(shown(timing.seconds) for timing in found.values())])
        for hub in hubs.values():
            hub.close()
    return table(["operation", *each], lines)

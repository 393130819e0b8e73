"""What each everyday operation costs, beside raw psycopg, the ORM and advanced-alchemy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contenders import (
    BULK,
    OfAdvancedAlchemy,
    OfHub,
    OfOrm,
    OfPsycopg,
    fill,
    integration,
    numbers,
    pages,
)
from harness import Timing, compare, shown, table
from sqlalchemy import URL, create_engine

from integration_hub import Hub

ROWS = 200_000
DEPTH = 150_000
MANY = 10_000
DEPTHS = 1.2  # by how much the cost of a page may differ with its depth
#: The most that an operation may cost, as a ratio to raw psycopg.
TARGETS = {
    "get by id": 2.0,
    "add and commit": 2.2,
    "load, change, save, commit": 2.4,
    "load one, change it, add two children, commit": 2.2,
    f"add_many of {MANY:,}, per row": 1.8,
    "scroll, page of 50, first": 2.0,
    f"scroll, page of 50, at {DEPTH:,}": 2.0,
    "webhooks for one event": 2.0,
    "count by status": 1.2,
    f"stream {ROWS:,} rows, per row": 2.0,
}


def run(hub: Hub, url: URL) -> str:
    """The table, in Markdown."""
    ids = fill(hub, ROWS)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")

    def empty_bulk() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(
                f"DELETE FROM integrations WHERE tenant_id = '{BULK}' OR created_by = 'x'"
            )

    raw = OfPsycopg(url, ids)
    ours, orm, other = OfHub(hub, ids), OfOrm(url, ids), OfAdvancedAlchemy(url, ids)
    everybody: list[Any] = [raw, ours, orm, other]
    cursor, place = pages(hub, DEPTH)
    found: dict[str, dict[str, Timing]] = {}

    def measure(operation: str, each: dict[str, Callable[[], object]], **options: Any) -> None:
        found[operation] = compare(each, **options)
        print(" | ".join(line(operation, found[operation])), flush=True)

    def all_of(name: str) -> dict[str, Callable[[], object]]:
        return {each.name: getattr(each, name) for each in everybody if hasattr(each, name)}

    names = iter(TARGETS)
    for method in ("get", "add", "save", "family"):
        measure(next(names), all_of(method))
    empty_bulk()
    items = [integration(next(numbers)) for _ in range(MANY)]
    measure(
        next(names),
        {each.name: each.add_many(items) for each in everybody},
        calls=1,
        rounds=7,
        between=empty_bulk,
    )
    for method, places in (
        ("scroll", {raw: None, ours: None, orm: None, other: 0}),
        ("scroll", {raw: place, ours: cursor, orm: place, other: DEPTH}),
    ):
        each = {one.name: getattr(one, method)(at) for one, at in places.items()}
        measure(next(names), each)
    depths = compare({"first": ours.scroll(None), "deep": ours.scroll(cursor)})
    measure(next(names), all_of("for_event"))
    measure(next(names), all_of("count"))
    measure(next(names), all_of("stream"), calls=1, rounds=5)
    engine.dispose()
    heads = ["operation", "at most", *(each.name for each in everybody), "the hub's target"]
    rows = [line(operation, timings) for operation, timings in found.items()]
    deep = depths["deep"].ratio
    met = "met" if max(deep, 1 / deep) <= DEPTHS else "missed"
    told = f"A page at {DEPTH:,} costs {deep:.2f} times the first one (within {DEPTHS}: {met})."
    return f"{table(heads, rows)}\n\n{told}"


def line(operation: str, timings: dict[str, Timing]) -> list[str]:
    first = next(iter(timings.values())).seconds
    per = (
        ROWS if operation.startswith("stream") else MANY if operation.startswith("add_many") else 1
    )
    cells = [operation, f"{TARGETS[operation]:.1f}", shown(first / per)]
    for name in (OfHub.name, OfOrm.name, OfAdvancedAlchemy.name):
        timing = timings.get(name)
        cells.append("-" if timing is None else f"{timing.ratio:.2f}")
    spare = 1 - timings[OfHub.name].ratio / TARGETS[operation]
    return [*cells, f"met, {spare:.0%} to spare" if spare >= 0 else f"missed by {-spare:.0%}"]

"""How the cost of everyday operations grows with the number of rows: not, is the claim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from contenders import OfHub, pages
from harness import NTH_ID, compare, shown, table
from sqlalchemy import URL, create_engine

from integration_hub import Hub
from integration_hub.testing.postgres import temporary_database

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ALLOWED = 1.5  # of a million to ten thousand
OPERATIONS = ("get", "add", "save", "scroll", "for_event", "due")

_COMMON = f"""
    {NTH_ID}, 'default', 'row ' || n, NULL, jsonb_build_object('n', n, 'sandbox', false),
    jsonb_build_array('region' || n % 50), true, NULL, NULL, 1,
    timestamptz '2026-01-01 00:00Z' + n * interval '1 s', now(), 'x', 'x'
"""
_COLUMNS = """
    id, tenant_id, name, description, config, tags, is_active, error_message,
    status_changed_at, version, created_at, updated_at, created_by, updated_by
"""


def _fills(rows: int) -> Iterator[str]:
    source = f"FROM generate_series(1, {rows}) n"
    yield (
        f"INSERT INTO integrations ({_COLUMNS}, type, status) SELECT {_COMMON}, 'salesforce',"
        f" CASE WHEN n % 100 = 0 THEN 'error' ELSE 'active' END {source}"
    )
    yield (
        f"INSERT INTO webhooks ({_COLUMNS}, integration_id, url, events, status) SELECT {_COMMON},"
        f" {NTH_ID}, 'https://x.test', jsonb_build_array('event' || n % {rows // 100} || '.*'),"
        f" 'active' {source}"
    )
    # A hundred jobs are due, at every size; the others have run.
    yield (
        f"INSERT INTO sync_jobs ({_COLUMNS}, integration_id, schedule, direction, status,"
        " max_attempts, attempt, next_run_at, records_processed)"
        f" SELECT {_COMMON}, {NTH_ID}, '{{\"kind\": \"manual\"}}', 'pull',"
        f" CASE WHEN n % {rows // 100} = 0 THEN 'pending' ELSE 'completed' END, 3, 0,"
        f" timestamptz '2026-01-01 00:00Z' + n * interval '1 s', 0 {source}"
    )
    yield "VACUUM ANALYZE"


@contextmanager
def filled(server: URL, rows: int) -> Iterator[OfHub]:
    with temporary_database(server) as url, Hub.from_url(url) as hub:
        hub.schema.upgrade()
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in _fills(rows):
                connection.exec_driver_sql(statement.replace("%", "%%"))
            found = connection.exec_driver_sql(
                "SELECT id FROM integrations ORDER BY md5(id::text) LIMIT 1000"
            )
            ids = list(found.scalars())
        engine.dispose()
        yield OfHub(hub, ids)


def run(server: URL) -> str:
    """The table, in Markdown."""
    lines = []
    with ExitStack() as stack:
        each = {rows: stack.enter_context(filled(server, rows)) for rows in SIZES}
        for operation in OPERATIONS:
            if operation == "scroll":
                middles = {rows: pages(one.hub, rows // 2)[0] for rows, one in each.items()}
                calls = {str(rows): one.scroll(middles[rows]) for rows, one in each.items()}
            else:
                calls = {str(rows): getattr(one, operation) for rows, one in each.items()}
            found = compare(calls)
            ratio = found["1000000"].ratio / found["10000"].ratio
            times = [shown(timing.seconds) for timing in found.values()]
            met = "met" if ratio <= ALLOWED else "missed"
            lines.append([operation, *times, f"{ratio:.2f}", f"{ALLOWED:.1f}, {met}"])
            print(" | ".join(lines[-1]), flush=True)
    heads = ["operation", *(f"{rows:,} rows" for rows in SIZES), "million to 10,000", "at most"]
    return table(heads, lines)

"""How many sync jobs are claimed and finished in a second, by 1, 2 and 4 worker processes.

The jobs do nothing. A worker finishes a batch and claims the next one, in a unit of work that stores
what is done as it is done (`atomic=False`); a process has as many threads at that as there are
cores for it, since the peers too go on with the next batch while one is being stored. `raw` sends the
very statements that the hub sends, by psycopg alone, from as many threads, and leaves JSON unread;
the peers work as their users run them: a worker that ends when the queue is empty, with the batch, or
the concurrency, as given. pgqueuer works twice: once with what a claim of the hub must hold, no more
than so many jobs of an integration at once, and once without any limit, which is its fastest.
procrastinate knows a limit of one alone, and works without.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    contextmanager,
    nullcontext,
)
from datetime import timedelta
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

import psycopg
from harness import NTH_ID, Timing, compare, shown, table
from psycopg.types.string import TextLoader
from sqlalchemy import URL

from integration_hub import (
    EVERY_TENANT,
    DatabaseConnectionManager,
    Hub,
    Integration,
    Schedule,
    SyncContext,
    SyncJob,
    SyncJobFilter,
    SyncOutcome,
    SyncRun,
    SyncRunner,
)
from integration_hub.database.engine import RANDOM_PAGE_COST
from integration_hub.domain.values import new_id
from integration_hub.ports.clock import SystemClock
from integration_hub.sql.claiming import ENDED_JOB, ENDED_RUN
from integration_hub.sql.mapping import SYNC_JOBS
from integration_hub.sql.prepared import array_text
from integration_hub.sql.run_statements import RunStatements
from integration_hub.testing.postgres import dsn, temporary_database

JOBS = {1: 2_000, 10: 8_000, 100: 24_000}  # long enough for what a worker does once not to count
PROCESSES = (1, 2, 4)
ROUNDS = 3
WANTED = 0.5  # of raw
PARENTS = 100
PLACES = 10  # for jobs of one integration that run at once
LIMITED = "pgqueuer with limits"
NARROW = "hub, one integration"
FINISHED = (0, 1_000_000)
DUE = 1_000
MOST_GROWTH = 1.5
WAITING = (0, 1_000, 10_000, 100_000)
LEASE = timedelta(minutes=5)
RUNNER_THREADS = (1, 4, 20, 100)
RUNNER_JOBS = 4_000
HELD_JOBS = 20_000


# --- the hub, and its statements alone ------------------------------------------------------------


def fill_hub(url: URL, jobs: int, *, of: int = PARENTS) -> None:
    now = SystemClock().now()
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        with hub.unit_of_work() as uow:
            config = {"sync": {"max_concurrency": PLACES}}
            parents = [Integration(name=f"i{n}", type="crm", config=config) for n in range(of)]
            uow.integrations.add_many(parents)
            uow.sync_jobs.add_many(
                SyncJob(
                    name=f"j{n}",
                    integration_id=parents[n % of].id,
                    schedule=Schedule.once(now),
                    next_run_at=now - timedelta(seconds=jobs - n),
                )
                for n in range(jobs)
            )
            uow.commit()
    manager = DatabaseConnectionManager(url)
    with manager.reading() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE integrations, sync_jobs")
    manager.close()


def threads_of(processes: int) -> int:
    """How many threads each process has: as many as there are cores for it."""
    return max(1, (os.cpu_count() or 1) // processes)


def in_threads(count: int, work: Callable[[], int], begin: Callable[[], None]) -> int:
    """What `count` threads have done, each by `work`."""
    with ThreadPoolExecutor(count) as pool:
        begin()
        return sum(each.result() for each in [pool.submit(work) for _ in range(count)])


def work_hub(url: URL, batch: int, processes: int, begin: Callable[[], None]) -> int:
    def work() -> int:
        done = 0
        runs: list[SyncRun] = []
        while True:
            with hub.unit_of_work(tenant=EVERY_TENANT, atomic=False) as uow:
                uow.sync_runs.succeed_many([(run, SyncOutcome()) for run in runs])
                runs = uow.sync_jobs.claim("w", limit=batch, lease=LEASE)
                uow.commit()
            if not runs:
                return done
            done += len(runs)

    with Hub.from_url(url) as hub, hub.unit_of_work(tenant=EVERY_TENANT) as uow:
        assert uow.sync_jobs.due(limit=1)
        uow.rollback()  # it is connected, as the others are
        return in_threads(threads_of(processes), work, begin)


def work_raw(url: URL, batch: int, processes: int, begin: Callable[[], None]) -> int:
    """The same statements with the same values, and nothing made of the rows."""
    options = f"-c random_page_cost={RANDOM_PAGE_COST}"
    connect = partial(psycopg.connect, dsn(url), autocommit=True, options=options)
    connections = [connect() for _ in range(threads_of(processes))]
    return in_threads(len(connections), lambda: _work_raw(connections.pop(), batch), begin)


def _work_raw(opened: psycopg.Connection[Any], batch: int) -> int:
    statements = RunStatements("postgresql")
    claim, end = statements.claim(batch, far=False).text.encode(), statements.end.text.encode()
    job_at = {name: 2 + SYNC_JOBS.columns.index(name) for name in SYNC_JOBS.columns}
    done = 0
    with opened as connection:
        connection.adapters.register_loader("jsonb", TextLoader)
        while True:
            rows = connection.execute(claim, claim_values(batch)).fetchall()
            if not rows:
                return done
            now = SystemClock().now()
            rows.sort(key=itemgetter(job_at["id"]))
            given: dict[str, list[Any]] = {
                "id": [row[0] for row in rows],
                "job_id": [row[job_at["id"]] for row in rows],
                "run_was": [1] * len(rows),
                "job_was": [row[job_at["version"]] for row in rows],
                **{f"run_{name}": [None] * len(rows) for name in ENDED_RUN},
                **{f"job_{name}": [row[job_at[name]] for row in rows] for name in ENDED_JOB},
                "run_status": ["succeeded"] * len(rows),
                "run_finished_at": [now] * len(rows),
                "run_records_processed": [0] * len(rows),
                "job_status": ["completed"] * len(rows),
                "job_next_run_at": [None] * len(rows),
            }
            values = {name: array_text(each) for name, each in given.items()}
            ended = connection.execute(end, {**values, "tenant": None, "actor": "w"})
            assert ended.rowcount == len(rows)
            done += len(rows)


def claim_values(batch: int) -> dict[str, Any]:
    now = SystemClock().now()
    return {
        "ids": array_text([new_id() for _ in range(batch)]),
        "worker": "w",
        "actor": "w",
        "now": now,
        "expires": now + LEASE,
        "tenant": None,
        "types": None,
    }


# --- the peers ------------------------------------------------------------------------------------


def fill_pgqueuer(entry_points: int, url: URL, jobs: int) -> None:
    import asyncpg
    from pgqueuer.queries import Queries

    async def fill() -> None:
        connection = await asyncpg.connect(dsn(url))
        queries = Queries.from_asyncpg_connection(connection)
        await queries.install()
        for at in range(0, jobs, 1_000):
            some = [f"i{n % entry_points}" for n in range(at, min(at + 1_000, jobs))]
            await queries.enqueue(some, [None] * len(some), [0] * len(some))
        await connection.execute("VACUUM ANALYZE")
        await connection.close()

    asyncio.run(fill())


def work_pgqueuer(
    entry_points: int, limit: int, url: URL, batch: int, processes: int, begin: Callable[[], None]
) -> int:
    """Its limits are those of entry points; with none (0), its query is the fastest."""
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.types import QueueExecutionMode

    done = 0

    async def noop(job: object) -> None:
        nonlocal done
        done += 1

    async def work() -> None:
        connection = await asyncpg.connect(dsn(url))
        queue = PgQueuer.from_asyncpg_connection(connection)
        for n in range(entry_points):
            queue.entrypoint(f"i{n}", concurrency_limit=limit)(noop)
        begin()
        await queue.qm.run(batch_size=batch, mode=QueueExecutionMode.drain)
        await connection.close()

    asyncio.run(work())
    return done


def _procrastinate(url: URL) -> tuple[Any, Callable[[], int]]:
    import procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn(url)))
    done = 0

    @app.task(name="noop")
    async def noop() -> None:
        nonlocal done
        done += 1

    return app, lambda: done


def fill_procrastinate(url: URL, jobs: int) -> None:
    app, _ = _procrastinate(url)

    async def fill() -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            await app.tasks["noop"].batch_defer_async(*({} for _ in range(jobs)))

    asyncio.run(fill())
    with psycopg.connect(dsn(url), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def work_procrastinate(url: URL, batch: int, processes: int, begin: Callable[[], None]) -> int:
    app, done = _procrastinate(url)

    async def work() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(app.open_async())
            begin()
            await app.run_worker_async(
                wait=False, concurrency=batch, listen_notify=False, install_signal_handlers=False
            )

    asyncio.run(work())
    return done()


Work: TypeAlias = Callable[[URL, int, int, Callable[[], None]], int]
KINDS: dict[str, tuple[Callable[[URL, int], None], Work]] = {
    "raw": (fill_hub, work_raw),
    "hub": (fill_hub, work_hub),
    LIMITED: (partial(fill_pgqueuer, PARENTS), partial(work_pgqueuer, PARENTS, PLACES)),
    "pgqueuer": (partial(fill_pgqueuer, 1), partial(work_pgqueuer, 1, 0)),
    "procrastinate": (fill_procrastinate, work_procrastinate),
    NARROW: (partial(fill_hub, of=1), work_hub),
}
COMPARED = tuple(kind for kind in KINDS if kind != NARROW)
#: At most so many, for who takes long over each.
MOST = {"procrastinate": 2_000, LIMITED: 2_000}


# --- measuring ------------------------------------------------------------------------------------


def _process(kind: str, url: str, batch: int, processes: int, gate: Any, results: Any) -> None:
    from sqlalchemy import make_url

    began = 0.0

    def begin() -> None:
        nonlocal began
        gate.wait(60)
        began = time.monotonic()

    done = KINDS[kind][1](make_url(url), batch, processes, begin)
    results.put((began, time.monotonic(), done, os.getpid()))


def rate(
    server: URL,
    kind: str,
    processes: int,
    batch: int,
    *,
    jobs: int | None = None,
    beside: Callable[[URL], AbstractContextManager[object]] = nullcontext,
) -> float:
    """Jobs per second, from the first worker's start to the last one's end."""
    jobs = jobs or min(JOBS[batch], MOST.get(kind, JOBS[batch]))
    context = multiprocessing.get_context("spawn")
    with temporary_database(server) as url, ExitStack() as stack:
        KINDS[kind][0](url, jobs)
        stack.enter_context(beside(url))
        gate, results = context.Barrier(processes), context.Queue()
        shown = url.render_as_string(hide_password=False)
        arguments = (kind, shown, batch, processes, gate, results)
        workers = [context.Process(target=_process, args=arguments) for _ in range(processes)]
        for worker in workers:
            worker.start()
        found = [results.get(timeout=120) for _ in workers]
        for worker in workers:
            worker.join()
    total = sum(done for _, _, done, _ in found)
    assert total == jobs, f"{kind}: {total} of {jobs} jobs were done"
    return jobs / (max(end for _, end, *_ in found) - min(start for start, *_ in found))


def fill_finished(url: URL, jobs: int) -> None:
    """Jobs that have run and are over, each with its run, of the same integrations."""
    if not jobs:
        return
    at = "timestamptz '2020-01-01 00:00Z' + n * interval '1 s'"
    parent = f"(SELECT array_agg(id) FROM integrations))[1 + n % {PARENTS}]"
    with psycopg.connect(dsn(url), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO sync_jobs (id, tenant_id, name, config, tags, is_active, version, created_at,"
            " updated_at, created_by, updated_by, integration_id, schedule, direction, status,"
            " max_attempts, attempt, last_run_at, records_processed)"
            f" SELECT {NTH_ID}, 'default', 'old ' || n, '{{}}', '[]', true, 3, {at}, {at}, 'x', 'x', ({parent},"
            f" '{{\"kind\": \"once\"}}', 'pull', 'completed', 3, 0, {at}, 0"
            f" FROM generate_series(1, {jobs}) n".encode()
        )
        connection.execute(
            "INSERT INTO sync_runs (id, tenant_id, sync_job_id, integration_id, slot, attempt, status,"
            " worker, started_at, heartbeat_at, lease_expires_at, finished_at, records_processed,"
            " version) SELECT id, tenant_id, id, integration_id, 1, 1, 'succeeded', 'w', created_at,"
            " created_at, created_at, created_at, 0, 2 FROM sync_jobs WHERE status = 'completed'"
        )
        connection.execute("VACUUM ANALYZE")


def of_growth(server: URL) -> str:
    """What a claim of 10 costs beside finished jobs; the plan must use the partial index."""

    def fill(url: URL, jobs: int) -> None:
        fill_finished(url, jobs)
        check_plan(url)

    found = claims_beside(server, FINISHED, fill)
    ratio = found[FINISHED[-1]].ratio
    verdict = f"{MOST_GROWTH}, {'met' if ratio <= MOST_GROWTH else 'missed'}"
    heads = ["a claim of 10", *(f"{jobs:,} finished" for jobs in found), "ratio", "at most"]
    return table(heads, [[f"beside {DUE:,} due jobs", *_times(found), f"{ratio:.2f}", verdict]])


def of_waiting(server: URL) -> str:
    """What a claim of 10 costs behind jobs of an integration that has no place left."""
    found = claims_beside(server, WAITING, fill_crowd)
    heads = ["a claim of 10", *(f"{jobs:,} wait in vain" for jobs in found)]
    return table(heads, [["behind them", *_times(found)]])


def claims_beside(
    server: URL, counts: Iterable[int], fill: Callable[[URL, int], None]
) -> dict[int, Timing]:
    """Claims of 10, side by side, each from a database with so many other jobs by `fill`."""
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for count in counts:
            url = stack.enter_context(temporary_database(server))
            fill_hub(url, DUE)
            fill(url, count)
            hub = stack.enter_context(Hub.from_url(url))
            calls[str(count)] = partial(claim_and_forget, hub)
        found = compare(calls)
    return {count: found[str(count)] for count in counts}


def of_snapshots(server: URL) -> str:
    """What comes of the rates while a transaction elsewhere keeps its snapshot from the start on, as
    a dump or a report does: nothing that has changed since can be cleaned away.
    """
    lines = []
    for kind in ("hub", NARROW, "pgqueuer"):
        rates = [
            statistics.median(
                rate(server, kind, 1, 10, jobs=HELD_JOBS, beside=beside) for _ in range(ROUNDS)
            )
            for beside in (nullcontext, old_snapshot)
        ]
        lines.append([kind, *(f"{each:,.0f}" for each in rates), f"{rates[1] / rates[0]:.2f}"])
    heads = [f"{HELD_JOBS:,} jobs in batches of 10, jobs/s", "else nothing", "beside it", "ratio"]
    return table(heads, lines)


@contextmanager
def old_snapshot(url: URL) -> Iterator[None]:
    with psycopg.connect(dsn(url)) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM pg_class")
        yield


def _times(found: Mapping[int, Timing]) -> list[str]:
    return [shown(each.seconds) for each in found.values()]


def fill_crowd(url: URL, jobs: int) -> None:
    """An integration whose one place is taken, with jobs that are due before all others."""
    early = SystemClock().now() - timedelta(days=1)
    schedule = Schedule.every(600)
    with Hub.from_url(url) as hub:
        with hub.unit_of_work() as uow:
            crowd = uow.integrations.add(Integration(name="crowd", type="crm"))
            uow.sync_jobs.add_many(
                SyncJob(name=f"c{n}", integration_id=crowd.id, schedule=schedule, next_run_at=early)
                for n in range(jobs + 1)
            )
            uow.commit()
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            (run,) = uow.sync_jobs.claim("w", limit=1, lease=timedelta(days=1))
            assert run.integration_id == crowd.id
            uow.commit()


def claim_and_forget(hub: Hub) -> None:
    with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
        assert len(uow.sync_jobs.claim("w", limit=10, lease=LEASE)) == 10


def check_plan(url: URL) -> None:
    sql = f"EXPLAIN {RunStatements('postgresql').claim(10, far=False).text}".encode()
    with psycopg.connect(dsn(url), autocommit=True) as connection:
        for kind in ("custom", "generic"):
            connection.execute(f"SET plan_cache_mode = force_{kind}_plan".encode())
            rows = connection.execute(sql, claim_values(10), prepare=True).fetchall()
            plan = "\n".join(row[0] for row in rows).replace("Index Only Scan", "Index Scan")
            assert "Index Scan using ix_sync_jobs_due" in plan, plan
            assert "Seq Scan on sync_jobs" not in plan, plan


def of_runner(server: URL) -> str:
    """What a `SyncRunner` of one process gets done, with a handler that does nothing."""
    rates = [
        statistics.median(runner_rate(server, threads) for _ in range(ROUNDS))
        for threads in RUNNER_THREADS
    ]
    heads = ["threads", *map(str, RUNNER_THREADS)]
    return table(heads, [["jobs/s", *(f"{rate:,.0f}" for rate in rates)]])


def runner_rate(server: URL, threads: int) -> float:
    with temporary_database(server) as url:
        fill_hub(url, RUNNER_JOBS)
        with Hub.from_url(url) as hub:
            left = itertools.count(RUNNER_JOBS - 1, -1)

            def nothing(context: SyncContext) -> None:
                if next(left) == 0:
                    runner.stop()

            runner = SyncRunner(hub, {"crm": nothing}, concurrency=threads)
            began = time.monotonic()
            runner.run_forever()
            seconds = time.monotonic() - began
            with hub.unit_of_work() as uow:
                assert uow.sync_jobs.count(SyncJobFilter(status="completed")) == RUNNER_JOBS
    return RUNNER_JOBS / seconds


def run(server: URL) -> str:
    """The tables, in Markdown."""
    tables = (of_runner, of_growth, of_waiting, of_snapshots)
    others = "\n\n".join(each(server) for each in tables)
    print(others, flush=True)
    return f"{of_rates(server)}\n\n{others}"


def of_rates(server: URL) -> str:
    lines = []
    for processes in PROCESSES:
        for batch in JOBS:
            rates: dict[str, list[float]] = {kind: [] for kind in COMPARED}
            for turn in range(ROUNDS):
                for kind in _rotated(COMPARED, turn):
                    rates[kind].append(rate(server, kind, processes, batch))
            middle = {kind: statistics.median(each) for kind, each in rates.items()}
            pairs = zip(rates["hub"], rates["raw"], strict=True)
            share = statistics.median(hub / raw for hub, raw in pairs)
            met = {
                f"{WANTED} of raw": share >= WANTED,
                "ahead of both, limits kept": middle["hub"]
                > max(middle[LIMITED], middle["procrastinate"]),
                "ahead of pgqueuer without": middle["hub"] > middle["pgqueuer"],
            }
            verdict = ", ".join(f"{each}: {'met' if it else 'missed'}" for each, it in met.items())
            figures = [f"{middle[kind]:,.0f}" for kind in COMPARED]
            lines.append([str(processes), str(batch), *figures, f"{share:.2f}", verdict])
            print(" | ".join(lines[-1]), flush=True)
    heads = [
        "processes",
        "batch",
        *(f"{kind}, jobs/s" for kind in COMPARED),
        "hub to raw",
        "wanted",
    ]
    return table(heads, lines)


def _rotated(kinds: Iterable[str], turn: int) -> list[str]:
    names = list(kinds)
    start = turn % len(names)
    return names[start:] + names[:start]

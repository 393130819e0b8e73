"""Workers that are killed, connections that are cut and a clock that jumps, over 2,000 sync jobs.

Worker processes claim, send heartbeats, fail and succeed, and write what they have done into a log
of their own that only grows; the test kills them with SIGKILL at random, starts others, cuts their
connections, and advances the clock that they share. At the end the log and the database must tell
the same story.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import OperationalError

from integration_hub import (
    EVERY_TENANT,
    DatabaseConnectionManager,
    DatabaseUnavailable,
    Hub,
    Integration,
    LeaseLost,
    Schedule,
    SerializationConflict,
    SyncJob,
    SyncRun,
    UnitOfWork,
)
from integration_hub.ports.clock import SystemClock
from integration_hub.testing.postgres import temporary_database

pytestmark = pytest.mark.once
JOBS = 2_000
WORKERS = 8
KILLS = 40
STEPS = 3  # heartbeats per run, each with the next checkpoint
LEASE = 60  # seconds of the clock that jumps
LATEST = 600  # seconds from now: when the last jobs are due
FAILURES = 0.03
LATELY = 10_000  # bytes of the log


class JumpingClock:
    """The system's clock, and what the test has added to it."""

    def __init__(self, ahead: Any) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(seconds=self._ahead.value)


def work(url: str, log: str, name: str, ahead: Any) -> None:
    """Claim and work until there is nothing left to do."""
    chance = random.Random(name)
    clock = JumpingClock(ahead)
    with Hub.from_url(url, clock=clock) as hub, Path(log).open("ab", buffering=0) as lines:

        def tell(word: str, run: SyncRun) -> None:
            lines.write(f"{word} {run.id} {run.sync_job_id} {os.getpid()}\n".encode())

        def step(act: Any) -> Any:
            with hub.unit_of_work(tenant=EVERY_TENANT, actor=name) as uow:
                found = act(uow)
                uow.commit()
            return found

        while True:
            try:
                step(lambda uow: uow.sync_runs.reap())
                runs = step(lambda uow: uow.sync_jobs.claim(name, limit=4, lease=LEASE))
                if not runs and step(is_over):
                    return
                for run in runs:
                    go_through(run, step, tell, fails=chance.random() < FAILURES)
            except (DatabaseUnavailable, LeaseLost, SerializationConflict, OperationalError):
                continue  # what was claimed and not worked on is lost when its lease runs out


def is_over(uow: UnitOfWork) -> bool:
    return not any(job.status != "completed" for job in uow.sync_jobs.stream())


def go_through(run: SyncRun, step: Any, tell: Any, *, fails: bool) -> None:
    """A run: from its checkpoint on, a step at a time, each told when it is surely ours."""
    run = step(lambda uow: uow.sync_runs.heartbeat(run))  # ours still, though it waited its turn
    tell("start", run)
    for at in range(run.checkpoint or 0, STEPS):
        run = step(partial(take, run=run, page=at))
        tell("step", run)
    tell("done", run)
    if fails:
        step(lambda uow: uow.sync_runs.fail(run, "by chance", retry_in=30))
    else:
        step(lambda uow: uow.sync_runs.succeed(run, records=1))
    tell("end", run)


def take(uow: Any, *, run: SyncRun, page: int) -> SyncRun:
    """Store what came of a page, and where the next run is to take up, in one transaction."""
    row = {"job": run.sync_job_id, "page": page}
    uow.session.execute(text("INSERT INTO pages VALUES (:job, :page)"), row)
    return uow.sync_runs.heartbeat(run, checkpoint=page + 1)  # type: ignore[no-any-return]


class Line(NamedTuple):
    word: str
    run: str
    job: str
    pid: int


@pytest.fixture
def database(hub_postgres_server: URL) -> Iterator[tuple[URL, Hub]]:
    with temporary_database(hub_postgres_server) as url, Hub.from_url(url) as hub:
        hub.schema.upgrade()
        with closing(DatabaseConnectionManager(url)) as own, own.transaction() as connection:
            connection.execute(text("CREATE TABLE pages (job uuid, page int)"))  # a service's
        now = SystemClock().now()
        chance = random.Random(1)
        with hub.unit_of_work() as uow:
            parents = [
                uow.integrations.add(
                    Integration(
                        name=f"i{n}", type="crm", config={"sync": {"max_concurrency": 1 + n % 4}}
                    )
                )
                for n in range(20)
            ]
            uow.sync_jobs.add_many(
                SyncJob(
                    name=f"j{n}",
                    integration_id=parents[n % len(parents)].id,
                    schedule=Schedule.once(now + timedelta(seconds=chance.uniform(0, LATEST))),
                    max_attempts=100,
                )
                for n in range(JOBS)
            )
            uow.commit()
        yield url, hub


def amid_a_run(log: Path) -> set[int]:
    """The workers who have last told of a run that they were not done with."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LATELY))
        lines = file.read().split(b"\n")[1:-1]  # the first and the last may be parts of lines
    last = {int(pid): word for word, _, _, pid in map(bytes.split, lines)}
    return {pid for pid, word in last.items() if word in (b"start", b"step")}


def disturb(url: URL, log: Path) -> set[int]:
    """Kill workers, cut them off and advance their clock while they work; gives who was killed."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["integration_hub", "psycopg"])
    chance = random.Random(7)
    ahead = processes.Value("d", 0.0, lock=False)  # who is killed must not take a lock along

    def start(number: int) -> Any:
        shown = url.render_as_string(hide_password=False)
        worker = processes.Process(target=work, args=(shown, str(log), f"w{number}", ahead))
        worker.start()
        return worker

    workers = [start(number) for number in range(WORKERS)]
    killed: set[int] = set()
    admin = DatabaseConnectionManager(url, application_name="admin")
    deadline = time.monotonic() + 300
    seen, jumped = 0, time.monotonic()
    try:
        while any(worker.is_alive() for worker in workers):
            assert time.monotonic() < deadline
            workers[chance.randrange(WORKERS)].join(0.05)
            if time.monotonic() - jumped > 0.25:
                ahead.value += chance.uniform(1, LEASE / 4)
                jumped = time.monotonic()
            grown = log.stat().st_size if log.exists() else 0
            if grown - seen < LATELY or len(killed) >= KILLS:
                continue  # so that kills are spread over the work
            amid = amid_a_run(log)
            found = [
                at for at, worker in enumerate(workers) if worker.is_alive() and worker.pid in amid
            ]
            if not found:
                continue
            seen = grown
            at = chance.choice(found)
            os.kill(workers[at].pid, signal.SIGKILL)
            workers[at].join()
            killed.add(workers[at].pid)
            workers[at] = start(at)  # under the same name
            if chance.random() < 0.3:
                admin.query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                    " current_database() AND application_name = 'integration_hub' LIMIT 2"
                )
    finally:
        for worker in workers:
            worker.kill()  # after a failure they would go on
    admin.close()
    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    return killed


def test_killed_workers_and_cut_connections_lose_nothing_and_run_nothing_twice_at_once(
    database: tuple[URL, Hub], tmp_path: Path
) -> None:
    url, hub = database
    log = tmp_path / "log"
    killed = disturb(url, log)
    assert len(killed) >= KILLS / 2

    with hub.unit_of_work() as uow:
        jobs = {str(job.id): job for job in uow.sync_jobs.find()}
        history = {id: uow.sync_runs.history(job.id, 1_000)[::-1] for id, job in jobs.items()}
        parents = {item.id: item for item in uow.integrations.find()}
    runs = {str(run.id): run for each in history.values() for run in each}
    lines = [Line(a, b, c, int(d)) for a, b, c, d in map(str.split, log.read_text().splitlines())]
    told: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        told[line.run].append(line.word)

    # Every job succeeded, once.
    assert len(jobs) == JOBS
    assert {job.status for job in jobs.values()} == {"completed"}
    assert {job.records_processed for job in jobs.values()} == {1}
    for each in history.values():
        assert sum(run.status == "succeeded" for run in each) == 1
        assert each[-1].status == "succeeded"
    # Each page was stored, and none of them twice.
    with closing(DatabaseConnectionManager(url)) as own:
        pages = Counter((str(row["job"]), row["page"]) for row in own.query("TABLE pages").rows)
    assert set(pages) == {(id, page) for id in jobs for page in range(STEPS)}
    assert set(pages.values()) == {1}
    # No two runs of a job overlapped, and checkpoints never went backwards: by the history,
    for each in history.values():
        for former, later in pairwise(each):
            assert former.finished_at is not None
            assert former.finished_at <= later.started_at
            assert (former.checkpoint or 0) <= (later.checkpoint_before or 0)
            assert later.attempt == former.attempt + 1
    # and by the log, in which what a run has surely done never stands behind a later run's.
    order: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line.word == "step" and line.run not in order[line.job][-1:]:
            order[line.job].append(line.run)
    for found in order.values():
        assert len(found) == len(set(found))
    # What a worker had begun when it was killed is a lost run.
    begun = {line.run for line in lines if line.pid in killed}
    broken_off = {id for id in begun if "done" not in told[id]}
    assert {runs[id].status for id in broken_off} == {"lost"}
    assert len(broken_off) >= len(killed) / 2
    # Each ending is what its worker told; one that was killed in between told nothing more.
    for id, run in runs.items():
        if "end" in told[id]:
            assert run.status in {"succeeded", "failed"}
        if run.status in {"succeeded", "failed"}:
            assert told[id][0] == "start"
            assert "done" in told[id]
    assert any(run.status == "failed" for run in runs.values())
    # No integration had more runs at once than it has places for. The log tells: a run is surely
    # held from its start, written behind a heartbeat, until it is done, written before its end.
    working: Counter[Any] = Counter()
    for line in lines:
        run = runs[line.run]
        if run.status == "succeeded" and line.word in {"start", "done"}:
            working[run.integration_id] += 1 if line.word == "start" else -1
            places = parents[run.integration_id].config["sync"]["max_concurrency"]
            assert working[run.integration_id] <= places

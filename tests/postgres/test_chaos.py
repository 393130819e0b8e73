"""Workers that are killed, and connections that are cut, while they work on hundreds of jobs.

Worker processes claim, send heartbeats and succeed, and write what they do into a log of their own
that only grows; the test kills them with SIGKILL at random, starts others, and cuts connections. At
the end the log and the database must tell the same story.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL

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

JOBS = 400
WORKERS = 6
KILLS = 25
STEPS = 3  # heartbeats per run, each with the next checkpoint
LEASE = 2  # seconds


def work(url: str, log: str, name: str) -> None:
    """Claim and work until there is nothing left to do."""
    with Hub.from_url(url) as hub, Path(log).open("ab", buffering=0) as lines:

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
                runs = step(lambda uow: uow.sync_jobs.claim(name, limit=3, lease=LEASE))
                if not runs and step(is_over):
                    return
                for run in runs:
                    go_through(run, step, tell)
            except (DatabaseUnavailable, LeaseLost, SerializationConflict):
                continue  # what was claimed and not worked on is lost when its lease runs out


def is_over(uow: UnitOfWork) -> bool:
    return all(job.status == "completed" for job in uow.sync_jobs.find())


def go_through(run: SyncRun, step: Any, tell: Any) -> None:
    """A run: from its checkpoint on, a step at a time."""
    step(lambda uow: uow.sync_runs.heartbeat(run))  # it is ours still, though it waited its turn
    tell("start", run)
    for at in range(run.checkpoint or 0, STEPS):
        step(lambda uow, at=at: uow.sync_runs.heartbeat(run, checkpoint=at + 1))
    tell("done", run)
    step(lambda uow: uow.sync_runs.succeed(run, records=1))
    tell("end", run)


@pytest.fixture
def database(hub_postgres_server: URL) -> Any:
    with temporary_database(hub_postgres_server) as url, Hub.from_url(url) as hub:
        hub.schema.upgrade()
        now = SystemClock().now()
        with hub.unit_of_work() as uow:
            parents = [
                uow.integrations.add(
                    Integration(
                        name=f"i{n}", type="crm", config={"sync": {"max_concurrency": 1 + n % 4}}
                    )
                )
                for n in range(8)
            ]
            uow.sync_jobs.add_many(
                SyncJob(
                    name=f"j{n}",
                    integration_id=parents[n % len(parents)].id,
                    schedule=Schedule.once(now),
                    max_attempts=100,
                )
                for n in range(JOBS)
            )
            uow.commit()
        yield url, hub


def test_killed_workers_and_cut_connections_lose_nothing_and_run_nothing_twice_at_once(
    database: tuple[URL, Hub], tmp_path: Path
) -> None:
    url, hub = database
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    chance = random.Random(7)

    def start(number: int) -> Any:
        arguments = (url.render_as_string(hide_password=False), str(log), f"w{number}")
        worker = context.Process(target=work, args=arguments)
        worker.start()
        return worker

    workers = [start(number) for number in range(WORKERS)]
    killed: set[int] = set()
    admin = DatabaseConnectionManager(url, application_name="admin")
    deadline = time.monotonic() + 120
    seen = 0
    while any(worker.is_alive() for worker in workers):
        assert time.monotonic() < deadline
        workers[0].join(0.05)
        grown = log.stat().st_size if log.exists() else 0
        if grown == seen or len(killed) >= KILLS:
            continue  # no news: nobody is at work whom it would hurt
        seen = grown
        at = chance.randrange(WORKERS)
        if workers[at].is_alive():
            os.kill(workers[at].pid, signal.SIGKILL)
            workers[at].join()
            killed.add(workers[at].pid)
            workers[at] = start(at)  # under the same name
        if chance.random() < 0.3:
            admin.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                " current_database() AND application_name = 'integration_hub' LIMIT 2"
            )
    admin.close()
    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    assert len(killed) >= 5

    with hub.unit_of_work() as uow:
        jobs = {job.id: job for job in uow.sync_jobs.find()}
        history = {id: uow.sync_runs.history(id, 1_000)[::-1] for id in jobs}
        parents = {item.id: item for item in uow.integrations.find()}
    runs = {run.id: run for each in history.values() for run in each}
    told: dict[str, list[str]] = defaultdict(list)
    for line in log.read_text().splitlines():
        word, run_id, _, _ = line.split()
        told[run_id].append(word)

    # Every job succeeded, once.
    assert {job.status for job in jobs.values()} == {"completed"}
    assert {job.records_processed for job in jobs.values()} == {1}
    for each in history.values():
        assert sum(run.status == "succeeded" for run in each) == 1
        assert each[-1].status == "succeeded"
    # No two runs of a job overlapped, and checkpoints never went backwards.
    for each in history.values():
        for former, later in pairwise(each):
            assert former.finished_at is not None
            assert former.finished_at <= later.started_at
            assert (former.checkpoint or 0) <= (later.checkpoint_before or 0)
            assert later.attempt == former.attempt + 1
    # What a worker began and did not end, as it was killed or cut off, is a lost run; or it was
    # killed between its commit and its word.
    for run in runs.values():
        words = told[str(run.id)]
        if run.status == "lost":
            assert "end" not in words
        else:
            assert run.status == "succeeded"
            assert words[:2] == ["start", "done"]
    assert sum(run.status == "lost" for run in runs.values()) >= len(killed) / 4
    # No integration had more runs at once than it has places for. The log tells: a run is surely
    # held from its start, written behind a heartbeat, until it is done, written before its end.
    working: Counter[Any] = Counter()
    for line in log.read_text().splitlines():
        word, run_id, _, _ = line.split()
        run = runs[UUID(run_id)]
        if run.status == "succeeded" and word != "end":
            working[run.integration_id] += 1 if word == "start" else -1
            places = parents[run.integration_id].config["sync"]["max_concurrency"]
            assert working[run.integration_id] <= places

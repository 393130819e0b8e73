"""Runners that share jobs, by the real clock: handlers fail, runners are stopped and others begin.

Each page of each job is stored with the checkpoint behind it; at the end every page is there once.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from integration_hub import (
    Hub,
    Integration,
    IntegrationFilter,
    Schedule,
    StaleVersion,
    StorageError,
    SyncContext,
    SyncJob,
    SyncJobFilter,
    SyncRunner,
)

JOBS = 24
PAGES = 8
RUNNERS = 3
LEASE = 2  # seconds; so that heartbeats go out while handlers are at work


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def real_hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    """A hub on each store, by the real clock."""
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path / 'hub.db'}"}
    place = url.get(request.param) or request.getfixturevalue("hub_postgres_url")
    with Hub.from_url(place) as hub:
        hub.schema.upgrade()
        yield hub


def add_jobs(hub: Hub) -> None:
    with hub.unit_of_work() as uow:
        config = {"sync": {"max_concurrency": 4}}
        parents = [
            uow.integrations.add(Integration(name=f"i{n}", type="crm", config=config))
            for n in range(4)
        ]
        at_once = Schedule.once(hub.clock.now())
        for n in range(JOBS):
            parent = parents[n % len(parents)]
            uow.sync_jobs.add(
                SyncJob(
                    integration_id=parent.id, name=f"j{n}", schedule=at_once, max_attempts=1_000
                )
            )
        uow.commit()


class Pages:
    """A handler that stores pages, now and then fails, and stops when it is asked to."""

    def __init__(self) -> None:
        self._chance = random.Random(5)

    def __call__(self, context: SyncContext) -> None:
        for page in range(context.checkpoint or 0, PAGES):
            if context.wait(self._chance.random() * 0.3):
                return
            with context.unit_of_work() as uow:
                name = f"{context.job.name}, page {page}"
                uow.integrations.add(Integration(name=name, type="page"))
                context.progress(records=page + 1, checkpoint=page + 1, uow=uow)
                self._fail_at_times()
                uow.commit()
            self._fail_at_times()

    def _fail_at_times(self) -> None:
        if self._chance.random() < 0.1:
            raise ConnectionError


class Crew:
    """Runners in threads of their own, one of which is stopped from time to time."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._handlers = {"crm": Pages()}
        self._made = 0
        self._at_work = [self._begun() for _ in range(RUNNERS)]

    def _begun(self) -> tuple[SyncRunner, threading.Thread]:
        self._made += 1
        name = f"w{self._made}"
        runner = SyncRunner(
            self._hub, self._handlers, worker=name, lease=LEASE, poll=0.05, grace=0.1
        )
        thread = threading.Thread(target=runner.run_forever)
        thread.start()
        return runner, thread

    def replace_one(self) -> None:
        """The one that has worked the longest gives back what it has, and another begins."""
        runner, thread = self._at_work.pop(0)
        runner.stop()
        self._at_work.append(self._begun())
        thread.join(30)
        assert not thread.is_alive()

    def stop(self) -> None:
        for runner, _ in self._at_work:
            runner.stop()
        for _, thread in self._at_work:
            thread.join(30)


def hurry(hub: Hub) -> None:
    """Let jobs that have failed not wait for their time, unless they have just been claimed."""
    with hub.unit_of_work() as uow:
        waiting = uow.sync_jobs.find(SyncJobFilter(status="pending"))
    for job in waiting:
        # SQLite may have had too many who wanted to write.
        with suppress(StaleVersion, StorageError), hub.unit_of_work() as uow:
            uow.sync_jobs.save(job.run_now(hub.clock.now()))
            uow.commit()


def test_runners_that_fail_and_are_stopped_store_each_page_once(real_hub: Hub) -> None:
    add_jobs(real_hub)
    deadline = time.monotonic() + 120
    crew = Crew(real_hub)
    try:
        while True:
            with real_hub.unit_of_work() as uow:
                if uow.sync_jobs.count(SyncJobFilter(status="completed")) == JOBS:
                    break
            assert time.monotonic() < deadline
            hurry(real_hub)
            crew.replace_one()
    finally:
        crew.stop()
    with real_hub.unit_of_work() as uow:
        jobs = uow.sync_jobs.find()
        pages = sorted(each.name for each in uow.integrations.find(IntegrationFilter(type="page")))
        ends = {run.error_code for job in jobs for run in uow.sync_runs.history(job.id, 1_000)}
    assert {job.checkpoint for job in jobs} == {PAGES}
    assert pages == sorted(f"{job.name}, page {page}" for job in jobs for page in range(PAGES))
    assert {None, "ConnectionError", "released"} <= ends

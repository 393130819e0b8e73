"""The life of sync runs on dicts, SQLite and Postgres side by side: every answer must be the same.

Claims, heartbeats, endings, reaping, pausing, cancelling, removing, new limits and the passing of
time, each in a unit of work of its own; what races do is in `contracts.SyncRunContract`. The number
of a run's place is a store's own choice and is not compared, nor is its id, which the store makes:
runs are told apart by their job and attempt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import URL

from hubs import Act, ask_all, side_by_side
from integration_hub import (
    EVERY_TENANT,
    Hub,
    Integration,
    Schedule,
    SyncJob,
    SyncRun,
    UnitOfWork,
)
from integration_hub.ports.unit_of_work import Tenant
from integration_hub.testing import ManualClock
from strategies import KINDS, MOSTLY_EVERY_TENANT, START

SCHEDULES = [
    Schedule.manual(),
    Schedule.once(START),
    Schedule.every(60),
    Schedule.every(90, start=START),
    Schedule.cron("*/5 * * * *"),
]
FORGOTTEN = {"id", "slot", "job", "integration"}


def told(value: Any) -> Any:
    """An answer without what is a store's own choice."""
    if isinstance(value, SyncRun):
        fields = (each.name for each in dataclasses.fields(value) if each.name not in FORGOTTEN)
        return ("run", *((name, repr(getattr(value, name))) for name in fields))
    if isinstance(value, list):
        return [told(item) for item in value]
    return repr(value)


class Runs(RuleBasedStateMachine):
    """Three hubs with the same jobs; `runs` are those that were ever opened, of each store."""

    hubs: dict[str, Hub]
    clock: ManualClock
    start_over: Callable[[], dict[str, Hub]]

    @initialize(
        most=st.lists(st.integers(1, 3), min_size=1, max_size=3),
        jobs=st.lists(
            st.tuples(
                st.integers(0, 2),
                st.sampled_from(SCHEDULES),
                st.sampled_from(["latest", "all", "skip"]),
                st.integers(1, 3),
                st.sampled_from([-120, -1, 0, 30]),
            ),
            min_size=1,
            max_size=8,
        ),
        atomic=st.booleans(),
    )
    def start(self, most: list[int], jobs: list[Any], atomic: bool) -> None:
        self.hubs = self.start_over()
        self.atomic = atomic
        self.runs: list[dict[str, SyncRun]] = []
        self.jobs: list[SyncJob] = []
        parents = [
            Integration(
                name=f"i{n}",
                tenant="beta" if n == 2 else "acme",
                type="erp" if n == 1 else "crm",
                config={"sync": {"max_concurrency": each}},
            )
            for n, each in enumerate(most)
        ]
        for number, (parent, schedule, catch_up, attempts, seconds) in enumerate(jobs):
            owner = parents[parent % len(parents)]
            job = SyncJob(
                name=f"j{number}",
                tenant=owner.tenant,
                integration_id=owner.id,
                schedule=schedule,
                config={"sync": {"catch_up": catch_up}},
                max_attempts=attempts,
                next_run_at=START + timedelta(seconds=seconds),
            )
            self.jobs.append(job)

        def store(uow: UnitOfWork) -> None:
            for parent in parents:
                uow.integrations.add(parent)
            for job in self.jobs:
                uow.sync_jobs.add(job)

        self.does(lambda store_name: store)

    @rule(seconds=st.sampled_from([1, 30, 60, 61, 300, 7_200]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(
        limit=st.integers(1, 5),
        lease=st.sampled_from([30, 300]),
        types=st.sampled_from([None, None, "crm", ["erp"], ["crm", "erp"]]),
        tenant=MOSTLY_EVERY_TENANT,
    )
    def claim(self, limit: int, lease: int, types: Any, tenant: Tenant) -> None:
        def act(store: str) -> Callable[[UnitOfWork], Any]:
            return lambda uow: uow.sync_jobs.claim("w", limit=limit, lease=lease, types=types)

        claimed = self.does(act, tenant)
        for together in zip(*(claimed[store] for store in self.hubs), strict=True):
            self.runs.append(dict(zip(self.hubs, together, strict=True)))

    @precondition(lambda self: self.runs)
    @rule(
        at=st.integers(0, 99),
        act=st.sampled_from(["heartbeat", "succeed", "succeed", "fail", "release", "get"]),
        records=st.integers(0, 3),
        checkpoint=st.sampled_from([None, 1, {"cursor": "x"}]),
        wait=st.sampled_from([0, 45]),
        tenant=MOSTLY_EVERY_TENANT,
    )
    def go_on(
        self, at: int, act: str, records: int, checkpoint: Any, wait: int, tenant: Tenant
    ) -> None:
        # The newest are mostly running, the others mostly over.
        run = self.runs[-1 - at % min(len(self.runs), 6)]

        def ask(store: str) -> Callable[[UnitOfWork], Any]:
            mine = run[store]
            return {
                "heartbeat": lambda uow: uow.sync_runs.heartbeat(
                    mine, records=records, checkpoint=checkpoint
                ),
                "succeed": lambda uow: uow.sync_runs.succeed(
                    mine, records=records, checkpoint=checkpoint
                ),
                "fail": lambda uow: uow.sync_runs.fail(mine, "bad", retry_in=wait),
                "release": lambda uow: uow.sync_runs.release(mine),
                "get": lambda uow: uow.sync_runs.get(mine.id),
            }[act]

        self.does(ask, tenant)

    @rule(tenant=MOSTLY_EVERY_TENANT)
    def reap(self, tenant: Tenant) -> None:
        # Leases that end at the same moment are reaped in an order of their own in each store.
        self.does(lambda store: lambda uow: len(uow.sync_runs.reap()), tenant)

    @rule(
        at=st.integers(0, 7),
        limit=st.sampled_from([1, 100]),
        status=st.sampled_from([None, "running", ["failed", "lost"]]),
        seconds=st.sampled_from([0, 60, 300]),
        tenant=MOSTLY_EVERY_TENANT,
    )
    def ask(self, at: int, limit: int, status: Any, seconds: int, tenant: Tenant) -> None:
        """What operators ask: what is due, what runs and what has run."""
        job, since = self.jobs[at % len(self.jobs)], self.clock.now() - timedelta(seconds=seconds)

        def running(uow: UnitOfWork) -> Any:  # those that began at one moment, in any order
            found = uow.sync_runs.running(integration_id=job.integration_id)
            return sorted(map(repr, map(told, found)))

        def history(uow: UnitOfWork) -> Any:
            return uow.sync_runs.history(job.id, limit, status=status, since=since)

        self.does(lambda store: lambda uow: uow.sync_jobs.due(limit=limit), tenant)
        self.does(lambda store: lambda uow: uow.sync_jobs.next_due(), tenant)
        self.does(lambda store: running, tenant)
        self.does(lambda store: history, tenant)

    @rule(
        at=st.integers(0, 7),
        act=st.sampled_from(["pause", "resume", "cancel", "run_now", "remove"]),
    )
    def control(self, at: int, act: str) -> None:
        job = self.jobs[at % len(self.jobs)]

        def change(uow: UnitOfWork) -> Any:
            if act == "remove":
                return uow.sync_jobs.remove(job.id)
            found = uow.sync_jobs.get(job.id)
            return uow.sync_jobs.save(getattr(found, act)(self.clock.now()))

        self.does(lambda store: change)

    @rule(
        at=st.integers(0, 7),
        schedule=st.sampled_from(SCHEDULES),
        max_attempts=st.integers(1, 3),
        is_active=st.sampled_from([True, True, False]),
        catch_up=st.sampled_from(["latest", "all", "skip"]),
        how=st.sampled_from(["replaced", "declared", "with_schedule"]),
    )
    def plan(self, at: int, catch_up: str, how: str, **new: Any) -> None:
        """A job is planned anew, whatever its runs are at; or declared, as at a deployment."""
        job = self.jobs[at % len(self.jobs)]
        new["config"] = {"sync": {"catch_up": catch_up}}

        def change(uow: UnitOfWork) -> Any:
            if how == "declared":
                return uow.sync_jobs.upsert(dataclasses.replace(job, **new))
            found = uow.sync_jobs.get(job.id)
            if how == "with_schedule":
                return uow.sync_jobs.save(found.with_schedule(new["schedule"], self.clock.now()))
            return uow.sync_jobs.save(dataclasses.replace(found, **new))

        self.does(lambda store: change)

    @precondition(lambda self: self.runs)
    @rule(
        at=st.integers(0, 99),
        most=st.integers(1, 3),
        act=st.sampled_from(["activate", "activate", "pause"]),
    )
    def govern(self, at: int, most: int, act: str) -> None:
        """How many jobs of an integration may run at once, fewer than just do, say; and whether."""
        run = self.runs[-1 - at % min(len(self.runs), 6)]

        def change(uow: UnitOfWork) -> Any:
            parent = uow.integrations.get(next(iter(run.values())).integration_id)
            governed = getattr(parent, act)(self.clock.now())
            return uow.integrations.save(governed.with_config(sync={"max_concurrency": most}))

        self.does(lambda store: change)

    @rule(seconds=st.sampled_from([0, 300]), tenant=MOSTLY_EVERY_TENANT)
    def prune(self, seconds: int, tenant: Tenant) -> None:
        before = self.clock.now() - timedelta(seconds=seconds)
        self.does(lambda store: lambda uow: uow.sync_runs.prune(before), tenant)

    def teardown(self) -> None:
        if hasattr(self, "jobs"):
            self.same_jobs()

    def does(self, act: Callable[[str], Act], tenant: Tenant = EVERY_TENANT) -> dict[str, Any]:
        """Each store's answer, all of which must be the same."""
        values = ask_all(self.hubs, act, told, tenant=tenant, atomic=self.atomic)
        self.same_jobs()
        return values

    def same_jobs(self) -> None:
        """The jobs, and the history of each, are the same everywhere."""
        content: dict[str, Any] = {}
        for store, hub in self.hubs.items():
            with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
                jobs = sorted(uow.sync_jobs.find(), key=lambda job: job.name)
                histories = [uow.sync_runs.history(job.id) for job in jobs]
                running = sorted(run.id for run in uow.sync_runs.running())
                found = [run.id for each in histories for run in each if run.is_running]
                assert running == sorted(found), store
                content[store] = [
                    (told(job), repr(job.checkpoint), sorted(map(told, history)))
                    for job, history in zip(jobs, histories, strict=True)
                ]
        for store, found in content.items():
            assert found == content["memory"], f"{store} holds what memory does not"


@pytest.fixture(scope="module")
def machine(
    hub_postgres_server: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[type[Runs]]:
    class Machine(Runs):
        pass

    Machine.clock = ManualClock(START)
    folder, tables = tmp_path_factory.mktemp("runs"), ("sync_runs", *reversed(KINDS))
    with side_by_side(hub_postgres_server, folder, tables, Machine.clock) as start_over:
        Machine.start_over = staticmethod(start_over)  # pyright: ignore[reportAttributeAccessIssue]
        yield Machine


def test_the_life_of_runs_is_the_same_in_all_stores(machine: type[Runs]) -> None:
    # A third of the walks: after every step all jobs and their histories are compared.
    fewer = settings(max_examples=settings().max_examples // 3)
    run_state_machine_as_test(machine, settings=fewer)

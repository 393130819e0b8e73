"""What every store must do with runs of sync jobs: claims, leases, endings, history.

May import everything.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from integration_hub.domain.errors import (
    LeaseLost,
    StatusError,
    SyncRunNotFound,
    UnitOfWorkClosed,
    ValidationError,
)
from integration_hub.domain.integration import Integration
from integration_hub.domain.schedule import Schedule, ScheduleKind
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.sync_run import SyncOutcome, SyncRun, SyncRunStatus
from integration_hub.domain.values import new_id
from integration_hub.hub import Hub
from integration_hub.ports.unit_of_work import EVERY_TENANT, UnitOfWork
from integration_hub.testing.clock import ManualClock
from integration_hub.testing.factories import IntegrationFactory, SyncJobFactory

LEASE = timedelta(minutes=5)


class SyncRunContract:
    """Claims, leases, fencing, endings, misfires, control, history and pruning.

    Where `atomic` is False, a worker's calls need not be stored together.
    """

    atomic: ClassVar[bool] = True

    @pytest.fixture
    def parent(self, hub: Hub) -> Integration:
        return self.add_parent(hub, 10)

    def add_parent(
        self, hub: Hub, most: int, tenant: str = "default", **fields: Any
    ) -> Integration:
        with hub.unit_of_work(tenant=tenant) as uow:
            config = {"sync": {"max_concurrency": most}}
            given = {"config": config, **fields}
            parent: Integration = IntegrationFactory(active=True, store=uow, **given)
            uow.commit()
        return parent

    def add_job(self, hub: Hub, parent: Integration, **fields: Any) -> SyncJob:
        with hub.unit_of_work(tenant=parent.tenant) as uow:
            given = {"schedule": Schedule.every(600), "next_run_at": uow_now(uow), **fields}
            job: SyncJob = SyncJobFactory(store=uow, integration_id=parent.id, **given)
            uow.commit()
        return job

    def add_queue(self, hub: Hub, parent: Integration, count: int) -> None:
        """Jobs that have been due for an hour."""
        with hub.unit_of_work(tenant=parent.tenant) as uow:
            given = {"integration_id": parent.id, "schedule": Schedule.every(60)}
            early = uow_now(uow) - timedelta(hours=1)
            uow.sync_jobs.add_many(
                SyncJobFactory.build(next_run_at=early, **given) for _ in range(count)
            )
            uow.commit()

    def claim(self, hub: Hub, limit: int = 10, worker: str = "w1", **options: Any) -> list[SyncRun]:
        with hub.unit_of_work(tenant=EVERY_TENANT, actor="w1", atomic=self.atomic) as uow:
            runs = uow.sync_jobs.claim(worker, limit=limit, **{"lease": LEASE, **options})
            uow.commit()
        return runs

    def does(self, hub: Hub, act: Callable[[UnitOfWork], Any]) -> Any:
        with hub.unit_of_work(tenant=EVERY_TENANT, actor="w1", atomic=self.atomic) as uow:
            found = act(uow)
            uow.commit()
        return found

    def succeed(self, hub: Hub, run: SyncRun) -> SyncRun:
        ended: SyncRun = self.does(hub, lambda uow: uow.sync_runs.succeed(run))
        return ended

    def fail(self, hub: Hub, run: SyncRun, error: object, **options: Any) -> SyncRun:
        ended: SyncRun = self.does(hub, lambda uow: uow.sync_runs.fail(run, error, **options))
        return ended

    def job(self, hub: Hub, job: SyncJob) -> SyncJob:
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            return uow.sync_jobs.get(job.id)

    def run(self, hub: Hub, run: SyncRun) -> SyncRun:
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            return uow.sync_runs.get(run.id)

    # --- claims -------------------------------------------------------------------------------

    def test_a_claim_makes_a_due_job_running_and_opens_a_run(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent, checkpoint={"cursor": 1})
        (run,) = self.claim(hub)
        now = hub_clock.now()
        assert (run.sync_job_id, run.integration_id, run.tenant) == (job.id, parent.id, "default")
        assert (run.status, run.worker, run.attempt) == ("running", "w1", 1)
        assert 1 <= run.slot <= 10
        assert (run.started_at, run.heartbeat_at) == (now, now)
        assert run.lease_expires_at == now + LEASE
        assert run.checkpoint == {"cursor": 1}
        assert run.integration == parent
        stored = self.job(hub, job)
        assert run.job == stored
        assert (stored.status, stored.attempt, stored.version) == ("running", 1, job.version + 1)
        assert (stored.status_changed_at, stored.updated_by) == (now, "w1")
        assert self.run(hub, run) == run
        assert self.claim(hub) == []

    def test_each_run_of_a_claim_has_the_integration_of_its_job(self, hub: Hub) -> None:
        parents = [self.add_parent(hub, most) for most in (3, 2, 1)]
        jobs = [self.add_job(hub, parent) for _ in range(2) for parent in parents]
        runs = self.claim(hub)
        assert {run.sync_job_id for run in runs} == {job.id for job in jobs[:5]}
        by_id = {parent.id: parent for parent in parents}
        for run in runs:
            assert run.job is not None
            assert run.integration == by_id[run.job.integration_id]

    def test_a_claim_that_is_not_committed_leaves_nothing(
        self, hub: Hub, parent: Integration
    ) -> None:
        job = self.add_job(hub, parent)
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            assert len(uow.sync_jobs.claim("w1")) == 1
        assert self.job(hub, job) == job
        with hub.unit_of_work() as uow:
            assert uow.sync_runs.history(job.id) == []
        assert len(self.claim(hub)) == 1

    def test_the_longest_waiting_are_claimed_first_up_to_the_limit(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        now = hub_clock.now()
        waits = [3, 1, 2, 0, -1]
        jobs = {
            wait: self.add_job(hub, parent, next_run_at=now - timedelta(minutes=wait))
            for wait in waits
        }
        first, second = self.claim(hub, 2), self.claim(hub, 9)
        order = [run.sync_job_id for run in (*first, *second)]
        assert order == [jobs[wait].id for wait in (3, 2, 1, 0)]
        assert len(first) == 2

    @pytest.mark.parametrize(
        "change",
        [
            lambda parent, job, now: (parent.pause(now), job),
            lambda parent, job, now: (parent.archive(now), job),
            lambda parent, job, now: (replaced(parent, is_active=False), job),
            lambda parent, job, now: (parent, job.pause(now)),
            lambda parent, job, now: (parent, job.cancel(now)),
            lambda parent, job, now: (parent, replaced(job, is_active=False)),
            lambda parent, job, now: (parent, replaced(job, next_run_at=now + timedelta(1))),
        ],
    )
    def test_what_rests_is_not_claimed(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, change: Any
    ) -> None:
        job = self.add_job(hub, parent)
        with hub.unit_of_work() as uow:
            changed = change(parent, job, hub_clock.now())
            uow.integrations.save(changed[0])
            uow.sync_jobs.save(changed[1])
            uow.commit()
        assert self.claim(hub) == []

    def test_of_an_integration_no_more_run_than_it_allows(self, hub: Hub) -> None:
        parents = [self.add_parent(hub, most) for most in (1, 3)]
        for parent in parents:
            for _ in range(5):
                self.add_job(hub, parent)
        runs = self.claim(hub, 100)
        counted = Counter(run.integration_id for run in runs)
        assert counted == {parents[0].id: 1, parents[1].id: 3}
        assert sorted(run.slot for run in runs) == [1, 1, 2, 3]
        self.succeed(hub, runs[0])
        assert [run.integration_id for run in self.claim(hub)] == [runs[0].integration_id]

    def test_a_lower_limit_holds_once_so_many_have_ended(self, hub: Hub) -> None:
        parent = self.add_parent(hub, 3)
        for _ in range(5):
            self.add_job(hub, parent)
        runs = self.claim(hub)
        assert len(runs) == 3
        lower = parent.with_config(sync={"max_concurrency": 1})
        self.does(hub, lambda uow: uow.integrations.save(lower))
        counted = []
        for run in runs:
            counted.append(len(self.claim(hub)))
            self.succeed(hub, run)
        assert counted == [0, 0, 0]
        assert len(self.claim(hub)) == 1

    def test_without_a_word_one_runs_at_a_time(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            parent = IntegrationFactory(active=True, store=uow)
            uow.commit()
        for _ in range(2):
            self.add_job(hub, parent)
        assert len(self.claim(hub)) == 1

    def test_a_long_queue_of_one_does_not_starve_another(self, hub: Hub) -> None:
        crowd, other = self.add_parent(hub, 2), self.add_parent(hub, 1)
        self.add_queue(hub, crowd, 500)
        job = self.add_job(hub, other)
        runs = self.claim(hub, 3)
        assert [run.integration_id for run in runs] == [crowd.id, crowd.id, other.id]
        assert runs[2].sync_job_id == job.id

    @pytest.mark.parametrize(
        "rests",
        [
            None,  # it works, and has no place left
            lambda parent, now: parent.pause(now),
            lambda parent, now: replaced(parent, is_active=False),
        ],
    )
    def test_a_long_queue_that_waits_in_vain_is_passed_by(
        self, hub: Hub, hub_clock: ManualClock, rests: Any
    ) -> None:
        crowd, other = self.add_parent(hub, 1), self.add_parent(hub, 1)
        self.add_queue(hub, crowd, 300)
        job = self.add_job(hub, other)
        if rests is None:
            assert [run.integration_id for run in self.claim(hub, 1)] == [crowd.id]
        else:
            resting = rests(crowd, hub_clock.now())
            self.does(hub, lambda uow: uow.integrations.save(resting))
        assert [run.sync_job_id for run in self.claim(hub, 1)] == [job.id]
        assert self.claim(hub, 1) == []

    def test_a_worker_claims_the_types_that_it_names(self, hub: Hub) -> None:
        parents = {type: self.add_parent(hub, 5, type=type) for type in ("crm", "erp", "shop")}
        jobs = {type: self.add_job(hub, parent) for type, parent in parents.items()}
        self.add_queue(hub, parents["shop"], 150)  # what is not wanted stands before them
        runs = self.claim(hub, types=["erp", "crm"])
        assert {run.sync_job_id for run in runs} == {jobs["crm"].id, jobs["erp"].id}
        assert self.claim(hub, types=("erp", "unheard-of")) == []
        assert {run.integration_id for run in self.claim(hub, types="shop")} == {parents["shop"].id}

    def test_many_claimers_get_each_job_once(self, hub: Hub) -> None:
        parents = [self.add_parent(hub, most) for most in (1, 2, 30)]
        for parent in parents:
            for _ in range(12):
                self.add_job(hub, parent)
        gate = threading.Barrier(8)

        def work(number: int) -> list[SyncRun]:
            gate.wait(10)
            found = []
            for _ in range(3):
                found += self.claim(hub, 3, f"w{number}")
            return found

        with ThreadPoolExecutor(8) as pool:
            runs = [run for each in pool.map(work, range(8)) for run in each]
        jobs = Counter(run.sync_job_id for run in runs)
        assert set(jobs.values()) == {1}
        counted = Counter(run.integration_id for run in runs)
        assert counted[parents[0].id] <= 1
        assert counted[parents[1].id] <= 2
        assert counted[parents[2].id] == 12

    @pytest.mark.parametrize(
        ("field", "options"),
        [
            ("worker", {"worker": "x" * 256}),
            ("limit", {"limit": 0}),
            ("limit", {"limit": 1_001}),
            ("lease", {"lease": 0.5}),
            ("lease", {"lease": "long"}),
            ("now", {"now": datetime.max.replace(tzinfo=UTC)}),
            ("types", {"types": []}),
            ("types", {"types": ["CRM!"]}),
            ("types", {"types": 3}),
        ],
    )
    def test_a_claim_is_checked(self, hub: Hub, field: str, options: dict[str, Any]) -> None:
        with pytest.raises(ValidationError) as refused:
            self.claim(hub, **options)
        assert refused.value.field == field

    # --- leases -------------------------------------------------------------------------------

    def test_a_heartbeat_renews_the_lease_and_keeps_progress(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent, checkpoint=1)
        (run,) = self.claim(hub)
        later = hub_clock.advance(60)
        heard = self.does(
            hub, lambda uow: uow.sync_runs.heartbeat(run, records=7, checkpoint={"at": 2})
        )
        assert (heard.heartbeat_at, heard.lease_expires_at) == (later, later + LEASE)
        assert (heard.records_processed, heard.checkpoint) == (7, {"at": 2})
        assert self.run(hub, run) == heard
        assert self.job(hub, job).checkpoint == {"at": 2}
        kept = self.does(hub, lambda uow: uow.sync_runs.heartbeat(run))
        assert (kept.records_processed, kept.checkpoint) == (7, {"at": 2})
        hub_clock.advance(LEASE)
        self.does(hub, lambda uow: uow.sync_runs.reap())
        (next_one,) = self.claim(hub)
        assert (next_one.attempt, next_one.checkpoint) == (2, {"at": 2})

    def test_a_run_that_is_not_heard_of_is_lost_and_its_job_is_tried_again(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent)
        (run,) = self.claim(hub)
        hub_clock.advance(LEASE - timedelta(seconds=1))
        assert self.does(hub, lambda uow: uow.sync_runs.reap()) == []
        now = hub_clock.advance(1)
        (lost,) = self.does(hub, lambda uow: uow.sync_runs.reap())
        assert (lost.id, lost.status, lost.finished_at) == (run.id, SyncRunStatus.LOST, now)
        assert self.run(hub, run) == lost
        waiting = self.job(hub, job)
        assert (waiting.status, waiting.attempt, waiting.next_run_at) == ("pending", 1, now)
        (again,) = self.claim(hub, worker="w2")
        assert (again.attempt, again.sync_job_id) == (2, job.id)

    def test_leases_are_given_up_in_the_order_in_which_they_ran_out(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        leases = [90, 30, 60]
        runs = []
        for lease in leases:
            self.add_job(hub, parent)
            runs += self.claim(hub, lease=lease)
        hub_clock.advance(120)
        lost = [self.does(hub, lambda uow: uow.sync_runs.reap(limit=1))[0].id for _ in leases]
        assert lost == [runs[1].id, runs[2].id, runs[0].id]

    @pytest.mark.parametrize(
        "act",
        [
            lambda uow, run: uow.sync_runs.heartbeat(run, checkpoint=1),
            lambda uow, run: uow.sync_runs.succeed(run),
            lambda uow, run: uow.sync_runs.fail(run, "x"),
            lambda uow, run: uow.sync_runs.release(run),
            lambda uow, run: uow.sync_runs.reap(),
        ],
        ids=["heartbeat", "succeed", "fail", "release", "reap"],
    )
    def test_what_a_run_does_to_its_job_says_by_whom_and_when(
        self,
        hub: Hub,
        parent: Integration,
        hub_clock: ManualClock,
        act: Callable[[UnitOfWork, SyncRun], object],
    ) -> None:
        job = self.add_job(hub, parent)
        (run,) = self.claim(hub)
        now = hub_clock.advance(LEASE)
        with hub.unit_of_work(actor="w2", atomic=self.atomic) as uow:
            act(uow, run)
            uow.commit()
        after = self.job(hub, job)
        assert (after.updated_by, after.updated_at) == ("w2", now)

    def test_a_slow_worker_whose_lease_was_given_up_changes_nothing(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent)
        (run,) = self.claim(hub)
        hub_clock.advance(LEASE)
        self.does(hub, lambda uow: uow.sync_runs.reap())
        (other,) = self.claim(hub, worker="w1")  # of the same name, even
        for act in (
            lambda uow: uow.sync_runs.heartbeat(run, checkpoint=9),
            lambda uow: uow.sync_runs.succeed(run, records=9),
            lambda uow: uow.sync_runs.fail(run, "late"),
            lambda uow: uow.sync_runs.release(run),
        ):
            with pytest.raises(LeaseLost) as refused:
                self.does(hub, act)
            assert refused.value.run_id == run.id
        assert self.job(hub, job) == other.job
        assert self.run(hub, other) == other

    def test_a_lost_run_counts_as_an_attempt(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent, max_attempts=2)
        for _ in range(2):
            self.claim(hub)
            hub_clock.advance(LEASE)
            self.does(hub, lambda uow: uow.sync_runs.reap())
        failed = self.job(hub, job)
        assert (failed.status, failed.attempt, failed.next_run_at) == ("failed", 2, None)
        assert failed.error_message is not None
        assert "lease" in failed.error_message
        assert self.claim(hub) == []

    # --- endings ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("schedule", "status", "wait"),
        [
            (lambda now: Schedule.once(now), "completed", None),
            (lambda now: Schedule.every(600), "pending", 600),
            (lambda now: Schedule.every(600, start=now), "pending", 540),
            (lambda now: Schedule.cron("0 13 * * *"), "pending", 3540),
            (lambda now: Schedule.manual(), "pending", None),
        ],
    )
    def test_success_moves_the_schedule_on(
        self,
        hub: Hub,
        parent: Integration,
        hub_clock: ManualClock,
        schedule: Callable[[datetime], Schedule],
        status: str,
        wait: int | None,
    ) -> None:
        start = hub_clock.now()
        job = self.add_job(hub, parent, schedule=schedule(start), records_processed=5)
        (run,) = self.claim(hub)
        now = hub_clock.advance(60)
        ended = self.does(
            hub, lambda uow: uow.sync_runs.succeed(run, records=3, checkpoint={"c": 1})
        )
        assert (ended.status, ended.finished_at, ended.records_processed) == ("succeeded", now, 3)
        assert self.run(hub, run) == ended
        after = self.job(hub, job)
        assert (after.status, after.attempt, after.last_run_at) == (status, 0, start)
        assert (after.records_processed, after.checkpoint) == (8, {"c": 1})
        expected = None if wait is None else now + timedelta(seconds=wait)
        assert after.next_run_at == expected

    def test_a_failure_waits_and_is_tried_again_up_to_the_last_attempt(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent, max_attempts=2, checkpoint=1)
        (run,) = self.claim(hub)
        failed = self.does(
            hub, lambda uow: uow.sync_runs.fail(run, ValueError("bad row"), retry_in=30)
        )
        told = "ValueError: bad row"
        assert (failed.status, failed.error_code, failed.error_message) == (
            *("failed", "ValueError"),
            told,
        )
        waiting = self.job(hub, job)
        assert (waiting.status, waiting.attempt, waiting.error_message) == ("pending", 1, told)
        assert waiting.next_run_at == hub_clock.now() + timedelta(seconds=30)
        assert self.claim(hub) == []
        hub_clock.advance(30)
        (again,) = self.claim(hub)
        assert (again.attempt, again.checkpoint) == (2, 1)
        self.does(hub, lambda uow: uow.sync_runs.fail(again, "still bad"))
        over = self.job(hub, job)
        assert (over.status, over.next_run_at, over.error_message) == ("failed", None, "still bad")

    def test_a_success_after_a_failure_forgets_it(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent)
        (run,) = self.claim(hub)
        self.does(hub, lambda uow: uow.sync_runs.fail(run, "bad", retry_in=0))
        (again,) = self.claim(hub)
        self.succeed(hub, again)
        after = self.job(hub, job)
        assert (after.attempt, after.error_message) == (0, None)

    @pytest.mark.parametrize(("asked", "waits"), [(77, 77), (10**9, 86_400)])
    def test_waits_are_jittered_and_heed_what_was_asked_for(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, asked: int, waits: int
    ) -> None:
        error = StatusError(
            *(503,), method="GET", url="x", is_retryable=True, retry_after=timedelta(seconds=asked)
        )
        job = self.add_job(hub, parent)
        (run,) = self.claim(hub)
        told = self.does(hub, lambda uow: uow.sync_runs.fail(run, error))
        assert told.error_code == "status_error"
        assert self.job(hub, job).next_run_at == hub_clock.now() + timedelta(seconds=waits)
        hub_clock.advance(waits)
        (again,) = self.claim(hub)
        self.does(hub, lambda uow: uow.sync_runs.fail(again, "no word of a wait"))
        planned = self.job(hub, job).next_run_at
        assert planned is not None
        assert timedelta(0) <= planned - hub_clock.now() <= timedelta(seconds=20)

    def test_a_released_job_is_as_it_was(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent)
        (run,) = self.claim(hub)
        hub_clock.advance(60)
        released = self.does(hub, lambda uow: uow.sync_runs.release(run))
        assert (released.status, released.error_message) == ("cancelled", "released")
        after = self.job(hub, job)
        assert (after.status, after.attempt) == ("pending", 0)
        assert (after.next_run_at, after.last_run_at) == (job.next_run_at, None)
        assert len(self.claim(hub)) == 1

    def test_an_ending_that_is_rolled_back_did_not_happen(
        self, hub: Hub, parent: Integration
    ) -> None:
        self.add_job(hub, parent)
        (run,) = self.claim(hub)
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            uow.sync_runs.succeed(run)
            with pytest.raises(LeaseLost):
                uow.sync_runs.succeed(run)
        assert self.run(hub, run) == run
        self.succeed(hub, run)

    def test_many_runs_succeed_at_once_or_none_does(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        jobs = [self.add_job(hub, parent) for _ in range(4)]
        runs = self.claim(hub)
        stolen = runs.pop()
        outcomes = [(run, SyncOutcome(number, {"at": number})) for number, run in enumerate(runs)]
        self.succeed(hub, stolen)
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            with pytest.raises(LeaseLost) as refused:
                uow.sync_runs.succeed_many([*outcomes, (stolen, SyncOutcome())])
            assert refused.value.run_id == stolen.id
            uow.commit()
        assert [self.run(hub, run) for run in runs] == runs
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow, pytest.raises(ValidationError):
            uow.sync_runs.succeed_many([outcomes[0], outcomes[0]])
        ended = self.does(hub, lambda uow: uow.sync_runs.succeed_many(outcomes))
        assert [run.id for run in ended] == [run.id for run in runs]
        assert [self.run(hub, run) for run in ended] == ended
        kept = {job.id: self.job(hub, job) for job in jobs}
        for number, run in enumerate(ended):
            assert run.job == kept[run.sync_job_id]
            assert run.integration == parent
            assert run.job.records_processed == number
            assert run.job.checkpoint == {"at": number}
        assert self.does(hub, lambda uow: uow.sync_runs.succeed_many([])) == []

    def test_many_runs_succeed_though_the_job_of_one_was_changed_meanwhile(
        self, hub: Hub, parent: Integration
    ) -> None:
        jobs = [self.add_job(hub, parent) for _ in range(3)]
        runs = self.claim(hub)
        changed = replaced(self.job(hub, jobs[1]), description="changed meanwhile")
        self.does(hub, lambda uow: uow.sync_jobs.save(changed))
        outcomes = [(run, SyncOutcome(records=2)) for run in runs]
        ended = self.does(hub, lambda uow: uow.sync_runs.succeed_many(outcomes))
        assert {run.status for run in ended} == {"succeeded"}
        after = [self.job(hub, job) for job in jobs]
        assert [job.records_processed for job in after] == [2, 2, 2]
        assert [job.description for job in after] == [None, "changed meanwhile", None]

    def test_a_worker_that_knows_an_old_state_ends_its_run_all_the_same(
        self, hub: Hub, parent: Integration
    ) -> None:
        job = self.add_job(hub, parent)
        (run,) = self.claim(hub)
        assert run.job is not None
        renamed = replaced(run.job, description="changed meanwhile")
        self.does(hub, lambda uow: uow.sync_jobs.save(renamed))
        heard = self.does(hub, lambda uow: uow.sync_runs.heartbeat(run, records=2, checkpoint=5))
        assert (heard.job, heard.integration) == (self.job(hub, job), parent)
        ended = self.succeed(hub, run)  # not `heard`
        assert (ended.checkpoint, ended.job) == (5, self.job(hub, job))
        after = self.job(hub, job)
        assert (after.status, after.description) == ("pending", "changed meanwhile")

    def test_how_a_run_ended_has_a_code(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent, max_attempts=9)
        (run,) = self.claim(hub)
        self.fail(hub, run, "somebody's words", retry_in=0)
        (run,) = self.claim(hub)
        self.does(hub, lambda uow: uow.sync_runs.release(run))
        self.claim(hub)
        hub_clock.advance(LEASE)
        self.does(hub, lambda uow: uow.sync_runs.reap())
        with hub.unit_of_work() as uow:
            codes = [run.error_code for run in uow.sync_runs.history(job.id)]
        assert codes == ["lease_lost", "released", "failed"]

    # --- misfires -----------------------------------------------------------------------------

    def test_a_failed_run_loses_none_of_the_times_that_were_missed(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        start = hub_clock.now()
        schedule = Schedule.every(600, start=start)
        job = self.add_job(hub, parent, schedule=schedule, config={"sync": {"catch_up": "all"}})
        hub_clock.advance(1_850)
        (run,) = self.claim(hub)
        self.fail(hub, run, "not now", retry_in=5)
        assert self.job(hub, job).scheduled_for == start
        hub_clock.advance(5)
        (run,) = self.claim(hub)
        self.fail(hub, run, "nor now", retry_in=5)
        assert self.job(hub, job).scheduled_for == start
        hub_clock.advance(5)
        counted = 0
        while found := self.claim(hub):
            counted += len(found)
            self.succeed(hub, found[0])
        assert counted == 4  # for 0, 600, 1,200 and 1,800 seconds
        after = self.job(hub, job)
        assert (after.next_run_at, after.scheduled_for) == (start + timedelta(seconds=2_400), None)

    @pytest.mark.parametrize(("catch_up", "runs"), [("latest", 1), ("all", 4), ("skip", 0)])
    def test_missed_times_are_made_up_for_as_the_job_has_it(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, catch_up: str, runs: int
    ) -> None:
        start = hub_clock.now()
        schedule = Schedule.every(600, start=start)
        job = self.add_job(hub, parent, schedule=schedule, config={"sync": {"catch_up": catch_up}})
        hub_clock.advance(1_850)  # of 0, 600, 1,200 and 1,800 seconds, none has been run
        counted = 0
        while found := self.claim(hub):
            counted += len(found)
            self.succeed(hub, found[0])
        assert counted == runs
        after = self.job(hub, job)
        assert (after.status, after.attempt) == ("pending", 0)
        assert after.next_run_at == start + timedelta(seconds=2_400)
        hub_clock.advance(600)
        assert len(self.claim(hub)) == 1

    def test_what_was_missed_for_too_long_is_not_made_up_for(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        schedule = Schedule.every(1, start=hub_clock.now())
        job = self.add_job(hub, parent, schedule=schedule, config={"sync": {"catch_up": "all"}})
        now = hub_clock.advance(86_400)
        (run,) = self.claim(hub)
        self.succeed(hub, run)
        assert self.job(hub, job).next_run_at == now + timedelta(seconds=1)

    @pytest.mark.parametrize("catch_up", ["latest", "all", "skip"])
    def test_a_job_whose_next_time_can_t_be_told_has_failed_and_says_why(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, catch_up: str
    ) -> None:
        """As where a worker doesn't know a time zone that the job was given elsewhere."""
        elsewhere = Schedule(kind=ScheduleKind.CRON, expression="0 5 * * *", tz="Mars/Olympus")
        config = {"sync": {"catch_up": catch_up}}
        job = self.add_job(hub, parent, schedule=elsewhere, config=config)
        other = self.add_job(hub, parent)
        hub_clock.advance(120)
        runs = self.claim(hub)
        assert (job.id in {run.sync_job_id for run in runs}) == (catch_up != "skip")
        outcomes = [(run, SyncOutcome(records=3, checkpoint="end")) for run in runs]
        ended = self.does(hub, lambda uow: uow.sync_runs.succeed_many(outcomes))
        assert {run.status for run in ended} == {"succeeded"}
        after = self.job(hub, job)
        assert (after.status, after.next_run_at) == ("failed", None)
        assert after.error_message is not None
        assert "Mars/Olympus" in after.error_message
        assert after.checkpoint == (None if catch_up == "skip" else "end")
        assert self.job(hub, other).status == "pending"

    # --- control ------------------------------------------------------------------------------

    def test_a_cancelled_job_s_run_learns_it_at_its_next_heartbeat(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent)
        (run,) = self.claim(hub)
        assert run.job is not None
        cancelled = run.job.cancel(hub_clock.now())
        self.does(hub, lambda uow: uow.sync_jobs.save(cancelled))
        told = self.does(hub, lambda uow: uow.sync_runs.heartbeat(run, records=4, checkpoint="x"))
        assert (told.status, told.records_processed, told.checkpoint) == ("cancelled", 4, "x")
        with pytest.raises(LeaseLost):
            self.succeed(hub, run)
        after = self.job(hub, job)
        assert (after.status, after.checkpoint) == ("cancelled", "x")

    @pytest.mark.parametrize("end", ["succeed", "fail", "release"])
    def test_a_job_that_was_paused_while_it_ran_stays_so(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, end: str
    ) -> None:
        job = self.add_job(hub, parent)
        (run,) = self.claim(hub)
        assert run.job is not None
        paused = run.job.pause(hub_clock.now())
        self.does(hub, lambda uow: uow.sync_jobs.save(paused))
        words = ("broken",) if end == "fail" else ()
        self.does(hub, lambda uow: getattr(uow.sync_runs, end)(run, *words))
        after = self.job(hub, job)
        assert after.status == "paused"
        assert after.next_run_at is not None
        assert self.claim(hub) == []

    def test_a_job_that_was_paused_and_resumed_waits_for_its_run_to_end(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        self.add_job(hub, parent)
        (run,) = self.claim(hub)
        now = hub_clock.now()
        assert run.job is not None
        resting = run.job.pause(now)
        paused = self.does(hub, lambda uow: uow.sync_jobs.save(resting))
        self.does(hub, lambda uow: uow.sync_jobs.save(paused.resume(now).run_now(now)))
        assert self.claim(hub) == []
        self.succeed(hub, run)
        hub_clock.advance(600)
        assert [each.attempt for each in self.claim(hub)] == [1]

    def test_a_manual_job_runs_when_somebody_sets_its_time(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent, schedule=Schedule.manual(), next_run_at=None)
        assert self.claim(hub) == []
        asked = job.run_now(hub_clock.now())
        self.does(hub, lambda uow: uow.sync_jobs.save(asked))
        (run,) = self.claim(hub)
        self.succeed(hub, run)
        assert self.claim(hub) == []

    @pytest.mark.parametrize("catch_up", ["latest", "all", "skip"])
    @pytest.mark.parametrize("end", ["succeed", "release"])
    def test_a_job_that_gets_another_schedule_during_a_run_goes_by_it_then(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, end: str, catch_up: str
    ) -> None:
        config = {"sync": {"catch_up": catch_up}}
        daily = self.add_job(hub, parent, schedule=Schedule.every(86_400), config=config)
        (run,) = self.claim(hub)
        start = hub_clock.now() + timedelta(hours=1)
        hourly = Schedule.every(3_600, start=start)

        def plan_anew(uow: UnitOfWork) -> SyncJob:
            found = uow.sync_jobs.get(daily.id)
            return uow.sync_jobs.save(found.with_schedule(hourly, hub_clock.now()))

        assert self.does(hub, plan_anew).next_run_at == start
        self.does(hub, lambda uow: getattr(uow.sync_runs, end)(run))
        assert self.job(hub, daily).next_run_at == start
        assert self.claim(hub) == []
        hub_clock.advance(3_600)
        assert [each.attempt for each in self.claim(hub)] == [1]

    @pytest.mark.parametrize(("from_start", "checkpoint"), [(False, {"page": 7}), (True, None)])
    def test_a_job_starts_where_it_stands_or_from_the_start(
        self,
        hub: Hub,
        parent: Integration,
        hub_clock: ManualClock,
        from_start: bool,
        checkpoint: object,
    ) -> None:
        job = self.add_job(hub, parent, schedule=Schedule.manual(), checkpoint={"page": 7})
        asked = job.run_now(hub_clock.now(), from_start=from_start)
        self.does(hub, lambda uow: uow.sync_jobs.save(asked))
        (run,) = self.claim(hub)
        assert run.checkpoint == checkpoint

    # --- history ------------------------------------------------------------------------------

    def test_history_lists_the_runs_of_a_job_the_latest_first(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job, other = (self.add_job(hub, parent, max_attempts=9) for _ in range(2))
        runs = []
        for number in range(4):
            run = next(run for run in self.claim(hub) if run.sync_job_id == job.id)
            runs.append(run.id)
            if number % 2:
                self.fail(hub, run, "x", retry_in=60)
            else:
                self.succeed(hub, run)
            hub_clock.advance(600)
        with hub.unit_of_work() as uow:
            found = uow.sync_runs.history(job.id)
            assert [run.id for run in found] == runs[::-1]
            assert [run.id for run in uow.sync_runs.history(job.id, 2)] == runs[:1:-1]
            failed = uow.sync_runs.history(job.id, status="failed")
            both = uow.sync_runs.history(job.id, status=["failed", "succeeded"])
            assert [run.id for run in failed] == [runs[3], runs[1]]
            assert both == found
            assert uow.sync_runs.history(job.id, status=[]) == []
            third = found[1].started_at
            assert uow.sync_runs.history(job.id, since=third) == found[:2]
            assert uow.sync_runs.history(job.id, since=third, status="failed") == found[:1]
            assert [run.duration for run in found] == [timedelta(0)] * 4
            assert len(uow.sync_runs.history(other.id)) == 1
            with pytest.raises(ValidationError):
                uow.sync_runs.history(job.id, status="asleep")

    def test_what_is_running_is_told_the_oldest_first(
        self, hub: Hub, hub_clock: ManualClock
    ) -> None:
        first, second = (self.add_parent(hub, 9) for _ in range(2))
        jobs = [self.add_job(hub, parent) for parent in (first, second, first)]
        runs = []
        for _ in jobs:
            (run,) = self.claim(hub, limit=1)
            runs.append(run)
            hub_clock.advance(1)
        paused = self.job(hub, jobs[0]).pause(hub_clock.now())
        self.does(hub, lambda uow: uow.sync_jobs.save(paused))  # and its run goes on
        with hub.unit_of_work() as uow:
            assert uow.sync_runs.running() == [replaced(run, job=None) for run in runs]
            assert [run.id for run in uow.sync_runs.running(limit=2)] == [r.id for r in runs[:2]]
            (of_second,) = uow.sync_runs.running(integration_id=second.id)
            assert of_second.sync_job_id == jobs[1].id
            assert uow.sync_runs.running(integration_id=jobs[0].id) == []
            with pytest.raises(ValidationError):
                uow.sync_runs.running(limit=0)
        self.succeed(hub, runs[1])
        self.fail(hub, runs[2], "x")
        with hub.unit_of_work() as uow:
            assert [run.id for run in uow.sync_runs.running()] == [runs[0].id]
            assert uow.sync_runs.running(integration_id=second.id) == []

    def test_old_runs_are_pruned_in_batches_and_running_ones_stay(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        job = self.add_job(hub, parent)
        for _ in range(5):
            (run,) = self.claim(hub)
            self.succeed(hub, run)
            hub_clock.advance(600)
        (running,) = self.claim(hub)
        before = hub_clock.now() - timedelta(seconds=1_200)
        counts = [
            self.does(hub, lambda uow: uow.sync_runs.prune(before, limit=2)) for _ in range(3)
        ]
        assert counts == [2, 1, 0]
        with hub.unit_of_work() as uow:
            left = uow.sync_runs.history(job.id)
        assert [run.status for run in left] == ["running", "succeeded", "succeeded"]
        assert left[0].id == running.id

    def test_runs_go_with_their_job_and_with_its_integration(
        self, hub: Hub, parent: Integration
    ) -> None:
        first, second = (self.add_job(hub, parent) for _ in range(2))
        runs = {run.sync_job_id: run for run in self.claim(hub)}
        self.does(hub, lambda uow: uow.sync_jobs.remove(first.id))
        with pytest.raises(SyncRunNotFound):
            self.run(hub, runs[first.id])
        assert self.run(hub, runs[second.id]).is_running
        self.does(hub, lambda uow: uow.integrations.remove(parent.id))
        with pytest.raises(SyncRunNotFound):
            self.does(hub, lambda uow: uow.sync_runs.heartbeat(runs[second.id]))

    # --- tenants, and what is refused ---------------------------------------------------------

    def test_every_question_keeps_to_its_tenant(self, hub: Hub, hub_clock: ManualClock) -> None:
        theirs = self.add_job(hub, self.add_parent(hub, 1, "beta"))
        with hub.unit_of_work(tenant="acme") as uow:
            assert uow.sync_jobs.claim("w1") == []
        (run,) = self.claim(hub)
        assert run.tenant == "beta"
        hub_clock.advance(LEASE)
        with hub.unit_of_work(tenant="acme") as uow:
            assert uow.sync_runs.reap() == []
            assert uow.sync_runs.history(theirs.id) == []
            assert uow.sync_runs.running() == []
            assert uow.sync_runs.running(integration_id=run.integration_id) == []
            assert uow.sync_runs.prune(hub_clock.now()) == 0
            acts: tuple[Callable[[], object], ...] = (
                lambda: uow.sync_runs.get(run.id),
                lambda: uow.sync_runs.heartbeat(run),
                lambda: uow.sync_runs.succeed(run),
                lambda: uow.sync_runs.succeed_many([(run, SyncOutcome())]),
                lambda: uow.sync_runs.fail(run, "x"),
                lambda: uow.sync_runs.release(run),
            )
            for act in acts:
                with pytest.raises(SyncRunNotFound):
                    act()
        with hub.unit_of_work(tenant="beta") as uow:
            assert uow.sync_runs.succeed(run).status == "succeeded"

    def test_a_run_that_never_was_is_not_found(self, hub: Hub, parent: Integration) -> None:
        self.add_job(hub, parent)
        (run,) = self.claim(hub)
        with hub.unit_of_work() as uow:
            with pytest.raises(SyncRunNotFound):
                uow.sync_runs.get(new_id())
            with pytest.raises(SyncRunNotFound):
                uow.sync_runs.succeed(replaced(run, id=new_id()))
            for wrong in (None, run.id, "run"):
                with pytest.raises(ValidationError):
                    uow.sync_runs.succeed(wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

    def test_what_is_asked_of_runs_is_checked(self, hub: Hub, parent: Integration) -> None:
        self.add_job(hub, parent)
        (run,) = self.claim(hub)
        wrong: Any = 5
        with hub.unit_of_work() as uow:
            acts: tuple[Callable[[], object], ...] = (
                lambda: uow.sync_runs.succeed(run, records=-1),
                lambda: uow.sync_runs.succeed(run, checkpoint=float("nan")),
                lambda: uow.sync_runs.heartbeat(run, records=True),
                lambda: uow.sync_runs.fail(run, "x", retry_in=-1),
                lambda: uow.sync_runs.fail(run, None),
                lambda: uow.sync_runs.succeed_many([(run, wrong)]),
                lambda: uow.sync_runs.succeed(replaced(run, id=wrong)),
                lambda: uow.sync_runs.heartbeat(run, checkpoint=float("nan")),
                lambda: uow.sync_runs.reap(wrong),
                lambda: uow.sync_runs.reap(limit=0),
                lambda: uow.sync_runs.reap(limit=1_001),
                lambda: uow.sync_runs.history(wrong),
                lambda: uow.sync_runs.history(run.sync_job_id, 0),
                lambda: uow.sync_runs.history(run.sync_job_id, since=wrong),
                lambda: uow.sync_runs.running(integration_id=wrong),
                lambda: uow.sync_runs.running(limit=0),
                lambda: uow.sync_runs.prune(wrong),
                lambda: uow.sync_runs.prune(run.started_at, limit=0),
            )
            for act in acts:
                with pytest.raises(ValidationError):
                    act()
            assert uow.sync_runs.get(run.id).is_running

    def test_after_its_end_a_unit_of_work_answers_nothing_about_runs(
        self, hub: Hub, parent: Integration
    ) -> None:
        self.add_job(hub, parent)
        (run,) = self.claim(hub)
        with hub.unit_of_work() as uow:
            uow.commit()
        for act in (
            lambda: uow.sync_jobs.claim("w1"),
            lambda: uow.sync_runs.get(run.id),
            lambda: uow.sync_runs.heartbeat(run),
            lambda: uow.sync_runs.succeed(run),
            lambda: uow.sync_runs.succeed_many([(run, SyncOutcome())]),
            lambda: uow.sync_runs.reap(),
            lambda: uow.sync_runs.history(run.sync_job_id),
            lambda: uow.sync_runs.running(),
            lambda: uow.sync_runs.prune(run.started_at),
        ):
            with pytest.raises(UnitOfWorkClosed):
                act()


def replaced(item: Any, **changes: Any) -> Any:
    return dataclasses.replace(item, **changes)


def uow_now(uow: Any) -> datetime:
    """What time it is for the store."""
    now: datetime = uow.clock.now()
    return now

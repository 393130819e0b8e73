"""The runner, on dicts, SQLite and Postgres, with real threads."""

from __future__ import annotations

import dataclasses
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import URL, create_engine, text

from integration_hub import (
    Hub,
    HubSettings,
    Integration,
    LeaseLost,
    QueryTimeout,
    Schedule,
    StoreClosed,
    SyncJob,
    SyncJobNotFound,
    SyncRun,
    ValidationError,
)
from integration_hub.sync import SyncContext, SyncOutcome, SyncRunner
from integration_hub.sync.runner import _Heart
from integration_hub.testing import (
    IntegrationFactory,
    ManualClock,
    ScriptedTransport,
    SyncJobFactory,
    WebhookFactory,
)


def add_jobs(hub: Hub, count: int = 1, **fields: Any) -> tuple[Integration, list[SyncJob]]:
    with hub.unit_of_work() as uow:
        config = {"sync": {"max_concurrency": 10}, "http": {"base_url": "https://crm.test"}}
        parent: Integration = IntegrationFactory(type="crm", active=True, config=config, store=uow)
        given = {"schedule": Schedule.once(ManualClock().now()), **fields}
        jobs: list[Any] = [
            SyncJobFactory(store=uow, integration_id=parent.id, **given) for _ in range(count)
        ]
        uow.commit()
    return parent, jobs


def job_of(hub: Hub, job: SyncJob) -> SyncJob:
    with hub.unit_of_work() as uow:
        return uow.sync_jobs.get(job.id)


def history(hub: Hub, job: SyncJob) -> list[SyncRun]:
    with hub.unit_of_work() as uow:
        return uow.sync_runs.history(job.id)


def until_heard(context: SyncContext, *, since: float) -> None:
    """Wait for a heartbeat after the one of that moment."""
    while context.heard_at == since:
        assert not context.wait(0.02)


def in_background(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_handler_works_and_its_outcome_is_kept(each_hub: Hub) -> None:
    _, (job,) = add_jobs(each_hub, checkpoint={"page": 1})
    seen: list[Any] = []

    def pull(context: SyncContext) -> SyncOutcome:
        seen.append((context.checkpoint, context.job.id, context.integration.type))
        context.progress(records=5, checkpoint={"page": 2})
        seen.append(context.checkpoint)
        return SyncOutcome(records=7, checkpoint={"page": 3})

    runner = SyncRunner(each_hub, {"crm": pull}, worker="w1")
    assert runner.run_once() == 1
    assert runner.run_once() == 0
    assert seen == [({"page": 1}, job.id, "crm"), {"page": 2}]
    after = job_of(each_hub, job)
    assert (after.status, after.checkpoint, after.records_processed) == (
        "completed",
        {"page": 3},
        7,
    )
    (run,) = history(each_hub, job)
    assert (run.status, run.worker) == ("succeeded", "w1")


class Warnings(logging.Handler):
    """The warnings of runners, as they come."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.told.put(record.getMessage())


@pytest.fixture
def warnings() -> Iterator[queue.SimpleQueue[str]]:
    handler = Warnings()
    log = logging.getLogger("integration_hub.sync")
    log.addHandler(handler)
    yield handler.told
    log.removeHandler(handler)


def test_a_handler_that_goes_on_after_its_time_limit_is_told_of_once(
    each_hub: Hub, warnings: queue.SimpleQueue[str]
) -> None:
    """At the second heartbeat, since it may just be ending. It keeps its job: nobody can end it."""
    _, (job,) = add_jobs(each_hub, name="pull", config={"sync": {"timeout": 1e-6}})
    told: list[list[str]] = []

    def pull(context: SyncContext) -> SyncOutcome:
        for _ in range(3):
            assert runner._beat_all()
            told.append([] if warnings.empty() else [warnings.get()])
        return SyncOutcome(records=1)

    runner = SyncRunner(each_hub, {"crm": pull}, lease=3_600)
    runner.run_once()
    (run,) = history(each_hub, job)
    words = f"sync run {run.id} of 'pull' goes on, though its time limit is over"
    assert told == [[], [words], []]
    assert run.status == "succeeded"


def test_a_handler_that_goes_on_though_its_worker_ends_is_told_of(
    hub: Hub, warnings: queue.SimpleQueue[str]
) -> None:
    _, (job,) = add_jobs(hub, name="pull")
    began = threading.Event()

    def pull(context: SyncContext) -> SyncOutcome:
        began.set()
        assert "goes on, though the worker ends" in warnings.get(timeout=30)
        return SyncOutcome(records=1)

    runner = SyncRunner(hub, {"crm": pull}, lease=1, grace=0)
    working = in_background(runner.run_forever)
    assert began.wait(30)
    runner.stop()
    working.join(30)
    assert job_of(hub, job).records_processed == 1


def test_a_handler_that_raises_is_tried_again_and_then_given_up(
    each_hub: Hub, hub_clock: ManualClock
) -> None:
    _, (job,) = add_jobs(each_hub, max_attempts=2)

    def pull(context: SyncContext) -> None:
        raise ValueError(f"attempt {context.run.attempt}")

    runner = SyncRunner(each_hub, {"crm": pull})
    assert runner.run_once() == 1
    hub_clock.advance(3_600)
    assert runner.run_once() == 1
    after = job_of(each_hub, job)
    assert (after.status, after.error_message) == ("failed", "ValueError: attempt 2")
    assert [run.error_code for run in history(each_hub, job)] == ["ValueError"] * 2


def test_a_type_without_a_handler_is_told_with_those_that_have_one(each_hub: Hub) -> None:
    _, (job,) = add_jobs(each_hub)
    SyncRunner(each_hub, {"erp": lambda context: None}).run_once()
    message = job_of(each_hub, job).error_message
    assert message is not None
    assert "'crm'" in message
    assert "erp" in message


def test_a_type_without_a_handler_is_left_to_others_where_that_is_wanted(each_hub: Hub) -> None:
    _, (job,) = add_jobs(each_hub)
    assert SyncRunner(each_hub, {"erp": lambda context: None}, leave_others=True).run_once() == 0
    assert job_of(each_hub, job).status == "pending"
    assert SyncRunner(each_hub, {"crm": lambda context: None}, leave_others=True).run_once() == 1
    assert job_of(each_hub, job).status == "completed"
    with pytest.raises(ValidationError) as refused:
        SyncRunner(each_hub, {}, leave_others=True)
    assert refused.value.field == "handlers"


def test_a_handler_that_gives_something_else_has_failed(each_hub: Hub) -> None:
    _, (job,) = add_jobs(each_hub, max_attempts=1)
    handler: Any = lambda context: {"records": 3}  # noqa: E731
    SyncRunner(each_hub, {"crm": handler}).run_once()
    (run,) = history(each_hub, job)
    assert run.status == "failed"
    assert run.error_message is not None
    assert "outcome must be a SyncOutcome or None" in run.error_message


@pytest.mark.parametrize("fault", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_handler_that_wants_to_end_the_process_has_failed(
    each_hub: Hub, fault: BaseException
) -> None:
    _, (job,) = add_jobs(each_hub, max_attempts=1)

    def pull(context: SyncContext) -> None:
        raise fault

    assert SyncRunner(each_hub, {"crm": pull}).run_once() == 1
    assert job_of(each_hub, job).status == "failed"
    assert [run.error_code for run in history(each_hub, job)] == [type(fault).__name__]


def test_a_run_that_is_lost_does_not_cost_those_that_end_at_the_same_time(
    each_hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    _, (removed, *others) = add_jobs(each_hub, 4)
    at_once = threading.Barrier(4)

    def pull(context: SyncContext) -> None:
        if context.job.id == removed.id:
            with each_hub.unit_of_work() as uow:
                uow.sync_jobs.remove(removed.id)
                uow.commit()
        at_once.wait(10)

    assert SyncRunner(each_hub, {"crm": pull}, concurrency=4).run_once() == 4
    assert [job_of(each_hub, job).status for job in others] == ["completed"] * 3
    with pytest.raises(SyncJobNotFound):
        job_of(each_hub, removed)
    (told,) = [each.getMessage() for each in caplog.records]
    assert told.startswith("no sync run with id")


def test_an_ending_that_can_never_be_stored_does_not_cost_the_others(
    hub_postgres: Hub, hub_postgres_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease will run out."""
    _, jobs = add_jobs(hub_postgres, 3)
    at_once = threading.Barrier(3)

    def pull(context: SyncContext) -> SyncOutcome:
        at_once.wait(10)
        return SyncOutcome(records=7 if context.job.id == jobs[0].id else 1)

    engine = create_engine(hub_postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as owner:
        owner.execute(
            text("ALTER TABLE sync_runs ADD CONSTRAINT own CHECK (records_processed < 7)")
        )
        try:
            assert SyncRunner(hub_postgres, {"crm": pull}).run_once() == 3
        finally:
            owner.execute(text("ALTER TABLE sync_runs DROP CONSTRAINT own"))
    engine.dispose()
    states = [job_of(hub_postgres, job).status for job in jobs]
    assert states == ["running", "completed", "completed"]
    (told,) = [each.getMessage() for each in caplog.records]
    assert told.endswith("the database refused (CheckViolation of own)")


def test_an_ending_that_the_database_does_not_take_is_told_before_the_next_claim(
    hub_postgres: Hub, hub_postgres_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    _, (job,) = add_jobs(hub_postgres)
    engine = create_engine(hub_postgres_url)
    settings = HubSettings.model_construct(lock_timeout=0.2)
    with Hub.from_url(hub_postgres_url, settings=settings) as hub, engine.connect() as other:

        def pull(context: SyncContext) -> SyncOutcome:
            other.execute(text("LOCK TABLE sync_runs IN EXCLUSIVE MODE"))
            return SyncOutcome(records=3)

        runner = SyncRunner(hub, {"crm": pull}, grace=0.3)
        with pytest.raises(QueryTimeout):
            runner.run_once()
        assert "an outcome can't be stored yet" in caplog.text
        assert job_of(hub_postgres, job).status == "running"
        other.rollback()
        assert runner.run_once() == 0
    engine.dispose()
    assert (job_of(hub_postgres, job).status, job_of(hub_postgres, job).records_processed) == (
        "completed",
        3,
    )


def test_a_handler_s_fault_is_logged_with_its_place(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    add_jobs(hub, name="contacts")

    def pull(context: SyncContext) -> None:
        raise KeyError("s3cr3t")

    SyncRunner(hub, {"crm": pull}).run_once()
    (told,) = [each.getMessage() for each in caplog.records]
    assert "of 'contacts' failed, attempt 1 of 3: KeyError" in told
    assert f'File "{__file__}"' in told
    assert "in pull" in told
    assert "s3cr3t" not in told.replace('raise KeyError("s3cr3t")', "")  # but for the code


@pytest.mark.parametrize("way", ["run_once", "run_forever"])
def test_a_runner_that_ends_waits_for_a_database_that_is_away(
    hub_postgres: Hub, hub_postgres_url: URL, way: str
) -> None:
    _, (job,) = add_jobs(hub_postgres)
    with returning(hub_postgres_url) as (goes, comes_back):

        def pull(context: SyncContext) -> SyncOutcome:
            goes()
            if way == "run_forever":
                runner.stop()
            comes_back()
            return SyncOutcome(records=3)

        runner = SyncRunner(hub_postgres, {"crm": pull})
        getattr(runner, way)()
    assert job_of(hub_postgres, job).records_processed == 3


def test_what_is_not_stored_within_the_grace_time_is_told(
    hub_postgres: Hub, hub_postgres_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    _, (job,) = add_jobs(hub_postgres)
    with ExitStack() as stack:

        def pull(context: SyncContext) -> None:
            stack.enter_context(away(hub_postgres_url))
            runner.stop()

        runner = SyncRunner(hub_postgres, {"crm": pull}, grace=0.3)
        runner.run_forever()
    assert "the last outcomes are not stored" in caplog.text
    assert job_of(hub_postgres, job).status == "running"  # until its lease runs out


def test_what_is_due_is_run_and_comes_to_an_end_however_often_jobs_are_to_run(
    each_hub: Hub, hub_clock: ManualClock
) -> None:
    now = hub_clock.now()
    schedule = Schedule.every(10)
    _, jobs = add_jobs(each_hub, 3, schedule=schedule, next_run_at=now)
    _, (again,) = add_jobs(each_hub, schedule=Schedule.once(now), next_run_at=now)

    def pull(context: SyncContext) -> None:
        hub_clock.advance(11)  # so that the first is due again before the last has run
        if context.job.id == again.id and context.job.attempt == 1:
            raise ConnectionError

    runner = SyncRunner(each_hub, {"crm": pull}, concurrency=1)
    assert runner.run_due() == 5
    assert {run.status for job in jobs for run in history(each_hub, job)} == {"succeeded"}
    assert runner.run_due() > 0


def test_missed_times_that_are_wanted_are_run_in_one_go(
    each_hub: Hub, hub_clock: ManualClock
) -> None:
    now = hub_clock.now()
    config = {"sync": {"catch_up": "all"}}
    schedule = Schedule.every(60, start=now)
    _, (job,) = add_jobs(each_hub, schedule=schedule, next_run_at=now, config=config)
    hub_clock.advance(150)
    assert SyncRunner(each_hub, {"crm": lambda context: None}).run_due() == 3
    assert job_of(each_hub, job).next_run_at == now + timedelta(seconds=180)


def test_handlers_run_at_once_up_to_the_concurrency(each_hub: Hub) -> None:
    add_jobs(each_hub, 6)
    together = threading.Barrier(3, timeout=10)

    def pull(context: SyncContext) -> None:
        together.wait()

    runner = SyncRunner(each_hub, {"crm": pull}, concurrency=3)
    assert [runner.run_once() for _ in range(3)] == [3, 3, 0]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_more_is_claimed_than_there_are_threads_for(each_hub: Hub, concurrency: int) -> None:
    add_jobs(each_hub, 8)
    seen: list[int] = []
    done = threading.Semaphore(0)

    def pull(context: SyncContext) -> None:
        seen.append(len(runner._contexts()))
        done.release()

    runner = SyncRunner(each_hub, {"crm": pull}, concurrency=concurrency, poll=0.05)
    working = in_background(runner.run_forever)
    for _ in range(8):
        assert done.acquire(timeout=10)
    runner.stop()
    working.join(20)
    assert max(seen) <= concurrency


def test_a_handler_has_the_grace_time_to_finish_before_it_is_told_to_stop(each_hub: Hub) -> None:
    _, (job,) = add_jobs(each_hub)
    begun, stopped = threading.Event(), threading.Event()
    told: list[bool] = []

    def pull(context: SyncContext) -> None:
        begun.set()
        assert stopped.wait(10)
        told.append(context.wait(0.3))

    runner = SyncRunner(each_hub, {"crm": pull}, grace=60)
    working = in_background(runner.run_forever)
    assert begun.wait(10)
    runner.stop()
    stopped.set()
    working.join(20)
    assert told == [False]
    assert job_of(each_hub, job).status == "completed"


def test_a_runner_whose_hub_is_closed_ends_and_says_so(each_hub: Hub) -> None:
    add_jobs(each_hub)
    ran = threading.Event()
    runner = SyncRunner(each_hub, {"crm": lambda context: ran.set()}, poll=0.05)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runner.run_forever)
        assert ran.wait(10)
        each_hub.close()
        with pytest.raises(StoreClosed):
            running.result(20)


def test_a_runner_that_waits_for_work_stops_at_once(each_hub: Hub) -> None:
    add_jobs(each_hub)
    ended = threading.Event()
    runner = SyncRunner(each_hub, {"crm": lambda context: ended.set()}, poll=3_600)
    working = in_background(runner.run_forever)
    assert ended.wait(10)
    runner.stop()
    working.join(20)
    assert not working.is_alive()


def test_a_job_is_looked_for_when_it_comes_to_be_due(each_hub: Hub, hub_clock: ManualClock) -> None:
    add_jobs(each_hub, schedule=Schedule.every(1), next_run_at=hub_clock.now())
    ran = threading.Semaphore(0)
    runner = SyncRunner(each_hub, {"crm": lambda context: ran.release()}, poll=3_600)
    working = in_background(runner.run_forever)
    began = time.monotonic()
    for _ in range(3):
        while not ran.acquire(timeout=0.1):
            assert time.monotonic() < began + 60
            hub_clock.advance(0.1)
    runner.stop()
    working.join(20)


def test_a_job_that_comes_to_be_due_while_a_claim_finds_nothing_is_not_missed(
    each_hub: Hub, hub_clock: ManualClock
) -> None:
    add_jobs(each_hub, schedule=Schedule.every(60), next_run_at=hub_clock.now() + timedelta(0, 9))
    runner = SyncRunner(each_hub, {"crm": lambda context: None})
    assert runner._claimed(1) == []
    assert runner._due_in() == 9
    hub_clock.advance(9)
    assert runner._due_in() == 0
    assert len(runner._claimed(1)) == 1
    assert runner._due_in() == math.inf


def test_no_unit_of_work_is_open_while_a_handler_runs(hub_postgres: Hub) -> None:
    add_jobs(hub_postgres)
    seen: list[int] = []
    SyncRunner(
        hub_postgres, {"crm": lambda context: seen.append(hub_postgres.health().pool.in_use)}
    ).run_once()
    assert seen == [0]


def test_a_cancelled_job_stops_its_handler(each_hub: Hub, hub_clock: ManualClock) -> None:
    _, (job,) = add_jobs(each_hub)
    begun = threading.Event()
    why: list[str | None] = []

    def pull(context: SyncContext) -> None:
        begun.set()
        assert context.wait(30)
        why.append(context.why)

    runner = SyncRunner(each_hub, {"crm": pull}, lease=1)
    working = in_background(runner.run_once)
    assert begun.wait(10)
    with each_hub.unit_of_work() as uow:
        uow.sync_jobs.save(uow.sync_jobs.get(job.id).cancel(hub_clock.now()))
        uow.commit()
    working.join(20)
    assert not working.is_alive()
    assert why == ["cancelled"]  # by the first heartbeat that heard of it
    assert job_of(each_hub, job).status == "cancelled"
    assert [run.status for run in history(each_hub, job)] == ["cancelled"]


def test_a_handler_that_fails_while_its_worker_ends_counts_no_attempt(each_hub: Hub) -> None:
    """Perhaps by what else comes to its end, and it has not looked."""
    _, (job,) = add_jobs(each_hub)

    def pull(context: SyncContext) -> None:
        runner.stop()
        assert context._stop.wait(30)
        raise ConnectionError("the pool is closed")

    runner = SyncRunner(each_hub, {"crm": pull}, grace=0)
    runner.run_once()
    after = job_of(each_hub, job)
    assert (after.status, after.attempt) == ("pending", 0)
    assert [run.error_code for run in history(each_hub, job)] == ["released"]


def test_a_job_that_is_cancelled_while_its_worker_ends_is_not_given_back(
    each_hub: Hub, hub_clock: ManualClock
) -> None:
    _, (job,) = add_jobs(each_hub)

    def pull(context: SyncContext) -> SyncOutcome:
        runner.stop()
        assert context.wait(30)
        assert context.why == "stopped"
        with each_hub.unit_of_work() as uow:
            uow.sync_jobs.save(uow.sync_jobs.get(job.id).cancel(hub_clock.now()))
            uow.commit()
        return SyncOutcome(records=5, checkpoint="half")

    runner = SyncRunner(each_hub, {"crm": pull}, grace=0)
    runner.run_once()
    after = job_of(each_hub, job)
    assert (after.status, after.checkpoint) == ("cancelled", "half")
    (run,) = history(each_hub, job)
    assert (run.status, run.records_processed, run.error_code) == ("cancelled", 5, None)


def test_a_job_that_is_removed_stops_its_handler(
    each_hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    parent, (job,) = add_jobs(each_hub)
    begun = threading.Event()

    def pull(context: SyncContext) -> None:
        begun.set()
        assert context.wait(30)

    working = in_background(SyncRunner(each_hub, {"crm": pull}, lease=1).run_once)
    assert begun.wait(10)
    with each_hub.unit_of_work() as uow:
        uow.integrations.remove(parent.id)
        uow.commit()
    working.join(20)
    assert not working.is_alive()
    with pytest.raises(SyncJobNotFound):
        job_of(each_hub, job)
    assert {each.levelname for each in caplog.records} == {"WARNING"}


def test_a_handler_stops_when_its_lease_runs_out_unheard(
    hub_postgres: Hub, hub_postgres_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    """The database can't be reached; somebody else may take the job for lost by now."""
    _, (job,) = add_jobs(hub_postgres)
    stopped: list[str | None] = []

    def pull(context: SyncContext) -> None:
        with away(hub_postgres_url):
            assert context.wait(30)
        stopped.append(context.why)

    SyncRunner(hub_postgres, {"crm": pull}, lease=1).run_once()
    assert stopped == ["lost"]
    after = job_of(hub_postgres, job)
    assert (after.status, after.attempt) == ("pending", 0)  # nobody else has it, so it goes back
    assert "no heartbeats, and 1 handlers to stop" in caplog.text


def test_a_handler_that_did_not_look_has_finished_though_it_was_to_stop(
    hub_postgres: Hub, hub_postgres_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    _, (job,) = add_jobs(hub_postgres)

    def pull(context: SyncContext) -> SyncOutcome:
        with away(hub_postgres_url):
            assert context._stop.wait(30)  # without being told
        return SyncOutcome(records=3)

    SyncRunner(hub_postgres, {"crm": pull}, lease=1).run_once()
    assert "and 1 handlers to stop" in caplog.text
    after = job_of(hub_postgres, job)
    assert (after.status, after.records_processed) == ("completed", 3)


def test_a_lease_that_was_not_heard_of_for_a_while_is_kept(
    hub_postgres: Hub, hub_postgres_url: URL
) -> None:
    _, (job,) = add_jobs(hub_postgres)

    def pull(context: SyncContext) -> None:
        first = context.heard_at
        with away(hub_postgres_url):
            assert not context.wait(1.5)  # more than a third of the lease
        until_heard(context, since=first)

    SyncRunner(hub_postgres, {"crm": pull}, lease=4).run_once()
    assert job_of(hub_postgres, job).status == "completed"


def test_a_handler_that_waits_to_speak_up_keeps_no_other_s_heartbeats(
    hub_postgres: Hub, hub_postgres_url: URL
) -> None:
    _, (first, second) = add_jobs(hub_postgres, 2)
    engine = create_engine(hub_postgres_url)
    waits = threading.Event()

    def pull(context: SyncContext) -> None:
        if context.job.id == first.id:
            with context.lock:
                other.execute(
                    text("SELECT 1 FROM sync_jobs WHERE name = :name FOR UPDATE"),
                    {"name": first.name},
                )
                waits.set()
                context.progress(records=1)  # waits for the row
        else:
            assert waits.wait(20)
            until_heard(context, since=context.heard_at)
            other.rollback()

    with engine.connect() as other:
        SyncRunner(hub_postgres, {"crm": pull}, lease=3).run_once()
    engine.dispose()
    assert {job_of(hub_postgres, job).status for job in (first, second)} == {"completed"}


@contextmanager
def away(url: URL) -> Iterator[None]:
    """A database that is away: who is in is cut off, and nobody gets in."""
    engine = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    allowing = f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS'
    cutting_off = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
    with engine.connect() as admin:
        admin.execute(text(f"{allowing} false"))
        admin.execute(text(cutting_off), {"name": url.database})
        try:
            yield
        finally:
            admin.execute(text(f"{allowing} true"))
    engine.dispose()


@contextmanager
def returning(url: URL) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """What makes a database go away, and what makes it come back in a while."""
    stack = ExitStack()
    timer = threading.Timer(0.5, stack.close)
    with stack:
        yield lambda: stack.enter_context(away(url)), timer.start
        timer.join()


def test_heartbeats_go_on_after_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    beats = threading.Semaphore(0)
    faults = [RuntimeError("what nobody thought of")]

    def beat() -> bool:
        if faults:
            raise faults.pop()
        beats.release()
        return True

    with _Heart(beat, 0.01):
        assert beats.acquire(timeout=10)
        assert beats.acquire(timeout=10)
    assert "met a fault, and go on" in caplog.text


def test_a_heartbeat_that_did_not_arrive_is_sent_again_soon() -> None:
    arrived = iter([False, True, True])
    heart = _Heart(lambda: next(arrived), 60.0)
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 4

    heart._over = Mock(wait=wait)
    heart._go()
    assert waits == [60.0, 1.0, 60.0, 60.0]


def test_a_time_limit_stops_a_handler_and_counts_as_a_failure(each_hub: Hub) -> None:
    _, (job,) = add_jobs(each_hub, max_attempts=1, config={"sync": {"timeout": 0.05}})

    def pull(context: SyncContext) -> None:
        while not context.wait(0.01):
            continue

    SyncRunner(each_hub, {"crm": pull}).run_once()
    after = job_of(each_hub, job)
    assert after.status == "failed"
    assert after.error_message is not None
    assert "time limit" in after.error_message


@pytest.mark.parametrize(("records", "checkpoint"), [(5, "half"), (5, None), (0, "half")])
def test_what_a_handler_has_reached_when_its_time_is_over_is_kept(
    each_hub: Hub, records: int, checkpoint: str | None
) -> None:
    _, (job,) = add_jobs(each_hub, config={"sync": {"timeout": 0.05}})

    def pull(context: SyncContext) -> SyncOutcome:
        assert context.wait(30)
        return SyncOutcome(records=records, checkpoint=checkpoint)

    SyncRunner(each_hub, {"crm": pull}).run_once()
    after = job_of(each_hub, job)
    assert (after.status, after.attempt, after.checkpoint) == ("pending", 1, checkpoint)
    (run,) = history(each_hub, job)
    assert (run.status, run.records_processed) == ("failed", records)


def test_a_handler_that_fails_when_its_time_is_over_has_failed_by_its_own_fault(
    each_hub: Hub,
) -> None:
    _, (job,) = add_jobs(each_hub, config={"sync": {"timeout": 0.05}})

    def pull(context: SyncContext) -> None:
        assert context.wait(30)
        raise ConnectionError("the other side hung up")

    SyncRunner(each_hub, {"crm": pull}).run_once()
    assert job_of(each_hub, job).error_message == "ConnectionError: the other side hung up"


@pytest.mark.parametrize(("level", "lines"), [(logging.WARNING, 0), (logging.INFO, 1)])
def test_what_succeeds_is_logged_for_who_wants_to_know(
    hub: Hub, caplog: pytest.LogCaptureFixture, level: int, lines: int
) -> None:
    caplog.set_level(level)
    add_jobs(hub, name="contacts")
    SyncRunner(hub, {"crm": lambda context: SyncOutcome(records=7)}).run_once()
    told = [each.getMessage() for each in caplog.records if each.name == "integration_hub.sync"]
    assert [each.endswith("of 'contacts' succeeded: 7 records") for each in told] == [True] * lines


def test_who_listens_is_told_of_each_run_that_has_ended(
    each_hub: Hub, hub_clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    _, jobs = add_jobs(each_hub, 3, max_attempts=1)
    succeeds, fails, cancelled = (job.id for job in jobs)
    with each_hub.unit_of_work() as uow:
        (lost,) = uow.sync_jobs.claim("dead", limit=1, lease=60)
        uow.commit()
    hub_clock.advance(61)
    heard: list[SyncRun] = []
    secret = "s3cr3t"

    def pull(context: SyncContext) -> SyncOutcome:
        if context.job.id == fails:
            raise ConnectionError
        if context.job.id == cancelled:
            with context.unit_of_work() as uow:
                uow.sync_jobs.save(uow.sync_jobs.get(cancelled).cancel(hub_clock.now()))
                uow.commit()
            assert context.wait(30)
        return SyncOutcome(records=7)

    def listen(run: SyncRun) -> None:
        heard.append(run)
        raise RuntimeError(secret)

    runner = SyncRunner(each_hub, {"crm": pull}, lease=1, on_end=listen)
    assert runner.run_due() == 2
    assert (heard[0].id, heard[0].status) == (lost.id, "lost")
    with each_hub.unit_of_work() as uow:
        again = uow.sync_jobs.get(succeeds)
        uow.sync_jobs.save(again.resume(hub_clock.now()))
        uow.commit()
    assert runner.run_due() == 1
    told = {run.sync_job_id: (run.status, run.records_processed) for run in heard[1:]}
    assert told == {succeeds: ("succeeded", 7), fails: ("failed", 0), cancelled: ("cancelled", 0)}
    assert all(run.integration is not None and run.job is not None for run in heard[1:])
    stored = {run.id: run for job in jobs for run in history(each_hub, job)}
    assert {run.id: run for run in heard} == stored
    faults = [line for line in caplog.messages if "a listener met a fault: RuntimeError" in line]
    assert len(faults) == 4
    assert secret not in caplog.text


@pytest.mark.parametrize("reached", [None, SyncOutcome(records=5, checkpoint="half")])
def test_a_run_has_ended_whose_handler_learned_of_it_where_nothing_was_stored(
    each_hub: Hub, hub_clock: ManualClock, reached: SyncOutcome | None
) -> None:
    """In a unit of work that it left without a commit; else it would end with its lease."""
    _, (job,) = add_jobs(each_hub)
    heard: list[SyncRun] = []

    def pull(context: SyncContext) -> SyncOutcome | None:
        with context.unit_of_work() as uow:
            uow.sync_jobs.save(uow.sync_jobs.get(job.id).cancel(hub_clock.now()))
            uow.commit()
        with context.unit_of_work() as uow:
            context.progress(records=7, uow=uow)
            assert context.cancelled
        return reached

    SyncRunner(each_hub, {"crm": pull}, on_end=heard.append).run_once()
    (run,) = history(each_hub, job)
    assert (run.status, run.records_processed) == ("cancelled", 5 if reached else 0)
    assert heard == [run]
    assert job_of(each_hub, job).checkpoint == ("half" if reached else None)


def test_a_run_that_was_cancelled_has_not_failed_by_its_time_limit_too(
    each_hub: Hub, hub_clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    _, (job,) = add_jobs(each_hub, config={"sync": {"timeout": 0.1}})
    heard: list[SyncRun] = []

    def pull(context: SyncContext) -> None:
        with context.unit_of_work() as uow:
            uow.sync_jobs.save(uow.sync_jobs.get(job.id).cancel(hub_clock.now()))
            uow.commit()
        assert context.wait(30)
        with context.unit_of_work() as uow:
            context.progress(records=7, uow=uow)
            uow.commit()

    SyncRunner(each_hub, {"crm": pull}, on_end=heard.append).run_once()
    assert [(run.status, run.records_processed) for run in heard] == [("cancelled", 7)]
    assert history(each_hub, job) == heard
    assert caplog.messages == []


def test_who_listens_is_told_of_what_is_given_back(each_hub: Hub) -> None:
    add_jobs(each_hub, 2)
    heard: list[SyncRun] = []

    def pull(context: SyncContext) -> SyncOutcome:
        runner.stop()
        assert context.wait(30)
        return SyncOutcome(records=7)

    runner = SyncRunner(each_hub, {"crm": pull}, grace=0, on_end=heard.append)
    runner.run_once()
    assert [(run.status, run.error_code) for run in heard] == [("cancelled", "released")] * 2
    assert [run.records_processed for run in heard] == [7, 7]


def test_a_handler_does_not_wait_beyond_its_time_limit(each_hub: Hub) -> None:
    _, (job,) = add_jobs(each_hub, max_attempts=1, config={"sync": {"timeout": 0.05}})
    told: list[bool] = []
    SyncRunner(each_hub, {"crm": lambda context: told.append(context.wait(math.inf))}).run_once()
    assert told == [True]
    assert job_of(each_hub, job).status == "failed"


@pytest.mark.parametrize("way", ["run_forever", "run_once", "run_due"])
def test_a_runner_that_stops_gives_back_what_does_not_finish(each_hub: Hub, way: str) -> None:
    _, jobs = add_jobs(each_hub, 4)
    finishes, raises, returns, tells = (job.id for job in jobs)
    begun = threading.Semaphore(0)
    finish = threading.Event()

    def pull(context: SyncContext) -> SyncOutcome | None:
        begun.release()
        if context.job.id == finishes:
            assert finish.wait(10)
            return None
        assert context.wait(30)
        if context.job.id == raises:
            raise InterruptedError
        return SyncOutcome(records=5, checkpoint="half") if context.job.id == tells else None

    runner = SyncRunner(each_hub, {"crm": pull}, poll=0.05, grace=0.5)
    working = in_background(getattr(runner, way))
    for _ in jobs:
        assert begun.acquire(timeout=10)
    runner.stop()
    finish.set()
    working.join(20)
    assert not working.is_alive()
    after = {job.id: job_of(each_hub, job) for job in jobs}
    assert after[finishes].status == "completed"
    assert {(after[id].status, after[id].attempt) for id in (raises, returns, tells)} == {
        ("pending", 0)
    }
    assert (after[returns].checkpoint, after[tells].checkpoint) == (None, "half")
    (run,) = history(each_hub, after[tells])
    assert (run.status, run.error_code, run.records_processed) == ("cancelled", "released", 5)
    assert runner.run_once() == 0  # it has stopped


def test_a_run_that_is_lost_while_a_runner_goes_on_is_taken_up(
    each_hub: Hub, hub_clock: ManualClock
) -> None:
    _, (first, second) = add_jobs(each_hub, 2)
    with each_hub.unit_of_work() as uow:
        (lost,) = uow.sync_jobs.claim("dead", limit=1, lease=60)
        uow.commit()
    assert lost.sync_job_id == first.id
    others = threading.Semaphore(0)
    runner = SyncRunner(each_hub, {"crm": lambda context: others.release()}, poll=0.05)
    working = in_background(runner.run_forever)
    assert others.acquire(timeout=10)  # it has reaped once, and nothing was lost by then
    hub_clock.advance(61)
    assert others.acquire(timeout=10)
    runner.stop()
    working.join(20)
    assert {job_of(each_hub, job).status for job in (first, second)} == {"completed"}
    assert [run.status for run in history(each_hub, first)] == ["succeeded", "lost"]


@pytest.mark.parametrize("way", ["run_once", "run_due"])
def test_each_call_takes_up_what_was_lost_by_then(
    each_hub: Hub, hub_clock: ManualClock, way: str
) -> None:
    _, (job,) = add_jobs(each_hub)
    runner = SyncRunner(each_hub, {"crm": lambda context: None}, lease=60)
    with each_hub.unit_of_work() as uow:
        (lost,) = uow.sync_jobs.claim("dead", limit=1, lease=60)
        uow.commit()
    assert not getattr(runner, way)()
    hub_clock.advance(61)
    assert getattr(runner, way)() == 1
    assert lost.sync_job_id == job.id
    assert [run.status for run in history(each_hub, job)] == ["succeeded", "lost"]


def test_a_runner_claims_for_the_lease_that_it_was_given(each_hub: Hub) -> None:
    add_jobs(each_hub)
    leases: list[timedelta] = []

    def pull(context: SyncContext) -> None:
        leases.append(context.run.lease_expires_at - context.run.started_at)

    SyncRunner(each_hub, {"crm": pull}, lease=77).run_once()
    assert leases == [timedelta(seconds=77)]


@pytest.mark.parametrize("way", ["run_once", "run_due", "run_forever"])
def test_heartbeats_keep_a_lease_alive(hub_postgres_url: Any, way: str) -> None:
    with Hub.from_url(hub_postgres_url) as hub:  # by the real clock
        _, (job,) = add_jobs(hub)
        beats: list[bool] = []

        def pull(context: SyncContext) -> None:
            beats.append(is_extended(hub, context, context.run.lease_expires_at))
            runner.stop()

        runner = SyncRunner(hub, {"crm": pull}, lease=3)
        getattr(runner, way)()
        assert beats == [True]
        assert job_of(hub, job).status == "completed"


def test_heartbeats_go_on_after_what_a_handler_stored_itself(hub_postgres_url: Any) -> None:
    with Hub.from_url(hub_postgres_url) as hub:  # by the real clock
        add_jobs(hub)
        beats: list[bool] = []

        def pull(context: SyncContext) -> None:
            with context.unit_of_work() as uow:
                context.progress(records=1, uow=uow)
                uow.commit()
            beats.append(is_extended(hub, context, lease(hub, context)))

        SyncRunner(hub, {"crm": pull}, lease=3, grace=0).run_once()
        assert beats == [True]


def test_the_first_reason_to_stop_counts(each_hub: Hub) -> None:
    """A worker that ends gives nothing back whose time was over before."""
    _, (job,) = add_jobs(each_hub, max_attempts=1, config={"sync": {"timeout": 0.05}})

    def pull(context: SyncContext) -> None:
        assert context.wait(30)
        context.stop("stopped")

    SyncRunner(each_hub, {"crm": pull}).run_once()
    assert job_of(each_hub, job).status == "failed"


def lease(hub: Hub, context: SyncContext) -> datetime:
    with hub.unit_of_work() as uow:
        return uow.sync_runs.get(context.run.id).lease_expires_at


def is_extended(hub: Hub, context: SyncContext, end: datetime) -> bool:
    """Whether a lease that would have ended then was extended, before it was time to stop."""
    while lease(hub, context) == end and not context.wait(0.02):
        continue
    return lease(hub, context) > end


def test_a_handler_talks_to_its_system(hub_clock: ManualClock) -> None:
    transport = ScriptedTransport().reply(json=[1, 2, 3])

    def pull(context: SyncContext) -> SyncOutcome:
        found = context.http.get("contacts", into=list[int]).unwrap().value
        return SyncOutcome(records=len(found))

    with Hub.in_memory(hub_clock, client_options=lambda crm: {"transport": transport}) as hub:
        add_jobs(hub)
        assert SyncRunner(hub, {"crm": pull}).run_once() == 1
    assert transport.requests[0].url == "https://crm.test/contacts"


def test_a_handler_stores_and_publishes_in_the_tenant_of_its_job(each_hub: Hub) -> None:
    with each_hub.unit_of_work(tenant="acme") as uow:
        parent = IntegrationFactory(type="crm", active=True, store=uow)
        once = Schedule.once(ManualClock().now())
        SyncJobFactory(store=uow, integration_id=parent.id, schedule=once)
        hook = WebhookFactory(store=uow, integration_id=parent.id, events=["contacts.*"])
        uow.commit()

    def pull(context: SyncContext) -> None:
        with context.unit_of_work() as uow:
            uow.integrations.save(context.integration.with_tags("pulled"))
            uow.messages.publish("contacts.pulled", {"records": 3})
            uow.commit()

    assert SyncRunner(each_hub, {"crm": pull}, worker="w7").run_once() == 1
    with each_hub.unit_of_work(tenant="acme") as uow:
        stored = uow.integrations.get(parent.id)
        assert (stored.tags, stored.updated_by) == (("pulled",), "w7")
        (job,) = uow.sync_jobs.find()
        assert job.status == "completed"
        assert [each.status for each in uow.messages.of_webhook(hook.id)] == ["pending"]


def test_progress_is_stored_with_what_a_handler_stores_or_not_at_all(each_hub: Hub) -> None:
    parent, (job,) = add_jobs(each_hub, max_attempts=9)
    ends = iter(["raise before", "commit", "raise after", "commit"])
    begun: list[int] = []

    def pull(context: SyncContext) -> None:
        page = context.checkpoint or 0
        begun.append(page)
        end = next(ends)
        with context.unit_of_work() as uow:
            found = uow.integrations.get(parent.id)
            uow.integrations.save(found.with_tags(*found.tags, f"page-{page}"))
            context.progress(records=page + 1, checkpoint=page + 1, uow=uow)
            assert (context.checkpoint or 0) == page
            if end == "raise before":
                raise ConnectionError
            uow.commit()
        assert context.checkpoint == page + 1
        if end == "raise after":
            raise ConnectionError

    runner = SyncRunner(each_hub, {"crm": pull})
    for _ in range(4):
        with each_hub.unit_of_work() as uow:
            uow.sync_jobs.save(uow.sync_jobs.get(job.id).run_now(each_hub.clock.now()))
            uow.commit()
        assert runner.run_once() == 1
    assert begun == [0, 0, 1, 2]
    with each_hub.unit_of_work() as uow:
        assert uow.integrations.get(parent.id).tags == ("page-0", "page-1", "page-2")
    assert job_of(each_hub, job).checkpoint == 3
    assert [run.checkpoint_after for run in reversed(history(each_hub, job))] == [None, 1, 2, 3]


def test_a_checkpoint_is_what_was_stored_last(each_hub: Hub) -> None:
    _, (job,) = add_jobs(each_hub)
    seen: list[Any] = []

    def pull(context: SyncContext) -> None:
        for page, is_kept in enumerate([True, False, True, False], start=1):
            with context.unit_of_work() as uow:
                context.progress(checkpoint=page, uow=uow)
                seen.append(context.checkpoint)
                if is_kept:
                    uow.commit()
            seen.append(context.checkpoint)
        context.progress(records=7)
        seen.append(context.checkpoint)

    SyncRunner(each_hub, {"crm": pull}).run_once()
    assert seen == [None, 1, 1, 1, 1, 3, 3, 3, 3]
    assert job_of(each_hub, job).checkpoint == 3


def test_a_handler_s_open_unit_of_work_keeps_no_other_s_heartbeats(
    hub_postgres: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    _, (first, second) = add_jobs(hub_postgres, 2)
    tells, is_heard = threading.Event(), threading.Event()

    def pull(context: SyncContext) -> None:
        if context.job.id == first.id:
            with context.unit_of_work() as uow:
                context.progress(records=1, uow=uow)
                tells.set()
                assert is_heard.wait(20)
                uow.commit()
        else:
            assert tells.wait(20)
            until_heard(context, since=context.heard_at)
            is_heard.set()

    SyncRunner(hub_postgres, {"crm": pull}, lease=3).run_once()
    assert {job_of(hub_postgres, job).status for job in (first, second)} == {"completed"}
    assert caplog.text == ""


@pytest.mark.parametrize("store", ["hub_sqlite", "hub_postgres"])
def test_a_heartbeat_that_waits_for_a_handler_s_unit_of_work_does_not_hold_it_up(
    store: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    hub: Hub = request.getfixturevalue(store)
    _, (job,) = add_jobs(hub)

    def waits(context: SyncContext) -> bool:
        """Whether a heartbeat of the run is on its way."""
        if context.lock.acquire(blocking=False):
            context.lock.release()
            return False
        return True

    def pull(context: SyncContext) -> None:
        with context.unit_of_work() as uow:
            found = uow.sync_jobs.get(job.id)
            uow.sync_jobs.save(dataclasses.replace(found, tags=("pulled",)))
            while not waits(context):
                assert not context.wait(0.01)
            context.progress(records=1, checkpoint=1, uow=uow)
            uow.commit()
        assert context.checkpoint == 1

    SyncRunner(hub, {"crm": pull}, lease=2).run_once()
    done = job_of(hub, job)
    assert (done.status, done.tags, done.checkpoint) == ("completed", ("pulled",), 1)
    assert caplog.text == ""


def test_what_a_lost_run_would_store_is_refused(each_hub: Hub, hub_clock: ManualClock) -> None:
    parent, _ = add_jobs(each_hub)
    stopped: list[str | None] = []

    def pull(context: SyncContext) -> None:
        hub_clock.advance(timedelta(hours=1))
        with each_hub.unit_of_work() as uow:
            uow.sync_runs.reap()
            uow.commit()
        with context.unit_of_work() as uow:
            uow.integrations.save(context.integration.with_tags("late"))
            with pytest.raises(LeaseLost):
                context.progress(checkpoint=1, uow=uow)
        stopped.append(context.why)

    SyncRunner(each_hub, {"crm": pull}).run_once()
    assert stopped == ["lost"]
    with each_hub.unit_of_work() as uow:
        assert uow.integrations.get(parent.id).tags == parent.tags


def test_progress_tells_a_handler_that_its_job_was_cancelled(each_hub: Hub) -> None:
    _, (job,) = add_jobs(each_hub)
    stopped: list[str | None] = []

    def pull(context: SyncContext) -> None:
        with each_hub.unit_of_work() as uow:
            uow.sync_jobs.save(uow.sync_jobs.get(job.id).cancel(each_hub.clock.now()))
            uow.commit()
        with context.unit_of_work() as uow:
            context.progress(records=1, uow=uow)
            uow.commit()
        assert context.cancelled
        stopped.append(context.why)

    SyncRunner(each_hub, {"crm": pull}).run_once()
    assert stopped == ["cancelled"]
    assert [run.status for run in history(each_hub, job)] == ["cancelled"]


@pytest.mark.parametrize(
    ("outcome", "records"),
    [(None, 30), (SyncOutcome(checkpoint=4), 30), (SyncOutcome(records=31), 31)],
)
def test_progress_counts_where_the_outcome_says_nothing_of_records(
    each_hub: Hub, outcome: SyncOutcome | None, records: int
) -> None:
    _, (job,) = add_jobs(each_hub)

    def pull(context: SyncContext) -> SyncOutcome | None:
        context.progress(records=30, checkpoint=3)
        return outcome

    SyncRunner(each_hub, {"crm": pull}).run_once()
    done = job_of(each_hub, job)
    assert done.records_processed == records
    assert done.checkpoint == ((outcome and outcome.checkpoint) or 3)
    assert [run.records_processed for run in history(each_hub, job)] == [records]


async def pull_as_a_coroutine(context: SyncContext) -> None:
    raise AssertionError("nobody awaits this")


@pytest.mark.parametrize(
    ("handlers", "words"),
    [
        ({"CRM": print}, "must be a slug"),
        ({7: print}, "must be"),
        ({"crm": "pull"}, "must have a function for 'crm'"),
        ({"crm": pull_as_a_coroutine}, "a plain function for 'crm'"),
    ],
)
def test_handlers_that_could_never_work_are_refused(hub: Hub, handlers: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        SyncRunner(hub, handlers)
    assert refused.value.field == "handlers"


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"lease": 0}, {"poll": 0}, {"grace": -1}, {"on_end": "print"}]
)
def test_a_runner_is_checked_when_it_is_made(hub: Hub, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SyncRunner(hub, {}, **options)

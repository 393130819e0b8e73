"""What its runs, and its owner, do to a sync job: these fields change, and no other.

And how long a job waits after a failure, and which of its integration's places it takes.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from integration_hub import (
    Schedule,
    StatusError,
    SyncJob,
    SyncJobNotFound,
    SyncRun,
    SyncRunStatus,
)
from integration_hub.domain.sync_job import GRACE
from integration_hub.domain.sync_run import BACKOFF, free_slot, max_concurrency, wait_after
from integration_hub.domain.values import new_id
from integration_hub.testing import IntegrationFactory

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEGAN = NOON + timedelta(minutes=1)
NOW = NOON + timedelta(minutes=12)
TEN_MINUTES = Schedule.every(600, start=NOON)
#: What every one of them changes.
TOUCHED = {"version": 5, "updated_at": NOW}


def job(status: str = "running", **fields: Any) -> SyncJob:
    """One that was due at noon and is at its first attempt, unless told otherwise."""
    given: dict[str, Any] = {
        "name": "contacts",
        "integration_id": new_id(),
        "schedule": TEN_MINUTES,
        "status": status,
        "attempt": 1,
        "max_attempts": 3,
        "records_processed": 10,
        "checkpoint": "before",
        "next_run_at": None if status == "cancelled" else NOON,
        "version": 4,
    }
    return SyncJob(**given | fields)


def changed(before: SyncJob, after: SyncJob) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(before)]
    return {
        name: getattr(after, name)
        for name in names
        if getattr(after, name) != getattr(before, name)
    }


def succeeded(given: SyncJob, *, records: int = 7, checkpoint: Any = "end") -> SyncJob:
    return given.succeeded(NOW, started_at=BEGAN, records=records, checkpoint=checkpoint)


def unsuccessful(given: SyncJob) -> SyncJob:
    return given.unsuccessful(NOW, started_at=BEGAN, error="broken", wait=timedelta(seconds=30))


#: Of a success, whatever becomes of the job.
PROGRESS = {"attempt": 0, "last_run_at": BEGAN, "records_processed": 17, "checkpoint": "end"}
#: Of a job that its run has left to itself.
WAITING = {"status": "pending", "status_changed_at": NOW}


def test_a_job_that_starts_runs_as_one_more_attempt() -> None:
    before = job("pending", attempt=0)
    assert changed(before, before.started(NOW)) == {
        **TOUCHED,
        "status": "running",
        "status_changed_at": NOW,
        "attempt": 1,
    }


def test_a_success_adds_its_progress_and_waits_for_the_next_time() -> None:
    before = job(error_message="of the attempt before", scheduled_for=NOON)
    assert changed(before, succeeded(before)) == {
        **(TOUCHED | PROGRESS | WAITING),
        "error_message": None,
        "scheduled_for": None,
        "next_run_at": NOON + timedelta(minutes=20),
    }


def test_a_success_that_says_nothing_keeps_records_and_checkpoint() -> None:
    before = job()
    after = changed(before, succeeded(before, records=0, checkpoint=None))
    assert "records_processed" not in after
    assert "checkpoint" not in after


@pytest.mark.parametrize(
    ("schedule", "status"), [(Schedule.once(NOON), "completed"), (Schedule.manual(), "pending")]
)
def test_a_success_with_no_time_to_come_is_the_end_or_waits_to_be_asked(
    schedule: Schedule, status: str
) -> None:
    after = succeeded(job(schedule=schedule))
    assert (after.status, after.next_run_at) == (status, None)


def test_a_failure_waits_for_another_attempt_and_keeps_the_time_that_it_is_for() -> None:
    before = job()
    after = unsuccessful(before)
    assert changed(before, after) == {
        **(TOUCHED | WAITING),
        "last_run_at": BEGAN,
        "error_message": "broken",
        "next_run_at": NOW + timedelta(seconds=30),
        "scheduled_for": NOON,
    }
    assert unsuccessful(after.started(NOW)).scheduled_for == NOON


def test_the_last_failure_is_the_end() -> None:
    before = job(attempt=3, scheduled_for=NOON)
    assert changed(before, unsuccessful(before)) == {
        **(TOUCHED | WAITING),
        "status": "failed",
        "last_run_at": BEGAN,
        "error_message": "broken",
        "next_run_at": None,
        "scheduled_for": None,
    }


@pytest.mark.parametrize(("attempt", "left"), [(3, 2), (1, 0), (0, 0)])
def test_a_job_that_is_given_back_is_as_it_was(attempt: int, left: int) -> None:
    before = job(attempt=attempt)
    expected: dict[str, Any] = TOUCHED | WAITING
    if left != attempt:
        expected["attempt"] = left
    assert changed(before, before.released(NOW)) == expected


def test_a_job_whose_missed_time_is_skipped_waits_for_the_next_one_as_if_it_had_not_been() -> None:
    before = job()
    assert changed(before, before.skipped(NOW)) == {
        **(TOUCHED | WAITING),
        "attempt": 0,
        "next_run_at": NOON + timedelta(minutes=20),
    }


def test_a_job_that_was_paused_meanwhile_stays_so_and_keeps_what_its_run_came_to() -> None:
    before = job("paused")
    assert changed(before, succeeded(before)) == {
        **(TOUCHED | PROGRESS),
        "next_run_at": NOON + timedelta(minutes=20),
    }
    assert changed(before, unsuccessful(before)) == {
        **TOUCHED,
        "last_run_at": BEGAN,
        "error_message": "broken",
        "next_run_at": NOW + timedelta(seconds=30),
        "scheduled_for": NOON,
    }
    assert changed(before, before.released(NOW)) == {**TOUCHED, "attempt": 0}


def test_a_job_that_was_cancelled_meanwhile_stays_so_and_has_no_next_time() -> None:
    before = job("cancelled")
    assert changed(before, succeeded(before)) == TOUCHED | PROGRESS
    assert changed(before, unsuccessful(before)) == {
        **TOUCHED,
        "last_run_at": BEGAN,
        "error_message": "broken",
    }
    assert changed(before, before.released(NOW)) == {**TOUCHED, "attempt": 0}


def test_a_checkpoint_is_kept_while_a_run_goes_on() -> None:
    before = job()
    assert changed(before, before.at("half", NOW)) == {**TOUCHED, "checkpoint": "half"}


@pytest.mark.parametrize(
    ("catch_up", "late", "attempt", "is_missed"),
    [
        ("skip", GRACE + timedelta(seconds=1), 1, True),
        ("skip", GRACE, 1, False),
        ("skip", GRACE + timedelta(seconds=1), 2, False),  # another try of what was in time
        ("latest", GRACE + timedelta(seconds=1), 1, False),
        ("all", GRACE + timedelta(seconds=1), 1, False),
    ],
)
def test_only_a_job_that_skips_is_missed_and_only_before_its_first_attempt(
    catch_up: str, late: timedelta, attempt: int, is_missed: bool
) -> None:
    given = job(attempt=attempt, config={"sync": {"catch_up": catch_up}})
    assert given.is_missed(NOON + late) is is_missed


def test_a_job_that_is_asked_for_without_a_time_is_never_missed() -> None:
    given = job(next_run_at=None, config={"sync": {"catch_up": "skip"}})
    assert not given.is_missed(NOW)


def test_a_cancelled_job_has_no_next_time_and_no_try_of_one() -> None:
    before = job("pending", scheduled_for=NOON)
    after = changed(before, before.cancel(NOW))
    assert after["status"] == "cancelled"
    assert (after["next_run_at"], after["scheduled_for"]) == (None, None)


@pytest.mark.parametrize("catch_up", ["latest", "all", "skip"])
def test_a_job_that_was_cancelled_meanwhile_is_planned_by_no_ending(catch_up: str) -> None:
    """Nor is there a time that its run was for."""
    given = job("cancelled", config={"sync": {"catch_up": catch_up}})
    for after in (succeeded(given), unsuccessful(given), given.released(NOW)):
        assert (after.status, after.next_run_at, after.scheduled_for) == ("cancelled", None, None)


def test_a_job_that_makes_up_for_all_times_ends_with_the_last_of_them() -> None:
    given = job(schedule=Schedule.once(NOON), config={"sync": {"catch_up": "all"}})
    assert succeeded(given).status == "completed"


@pytest.mark.parametrize(
    ("status", "next_run_at"),
    [("pending", NOON + timedelta(minutes=20)), ("paused", None), ("completed", None)],
)
def test_a_job_is_planned_anew_when_it_is_saved_without_a_time_and_waits(
    status: str, next_run_at: datetime | None
) -> None:
    saved = job(status, next_run_at=None).saved(actor="alice", now=NOW)
    assert (saved.status, saved.next_run_at) == (status, next_run_at)


@pytest.mark.parametrize("is_new", [True, False])
def test_only_a_new_schedule_forgets_the_time_that_tries_are_for(is_new: bool) -> None:
    before = job("pending", scheduled_for=NOON)
    declared = job("pending", schedule=Schedule.every(60, start=NOON) if is_new else TEN_MINUTES)
    assert before.redeclared(declared).scheduled_for == (None if is_new else NOON)


@pytest.mark.parametrize(
    ("attempt", "longest"),
    [(1, BACKOFF), (2, 2 * BACKOFF), (5, 16 * BACKOFF), (99, timedelta(hours=1))],
)
def test_the_longest_wait_doubles_with_each_failure_up_to_an_hour(
    attempt: int, longest: timedelta
) -> None:
    waits = [wait_after(attempt, "broken") for _ in range(200)]
    assert timedelta(0) <= min(waits) < longest / 2 < max(waits) <= longest  # but for 1 in 2**199


@pytest.mark.parametrize(
    ("status", "is_retryable", "asked", "waits"),
    [
        (503, True, timedelta(hours=2), timedelta(hours=2)),
        (503, True, timedelta(days=2), timedelta(days=1)),
        (503, True, None, None),
        (404, False, timedelta(hours=2), None),  # whoever says so has no say in it
    ],
)
def test_what_the_other_system_asked_for_is_waited_for_if_it_may_be_tried_again(
    status: int, is_retryable: bool, asked: timedelta | None, waits: timedelta | None
) -> None:
    error = StatusError(
        status, method="GET", url="https://x.test", is_retryable=is_retryable, retry_after=asked
    )
    found = wait_after(1, error)
    assert found == waits if waits is not None else found <= BACKOFF


def run(**fields: Any) -> SyncRun:
    given: dict[str, Any] = {
        "sync_job_id": new_id(),
        "integration_id": new_id(),
        "slot": 1,
        "attempt": 1,
        "worker": "w",
        "started_at": NOON,
        "heartbeat_at": NOON,
        "lease_expires_at": NOW,
    }
    return SyncRun(**given | fields)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("no such list", "failed", "no such list"),
        ("", "failed", "failed"),
        (KeyError("id"), "KeyError", "KeyError: 'id'"),
        (TimeoutError(), "TimeoutError", "TimeoutError"),
        (SyncJobNotFound("x"), "sync_job_not_found", "no sync job named 'x' in this tenant"),
    ],
)
def test_a_run_that_failed_says_of_what(error: object, code: str, message: str) -> None:
    ended = run().ended(SyncRunStatus.FAILED, NOW, error=error)
    assert (ended.error_code, ended.error_message) == (code, message)


def test_a_run_shows_its_state_and_not_what_it_works_with() -> None:
    """A cursor, a config: which may be secret."""
    secret = "s3cr3t"
    owner = IntegrationFactory.build(config={"token": secret})
    given = job(config={"token": secret}, integration_id=owner.id)
    shown = repr(
        run(checkpoint_before=secret, checkpoint_after=secret, job=given, integration=owner)
    )
    assert "status=<SyncRunStatus.RUNNING: 'running'>" in shown
    assert secret not in shown
    assert given.name not in shown


@pytest.mark.parametrize(
    ("written", "most"), [(3, 3), (1, 1), (0, 1), (-2, 1), (True, 1), ("4", 1), (None, 1)]
)
def test_what_is_no_limit_of_jobs_at_once_is_one(written: Any, most: int) -> None:
    assert max_concurrency({"sync": {"max_concurrency": written}}) == most


@pytest.mark.parametrize(
    ("taken", "slot"),
    [
        ({}, 1),
        ({1, 3}, 2),
        ({1, 2}, 3),
        ({1, 2, 3}, None),
        ({5}, 1),
        ({1, 5}, 2),
        ({1, 5, 6}, None),
    ],
)
def test_a_run_takes_the_first_place_that_is_free_if_not_as_many_run_as_may(
    taken: set[int], slot: int | None
) -> None:
    assert free_slot({"sync": {"max_concurrency": 3}}, taken) == slot

"""Every way from every state of every aggregate: along the table, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from integration_hub import (
    DatabaseUnavailable,
    Integration,
    IntegrationStatus,
    InvalidTransition,
    Schedule,
    SyncJob,
    SyncJobStatus,
    ValidationError,
    Webhook,
    WebhookStatus,
)
from integration_hub.domain.values import new_id

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Move = Callable[[Any], Any]


def integration(status: str) -> Integration:
    return Integration(name="CRM", type="crm", status=status, error_message="old")


def webhook(status: str) -> Webhook:
    given: dict[str, Any] = {"url": "https://x.test", "events": ["*"], "error_message": "old"}
    return Webhook(name="w", integration_id=new_id(), status=status, **given)


def job(status: str) -> SyncJob:
    given: dict[str, Any] = {"schedule": Schedule.every(60), "attempt": 2, "error_message": "old"}
    return SyncJob(name="j", integration_id=new_id(), status=status, **given)


#: From each state (a line) to the state of each move (a column): whether that way is open.
TABLES: dict[str, tuple[Any, dict[str, Move], dict[str, str]]] = {
    "integration": (
        integration,
        {
            "active": lambda item: item.activate(NOON),
            "paused": lambda item: item.pause(NOON),
            "error": lambda item: item.fail("broken", NOON),
            "archived": lambda item: item.archive(NOON),
        },
        {
            "pending": "active paused error archived",
            "active": "paused error archived",
            "paused": "active error archived",
            "error": "active paused error archived",
            "archived": "",
        },
    ),
    "webhook": (
        webhook,
        {
            "active": lambda item: item.resume(NOON),
            "paused": lambda item: item.pause(NOON),
            "failing": lambda item: item.fail(ConnectionError("no answer"), NOON),
            "disabled": lambda item: item.disable("410 Gone", NOON),
        },
        {
            "active": "paused failing disabled",
            "paused": "active disabled",
            "failing": "active paused failing disabled",
            "disabled": "active",
        },
    ),
    "sync job": (
        job,
        {
            "pending": lambda item: item.resume(NOON),
            "paused": lambda item: item.pause(NOON),
            "cancelled": lambda item: item.cancel(NOON),
        },
        {
            "pending": "paused cancelled",
            "running": "pending paused cancelled",
            "completed": "pending cancelled",
            "failed": "pending cancelled",
            "paused": "pending cancelled",
            "cancelled": "",
        },
    ),
}
WAYS = [
    (kind, from_, to)
    for kind, (_, moves, table) in TABLES.items()
    for from_ in table
    for to in moves
]


def test_the_tables_speak_of_every_state() -> None:
    assert set(TABLES["integration"][2]) == set(IntegrationStatus)
    assert set(TABLES["webhook"][2]) == set(WebhookStatus)
    assert set(TABLES["sync job"][2]) == set(SyncJobStatus)


@pytest.mark.parametrize(("kind", "from_", "to"), WAYS)
def test_a_state_changes_along_the_table_and_no_other_way(kind: str, from_: str, to: str) -> None:
    make, moves, table = TABLES[kind]
    item = make(from_)
    if to in table[from_].split():
        moved = moves[to](item)
        assert (moved.status, moved.status_changed_at) == (to, NOON)
        assert (item.status, moved.id, moved.version) == (from_, item.id, item.version)
    else:
        with pytest.raises(InvalidTransition) as refused:
            moves[to](item)
        error = refused.value
        assert (error.kind, error.id, error.from_, error.to) == (kind, item.id, from_, to)
        assert all(way in error.message for way in table[from_].split())


def test_an_error_is_kept_until_the_trouble_is_over() -> None:
    broken = integration("active").fail("401 Unauthorized", NOON)
    assert broken.error_message == "401 Unauthorized"
    assert broken.activate(NOON).error_message is None
    failing = webhook("active").fail("503", NOON)
    assert failing.disable("410 Gone", NOON).error_message == "410 Gone"
    assert failing.resume(NOON).error_message is None


def test_what_a_webhook_was_disabled_for_has_to_be_said() -> None:
    with pytest.raises(ValidationError) as refused:
        webhook("active").disable("", NOON)
    assert refused.value.field == "reason"


class Speechless(Exception):
    def __str__(self) -> str:
        raise AttributeError("self.response")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("id"), "KeyError: 'id'"),
        (TimeoutError(), "TimeoutError"),
        (Speechless(), "Speechless"),
        (DatabaseUnavailable("it is down"), "it is down"),
    ],
)
def test_an_error_is_kept_with_its_kind_unless_it_is_of_the_package(
    error: Exception, words: str
) -> None:
    assert integration("active").fail(error, NOON).error_message == words


@pytest.mark.parametrize("wrong", ["", "  "])
def test_trouble_without_words_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        integration("active").fail(wrong, NOON)
    assert refused.value.field == "error"


def test_words_that_cannot_be_stored_are_made_so() -> None:
    said = integration("active").fail("a\x00b" + "x" * 5_000, NOON).error_message
    assert said is not None
    assert said.startswith("a\N{REPLACEMENT CHARACTER}b")
    assert len(said) == 4_000


def test_activating_switches_on() -> None:
    off = dataclasses.replace(integration("paused"), is_active=False)
    assert off.activate(NOON).is_active


def test_a_resumed_job_has_all_its_attempts_and_a_next_run() -> None:
    resumed = job("failed").resume(NOON)
    assert (resumed.attempt, resumed.error_message) == (0, None)
    assert resumed.next_run_at == NOON + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("status", "attempt", "next_run_at"),
    [
        ("pending", 0, NOON + timedelta(hours=1)),
        ("running", 2, NOON + timedelta(hours=1)),
        ("paused", 2, None),
        ("failed", 2, None),
        ("completed", 2, None),
        ("cancelled", 2, None),
    ],
)
def test_a_job_with_another_schedule_runs_next_when_that_says_so(
    status: str, attempt: int, next_run_at: datetime | None
) -> None:
    planned = dataclasses.replace(
        job(status), attempt=2, next_run_at=NOON + timedelta(days=1), scheduled_for=NOON
    )
    hourly = planned.with_schedule(Schedule.every(3600), NOON)
    assert (hourly.schedule, hourly.status) == (Schedule.every(3600), status)
    assert (hourly.attempt, hourly.next_run_at) == (attempt, next_run_at)
    assert hourly.scheduled_for is None


def test_another_schedule_is_one() -> None:
    wrong: Any = "hourly"
    with pytest.raises(ValidationError, match="schedule must be a Schedule"):
        job("pending").with_schedule(wrong, NOON)


def test_what_is_to_be_forgotten_is_said_by_true_or_false() -> None:
    wrong: Any = "yes"
    with pytest.raises(ValidationError, match="from_start must be True or False"):
        job("pending").run_now(NOON, from_start=wrong)


def test_a_resumed_job_keeps_the_time_that_it_has() -> None:
    planned = dataclasses.replace(job("paused"), next_run_at=NOON - timedelta(hours=1))
    assert planned.resume(NOON).next_run_at == NOON - timedelta(hours=1)


def test_a_cancelled_job_has_no_next_run() -> None:
    planned = dataclasses.replace(job("pending"), next_run_at=NOON)
    assert planned.cancel(NOON).next_run_at is None


def test_a_move_takes_an_aware_moment_only() -> None:
    with pytest.raises(ValidationError) as refused:
        integration("active").pause(datetime(2026, 1, 1))  # noqa: DTZ001 - naive on purpose
    assert refused.value.field == "now"

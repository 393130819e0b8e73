"""How long a delivery waits for its next attempt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from integration_hub import AttemptOutcome, ValidationError, WebhookDelivery
from integration_hub.domain.values import new_id

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RETRIES = (10.0, 100.0)


def wait(retries_used: int = 0, **outcome: Any) -> timedelta | None:
    delivery = WebhookDelivery(
        message_id=new_id(), webhook_id=new_id(), created_at=NOON, retries_used=retries_used
    )
    given = {"started_at": NOON, "status": 500, **outcome}
    return AttemptOutcome(**given).wait(delivery, RETRIES)


@pytest.mark.parametrize(("retries_used", "seconds"), [(0, 10), (1, 100)])
def test_waits_lie_on_both_sides_of_what_the_schedule_says(
    retries_used: int, seconds: float
) -> None:
    shares = [(wait(retries_used) or timedelta(0)).total_seconds() / seconds for _ in range(200)]
    assert 0.8 <= min(shares) < 0.95  # but for 1 in 10**40
    assert 1.05 < max(shares) <= 1.2


def test_what_was_asked_for_is_waited_for_if_it_is_longer() -> None:
    assert wait(retry_after=timedelta(seconds=77)) == timedelta(seconds=77)
    assert wait(1, retry_after=timedelta(seconds=5)) != timedelta(seconds=5)
    assert wait(retry_after=timedelta(days=11_574)) == timedelta(days=1)


@pytest.mark.parametrize(
    ("field", "outcome"),
    [
        ("status", {"status": 99}),
        ("status", {"status": 1_000}),
        ("status", {"status": "200"}),
        ("status", {"status": None}),
        ("error_code", {"error_code": ""}),
        ("duration", {"duration": -1}),
        ("retry_after", {"retry_after": "soon"}),
        ("started_at", {"started_at": NOON.replace(tzinfo=None)}),
    ],
)
def test_an_outcome_that_can_t_be_stored_is_refused(field: str, outcome: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        AttemptOutcome(**{"started_at": NOON, "status": 500, **outcome})
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("duration", "logged"), [(timedelta(seconds=0.25), 250), (timedelta(days=400), 2**31 - 1)]
)
def test_the_log_has_milliseconds(duration: timedelta, logged: int) -> None:
    """As many as a column can hold."""
    delivery = WebhookDelivery(message_id=new_id(), webhook_id=new_id(), created_at=NOON)
    outcome = AttemptOutcome(started_at=NOON, status=500, duration=duration)
    assert outcome.attempt(delivery).duration_ms == logged


@pytest.mark.parametrize("outcome", [{"is_final": True}, {"status": 410}])
def test_what_can_come_to_nothing_is_not_waited_for(outcome: dict[str, Any]) -> None:
    assert wait(**outcome) is None


def test_after_the_last_wait_there_is_none() -> None:
    assert wait(2) is None

"""How long a delivery waits for its next attempt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from integration_hub import AttemptOutcome, WebhookDelivery
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


@pytest.mark.parametrize("outcome", [{"is_final": True}, {"status": 410}])
def test_what_can_come_to_nothing_is_not_waited_for(outcome: dict[str, Any]) -> None:
    assert wait(**outcome) is None


def test_after_the_last_wait_there_is_none() -> None:
    assert wait(2) is None

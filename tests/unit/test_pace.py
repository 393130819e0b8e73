"""Which endpoints are slow, by a clock that the test moves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from integration_hub.delivery.pace import Pace
from integration_hub.domain.values import new_id

ONE, OTHER = new_id(), new_id()


class Clock:
    """Seconds, as they are set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock)


def takes(pace: Pace, clock: Clock, seconds: float) -> None:
    with pace.measured(ONE):
        clock.now += seconds


def test_who_took_more_than_a_second_is_slow_until_it_is_quick(pace: Pace, clock: Clock) -> None:
    takes(pace, clock, 1.0)
    assert pace.slow() == set()
    takes(pace, clock, 1.01)
    assert pace.slow() == {ONE}
    takes(pace, clock, 0.1)
    assert pace.slow() == set()


def test_who_was_slow_ten_minutes_ago_is_no_longer_known(pace: Pace, clock: Clock) -> None:
    takes(pace, clock, 5)
    clock.now += 599
    assert pace.slow() == {ONE}
    clock.now += 1
    assert pace.slow() == set()
    takes(pace, clock, 0.1)
    assert pace.slow() == set()


def test_who_is_waited_for_is_slow_before_it_answers(pace: Pace, clock: Clock) -> None:
    with pace.measured(OTHER), ThreadPoolExecutor(1) as pool:
        clock.now += 1.01
        pool.submit(takes, pace, clock, 0).result()  # another thread's
        assert pace.slow() == {OTHER}
        with pytest.raises(ZeroDivisionError), pace.measured(ONE):
            raise ZeroDivisionError
    assert pace.slow() == {OTHER}

"""Outcomes as values."""

from __future__ import annotations

import pickle

import pytest

from integration_hub import Err, NotFound, Ok, Result, WebhookNotFound


def half(number: int) -> Result[int, ValueError]:
    return Err(ValueError(f"{number} is odd")) if number % 2 else Ok(number // 2)


def test_what_went_well_gives_its_value() -> None:
    outcome = half(4)
    assert outcome.is_ok
    assert outcome.unwrap() == 2
    assert outcome.unwrap_or(7) == 2
    assert outcome == Ok(2)


def test_what_failed_raises_its_own_error() -> None:
    outcome = half(3)
    assert not outcome.is_ok
    assert outcome.unwrap_or(7) == 7
    with pytest.raises(ValueError, match="3 is odd"):
        outcome.unwrap()


def test_map_changes_a_value_and_leaves_an_error() -> None:
    assert half(4).map(str) == Ok("2")
    error = ValueError("odd")
    assert Err(error).map(str) == Err(error)


def test_map_error_changes_an_error_and_leaves_a_value() -> None:
    changed = half(3).map_error(lambda error: KeyError(str(error)))
    assert isinstance(changed, Err)
    assert isinstance(changed.error, KeyError)
    assert half(4).map_error(lambda error: KeyError(str(error))) == Ok(2)


def test_and_then_goes_on_until_the_first_error() -> None:
    assert half(8).and_then(half).and_then(half) == Ok(1)
    stopped = half(6).and_then(half).and_then(half)
    assert isinstance(stopped, Err)
    assert str(stopped.error) == "3 is odd"


def test_both_match_by_their_content() -> None:
    def told(outcome: Result[int, ValueError]) -> str:
        match outcome:
            case Ok(value):
                return f"ok {value}"
            case Err(error):
                return f"error {error}"

    assert [told(half(number)) for number in (2, 1)] == ["ok 1", "error 1 is odd"]


def test_outcomes_cross_process_boundaries() -> None:
    missing = WebhookNotFound("billing")
    copy = pickle.loads(pickle.dumps(Err[NotFound](missing)))
    assert isinstance(copy.error, WebhookNotFound)
    assert copy.error.id == "billing"
    assert pickle.loads(pickle.dumps(Ok([1, 2]))) == Ok([1, 2])

"""What threads store together."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from contextlib import nullcontext
from typing import Any

import pytest

from integration_hub import (
    DatabaseUnavailable,
    Hub,
    SerializationConflict,
    StorageError,
    UnitOfWork,
    ValidationError,
)
from integration_hub.ports.waiting import Heard, Waiter
from integration_hub.workforce import Together, Workforce, repeated, traced


def never(item: int, error: Exception) -> None:
    raise AssertionError(f"{item}: {error}")


def test_what_comes_while_one_thread_stores_is_stored_by_that_one() -> None:
    stored: list[list[int]] = []
    is_storing, go_on = threading.Event(), threading.Event()

    def store(items: list[int]) -> None:
        stored.append(items)
        is_storing.set()
        assert go_on.wait(10)

    together = Together(store, never)
    first = threading.Thread(target=together.add, args=(1,))
    first.start()
    assert is_storing.wait(10)
    together.add(2)  # without waiting
    together.add(3)
    together.flush()
    assert stored == [[1]]
    go_on.set()
    first.join()
    assert stored == [[1], [2, 3]]


class Database:
    """Stores numbers, when it is up, and never one that is out of range."""

    def __init__(self) -> None:
        self.is_up = True
        self.goes_down_after: int | None = None  # so many are stored
        self.stored: list[int] = []
        self.refused: list[int] = []
        self.together = Together(self.store, lambda item, error: self.refused.append(item))

    def store(self, items: list[int]) -> None:
        if not self.is_up or len(self.stored) == self.goes_down_after:
            raise DatabaseUnavailable("it is down")
        if 13 in items:
            raise RuntimeError("what nobody thought of")
        if max(items) > 100:
            raise StorageError("out of range")
        self.stored.extend(items)

    def add_while_down(self, *items: int) -> None:
        self.is_up = False
        for item in items:
            with pytest.raises(DatabaseUnavailable):
                self.together.add(item)
        self.is_up = True


def test_what_could_not_be_stored_is_stored_with_the_next() -> None:
    database = Database()
    database.add_while_down(1, 2)
    database.together.add(3)
    database.together.flush()
    assert (database.stored, database.refused) == ([1, 2, 3], [])


def test_what_can_never_be_stored_does_not_cost_the_others() -> None:
    database = Database()
    database.add_while_down(1, 101, 2, 13)
    database.together.flush()
    assert (database.stored, database.refused) == ([1, 2], [101, 13])


def test_a_fault_on_the_way_costs_nothing() -> None:
    database = Database()
    database.add_while_down(1, 101, 2)
    database.goes_down_after = 1
    with pytest.raises(DatabaseUnavailable):
        database.together.flush()
    assert (database.stored, database.refused) == ([1], [])
    database.goes_down_after = None
    database.together.flush()
    assert (database.stored, database.refused) == ([1, 2], [101])


def test_what_is_left_is_stored_as_soon_as_that_is_possible() -> None:
    database = Database()
    database.add_while_down(1, 2)
    database.is_up = False
    timer = threading.Timer(0.2, setattr, (database, "is_up", True))
    timer.start()
    database.together.settle(time.monotonic() + 20)
    timer.join()
    assert database.stored == [1, 2]


def test_what_is_left_is_kept_where_the_time_is_over() -> None:
    database = Database()
    database.add_while_down(1)
    database.is_up = False
    with pytest.raises(DatabaseUnavailable):
        database.together.settle(time.monotonic() + 0.2)
    database.is_up = True
    database.together.settle(0.0)  # once at the least
    assert database.stored == [1]


IN_VAIN: list[Heard] = ["told"]
BY_ITSELF: list[Heard] = [""]


class Waits(Waiter):
    """Knows for how long it was to wait, and not to listen; ends each wait by what it is given, and
    with the last of these the work.
    """

    def __init__(self, workforce: Workforce[int, int], *heard: Heard) -> None:
        super().__init__()
        self.workforce = workforce
        self.heard = list(heard)
        self.waits: list[float] = []
        self.deaf: list[float] = []

    def wait(self, seconds: float, *, deaf: float = 0.0) -> Heard:
        self.waits.append(seconds)
        self.deaf.append(deaf)
        heard = self.heard.pop(0)
        if not self.heard:
            self.workforce.stop()
        return heard


def is_down(*_: int) -> Any:
    raise DatabaseUnavailable("it is down")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 5),
        ({"due_in": lambda: 2}, 2),
        ({"due_in": lambda: 0.02, "poll": 0.01}, 0.01),
        ({"due_in": lambda: math.inf}, 5),
        ({"due_in": lambda: 5.1}, 5),
        ({"due_in": is_down}, 5),
        ({"due_in": lambda: 2, "claim": is_down}, 5),
    ],
)
def test_who_found_no_work_looks_again_when_there_will_be_some(
    options: dict[str, Any], expected: float
) -> None:
    given: dict[str, Any] = {"claim": lambda room: [], **options}
    workforce = made(**given)
    with Waits(workforce, "told", "told") as waiter:
        workforce.run_forever(waiter)
        assert waiter.waits == [expected, expected]


def test_who_finds_work_piece_by_piece_rests_but_a_moment() -> None:
    looks = itertools.count()
    workforce = made(claim=lambda room: [next(looks)], concurrency=99, due_in=lambda: 0)
    with Waits(workforce, *BY_ITSELF * 20) as waiter:
        workforce.run_forever(waiter)
        assert all(0.005 <= each <= 0.01 for each in waiter.waits[:20])


def test_who_looks_in_vain_for_what_is_due_rests_longer_and_longer() -> None:
    """Others were quicker, or no place is left for it."""
    workforce = made(claim=lambda room: [], due_in=lambda: -0.001)
    with Waits(workforce, *BY_ITSELF * 20) as waiter:
        workforce.run_forever(waiter)
    for times, rest in enumerate(waiter.waits):
        longest = min(0.5, 0.01 * 2**times)
        assert longest / 2 <= rest <= longest
    assert len(set(waiter.waits[-5:])) == 5  # each at a moment of its own


def made(**given: Any) -> Workforce[int, int]:
    options: dict[str, Any] = {
        "work": lambda piece: None,
        "outcomes": Together(lambda items: None, never),
        "concurrency": 1,
        "poll": 5.0,
        "grace": 0,
        **given,
    }
    return Workforce(log=logging.getLogger("test"), **options)


def test_who_is_told_in_vain_listens_less_and_less() -> None:
    workforce = made(claim=lambda room: [])
    with Waits(workforce, *IN_VAIN * 20) as waiter:
        workforce.run_forever(waiter)
    first, *others = waiter.deaf
    assert first == 0
    for times, deaf in enumerate(others, start=1):
        longest = min(0.5, 0.01 * 2**times)
        assert longest / 2 <= deaf <= longest
    assert len(set(others[-5:])) == 5  # each at a moment of its own


def test_who_looks_for_another_reason_listens_as_before() -> None:
    workforce = made(claim=lambda room: [])
    with Waits(workforce, "", "woken", "", "woken", "") as waiter:
        workforce.run_forever(waiter)
    assert waiter.deaf == [0] * 5


def test_who_finds_work_listens_again_at_once() -> None:
    found = iter([[], [], [], [7], []])
    workforce = made(claim=lambda room: next(found, []), concurrency=2)
    with Waits(workforce, "told", "told", "told", "told", "told", "told") as waiter:
        workforce.run_forever(waiter)
    assert [bool(deaf) for deaf in waiter.deaf] == [False, True, True, False, True, True]


def test_nobody_is_deaf_for_longer_than_it_rests() -> None:
    workforce = made(claim=lambda room: [], poll=0.015)
    with Waits(workforce, *IN_VAIN * 9) as waiter:
        workforce.run_forever(waiter)
    assert max(waiter.deaf) == 0.015


@pytest.mark.parametrize(("found", "looks"), [([1, 2], 2), ([1], 1), ([], 1)])
def test_who_finds_all_that_there_is_does_not_look_again_at_once(
    found: list[int], looks: int
) -> None:
    """Fewer than it has threads for: there is no more."""
    looked: list[int] = []

    def claim(room: int) -> list[int]:
        looked.append(room)
        return found if len(looked) == 1 else []

    workforce = made(claim=claim, concurrency=2)
    with Waits(workforce, "") as waiter:
        workforce.run_forever(waiter)
    assert len(looked) == looks


class Announces(Waiter):
    """Says when somebody waits, and how often it was woken."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()
        self.times_woken = 0

    def wake(self) -> None:
        self.times_woken += 1
        super().wake()

    def wait(self, seconds: float, *, deaf: float = 0.0) -> Heard:
        self.waits.set()
        return super().wait(seconds, deaf=deaf)


def work_until_let_go() -> dict[str, Any]:
    let_go = threading.Event()

    def work(piece: int) -> None:
        let_go.wait(40)

    return {"claim": lambda room: [7], "work": work, "let_go": let_go.set}


def test_who_waits_for_work_is_woken_to_stop() -> None:
    workforce = made(claim=lambda room: [], poll=3_600)
    with Announces() as waiter:
        working = threading.Thread(target=workforce.run_forever, args=(waiter,))
        working.start()
        assert waiter.waits.wait(10)
        workforce.stop()
        working.join(20)
        assert not working.is_alive()


def test_who_waits_for_its_threads_is_woken_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """And lets them go when the grace time is over."""
    waiter = Announces()
    monkeypatch.setattr("integration_hub.workforce.Waiter", lambda: waiter)
    workforce = made(**work_until_let_go())
    working = threading.Thread(target=workforce.run_once)
    working.start()
    assert waiter.waits.wait(10)
    workforce.stop()
    working.join(20)
    assert not working.is_alive()


def test_who_has_done_its_work_is_not_woken_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor kept."""
    waiter = Announces()
    monkeypatch.setattr("integration_hub.workforce.Waiter", lambda: waiter)
    workforce = made(claim=lambda room: [7])
    assert workforce.run_once() == [7]
    workforce.stop()
    assert waiter.times_woken == 1  # by its thread


@pytest.mark.parametrize(("conflicts", "tries"), [(0, 1), (4, 5), (5, 5)])
def test_what_gives_way_to_others_is_done_again_up_to_five_times(
    hub: Hub, conflicts: int, tries: int
) -> None:
    begun: list[UnitOfWork] = []

    def act(uow: UnitOfWork) -> str:
        begun.append(uow)
        if len(begun) <= conflicts:
            raise SerializationConflict("another was quicker")
        return "done"

    gives_up = conflicts == tries
    with pytest.raises(SerializationConflict) if gives_up else nullcontext():
        assert repeated(hub, act, tenant="acme", actor="w") == "done"
    assert (len(begun), len(set(map(id, begun)))) == (tries, tries)
    assert begun[-1].state == ("rolled_back" if gives_up else "committed")


def test_what_could_not_be_stored_is_stored_before_more_is_claimed() -> None:
    stored: list[int] = []
    tries, looks = itertools.count(), itertools.count()

    def store(items: list[int]) -> None:
        if next(tries) == 0:
            raise DatabaseUnavailable("it is down")
        stored.extend(items)

    def claim(room: int) -> list[int]:
        look = next(looks)
        if stored or look == 50:
            workforce.stop()
            seen.extend(stored)
        return [7] if look == 0 else []

    seen: list[int] = []
    workforce = made(
        claim=claim, work=lambda piece: piece, outcomes=Together(store, never), poll=0.01
    )
    with Waiter() as waiter:
        workforce.run_forever(waiter)
    assert seen == [7]


def test_who_has_no_thread_left_waits() -> None:
    workforce = made(**work_until_let_go())
    with Waits(workforce, "woken", "woken") as waiter:
        workforce.run_forever(waiter)
        assert waiter.waits == [5, 5]


def test_a_fault_of_work_that_is_done_once_is_raised() -> None:
    def fails(piece: int) -> None:
        raise KeyError(piece)

    with pytest.raises(KeyError, match="7"):
        made(claim=lambda room: [7], work=fails).run_once()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, []),
        (ValidationError("records", -1, "must be more"), ["records must be more, got -1"]),
        (KeyError("s3cr3t"), ["a worker's thread failed: KeyError"]),
    ],
)
def test_a_fault_of_work_is_told_and_the_work_goes_on(
    caplog: pytest.LogCaptureFixture, error: Exception | None, words: list[str]
) -> None:
    found = iter([[1], [2]])

    def claim(room: int) -> list[int]:
        claimed = next(found, [])
        if not claimed:
            workforce.stop()
        return claimed

    def fails(piece: int) -> None:
        if error is not None and piece == 1:
            raise error

    workforce = made(claim=claim, work=fails)
    with Waiter() as waiter:
        workforce.run_forever(waiter)
    assert [each.getMessage().splitlines()[0] for each in caplog.records] == words


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    with pytest.raises(type(error)) as found:
        raise error from cause
    return found.value


def test_a_fault_is_told_with_its_place_and_without_its_words() -> None:
    lines = traced(raised(KeyError("s3cr3t"), raised(ValueError("token=s3cr3t")))).splitlines()
    assert lines[0] == "KeyError"
    assert f'"{__file__}"' in lines[1]
    assert "in raised" in lines[1]
    assert "caused by ValueError" in lines
    assert "s3cr3t" not in "".join(lines)


@pytest.mark.parametrize("hides", [False, True])
def test_what_a_fault_came_of_is_told_unless_it_is_hidden(*, hides: bool) -> None:
    def fails() -> None:
        known: dict[str, int] = {}
        try:
            int("token=s3cr3t")
        except ValueError:
            if hides:
                raise KeyError from None
            known["id"] += 1

    with pytest.raises(KeyError) as found:
        fails()
    assert ("caused by ValueError" in traced(found.value)) is not hides


def test_a_fault_that_is_its_own_cause_or_has_come_a_long_way_is_told_in_short() -> None:
    own = KeyError("id")
    assert traced(raised(own, own)).count("KeyError") == 1

    def there(left: int) -> None:
        back(left - 1)

    def back(left: int) -> None:
        if left <= 0:
            raise KeyError
        there(left - 1)

    with pytest.raises(KeyError) as found:
        there(500)
    assert len(traced(found.value).splitlines()) < 100


def test_words_of_the_package_are_told() -> None:
    assert traced(raised(ValidationError("records", -1, "must be more"))).startswith("records must")
    assert traced(raised(DatabaseUnavailable("it is down"))) == "it is down"  # nothing to mend here

"""What threads store together."""

from __future__ import annotations

import threading

import pytest

from integration_hub.workforce import Together


def test_what_comes_while_one_thread_stores_is_stored_by_that_one() -> None:
    stored: list[list[int]] = []
    is_storing, go_on = threading.Event(), threading.Event()

    def store(items: list[int]) -> None:
        stored.append(items)
        is_storing.set()
        assert go_on.wait(10)

    together = Together(store)
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


def test_what_could_not_be_stored_is_stored_with_the_next() -> None:
    stored: list[int] = []
    faults = [ConnectionError("gone")]

    def store(items: list[int]) -> None:
        if faults:
            together.put_back(items)
            raise faults.pop()
        stored.extend(items)

    together = Together(store)
    with pytest.raises(ConnectionError, match="gone"):
        together.add(1)
    together.add(2)
    assert stored == [1, 2]

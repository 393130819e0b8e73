"""Waiting, waking, and being told to stop by real signals."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from contextlib import ExitStack

import pytest

from integration_hub.domain.values import LONGEST
from integration_hub.ports.waiting import Waiter, stopped_by_signals


def test_a_waiter_waits_for_its_time_and_is_woken_before() -> None:
    with Waiter() as waiter:
        start = time.monotonic()
        assert not waiter.wait(0.05)
        assert time.monotonic() - start >= 0.04
        waiter.wake()
        waiter.wake()
        assert waiter.wait(60)  # woken before it waited
        assert not waiter.wait(0)  # both times
        threading.Timer(0.05, waiter.wake).start()
        assert waiter.wait(LONGEST.total_seconds())


def test_waking_never_blocks_and_comes_too_late_without_harm() -> None:
    waiter = Waiter()
    for _ in range(100_000):  # more than a socket's buffer holds
        waiter.wake()
    assert waiter.wait(0)
    waiter.close()
    waiter.wake()


def test_a_waiter_works_where_a_process_has_many_files_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (opened := os.dup(0)) <= 1_100:
            stack.callback(os.close, opened)
        stack.callback(os.close, opened)
        waiter = stack.enter_context(Waiter())
        assert not waiter.wait(0)
        waiter.wake()
        assert waiter.wait(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_means_what_it_meant_before_once_the_block_is_over(
    number: signal.Signals,
) -> None:
    before = signal.getsignal(number)
    with stopped_by_signals(lambda: None):
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_and_a_second_one_does_what_it_did_before(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    second: list[int] = []
    signal.signal(number, lambda *_: second.append(1))
    try:
        with Waiter() as waiter, stopped_by_signals(waiter.wake):
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
            assert waiter.wait(60)
            assert second == []
            os.kill(os.getpid(), number)
            assert second == [1]
        assert callable(signal.getsignal(number))
        os.kill(os.getpid(), number)
        assert second == [1, 1]
    finally:
        signal.signal(number, before)


def test_signals_are_the_main_thread_s() -> None:
    told: list[str] = []

    def listen() -> None:
        try:
            with stopped_by_signals(lambda: None):
                pass
        except RuntimeError as error:
            told.append(str(error))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert told == ["only the main thread can listen to signals"]

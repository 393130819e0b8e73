"""Waiting, waking, and being told to stop by real signals."""

from __future__ import annotations

import os
import queue
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The identity of another thread, which waits."""
    rest = threading.Event()
    thread = threading.Thread(target=rest.wait)
    thread.start()
    assert thread.ident is not None
    yield thread.ident
    rest.set()
    thread.join()


@pytest.fixture
def handled() -> Iterator[queue.SimpleQueue[int]]:
    """What SIGUSR1 puts its number into."""
    handled: queue.SimpleQueue[int] = queue.SimpleQueue()
    before = signal.signal(signal.SIGUSR1, lambda number, _: handled.put(number))
    yield handled
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_stops_who_waits_even_if_another_thread_is_given_it(elsewhere: int) -> None:
    """That does not end the wait of the main thread, as one does not that comes just before it."""
    with Waiter() as waiter, stopped_by_signals(waiter.wake):
        threading.Timer(0.05, signal.pthread_kill, (elsewhere, signal.SIGTERM)).start()
        assert waiter.wait(60) == "woken"


def test_a_signal_that_means_something_else_is_handled_at_once_and_ends_no_wait(
    elsewhere: int, handled: queue.SimpleQueue[int]
) -> None:
    with Waiter() as waiter, ThreadPoolExecutor(1) as pool:

        def interrupt() -> None:
            for _ in range(3):
                signal.pthread_kill(elsewhere, signal.SIGUSR1)
                assert handled.get(timeout=30) == signal.SIGUSR1
            waiter.wake()

        interrupting = pool.submit(interrupt)
        assert waiter.wait(60) == "woken"
        interrupting.result()


def test_who_else_is_told_of_signals_is_told_still(handled: queue.SimpleQueue[int]) -> None:
    """asyncio is, by a descriptor too."""
    reader, writer = socket.socketpair()
    with reader, writer, Waiter() as waiter:
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        try:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            while handled.empty():
                assert not waiter.wait(0.1)
        finally:
            assert signal.set_wakeup_fd(-1) == writer.fileno()
        assert reader.recv(10) == bytes([signal.SIGUSR1])


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


def test_where_a_handler_is_not_python_s_the_default_comes_after_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a process that uWSGI has begun."""
    real = signal.getsignal
    before = {each: real(each) for each in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    try:
        with Waiter() as waiter, stopped_by_signals(waiter.wake):
            os.kill(os.getpid(), signal.SIGTERM)
            assert waiter.wait(60) == "woken"
        assert [real(each) for each in before] == [signal.SIG_DFL] * 2
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


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

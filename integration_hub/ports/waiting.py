"""Waiting for work without asking all the time, and being told to stop.

May import: nothing of ours. What is here may be called by a signal handler: a socket that is
written to takes no lock, where `threading.Event.set` may wait for the very thread it interrupts.

Python runs a signal's handler in the main thread, between two of its steps. A signal that comes
just before that thread begins to wait, or that the system gives to another thread, does not end the
wait; what Python writes to a descriptor at once does. (Source: Python manual, `signal`, Execution
of Python signal handlers, and `set_wakeup_fd`.)
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

SYNC_WORK = "integration_hub_sync"
DELIVERY_WORK = "integration_hub_delivery"
#: poll() takes any descriptor, where select() ends at 1,024, and opens none, as epoll() does.
_SELECTOR: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)
_LONGEST_WAIT = 86_400.0  # seconds; poll() counts milliseconds, in 31 bits
_WAKE = b"\0"  # no signal has this number

Heard: TypeAlias = Literal["", "told", "woken"]
"""What ended a wait: nothing but the time, somebody who has work, or a call of `wake`."""


class Waiter:
    """Waits until it is woken, or for a time. For one thread to wait, and any to wake it.

    A store that can tell of new work (Postgres, by NOTIFY) gives one that is woken by it; this one
    only knows the time.
    """

    def __init__(self) -> None:
        self._ear, self._voice = socket.socketpair()
        self._ear.setblocking(False)
        self._voice.setblocking(False)

    def wait(self, seconds: float, *, deaf: float = 0.0) -> Heard:
        """Whether it was woken, or told of work, within the time, which ends after a day. For the
        first `deaf` seconds it doesn't listen, and hears afterwards what it was told by then; it is
        woken all the same.
        """
        return "woken" if self._heard([self._ear], seconds) else ""

    def _heard(self, sources: list[Any], seconds: float) -> list[Any]:
        ends_at = time.monotonic() + min(seconds, _LONGEST_WAIT)
        with _SELECTOR() as selector:
            for source in sources:
                selector.register(source, selectors.EVENT_READ)
            with _signals_written_to(self._voice) as elsewhere:
                # To let go of Python's lock: its main thread learns when it takes it that a signal
                # came to another thread before.
                selector.select(0)
                while True:
                    ready = selector.select(max(0.0, ends_at - time.monotonic()))
                    is_woken = self._is_woken(elsewhere)
                    heard = [key.fileobj for key, _ in ready if key.fileobj is not self._ear]
                    if is_woken or heard or not ready:  # else only a signal, which has been handled
                        break
        if self._is_woken(elsewhere) or is_woken:
            heard.append(self._ear)
        return heard

    def _is_woken(self, elsewhere: int) -> bool:
        """Take in what was said; numbers of signals are passed on."""
        try:
            said = self._ear.recv(4096)
        except BlockingIOError:
            return False
        if elsewhere >= 0 and (signals := said.replace(_WAKE, b"")):
            os.write(elsewhere, signals)
        return _WAKE in said

    def wake(self) -> None:
        """End the waiting, now or the next."""
        with suppress(OSError):  # it is full, so that it will wake anyway; or it is closed
            self._voice.send(_WAKE)

    def close(self) -> None:
        self._ear.close()
        self._voice.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def _signals_written_to(voice: socket.socket) -> Iterator[int]:
    """A block in which the numbers of signals are written here, if it is the main thread's; gives
    the descriptor to which they are written else (asyncio has one), or -1.
    """
    try:
        before = signal.set_wakeup_fd(voice.fileno(), warn_on_full_buffer=False)
    except ValueError:  # another thread's, which hears of no signal anyway
        yield -1
        return
    try:
        yield before
    finally:
        signal.set_wakeup_fd(before)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """A block in which SIGTERM and SIGINT call `stop`. A second one does what it did before, as
    every one does in a process that is forked within the block.

    Only the main thread can listen to signals; raises `RuntimeError` in any other.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("only the main thread can listen to signals")
    # A handler that is not Python's (uWSGI has some) is None, and can't be put back.
    before = {
        each: signal.getsignal(each) or signal.SIG_DFL for each in (signal.SIGTERM, signal.SIGINT)
    }

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    def stopped(number: int, frame: object) -> None:
        restore()
        stop()

    _RESTORED_IN_A_FORK.append(restore)
    try:
        for each in before:
            signal.signal(each, stopped)
        yield
    finally:
        if restore in _RESTORED_IN_A_FORK:  # else it has been, in a process that was forked
            _RESTORED_IN_A_FORK.remove(restore)
            restore()


_RESTORED_IN_A_FORK: list[Callable[[], None]] = []


def _forked() -> None:
    """At once, since a handler may not be called there: Python 3.13.0 calls none in a process that
    was not forked by its main thread.
    """
    for restore in reversed(_RESTORED_IN_A_FORK):
        restore()
    _RESTORED_IN_A_FORK.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

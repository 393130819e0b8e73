"""Waiting for work without asking all the time, and being told to stop.

May import: nothing of ours. What is here may be called by a signal handler: a socket that is
written to takes no lock, where `threading.Event.set` may wait for the very thread it interrupts.
"""

from __future__ import annotations

import selectors
import signal
import socket
import threading
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
        with _SELECTOR() as selector:
            for source in sources:
                selector.register(source, selectors.EVENT_READ)
            limit = max(0.0, min(seconds, _LONGEST_WAIT))
            heard = [key.fileobj for key, _ in selector.select(limit)]
        if self._ear in heard:
            with suppress(BlockingIOError):
                self._ear.recv(4096)
        return heard

    def wake(self) -> None:
        """End the waiting, now or the next."""
        with suppress(OSError):  # it is full, so that it will wake anyway; or it is closed
            self._voice.send(b"!")

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
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """A block in which SIGTERM and SIGINT call `stop`; a second one does what it did before.

    Only the main thread can listen to signals; raises `RuntimeError` in any other.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("only the main thread can listen to signals")
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    def stopped(number: int, frame: object) -> None:
        restore()
        stop()

    for each in before:
        signal.signal(each, stopped)
    try:
        yield
    finally:
        restore()

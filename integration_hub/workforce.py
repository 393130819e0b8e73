"""Threads that claim work and see it through, until they are told to stop.

May import: `ports`, `domain`. The runner of sync jobs and the dispatcher of webhooks stand on it.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from traceback import format_tb
from typing import Any, Generic, Protocol, TypeVar

from integration_hub.domain.errors import (
    DatabaseUnavailable,
    HttpError,
    HubError,
    PoolExhausted,
    QueryTimeout,
    SchemaOutOfDate,
    SerializationConflict,
    StaleVersion,
    StorageError,
    StoreClosed,
    ValidationError,
)
from integration_hub.ports.unit_of_work import Tenant, UnitOfWork
from integration_hub.ports.waiting import Waiter

T = TypeVar("T")
R = TypeVar("R")
_TRIES = 5
_CALLS = -20  # so many of the calls that led to an error, the last ones
_SOON, _LATER = 0.05, 1.0  # seconds between tries to store what is left at the end: from, to
#: Seconds between two looks for work that comes piece by piece: doubled each time it was in vain.
_REST, _LONGEST_REST = 0.01, 0.5
_MOST_VAIN = 7  # times that count: then a rest is longer than the longest
#: Faults that pass: what they hindered can be done later.
PASSING = (DatabaseUnavailable, PoolExhausted, QueryTimeout, SerializationConflict)


class OpensUnitsOfWork(Protocol):
    """What `repeated` needs of a hub."""

    def unit_of_work(
        self,
        *,
        tenant: Tenant = "default",
        actor: str = "system",
        session: Any = None,
        atomic: bool = True,
    ) -> UnitOfWork: ...


def told(error: BaseException) -> str:
    """What a log may say of a fault: the package's words, or else its kind alone."""
    return error.message if isinstance(error, HubError) else type(error).__name__


def traced(error: BaseException) -> str:
    """As `told`, with the calls that led to it, and to what caused it, for whoever is to mend it.

    An error's own words are left out unless they are the package's: they may hold secrets. What the
    database or another system has done needs no mending, and so has no calls.
    """
    if isinstance(error, StorageError | HttpError):
        return told(error)
    lines: list[str] = []
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:  # an error may be its own cause
        lines.append(f"caused by {told(cause)}" if seen else told(cause))
        lines += (frame.rstrip() for frame in format_tb(cause.__traceback__, _CALLS))
        seen.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(lines)


def repeated(
    hub: OpensUnitsOfWork,
    act: Callable[[UnitOfWork], T],
    *,
    tenant: Tenant,
    actor: str,
    atomic: bool = True,
) -> T:
    """Do it in a unit of work of its own, again where it gives way to another that changed the same
    thing; after five tries that one's error is raised.
    """
    for left in reversed(range(_TRIES)):
        try:
            with hub.unit_of_work(tenant=tenant, actor=actor, atomic=atomic) as uow:
                found = act(uow)
                uow.commit()
            return found
        except (SerializationConflict, StaleVersion):
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def checked_listener(name: str, listener: object) -> None:
    """Raises `ValidationError` for what can't be called with what has happened."""
    if listener is not None and not callable(listener):
        raise ValidationError(name, type(listener).__name__, "must be a function, or None")


def tell(listener: Callable[..., object], *what: object, to: logging.Logger) -> None:
    """Call a service's own function with what has happened; its faults are logged, and no more."""
    try:
        listener(*what)
    except Exception as error:  # noqa: BLE001 - what has happened is stored, and stays so
        to.error("a listener met a fault: %s", traced(error))


class Together(Generic[T]):
    """What threads have to store when they are done: one of them stores it for all who come
    meanwhile, and these go on with other work.

    `store` keeps all that it is given or nothing. Where the database can't take it now, it is kept
    for whoever stores next, and the error is raised. Where one thing can't be stored at all, the
    others are, each by itself, and `give_up` is told of that one, whatever the reason.
    """

    def __init__(
        self, store: Callable[[list[T]], None], give_up: Callable[[T, Exception], None]
    ) -> None:
        self._store = store
        self._give_up = give_up
        self._items: deque[T] = deque()
        self._storing = threading.Lock()

    def add(self, item: T) -> None:
        self._items.append(item)
        self.flush()

    def flush(self) -> None:
        """Store what there is, unless another thread does: that one looks again when it is done."""
        while self._items and self._storing.acquire(blocking=False):
            try:
                self._take([self._items.popleft() for _ in range(len(self._items))])
            finally:
                self._storing.release()

    def settle(self, ends_at: float) -> None:
        """Store what there is, again and again until a moment of the monotonic clock; once at the
        least. Raises the database's last error.
        """
        pause = _SOON
        while True:
            try:
                return self.flush()
            except PASSING:
                if time.monotonic() + pause > ends_at:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LATER)

    def _take(self, items: list[T]) -> None:
        try:
            self._store(items)
        except PASSING:
            self._items.extendleft(reversed(items))
            raise
        except Exception as error:  # noqa: BLE001 - `give_up` is told, and the others are stored
            if len(items) == 1:
                self._give_up(items[0], error)
            else:
                self._take_one_by_one(items)

    def _take_one_by_one(self, items: list[T]) -> None:
        for at, item in enumerate(items, start=1):
            try:
                self._take([item])
            except PASSING:
                self._items.extend(items[at:])
                raise


def _nothing() -> None:
    """There is nothing to end."""


def _unknown() -> float:
    """Nothing is known of what is to come."""
    return math.inf


class Workforce(Generic[T, R]):
    """Up to `concurrency` threads at work on what `claim(room)` gives; what comes of it goes to
    `outcomes`.

    `work` must not raise what it can handle: an error of the package that it does raise is logged.
    It gives what is to be stored, or None. What the database can't take now is stored with the
    next, before the next claim, or at the end. `reserve` is how much is claimed ahead, for short
    work, so that no thread waits for a claim. `poll` is how often (seconds) it looks for work when
    it was not told of any; sooner, where `due_in` knows after how many seconds there will be some.
    `grace` is how long (seconds) it has to come to an end when it is to stop; then `let_go` is to
    end what is still at work.
    """

    def __init__(
        self,
        *,
        claim: Callable[[int], list[T]],
        work: Callable[[T], R | None],
        outcomes: Together[R],
        concurrency: int,
        poll: float,
        grace: float,
        log: logging.Logger,
        reserve: int = 0,
        let_go: Callable[[], None] = _nothing,
        due_in: Callable[[], float] = _unknown,
    ) -> None:
        self._claim = claim
        self._work = work
        self._outcomes = outcomes
        self._concurrency = concurrency
        self._reserve = reserve
        self._poll = poll
        self._grace = grace
        self._log = log
        self._let_go = let_go
        self._due_in = due_in
        self._lock = threading.Lock()
        self._busy = 0
        self._vain = 0  # how often it expected work, and found none, since it last found some
        self._ends_at = math.inf  # by the monotonic clock, once it is to stop
        self._waiters: set[Waiter] = set()

    @property
    def is_stopping(self) -> bool:
        return self._ends_at < math.inf

    def run_once(self) -> list[T]:
        """Claim once, see it through; gives what it was: nothing, once it is to stop.

        Raises the database's error where it does not take what came of it within the grace time;
        the next call tries again.
        """
        if self.is_stopping:
            return []
        with Waiter() as waiter, ThreadPoolExecutor(self._concurrency) as pool:
            claimed = self._claimed(self._concurrency)
            begun = [pool.submit(self._see_through, each) for each in claimed]
            for each in begun:
                each.add_done_callback(lambda _: waiter.wake())

            def is_done() -> bool:
                return all(each.done() for each in begun)

            try:
                self._wait(waiter, is_done)
            finally:
                if not is_done():
                    self._let_go()
        self._outcomes.settle(min(self._ends_at, time.monotonic() + self._grace))
        for each in begun:
            each.result()
        return claimed

    def run_due(self, has_old: Callable[[list[T]], bool]) -> int:
        """Claim and see through, until what is claimed has nothing old any more; gives how many
        pieces of work it was.
        """
        total = 0
        while claimed := self.run_once():
            total += len(claimed)
            if not has_old(claimed):
                break
        return total

    def run_forever(self, waiter: Waiter) -> None:
        """Work until `stop`. Then claim nothing more, wait for the grace time, and let go.

        A database that can't be reached is waited for; `SchemaOutOfDate` is raised, and
        `StoreClosed`, where the hub is closed before it was stopped.
        """
        try:
            with ThreadPoolExecutor(self._concurrency) as pool:
                try:
                    self._work_on(pool, waiter)
                    self._wait(waiter, lambda: not self._busy)
                finally:
                    self._let_go()
        finally:
            self._settle(self._ends_at if self.is_stopping else 0.0)

    def stop(self) -> None:
        """Claim nothing more, and come to an end. A signal handler may call it."""
        if not self.is_stopping:
            self._ends_at = time.monotonic() + self._grace
        for waiter in tuple(self._waiters):
            waiter.wake()

    def _work_on(self, pool: ThreadPoolExecutor, waiter: Waiter) -> None:
        expects_work = False
        with self._woken(waiter):
            while not self.is_stopping:
                rest = self._begin(pool, waiter, expects_work=expects_work)
                expects_work = bool(rest) and self._hears_of_work(waiter, rest)

    def _hears_of_work(self, waiter: Waiter, rest: float) -> bool:
        """Wait; gives whether there should be work now: it was told so, or some has come to be due.

        Who last looked in vain does not listen at once: all workers are told of each piece of work,
        and only one finds it, so that many of them would do nothing but look.
        """
        deaf = min(rest, self._shortest_rest()) if self._vain else 0.0
        heard = waiter.wait(rest, deaf=deaf)
        return heard == "told" or (not heard and rest < self._poll)

    def _shortest_rest(self) -> float:
        """Seconds, at random, so that not all who rest look again at the same moment."""
        return min(_LONGEST_REST, _REST * 2.0**self._vain) * random.uniform(0.5, 1)

    def _wait(self, waiter: Waiter, is_done: Callable[[], bool]) -> None:
        """Wait until it is done; but once it is to stop, for the grace time at the most."""
        with self._woken(waiter):
            while not is_done() and (left := self._ends_at - time.monotonic()) > 0:
                waiter.wait(left)

    @contextmanager
    def _woken(self, waiter: Waiter) -> Iterator[None]:
        """A block in which `stop` ends the waiting."""
        self._waiters.add(waiter)
        try:
            yield
        finally:
            self._waiters.discard(waiter)

    def _settle(self, ends_at: float) -> None:
        try:
            self._outcomes.settle(ends_at)
        except StorageError as error:  # what was claimed will be lost, and done again
            self._log.error("the last outcomes are not stored: %s", error.message)

    def _claimed(self, room: int) -> list[T]:
        self._outcomes.flush()
        return self._claim(room)

    def _see_through(self, piece: T) -> None:
        outcome = self._work(piece)
        if outcome is None:
            return
        try:
            self._outcomes.add(outcome)
        except PASSING as error:
            self._log.warning("an outcome can't be stored yet, and is kept: %s", error.message)

    def _begin(self, pool: ThreadPoolExecutor, waiter: Waiter, *, expects_work: bool) -> float:
        """Claim as much as there are threads for; gives for how long (seconds) to wait then: not at
        all, where there may be more.
        """
        room = self._concurrency + self._reserve - self._busy
        if room < max(1, self._reserve):
            return self._poll
        try:
            claimed = self._claimed(room)
            self._vain = 0 if claimed else min(self._vain + expects_work, _MOST_VAIN)
            is_all = len(claimed) < room
            rest = min(self._poll, max(self._shortest_rest(), self._due_in())) if is_all else 0.0
        except (SchemaOutOfDate, StoreClosed):
            raise
        except StorageError as error:
            self._log.warning("%s; trying again in %g s", error.message, self._poll)
            return self._poll
        for each in claimed:
            with self._lock:
                self._busy += 1
            begun = pool.submit(self._see_through, each)
            begun.add_done_callback(partial(self._ended, waiter))
        return rest

    def _ended(self, waiter: Waiter, done: Future[None]) -> None:
        with self._lock:
            self._busy -= 1
        error = done.exception()
        if isinstance(error, HubError):
            self._log.error("%s", error.message)
        elif error is not None:
            self._log.error("a worker's thread failed: %s", traced(error))
        waiter.wake()

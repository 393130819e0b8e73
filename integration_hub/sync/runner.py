"""The runner: claims due sync jobs, lets handlers do the work in threads, and tells how it ended.

May import: `ports`, `domain`, `workforce`, `context`. No unit of work is open while a handler runs.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from integration_hub.domain.errors import (
    DatabaseUnavailable,
    HubError,
    LeaseLost,
    PoolExhausted,
    SyncRunNotFound,
    ValidationError,
)
from integration_hub.domain.sync_run import SyncOutcome, SyncRun
from integration_hub.domain.values import (
    checked_count,
    checked_duration,
    checked_name,
    checked_period,
    checked_slug,
)
from integration_hub.ports.sync_runs import (
    CLAIM_LEASE,
    checked_claim,
    checked_outcome,
    checked_types,
)
from integration_hub.ports.unit_of_work import EVERY_TENANT, Tenant, UnitOfWork
from integration_hub.ports.waiting import SYNC_WORK, stopped_by_signals
from integration_hub.sync.context import Handler, OffersWork, SyncContext
from integration_hub.workforce import (
    Together,
    Workforce,
    checked_listener,
    repeated,
    tell,
    told,
    traced,
)

T = TypeVar("T")
_LOG = logging.getLogger("integration_hub.sync")
_BEATS = 3  # heartbeats per lease, so that one that goes astray loses nothing
_REAPS_AFTER = 1.0  # seconds; a lease lasts at least as long
_BEATS_AGAIN = 1.0  # seconds at the most, after heartbeats that could not be told
_BROKEN_OFF = ("stopped", "lost")  # why a handler is to stop through no fault of its own
_AWAY = (DatabaseUnavailable, PoolExhausted)  # faults that all heartbeats would meet


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a run ended: as a success with its outcome, or by what ends it otherwise."""

    run: SyncRun
    outcome: SyncOutcome
    otherwise: Callable[[UnitOfWork], SyncRun] | None = None

    def tell(self, uow: UnitOfWork) -> SyncRun:
        """Of no success: keep how far it has come, and end it, if it has not ended with its job."""
        assert self.otherwise is not None
        records, checkpoint = self.outcome.records or None, self.outcome.checkpoint
        if records is not None or checkpoint is not None:
            heard = uow.sync_runs.heartbeat(self.run, records=records, checkpoint=checkpoint)
            if not heard.is_running:
                return heard
        return self.otherwise(uow)


class SyncRunner:
    """Works through due sync jobs, of all tenants unless one is named.

    `handlers` has one for each type of integration. A job of a type that has none here fails, with
    words that say so; or, with `leave_others`, it is left to workers that have one. A handler
    returns a `SyncOutcome`, or None, or raises: then the job is tried again. It should look at
    `context.cancelled` from time to time, since Python's threads can't be stopped from outside; one
    that has seen there that the worker ends, and returns, gives its job back as far as it has come.
    Heartbeats go out in the background. It looks for work when it is told of some (Postgres
    tells it of jobs that are to run now or soon), when the next job comes to be due, and every
    `poll` in any case; `grace` is how long handlers have to finish when it is told to stop.
    Durations are in seconds or `timedelta`. `on_end`, for metrics say, is called with each run that
    has ended, as it was stored: one that is lost, or was cancelled, too. It should take no time.
    """

    def __init__(
        self,
        hub: OffersWork,
        handlers: Mapping[str, Handler],
        *,
        worker: str | None = None,
        concurrency: int = 4,
        tenant: Tenant = EVERY_TENANT,
        lease: timedelta | float = CLAIM_LEASE,
        poll: timedelta | float = 5.0,
        grace: timedelta | float = 20.0,
        leave_others: bool = False,
        on_end: Callable[[SyncRun], object] | None = None,
    ) -> None:
        self.hub = hub
        self.worker = checked_name("worker", worker or f"{socket.gethostname()}:{os.getpid()}")
        self._handlers = _checked_handlers(handlers)
        if leave_others and not handlers:
            raise ValidationError("handlers", handlers, "must name a type, where others are left")
        self._types = checked_types(list(handlers)) if leave_others else None
        self._concurrency = checked_count("concurrency", concurrency, least=1, most=1_000)
        checked_listener("on_end", on_end)
        self._on_end = on_end
        self._tenant = tenant
        self.lease = checked_claim(self.worker, self._concurrency, lease)
        self._lock = threading.Lock()
        self._active: dict[Any, SyncContext] = {}
        self._reaps_at = 0.0  # by the monotonic clock
        self._asked_at: datetime | None = None  # by the hub's clock: when it last claimed
        self._workforce = Workforce(
            claim=self._claimed,
            work=self._see_through,
            outcomes=Together(self._tell, self._cannot_tell),
            concurrency=self._concurrency,
            poll=checked_period("poll", poll).total_seconds(),
            grace=checked_duration("grace", grace).total_seconds(),
            log=_LOG,
            let_go=self._let_go,
            due_in=self._due_in,
        )

    # --- working ------------------------------------------------------------------------------

    def run_once(self) -> int:
        """Give up what is lost, claim what is due, as much as there are threads for, and see it
        through; gives how many runs it were.

        Raises `StorageError` where the database can't be asked, or does not take within the grace
        time how they ended; that is told by the next call.
        """
        self._reaps_at = 0.0
        with self._beating():
            return len(self._workforce.run_once())

    def run_due(self) -> int:
        """As `run_once`, until nothing is left of what is due by now; gives how many runs it were.

        What comes to be due meanwhile is left, but for what the last claim has of it: so it ends,
        however often jobs are to run.
        """
        began: datetime | None = None

        def has_old(claimed: list[SyncContext]) -> bool:
            nonlocal began
            began = began or claimed[0].run.started_at
            return any(_due_at(context) <= began for context in claimed)

        self._reaps_at = 0.0
        with self._beating():
            return self._workforce.run_due(has_old)

    def run_forever(self) -> None:
        """Work until `stop` is called; then finish or give back, within the grace time.

        A database that can't be reached is waited for. Raises `SchemaOutOfDate`, and
        `StoreClosed` where the hub is closed meanwhile.
        """
        with self.hub.waiter(SYNC_WORK) as waiter, self._beating():
            self._workforce.run_forever(waiter)

    def run_until_signalled(self) -> None:
        """As `run_forever`, in the main thread of a process, until SIGTERM or SIGINT."""
        with stopped_by_signals(self.stop):
            self.run_forever()

    def stop(self) -> None:
        """Claim nothing more, finish or give back; a signal handler may call it, for SIGTERM say.

        It ends `run_once` and `run_due` too; a runner that was stopped claims nothing any more.
        """
        self._workforce.stop()

    def beat(
        self, context: SyncContext, *, records: int | None = None, checkpoint: Any = None
    ) -> None:
        """A heartbeat of a run; a context that learns that it has ended is stopped."""
        with context.lock:
            if context.is_over:
                return
            spoken_at = time.monotonic()
            try:
                run = self._does(
                    lambda uow: uow.sync_runs.heartbeat(
                        context.run, records=records, checkpoint=checkpoint
                    )
                )
            except (LeaseLost, SyncRunNotFound):  # the latter went with its job
                context.stop("lost")
                raise
            context.heard_at = spoken_at
            if not run.is_running:
                context.stop("cancelled")
            context.run = run

    # --- inside -------------------------------------------------------------------------------

    def _claimed(self, room: int) -> list[SyncContext]:
        lost: dict[UUID, SyncRun] = {}

        def claim(uow: UnitOfWork) -> list[SyncRun]:
            if time.monotonic() >= self._reaps_at:
                reaped = uow.sync_runs.reap()
                if not reaped:
                    self._reaps_at = time.monotonic() + _REAPS_AFTER
                lost.update((run.id, run) for run in reaped)
            return uow.sync_jobs.claim(self.worker, limit=room, lease=self.lease, types=self._types)

        spoken_at, self._asked_at = time.monotonic(), self.hub.clock.now()
        contexts = [SyncContext(self, run, spoken_at) for run in self._does(claim)]
        with self._lock:
            self._active.update((context.run.id, context) for context in contexts)
        self._announce(lost.values())
        return contexts

    def _due_in(self) -> float:
        """Seconds until the next job comes to be due; 0 or less, if it has since the last claim."""
        then = self._does(lambda uow: uow.sync_jobs.next_due(self._asked_at))
        return math.inf if then is None else (then - self.hub.clock.now()).total_seconds()

    def _see_through(self, context: SyncContext) -> _Ending | None:
        """Let the handler work; gives how it ended, if there is anything to tell."""
        run = context.run
        try:
            outcome: SyncOutcome | None = None
            failure: BaseException | None = None
            try:
                outcome = _checked(self._handler_of(context)(context))
            except BaseException as error:  # noqa: BLE001 - even sys.exit() goes into the history
                failure = error
            with context.lock:
                context.is_over = True  # no heartbeat after this
            return self._ending_of(context, outcome, failure)
        finally:
            with self._lock:
                del self._active[run.id]

    def _handler_of(self, context: SyncContext) -> Handler:
        kind = context.integration.type
        if kind not in self._handlers:
            known = ", ".join(sorted(self._handlers)) or "none"
            problem = f"has no handler here; there are handlers for: {known}"
            raise ValidationError("integration.type", kind, problem)
        return self._handlers[kind]

    def _ending_of(
        self, context: SyncContext, outcome: SyncOutcome | None, failure: BaseException | None
    ) -> _Ending | None:
        run, reached = context.latest, outcome or SyncOutcome()
        if not run.is_running:  # it has ended with its job
            self._announce([run])
            return None
        if context.why == "cancelled":  # in a unit of work that was not committed
            return _Ending(run, reached, lambda uow: uow.sync_runs.heartbeat(run))
        if context.why in _BROKEN_OFF and (failure is not None or context.was_told):
            _LOG.info("%s was asked to stop, and gives its job back", _named(run))
            return _Ending(run, reached, lambda uow: uow.sync_runs.release(run))
        if failure is None and context.why == "time":
            limit = context.job.time_limit
            failure = TimeoutError(f"it took longer than {limit}, its time limit")
        if failure is None:
            return _Ending(run, _with_progress(reached, run))
        tries = f"attempt {run.attempt} of {context.job.max_attempts}"
        _LOG.warning("%s failed, %s: %s", _named(run), tries, traced(failure))
        return _Ending(run, reached, lambda uow: uow.sync_runs.fail(run, failure))

    def _tell(self, endings: list[_Ending]) -> None:
        """All of them, or none."""
        done = [(each.run, each.outcome) for each in endings if each.otherwise is None]
        others = [each for each in endings if each.otherwise is not None]

        def store(uow: UnitOfWork) -> list[SyncRun]:
            ended = uow.sync_runs.succeed_many(done) if done else []
            return ended + [each.tell(uow) for each in others]

        atomic = bool(others)  # these may take several calls
        ended = repeated(self.hub, store, tenant=self._tenant, actor=self.worker, atomic=atomic)
        if _LOG.isEnabledFor(logging.INFO):
            for run, outcome in done:
                _LOG.info("%s succeeded: %d records", _named(run), outcome.records)
        self._announce(ended)

    def _announce(self, ended: Iterable[SyncRun]) -> None:
        if self._on_end is None:
            return
        for run in ended:
            tell(self._on_end, run, to=_LOG)

    def _cannot_tell(self, ending: _Ending, error: Exception) -> None:
        if isinstance(error, LeaseLost | SyncRunNotFound):  # another's by now, or removed
            _LOG.warning("%s", error.message)
        else:  # the lease will run out, and the run be lost
            _LOG.error("%s: %s", _named(ending.run), told(error))

    def _does(self, act: Callable[[UnitOfWork], T]) -> T:
        return repeated(self.hub, act, tenant=self._tenant, actor=self.worker, atomic=False)

    def _let_go(self) -> None:
        """Ask handlers that have not finished within the grace time to stop."""
        for context in self._contexts():
            context.stop("stopped")

    def _contexts(self) -> list[SyncContext]:
        with self._lock:
            return list(self._active.values())

    def _beating(self) -> _Heart:
        return _Heart(self._beat_all, self.lease.total_seconds() / _BEATS)

    def _beat_all(self) -> bool:
        """Whether all heartbeats arrived. Handlers whose lease ran out meanwhile are stopped."""
        contexts = self._contexts()
        try:
            for context in contexts:
                if reason := context.goes_on_though():
                    _LOG.warning("%s goes on, though %s", _named(context.run), reason)
                self._beat_one(context)
        except _AWAY as error:
            late = sum(context.is_to_stop() for context in contexts)
            _LOG.warning("no heartbeats, and %d handlers to stop: %s", late, error.message)
            return False
        return True

    def _beat_one(self, context: SyncContext) -> None:
        if not context.lock.acquire(blocking=False):
            return  # its handler is just speaking up by itself, and may have to wait for that
        try:
            if not context.is_telling:
                self.beat(context)
        except _AWAY:
            raise
        except HubError as error:
            _LOG.warning("no heartbeat for %s: %s", _named(context.run), error.message)
        finally:
            context.lock.release()


def _named(run: SyncRun) -> str:
    """A run, for a log."""
    assert run.job is not None
    return f"sync run {run.id} of {run.job.name!r}"


def _due_at(context: SyncContext) -> datetime:
    assert context.job.next_run_at is not None
    return context.job.next_run_at


def _checked_handlers(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    if not isinstance(handlers, Mapping):
        problem = "must be a mapping of an integration's type to its handler"
        raise ValidationError("handlers", type(handlers).__name__, problem)
    for kind, handler in handlers.items():
        checked_slug("handlers", kind)  # as the types of integrations are
        if not callable(handler):
            problem = f"must have a function for {kind!r}"
            raise ValidationError("handlers", type(handler).__name__, problem)
        if inspect.iscoroutinefunction(handler):
            problem = f"must have a plain function for {kind!r}, which may call asyncio.run()"
            raise ValidationError("handlers", "an async function", problem)
    return dict(handlers)


def _checked(outcome: object) -> SyncOutcome | None:
    return None if outcome is None else checked_outcome(outcome)


def _with_progress(outcome: SyncOutcome, run: SyncRun) -> SyncOutcome:
    """An outcome that says nothing of records has those that the handler told of on its way."""
    return outcome if outcome.records else replace(outcome, records=run.records_processed)


class _Heart:
    """Calls a function at intervals in a thread of its own, for the length of a block; soon again,
    where it says that it did not succeed.
    """

    def __init__(self, beat: Callable[[], bool], every: float) -> None:
        self._beat = beat
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True, name="sync-heartbeats")

    def _go(self) -> None:
        wait = self._every
        while not self._over.wait(wait):
            wait = self._every if self._succeeds() else min(self._every, _BEATS_AGAIN)

    def _succeeds(self) -> bool:
        try:
            return self._beat()
        except Exception as error:  # noqa: BLE001 - whatever it is, without heartbeats all is lost
            _LOG.error("heartbeats of sync runs met a fault, and go on: %s", traced(error))
            return False

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

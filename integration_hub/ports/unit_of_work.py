"""A unit of work: changes that are stored together or not at all; its life, and its manager.

May import: `domain`, `clock`, `repositories`.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Protocol, Self, TypeAlias, TypeVar, final

from integration_hub.domain.aggregate import Aggregate
from integration_hub.domain.errors import (
    HubError,
    SerializationConflict,
    UnitOfWorkClosed,
    ValidationError,
)
from integration_hub.domain.frozen import evolved
from integration_hub.domain.result import Err, Ok, Result
from integration_hub.domain.values import checked_count, checked_name
from integration_hub.ports.clock import Clock
from integration_hub.ports.messages import MessageRepository
from integration_hub.ports.repositories import (
    IntegrationRepository,
    SyncJobRepository,
    WebhookRepository,
)
from integration_hub.ports.secrets import InboxRepository, SecretRepository
from integration_hub.ports.sync_runs import SyncRunRepository

State: TypeAlias = Literal["new", "active", "committed", "rolled_back"]
T = TypeVar("T")
A = TypeVar("A", bound=Aggregate)


@final
class EveryTenant:
    """The type of `EVERY_TENANT`, of which there is one."""

    _instance: EveryTenant | None = None

    def __new__(cls) -> EveryTenant:
        cls._instance = cls._instance or super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "EVERY_TENANT"

    def __reduce__(self) -> str:
        return "EVERY_TENANT"


EVERY_TENANT: Final = EveryTenant()
"""For workers and maintenance: a unit of work that sees every tenant's rows."""

Tenant: TypeAlias = str | EveryTenant


class UnitOfWork(Protocol):
    """Changes that are stored together or not at all.

    A context manager; leaving the block without `commit()`, or by an exception, rolls back. Reads
    see what is committed at the time of each read, and the unit of work's own changes. For one
    thread, and to be used once: after its end every call raises `UnitOfWorkClosed`.
    """

    @property
    def integrations(self) -> IntegrationRepository: ...
    @property
    def webhooks(self) -> WebhookRepository: ...
    @property
    def sync_jobs(self) -> SyncJobRepository: ...
    @property
    def sync_runs(self) -> SyncRunRepository: ...
    @property
    def messages(self) -> MessageRepository: ...
    @property
    def secrets(self) -> SecretRepository: ...
    @property
    def inbox(self) -> InboxRepository: ...
    @property
    def state(self) -> State: ...
    @property
    def tenant(self) -> Tenant: ...
    @property
    def actor(self) -> str: ...

    def commit(self) -> None:
        """Store all changes. If it raises, nothing was stored; the unit of work is over.

        Only where the connection is lost before the database has answered, nobody knows; the
        `DatabaseUnavailable` says so.
        """
        ...

    def rollback(self) -> None: ...

    def savepoint(self) -> AbstractContextManager[object]:
        """A block whose changes are undone if it is left by an exception; the rest stays."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class UnitOfWorkLifecycle:
    """The life of a unit of work, which all stores share: new, active, then over.

    A store gives `_commit` and `_rollback`, which may be called once, and one of them only.
    """

    def __init__(self, *, tenant: Tenant, actor: str, clock: Clock) -> None:
        if not isinstance(tenant, EveryTenant):
            checked_name("tenant", tenant)
        self.tenant: Tenant = tenant
        self.actor = checked_name("actor", actor)
        self.clock = clock
        self._state: State = "new"

    @property
    def state(self) -> State:
        return self._state

    def require_active(self) -> None:
        if self._state != "active":
            raise UnitOfWorkClosed(
                "new; use it in a with block" if self._state == "new" else self._state
            )

    def _enter(self) -> None:
        if self._state != "new":
            raise UnitOfWorkClosed(self._state)
        self._state = "active"

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._state == "active":
            self.rollback()

    def commit(self) -> None:
        self.require_active()
        self._state = "rolled_back"  # unless the store says otherwise
        self._commit()
        self._state = "committed"

    def rollback(self) -> None:
        self.require_active()
        self._state = "rolled_back"
        self._rollback()

    def announce(self, channel: str) -> None:
        """Tell those who listen that there is work, when this is committed; if the store can."""

    def _commit(self) -> None:
        raise AssertionError(f"{type(self).__name__} must say how it commits")

    def _rollback(self) -> None:
        raise AssertionError(f"{type(self).__name__} must say how it rolls back")

    @property
    def scope(self) -> str | None:
        """The tenant whose rows are seen; None for every one."""
        return None if isinstance(self.tenant, EveryTenant) else self.tenant

    def sees(self, tenant: str) -> bool:
        """Whether rows of a tenant are seen, and may be changed."""
        return self.scope in (None, tenant)

    def tenant_for(self, item_tenant: str) -> str:
        """The tenant of a new object. Raises `ValidationError` where that is unclear."""
        if isinstance(self.tenant, EveryTenant):
            if not item_tenant:
                problem = "must be named on an object that is stored through EVERY_TENANT"
                raise ValidationError("tenant", item_tenant, problem)
            return item_tenant
        if item_tenant and item_tenant != self.tenant:
            problem = f"must be that of the unit of work ({self.tenant!r}), or left out"
            raise ValidationError("tenant", item_tenant, problem)
        return self.tenant

    def owned(self, item: A) -> A:
        """An object with its tenant: where that was left out, the one of the unit of work."""
        return item if item.tenant else evolved(item, tenant=self.tenant_for(""))


_OPERATION: Final = (
    "must be a plain function of a unit of work; a coroutine calls `run` by asyncio.to_thread"
)


class OpensUnitOfWork(Protocol):
    """What opens units of work; a `UnitOfWorkFactory` is one."""

    def __call__(
        self, *, tenant: Tenant = "default", actor: str = "system", atomic: bool = True
    ) -> UnitOfWork: ...


@dataclass(frozen=True)
class _Place:
    """Which thread and asyncio task a unit of work was opened in.

    A context variable alone would not do: a new task inherits its parent's.
    """

    thread: int
    task: int | None

    @classmethod
    def here(cls) -> _Place:
        task = None
        with suppress(RuntimeError):  # no event loop runs in this thread
            task = asyncio.current_task()
        return cls(threading.get_ident(), None if task is None else id(task))


class UnitOfWorkManager:
    """Runs operations in units of work of their own, and knows the one that is running."""

    def __init__(
        self, factory: OpensUnitOfWork, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._factory = factory
        self._sleep = sleep
        self._running: ContextVar[tuple[_Place, UnitOfWork] | None] = ContextVar(
            "running", default=None
        )

    @property
    def current(self) -> UnitOfWork | None:
        """The unit of work of the operation that runs in this thread and task; None outside."""
        running = self._running.get()
        return running[1] if running is not None and running[0] == _Place.here() else None

    @property
    def has_active_transaction(self) -> bool:
        current = self.current
        return current is not None and current.state == "active"

    def run(
        self,
        operation: Callable[[UnitOfWork], T],
        *,
        tenant: Tenant = "default",
        actor: str = "system",
        attempts: int = 3,
        atomic: bool = True,
    ) -> Result[T, HubError]:
        """Run `operation(uow)` and commit; `Ok` of what it returns, or `Err` of the `HubError`.

        A serialization failure or a deadlock is tried again from the start, up to `attempts` times
        in all, after a wait of up to 50 ms that doubles (full jitter: Brooker, "Exponential
        Backoff and Jitter", AWS Architecture Blog, 2015); so the operation must not do what can't
        be done twice, such as a network call. It is a plain function (`ValidationError` otherwise).
        An exception that is no `HubError` is raised. An operation may commit or roll back by
        itself; `run` then leaves it at that. A `run` within a `run` has a unit of work of its own.
        With `atomic=False` what its calls do need not be stored together (see `Hub.unit_of_work`):
        for one that makes a single call.
        """
        checked_count("attempts", attempts, least=1)
        if not callable(operation) or inspect.iscoroutinefunction(operation):
            given = "an async function" if callable(operation) else type(operation).__name__
            raise ValidationError("operation", given, _OPERATION)
        for attempt in range(1, attempts + 1):
            try:
                return Ok(self._once(operation, tenant, actor, atomic))
            except SerializationConflict as error:
                if attempt == attempts:
                    return Err(error)
                self._sleep(random.uniform(0, 0.05 * 2 ** (attempt - 1)))
            except HubError as error:
                return Err(error)
        raise AssertionError("attempts is at least 1")

    def _once(
        self, operation: Callable[[UnitOfWork], T], tenant: Tenant, actor: str, atomic: bool
    ) -> T:
        with self._factory(tenant=tenant, actor=actor, atomic=atomic) as uow:
            token = self._running.set((_Place.here(), uow))
            try:
                value = operation(uow)
                if inspect.iscoroutine(value):  # nothing of it has been done
                    value.close()
                    raise ValidationError("operation", "a coroutine", _OPERATION)
            finally:
                self._running.reset(token)
            if uow.state == "active":
                uow.commit()
            return value

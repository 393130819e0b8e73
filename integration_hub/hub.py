"""The hub: where a store, its schema and its units of work are put together.

The only composition root; may import everything below the command line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import URL

from integration_hub.database.engine import DatabaseConnectionManager, PoolSettings
from integration_hub.database.health import Health, SchemaRevision
from integration_hub.database.notifications import PostgresWaiter
from integration_hub.database.schema import DatabaseSchemaManager
from integration_hub.domain.errors import (
    HubError,
    SchemaOutOfDate,
    StoreClosed,
    ValidationError,
    unpicklable,
)
from integration_hub.domain.integration import Integration
from integration_hub.domain.result import Result
from integration_hub.http.client import HttpClient
from integration_hub.http.factory import HttpClientFactory
from integration_hub.http.options import HttpOptions, Proxies
from integration_hub.memory.store import MemoryStore
from integration_hub.memory.unit_of_work import MemoryUnitOfWork
from integration_hub.ports.clock import Clock, SystemClock
from integration_hub.ports.unit_of_work import Tenant, UnitOfWork, UnitOfWorkManager
from integration_hub.ports.waiting import Waiter
from integration_hub.settings import HubSettings
from integration_hub.sql.joining import Joined
from integration_hub.sql.unit_of_work import PostgresUnitOfWork, SqliteUnitOfWork

T = TypeVar("T")
ClientOptions: TypeAlias = Callable[[Integration], Mapping[str, Any] | None]
MEMORY = "memory://"
_CLOSED = "this hub is closed; make another"


class Schema(Protocol):
    """What `hub.schema` can do, whatever the store is."""

    def upgrade(self, revision: str = "head") -> SchemaRevision: ...
    def downgrade(self, revision: str) -> SchemaRevision: ...
    def current(self) -> SchemaRevision: ...
    def require_current(self) -> SchemaRevision: ...
    def check(self) -> SchemaRevision: ...
    def create_all(self) -> None: ...
    def sql(self, revision: str = "head") -> str: ...


class NoSchema:
    """The schema of the dict store: there is none, and every question is answered with that."""

    _NONE = SchemaRevision("none (dict store)", "none (dict store)")

    def upgrade(self, revision: str = "head") -> SchemaRevision:
        return self._NONE

    def downgrade(self, revision: str) -> SchemaRevision:
        return self._NONE

    def current(self) -> SchemaRevision:
        return self._NONE

    def require_current(self) -> SchemaRevision:
        return self._NONE

    def check(self) -> SchemaRevision:
        return self._NONE

    def create_all(self) -> None:
        """There are no tables."""

    def sql(self, revision: str = "head") -> str:
        return "-- the dict store has no schema\n"


class Store(Protocol):
    """A store as the factory uses it: it opens units of work and tells how it is."""

    @property
    def schema(self) -> Schema: ...
    @property
    def clock(self) -> Clock: ...

    def open(
        self,
        *,
        tenant: Tenant,
        actor: str,
        clock: Clock,
        session: Joined | None,
        atomic: bool,
    ) -> UnitOfWork: ...
    def waiter(self, channel: str) -> Waiter: ...
    def health(self) -> Health: ...
    def close(self) -> None: ...


class _Dicts:
    """The dict store."""

    def __init__(self) -> None:
        self.schema: Schema = NoSchema()
        self.clock: Clock = SystemClock()
        self._store = MemoryStore()

    def open(
        self,
        *,
        tenant: Tenant,
        actor: str,
        clock: Clock,
        session: Joined | None,
        atomic: bool,
    ) -> UnitOfWork:
        if session is not None:
            problem = "can't be joined by the dict store, which has no transactions of a database"
            raise ValidationError("session", type(session).__name__, problem)
        return MemoryUnitOfWork(self._store, tenant=tenant, actor=actor, clock=clock)

    def waiter(self, channel: str) -> Waiter:
        return Waiter()

    def health(self) -> Health:
        schema = self.schema.current()
        return Health(ok=True, latency=timedelta(0), database_version="memory", schema=schema)

    def close(self) -> None:
        """Nothing is held."""


class _Tables:
    """A SQL store."""

    def __init__(self, manager: DatabaseConnectionManager, *, check_schema: bool) -> None:
        self.manager = manager
        self.schema: Schema = DatabaseSchemaManager(manager)
        self.clock = manager.clock
        self._kind = PostgresUnitOfWork if manager.is_postgres else SqliteUnitOfWork
        self._lock = threading.Lock()
        self._checks_schema = check_schema
        self._has_checked = not check_schema

    def open(
        self,
        *,
        tenant: Tenant,
        actor: str,
        clock: Clock,
        session: Joined | None,
        atomic: bool,
    ) -> UnitOfWork:
        uow = self._kind(
            self.manager, tenant=tenant, actor=actor, clock=clock, session=session, atomic=atomic
        )
        if not self._has_checked:
            with self._lock:
                if not self._has_checked:
                    self.schema.require_current()
                    self._has_checked = True
        return uow

    def waiter(self, channel: str) -> Waiter:
        return PostgresWaiter(self.manager, channel) if self.manager.is_postgres else Waiter()

    def health(self) -> Health:
        found = self.manager.health()
        if not found.ok:
            return found
        try:
            return replace(found, schema=self.schema.require_current())
        except SchemaOutOfDate as error:
            schema = SchemaRevision(error.current, error.head)
            if not self._checks_schema:  # it is in the service's own history
                return replace(found, schema=schema)
            return replace(found, ok=False, schema=schema, error=error.message)
        except HubError as error:
            return replace(found, ok=False, error=error.message)

    def close(self) -> None:
        self.manager.close()


class UnitOfWorkFactory:
    """Opens units of work on one store: ``UnitOfWorkFactory.for_url(url)()``."""

    def __init__(self, store: Store, *, clock: Clock | None = None) -> None:
        self._store = store
        self._is_closed = False
        self.clock = clock or store.clock

    @classmethod
    def for_url(
        cls, url: str | URL, *, settings: HubSettings | None = None, clock: Clock | None = None
    ) -> UnitOfWorkFactory:
        """A factory for ``postgresql+psycopg://…``, ``sqlite:///file.db`` or ``memory://``."""
        return cls(_store_for(url, settings), clock=clock)

    def __call__(
        self,
        *,
        tenant: Tenant = "default",
        actor: str = "system",
        session: Joined | None = None,
        atomic: bool = True,
    ) -> UnitOfWork:
        if self._is_closed:
            raise StoreClosed(_CLOSED)
        return self._store.open(
            tenant=tenant, actor=actor, clock=self.clock, session=session, atomic=atomic
        )

    @property
    def schema(self) -> Schema:
        """The tables of the store; see `Hub.schema`."""
        return self._store.schema

    def health(self) -> Health:
        """See `Hub.health`."""
        if self._is_closed:
            return Health(ok=False, latency=timedelta(0), error=_CLOSED)
        return self._store.health()

    def close(self) -> None:
        """Close the connections of the store. It opens no unit of work any more."""
        self._is_closed = True
        self._store.close()


def _store_for(url: str | URL, settings: HubSettings | None) -> Store:
    if str(url).startswith(MEMORY):
        return _Dicts()
    chosen = settings or HubSettings.model_construct()  # the defaults, without the environment
    manager = DatabaseConnectionManager(
        url,
        pool=PoolSettings(
            size=chosen.pool_size,
            max_overflow=chosen.pool_max_overflow,
            timeout=chosen.pool_timeout,
            recycle=chosen.pool_recycle,
            pre_ping=chosen.pool_pre_ping,
        ),
        connect_timeout=chosen.connect_timeout,
        statement_timeout=chosen.statement_timeout,
        lock_timeout=chosen.lock_timeout,
        prepared_statements=chosen.prepared_statements,
    )
    return _Tables(manager, check_schema=chosen.check_schema)


class Hub:
    """The door to everything: ``with Hub.from_url("postgresql+psycopg://…") as hub: ...``

    Safe to share between threads; one per process and database is enough.

    `client_options` gives what the client of an integration needs beyond its config: ``auth`` above
    all, and whatever else `HttpClient` takes, as a mapping, or None. It is asked when a client is
    made, so once for each version of an integration; it may look into a vault.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock | None = None,
        proxies: Proxies | None = None,
        client_options: ClientOptions | None = None,
    ) -> None:
        if client_options is not None and not callable(client_options):
            problem = "must be a function of an integration that gives what HttpClient takes"
            raise ValidationError("client_options", type(client_options).__name__, problem)
        self._store = store
        self._factory = UnitOfWorkFactory(store, clock=clock)
        self._manager = UnitOfWorkManager(self._factory)
        self._proxies = proxies
        self._client_options = client_options
        self._clients = HttpClientFactory(proxies=proxies)

    @classmethod
    def from_url(
        cls,
        url: str | URL,
        *,
        settings: HubSettings | None = None,
        clock: Clock | None = None,
        client_options: ClientOptions | None = None,
    ) -> Hub:
        """A hub on ``postgresql+psycopg://…``, ``sqlite:///file.db``, ``sqlite://`` or ``memory://``.

        ``sqlite://`` is a file of its own that goes with `close()`. No connection is made yet.
        Raises `ValidationError` for another database.
        """
        proxies = None if settings is None else settings.proxies()
        store = _store_for(url, settings)
        return cls(store, clock=clock, proxies=proxies, client_options=client_options)

    @classmethod
    def from_settings(
        cls,
        settings: HubSettings,
        *,
        clock: Clock | None = None,
        client_options: ClientOptions | None = None,
    ) -> Hub:
        """As `from_url`, on the database of the settings."""
        url = settings.database_url.get_secret_value()
        return cls.from_url(url, settings=settings, clock=clock, client_options=client_options)

    @classmethod
    def in_memory(
        cls, clock: Clock | None = None, *, client_options: ClientOptions | None = None
    ) -> Hub:
        """A hub on dicts, for tests."""
        return cls(_Dicts(), clock=clock, client_options=client_options)

    @property
    def proxies(self) -> Proxies | None:
        """The proxies that its clients, and its dispatchers, reach other systems by."""
        return self._proxies

    @property
    def schema(self) -> Schema:
        """Upgrade, downgrade, current, check; for the dict store these say that there is none."""
        return self._store.schema

    @property
    def clock(self) -> Clock:
        """What time it is for the hub: on Postgres the time of its server, which all workers share,
        whatever their machines' clocks say; elsewhere this machine's.
        """
        return self._factory.clock

    def unit_of_work(
        self,
        *,
        tenant: Tenant = "default",
        actor: str = "system",
        session: Joined | None = None,
        atomic: bool = True,
    ) -> UnitOfWork:
        """A new unit of work of one tenant, to be used in a ``with`` block.

        With `session` it joins a service's own transaction, which the service then commits.
        Where what its calls do need not be stored together (`atomic=False`), a store may keep what
        takes one statement as it is made. Postgres does so where one object is added, saved or
        removed, sync jobs are claimed, or runs end: that saves the round trips of a transaction,
        two of three. `commit()` is called all the same, for the rest; `rollback()`, or leaving
        without either, undoes that rest alone. In a service's transaction it makes no difference.
        The first one asks whether the schema fits the code, and raises `SchemaOutOfDate` if not.
        """
        return self._factory(tenant=tenant, actor=actor, session=session, atomic=atomic)

    def run(
        self,
        operation: Callable[[UnitOfWork], T],
        *,
        tenant: Tenant = "default",
        actor: str = "system",
        attempts: int = 3,
        atomic: bool = True,
    ) -> Result[T, HubError]:
        """Run `operation(uow)` and commit; see `UnitOfWorkManager.run`."""
        return self._manager.run(
            operation, tenant=tenant, actor=actor, attempts=attempts, atomic=atomic
        )

    def http(
        self,
        name_or_integration: Integration | UUID | str,
        *,
        tenant: str = "default",
        **options: Any,
    ) -> HttpClient:
        """The client for an integration's system, as its ``config["http"]`` has it, and the hub's
        `client_options`, which come first.

        What is given is the object, or its id or name in the tenant. The unit of work that looks it
        up is closed before this returns, so that none is open while there is traffic. Each version
        of an integration has one client, shared by threads; a changed integration gets a fresh one,
        and of more than 500, the one that was not asked for the longest is made anew.
        Options (`auth`, `interceptors`, `transport` …) are those of `HttpClient`; they make a
        client of the caller's own, who closes it. Raises `IntegrationNotFound`, and
        `ValidationError` for a config that can't be used.
        """
        found = self._looked_up(name_or_integration, tenant)
        if options:
            return HttpClient(**{"proxies": self._proxies, **self._options_of(found), **options})
        version = (found.tenant, found.version)
        return self._clients.current(str(found.id), version, lambda: self._options_of(found))

    def _options_of(self, integration: Integration) -> dict[str, Any]:
        more = None if self._client_options is None else self._client_options(integration)
        if more is None:
            more = {}
        elif not isinstance(more, Mapping):
            problem = "must give a mapping of what HttpClient takes, or None"
            raise ValidationError("client_options", type(more).__name__, problem)
        config = integration.config
        if "http" not in config and "base_url" in more:
            config = {"http": {"base_url": more["base_url"]}}
        own = HttpOptions.from_config(config).arguments()
        return {**own, **more, "headers": {**own["headers"], **more.get("headers", {})}}

    def _looked_up(self, integration: Integration | UUID | str, tenant: Tenant) -> Integration:
        if isinstance(integration, Integration):
            return integration
        with self.unit_of_work(tenant=tenant) as uow:
            if isinstance(integration, UUID):
                return uow.integrations.get(integration)
            return uow.integrations.get_by_name(integration)

    def waiter(self, channel: str) -> Waiter:
        """For workers: what waits for work of a kind, and is told of it where the store can."""
        return self._store.waiter(channel)

    def health(self) -> Health:
        """How the store is, with its latency, version, pool and schema; raises nothing."""
        return self._factory.health()

    def close(self) -> None:
        """Close the connections. To open a unit of work afterwards raises `StoreClosed`."""
        self._clients.close_all()
        self._factory.close()

    def __reduce__(self) -> NoReturn:
        """Raises `TypeError`: it belongs to its process."""
        raise unpicklable("a Hub", "hand over its URL, and make one there by Hub.from_url")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

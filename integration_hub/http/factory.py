"""Clients by name: one for each system, so that each has one pool, one budget and one breaker.

May import: `domain`, `client`, `options`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

from integration_hub.domain.errors import ValidationError, unpicklable
from integration_hub.http.client import HttpClient

#: Clients by version that are kept at once, with their connections: 1,024 open files are a common
#: limit, and a worker may have as many integrations as there are.
MOST_CURRENT = 500
_VERSIONS = 2  # of one name


class HttpClientFactory:
    """Makes clients by name when they are first asked for; safe to share between threads.

    ``HttpClientFactory({"timeout": 20}).register("crm", base_url="https://crm.example.com")``: the
    options of a name are those of an `HttpClient`, over the defaults of the factory, which may be
    given as a mapping or by name.
    """

    def __init__(self, defaults: Mapping[str, Any] | None = None, **more: Any) -> None:
        if not isinstance(defaults, Mapping | None):
            problem = "must be a mapping of what HttpClient takes"
            raise ValidationError("defaults", type(defaults).__name__, problem)
        self._defaults = {**(defaults or {}), **more}
        self._options: dict[str, dict[str, Any]] = {}
        self._clients: dict[str, HttpClient] = {}
        #: By name and version; the name that was last in use comes last, and the latest version.
        self._current: dict[str, dict[Hashable, HttpClient]] = {}
        self._lock = threading.Lock()

    def register(self, name: str, **options: Any) -> Self:
        """Say how the client of a name is made. Raises `ValidationError` if the name is taken."""
        with self._lock:
            if name in self._options:
                raise ValidationError("name", name, "is registered already; choose another")
            self._options[name] = options
        return self

    def get(self, name: str) -> HttpClient:
        """The client of a name, always the same. Raises `ValidationError` for an unknown name."""
        with self._lock:
            if name not in self._options:
                known = ", ".join(sorted(self._options)) or "none"
                raise ValidationError("name", name, f"must be registered first; known: {known}")
            if name not in self._clients:
                self._clients[name] = self._made(self._options[name])
            return self._clients[name]

    def current(
        self, name: str, version: Hashable, options: Callable[[], Mapping[str, Any]]
    ) -> HttpClient:
        """The client of a name and a version; a new version gets a fresh client, whose options are
        asked for.

        Of each name two versions are kept, since who works with the former may go on for a while.
        What is older is closed: what it has under way ends, and its pool goes with it. So is one
        that has not been asked for the longest, beyond `MOST_CURRENT` of them.
        """
        with self._lock:
            kept = self._kept(name, version)
        if kept is not None:
            return kept
        chosen = options()  # which may take its time, while others want other clients
        with self._lock:
            kept = self._kept(name, version)  # another thread may have been quicker
            if kept is not None:
                return kept
            client = self._made(chosen)
            versions = self._current.pop(name, {})
            self._current[name] = versions | {version: client}
            gone = []
            if len(self._current[name]) > _VERSIONS:
                gone.append(self._current[name].pop(next(iter(versions))))
            while sum(map(len, self._current.values())) > MOST_CURRENT:
                gone += self._current.pop(next(iter(self._current))).values()
        for former in gone:
            former.close()
        return client

    def _kept(self, name: str, version: Hashable) -> HttpClient | None:
        """The client of a version, if there is one; its name is the latest in use then."""
        client = self._current.get(name, {}).get(version)
        if client is not None:
            self._current[name] = self._current.pop(name)
        return client

    def close_all(self) -> None:
        """Close the connections of every client; a later `get` makes new clients."""
        with self._lock:
            clients = list(self._clients.values())
            for versions in self._current.values():
                clients += versions.values()
            self._clients.clear()
            self._current.clear()
        for client in clients:
            client.close()

    def __reduce__(self) -> NoReturn:
        """Raises `TypeError`: it belongs to its process."""
        raise unpicklable("an HttpClientFactory", "make one there, and register its clients")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close_all()

    def _made(self, options: Mapping[str, Any]) -> HttpClient:
        return HttpClient(**{**self._defaults, **options})

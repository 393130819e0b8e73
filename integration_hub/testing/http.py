"""A transport that answers from a script: no sockets, no waiting, time by a `ManualClock`.

May import: `http`, `domain`. ::

    transport = ScriptedTransport(ManualClock())
    transport.reply(503, headers={"Retry-After": "7"}).reply(200, json={"id": 1})
    client = HttpClient("https://crm.example.com", transport=transport)
    client.get("contacts/1").unwrap().json()  # after 7 seconds on the clock
    transport.requests  # both of them
"""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from integration_hub.domain.errors import ConnectionFailed, ResponseTooLarge
from integration_hub.http.messages import Headers, HttpRequest
from integration_hub.http.sockets import Deadline
from integration_hub.testing.clock import ManualClock

NOTHING: Any = object()


@dataclass(slots=True)
class ScriptedReply:
    """An answer of the script."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    request: HttpRequest | None = None

    def read(self, most: int) -> bytes:
        if len(self.content) > most:
            assert self.request is not None
            raise ResponseTooLarge(most, method=self.request.method, url=self.request.safe_url)
        return self.content

    def chunks(self, size: int) -> Iterator[bytes]:
        for start in range(0, len(self.content), size):
            yield self.content[start : start + size]

    def close(self) -> None:
        """Nothing is held."""


Step = Callable[[HttpRequest, Deadline], ScriptedReply]


class ScriptedTransport:
    """Answers each request with the next step of its script, and records it in `requests`.

    A request beyond the script is an `AssertionError`, as is leaving ``with`` with steps left.
    Bodies are recorded whole, streams too. `waits` are the seconds that the client slept.
    """

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.requests: list[HttpRequest] = []
        self.waits: list[float] = []
        self.is_closed = False
        self._script: list[Step] = []
        self._start = self.clock.now()

    # --- the script ---------------------------------------------------------------------------

    def reply(
        self,
        status: int = 200,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = NOTHING,
        content: bytes = b"",
        after: timedelta | float = 0.0,
    ) -> Self:
        """Next comes this answer, after so much time (a `timedelta` or seconds)."""
        fields = Headers(headers or {})
        if json is not NOTHING:
            content = json_module.dumps(json).encode()
            fields = Headers({"Content-Type": "application/json"}).merged(fields)

        def step(request: HttpRequest, deadline: Deadline) -> ScriptedReply:
            self._take(after, request, deadline)
            return ScriptedReply(status, fields, content, request)

        self._script.append(step)
        return self

    def fail(
        self,
        reason: str = "connection reset",
        *,
        was_sent: bool = True,
        after: timedelta | float = 0.0,
    ) -> Self:
        """Next the connection fails, before (`was_sent=False`) or after the request was sent."""

        def step(request: HttpRequest, deadline: Deadline) -> ScriptedReply:
            self._take(after, request, deadline)
            deadline.was_sent = was_sent
            where = {"method": request.method, "url": request.safe_url}
            raise ConnectionFailed(reason, was_sent=was_sent, **where)

        self._script.append(step)
        return self

    def hang(self, *, was_sent: bool = True) -> Self:
        """Next nothing is heard until the time limit of the client."""

        def step(request: HttpRequest, deadline: Deadline) -> ScriptedReply:
            deadline.was_sent = was_sent
            limit = deadline.read if was_sent else deadline.connect
            self.clock.advance(max(0.0, min(limit, deadline.left())))
            raise deadline.passed("read" if was_sent else "connect", request)

        self._script.append(step)
        return self

    @property
    def left(self) -> int:
        """How many steps of the script have not been played."""
        return len(self._script)

    # --- as a transport -----------------------------------------------------------------------

    def send(self, request: HttpRequest, deadline: Deadline) -> ScriptedReply:
        body = request.body
        if body is not None and not isinstance(body, bytes):
            read = getattr(body, "read", None)
            body = read() if read is not None else b"".join(body)
        method, url, headers = request.method, request.url, request.headers
        recorded = HttpRequest(method, url, headers, body, request.attempt)
        self.requests.append(recorded)
        assert self._script, f"the script has no answer to {recorded!r}"
        deadline.was_sent = True
        return self._script.pop(0)(recorded, deadline)

    def now(self) -> float:
        return (self.clock.now() - self._start).total_seconds()

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.advance(seconds)

    def close(self) -> None:
        self.is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> None:
        assert exc_type is not None or not self._script, f"{self.left} steps were not played"

    def _take(self, after: timedelta | float, request: HttpRequest, deadline: Deadline) -> None:
        """Let the time of an answer pass, or run into the time limit that comes first."""
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        limit = min(deadline.read, deadline.left())
        if seconds > limit:
            self.clock.advance(max(0.0, limit))
            raise deadline.passed("read", request)
        self.clock.advance(seconds)

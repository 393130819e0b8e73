"""A transport that answers from a script: no sockets, no waiting, time by a `ManualClock`.

May import: `http`, `domain`, urllib3. ::

    transport = ScriptedTransport(ManualClock())
    transport.reply(503, headers={"Retry-After": "7"}).reply(200, json={"id": 1})
    client = HttpClient("https://crm.example.com", transport=transport)
    client.get("contacts/1").unwrap().json()  # after 7 seconds on the clock
    transport.requests  # both of them
"""

from __future__ import annotations

import io
import json as json_module
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Self

from urllib3 import HTTPResponse

from integration_hub.domain.errors import ConnectionFailed
from integration_hub.http.messages import Headers, HttpRequest
from integration_hub.http.sockets import Deadline
from integration_hub.http.transport import Reply, Urllib3Reply
from integration_hub.testing.clock import ManualClock

NOTHING: Any = object()
_BODILESS = (204, 304)  # RFC 9110, 6.4.1


Step = Callable[[HttpRequest, Deadline], Reply]


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
        """Next comes this answer, after so much time (a `timedelta` or seconds).

        As from a server, it has no body where it answers a HEAD, or has status 204 or 304, and one
        with a ``Content-Encoding`` is decoded.
        """
        fields = Headers(headers or {})
        if json is not NOTHING:
            content = json_module.dumps(json).encode()
            fields = Headers({"Content-Type": "application/json"}).merged(fields)

        def step(request: HttpRequest, deadline: Deadline) -> Reply:
            self._take(after, request, deadline)
            has_body = request.method != "HEAD" and status not in _BODILESS
            raw = HTTPResponse(
                io.BytesIO(content if has_body else b""),
                headers=fields,
                status=status,
                preload_content=False,
            )
            return Urllib3Reply(raw, request, deadline)

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

        def step(request: HttpRequest, deadline: Deadline) -> Reply:
            self._take(after, request, deadline)
            deadline.was_sent = was_sent
            where = {"method": request.method, "url": request.safe_url}
            raise ConnectionFailed(reason, was_sent=was_sent, **where)

        self._script.append(step)
        return self

    def hang(self, *, was_sent: bool = True) -> Self:
        """Next nothing is heard until the time limit of the client."""

        def step(request: HttpRequest, deadline: Deadline) -> Reply:
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

    def send(self, request: HttpRequest, deadline: Deadline) -> Reply:
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

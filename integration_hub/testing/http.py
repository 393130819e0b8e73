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
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from urllib3 import HTTPResponse

from integration_hub.domain.errors import ConnectionFailed
from integration_hub.domain.values import checked_count, checked_kind
from integration_hub.http.messages import Headers, HttpRequest
from integration_hub.http.sockets import Deadline
from integration_hub.http.transport import Reply, Urllib3Reply
from integration_hub.testing.clock import ManualClock

NOTHING: Any = object()
_BODILESS = (204, 304)  # RFC 9110, 6.4.1


Play = Callable[[HttpRequest, Deadline], Reply]


@dataclass(slots=True, eq=False)
class _Step:
    """What comes next to whom, and how often; None: as often as it is asked for, or never."""

    play: Play
    to: str
    times: int | None


class ScriptedTransport:
    """Answers each request with the next step of its script, and records it in `requests`.

    A step that says `to` waits for a request whose method and URL hold this text, as ``"/orders"``,
    ``"POST "`` or ``"GET https://crm"``; others are answered by the next that fits them, so that
    threads may send as they come. A step is played once, or `times`; with ``times=None`` as often
    as it fits, and it need not be. A request that no step fits is an `AssertionError`, as is
    leaving ``with`` with steps left. Bodies are recorded whole, streams too. `waits` are the
    seconds that the client slept.
    """

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.requests: list[HttpRequest] = []
        self.waits: list[float] = []
        self.is_closed = False
        self._script: list[_Step] = []
        self._turn = threading.Lock()
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
        to: str = "",
        times: int | None = 1,
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

        return self._then(step, to, times)

    def fail(
        self,
        reason: str = "connection reset",
        *,
        was_sent: bool = True,
        after: timedelta | float = 0.0,
        to: str = "",
        times: int | None = 1,
    ) -> Self:
        """Next the connection fails, before (`was_sent=False`) or after the request was sent."""

        def step(request: HttpRequest, deadline: Deadline) -> Reply:
            self._take(after, request, deadline)
            deadline.was_sent = was_sent
            where = {"method": request.method, "url": request.safe_url}
            raise ConnectionFailed(reason, was_sent=was_sent, **where)

        return self._then(step, to, times)

    def hang(self, *, was_sent: bool = True, to: str = "", times: int | None = 1) -> Self:
        """Next nothing is heard until the time limit of the client."""

        def step(request: HttpRequest, deadline: Deadline) -> Reply:
            deadline.was_sent = was_sent
            limit = deadline.read if was_sent else deadline.connect
            self.clock.advance(max(0.0, min(limit, deadline.left())))
            raise deadline.passed("read" if was_sent else "connect", request)

        return self._then(step, to, times)

    @property
    def left(self) -> int:
        """How many steps of the script have not been played."""
        return sum(step.times or 0 for step in self._script)

    def _then(self, play: Play, to: str, times: int | None) -> Self:
        if times is not None:
            checked_count("times", times, least=1)
        self._script.append(_Step(play, checked_kind("to", to, str, "must be text"), times))
        return self

    # --- as a transport -----------------------------------------------------------------------

    def send(self, request: HttpRequest, deadline: Deadline) -> Reply:
        body = request.body
        if body is not None and not isinstance(body, bytes):
            read = getattr(body, "read", None)
            body = read() if read is not None else b"".join(body)
        method, url, headers = request.method, request.url, request.headers
        recorded = HttpRequest(method, url, headers, body, request.attempt)
        with self._turn:
            self.requests.append(recorded)
            play = self._next(f"{method} {url}")
        assert play is not None, f"the script has no answer to {recorded!r}"
        deadline.was_sent = True
        return play(recorded, deadline)

    def _next(self, asked: str) -> Play | None:
        step = next((step for step in self._script if step.to in asked), None)
        if step is None:
            return None
        if step.times is not None:
            step.times -= 1
            if not step.times:
                self._script.remove(step)
        return step.play

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
        assert exc_type is not None or not self.left, f"{self.left} steps were not played"

    def _take(self, after: timedelta | float, request: HttpRequest, deadline: Deadline) -> None:
        """Let the time of an answer pass, or run into the time limit that comes first."""
        seconds = after.total_seconds() if isinstance(after, timedelta) else after
        limit = min(deadline.read, deadline.left())
        if seconds > limit:
            self.clock.advance(max(0.0, limit))
            raise deadline.passed("read", request)
        self.clock.advance(seconds)

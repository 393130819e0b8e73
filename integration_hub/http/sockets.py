"""Sockets, connections and pools that know the deadline of the call that they serve.

May import: `domain`, `messages`, `options`, urllib3.

A time limit of a socket starts anew with every byte, so a server that sends one byte a second
would never run into it. Here each wait of a socket asks the deadline of the call first, which is
computed once.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from email.errors import MissingHeaderBodySeparatorDefect
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, UnknownProtocol
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from integration_hub.domain.errors import Phase, TimedOut
from integration_hub.http.messages import HttpRequest
from integration_hub.http.options import Timeout

Addresses = list[tuple[Any, Any, int, str, Any]]
"""What `socket.getaddrinfo` gives."""


@dataclass(slots=True)
class Deadline:
    """When a call must be over, in the seconds of its transport's clock, and its other limits."""

    at: float
    connect: float
    read: float
    total: float
    now: Callable[[], float] = time.monotonic
    was_sent: bool = False
    guard: Callable[[str, Addresses], Addresses] | None = None
    """Which of a host's addresses may be connected to; raises if none may."""

    @classmethod
    def of(cls, timeout: Timeout, now: Callable[[], float]) -> Deadline:
        connect, read, total = timeout.seconds
        return cls(now() + total, connect, read, total, now)

    def left(self) -> float:
        return self.at - self.now()

    def no_later_than(self, other: Deadline | None) -> None:
        """Be over with a call that this one is made for, to get a token say, on whatever clock."""
        if other is None:
            return
        now, left = self.now(), max(0.0, other.left())
        if now + left < self.at:
            self.at, self.total = now + left, left

    def wait(self, limit: float) -> float:
        """How long a socket may wait for something with this limit; raises if it is over."""
        left = self.at - self.now()
        if left <= 0:
            raise TimeoutError("the time limit of the call has passed")
        return min(limit, left)

    def passed(self, phase: Phase, request: HttpRequest) -> TimedOut:
        """The error to raise where a wait was too long."""
        if phase != "total" and self.left() <= 0:
            phase = "total"
        limit = {"total": self.total, "read": self.read}.get(phase, self.connect)
        return TimedOut(
            phase,
            timedelta(seconds=limit),
            method=request.method,
            url=request.safe_url,
            was_sent=self.was_sent,
        )


DEADLINE: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def within(deadline: Deadline) -> Iterator[None]:
    """A block that belongs to a call: what waits in it asks the call's deadline first."""
    token = DEADLINE.set(deadline)
    try:
        yield
    finally:
        DEADLINE.reset(token)


def _armed(sock: socket.socket) -> None:
    """Let the socket wait no longer than the call that this thread makes."""
    deadline = DEADLINE.get()
    if deadline is not None:
        sock.settimeout(deadline.wait(deadline.read))


class _Socket(socket.socket):
    """A socket whose every wait asks the deadline first."""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        _armed(self)
        return super().recv_into(buffer, nbytes, flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        _armed(self)  # the time limit is for all of it: socket.sendall, since Python 3.5
        super().sendall(data, flags)


class TlsSocket(ssl.SSLSocket):
    """The same within TLS, where `sendall` sends piece by piece."""

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        _armed(self)
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        _armed(self)
        return super().send(data, flags)


class BrokenHeaders(HTTPException):
    """Headers that can't be read: without them, nobody can tell where the body ends."""


class _Answer(HTTPResponse):
    """An answer, past those that come before it, such as 103 (RFC 9110, 15.2: any number of them).

    http.client goes past 100 alone: it would take another one for the answer, and the answer for
    that of the next request. And it leaves headers out that come after one that is broken; urllib3
    then writes these, and the whole URL, into its log.
    """

    def begin(self) -> None:
        super().begin()
        while 100 < self.status < 200:
            if self.status == HTTPStatus.SWITCHING_PROTOCOLS:  # nobody has asked for that
                raise UnknownProtocol(self.reason)
            self.headers = None  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
            super().begin()
        if any(isinstance(each, MissingHeaderBodySeparatorDefect) for each in self.msg.defects):
            raise BrokenHeaders
        self.msg.defects.clear()


class _Connects(HTTPConnection):
    """How both kinds of connection are made, and how they note that something was sent."""

    response_class = _Answer

    def _new_conn(self) -> socket.socket:
        deadline = DEADLINE.get()
        assert deadline is not None
        refused: OSError | None = None
        try:
            addresses = _resolved(self._dns_host, self.port, deadline)
            if deadline.guard is not None:
                addresses = deadline.guard(self._dns_host, addresses)
            for family, kind, protocol, _, address in addresses:
                sock = _Socket(family, kind, protocol)
                try:
                    for option in self.socket_options or ():
                        sock.setsockopt(*option)
                    sock.settimeout(deadline.wait(deadline.connect))
                    sock.connect(address)
                except OSError as error:
                    sock.close()
                    refused = error
                else:
                    return sock
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        if isinstance(refused, TimeoutError):
            raise ConnectTimeoutError(self, "no connection in time") from refused
        raise NewConnectionError(self, "no connection") from refused

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        deadline = DEADLINE.get()
        if deadline is not None:
            deadline.was_sent = True
        super().send(data)


class _Connection(_Connects, HTTPConnection):
    pass


class _TlsConnection(_Connects, HTTPSConnection):
    pass


class Pool(HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType]


class TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection  # pyright: ignore[reportAssignmentType]


def _resolved(host: str, port: int | None, deadline: Deadline) -> Addresses:
    """The addresses of a host, looked up in a thread: the system's resolver has no time limit."""
    answers: queue.SimpleQueue[Addresses | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True, name="integration-hub-resolver").start()
    try:
        answer = answers.get(timeout=deadline.wait(deadline.connect))
    except queue.Empty:
        raise TimeoutError("the name was not resolved in time") from None
    if isinstance(answer, OSError):
        raise answer
    return answer

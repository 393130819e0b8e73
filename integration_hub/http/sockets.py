"""Sockets, connections and pools that know the deadline of the call that they serve.

May import: `domain`, `messages`, `options`, urllib3.

A time limit of a socket starts anew with every byte, so a server that sends one byte a second
would never run into it. Here each wait of a socket asks the deadline of the call first, which is
computed once.
"""

from __future__ import annotations

import queue
import re
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
from typing import Any, TypeAlias

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from integration_hub.domain.errors import Phase, TimedOut
from integration_hub.http.messages import HttpRequest
from integration_hub.http.options import Timeout

_REFUSED = re.compile(r"Tunnel connection failed: (\d+)")  # as http.client says it
Addresses: TypeAlias = list[tuple[Any, Any, int, str, Any]]
"""What `socket.getaddrinfo` gives."""
Guards: TypeAlias = Callable[[str, Addresses], Addresses]
"""Which of a host's addresses may be connected to; raises if none may."""


@dataclass(slots=True)
class Deadline:
    """When a call must be over, in the seconds of its transport's clock, and its other limits."""

    at: float
    connect: float
    read: float
    total: float
    now: Callable[[], float] = time.monotonic
    was_sent: bool = False
    guard: Guards | None = None

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


def _deadline() -> Deadline:
    """That of the call that a connection is made for."""
    found = DEADLINE.get()
    assert found is not None
    return found


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

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Asked where TLS is within TLS; and at first, where the other end is gone already."""
        _armed(self)
        try:
            return super().recv(buflen, flags)
        except ConnectionError:
            if self.version() is None:  # ssl would leave it open
                self.close()
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        _armed(self)
        return super().send(data, flags)


class TunnelRefused(OSError):
    """A proxy answered a CONNECT with a status that is not 200."""


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
    _tunnel_headers: dict[str, str]  # http.client's

    def connect(self) -> None:
        deadline = _deadline()
        ends_at = deadline.at
        try:
            super().connect()
        except TimeoutError as error:  # of the tunnel, or of TLS
            raise ConnectTimeoutError(self, "no connection in time") from error
        finally:
            deadline.at = ends_at

    def _new_conn(self) -> socket.socket:
        """Connect; what is left to do after it, a tunnel and TLS, has as long again in all."""
        deadline = _deadline()
        refused: OSError | None = None
        try:
            guard = deadline.guard if self.proxy is None else None
            for family, kind, protocol, _, address in _allowed(
                guard, self._dns_host, self.port, deadline
            ):
                sock = _Socket(family, kind, protocol)
                try:
                    for option in self.socket_options or ():
                        sock.setsockopt(*option)
                    sock.settimeout(deadline.wait(deadline.connect))
                    sock.connect(address)
                    deadline.at = min(deadline.at, deadline.now() + deadline.connect)
                    sock.settimeout(deadline.wait(deadline.connect))
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

    def _tunnel(self) -> None:
        """Ask the proxy for a tunnel: nothing of the request is sent by that.

        With a guard it is asked for an address that was checked, and not for the name, which it
        might resolve to another one.
        """
        deadline = _deadline()
        was_sent, host, headers = deadline.was_sent, self._tunnel_host, self._tunnel_headers
        assert host is not None
        try:
            if deadline.guard is not None:
                (*_, address), *_ = _allowed(deadline.guard, host, self._tunnel_port, deadline)
                self._tunnel_host = address[0]
                if "Host" in headers:  # from Python 3.12 on
                    self._tunnel_headers = {**headers, "Host": _authority(*address[:2])}
            super()._tunnel()
        except OSError as error:
            status = _REFUSED.match(str(error))
            if status is None:
                raise
            raise TunnelRefused(f"its proxy refused to connect to it ({status[1]})") from None
        finally:
            deadline.was_sent = was_sent
            self._tunnel_host, self._tunnel_headers = host, headers

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


def _authority(address: str, port: int) -> str:
    """As a CONNECT, and its Host, name it (RFC 9110, 9.3.6)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _allowed(guard: Guards | None, host: str, port: int | None, deadline: Deadline) -> Addresses:
    """The addresses of a host that may be connected to."""
    addresses = _resolved(host, port, deadline)
    return addresses if guard is None else guard(host, addresses)


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

"""One exchange with another system over a real connection, on urllib3; and one deadline for it.

May import: `domain`, `messages`, `options`, urllib3, requests (for the rules of proxies).

A time limit of a socket starts anew with every byte, so a server that sends one byte a second
would never run into it. Here each wait of a socket asks the deadline of the call first, which is
computed once.
"""

from __future__ import annotations

import builtins
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, Protocol

import urllib3
from requests.utils import address_in_network, is_ipv4_address, is_valid_cidr
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.exceptions import DecodeError as BrokenEncoding
from urllib3.exceptions import HTTPError as Urllib3Error
from urllib3.util import Url, parse_url

from integration_hub.domain.errors import (
    ConnectionFailed,
    DecodeError,
    Phase,
    ResponseTooLarge,
    TimedOut,
)
from integration_hub.http.messages import HttpRequest
from integration_hub.http.options import Limits, Proxies, Timeout, Tls
from integration_hub.http.urls import Origin, origin

_CHUNK = 64 * 1024


@dataclass(slots=True)
class Deadline:
    """When a call must be over, in the seconds of its transport's clock, and its other limits."""

    at: float
    connect: float
    read: float
    total: float
    now: Callable[[], float] = time.monotonic
    was_sent: bool = False

    @classmethod
    def of(cls, timeout: Timeout, now: Callable[[], float]) -> Deadline:
        connect, read, total = timeout.seconds
        return cls(now() + total, connect, read, total, now)

    def left(self) -> float:
        return self.at - self.now()

    def wait(self, limit: float) -> float:
        """How long a socket may wait for something with this limit; raises if it is over."""
        left = self.at - self.now()
        if left <= 0:
            raise builtins.TimeoutError("the time limit of the call has passed")
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


class Reply(Protocol):
    """An answer whose body is still to be read, by one of `read` and `chunks`."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...

    def read(self, most: int) -> bytes:
        """The whole body, decoded. Raises `ResponseTooLarge` beyond `most` bytes."""
        ...

    def chunks(self, size: int) -> Iterator[bytes]:
        """The body, decoded, in pieces of at most `size` bytes."""
        ...

    def close(self) -> None: ...


class Transport(Protocol):
    """What carries requests; `integration_hub.testing.ScriptedTransport` is another one.

    Faults are raised as `HttpError`; an answer of any status is a `Reply`.
    """

    def send(self, request: HttpRequest, deadline: Deadline) -> Reply: ...
    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...
    def close(self) -> None: ...


class UrllibTransport:
    """Connections of urllib3, kept in one pool per host; safe to share between threads."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._proxies = proxies or Proxies()
        self._context = _tls_context(tls or Tls())
        self._pools: dict[Origin, HTTPConnectionPool] = {}
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        with self._lock:
            for manager in self._managers.values():
                manager.clear()
            self._pools.clear()

    def send(self, request: HttpRequest, deadline: Deadline) -> Reply:
        url = parse_url(request.url)
        pool = self._pools.get(origin(url)) or self._open(url)
        body = request.body
        is_stream = body is not None and not isinstance(body, bytes)
        token = _DEADLINE.set(deadline)
        try:
            raw = pool.urlopen(
                request.method,
                request.url if _is_forwarded(pool) else url.request_uri,
                body=body,
                headers=request.headers.plain(),
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                timeout=_timeout(deadline),
                pool_timeout=deadline.wait(deadline.connect),  # type: ignore[arg-type]
                chunked=is_stream and "content-length" not in request.headers,
            )
        except (Urllib3Error, OSError, ValueError) as error:
            _raise(error, request, deadline)
        finally:
            _DEADLINE.reset(token)
        return _Urllib3Reply(raw, request, deadline)

    def _open(self, url: Url) -> HTTPConnectionPool:
        with self._lock:
            proxy = self._proxy_of(url)
            manager = self._managers.get(proxy) or self._manager(proxy)
            self._managers[proxy] = manager
            assert url.host is not None
            pool = manager.connection_from_host(url.host, url.port, url.scheme)
            self._pools[origin(url)] = pool
        return pool

    def _proxy_of(self, url: Url) -> str | None:
        proxy = self._proxies.https if url.scheme == "https" else self._proxies.http
        return None if proxy is None or needs_no_proxy(url, self._proxies.no_proxy) else proxy

    def _manager(self, proxy: str | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": 1_000,
            "maxsize": self._limits.pool,
            "block": True,
            "ssl_context": self._context,
        }
        manager = (
            urllib3.PoolManager(**options)
            if proxy is None
            else urllib3.ProxyManager(
                _without_credentials(proxy), proxy_headers=_proxy_headers(proxy), **options
            )
        )
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager


def _tls_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    context.sslsocket_class = _TlsSocket
    return context


def needs_no_proxy(url: Url, exceptions: Iterable[str]) -> bool:
    """Whether a host is reached directly: by its name, a domain above it, its address or network.

    What ``NO_PROXY`` means elsewhere; ``*`` is every host. (requests has a function for it that
    changes the environment while it thinks, which no thread should.)
    """
    host = (url.host or "").lower()
    for exception in exceptions:
        pattern = exception.lower().lstrip(".")
        if pattern in ("*", host, f"{host}:{url.port}") or host.endswith(f".{pattern}"):
            return True
        if is_ipv4_address(host) and is_valid_cidr(pattern) and address_in_network(host, pattern):
            return True
    return False


def _without_credentials(proxy: str) -> str:
    return parse_url(proxy)._replace(auth=None).url


def _proxy_headers(proxy: str) -> Any:
    auth = parse_url(proxy).auth
    return urllib3.make_headers(proxy_basic_auth=auth) if auth else None


def _is_forwarded(pool: HTTPConnectionPool) -> bool:
    """Whether a proxy is asked for the whole URL, as for http, and not to tunnel."""
    return pool.proxy is not None and pool.scheme == "http"


def _timeout(deadline: Deadline) -> urllib3.Timeout:
    return urllib3.Timeout(
        connect=deadline.wait(deadline.connect), read=deadline.wait(deadline.read)
    )


def _raise(error: Exception, request: HttpRequest, deadline: Deadline) -> NoReturn:
    """Raise the error of ours that one of urllib3's, or of a socket, stands for."""
    if isinstance(error, EmptyPoolError):
        raise deadline.passed("pool", request) from error
    if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
        raise deadline.passed("connect", request) from error
    causes = _causes(error)
    if any(isinstance(each, ReadTimeoutError | TimeoutError) for each in causes):
        raise deadline.passed("read", request) from error
    if isinstance(error, BrokenEncoding):
        problem = "its content encoding is broken"
        raise DecodeError("", problem, method=request.method, url=request.safe_url) from error
    raise ConnectionFailed(
        _reason(causes), method=request.method, url=request.safe_url, was_sent=deadline.was_sent
    ) from error


def _causes(error: Exception) -> list[Exception]:
    """The error, and what it came of: urllib3 hands that over as an argument."""
    found = [error, *(each for each in error.args if isinstance(each, Exception))]
    return [*found, *(each for each in (error.__cause__,) if isinstance(each, Exception))]


def _reason(causes: list[Exception]) -> str:
    """What went wrong, without the object addresses and URLs that urllib3 writes along."""
    for each in reversed(causes):
        if isinstance(each, socket.gaierror):
            return "its name can't be resolved"
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({each.verify_message})"
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
    return type(causes[-1]).__name__


class _Urllib3Reply:
    """An answer of urllib3."""

    def __init__(
        self, raw: urllib3.BaseHTTPResponse, request: HttpRequest, deadline: Deadline
    ) -> None:
        self._raw = raw
        self._request = request
        self._deadline = deadline
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers

    def read(self, most: int) -> bytes:
        token = _DEADLINE.set(self._deadline)
        try:
            content: bytes = self._raw.read(most + 1, decode_content=True)
        except (Urllib3Error, OSError, ValueError) as error:
            self._raw.close()
            _raise(error, self._request, self._deadline)
        finally:
            _DEADLINE.reset(token)
        if len(content) > most:
            self._raw.close()
            raise ResponseTooLarge(most, method=self._request.method, url=self._request.safe_url)
        self._raw.release_conn()
        return content

    def chunks(self, size: int) -> Iterator[bytes]:
        try:
            while chunk := self._chunk(size):
                yield chunk
        finally:
            self._raw.close()

    def _chunk(self, size: int) -> bytes:
        token = _DEADLINE.set(self._deadline)
        try:
            found: bytes = self._raw.read(size, decode_content=True)
            return found
        except (Urllib3Error, OSError, ValueError) as error:
            _raise(error, self._request, self._deadline)
        finally:
            _DEADLINE.reset(token)

    def close(self) -> None:
        self._raw.close()


# --- sockets that know the deadline ------------------------------------------------------------

_DEADLINE: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def _armed(sock: socket.socket) -> None:
    """Let the socket wait no longer than the call that this thread makes."""
    deadline = _DEADLINE.get()
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


class _TlsSocket(ssl.SSLSocket):
    """The same within TLS, where `sendall` sends piece by piece."""

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        _armed(self)
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        _armed(self)
        return super().send(data, flags)


class _Connects(HTTPConnection):
    """How both kinds of connection are made, and how they note that something was sent."""

    def _new_conn(self) -> socket.socket:
        deadline = _DEADLINE.get()
        assert deadline is not None
        refused: OSError | None = None
        try:
            for family, kind, protocol, _, address in _resolved(
                self._dns_host, self.port, deadline
            ):
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
        deadline = _DEADLINE.get()
        if deadline is not None:
            deadline.was_sent = True
        super().send(data)


class _Connection(_Connects, HTTPConnection):
    pass


class _TlsConnection(_Connects, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType]


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection  # pyright: ignore[reportAssignmentType]


Addresses = list[tuple[Any, Any, int, str, Any]]


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
        raise builtins.TimeoutError("the name was not resolved in time") from None
    if isinstance(answer, OSError):
        raise answer
    return answer

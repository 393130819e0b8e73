"""What carries a request to another system: connections of urllib3, in one pool per host.

May import: `domain`, `messages`, `options`, `sockets`, urllib3.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, NoReturn, Protocol

import urllib3
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)
from urllib3.exceptions import DecodeError as BrokenEncoding
from urllib3.exceptions import HTTPError as Urllib3Error
from urllib3.util import Url, parse_url

from integration_hub.domain.errors import (
    BlockedAddress,
    ConnectionFailed,
    DecodeError,
    ResponseTooLarge,
    ValidationError,
)
from integration_hub.http.messages import HttpRequest
from integration_hub.http.options import Limits, Proxies, Tls, checked_proxies, checked_tls
from integration_hub.http.sockets import (
    Addresses,
    Deadline,
    Pool,
    TlsPool,
    TlsSocket,
    TunnelRefused,
    within,
)
from integration_hub.http.urls import Origin, origin

#: Hosts whose connections are kept open, or else who sends to many would run out of open files.
_MOST_HOSTS = 200


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


class Guard(Protocol):
    """Which of the addresses that a host was resolved to may be connected to.

    The connection is made to one of these: the name is not resolved again. Raises
    `BlockedAddress` where there is none.
    """

    def __call__(self, host: str, addresses: Addresses, *, method: str, url: str) -> Addresses: ...


class UrllibTransport:
    """Connections of urllib3, kept in one pool per host; safe to share between threads.

    With a `guard`, a proxy is asked to connect to the very address that was checked; what can't be
    checked, http by a proxy, is refused.
    A process that is forked has pools of its own: on a connection that two use, one may read what
    the other was answered.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
        proxies: Proxies | None = None,
        guard: Guard | None = None,
    ) -> None:
        tls, proxies = checked_tls(tls), checked_proxies(proxies)
        if guard is not None and (isinstance(guard, type) or not callable(guard)):
            raise ValidationError("guard", guard, "must be such as AddressGuard()")
        self._limits = limits or Limits()
        self._guard = guard
        self._proxies = proxies or Proxies()
        self._context = _tls_context(tls or Tls())
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
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
        if os.getpid() != self._owner:
            self._begin()
        pool = self._pools.get(origin(url)) or self._open(url)
        is_forwarded = pool.proxy is not None and url.scheme == "http"  # by a proxy: no tunnel
        body = request.body
        is_stream = body is not None and not isinstance(body, bytes)
        if self._guard is not None:
            where: dict[str, Any] = {"method": request.method, "url": request.safe_url}
            if is_forwarded:
                why = "behind a proxy, which looks it up by itself; https can be checked"
                raise BlockedAddress(None, why, **where)
            deadline.guard = partial(self._guard, **where)
        try:
            with within(deadline):
                raw = pool.urlopen(
                    request.method,
                    request.url if is_forwarded else url.request_uri,
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
        return Urllib3Reply(raw, request, deadline)

    def _open(self, url: Url) -> HTTPConnectionPool:
        with self._lock:
            proxy = self._proxy_of(url)
            manager = self._managers.get(proxy) or self._manager(proxy)
            self._managers[proxy] = manager
            assert url.host is not None
            pool = manager.connection_from_host(url.host, url.port, url.scheme)
            self._pools[origin(url)] = pool
            if len(self._pools) > _MOST_HOSTS:  # what it has open is closed when nobody uses it
                del self._pools[next(iter(self._pools))]
        return pool

    def _proxy_of(self, url: Url) -> str | None:
        proxy = self._proxies.https if url.scheme == "https" else self._proxies.http
        return None if proxy is None or needs_no_proxy(url, self._proxies.no_proxy) else proxy

    def _manager(self, proxy: str | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": _MOST_HOSTS,
            "maxsize": self._limits.pool,
            "block": True,
            "ssl_context": self._context,
        }
        manager = (
            urllib3.PoolManager(**options)
            if proxy is None
            else urllib3.ProxyManager(
                _without_credentials(proxy),
                proxy_headers=_proxy_headers(proxy),
                proxy_ssl_context=self._context,
                **options,
            )
        )
        manager.pool_classes_by_scheme = {"http": Pool, "https": TlsPool}
        return manager


def _tls_context(tls: Tls) -> ssl.SSLContext:
    """One for all who want the same, of the same files: each takes some 10 ms, and a megabyte for
    the certificates that are trusted. Raises `ValidationError` for files that can't be used.
    """
    try:
        files = [each for each in (tls.ca, tls.certificate, tls.key) if each is not None]
        return _made_context(tls, tuple(Path(each).stat().st_mtime_ns for each in files))
    except OSError as error:  # as errors of SSL are
        problem = f"must name PEM files that can be used ({error.strerror or error})"
        raise ValidationError("tls", error.filename or tls, problem) from error


@lru_cache(maxsize=64)
def _made_context(tls: Tls, changed_at: tuple[int, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    context.sslsocket_class = TlsSocket
    return context


def needs_no_proxy(url: Url, exceptions: Iterable[str]) -> bool:
    """Whether a host is reached directly: by its name, a domain above it, its address or network.

    What ``NO_PROXY`` means elsewhere; ``*`` is every host, and ``*.crm.test`` what is below a
    domain. (requests has a function for it that changes the environment while it thinks, which no
    thread should.)
    """
    host = (url.host or "").lower().rstrip(".")
    address = _address(host)
    for exception in exceptions:
        pattern = exception.lower()
        if pattern in ("*", host, f"{host}:{url.port}"):
            return True
        if _is_below(host, pattern) if address is None else _is_within(address, pattern):
            return True
    return False


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_below(host: str, pattern: str) -> bool:
    domain = pattern.removeprefix("*").lstrip(".")
    return f".{host}".endswith(f".{domain}")


def _is_within(address: IPv4Address | IPv6Address, pattern: str) -> bool:
    """Whether the pattern is this address, however it is spelled, or a network that it is of."""
    try:
        return address in ip_network(pattern, strict=False)
    except ValueError:
        return False


def _without_credentials(proxy: str) -> str:
    return parse_url(proxy)._replace(auth=None).url


def _proxy_headers(proxy: str) -> Any:
    auth = parse_url(proxy).auth
    return urllib3.make_headers(proxy_basic_auth=auth) if auth else None


def _timeout(deadline: Deadline) -> urllib3.Timeout:
    return urllib3.Timeout(
        connect=deadline.wait(deadline.connect), read=deadline.wait(deadline.read)
    )


def _raise(error: Exception, request: HttpRequest, deadline: Deadline) -> NoReturn:
    """Raise the error of ours that one of urllib3's, or of a socket, stands for."""
    if isinstance(error, EmptyPoolError):
        raise deadline.passed("pool", request) from error
    causes = _causes(error)
    if any(_is_connect_timeout(each) for each in causes):
        raise deadline.passed("connect", request) from error
    if any(isinstance(each, ReadTimeoutError | TimeoutError) for each in causes):
        raise deadline.passed("read", request) from error
    if isinstance(error, BrokenEncoding):
        problem = "its content encoding is broken"
        raise DecodeError("", problem, method=request.method, url=request.safe_url) from error
    raise ConnectionFailed(
        _reason(causes), method=request.method, url=request.safe_url, was_sent=deadline.was_sent
    ) from error


def _is_connect_timeout(error: BaseException) -> bool:
    return isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError)


def _causes(error: BaseException) -> list[BaseException]:
    """The error, and what it came of, the first cause last: urllib3 hands them over as arguments,
    one within the other.
    """
    found = [error]
    for each in found:
        inner = (*each.args, each.__cause__)
        found += [one for one in inner if isinstance(one, Exception) and one not in found]
    return found


def _reason(causes: list[BaseException]) -> str:
    """What went wrong, without the object addresses and URLs that urllib3 writes along."""
    whose = "its proxy: " if any(isinstance(each, ProxyError) for each in causes) else ""
    return whose + _words(causes)


def _words(causes: list[BaseException]) -> str:
    for each in reversed(causes):
        if isinstance(each, TunnelRefused):
            return str(each)
        if isinstance(each, socket.gaierror):
            return "its name can't be resolved"
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({each.verify_message})"
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
    return type(causes[-1]).__name__


class Urllib3Reply:
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
        try:
            with within(self._deadline):
                content: bytes = self._raw.read(most + 1, decode_content=True)
        except (Urllib3Error, OSError, ValueError) as error:
            self.close()
            _raise(error, self._request, self._deadline)
        if len(content) > most:
            self.close()
            names = {"method": self._request.method, "url": self._request.safe_url}
            raise ResponseTooLarge(most, status=self.status, **names)
        self._raw.release_conn()
        return content

    def chunks(self, size: int) -> Iterator[bytes]:
        try:
            while chunk := self._chunk(size):
                yield chunk
        finally:
            self.close()

    def _chunk(self, size: int) -> bytes:
        try:
            with within(self._deadline):
                found: bytes = self._raw.read1(size, decode_content=True)  # what is there
                return found
        except (Urllib3Error, OSError, ValueError) as error:
            _raise(error, self._request, self._deadline)

    def close(self) -> None:
        self._raw.close()
        self._raw.release_conn()  # or its place in the pool would be taken for ever

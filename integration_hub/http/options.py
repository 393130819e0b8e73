"""How a client is set up: plain values, checked when they are made; also from a stored config.

May import: `domain`, `retry`, pydantic, urllib3 (which takes URLs apart).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pydantic
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from integration_hub.domain.errors import ValidationError
from integration_hub.domain.values import checked_count, checked_kind, checked_period
from integration_hub.http.retry import Backoff, RetryPolicy

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Timeout:
    """Time limits, in seconds or as `timedelta`.

    `connect` is for a free connection of the pool, and again for making a new one; `read` for the
    next bytes of an answer; `total` for everything: all tries, the waits between them, redirects
    and the body. The total counts from the call and never starts anew.
    """

    connect: timedelta | float = 5.0
    read: timedelta | float = 30.0
    total: timedelta | float = 60.0

    def __post_init__(self) -> None:
        for name in ("connect", "read", "total"):
            seconds = checked_period(f"timeout.{name}", getattr(self, name)).total_seconds()
            object.__setattr__(self, name, seconds)

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Connect, read and total, in seconds."""
        return self.connect, self.read, self.total  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a client takes: connections per host, bytes of a decoded body, redirects."""

    pool: int = 10
    max_response_bytes: int = 10 * MEBIBYTE
    max_redirects: int = 5

    def __post_init__(self) -> None:
        checked_count("limits.pool", self.pool, least=1)
        checked_count("limits.max_response_bytes", self.max_response_bytes, least=1)
        checked_count("limits.max_redirects", self.max_redirects)


@dataclass(frozen=True, slots=True)
class Tls:
    """Beyond the certificates that are trusted anyway: a CA of one's own (`ca`, a PEM file), and a
    client certificate (`certificate` and `key`, PEM files). Verification is always on.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Proxies:
    """Proxies by the scheme of the request, and the hosts that are reached without.

    A proxy is a URL, in which a user and a password may stand; one without a scheme is an http
    proxy, as elsewhere. `HubSettings` reads them from the environment, once.
    """

    http: str | None = None
    https: str | None = None
    no_proxy: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("http", "https"):
            object.__setattr__(self, name, _proxy(f"proxies.{name}", getattr(self, name)))

    def __repr__(self) -> str:
        return f"Proxies(no_proxy={self.no_proxy!r})"  # a proxy's URL may hold a password


def _proxy(field: str, given: str | None) -> str | None:
    if given is None:
        return None
    checked_kind(field, given, str, "must be text")
    url = given if "://" in given else f"http://{given}"
    try:
        parts = parse_url(url)
    except LocationParseError:  # it repeats the URL
        parts = Url()
    if parts.scheme not in ("http", "https") or not parts.host:
        problem = "must be an http or https proxy, such as http://proxy.test:3128"
        raise ValidationError(field, "<not shown>", problem)
    return url


def checked_tls(given: Tls | None) -> Tls | None:
    problem = "must be such as Tls(ca='ca.pem'); verification can't be turned off"
    return None if given is None else checked_kind("tls", given, Tls, problem)


def checked_proxies(given: Proxies | None) -> Proxies | None:
    problem = "must be such as Proxies(https='http://proxy.test:3128')"
    return None if given is None else checked_kind("proxies", given, Proxies, problem)


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class _TimeoutConfig(_Strict):
    connect: float = 5.0
    read: float = 30.0
    total: float = 60.0


class _RetryConfig(_Strict):
    attempts: int = 3
    base: float = 0.5
    factor: float = 2.0
    cap: float = 20.0
    retry_after_cap: float = 60.0
    statuses: list[int] | None = None


class HttpOptions(_Strict):
    """What an integration says in ``config["http"]`` of the client for its system.

    ``{"base_url": "https://crm.example.com/v1", "timeout": {"read": 10, "total": 30},
    "retry": {"attempts": 5}, "headers": {"Accept-Language": "de"}, "pool": 10}``; durations are
    seconds. Secrets do not belong here.
    """

    base_url: str
    timeout: _TimeoutConfig = _TimeoutConfig()
    retry: _RetryConfig = _RetryConfig()
    headers: dict[str, str] = {}
    pool: int = 10
    max_response_bytes: int = 10 * MEBIBYTE

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> HttpOptions:
        """The options in an integration's config; `ValidationError` names the key at fault."""
        if "http" not in config:
            raise ValidationError("config.http", None, "must say base_url, at least")
        try:
            return cls.model_validate(config["http"])
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in ("config", "http", *first["loc"]))
            raise ValidationError(where, "<not shown>", f"can't be used: {first['msg']}") from None

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of an `HttpClient`."""
        retry = self.retry
        policy: dict[str, Any] = {} if retry.statuses is None else {"statuses": retry.statuses}
        return {
            "base_url": self.base_url,
            "timeout": Timeout(self.timeout.connect, self.timeout.read, self.timeout.total),
            "retry": RetryPolicy(
                attempts=retry.attempts,
                backoff=Backoff(retry.base, retry.factor, retry.cap),
                retry_after_cap=retry.retry_after_cap,
                **policy,
            ),
            "headers": self.headers,
            "limits": Limits(self.pool, self.max_response_bytes),
        }

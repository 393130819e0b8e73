"""When a request is tried again, and how long to wait before: immutable values, and one budget.

May import: `domain`.
"""

from __future__ import annotations

import email.utils
import random
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from integration_hub.domain.errors import (
    ConnectionFailed,
    HttpError,
    StatusError,
    TimedOut,
    ValidationError,
)
from integration_hub.domain.values import checked_count, checked_duration

#: RFC 9110, 9.2.2: these may be sent twice without doing the work twice.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_LONGEST = timedelta(seconds=10**9)
STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next try: up to ``base * factor ** n`` seconds, at most `cap`.

    ``full`` jitter waits a random part of that (Brooker, "Exponential Backoff and Jitter", AWS
    Architecture Blog, 2015), so that clients which failed together do not return together;
    ``none`` waits all of it.
    """

    base: float = 0.5
    factor: float = 2.0
    cap: float = 20.0
    jitter: Literal["full", "none"] = "full"

    def __post_init__(self) -> None:
        for name in ("base", "factor", "cap"):
            checked_duration(f"backoff.{name}", getattr(self, name))
        if self.jitter not in ("full", "none"):
            raise ValidationError("backoff.jitter", self.jitter, "must be 'full' or 'none'")

    def wait(self, attempt: int) -> float:
        """Seconds to wait after the try of this number, counted from 1."""
        longest: float = min(self.cap, self.base * self.factor ** min(attempt - 1, 64))
        return random.uniform(0, longest) if self.jitter == "full" else longest


class RetryBudget:
    """What all requests of a client may spend on retries, so that an outage is not made worse.

    A token bucket as in botocore's standard mode: it holds `capacity` tokens; a retry costs
    `cost`, after a time-out `timeout_cost`; a success gives back what its last retry cost, or 1.
    Source: botocore, `retries/standard.py`. Safe to share between threads.
    """

    def __init__(self, capacity: int = 500, *, cost: int = 5, timeout_cost: int = 10) -> None:
        self._capacity = checked_count("budget.capacity", capacity)
        self._cost = checked_count("budget.cost", cost, least=1)
        self._timeout_cost = checked_count("budget.timeout_cost", timeout_cost, least=1)
        self._left = capacity
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """The tokens that are there now."""
        return self._left

    def spend(self, error: HttpError) -> int:
        """Pay for a retry after this error; gives what it cost, 0 where there is too little."""
        cost = self._timeout_cost if isinstance(error, TimedOut) else self._cost
        with self._lock:
            if cost > self._left:
                return 0
            self._left -= cost
        return cost

    def give_back(self, spent: int) -> None:
        """After a success, whose last retry cost `spent` (0 if there was none)."""
        if self._left < self._capacity:
            with self._lock:
                self._left = min(self._capacity, self._left + (spent or 1))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Up to `attempts` tries in all, the first one included.

    Tried again are requests that failed on the way, timed out or were answered with one of
    `statuses`, if their method is one of `methods` or they carry an idempotency key; other requests
    only where they can't have reached the server. ``Retry-After`` is heeded up to
    `retry_after_cap` seconds. Each client has a `budget` of its own unless one is given to share.
    """

    attempts: int = 3
    backoff: Backoff = field(default_factory=Backoff)
    statuses: Collection[int] = STATUSES
    methods: Collection[str] = IDEMPOTENT
    retry_after_cap: timedelta | float = 60.0
    budget: RetryBudget | None = None

    def __post_init__(self) -> None:
        checked_count("retry.attempts", self.attempts, least=1, most=100)
        checked_duration("retry.retry_after_cap", self.retry_after_cap)
        for name in ("statuses", "methods"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Collection):
                raise ValidationError(f"retry.{name}", given, "must be a collection, even of one")
            object.__setattr__(self, name, frozenset(given))
        for status in self.statuses:
            checked_count("retry.statuses", status, least=100, most=999)

    def may_repeat(self, method: str, error: HttpError, *, has_key: bool) -> bool:
        """Whether a request that ended in this error may be sent again.

        The table that this comes to is in docs/http.md.
        """
        is_repeatable = method in self.methods or has_key
        if isinstance(error, StatusError):
            return is_repeatable and error.status in self.statuses
        if isinstance(error, ConnectionFailed | TimedOut):
            return is_repeatable or not error.was_sent
        return False

    def wait(self, attempt: int, error: HttpError) -> float:
        """Seconds to wait after the try of this number ended in this error."""
        asked = error.retry_after if isinstance(error, StatusError) else None
        if asked is None:
            return self.backoff.wait(attempt)
        cap = checked_duration("retry.retry_after_cap", self.retry_after_cap)
        return min(asked, cap).total_seconds()


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """What ``Retry-After`` asks for: seconds, or a date (RFC 9110, 10.2.3); None if neither.

    A date counts from the answer's own ``Date``, where there is one, whatever our clock says. What
    is more than thirty years is that, so that one can add it to any moment.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:12])), _LONGEST)
    until = _date(text)
    if until is None:
        return None
    wait = until - (_date(headers.get("date", "")) or now)
    return max(min(wait, _LONGEST), timedelta(0))


def _date(text: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

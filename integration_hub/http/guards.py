"""What keeps a client from doing harm: a circuit breaker, and a rate limit. Both off by default.

May import: `domain`. The libraries looked at (pybreaker, pyrate-limiter) count failures in a row,
not in a window, and read a clock of their own, which a test could not move; so these are ours.
"""

from __future__ import annotations

import threading
from collections import deque
from datetime import timedelta

from integration_hub.domain.errors import ValidationError
from integration_hub.domain.values import checked_count, checked_duration, checked_period


class CircuitBreaker:
    """Leaves a system alone that fails too often.

    After `failures` within `window` the circuit opens: requests fail at once for `rest`. Then one
    request is let through as a probe: if it succeeds, the circuit closes; if it fails, the rest
    begins anew. Failures are connections that fail, time-outs and answers of 500 and above.
    Source of the pattern: Nygard, "Release It!", 2007. Durations in seconds or `timedelta`; safe to
    share between threads.
    """

    def __init__(
        self,
        failures: int = 5,
        *,
        window: timedelta | float = 30.0,
        rest: timedelta | float = 30.0,
    ) -> None:
        self._most = checked_count("breaker.failures", failures, least=1)
        self._window = checked_duration("breaker.window", window).total_seconds()
        self._rest = checked_duration("breaker.rest", rest).total_seconds()
        self._failures: deque[float] = deque(maxlen=failures)
        self._opened: float | None = None
        self._is_probing = False
        self._lock = threading.Lock()

    def wait(self, now: float) -> float:
        """Seconds until a request may go; 0 where it may go now, and then its end must be told."""
        with self._lock:
            if self._opened is None:
                return 0.0
            left = self._opened + self._rest - now
            if left > 0:
                return left
            if self._is_probing:
                return self._rest
            self._is_probing = True
            return 0.0

    def tell(self, now: float, *, failed: bool | None) -> None:
        """How a request ended that `wait` let through; None where that says nothing."""
        with self._lock:
            if self._opened is not None:
                if not self._is_probing:
                    return  # begun before the circuit opened
                self._is_probing = False
                if failed is not None:
                    self._opened = now if failed else None
                    self._failures.clear()
            elif failed:
                self._failures.append(now)
                if len(self._failures) == self._most and now - self._failures[0] <= self._window:
                    self._opened = now


class RateLimit:
    """A token bucket: `rate` requests per `per` (seconds or `timedelta`), `burst` of them at once.

    A request waits for its turn where its time limit allows, and fails with `RateLimited` where
    not. Turns are given in order. Safe to share between threads, and between clients.
    """

    def __init__(
        self, rate: float, *, per: timedelta | float = 1.0, burst: int | None = None
    ) -> None:
        seconds = checked_period("rate_limit.per", per).total_seconds()
        if not isinstance(rate, int | float) or not rate > 0:
            raise ValidationError("rate_limit.rate", rate, "must be a number of more than 0")
        self._interval = seconds / rate
        self._burst = checked_count("rate_limit.burst", burst or max(1, int(rate)), least=1)
        self._full_at = 0.0  # when the bucket will be full again
        self._lock = threading.Lock()

    def take(self, now: float, *, patience: float) -> tuple[bool, float]:
        """Take a turn: whether there is one within `patience` seconds, and the wait for it."""
        with self._lock:
            full_at = max(self._full_at, now) + self._interval
            wait = max(0.0, full_at - now - self._burst * self._interval)
            if wait > patience:
                return False, wait
            self._full_at = full_at
            return True, wait

"""Which endpoints take their time to answer, so that they don't take all of a dispatcher's threads.

May import: nothing of ours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

_SLOW = 1.0  # seconds that a request takes
_KEPT = 600.0  # seconds after which a slow one is forgotten


class Pace:
    """Measures requests. An endpoint is slow while one is under way for more than a second, or if
    its last one took that long, in the last ten minutes. For many threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: dict[object, tuple[UUID, float]] = {}
        self._slow: dict[UUID, float] = {}

    @contextmanager
    def measured(self, endpoint: UUID) -> Iterator[None]:
        """A block that makes one request."""
        request, began = object(), self._clock()
        with self._lock:
            self._under_way[request] = endpoint, began
        try:
            yield
        finally:
            ended = self._clock()
            with self._lock:
                del self._under_way[request]
                self._slow.pop(endpoint, None)
                if ended - began > _SLOW:
                    self._slow[endpoint] = ended

    def slow(self) -> set[UUID]:
        """The endpoints that are slow by now."""
        now = self._clock()
        with self._lock:
            self._slow = {each: at for each, at in self._slow.items() if now - at < _KEPT}
            waiting = {each for each, began in self._under_way.values() if now - began > _SLOW}
            return waiting.union(self._slow)

"""What a health check tells: plain values for a service's own health endpoint.

May import: the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """Connections that are kept, lent out, and lent out beyond the pool's size."""

    size: int = 0
    in_use: int = 0
    overflow: int = 0


@dataclass(frozen=True, slots=True)
class SchemaRevision:
    """The revision that the tables have, and the one that the code needs; None for none."""

    current: str | None = None
    head: str | None = None

    @property
    def is_current(self) -> bool:
        return self.current == self.head


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the store can be used now; `error` says why not, without secrets.

    `clock_skew` is how far this machine's clock is ahead of the database's (negative: behind),
    where there are two; the hub goes by the database's.
    """

    ok: bool
    latency: timedelta
    database_version: str | None = None
    pool: PoolFigures = PoolFigures()
    schema: SchemaRevision = SchemaRevision()
    clock_skew: timedelta | None = None
    error: str | None = None

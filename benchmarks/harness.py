"""Times contenders side by side: interleaved rounds of one run, compared round by round.

A machine is never quiet, so no time of another run counts: in each round every contender has its
turn, in an order that rotates, and a ratio is the median over rounds of its time to the first
contender's in the same round.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

#: In SQL, the id of the nth row that is filled in.
NTH_ID = "('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid"
ROUND = 0.05  # seconds that one turn of the first contender takes, at least
ROUNDS = 11


@dataclass(frozen=True)
class Timing:
    """Seconds per call (the median), and the ratio to the first contender."""

    seconds: float
    ratio: float


def compare(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int = ROUNDS,
    calls: int | None = None,
    between: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time the contenders; `between`, untimed, cleans up after each turn."""
    for contender in contenders.values():
        for _ in range(3 if calls is None else 1):
            contender()
        if between is not None:
            between()
    number = calls or _calls_in(ROUND, next(iter(contenders.values())))
    names = list(contenders)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            taken[name].append(_timed(contenders[name], number))
            if between is not None:
                between()
    first = taken[names[0]]
    return {
        name: Timing(
            statistics.median(times),
            statistics.median(mine / other for mine, other in zip(times, first, strict=True)),
        )
        for name, times in taken.items()
    }


def _calls_in(seconds: float, contender: Callable[[], object]) -> int:
    once = min(_timed(contender, 1) for _ in range(5))
    return max(1, round(seconds / once))


def _timed(contender: Callable[[], object], number: int) -> float:
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    for _ in range(number):
        contender()
    taken = time.perf_counter() - start
    gc.enable()
    return taken / number


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(seconds: float) -> str:
    """A time as people read it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.0f} µs"

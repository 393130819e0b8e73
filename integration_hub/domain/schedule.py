"""When a sync job runs: by hand, once, at intervals, or by cron in a time zone.

May import: `errors`, `values` and cronsim, which has the rules of Debian's cron for clock changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from integration_hub.domain.errors import HubError, InvalidSchedule, ValidationError
from integration_hub.domain.values import checked_duration, checked_time

_SHORTEST = timedelta(seconds=1)
_ANY_MOMENT = datetime(2024, 1, 1, tzinfo=UTC)  # a cron that fires at all fires after any moment


class ScheduleKind(StrEnum):
    MANUAL = "manual"
    ONCE = "once"
    INTERVAL = "interval"
    CRON = "cron"
    UNREADABLE = "unreadable"  # what somebody wrote into the table by hand, or a later version did


_NEEDED = {
    ScheduleKind.MANUAL: (),
    ScheduleKind.ONCE: ("at",),
    ScheduleKind.INTERVAL: ("interval",),
    ScheduleKind.CRON: ("expression", "tz"),
    ScheduleKind.UNREADABLE: ("expression",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A rule for when to run; made by `manual`, `once`, `every` and `cron`."""

    kind: ScheduleKind
    at: datetime | None = None
    interval: timedelta | None = None
    start: datetime | None = None
    expression: str | None = None
    tz: str | None = None

    def __post_init__(self) -> None:
        for name in _NEEDED[self.kind]:
            if getattr(self, name) is None:
                raise InvalidSchedule(self.kind.value, f"needs {name}; make it by a classmethod")

    def __str__(self) -> str:
        """For people to read: ``every 900 s``, ``30 2 * * * (Europe/Berlin)``."""
        match self.kind:
            case ScheduleKind.ONCE:
                return f"once at {self.at}"
            case ScheduleKind.INTERVAL:
                assert self.interval is not None
                start = "" if self.start is None else f" from {self.start}"
                return f"every {self.interval.total_seconds():.15g} s{start}"
            case ScheduleKind.CRON:
                return f"{self.expression} ({self.tz})"
            case ScheduleKind.MANUAL | ScheduleKind.UNREADABLE:
                return self.kind.value

    @classmethod
    def manual(cls) -> Schedule:
        """Runs only when somebody asks for it."""
        return cls(kind=ScheduleKind.MANUAL)

    @classmethod
    def once(cls, at: datetime) -> Schedule:
        """Runs one time, at an aware moment."""
        return cls(kind=ScheduleKind.ONCE, at=_moment(at))

    @classmethod
    def every(cls, interval: timedelta | float, *, start: datetime | None = None) -> Schedule:
        """Runs at intervals of at least a second (a `timedelta`, or a number of seconds).

        With `start` the runs lie on the grid ``start + n * interval``; without, each run follows
        the last one by the interval.
        """
        problem = "must have an interval of 1 s to 100 years"
        try:
            duration = checked_duration("interval", interval)
        except ValidationError as error:
            raise InvalidSchedule(interval, problem) from error
        if duration < _SHORTEST:
            raise InvalidSchedule(interval, problem)
        moment = None if start is None else _moment(start)
        return cls(kind=ScheduleKind.INTERVAL, interval=duration, start=moment)

    @classmethod
    def cron(cls, expression: str, *, tz: str = "UTC") -> Schedule:
        """Runs by a cron expression of five fields, read in the time zone `tz` (an IANA name).

        When clocks go forward, a run in the missing hour comes right after it; when they go back,
        a run at a fixed hour comes once (as in Debian's cron, which cronsim follows).
        """
        if not isinstance(expression, str) or len(expression.split()) != 5:
            raise InvalidSchedule(expression, "must be a cron expression of five fields")
        zone = _zone(tz)
        try:
            next(CronSim(expression, _ANY_MOMENT.astimezone(zone)))
        except CronSimError as error:
            raise InvalidSchedule(expression, f"is no cron expression ({error})") from error
        except StopIteration as error:
            raise InvalidSchedule(expression, "must name a day that exists") from error
        return cls(kind=ScheduleKind.CRON, expression=expression, tz=tz)

    def next_after(self, moment: datetime) -> datetime | None:
        """The first run strictly after `moment`, in UTC; None where none is to come.

        Raises `InvalidSchedule` where this machine can't tell.
        """
        moment = checked_time("moment", moment)
        try:
            match self.kind:
                case ScheduleKind.ONCE:
                    return self.at if self.at is not None and self.at > moment else None
                case ScheduleKind.INTERVAL:
                    return self._next_on_grid(moment)
                case ScheduleKind.CRON:
                    return self._next_by_cron(moment)
                case ScheduleKind.MANUAL:
                    return None
                case ScheduleKind.UNREADABLE:
                    raise InvalidSchedule(self.expression, "can't be read; give the job another")
        except CronSimError as error:
            raise InvalidSchedule(self.expression, f"is no cron expression ({error})") from error
        except (OverflowError, StopIteration):
            return None  # past the year 9999, or past the 50 years that cronsim looks ahead

    def first_run(self, now: datetime) -> datetime | None:
        """When a job that is new at `now` runs first: a `once` that lies in the past is due."""
        if self.kind is ScheduleKind.ONCE:
            return self.at
        if self.start is not None and self.start >= now:
            return self.start
        return self.next_after(now)

    def _next_on_grid(self, moment: datetime) -> datetime | None:
        assert self.interval is not None
        if self.start is None:
            return moment + self.interval
        if moment < self.start:
            return self.start
        return self.start + ((moment - self.start) // self.interval + 1) * self.interval

    def _next_by_cron(self, moment: datetime) -> datetime:
        assert self.expression is not None
        assert self.tz is not None
        runs = CronSim(self.expression, moment.astimezone(_zone(self.tz)))
        # Around a clock change local times repeat, so ask until the moment has really passed.
        while (run := next(runs).astimezone(UTC)) <= moment:
            continue
        return run

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back; durations in seconds, moments in ISO 8601."""
        if self.kind is ScheduleKind.UNREADABLE:
            assert self.expression is not None
            return json.loads(self.expression)  # type: ignore[no-any-return]
        fields = {
            "kind": self.kind.value,
            "at": self.at and self.at.isoformat(),
            "interval": self.interval and self.interval.total_seconds(),
            "start": self.start and self.start.isoformat(),
            "expression": self.expression,
            "tz": self.tz,
        }
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Schedule:
        """What `to_json` wrote. A document of another origin must pass through the makers.

        One that can't be read stands in nobody's way until its job is to be planned by it.
        """
        try:
            others = map(document.get, ("at", "interval", "start", "expression", "tz"))
            return _read(document["kind"], *others)
        except (HubError, LookupError, ValueError, TypeError, AttributeError, OverflowError):
            return cls(kind=ScheduleKind.UNREADABLE, expression=json.dumps(document or {}))


@lru_cache(maxsize=1024)
def _read(
    kind: str,
    at: str | None,
    interval: float | None,
    start: str | None,
    expression: str | None,
    tz: str | None,
) -> Schedule:
    """A schedule from what its JSON says; many jobs have the same, and it can be shared."""
    duration = None if interval is None else timedelta(seconds=interval)
    if duration is not None and duration < _SHORTEST:
        raise InvalidSchedule(duration, "must have an interval of a second or more")
    for words in (expression, tz):
        if words is not None and not isinstance(words, str):
            raise InvalidSchedule(words, "must have cron expressions and time zones in words")
    return Schedule(
        kind=ScheduleKind(kind),
        at=None if at is None else _moment(datetime.fromisoformat(at)),
        interval=duration,
        start=None if start is None else _moment(datetime.fromisoformat(start)),
        expression=expression,
        tz=tz,
    )


def _moment(value: object) -> datetime:
    try:
        return checked_time("moment", value)
    except ValidationError as error:
        raise InvalidSchedule(value, "must have an aware datetime") from error


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise InvalidSchedule(name, "must name an IANA time zone such as Europe/Berlin") from error

"""When jobs run, above all when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from integration_hub import InvalidSchedule, Schedule, ScheduleKind, ValidationError

START = datetime(2026, 1, 1, tzinfo=UTC)


def runs(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    found: list[datetime] = []
    for _ in range(count):
        moment = schedule.next_after(found[-1] if found else after)
        assert moment is not None
        found.append(moment)
    return found


def test_once_comes_once() -> None:
    schedule = Schedule.once(START)
    assert schedule.first_run(START + timedelta(days=1)) == START  # it is due
    assert schedule.next_after(START - timedelta(seconds=1)) == START
    assert schedule.next_after(START) is None


def test_an_interval_with_a_start_keeps_to_its_grid() -> None:
    schedule = Schedule.every(600, start=START)
    assert schedule.next_after(START - timedelta(days=1)) == START
    assert schedule.next_after(START) == START + timedelta(minutes=10)
    assert schedule.next_after(START + timedelta(minutes=14)) == START + timedelta(minutes=20)


def test_an_interval_with_a_start_runs_first_at_that_start() -> None:
    schedule = Schedule.every(600, start=START)
    assert schedule.first_run(START - timedelta(days=1)) == START
    assert schedule.first_run(START) == START  # which a next run would be after
    assert schedule.first_run(START + timedelta(seconds=1)) == START + timedelta(minutes=10)


def test_cron_runs_once_when_the_clock_goes_back() -> None:
    schedule = Schedule.cron("30 2 * * *", tz="Europe/Berlin")
    found = runs(schedule, datetime(2026, 10, 24, 12, tzinfo=UTC), 2)
    assert found == [
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 26, 1, 30, tzinfo=UTC),
    ]


def test_cron_runs_after_the_gap_when_the_clock_goes_forward() -> None:
    schedule = Schedule.cron("30 2 * * *", tz="Europe/Berlin")
    found = runs(schedule, datetime(2026, 3, 28, 12, tzinfo=UTC), 2)
    assert found == [
        datetime(2026, 3, 29, 1, 0, tzinfo=UTC),
        datetime(2026, 3, 30, 0, 30, tzinfo=UTC),
    ]


def test_cron_does_not_run_again_in_the_hour_that_comes_twice() -> None:
    """Nor once more for who asks in its second half: at 1:00 for the second time."""
    schedule = Schedule.cron("9 1-7 * * *", tz="Europe/Dublin")
    assert runs(schedule, datetime(2026, 10, 25, 0, tzinfo=UTC), 3) == [
        datetime(2026, 10, 25, 0, 9, tzinfo=UTC),
        datetime(2026, 10, 25, 2, 9, tzinfo=UTC),
        datetime(2026, 10, 25, 3, 9, tzinfo=UTC),
    ]
    again = datetime(2026, 10, 25, 1, tzinfo=UTC)
    assert schedule.next_after(again) == datetime(2026, 10, 25, 2, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule.cron("0 0 1 1 *"),
        Schedule.every(timedelta(days=400)),
        Schedule.every(timedelta(days=400), start=START),
    ],
)
def test_after_the_last_year_there_is_no_run(schedule: Schedule) -> None:
    assert schedule.next_after(datetime(9999, 12, 31, tzinfo=UTC)) is None


def test_a_cron_of_every_quarter_goes_on_through_both_changes() -> None:
    schedule = Schedule.cron("*/15 * * * *", tz="Europe/Berlin")
    for night in (datetime(2026, 3, 28, 22, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)):
        found = runs(schedule, night, 32)
        assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(minutes=15)}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Schedule.cron("* * * *"),
        lambda: Schedule.cron("* * * * * *"),  # with seconds, as some have it
        lambda: Schedule.cron("61 * * * *"),
        lambda: Schedule.cron(5),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        lambda: Schedule.cron("0 0 30 2 *"),
        lambda: Schedule.cron("0 0 */29 2 5#4"),  # the 1st (or 30th), if it is the fourth Friday
        lambda: Schedule.cron("* * * * *", tz="Mars/Olympus"),
        lambda: Schedule.every(0),
        lambda: Schedule(kind=ScheduleKind.ONCE),
        lambda: Schedule(kind=ScheduleKind.CRON, expression="* * * * *"),
        lambda: Schedule.every(float("nan")),
        lambda: Schedule.once(datetime(2026, 1, 1)),  # noqa: DTZ001 - naive on purpose
    ],
)
def test_what_is_no_schedule_is_refused(make: object) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        make()  # type: ignore[operator]
    assert refused.value.code == "invalid_schedule"


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule.manual(), "manual"),
        (Schedule.once(datetime(2026, 11, 28, 7, tzinfo=UTC)), "once at 2026-11-28 07:00:00+00:00"),
        (Schedule.every(timedelta(minutes=15)), "every 900 s"),
        (
            Schedule.every(1.5, start=datetime(2026, 11, 28, tzinfo=UTC)),
            "every 1.5 s from 2026-11-28 00:00:00+00:00",
        ),
        (Schedule.cron("*/5 * * * *", tz="Europe/Berlin"), "*/5 * * * * (Europe/Berlin)"),
        (Schedule.from_json({"kind": "hourly"}), "unreadable"),
    ],
)
def test_a_schedule_can_be_read(schedule: Schedule, words: str) -> None:
    assert str(schedule) == words


def test_a_moment_of_no_zone_has_no_next_run() -> None:
    with pytest.raises(ValidationError) as refused:
        Schedule.cron("* * * * *").next_after(datetime(2026, 1, 1))  # noqa: DTZ001 - on purpose
    assert refused.value.field == "moment"

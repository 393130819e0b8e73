"""What somebody wrote into a table by hand, or a later version did, stands in nobody else's way."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import text

from integration_hub import (
    Hub,
    InvalidSchedule,
    Schedule,
    ScheduleKind,
    SyncJob,
    SyncOutcome,
    SyncRunner,
    Webhook,
    WebhookDispatcher,
)
from integration_hub.sql.unit_of_work import SqlUnitOfWork
from integration_hub.testing import (
    IntegrationFactory,
    ManualClock,
    SyncJobFactory,
    WebhookFactory,
)

SCHEDULES: list[Any] = [
    {},
    [],
    5,
    None,
    {"kind": "weekly"},
    {"kind": ["once"]},
    {"kind": "once", "at": "yesterday"},
    {"kind": "once", "at": "2020-01-01"},
    {"kind": "interval"},
    {"kind": "interval", "interval": "900"},
    {"kind": "interval", "interval": 0},
    {"kind": "interval", "interval": 1e300},
    {"kind": "interval", "interval": 60, "start": "2020-01-01"},
    {"kind": "cron", "expression": "bad", "tz": "UTC"},
    {"kind": "cron", "expression": 5, "tz": "UTC"},
    {"kind": "cron", "expression": "* * * * *", "tz": 5},
    {"kind": "cron", "expression": "* * * * *", "tz": "Mars/Olympus"},
]
CONFIGS: list[Any] = [
    [],
    {"sync": 5},
    {"sync": None},
    {"sync": {"catch_up": 5}},
    {"sync": {"timeout": "x"}},
    {"sync": {"timeout": -1}},
    {"sync": {"of a later version": 1}},
]


WEBHOOKS: list[tuple[str, Any, int]] = [  # a column, and whether the endpoint is still told
    ("config", [], 1),
    ("config", 5, 1),
    ("config", {"delivery": 5}, 1),
    ("config", {"delivery": {"retries": "x", "max_concurrency": "x", "timeout": -1}}, 1),
    ("config", {"delivery": {"unheard": "of"}}, 1),
    ("config", {"delivery": {"headers": [1]}}, 0),
    ("config", {"delivery": {"headers": {"a": "b\nc"}}}, 0),
    ("events", {}, 0),
    ("events", 5, 0),
    ("events", [5, None, "a.b"], 1),
    ("tags", 5, 1),
    ("url", "ftp://x", 0),
    ("url", "http://[::", 0),
    ("url", "", 0),
]


@pytest.fixture(params=["sqlite", "postgres"])
def sql_hub(request: pytest.FixtureRequest) -> Hub:
    return cast("Hub", request.getfixturevalue(f"hub_{request.param}"))


def add_two(hub: Hub) -> tuple[SyncJob, SyncJob]:
    with hub.unit_of_work() as uow:
        config = {"sync": {"max_concurrency": 5}}
        parent = uow.integrations.add(
            IntegrationFactory.build(type="crm", status="active", config=config)
        )
        first, second = (
            uow.sync_jobs.add(
                SyncJobFactory.build(
                    integration_id=parent.id,
                    schedule=Schedule.every(60),
                    next_run_at=hub.clock.now(),
                )
            )
            for _ in range(2)
        )
        uow.commit()
    return first, second


def write(hub: Hub, item: SyncJob | Webhook, column: str, value: Any) -> None:
    table = "sync_jobs" if isinstance(item, SyncJob) else "webhooks"
    with hub.unit_of_work() as uow:
        assert isinstance(uow, SqlUnitOfWork)
        update = f"UPDATE {table} SET {column} = :value WHERE name = :name"
        written = value if column == "url" else json.dumps(value)
        values = {"value": written, "name": item.name}
        assert uow.session.execute(text(update), values).rowcount == 1  # type: ignore[attr-defined]
        uow.commit()


def run_all(hub: Hub) -> int:
    with hub.unit_of_work() as uow:
        runs = uow.sync_jobs.claim("w")
        uow.commit()
    with hub.unit_of_work() as uow:
        uow.sync_runs.succeed_many([(run, SyncOutcome(checkpoint="end")) for run in runs])
        uow.commit()
    return len(runs)


@pytest.mark.parametrize("document", SCHEDULES, ids=json.dumps)
def test_a_schedule_that_can_t_be_read_fails_its_job_alone(
    sql_hub: Hub, hub_clock: ManualClock, document: Any
) -> None:
    broken, other = add_two(sql_hub)
    write(sql_hub, broken, "schedule", document)
    assert run_all(sql_hub) == 2
    with sql_hub.unit_of_work() as uow:
        assert uow.sync_jobs.get(other.id).status == "pending"
        found = uow.sync_jobs.get(broken.id)
        assert found in uow.sync_jobs.failed()
        assert (found.status, found.checkpoint) == ("failed", "end")
        assert found.error_message is not None
        assert "its next time can't be told" in found.error_message
        with pytest.raises(InvalidSchedule):
            uow.sync_jobs.save(found.resume(hub_clock.now()))
        mended = replace(found, schedule=Schedule.every(60)).resume(hub_clock.now())
        mended = uow.sync_jobs.save(mended)
        assert uow.sync_jobs.get(found.id) == mended
        uow.commit()


def test_what_could_not_be_read_stays_as_it_was(sql_hub: Hub, hub_clock: ManualClock) -> None:
    document = {"kind": "weekly", "day": "monday"}
    broken, _ = add_two(sql_hub)
    write(sql_hub, broken, "schedule", document)
    with sql_hub.unit_of_work() as uow:
        found = uow.sync_jobs.get(broken.id)
        assert found.schedule.kind is ScheduleKind.UNREADABLE
        uow.sync_jobs.save(found.pause(hub_clock.now()))
        uow.commit()
    with sql_hub.unit_of_work() as uow:
        assert uow.sync_jobs.get(broken.id).schedule.to_json() == document


@pytest.mark.parametrize("config", CONFIGS, ids=json.dumps)
def test_a_config_that_makes_no_sense_is_as_none(sql_hub: Hub, config: Any) -> None:
    odd, other = add_two(sql_hub)
    write(sql_hub, odd, "config", config)
    assert SyncRunner(sql_hub, {"crm": lambda context: None}).run_once() == 2
    with sql_hub.unit_of_work() as uow:
        assert {uow.sync_jobs.get(job.id).status for job in (odd, other)} == {"pending"}


@pytest.mark.parametrize(("column", "value", "told"), WEBHOOKS, ids=repr)
def test_an_endpoint_that_makes_no_sense_keeps_nothing_from_the_others(
    sql_hub: Hub, httpserver: HTTPServer, column: str, value: Any, told: int
) -> None:
    for path in ("/odd", "/other"):
        httpserver.expect_request(path).respond_with_data()
    with sql_hub.unit_of_work() as uow:
        parent = uow.integrations.add(IntegrationFactory.build(status="active"))
        odd, _ = (
            uow.webhooks.add(
                WebhookFactory.build(
                    integration_id=parent.id, url=httpserver.url_for(path), events=["a.b"]
                )
            )
            for path in ("/odd", "/other")
        )
        uow.commit()
    write(sql_hub, odd, column, value)
    with sql_hub.unit_of_work() as uow:
        uow.messages.publish("a.b", {"n": 1})
        uow.commit()
    assert WebhookDispatcher(sql_hub, allow_private_addresses=True).run_once() >= 1
    paths = [request.path for request, _ in httpserver.log]
    assert (paths.count("/odd"), paths.count("/other")) == (told, 1)
    with sql_hub.unit_of_work() as uow:
        for delivery in uow.messages.of_webhook(odd.id):  # none where its events name no event
            (attempt,) = uow.messages.attempts(delivery.id)
            assert delivery.status == ("delivered" if told else "failed")  # and not tried again
            assert bool(attempt.error_message) != bool(told)

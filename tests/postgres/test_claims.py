"""Claims and endings on Postgres: what is stored when, and who waits for whom."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from locks import waiting
from sqlalchemy import URL, Engine, event, text

from integration_hub import (
    EVERY_TENANT,
    DatabaseConnectionManager,
    Err,
    Hub,
    HubSettings,
    Integration,
    LeaseLost,
    Ok,
    PostgresUnitOfWork,
    Schedule,
    SyncJob,
    SyncOutcome,
    SyncRun,
    UnitOfWork,
)
from integration_hub.domain.values import new_id
from integration_hub.ports.unit_of_work import Tenant
from integration_hub.sql.prepared import array_text
from integration_hub.sql.run_statements import RunStatements
from integration_hub.testing import ManualClock
from integration_hub.testing.factories import IntegrationFactory, SyncJobFactory
from integration_hub.testing.postgres import dsn

FIRST = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def hub(hub_postgres: Hub) -> Hub:
    return hub_postgres


@pytest.fixture
def hasty(hub_postgres_url: URL, hub_clock: ManualClock) -> Iterator[Hub]:
    """A hub on the same database that gives up where it would have to wait for a lock."""
    settings = HubSettings.model_construct(lock_timeout=0.2)
    with Hub.from_url(hub_postgres_url, settings=settings, clock=hub_clock) as hasty:
        yield hasty


def add_jobs(hub: Hub, count: int, tenant: str = "default", most: int = 1) -> list[SyncJob]:
    """Due jobs of one integration, `most` of which may run at once."""
    with hub.unit_of_work(tenant=tenant) as uow:
        config = {"sync": {"max_concurrency": most}}
        parent = IntegrationFactory(active=True, config=config, store=uow)
        given = {"integration_id": parent.id, "schedule": Schedule.every(600)}
        jobs: list[SyncJob] = []
        for _ in range(count):
            jobs.append(SyncJobFactory(store=uow, next_run_at=FIRST, **given))
        uow.commit()
    return jobs


def crowd(count: int, config: Mapping[str, Any] | None = None) -> list[Integration]:
    """Integrations whose jobs may run: more than factories make in a while."""
    return [
        Integration(name=f"crm {number}", type="crm", status="active", config=config or {})
        for number in range(count)
    ]


def due_at(moment: datetime, owner: Integration, name: str) -> SyncJob:
    every = Schedule.every(600)
    return SyncJob(name=name, integration_id=owner.id, schedule=every, next_run_at=moment)


def status(hub: Hub, job: SyncJob) -> str:
    return now_of(hub, job).status


def now_of(hub: Hub, job: SyncJob) -> SyncJob:
    with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
        return uow.sync_jobs.get(job.id)


def kept_plans(uow: UnitOfWork) -> list[tuple[str, int]]:
    """The statements that are prepared, and how often each was run by the plan that is kept."""
    assert isinstance(uow, PostgresUnitOfWork)
    asked = text("SELECT statement, generic_plans FROM pg_prepared_statements")
    return [(statement, count) for statement, count in uow.session.execute(asked)]


def claim(uow: UnitOfWork, limit: int = 10) -> list[SyncRun]:
    return uow.sync_jobs.claim("w", limit=limit)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_claim_and_an_ending_are_stored_as_they_are_made(hub: Hub, atomic: bool) -> None:
    [job] = add_jobs(hub, 1)
    with hub.unit_of_work(tenant=EVERY_TENANT, atomic=atomic) as uow:
        (run,) = claim(uow)
        assert status(hub, job) == ("pending" if atomic else "running")
        uow.sync_runs.succeed_many([(run, SyncOutcome(3))])
        with hub.unit_of_work() as other:
            assert other.sync_jobs.get(job.id).records_processed == (0 if atomic else 3)
    # It was left without a commit: that undoes what was not yet stored.
    with hub.unit_of_work() as uow:
        assert uow.sync_jobs.get(job.id).records_processed == (0 if atomic else 3)


@pytest.mark.parametrize("changed", [True, False])
def test_a_batch_is_ended_and_the_next_one_claimed_in_one_unit_of_work(
    hub: Hub, changed: bool
) -> None:
    first, second = add_jobs(hub, 2)
    (run,) = stored(hub, lambda uow: claim(uow, 1), tenant=EVERY_TENANT)
    if changed:  # then an ending has to look first, and takes several statements
        renamed = dataclasses.replace(now_of(hub, first), description="changed meanwhile")
        stored(hub, lambda uow: uow.sync_jobs.save(renamed), tenant="default")
    with hub.unit_of_work(tenant=EVERY_TENANT, atomic=False) as uow:
        uow.sync_runs.succeed_many([(run, SyncOutcome(3))])
        (following,) = claim(uow)
        assert following.sync_job_id == second.id
        seen = ("running", "pending") if changed else ("pending", "running")
        assert (status(hub, first), status(hub, second)) == seen
        uow.commit()
    assert (status(hub, first), status(hub, second)) == ("pending", "running")


@pytest.mark.parametrize("atomic", [True, False])
def test_adding_saving_and_removing_too(hub: Hub, atomic: bool) -> None:
    def stored() -> list[str]:
        with hub.unit_of_work() as other:
            return [item.name for item in other.integrations.find()]

    with hub.unit_of_work(atomic=atomic) as uow:
        item = uow.integrations.add(Integration(name="crm", type="salesforce"))
        assert stored() == ([] if atomic else ["crm"])
        item = uow.integrations.save(dataclasses.replace(item, name="erp"))
        assert stored() == ([] if atomic else ["erp"])
        uow.integrations.remove(item.id)
        assert stored() == []
        uow.rollback()
    assert stored() == []


def test_what_takes_several_statements_is_stored_by_the_commit(hub: Hub) -> None:
    def names(uow: UnitOfWork) -> list[str]:
        return sorted(item.name for item in uow.integrations.find())

    with hub.unit_of_work(atomic=False) as uow:
        uow.integrations.add(IntegrationFactory(name="a"))
        uow.integrations.add_many([IntegrationFactory(name=name) for name in "bc"])
        uow.integrations.add(IntegrationFactory(name="d"))  # a transaction has begun by now
        with hub.unit_of_work() as other:
            assert names(other) == ["a"]
        assert names(uow) == ["a", "b", "c", "d"]
    with hub.unit_of_work() as other:
        assert names(other) == ["a"]


def test_a_refusal_leaves_what_was_stored_before(hub: Hub) -> None:
    def twice(uow: UnitOfWork) -> None:
        uow.integrations.add(IntegrationFactory(name="crm"))
        uow.integrations.add(IntegrationFactory(name="crm"))

    assert isinstance(hub.run(twice, atomic=False), Err)
    with hub.unit_of_work() as uow:
        assert [item.name for item in uow.integrations.find()] == ["crm"]
    assert isinstance(hub.run(lambda uow: uow.integrations.count(), atomic=False), Ok)


def test_a_turn_that_waits_too_long_does_not_cost_what_was_claimed_before(
    hub: Hub, hasty: Hub
) -> None:
    [first, *_] = add_jobs(hub, 3, tenant="acme")
    add_jobs(hub, 3, tenant="beta")
    with hub.unit_of_work(tenant="beta") as other:
        assert len(claim(other, 1)) == 1  # and keeps the place from others, until it is over
        with hasty.unit_of_work(tenant=EVERY_TENANT, atomic=False) as uow:
            (run,) = claim(uow, 3)
    assert run.sync_job_id == first.id
    assert status(hub, first) == "running"


def test_within_a_transaction_a_later_turn_waits_for_nobody(
    hub: Hub, hub_postgres_url: URL
) -> None:
    """Or two claims, each with a place that the other one wants, could wait for each other."""
    [first, *_] = add_jobs(hub, 3, tenant="acme")
    add_jobs(hub, 3, tenant="beta")
    settings = HubSettings.model_construct(lock_timeout=30)
    with (
        Hub.from_url(hub_postgres_url, settings=settings) as patient,
        hub.unit_of_work(tenant="beta") as other,
    ):
        claim(other, 1)
        began = time.monotonic()
        with patient.unit_of_work(tenant=EVERY_TENANT) as uow:
            (run,) = claim(uow, 3)
            assert time.monotonic() - began < 20
            uow.commit()
    assert run.sync_job_id == first.id
    assert status(hub, first) == "running"


def test_a_later_turn_leaves_the_transaction_s_lock_limit_as_it_was(hub_postgres_url: URL) -> None:
    settings = HubSettings.model_construct(lock_timeout=7)
    with Hub.from_url(hub_postgres_url, settings=settings) as hub:
        for tenant in ("acme", "beta"):
            add_jobs(hub, 3, tenant=tenant)
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            assert len(claim(uow, 3)) == 2  # one by the first turn, and one by another
            assert isinstance(uow, PostgresUnitOfWork)
            assert uow.session.scalar(text("SHOW lock_timeout")) == "7s"


def test_claims_on_two_connections_take_places_far_from_each_other(hub: Hub, hasty: Hub) -> None:
    add_jobs(hub, 2, most=1_000)  # so many that neighbours never start at the same place
    with hub.unit_of_work(tenant=EVERY_TENANT) as other:
        (held,) = claim(other, 1)
        with hasty.unit_of_work(tenant=EVERY_TENANT) as uow:
            (run,) = claim(uow, 1)  # it would wait for the other's place, and give up
    assert abs(run.slot - held.slot) > 1


def test_a_claim_passes_by_what_another_holds(hub: Hub, hasty: Hub) -> None:
    [first] = add_jobs(hub, 1)
    [second] = add_jobs(hub, 1)
    with hub.unit_of_work(tenant=EVERY_TENANT) as other:
        (held,) = claim(other, 1)
        with hasty.unit_of_work(tenant=EVERY_TENANT) as uow:
            (run,) = claim(uow, 1)  # it would wait for the other's job, and give up
    assert (held.sync_job_id, run.sync_job_id) == (first.id, second.id)


def test_a_limit_that_was_lowered_holds_whoever_claims_at_once(
    hub: Hub, hub_postgres_url: URL
) -> None:
    jobs = add_jobs(hub, 12, most=6)
    runs = stored(hub, lambda uow: claim(uow, 6), tenant="default")
    with hub.unit_of_work() as uow:
        for run in runs:
            if run.slot <= 4:  # two go on, at the places 5 and 6
                uow.sync_runs.succeed(run)
        parent = uow.integrations.get(jobs[0].integration_id)
        uow.integrations.save(parent.with_config(sync={"max_concurrency": 3}))
        uow.commit()
    claimed: list[SyncRun] = []

    def claims() -> None:
        claimed.extend(stored(hub, claim, tenant="default"))

    others = [threading.Thread(target=claims) for _ in range(4)]
    manager = DatabaseConnectionManager(hub_postgres_url)
    with hub.unit_of_work() as first:
        claimed.extend(claim(first, 1))
        for other in others:
            other.start()
        while waiting(manager) < sum(other.is_alive() for other in others):
            others[0].join(0.01)
        first.commit()
    for other in others:
        other.join()
    manager.close()
    assert len(claimed) == 1
    with hub.unit_of_work() as uow:
        assert len(uow.sync_runs.running()) == 3


def in_background_until_it_waits(
    act: Callable[[], None], manager: DatabaseConnectionManager
) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    while thread.is_alive() and not waiting(manager):
        thread.join(0.01)
    assert thread.is_alive()
    return thread


def test_reaping_passes_by_what_another_holds(hub: Hub, hasty: Hub, hub_clock: ManualClock) -> None:
    add_jobs(hub, 2, most=2)
    first, second = stored(hub, claim, tenant="default")
    hub_clock.advance(3_600)
    with hub.unit_of_work() as other:
        other.sync_runs.heartbeat(first)
        with hasty.unit_of_work() as uow:
            assert [run.id for run in uow.sync_runs.reap()] == [second.id]


def test_an_ending_waits_for_who_changes_its_job_and_heeds_the_change(
    hub: Hub, hub_postgres_url: URL
) -> None:
    [job] = add_jobs(hub, 1)
    (run,) = stored(hub, claim, tenant="default")

    def end() -> None:
        stored(hub, lambda uow: uow.sync_runs.succeed(run, records=3), tenant="default")

    manager = DatabaseConnectionManager(hub_postgres_url)
    with hub.unit_of_work() as uow:
        uow.sync_jobs.save(uow.sync_jobs.get(job.id).pause(FIRST))
        ending = in_background_until_it_waits(end, manager)
        uow.commit()
    ending.join(20)
    manager.close()
    after = now_of(hub, job)
    assert (after.status, after.records_processed) == ("paused", 3)


def test_an_ending_waits_for_who_reaps_its_run_and_changes_nothing(
    hub: Hub, hub_clock: ManualClock, hub_postgres_url: URL
) -> None:
    [job] = add_jobs(hub, 1)
    (run,) = stored(hub, claim, tenant="default")
    hub_clock.advance(3_600)
    refused: list[LeaseLost] = []

    def end() -> None:
        with pytest.raises(LeaseLost) as caught:
            stored(hub, lambda uow: uow.sync_runs.succeed(run, records=3), tenant="default")
        refused.append(caught.value)

    manager = DatabaseConnectionManager(hub_postgres_url)
    with hub.unit_of_work() as uow:
        assert [each.id for each in uow.sync_runs.reap()] == [run.id]
        ending = in_background_until_it_waits(end, manager)
        uow.commit()
    ending.join(20)
    manager.close()
    assert [error.run_id for error in refused] == [run.id]
    after = now_of(hub, job)
    assert (after.status, after.attempt, after.records_processed) == ("pending", 1, 0)
    with hub.unit_of_work() as uow:
        assert [each.status for each in uow.sync_runs.history(job.id)] == ["lost"]


@pytest.mark.parametrize("most", ["0", "-3", "1e30", "1.2", '"many"', "null", "[]"])
def test_a_limit_that_was_written_by_hand_does_not_stop_all_claims(
    hub: Hub, hub_postgres_url: URL, most: str
) -> None:
    add_jobs(hub, 2)
    manager = DatabaseConnectionManager(hub_postgres_url)
    with manager.transaction() as connection:
        config = f'{{"sync": {{"max_concurrency": {most}}}}}'
        connection.exec_driver_sql(
            "UPDATE integrations SET config = %(config)s", {"config": config}
        )
    manager.close()
    add_jobs(hub, 1, tenant="acme")
    runs = stored(hub, claim, tenant=EVERY_TENANT)
    assert len(runs) == (3 if most == "1e30" else 2)


@pytest.mark.once
@pytest.mark.parametrize("limit", [1, 10])
@pytest.mark.parametrize(
    ("parents", "jobs"), [(100, 40), (4_000, 1)], ids=["many of each", "one of each"]
)
def test_postgres_keeps_the_plans_of_claims_and_endings(
    hub: Hub, limit: int, parents: int, jobs: int
) -> None:
    """To plan a claim anew each time takes longer than to claim: it does, where it guesses that a
    plan for the values would be so much better.
    """
    config = {"sync": {"max_concurrency": 10}}
    owners = crowd(parents, config)
    with hub.unit_of_work() as uow:
        uow.integrations.add_many(owners)
        uow.sync_jobs.add_many(
            due_at(FIRST, owner, f"job {number}") for number in range(jobs) for owner in owners
        )
        uow.commit()
    with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
        assert isinstance(uow, PostgresUnitOfWork)
        uow.session.execute(text("ANALYZE"))
        for _ in range(20):  # psycopg prepares after five, and Postgres plans the next five anew
            runs = claim(uow, limit)
            assert len(runs) == limit
            uow.sync_runs.succeed_many([(run, SyncOutcome()) for run in runs])
        kept = {sql.split()[1]: count for sql, count in kept_plans(uow)}
    assert (kept["free"], kept["given"]) == (10, 10)


@pytest.mark.once
@pytest.mark.parametrize("due", [0, 36])
def test_postgres_keeps_the_plans_of_claims_that_find_nothing(hub: Hub, due: int) -> None:
    """Those of workers that have nothing to do: most jobs are for later, and many are asking."""
    owners = crowd(8_000)
    later = FIRST + timedelta(days=36_500)
    with hub.unit_of_work() as uow:
        uow.integrations.add_many(owners)
        uow.sync_jobs.add_many(
            due_at(FIRST if number < due else later, owner, "job")
            for number, owner in enumerate(owners)
        )
        uow.commit()
    with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
        assert isinstance(uow, PostgresUnitOfWork)
        uow.session.execute(text("ANALYZE"))
        assert len(claim(uow, 50)) == due
        for _ in range(20):
            assert claim(uow) == []
        kept = [count for sql, count in kept_plans(uow) if "SKIP LOCKED" in sql]
    # The claim itself, and what looks for others further on, the first time for 50.
    assert sorted(kept) == [10, 11]


@pytest.mark.parametrize("limit", [1, 20])
@pytest.mark.parametrize("most", [1, 50])
def test_a_claim_asks_once_what_is_taken_at_an_integration(
    hub: Hub, hub_postgres_url: URL, most: int, limit: int
) -> None:
    """For all its jobs that are due, and not for each: while a transaction keeps an old snapshot,
    Postgres goes past all that have run there since.
    """
    add_jobs(hub, 200, most=most)
    with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
        claim(uow, 1)  # so that with one place all others wait in vain
        uow.commit()
    values = {
        "ids": array_text([new_id() for _ in range(limit)]),
        "now": FIRST,
        "expires": FIRST + timedelta(minutes=1),
        "worker": "w",
        "actor": "w",
        "tenant": None,
        "types": None,
    }
    asked = RunStatements("postgresql").claim(limit, far=False).text
    with psycopg.connect(dsn(hub_postgres_url)) as connection:
        connection.execute("ANALYZE")
        told = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {asked}".encode(), values)
        [(plan,)] = told.fetchall()
        connection.rollback()
    (known,) = [each for each in nodes(plan[0]["Plan"]) if each["Node Type"] == "Memoize"]
    assert known["Cache Misses"] == 1
    looked_at = 64 + 8 * limit if most == 1 else limit  # with no place left, at all that are near
    assert known["Cache Hits"] >= min(looked_at, 199) - 1


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes, as EXPLAIN tells them in JSON."""
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


@contextmanager
def heard_statements() -> Iterator[list[str]]:
    """The first words of the statements that are sent meanwhile."""
    heard: list[str] = []

    def hear(*call: Any) -> None:
        heard.append(call[2].split()[0])

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(Engine, "before_cursor_execute", hear)


def test_each_is_one_statement_and_no_transaction(hub_postgres_url: URL) -> None:
    with Hub.from_url(hub_postgres_url) as hub:
        add_jobs(hub, 1, tenant="acme")
        with heard_statements() as heard:
            item = stored(hub, lambda uow: uow.integrations.add(IntegrationFactory()))
            item = stored(hub, lambda uow: uow.integrations.save(item))
            stored(hub, lambda uow: uow.integrations.remove(item.id))
            (run,) = stored(hub, lambda uow: claim(uow, 1))
            stored(hub, lambda uow: uow.sync_runs.fail(run, "no answer", retry_in=0))
            assert stored(hub, lambda uow: uow.sync_runs.reap()) == []
    assert heard == ["INSERT", "UPDATE", "DELETE", "WITH", "WITH", "SELECT"]


def test_a_worker_of_one_tenant_finds_its_jobs_at_once_behind_those_of_others(
    hub_postgres_url: URL,
) -> None:
    """One statement does, and not one more to look for them further on."""
    with Hub.from_url(hub_postgres_url) as hub:
        add_jobs(hub, 100, tenant="busy", most=100)
        [job] = add_jobs(hub, 1, tenant="acme")
        with heard_statements() as heard:
            (run,) = stored(hub, lambda uow: claim(uow, 1))
    assert run.sync_job_id == job.id
    assert heard == ["WITH"]


def stored(hub: Hub, act: Callable[[UnitOfWork], Any], tenant: Tenant = "acme") -> Any:
    with hub.unit_of_work(tenant=tenant, atomic=False) as uow:
        found = act(uow)
        uow.commit()
    return found

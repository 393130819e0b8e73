"""What two units of work that change the same things at once must come to.

May import everything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeAlias

import pytest

from integration_hub.domain.errors import (
    DeliveryNotFound,
    DuplicateId,
    DuplicateName,
    IntegrationNotFound,
    LeaseLost,
    StaleVersion,
    SyncRunNotFound,
    WebhookNotFound,
)
from integration_hub.domain.integration import Integration
from integration_hub.domain.result import Err, Result
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.sync_run import SyncRun
from integration_hub.domain.webhook import Webhook
from integration_hub.domain.webhook_message import AttemptOutcome, WebhookDelivery
from integration_hub.hub import Hub
from integration_hub.ports.unit_of_work import UnitOfWork
from integration_hub.testing.clock import ManualClock
from integration_hub.testing.factories import IntegrationFactory, SyncJobFactory, WebhookFactory

_PATIENCE = 0.2  # seconds in which the second one acts, unless it has to wait for the first


@dataclass(frozen=True)
class Stored:
    """What was there before the two met."""

    crm: Integration
    erp: Integration
    hook: Webhook
    job: SyncJob
    run: SyncRun  # of another job of the same integration
    delivery: WebhookDelivery  # being made, to a webhook that has just failed once
    another: WebhookDelivery  # to the same


Act: TypeAlias = Callable[[Any, Stored], object]


@dataclass(frozen=True)
class Meeting:
    """What the first one does and commits, what the second one does before that and commits after
    it, what the second one's answer is (an error, or what it gave), and what is there at the end.
    """

    first: Act
    second: Act
    answer: object
    left: Callable[[Any], object]
    remains: object


def names(uow: UnitOfWork) -> list[str]:
    return sorted(each.name for each in uow.integrations.find())


def counts(uow: UnitOfWork) -> tuple[int, ...]:
    return uow.integrations.count(), uow.webhooks.count(), uow.sync_jobs.count()


def versions(uow: UnitOfWork) -> list[tuple[str, int]]:
    return sorted((each.name, each.version) for each in uow.integrations.find())


def processed(uow: UnitOfWork) -> list[int]:
    """How many records the jobs that have run have processed."""
    return [job.records_processed for job in uow.sync_jobs.find() if job.last_run_at]


def told(uow: Any) -> int:
    return sum(uow.messages.counts().values())


def saved(what: str, /, **changes: Any) -> Act:
    """Saves one of those that were there with other fields."""

    def act(uow: Any, there: Stored) -> None:
        getattr(uow, _WHERE[what]).save(replace(getattr(there, what), **changes))

    return act


def removed(what: str) -> Act:
    def act(uow: Any, there: Stored) -> None:
        getattr(uow, _WHERE[what]).remove(getattr(there, what).id)

    return act


_WHERE = {"crm": "integrations", "erp": "integrations", "hook": "webhooks", "job": "sync_jobs"}


def added(**fields: Any) -> Act:
    def act(uow: Any, there: Stored) -> None:
        uow.integrations.add(IntegrationFactory(**fields))

    return act


def hooked(uow: Any, there: Stored) -> None:
    uow.webhooks.add(WebhookFactory(integration_id=there.crm.id, name="new"))


def planned(uow: Any, there: Stored) -> None:
    uow.sync_jobs.add(SyncJobFactory(integration_id=there.crm.id, name="new"))


def declared(name: str) -> Act:
    def act(uow: Any, there: Stored) -> None:
        uow.integrations.upsert(IntegrationFactory(name=name))

    return act


def heard(uow: Any, there: Stored) -> None:
    uow.sync_runs.heartbeat(there.run, records=1)


def paused(uow: Any, there: Stored) -> None:
    uow.sync_jobs.save(uow.sync_jobs.get(there.run.sync_job_id).pause(there.run.started_at))


def reaped(uow: Any, there: Stored) -> object:
    return len(uow.sync_runs.reap(there.run.lease_expires_at))


def claimed(uow: Any, there: Stored) -> object:
    return len(uow.messages.claim(now=there.run.started_at + timedelta(days=1)))


def cancelled(uow: Any, there: Stored) -> None:
    uow.messages.cancel(there.delivery.id)


def succeeded(uow: Any, there: Stored) -> None:
    uow.sync_runs.succeed(there.run, records=1)


def ran_job_removed(uow: Any, there: Stored) -> None:
    uow.sync_jobs.remove(there.run.sync_job_id)


def recorded(which: str, status: int) -> Act:
    def act(uow: Any, there: Stored) -> None:
        outcome = AttemptOutcome(started_at=there.run.started_at, status=status)
        uow.messages.record(getattr(there, which), outcome)

    return act


delivered = recorded("delivery", 200)


def published(uow: Any, there: Stored) -> None:
    uow.messages.publish("a.b", 1, idempotency_key="once")


def hooked_and_published(uow: Any, there: Stored) -> None:
    uow.webhooks.add(WebhookFactory(integration_id=there.crm.id, name="new", events=["*"]))
    published(uow, there)


def accepted(uow: Any, there: Stored) -> object:
    return uow.inbox.accept("msg_1")


def rotated(uow: Any, there: Stored) -> None:
    uow.secrets.rotate(there.hook.id)


_NAME = "taken"
_SAME = IntegrationFactory.build().id

MEETINGS: dict[str, Meeting] = {
    "both change a row": Meeting(
        saved("crm", name="one"), saved("crm", name="two"), StaleVersion, names, ["erp", "one"]
    ),
    "both change a child": Meeting(
        saved("hook", name="one"),
        saved("hook", name="two"),
        StaleVersion,
        lambda uow: [each.name for each in uow.webhooks.find()],
        ["one"],
    ),
    "one removes what the other changes": Meeting(
        removed("crm"), saved("crm", name="two"), IntegrationNotFound, names, ["erp"]
    ),
    "one changes what the other removes": Meeting(
        saved("crm", name="one"), removed("crm"), None, names, ["erp"]
    ),
    "both remove a row": Meeting(
        removed("crm"), removed("crm"), IntegrationNotFound, names, ["erp"]
    ),
    "one removes the parent of what the other changes": Meeting(
        removed("crm"), saved("hook", name="two"), WebhookNotFound, counts, (1, 0, 0)
    ),
    "one changes a child of what the other removes": Meeting(
        saved("hook", name="one"), removed("crm"), None, counts, (1, 0, 0)
    ),
    "one removes the parent to which the other adds": Meeting(
        removed("crm"), hooked, IntegrationNotFound, counts, (1, 0, 0)
    ),
    "one adds to the parent that the other removes": Meeting(
        planned, removed("crm"), None, counts, (1, 0, 0)
    ),
    "one removes a child of what the other removes": Meeting(
        removed("job"), removed("crm"), None, counts, (1, 0, 0)
    ),
    "both add a name": Meeting(
        added(name=_NAME), added(name=_NAME), DuplicateName, names, ["crm", "erp", _NAME]
    ),
    "both add an id": Meeting(
        added(id=_SAME, name="one"),
        added(id=_SAME, name="two"),
        DuplicateId,
        names,
        ["crm", "erp", "one"],
    ),
    "one takes by renaming the name that the other adds": Meeting(
        saved("crm", name=_NAME), added(name=_NAME), DuplicateName, names, ["erp", _NAME]
    ),
    "one adds the name that the other takes by renaming": Meeting(
        added(name=_NAME), saved("crm", name=_NAME), DuplicateName, names, ["crm", "erp", _NAME]
    ),
    "both declare a name": Meeting(
        declared(_NAME), declared(_NAME), None, versions, [("crm", 1), ("erp", 1), (_NAME, 2)]
    ),
    "one changes what the other declares": Meeting(
        saved("crm", description="one"), declared("crm"), None, versions, [("crm", 3), ("erp", 1)]
    ),
    "one removes what the other declares": Meeting(
        removed("crm"), declared("crm"), None, versions, [("crm", 1), ("erp", 1)]
    ),
    "both rename to one name": Meeting(
        saved("crm", name=_NAME), saved("erp", name=_NAME), DuplicateName, names, ["erp", _NAME]
    ),
    "both add a child of one name": Meeting(hooked, hooked, DuplicateName, counts, (2, 2, 2)),
    "both end a run": Meeting(succeeded, succeeded, LeaseLost, processed, [1]),
    "one hears of a run that the other ends": Meeting(heard, succeeded, None, processed, [1]),
    "one pauses the job whose run the other ends": Meeting(
        paused,
        succeeded,
        None,
        lambda uow: sorted((job.status, job.records_processed) for job in uow.sync_jobs.find()),
        [("paused", 1), ("pending", 0)],
    ),
    "one removes the job whose run the other ends": Meeting(
        ran_job_removed, succeeded, SyncRunNotFound, counts, (2, 1, 1)
    ),
    "one removes the integration whose run the other ends": Meeting(
        removed("crm"), succeeded, SyncRunNotFound, counts, (1, 0, 0)
    ),
    "one ends the run of a job that the other removes": Meeting(
        succeeded, ran_job_removed, None, counts, (2, 1, 1)
    ),
    "one removes the integration whose run the other reaps": Meeting(
        removed("crm"), reaped, 0, counts, (1, 0, 0)
    ),
    "one removes the webhook to which the other claims a delivery": Meeting(
        removed("hook"), claimed, 0, counts, (2, 0, 2)
    ),
    "one records the attempt that the other cancels": Meeting(
        recorded("delivery", 500),
        cancelled,
        None,
        lambda uow: uow.messages.counts()["cancelled"],
        1,
    ),
    "both record an attempt": Meeting(
        delivered,
        delivered,
        LeaseLost,
        lambda uow: uow.messages.counts()["delivered"],
        1,
    ),
    "both record a failure of one webhook": Meeting(
        recorded("delivery", 500),
        recorded("another", 500),
        None,
        lambda uow: [uow.messages.health(hook.id).failures for hook in uow.webhooks.find()],
        [3],
    ),
    "one removes the webhook whose attempt the other records": Meeting(
        removed("hook"), delivered, DeliveryNotFound, counts, (2, 0, 2)
    ),
    "both publish with one key": Meeting(published, published, None, told, 4),
    "one publishes to a webhook that the other removes": Meeting(
        published, removed("hook"), None, told, 0
    ),
    "one publishes to a webhook whose integration the other removes": Meeting(
        published, removed("crm"), None, told, 0
    ),
    "one publishes to a new webhook of what the other removes": Meeting(
        hooked_and_published, removed("crm"), None, told, 0
    ),
    "both accept a message": Meeting(accepted, accepted, False, counts, (2, 1, 2)),
    "one removes the webhook whose secret the other rotates": Meeting(
        removed("hook"), rotated, WebhookNotFound, counts, (2, 0, 2)
    ),
    "both rotate the secret of a webhook": Meeting(
        rotated,
        rotated,
        None,
        lambda uow: [len(uow.secrets.of(hook.id)) for hook in uow.webhooks.find()],
        [2],
    ),
}


class ConflictContract:
    """Two units of work that meet come to what they would have come to one after the other, or the
    second one is refused.
    """

    @pytest.fixture
    def there(self, hub: Hub, hub_clock: ManualClock) -> Stored:
        now = hub_clock.now()
        later = now + timedelta(hours=1)
        with hub.unit_of_work() as uow:
            crm = IntegrationFactory(store=uow, name="crm", active=True)
            erp = IntegrationFactory(store=uow, name="erp")
            most = {"delivery": {"max_concurrency": 3}}
            hook = WebhookFactory(
                store=uow, name="hook", integration_id=crm.id, events=["*"], config=most
            )
            due = SyncJobFactory(store=uow, name="due", integration_id=crm.id, next_run_at=now)
            job = SyncJobFactory(store=uow, name="job", integration_id=crm.id, next_run_at=later)
            for n in range(3):
                uow.messages.publish("x.y", n)
            uow.commit()
        with hub.unit_of_work() as uow:
            (run,) = uow.sync_jobs.claim("w")
            uow.messages.fan_out()
            delivery, another, failed = uow.messages.claim()
            uow.messages.record(failed, AttemptOutcome(started_at=now, status=500))
            assert run.sync_job_id == due.id
            uow.commit()
        return Stored(crm, erp, hook, job, run, delivery, another)

    @pytest.mark.parametrize("meeting", MEETINGS)
    def test_two_units_of_work_meet(self, hub: Hub, there: Stored, meeting: str) -> None:
        chosen = MEETINGS[meeting]
        outcome = self.met(
            hub, lambda uow: chosen.first(uow, there), lambda uow: chosen.second(uow, there)
        )
        found = type(outcome.error) if isinstance(outcome, Err) else outcome.value
        with hub.unit_of_work() as uow:
            assert (found, chosen.left(uow)) == (chosen.answer, chosen.remains)

    def met(
        self,
        hub: Hub,
        first: Callable[[UnitOfWork], object],
        second: Callable[[UnitOfWork], object],
    ) -> Result[object, Any]:
        """What the second one comes to, which acts before the first one commits, unless it has to
        wait for that, and commits afterwards.
        """
        acted, committed = threading.Event(), threading.Event()

        def act(uow: UnitOfWork) -> object:
            try:
                found = second(uow)
            finally:
                acted.set()
            assert committed.wait(20)
            return found

        with ThreadPoolExecutor(1) as pool, hub.unit_of_work() as uow:
            first(uow)
            outcome = pool.submit(hub.run, act)
            acted.wait(_PATIENCE)
            uow.commit()
            committed.set()
            return outcome.result(30)

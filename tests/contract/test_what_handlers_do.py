"""Whatever handlers do, in whatever order: each run has ended, and who listens was told of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from integration_hub import (
    Hub,
    Integration,
    Schedule,
    SyncContext,
    SyncJob,
    SyncOutcome,
    SyncRun,
    SyncRunner,
    UnitOfWork,
)
from integration_hub.testing import ManualClock

CHANGES = ["cancel", "pause", "resume", "run_now"]
DEEDS = st.sampled_from(
    [*CHANGES, "remove", "tell", "store", "store in vain", "store and fail", "look", "wait", "end"]
)
ENDS = st.sampled_from([None, SyncOutcome(records=9, checkpoint=9), ConnectionError("x")])
PLANS = st.lists(st.tuples(st.lists(DEEDS, min_size=1, max_size=4), ENDS), min_size=1, max_size=4)


class Handler:
    """Does what is planned for a job; `deeds` are as it did them."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.plans: dict[str, tuple[list[str], Any]] = {}
        self.heard: list[SyncRun] = []
        self.runner: SyncRunner | None = None

    def __call__(self, context: SyncContext) -> SyncOutcome | None:
        deeds, end = self.plans[context.job.name]
        for deed in deeds:
            self.does(context, deed)
            if deed in ("look", "store in vain") and context.cancelled:
                return None
        if isinstance(end, Exception):
            raise end
        found: SyncOutcome | None = end
        return found

    def does(self, context: SyncContext, deed: str) -> None:
        if deed in CHANGES or deed == "remove":
            self.hub.run(lambda uow: self.changes(uow, context.job, deed))
        elif deed == "tell":
            context.progress(1, checkpoint=1)
        elif deed == "wait":
            context.wait(0.01)
        elif deed == "end":
            assert self.runner is not None
            self.runner.stop()
        elif deed.startswith("store"):
            with suppress(KeyError), context.unit_of_work() as uow:
                context.progress(2, checkpoint=2, uow=uow)
                if deed == "store and fail":
                    raise KeyError
                if deed == "store":
                    uow.commit()

    def changes(self, uow: UnitOfWork, job: SyncJob, deed: str) -> None:
        if deed == "remove":
            uow.sync_jobs.remove(job.id)
        else:
            uow.sync_jobs.save(getattr(uow.sync_jobs.get(job.id), deed)(self.hub.clock.now()))


@given(PLANS, st.sampled_from([0, 5]), st.sampled_from([{}, {"timeout": 0.005}]))
def test_no_run_is_left_open_and_who_listens_is_told_of_each(
    plans: list[tuple[list[str], Any]], grace: int, options: dict[str, Any]
) -> None:
    with Hub.in_memory(ManualClock()) as hub:
        handler = Handler(hub)
        due = Schedule.every(600, start=hub.clock.now())
        with hub.unit_of_work() as uow:
            config = {"sync": {"max_concurrency": 4}}
            crm = Integration(name="CRM", type="crm", status="active", config=config)
            uow.integrations.add(crm)
            for number, plan in enumerate(plans):
                name = f"j{number}"
                handler.plans[name] = plan
                job = SyncJob(
                    integration_id=crm.id, name=name, schedule=due, config={"sync": options}
                )
                uow.sync_jobs.add(job)
            uow.commit()
        handler.runner = SyncRunner(hub, {"crm": handler}, grace=grace, on_end=handler.heard.append)
        handler.runner.run_once()
        heard = {run.id: run for run in handler.heard}
        assert len(heard) == len(handler.heard)
        with hub.unit_of_work() as uow:
            assert uow.sync_runs.running() == []
            for job in uow.sync_jobs.find():
                for run in uow.sync_runs.history(job.id):
                    assert heard[run.id] == run

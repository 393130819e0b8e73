"""`integration-hub sync`: a worker for sync jobs, and what jobs and runs there are.

May import everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Annotated

import typer

from integration_hub.cli.shared import (
    PRUNED_AT_ONCE,
    SHOWN,
    AsJson,
    AtMost,
    Column,
    OfIntegration,
    OfStatus,
    TenantName,
    Url,
    Verbose,
    ago,
    changed,
    chosen,
    console,
    duration,
    function_at,
    id_of_integration,
    imported,
    in_batches,
    listed,
    opened,
    plain,
    pointed_at,
    show,
    shown,
    state_of,
    with_integrations,
    work,
)
from integration_hub.domain.errors import StaleVersion, SyncJobNotFound, ValidationError
from integration_hub.domain.integration import MOST_AT_ONCE, Integration
from integration_hub.domain.sync_job import STATUSES, SyncJob, SyncJobStatus
from integration_hub.domain.sync_run import max_concurrency
from integration_hub.ports.query import Sort, SyncJobFilter
from integration_hub.ports.unit_of_work import UnitOfWork
from integration_hub.sync import Handler, SyncRunner

sync = typer.Typer(no_args_is_help=True, help="Sync jobs: run them, and see what came of it.")
JobName = Annotated[str, typer.Argument(help="The job's id, or its name where only one has it.")]
_RUNNING = {
    "tenant": "tenant",
    "job": "job.name",
    "worker": "worker",
    "attempt": "attempt",
    "since": "started_at",
    "last heard": "heartbeat_at",
    "lease until": "lease_expires_at",
    "records": "records_processed",
}
_FAILED = {
    "tenant": "tenant",
    "id": "id",
    "job": "name",
    "attempts": "attempt",
    "last run": "last_run_at",
    "error": "error_message",
}
_JOBS: dict[str, Column] = {
    "tenant": "item.tenant",
    "id": "item.id",
    "job": "item.name",
    "integration": "integration.name",
    "state": lambda each: state_of(each.item),
    "schedule": "item.schedule",
    "next run": "item.next_run_at",
    "last run": "item.last_run_at",
}
_DUE = {
    "tenant": "job.tenant",
    "id": "job.id",
    "job": "job.name",
    "integration": "integration.name",
    "since": "job.next_run_at",
    "waits for": "waits_for",
}
_HISTORY = {
    "started": "started_at",
    "took": "duration",
    "attempt": "attempt",
    "status": "status",
    "records": "records_processed",
    "worker": "worker",
    "error": "error_message",
}


@sync.command()
def run(
    handlers: Annotated[
        str, typer.Option(help="package.module:registry, a mapping of type to handler.")
    ],
    client_options: Annotated[
        str | None, typer.Option(help="package.module:function, what clients need: auth above all.")
    ] = None,
    worker: Annotated[
        str | None, typer.Option(help="Its name; host and process, if left out.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="How many jobs at once.")] = 4,
    lease: Annotated[str, typer.Option(help="How long a silent worker keeps a job.")] = "5m",
    poll: Annotated[
        str, typer.Option(help="How often to look for work it was not told of.")
    ] = "5s",
    grace: Annotated[str, typer.Option(help="How long handlers may go on after SIGTERM.")] = "20s",
    once: Annotated[bool, typer.Option("--once", help="Run what is due now, and end.")] = False,
    leave_others: Annotated[
        bool,
        typer.Option("--leave-others", help="Leave types without a handler to other workers."),
    ] = False,
    on_end: Annotated[
        str | None,
        typer.Option(help="package.module:function, called with each run that has ended."),
    ] = None,
    verbose: Verbose = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """Run due sync jobs until SIGTERM; then finish, or give back what does not finish in time."""
    found = handlers_of(handlers)
    what = "of an integration that gives what HttpClient takes"
    options = function_at("--client-options", client_options, what)
    with opened(url, client_options=options) as hub:
        runner = SyncRunner(
            hub,
            found,
            worker=worker,
            concurrency=concurrency,
            tenant=chosen(tenant),
            lease=duration("--lease", lease),
            poll=duration("--poll", poll),
            grace=duration("--grace", grace),
            leave_others=leave_others,
            on_end=function_at("--on-end", on_end, "of a run"),
        )
        types = ", ".join(sorted(found))
        does = f"runs sync jobs of: {types}"
        work(runner, "worker", does, once=once, counted="runs", is_verbose=verbose)


@sync.command()
def status(tenant: TenantName = None, url: Url = None) -> None:
    """How many jobs there are in each state, which run, and which have failed."""
    with opened(url) as hub, hub.unit_of_work(tenant=chosen(tenant)) as uow:
        counts = [(each, uow.sync_jobs.count(SyncJobFilter(status=each))) for each in STATUSES]
        overdue = uow.sync_jobs.count(SyncJobFilter(due_by=hub.clock.now()))
        show("jobs", ("state", "jobs"), [*counts, ("due now", overdue)])
        runs = uow.sync_runs.running(limit=SHOWN)
        jobs = uow.sync_jobs.get_many({run.sync_job_id for run in runs})
        runs = [replace(run, job=jobs[run.sync_job_id]) for run in runs if run.sync_job_id in jobs]
        failed = uow.sync_jobs.find(SyncJobFilter(failed=True), limit=SHOWN)
    listed("running", runs, _RUNNING)
    listed("failed", failed, _FAILED)


@sync.command("list")
def list_jobs(
    status: OfStatus = None,
    integration: OfIntegration = None,
    limit: AtMost = SHOWN,
    as_json: AsJson = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """Which jobs there are, by name, and when they run."""
    with opened(url) as hub, hub.unit_of_work(tenant=chosen(tenant)) as uow:
        parent = id_of_integration(uow, integration)
        wanted = SyncJobFilter(status=status or None, integration_id=parent)
        page = uow.sync_jobs.page(wanted, sort=Sort("name"), size=limit)
        found = with_integrations(uow, page.items)
    listed(shown("jobs", page), found, _JOBS, as_json=as_json)


@sync.command()
def due(
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    as_json: AsJson = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """The jobs whose time has come, the longest waiting first, and what each of them waits for."""
    with opened(url) as hub, hub.unit_of_work(tenant=chosen(tenant)) as uow:
        wanted = SyncJobFilter(due_by=hub.clock.now())
        jobs = uow.sync_jobs.find(wanted, sort=Sort("next_run_at"), limit=limit)
        found = [_due(uow, each.item, each.integration) for each in with_integrations(uow, jobs)]
    listed("due", found, _DUE, as_json=as_json)


@sync.command()
def history(
    job: JobName,
    limit: Annotated[int, typer.Option(help="At most so many runs, the latest first.")] = 20,
    status: Annotated[list[str] | None, typer.Option(help="Runs of this status only.")] = None,
    since: Annotated[str | None, typer.Option(help="Runs of the last 12h, 30d …")] = None,
    as_json: AsJson = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """The runs of a job, and what came of each."""
    with opened(url) as hub:
        start = None if since is None else ago(hub, "--since", since)
        with hub.unit_of_work(tenant=chosen(tenant)) as uow:
            found = _job(uow, job)
            runs = uow.sync_runs.history(found.id, limit, status=status or None, since=start)
    listed(_told(found), runs, _HISTORY, as_json=as_json)


@sync.command()
def now(
    job: JobName,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Forget its checkpoint: all is done again.")
    ] = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """Let a job be due at once, whatever its schedule says; resumed, if it rested or was over."""
    _change(job, partial(SyncJob.run_now, from_start=from_start), tenant, url)


@sync.command()
def pause(job: JobName, tenant: TenantName = None, url: Url = None) -> None:
    """Let a job rest until it is resumed; a run that is on its way goes on."""
    _change(job, SyncJob.pause, tenant, url)


@sync.command()
def resume(job: JobName, tenant: TenantName = None, url: Url = None) -> None:
    """Let a job that rests, or has failed, wait for its next time, with all its attempts."""
    _change(job, SyncJob.resume, tenant, url)


@sync.command()
def cancel(job: JobName, tenant: TenantName = None, url: Url = None) -> None:
    """Never run a job again; a run that is on its way is told to stop."""
    _change(job, SyncJob.cancel, tenant, url)


@sync.command()
def prune(
    older_than: Annotated[
        str, typer.Option(help="How long ended runs are kept: 30d, 12h …")
    ] = "30d",
    jobs: Annotated[
        bool, typer.Option("--jobs", help="And jobs that are completed or cancelled for as long.")
    ] = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """Forget ended runs, and with --jobs the jobs that are over, in batches that hold nobody up."""
    of = chosen(tenant)
    with opened(url) as hub:
        before = ago(hub, "--older-than", older_than)
        if jobs:
            total = in_batches(hub, of, lambda uow: _forget_jobs(uow, before))
            console.print(f"{total} jobs forgotten", highlight=False)
        total = in_batches(hub, of, lambda uow: uow.sync_runs.prune(before, limit=PRUNED_AT_ONCE))
    console.print(f"{total} runs forgotten", highlight=False)


def _forget_jobs(uow: UnitOfWork, before: datetime) -> int:
    over = SyncJobFilter(status=(SyncJobStatus.COMPLETED, SyncJobStatus.CANCELLED))
    found = uow.sync_jobs.find(over, sort=Sort("updated_at"), limit=PRUNED_AT_ONCE)
    old = [job for job in found if job.updated_at is not None and job.updated_at < before]
    for job in old:
        with suppress(StaleVersion, SyncJobNotFound):  # somebody resumes it at this moment
            uow.sync_jobs.remove(uow.sync_jobs.save(job).id)
    return len(old)


@dataclass(frozen=True)
class _Due:
    job: SyncJob
    integration: Integration
    waits_for: str


def _due(uow: UnitOfWork, job: SyncJob, integration: Integration) -> _Due:
    if integration.is_resting:
        how = integration.status if integration.is_active else "inactive"
        return _Due(job, integration, f"its integration, which is {how}")
    runs = uow.sync_runs.running(integration_id=integration.id, limit=MOST_AT_ONCE)
    if any(run.sync_job_id == job.id for run in runs):
        return _Due(job, integration, "its own run, which goes on")
    places = max_concurrency(integration.config)
    is_full = len(runs) >= places
    waits_for = f"a place: {len(runs)} of {places} are taken" if is_full else "a worker"
    return _Due(job, integration, waits_for)


def _change(
    job: str, act: Callable[[SyncJob, datetime], SyncJob], tenant: str | None, url: str | None
) -> None:
    def change(uow: UnitOfWork, now: datetime) -> SyncJob:
        return uow.sync_jobs.save(act(_job(uow, job), now))

    console.print(plain(_told(changed(url, tenant, change))))


def _told(job: SyncJob) -> str:
    following = "none" if job.next_run_at is None else f"{job.next_run_at:%Y-%m-%d %H:%M:%S}"
    return f"{job.name}: {job.status}, next run: {following}"


def _job(uow: UnitOfWork, given: str) -> SyncJob:
    return pointed_at(uow.sync_jobs, SyncJobFilter(name_contains=given), "job", given)


def handlers_of(place: str) -> Mapping[str, Handler]:
    """The registry at ``package.module:name``. Raises `ValidationError` where there is none."""
    registry = imported("--handlers", place)
    if not isinstance(registry, Mapping) or not registry:
        raise ValidationError(
            "--handlers", place, "must name a mapping of integration type to handler"
        )
    return registry

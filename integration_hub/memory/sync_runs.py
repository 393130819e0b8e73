"""Sync runs over dicts: claims, and the life of a run.

May import: `ports`, `domain`, and its neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from integration_hub.domain.errors import SyncRunNotFound
from integration_hub.domain.frozen import evolved
from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.sync_run import SyncRun, free_slot
from integration_hub.domain.values import (
    checked_count,
    checked_id,
    checked_time,
    new_id,
    optional_time,
)
from integration_hub.memory.store import ANY
from integration_hub.ports.sync_runs import Claim, RunsLife, checked_statuses

if TYPE_CHECKING:
    from integration_hub.memory.unit_of_work import MemoryUnitOfWork


class InMemorySyncRunRepository(RunsLife):
    """Sync runs over dicts."""

    def __init__(self, uow: MemoryUnitOfWork) -> None:
        self._uow = uow
        self.clock = uow.clock
        self._runs = uow.layer(SyncRun)
        self._jobs = uow.layer(SyncJob)

    def get(self, id: UUID) -> SyncRun:
        self._uow.require_active()
        with self._uow.store.lock:
            run = self._runs.get(checked_id("id", id))
            if run is None or not self._uow.sees(run.tenant):
                raise SyncRunNotFound(id)
            return run

    def history(
        self,
        job_id: UUID,
        limit: int = 50,
        *,
        status: str | Collection[str] | None = None,
        since: datetime | None = None,
    ) -> list[SyncRun]:
        self._uow.require_active()
        checked_count("limit", limit, least=1)
        wanted = checked_statuses(status)
        start = optional_time("since", since)
        with self._uow.store.lock:
            runs = self._seen(self._runs.ids("sync_job_id", [checked_id("job_id", job_id)]))
        found = [
            run
            for run in runs
            if (wanted is None or run.status in wanted)
            and (start is None or run.started_at >= start)
        ]
        return sorted(found, key=_started, reverse=True)[:limit]

    def running(self, *, integration_id: UUID | None = None, limit: int = 100) -> list[SyncRun]:
        self._uow.require_active()
        checked_count("limit", limit, least=1)
        with self._uow.store.lock:
            if integration_id is None:
                runs = [run for run in self._seen(self._runs.all_ids()) if run.is_running]
            else:  # the index has what runs by job, too
                of_one = checked_id("integration_id", integration_id)
                runs = self._seen(self._runs.ids("running", [of_one]))
                runs = [run for run in runs if run.integration_id == of_one]
        return sorted(runs, key=_started)[:limit]

    def prune(self, before: datetime, *, limit: int = 1_000) -> int:
        self._uow.require_active()
        moment = checked_time("before", before)
        checked_count("limit", limit, least=1)
        with self._uow.store.lock:
            runs = self._seen(self._runs.all_ids())
            ended = [(run.finished_at, run.id) for run in runs if run.finished_at]
            old = sorted(each for each in ended if each[0] < moment)[:limit]
            for _, id in old:
                self._uow.discard(SyncRun, id, is_cascade=True)
        return len(old)

    def _seen(self, ids: Iterable[UUID]) -> list[SyncRun]:
        """The runs of this tenant; the caller has the store's lock."""
        runs = map(self._runs.get, ids)
        return [run for run in runs if run is not None and self._uow.sees(run.tenant)]

    def claimed(self, claim: Claim) -> list[SyncRun]:
        """Runs of the first `limit` of the due jobs that are free and that there is room for."""
        with self._uow.store.lock:
            return self._opened(self._uow.sync_jobs.waiting(claim.now), claim)

    def _opened(self, jobs: list[SyncJob], claim: Claim) -> list[SyncRun]:
        now = claim.now
        found: list[SyncRun] = []
        full: set[UUID] = set()  # integrations that have no place left
        for job in jobs:
            if len(found) == claim.limit:
                break
            if job.integration_id in full:
                continue
            if self._uow.store.held.get(job.id, self._uow) is not self._uow:
                continue
            if self._runs.ids("running", [job.id]):
                continue  # paused and resumed, while its run goes on
            integration = self._uow.layer(Integration).get(job.integration_id)
            assert integration is not None
            if claim.types is not None and integration.type not in claim.types:
                continue
            slot = self._free_slot(integration)
            if slot is None:
                full.add(integration.id)
                continue
            started = evolved(job.started(now), updated_by=self._uow.actor)
            if started.is_missed(now):
                self._uow.put(SyncJob, started.skipped(now))
                continue
            run = claim.opened(started, integration, id=new_id(), slot=slot)
            self._uow.store.held[job.id] = self._uow
            self._uow.put(SyncJob, started)
            self._uow.put(SyncRun, evolved(run, job=None, integration=None))
            found.append(run)
        return found

    def _free_slot(self, integration: Integration) -> int | None:
        """A place of the integration that no run has, here or in another unit of work's hands."""
        ids = self._runs.ids("running", [integration.id])
        taken = {run.slot for run in map(self._runs.get, ids) if run is not None}
        for uow in set(self._uow.store.held.values()):
            if uow is not self._uow:
                taken |= uow.layer(SyncRun).slots_of(integration.id)  # type: ignore[attr-defined]
        return free_slot(integration.config, taken)

    def _held(self, id: UUID) -> tuple[SyncRun, SyncJob] | None:
        self._uow.require_active()
        with self._uow.store.lock:
            run = self._runs.get(id)
            if run is None or not self._uow.sees(run.tenant):
                return None
            job = self._jobs.get(run.sync_job_id)
            assert job is not None
            return run, job

    def _expired(self, now: datetime, limit: int) -> list[tuple[SyncRun, SyncJob]]:
        self._uow.require_active()
        with self._uow.store.lock:
            runs = map(self._runs.get, self._runs.ids("running", [ANY]))
            expired = [
                run
                for run in runs
                if run is not None
                and run.lease_expires_at <= now
                and self._uow.sees(run.tenant)
                and self._uow.store.held.get(run.id, self._uow) is self._uow
            ]
            expired.sort(key=lambda run: (run.lease_expires_at, run.id))
            held = [self._held(run.id) for run in expired[:limit]]
        return [each for each in held if each is not None]

    def _keep(self, run: SyncRun, job: SyncJob | None) -> None:
        with self._uow.store.lock:
            self._uow.store.held[run.id] = self._uow
            self._uow.put(SyncRun, run)
            if job is not None:
                self._uow.put(SyncJob, evolved(job, updated_by=self._uow.actor))


def _started(run: SyncRun) -> tuple[datetime, UUID]:
    return run.started_at, run.id

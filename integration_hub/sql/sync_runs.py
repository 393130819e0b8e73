"""Sync runs in a table: claims, and the life of a run.

May import: `ports`, `domain`, and its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from uuid import UUID

from integration_hub.domain.errors import QueryTimeout, StorageError, SyncRunNotFound
from integration_hub.domain.frozen import evolved
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.sync_run import SyncRun, free_slot
from integration_hub.domain.values import checked_count, checked_id, checked_time, new_id
from integration_hub.ports.sync_runs import Change, Claim, RunsLife, checked_statuses
from integration_hub.ports.waiting import SYNC_WORK
from integration_hub.sql.claiming import OF_JOB, OF_RUN, ending_values
from integration_hub.sql.mapping import INTEGRATIONS, SYNC_JOBS, SYNC_RUNS
from integration_hub.sql.prepared import array_text
from integration_hub.sql.run_statements import (
    FORGET,
    LOCK_TIMEOUT,
    SET_LOCK_TIMEOUT,
    RunStatements,
)

if TYPE_CHECKING:
    from integration_hub.sql.unit_of_work import SqlUnitOfWork

_JOB_WIDTH = len(SYNC_JOBS.columns)
_JOB_AT = 2  # in a row of a claim, behind the run's id and slot
_PARENT_AT = _JOB_AT + _JOB_WIDTH
_Place: TypeAlias = tuple[datetime, UUID]  # of a job among those that are due
_FIRST: _Place = (datetime.min.replace(tzinfo=UTC), UUID(int=0))
_VAIN = 5  # how often a claim looks again where others were quicker each time
_SCAN = 200  # due jobs that are looked at in one go


class SqlSyncRunRepository(RunsLife):
    """Sync runs in a table."""

    STATEMENTS: ClassVar[RunStatements]

    def __init__(self, uow: SqlUnitOfWork) -> None:
        self._uow = uow
        self.clock = uow.clock

    def get(self, id: UUID) -> SyncRun:
        self._uow.require_active()
        values = self._uow.scoped(id=checked_id("id", id))
        for row in self._uow.rows(self.STATEMENTS.get(scoped=self._uow.is_scoped), values):
            return SYNC_RUNS.load(row)
        raise SyncRunNotFound(id)

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
        values = self._uow.scoped(sync_job_id=checked_id("job_id", job_id), limit=limit)
        if wanted is not None:
            values["statuses"] = list(wanted)
        if since is not None:
            values["started_at"] = checked_time("since", since)
        statement = self.STATEMENTS.history(
            scoped=self._uow.is_scoped, chosen=wanted is not None, dated=since is not None
        )
        return [SYNC_RUNS.load(row) for row in self._uow.rows(statement, values)]

    def running(self, *, integration_id: UUID | None = None, limit: int = 100) -> list[SyncRun]:
        self._uow.require_active()
        checked_count("limit", limit, least=1)
        values = self._uow.scoped(limit=limit)
        if integration_id is not None:
            values["integration_id"] = checked_id("integration_id", integration_id)
        statement = self.STATEMENTS.running(
            scoped=self._uow.is_scoped, of_one=integration_id is not None
        )
        return [SYNC_RUNS.load(row) for row in self._uow.rows(statement, values)]

    def prune(self, before: datetime, *, limit: int = 1_000) -> int:
        self._uow.require_active()
        moment = checked_time("before", before)
        checked_count("limit", limit, least=1)
        values = self._uow.scoped(finished_at=moment, limit=limit)
        statement = self.STATEMENTS.prune(scoped=self._uow.is_scoped)
        return self._uow.touch(statement, values, is_whole=True)

    # --- the life of a run --------------------------------------------------------------------

    def _held(self, id: UUID) -> tuple[SyncRun, SyncJob] | None:
        self._uow.begun()
        values = self._uow.scoped(id=id)
        for row in self._uow.rows(self.STATEMENTS.held(scoped=self._uow.is_scoped), values):
            return _both(row)
        return None

    def _expired(self, now: datetime, limit: int) -> list[tuple[SyncRun, SyncJob]]:
        values = self._uow.scoped(lease_expires_at=now, limit=limit)
        statement = self.STATEMENTS.expired(scoped=self._uow.is_scoped)
        self._uow.ready()
        rows = self._uow.rows(statement, values)
        if rows and not self._uow.has_begun:  # it has looked, and holds nothing
            self._uow.begun()
            rows = self._uow.rows(statement, values)
        return [_both(row) for row in rows]

    def _keep(self, run: SyncRun, job: SyncJob | None) -> None:
        values = SYNC_RUNS.picked(run, ("id", *OF_RUN), "new_")
        self._uow.touch(self.STATEMENTS.change_run, values)
        if job is not None:
            self._change_job(evolved(job, updated_by=self._uow.actor))

    def _change_job(self, job: SyncJob) -> None:
        values = SYNC_JOBS.picked(job, ("id", *OF_JOB), "new_")
        self._uow.touch(self.STATEMENTS.change_job, values)


def _both(row: Any) -> tuple[SyncRun, SyncJob]:
    width = len(SYNC_RUNS.columns)
    return SYNC_RUNS.load(row[:width]), SYNC_JOBS.load(row[width:])


class SqliteSyncRunRepository(SqlSyncRunRepository):
    """Sync runs on SQLite, which has one writer at a time: it looks, and takes."""

    STATEMENTS = RunStatements("sqlite")

    def claimed(self, claim: Claim) -> list[SyncRun]:
        self._uow.begun()
        now, limit = claim.now, claim.limit
        taken: dict[UUID, set[int]] = {}
        for integration_id, slot in self._uow.rows(self.STATEMENTS.slots, {}):
            taken.setdefault(integration_id, set()).add(slot)
        full: set[UUID] = set()  # integrations that have no place left: their jobs wait in vain
        found: list[SyncRun] = []
        while len(found) < limit:
            values = self._uow.scoped(next_run_at=now, limit=_SCAN, full=list(full))
            if claim.types is not None:
                values["types"] = list(claim.types)
            statement = self.STATEMENTS.free(
                scoped=self._uow.is_scoped, typed=claim.types is not None
            )
            rows = self._uow.rows(statement, values)
            for row in rows:
                job, parent = SYNC_JOBS.load(row[:_JOB_WIDTH]), INTEGRATIONS.load(row[_JOB_WIDTH:])
                slots = taken.setdefault(parent.id, set())
                slot = free_slot(parent.config, slots)
                if slot is None:
                    full.add(parent.id)
                    continue
                started = evolved(job.started(now), updated_by=self._uow.actor)
                if started.is_missed(now):
                    self._change_job(started.skipped(now))
                    continue
                run = claim.opened(started, parent, id=new_id(), slot=slot)
                slots.add(slot)
                self._change_job(started)
                self._uow.touch(self.STATEMENTS.insert_run, SYNC_RUNS.parameters(run))
                found.append(run)
                if len(found) == limit:
                    break
            if len(rows) < _SCAN:
                break
        return found


class PostgresSyncRunRepository(SqlSyncRunRepository):
    """Sync runs on Postgres: many claim at once, and nobody waits."""

    STATEMENTS = RunStatements("postgresql")

    def claimed(self, claim: Claim) -> list[SyncRun]:
        """One statement claims what it can; it is repeated while there may be more.

        It takes the first `limit` due jobs that nobody holds, of integrations that have room, and
        looks for them among the first jobs that are due; only if these are not enough, it passes by
        those that wait in vain, however many they are. Where they are mostly jobs of one
        integration, few of them get a place, and the next turn, in which that integration has no
        more room, looks at the others: so a long queue of one can't hold up the rest. Within a
        transaction such a turn must not wait for another claim, which may be waiting for the places
        of the turn before: it has what it has. Where each turn is stored by itself, a fault of a
        later one must not cost what is stored.
        """
        self._uow.ready()
        found: list[SyncRun] = []
        try:
            self._claim_into(found, claim)
        except StorageError:
            if not found or self._uow.has_begun:
                raise
        found.sort(key=_waited)
        return found

    def _claim_into(self, found: list[SyncRun], claim: Claim) -> None:
        vain = 0
        since: _Place | None = None
        while True:
            turn = partial(self._turn, claim, claim.limit - len(found), since)
            waits = not found or not self._uow.has_begun
            claimed = turn() if waits else self._without_waiting(turn)
            if claimed is None:
                break
            found += [run for run in claimed if not self._skips(run, claim.now)]
            vain = 0 if claimed else vain + 1  # others took the places that were free
            if len(found) >= claim.limit or vain == _VAIN:
                break
            since = self._first_free(claim, since or _FIRST)
            if since is None:
                break

    def _first_free(self, claim: Claim, since: _Place) -> _Place | None:
        values = self._looking(claim) | {"since": since[0], "since_id": since[1]}
        for next_run_at, id in self._uow.rows(self.STATEMENTS.first_free, values):
            return next_run_at, id
        return None

    def _without_waiting(self, turn: Callable[[], list[SyncRun]]) -> list[SyncRun] | None:
        before = self._uow.rows(LOCK_TIMEOUT, {})[0][0]
        try:
            with self._uow.savepoint():
                self._uow.rows(SET_LOCK_TIMEOUT, {"limit": "5ms"})
                done = turn()
                self._uow.rows(SET_LOCK_TIMEOUT, {"limit": before})
        except QueryTimeout:
            return None
        return done

    def _looking(self, claim: Claim) -> dict[str, Any]:
        types = None if claim.types is None else array_text(claim.types)
        return {"now": claim.now, "tenant": self._uow.scope, "types": types}

    def _turn(self, claim: Claim, limit: int, since: _Place | None) -> list[SyncRun]:
        """The runs of what one statement claims: near the first that is due, or from one on."""
        values = self._looking(claim) | {
            "ids": array_text([new_id() for _ in range(limit)]),
            "worker": claim.worker,
            "actor": self._uow.actor,
            "expires": claim.expires,
        }
        if since is not None:
            values |= {"since": since[0], "since_id": since[1]}
        statement = self.STATEMENTS.claim(limit, far=since is not None)
        rows = self._uow.rows(statement, values)
        parents = INTEGRATIONS.told(rows, _PARENT_AT)
        claimed = []
        for row in rows:
            job = SYNC_JOBS.load(row[_JOB_AT:_PARENT_AT])
            parent = parents[job.integration_id]
            claimed.append(claim.opened(job, parent, id=row[0], slot=row[1]))
        return claimed

    def _skips(self, run: SyncRun, now: datetime) -> bool:
        """Whether the job wants a time that it missed to be skipped; then it is."""
        assert run.job is not None
        if not run.job.is_missed(now):
            return False
        self._forget(run)
        self._change_job(run.job.skipped(now))
        return True

    def release(self, run: SyncRun) -> SyncRun:
        released = super().release(run)
        self._uow.announce(SYNC_WORK)  # others can take it up at once
        return released

    def _keep_at_once(self, changes: list[Change]) -> bool:
        """Endings in one statement, which changes all rows or none."""
        self._uow.require_active()
        if not changes:
            return True
        values = {
            **ending_values(changes),
            "tenant": self._uow.scope,
            "actor": self._uow.actor,
        }
        return self._uow.touch(self.STATEMENTS.end, values, is_whole=True) == len(changes)

    def _forget(self, run: SyncRun) -> None:
        self._uow.touch(FORGET, {"id": run.id})


def _waited(run: SyncRun) -> tuple[Any, UUID]:
    assert run.job is not None
    return run.job.next_run_at, run.job.id

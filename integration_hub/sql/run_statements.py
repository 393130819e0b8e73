"""The statements on sync runs, built once per dialect.

May import: `ports`, `claiming`, `filtering`, `mapping`, `prepared`, SQLAlchemy.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

from sqlalchemy import (
    Integer,
    Text,
    and_,
    any_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from integration_hub.ports.sync_runs import MOST_CLAIMED
from integration_hub.sql.claiming import OF_JOB, OF_RUN, claim_text, ending_text, free_text
from integration_hub.sql.filtering import may_run, waiting
from integration_hub.sql.mapping import INTEGRATIONS, SYNC_JOBS, SYNC_RUNS
from integration_hub.sql.prepared import Prepared, delete_those

_RUNS, _JOBS = SYNC_RUNS.table, SYNC_JOBS.table
_PARENTS = INTEGRATIONS.table
_RUNNING: Any = literal_column("'running'")
_ONE = literal_column("1", Integer)  # in the text, as the condition of the index has it


class RunStatements:
    """The statements on runs, built once per dialect."""

    def __init__(self, dialect: str) -> None:
        self.is_postgres = dialect == "postgresql"
        self.get = lru_cache(self._get)
        self.held = lru_cache(self._held)
        self.expired = lru_cache(self._expired)
        self.history = lru_cache(self._history)
        self.running = lru_cache(self._running)
        self.prune = lru_cache(self._prune)
        self.free = lru_cache(self._free)
        self.claim = lru_cache(maxsize=2 * MOST_CLAIMED)(self._claim)  # near and far

    def _get(self, *, scoped: bool) -> Prepared:
        return Prepared(select(_RUNS).where(_RUNS.c.id == _parameter("id"), *_scope(scoped)))

    def _held(self, *, scoped: bool) -> Prepared:
        """A run and its job, kept from others until the end of the transaction."""
        both = select(_RUNS, _JOBS).join(_JOBS, _JOBS.c.id == _RUNS.c.sync_job_id)
        both = both.where(_RUNS.c.id == _parameter("id"), *_scope(scoped))
        return Prepared(both.with_for_update(of=[_JOBS, _RUNS]))

    def _expired(self, *, scoped: bool) -> Prepared:
        """As `held`, of those whose lease has run out, past those that others hold."""
        both = select(_RUNS, _JOBS).join(_JOBS, _JOBS.c.id == _RUNS.c.sync_job_id)
        is_running = and_(_RUNS.c.status == _RUNNING, _RUNS.c.slot >= _ONE)
        expired = _RUNS.c.lease_expires_at <= _parameter("lease_expires_at")
        both = both.where(is_running, expired, *_scope(scoped))
        both = both.order_by(_RUNS.c.lease_expires_at, _RUNS.c.id)
        both = both.limit(bindparam("limit", type_=Integer))
        return Prepared(both.with_for_update(of=[_JOBS, _RUNS], skip_locked=True))

    def _history(self, *, scoped: bool, chosen: bool, dated: bool) -> Prepared:
        found = select(_RUNS).where(_RUNS.c.sync_job_id == _parameter("sync_job_id"))
        found = found.where(*_scope(scoped))
        if dated:
            found = found.where(_RUNS.c.started_at >= _parameter("started_at"))
        if chosen and self.is_postgres:
            wanted: Any = any_(bindparam("statuses", type_=ARRAY(_RUNS.c.status.type)))
            found = found.where(_RUNS.c.status == wanted)
        elif chosen:
            found = found.where(_RUNS.c.status.in_(bindparam("statuses", expanding=True)))
        found = found.order_by(_RUNS.c.started_at.desc(), _RUNS.c.id.desc())
        return Prepared(found.limit(bindparam("limit", type_=Integer)))

    def _running(self, *, scoped: bool, of_one: bool) -> Prepared:
        found = select(_RUNS).where(_RUNS.c.status == _RUNNING, *_scope(scoped))
        if of_one:
            found = found.where(_RUNS.c.integration_id == _parameter("integration_id"))
        found = found.order_by(_RUNS.c.started_at, _RUNS.c.id)
        return Prepared(found.limit(bindparam("limit", type_=Integer)))

    def _prune(self, *, scoped: bool) -> Prepared:
        """The oldest ended runs, past those that others are just pruning."""
        old = select(_RUNS.c.id).where(_RUNS.c.finished_at < _parameter("finished_at"))
        old = old.where(*_scope(scoped)).order_by(_RUNS.c.finished_at, _RUNS.c.id)
        old = old.limit(bindparam("limit", type_=Integer)).with_for_update(skip_locked=True)
        return Prepared(delete_those(_RUNS, old))

    @cached_property
    def change_run(self) -> Prepared:
        return _change(_RUNS, OF_RUN)

    @cached_property
    def change_job(self) -> Prepared:
        return _change(_JOBS, OF_JOB)

    @cached_property
    def insert_run(self) -> Prepared:
        return Prepared(insert(_RUNS).values(SYNC_RUNS.new_values()))

    def _free(self, *, scoped: bool, typed: bool) -> Prepared:
        """SQLite: due jobs with their integrations, but for those that are known to be full."""
        due = select(_JOBS, _PARENTS).join(_PARENTS, _PARENTS.c.id == _JOBS.c.integration_id)
        due = due.where(
            waiting(_JOBS),
            _JOBS.c.next_run_at <= _parameter("next_run_at", _JOBS),
            may_run(_PARENTS),
            _JOBS.c.integration_id.not_in(bindparam("full", expanding=True)),
        )
        its_run = _RUNS.c.sync_job_id == _JOBS.c.id  # paused and resumed, while its run goes on
        due = due.where(~exists().where(its_run, _RUNS.c.status == _RUNNING))
        if typed:
            due = due.where(_PARENTS.c.type.in_(bindparam("types", expanding=True)))
        if scoped:
            due = due.where(_JOBS.c.tenant_id == _parameter("tenant_id", _JOBS))
        due = due.order_by(_JOBS.c.next_run_at, _JOBS.c.id)
        return Prepared(due.limit(bindparam("limit", type_=Integer)))

    @cached_property
    def slots(self) -> Prepared:
        """The places that are taken, by integration."""
        slots = select(_RUNS.c.integration_id, _RUNS.c.slot)
        return Prepared(slots.where(_RUNS.c.status == _RUNNING))

    def _claim(self, limit: int, *, far: bool) -> Prepared:
        return Prepared(claim_text(limit, far=far))

    @cached_property
    def first_free(self) -> Prepared:
        return Prepared(free_text())

    @cached_property
    def end(self) -> Prepared:
        return Prepared(ending_text())


def _parameter(name: str, table: Any = _RUNS) -> Any:
    return bindparam(name, type_=table.c[name].type)


def _new(column: Any) -> Any:
    return bindparam(f"new_{column.name}", type_=column.type)


def _scope(scoped: bool) -> list[Any]:
    return [_RUNS.c.tenant_id == _parameter("tenant_id")] if scoped else []


def _change(table: Any, columns: tuple[str, ...]) -> Prepared:
    row = table.c.id == bindparam("new_id", type_=table.c.id.type)
    return Prepared(update(table).where(row).values({n: _new(table.c[n]) for n in columns}))


LOCK_TIMEOUT = Prepared(select(func.current_setting("lock_timeout")))
SET_LOCK_TIMEOUT = Prepared(
    select(func.set_config("lock_timeout", bindparam("limit", type_=Text), literal_column("true")))
)
FORGET = Prepared(delete(_RUNS).where(_RUNS.c.id == _parameter("id")))

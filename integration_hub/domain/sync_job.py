"""A sync job: what is fetched from, or pushed to, an integration's system, and when.

May import: `aggregate`, `errors`, `schedule`, `values`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Self
from uuid import UUID

from integration_hub.domain.aggregate import Aggregate, evolved, put
from integration_hub.domain.errors import NotFound, SyncJobNotFound, ValidationError
from integration_hub.domain.schedule import Schedule
from integration_hub.domain.values import (
    checked_count,
    checked_id,
    checked_json,
    checked_time,
    member,
    optional_time,
)


class SyncJobStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class SyncDirection(StrEnum):
    PULL = "pull"
    PUSH = "push"
    BOTH = "both"


_S = SyncJobStatus
STATUSES = {status.value: status for status in _S}
DIRECTIONS = {direction.value: direction for direction in SyncDirection}
MOST_RECORDS = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncJob(Aggregate):
    """A piece of recurring work: what a worker is to fetch or push.

    `schedule` says when; `next_run_at` is the next time, set when the job is added unless it is
    given; `checkpoint` is the sync cursor, any JSON, where the next run takes up;
    `records_processed` is a total over all runs. Names are unique within the integration. Raises
    `ValidationError` naming the field.
    """

    KIND: ClassVar[str] = "sync job"
    NOT_FOUND: ClassVar[type[NotFound]] = SyncJobNotFound
    STATE: ClassVar[frozenset[str]] = Aggregate.STATE | {
        "next_run_at",
        "last_run_at",
        "records_processed",
        "attempt",
        "checkpoint",
    }
    TRANSITIONS: ClassVar[Mapping[str, frozenset[str]]] = {
        _S.PENDING: frozenset({_S.RUNNING, _S.PAUSED, _S.CANCELLED}),
        _S.RUNNING: frozenset({_S.PENDING, _S.COMPLETED, _S.FAILED, _S.PAUSED, _S.CANCELLED}),
        _S.COMPLETED: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.FAILED: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.PAUSED: frozenset({_S.PENDING, _S.CANCELLED}),
        _S.CANCELLED: frozenset(),
    }

    integration_id: UUID
    schedule: Schedule
    direction: SyncDirection | str = SyncDirection.PULL
    status: SyncJobStatus | str = SyncJobStatus.PENDING
    max_attempts: int = 3
    attempt: int = 0
    next_run_at: datetime | None = None
    last_run_at: datetime | None = None
    records_processed: int = 0
    checkpoint: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        Aggregate.__post_init__(self)
        checked_id("integration_id", self.integration_id)
        if not isinstance(self.schedule, Schedule):
            raise ValidationError("schedule", self.schedule, "must be a Schedule")
        put(self, "direction", member("direction", self.direction, DIRECTIONS))
        put(self, "status", member("status", self.status, STATUSES))
        checked_count("max_attempts", self.max_attempts, least=1, most=1_000)
        checked_count("attempt", self.attempt)
        checked_count("records_processed", self.records_processed, most=MOST_RECORDS)
        put(self, "checkpoint", checked_json("checkpoint", self.checkpoint))
        for name in ("next_run_at", "last_run_at"):
            put(self, name, optional_time(name, getattr(self, name)))

    # A dataclass with slots is made anew by its decorator, so that a bare super() would miss it.

    def added(self, *, tenant: str, actor: str, now: datetime) -> Self:
        stored = super(SyncJob, self).added(tenant=tenant, actor=actor, now=now)
        return stored.planned(now) if stored.status == _S.PENDING else stored

    def redeclared(self, declared: Aggregate) -> Self:
        """As for every aggregate; a new schedule also plans the next run anew."""
        merged = super(SyncJob, self).redeclared(declared)
        if merged.schedule == self.schedule:
            return merged
        assert isinstance(declared, SyncJob)
        return evolved(merged, next_run_at=declared.next_run_at)

    def saved(self, *, actor: str, now: datetime) -> Self:
        stored = super(SyncJob, self).saved(actor=actor, now=now)
        return stored.planned(now) if stored.status == _S.PENDING else stored

    def pause(self, now: datetime) -> SyncJob:
        """Not due until resumed."""
        return self._moved(_S.PAUSED, now)

    def resume(self, now: datetime) -> SyncJob:
        """Waiting for its time again, with all its attempts; a past error is forgotten."""
        moment = checked_time("now", now)
        changes = {"attempt": 0, "error_message": None}
        return self._moved(_S.PENDING, moment, **changes).planned(moment)

    def cancel(self, now: datetime) -> SyncJob:
        """Never run again."""
        return self._moved(_S.CANCELLED, now, next_run_at=None)

    def planned(self, now: datetime) -> Self:
        """With its next run set, if it has none."""
        if self.next_run_at is not None:
            return self
        return evolved(self, next_run_at=self.schedule.first_run(now))

"""A sync run: one attempt at a sync job, by one worker, for as long as its lease lasts.

May import: `errors`, `frozen`, `frozen_json`, `integration`, `sync_job`, `values`. What an attempt
does to its job is said here and in `sync_job`, once for all stores.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import count
from typing import Any, ClassVar
from uuid import UUID

from integration_hub.domain.errors import (
    HubError,
    NotFoundKind,
    RetriesExhausted,
    StatusError,
    SyncRunNotFound,
)
from integration_hub.domain.frozen import draft, evolved, frozen, put
from integration_hub.domain.frozen_json import checked_json, stored_part
from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import MOST_RECORDS, SyncJob
from integration_hub.domain.values import LONGEST_ASKED, checked_count, clipped_text, new_id

BACKOFF = timedelta(seconds=10)  # the longest wait after a first failure; it doubles with each
LONGEST_BACKOFF = timedelta(hours=1)


class SyncRunStatus(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"


_S = SyncRunStatus
STATUSES = {status.value: status for status in _S}


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRun:
    """One attempt. Stores make these.

    `job` and `integration`, as they are by then, are there on what a claim, a heartbeat or an
    ending gives; not on what is looked up.

    The lease belongs to the run, not to the worker: a worker that was taken for dead, or one that
    was started again under the same name, can't touch what is no longer its own.
    """

    KIND: ClassVar[str] = "sync run"
    NOT_FOUND: ClassVar[NotFoundKind] = SyncRunNotFound

    sync_job_id: UUID
    integration_id: UUID
    slot: int  # of the integration's places for jobs that run at once, counted from 1
    attempt: int
    worker: str
    started_at: datetime
    heartbeat_at: datetime
    lease_expires_at: datetime
    status: SyncRunStatus = SyncRunStatus.RUNNING
    finished_at: datetime | None = None
    records_processed: int = 0
    checkpoint_before: Any = field(default=None, repr=False)
    checkpoint_after: Any = field(default=None, repr=False)
    error_code: str | None = None
    error_message: str | None = None
    id: UUID = field(default_factory=new_id)
    tenant: str = ""
    version: int = 1
    job: SyncJob | None = field(default=None, repr=False, compare=False)
    integration: Integration | None = field(default=None, repr=False, compare=False)

    @property
    def is_running(self) -> bool:
        return self.status == _S.RUNNING

    @property
    def duration(self) -> timedelta | None:
        """How long it took; None while it runs."""
        return None if self.finished_at is None else self.finished_at - self.started_at

    @property
    def checkpoint(self) -> Any:
        """Where the sync stands: what the run has stored, or else where it took up."""
        return self.checkpoint_before if self.checkpoint_after is None else self.checkpoint_after

    def heard(self, now: datetime, *, records: int | None, checkpoint: Any) -> SyncRun:
        """The run after a sign of life: its lease begins anew. Progress was checked before."""
        return evolved(
            self,
            version=self.version + 1,
            heartbeat_at=now,
            lease_expires_at=now + (self.lease_expires_at - self.heartbeat_at),
            **_progress(records, checkpoint),
        )

    def ended(
        self,
        status: SyncRunStatus,
        now: datetime,
        *,
        records: int | None = None,
        checkpoint: Any = None,
        error: object = None,
        code: str | None = None,
    ) -> SyncRun:
        """The run at its end; `error` is an exception, or somebody's words, which have a `code`."""
        changes = _progress(records, checkpoint)
        if error is not None:
            code = code or _code_of(error)
            changes |= {"error_code": code, "error_message": clipped_text(error) or code}
        return evolved(self, version=self.version + 1, status=status, finished_at=now, **changes)


def _progress(records: int | None, checkpoint: Any) -> dict[str, Any]:
    found: dict[str, Any] = {} if records is None else {"records_processed": records}
    if checkpoint is not None:
        found["checkpoint_after"] = checkpoint
    return found


def _code_of(error: object) -> str:
    if isinstance(error, HubError):
        return error.code
    return type(error).__name__ if isinstance(error, BaseException) else "failed"


@dataclass(frozen=True, slots=True)
class SyncOutcome:
    """What a run has done: how many records, and where the next run takes up (any JSON).

    Raises `ValidationError` for what can't be stored.
    """

    records: int = 0
    checkpoint: Any = None

    def __post_init__(self) -> None:
        checked_count("records", self.records, most=MOST_RECORDS)
        put(self, "checkpoint", checked_json("checkpoint", self.checkpoint))


_OPENED = draft(
    SyncRun,
    (
        *("id", "tenant", "sync_job_id", "integration_id", "slot", "attempt", "worker"),
        *("started_at", "heartbeat_at", "lease_expires_at", "checkpoint_before"),
        *("job", "integration"),
    ),
)


def opened(
    job: SyncJob,
    integration: Integration,
    *,
    id: UUID,
    worker: str,
    slot: int,
    now: datetime,
    expires: datetime,
) -> SyncRun:
    """The run of a job that was started at `now`."""
    made = _OPENED(
        *(id, job.tenant, job.id, job.integration_id, slot, job.attempt, worker),
        *(now, now, expires, job.checkpoint),
        *(job, integration),
    )
    return frozen(SyncRun, made)


def wait_after(attempt: int, error: object) -> timedelta:
    """How long to wait after an attempt that failed: what the other system asked for, up to a day,
    or a random part of a time that doubles (full jitter), up to an hour.
    """
    last = error.last if isinstance(error, RetriesExhausted) else error
    if isinstance(last, StatusError) and last.is_retryable and last.retry_after is not None:
        return min(last.retry_after, LONGEST_ASKED)
    longest = min(BACKOFF * (1 << min(attempt - 1, 20)), LONGEST_BACKOFF)
    return longest * random.random()


def max_concurrency(config: Mapping[str, Any]) -> int:
    """How many jobs of an integration run at once: ``config["sync"]["max_concurrency"]``, or 1."""
    most = stored_part(config, "sync").get("max_concurrency", 1)
    return most if isinstance(most, int) and not isinstance(most, bool) and most >= 1 else 1


def free_slot(config: Mapping[str, Any], taken: Collection[int]) -> int | None:
    """A place of an integration that no run has; None if as many run as may.

    There may be runs at places beyond the limit, which has been lowered since: they count.
    """
    if len(taken) >= max_concurrency(config):
        return None
    return next(slot for slot in count(1) if slot not in taken)

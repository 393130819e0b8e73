"""A message to webhooks, its delivery to each of them, the attempts, and how an endpoint does.

May import: `errors`, `frozen`, `frozen_json`, `values`, `webhook`. What an attempt does to its
delivery is said here, once for all stores.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from integration_hub.domain.errors import (
    DeliveryNotFound,
    InvalidTransition,
    MessageNotFound,
    NotFoundKind,
    ValidationError,
    WebhookNotFound,
)
from integration_hub.domain.frozen import evolved, put
from integration_hub.domain.frozen_json import checked_json
from integration_hub.domain.values import (
    LONGEST_ASKED,
    checked_count,
    checked_duration,
    checked_event,
    checked_id,
    checked_kind,
    checked_name,
    checked_time,
    clipped_text,
    milliseconds,
    new_id,
)
from integration_hub.domain.webhook import Webhook, usable_options

LARGEST_PAYLOAD = 256 * 1024  # bytes; the specification advises less than 20 kB
KEPT_OF_RESPONSE = 1024  # bytes
#: Seconds after each attempt that failed, and then it is given up. Source: Standard Webhooks,
#: "Deliverability and reliability".
RETRIES = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.2  # of a wait, up or down
FAILING_AFTER = 5  # failures in a row
DISABLED_AFTER = timedelta(days=5)  # of nothing but failures; Svix, too, has 120 hours
LONGEST_THROTTLE = timedelta(hours=1)
THROTTLE = timedelta(seconds=30)
THROTTLING = frozenset({429, 502, 504})
"""Statuses that ask for less. Source: Standard Webhooks, "Handling throttling"."""
GONE = 410
DISABLED_EVENT = "webhook.disabled"
PING_EVENT = "webhook.ping"


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = DeliveryStatus
STATUSES = {status.value: status for status in _S}
OPEN = frozenset({_S.PENDING, _S.DELIVERING})


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookMessage:
    """What webhooks are told: its bytes are fixed when it is published, and the same for all.

    `payload` is canonical JSON, ``{"data", "timestamp", "type"}``: keys sorted, no blanks, UTF-8.
    """

    KIND: ClassVar[str] = "message"
    NOT_FOUND: ClassVar[NotFoundKind] = MessageNotFound

    event_type: str
    payload: bytes = field(repr=False)
    occurred_at: datetime
    idempotency_key: str | None = None
    is_fanned_out: bool = True
    id: UUID = field(default_factory=new_id)
    tenant: str = ""
    version: int = 1

    @property
    def message_id(self) -> str:
        """The id as receivers see it, the same however often it is sent."""
        return f"msg_{self.id.hex}"

    @property
    def data(self) -> Any:
        return json.loads(self.payload)["data"]


def written(
    event: str, data: Any, *, tenant: str, now: datetime, idempotency_key: str | None
) -> WebhookMessage:
    """A message to be stored. Raises `ValidationError` for what can't be sent."""
    kind = checked_event("event", event)
    if idempotency_key is not None:
        checked_name("idempotency_key", idempotency_key)
    document = {
        "type": kind,
        "timestamp": now.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "data": checked_json("data", data),
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    payload = text.encode()
    if len(payload) > LARGEST_PAYLOAD:
        problem = f"makes a payload of {len(payload):,} bytes; at most {LARGEST_PAYLOAD:,} are sent"
        raise ValidationError("data", kind, f"{problem}: send an id to fetch the rest by")
    return WebhookMessage(
        event_type=kind,
        payload=payload,
        occurred_at=now,
        idempotency_key=idempotency_key,
        tenant=tenant,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDelivery:
    """One message to one webhook, until it has arrived or is given up.

    While it is being delivered, `next_attempt_at` is the end of the lease: a dispatcher that is not
    heard of by then has lost it, and the delivery is due again. `message` and `webhook` are there
    on what a claim gives.
    """

    KIND: ClassVar[str] = "delivery"
    NOT_FOUND: ClassVar[NotFoundKind] = DeliveryNotFound

    message_id: UUID
    webhook_id: UUID
    created_at: datetime
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempt_count: int = 0
    next_attempt_at: datetime | None = None
    last_attempt_at: datetime | None = None
    finished_at: datetime | None = None
    retries_used: int = 0
    id: UUID = field(default_factory=new_id)
    tenant: str = ""
    version: int = 1
    message: WebhookMessage | None = field(default=None, repr=False, compare=False)
    webhook: Webhook | None = field(default=None, repr=False, compare=False)
    is_troubled: bool = field(default=False, compare=False)
    """Whether the endpoint had failed before, when this was claimed."""

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    def claimed(self, now: datetime, lease: timedelta) -> WebhookDelivery:
        return evolved(
            self,
            status=_S.DELIVERING,
            attempt_count=self.attempt_count + 1,
            next_attempt_at=now + lease,
            last_attempt_at=now,
            version=self.version + 1,
        )

    def delivered(self, now: datetime) -> WebhookDelivery:
        return self._over(_S.DELIVERED, now)

    def failed(self, now: datetime, wait: timedelta | None) -> WebhookDelivery:
        """Waiting for another attempt, or given up if there is none to come."""
        if wait is None:
            return self._over(_S.FAILED, now)
        return evolved(
            self,
            status=_S.PENDING,
            next_attempt_at=now + wait,
            retries_used=self.retries_used + 1,
            version=self.version + 1,
        )

    def released(self, now: datetime) -> WebhookDelivery:
        """As it was before it was claimed."""
        return evolved(
            self,
            status=_S.PENDING,
            attempt_count=self.attempt_count - 1,
            next_attempt_at=now,
            version=self.version + 1,
        )

    def replayed(self, now: datetime) -> WebhookDelivery:
        """Due now, with all its retries. Raises `InvalidTransition` while it is being delivered."""
        if self.status == _S.DELIVERING:
            others = frozenset(set(_S) - {_S.DELIVERING})
            raise InvalidTransition(self.KIND, self.id, self.status, _S.PENDING, others)
        return evolved(
            self,
            status=_S.PENDING,
            next_attempt_at=now,
            finished_at=None,
            retries_used=0,
            version=self.version + 1,
        )

    def _over(self, status: DeliveryStatus, now: datetime) -> WebhookDelivery:
        version = self.version + 1
        return evolved(self, status=status, next_attempt_at=None, finished_at=now, version=version)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookAttempt:
    """One try at a delivery, and what came back: the status, and the first KiB of the body."""

    KIND: ClassVar[str] = "attempt"
    NOT_FOUND: ClassVar[NotFoundKind] = DeliveryNotFound

    delivery_id: UUID
    number: int
    started_at: datetime
    duration_ms: int = 0
    response_status: int | None = None
    response_body: str = field(default="", repr=False)
    error_code: str | None = None
    error_message: str | None = None
    id: UUID = field(default_factory=new_id)
    tenant: str = ""
    version: int = 1

    def __post_init__(self) -> None:
        put(self, "response_body", clipped_text(self.response_body)[:KEPT_OF_RESPONSE])

    @property
    def is_success(self) -> bool:
        return self.error_code is None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookHealth:
    """How an endpoint has done of late; one that has not failed since its last success has none."""

    KIND: ClassVar[str] = "webhook health"
    NOT_FOUND: ClassVar[NotFoundKind] = WebhookNotFound

    id: UUID  # that of the webhook
    failures: int = 0
    failing_since: datetime | None = None
    throttled_until: datetime | None = None
    tenant: str = ""
    version: int = 1

    @property
    def webhook_id(self) -> UUID:
        return self.id

    def failed(self, now: datetime, throttled_until: datetime | None) -> WebhookHealth:
        later = [each for each in (self.throttled_until, throttled_until) if each is not None]
        return evolved(
            self,
            failures=self.failures + 1,
            failing_since=self.failing_since or now,
            throttled_until=max(later, default=None),
            version=self.version + 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """What came of an attempt: a status, or an error's code and words where there was no answer.

    `duration` is how long it took; `retry_after` is what the receiver asked for. `is_final`: it
    must not be tried again, as where the address is blocked. Raises `ValidationError` for what
    can't be stored.
    """

    started_at: datetime
    duration: timedelta = timedelta(0)
    status: int | None = None
    body: str = field(default="", repr=False)
    error_code: str | None = None
    error_message: str | None = None
    retry_after: timedelta | None = None
    is_final: bool = False

    def __post_init__(self) -> None:
        put(self, "started_at", checked_time("started_at", self.started_at))
        put(self, "duration", checked_duration("duration", self.duration))
        if self.status is not None:
            checked_count("status", self.status, least=100, most=999)
        elif self.error_code is None:
            raise ValidationError("status", None, "must be there, or else an error_code")
        if self.error_code is not None:
            checked_name("error_code", self.error_code)
        if self.retry_after is not None:
            put(self, "retry_after", checked_duration("retry_after", self.retry_after))

    @property
    def is_success(self) -> bool:
        """2xx and nothing else."""
        return self.error_code is None and self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        return self.status == GONE

    def attempt(self, delivery: WebhookDelivery) -> WebhookAttempt:
        """The row of the log."""
        code, words = self.error_code, self.error_message
        if code is None and not self.is_success:
            code, words = "status_error", f"status {self.status}"
        return WebhookAttempt(
            delivery_id=delivery.id,
            number=delivery.attempt_count,
            started_at=self.started_at,
            duration_ms=milliseconds(self.duration),
            response_status=self.status,
            response_body=self.body,
            error_code=code,
            error_message=None if words is None else clipped_text(words),
            tenant=delivery.tenant,
        )

    def throttled_until(self, now: datetime) -> datetime | None:
        """Until when the endpoint asks to be spared, if it does."""
        if self.retry_after is not None:
            return now + min(self.retry_after, LONGEST_THROTTLE)
        return now + THROTTLE if self.status in THROTTLING else None

    def wait(self, delivery: WebhookDelivery, retries: Sequence[float]) -> timedelta | None:
        """How long until the next attempt; None if there is none to come."""
        if self.is_final or self.is_gone or delivery.retries_used >= len(retries):
            return None
        wait = retries[delivery.retries_used] * random.uniform(1 - JITTER, 1 + JITTER)
        asked = min(self.retry_after or timedelta(0), LONGEST_ASKED)
        return max(timedelta(seconds=wait), asked)


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """What ``config["delivery"]`` of a webhook says: see `Webhook`."""

    retries: tuple[float, ...] = RETRIES
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: timedelta = timedelta(seconds=15)
    max_concurrency: int = 4
    disabled_after: timedelta = DISABLED_AFTER

    @classmethod
    def of(cls, webhook: Webhook) -> DeliveryOptions:
        found = usable_options(webhook.config)
        for name in ("timeout", "disabled_after"):
            if name in found:
                found[name] = timedelta(seconds=found[name])
        if "retries" in found:
            found["retries"] = tuple(found["retries"])
        return cls(**found)


def checked_delivery(value: object) -> WebhookDelivery:
    delivery = checked_kind("delivery", value, WebhookDelivery, "must be a WebhookDelivery")
    checked_id("delivery.id", delivery.id)
    return delivery

"""A webhook: who is told about which events of an integration.

May import: `aggregate`, `errors`, `values`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from integration_hub.domain.aggregate import Aggregate, put, reason
from integration_hub.domain.errors import NotFound, WebhookNotFound
from integration_hub.domain.values import (
    checked_event,
    checked_id,
    checked_patterns,
    checked_url,
    member,
    patterns_for,
)


class WebhookStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    FAILING = "failing"
    DISABLED = "disabled"


_S = WebhookStatus
STATUSES = {status.value: status for status in _S}
DELIVERABLE = frozenset({_S.ACTIVE, _S.FAILING})
"""In these an active webhook is sent to: failing means that it is still tried."""
IN_TROUBLE = frozenset({_S.FAILING, _S.DISABLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook(Aggregate):
    """A subscription: which URL is told about which events.

    `events` are patterns: an event type (``invoice.paid``), one with ``*`` for all that follows
    (``invoice.*``), or ``*``. Names are unique within the integration. The URL is http(s), without
    credentials. Raises `ValidationError` naming the field.
    """

    KIND: ClassVar[str] = "webhook"
    NOT_FOUND: ClassVar[type[NotFound]] = WebhookNotFound
    TRANSITIONS: ClassVar[Mapping[str, frozenset[str]]] = {
        _S.ACTIVE: frozenset({_S.PAUSED, _S.FAILING, _S.DISABLED}),
        _S.PAUSED: frozenset({_S.ACTIVE, _S.DISABLED}),
        _S.FAILING: frozenset({_S.ACTIVE, _S.PAUSED, _S.FAILING, _S.DISABLED}),
        _S.DISABLED: frozenset({_S.ACTIVE}),
    }

    integration_id: UUID
    url: str
    events: Sequence[str]
    status: WebhookStatus | str = WebhookStatus.ACTIVE

    def __post_init__(self) -> None:
        Aggregate.__post_init__(self)
        checked_id("integration_id", self.integration_id)
        put(self, "url", checked_url("url", self.url))
        put(self, "events", checked_patterns("events", self.events))
        put(self, "status", member("status", self.status, STATUSES))

    def subscribes_to(self, event: str) -> bool:
        """Whether one of the patterns matches; parts are compared whole, and case counts."""
        return not set(self.events).isdisjoint(patterns_for(checked_event("event", event)))

    def pause(self, now: datetime) -> Webhook:
        """Not told for a time, by somebody's wish."""
        return self._moved(_S.PAUSED, now)

    def resume(self, now: datetime) -> Webhook:
        """Told again, after a pause, trouble or a disablement."""
        return self._moved(_S.ACTIVE, now, error_message=None)

    def fail(self, error: object, now: datetime) -> Webhook:
        """In trouble, and still tried; `error` is kept in `error_message`."""
        return self._moved(_S.FAILING, now, error_message=reason(error))

    def disable(self, why: object, now: datetime) -> Webhook:
        """Not told any more until somebody resumes it; `why` is kept in `error_message`."""
        return self._moved(_S.DISABLED, now, error_message=reason(why))

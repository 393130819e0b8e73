"""A webhook: who is told about which events of an integration.

May import: `aggregate`, `errors`, `frozen`, `frozen_json`, `values`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from integration_hub.domain.aggregate import Aggregate, in_words
from integration_hub.domain.errors import NotFoundKind, ValidationError, WebhookNotFound
from integration_hub.domain.frozen import put
from integration_hub.domain.frozen_json import checked_part, stored_part
from integration_hub.domain.values import (
    checked_count,
    checked_event,
    checked_id,
    checked_patterns,
    checked_url,
    member,
    members_of,
    patterns_for,
    without_query,
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


def _retries(field: str, value: object) -> None:
    waits = members_of(field, value)
    if len(waits) > 50:
        raise ValidationError(field, len(waits), "must be at most 50 waits")
    for wait in waits:
        _seconds(field, wait, least=0)


def _seconds(field: str, value: object, *, least: float = 0.01, most: float = 90 * 86_400) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValidationError(field, value, f"must be seconds, {least:g} to {most:g}")


def check_headers(field: str, value: object) -> None:
    """Raise `ValidationError` for what a delivery can't send as headers of its own."""
    if not isinstance(value, Mapping):
        raise ValidationError(field, type(value).__name__, "must be a JSON object")
    for name, text in value.items():
        if not _HEADER.fullmatch(str(name)) or str(name).lower() in _OWN_HEADERS:
            problem = "must be names of headers, and none that the hub sets itself"
            raise ValidationError(field, name, problem)
        if not isinstance(text, str) or not text.isprintable():
            raise ValidationError(f"{field}.{name}", "<not shown>", "must be a line of text")


_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = frozenset(
    {"content-length", "content-type", "host", "transfer-encoding"}
    | {"webhook-id", "webhook-signature", "webhook-timestamp"}
)
_OPTIONS: Mapping[str, Callable[[str, object], object]] = {
    "retries": _retries,
    "headers": check_headers,
    "timeout": partial(_seconds, most=60),
    "max_concurrency": partial(checked_count, least=1, most=1_000),
    "disabled_after": _seconds,
}


def usable_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config["delivery"]`` says, without what can only be written into a table by hand. But
    headers are given as they are: an attempt that can't send them is to fail, and to say so.
    """
    found = stored_part(config, "delivery")
    return {name: value for name, value in found.items() if _is_usable(name, value)}


def _is_usable(name: str, value: object) -> bool:
    if name == "headers":
        return True
    try:
        _OPTIONS[name](name, value)
    except (KeyError, ValidationError):
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Webhook(Aggregate):
    """A subscription: which URL is told about which events.

    `events` are patterns: an event type (``invoice.paid``), one with ``*`` for all that follows
    (``invoice.*``), or ``*``. Names are unique within the integration. The URL is http(s), without
    credentials. ``config["delivery"]`` may say `retries` (seconds to wait after each attempt that
    failed), `headers`, `timeout` (seconds), `max_concurrency` (requests at once, per dispatcher)
    and `disabled_after` (seconds of nothing but failures). Raises `ValidationError` naming the
    field.
    """

    KIND: ClassVar[str] = "webhook"
    NOT_FOUND: ClassVar[NotFoundKind] = WebhookNotFound
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
        options = checked_part(self.config, "delivery", _OPTIONS, of="a webhook")
        for name, value in options.items():
            _OPTIONS[name](f"config.delivery.{name}", value)

    def __repr__(self) -> str:
        shown = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        shown["url"] = without_query(self.url)
        return f"Webhook({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

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
        return self._moved(_S.FAILING, now, error_message=in_words("error", error))

    def disable(self, reason: object, now: datetime) -> Webhook:
        """Not told any more until somebody resumes it; `reason` is kept in `error_message`."""
        return self._moved(_S.DISABLED, now, error_message=in_words("reason", reason))

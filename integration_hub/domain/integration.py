"""An integration: an organisation's connection to a third-party system.

May import: `aggregate`, `errors`, `frozen`, `frozen_json`, `values`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from integration_hub.domain.aggregate import Aggregate, in_words
from integration_hub.domain.errors import IntegrationNotFound, NotFoundKind
from integration_hub.domain.frozen import put
from integration_hub.domain.frozen_json import checked_part
from integration_hub.domain.values import checked_count, checked_slug, member


class IntegrationStatus(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    ERROR = "error"
    ARCHIVED = "archived"


_S = IntegrationStatus
STATUSES = {status.value: status for status in _S}
RESTING = frozenset({_S.PAUSED, _S.ARCHIVED})
"""While an integration is in one of these, its sync jobs are not due."""

MOST_AT_ONCE = 1_000
"""The most sync jobs of one integration that can run at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Integration(Aggregate):
    """A connection to a third-party system (CRM, payment provider, ERP).

    `type` is a slug such as ``salesforce``; names are unique within a tenant; `config` is a JSON
    object, given back frozen. Raises `ValidationError` naming the field.
    """

    KIND: ClassVar[str] = "integration"
    NOT_FOUND: ClassVar[NotFoundKind] = IntegrationNotFound
    TRANSITIONS: ClassVar[Mapping[str, frozenset[str]]] = {
        _S.PENDING: frozenset({_S.ACTIVE, _S.PAUSED, _S.ERROR, _S.ARCHIVED}),
        _S.ACTIVE: frozenset({_S.PAUSED, _S.ERROR, _S.ARCHIVED}),
        _S.PAUSED: frozenset({_S.ACTIVE, _S.ERROR, _S.ARCHIVED}),
        _S.ERROR: frozenset({_S.ACTIVE, _S.PAUSED, _S.ERROR, _S.ARCHIVED}),
        _S.ARCHIVED: frozenset(),
    }

    type: str
    status: IntegrationStatus | str = IntegrationStatus.PENDING

    def __post_init__(self) -> None:
        Aggregate.__post_init__(self)
        put(self, "type", checked_slug("type", self.type))
        put(self, "status", member("status", self.status, STATUSES))
        sync = checked_part(self.config, "sync", ("max_concurrency",), of="an integration")
        if "max_concurrency" in sync:
            most = sync["max_concurrency"]
            checked_count("config.sync.max_concurrency", most, least=1, most=MOST_AT_ONCE)

    @property
    def is_resting(self) -> bool:
        """Whether its sync jobs wait until it works again: it is inactive, paused or archived."""
        return not self.is_active or self.status in RESTING

    def activate(self, now: datetime) -> Integration:
        """In use; a former error is forgotten, and a switched-off integration is switched on."""
        return self._moved(_S.ACTIVE, now, error_message=None, is_active=True)

    def pause(self, now: datetime) -> Integration:
        """Out of use for a time: its sync jobs are not due."""
        return self._moved(_S.PAUSED, now)

    def fail(self, error: object, now: datetime) -> Integration:
        """Broken; `error` (an exception, or words) is kept in `error_message`."""
        return self._moved(_S.ERROR, now, error_message=in_words("error", error))

    def archive(self, now: datetime) -> Integration:
        """Out of use for good."""
        return self._moved(_S.ARCHIVED, now)

    def rename(self, name: str) -> Integration:
        return dataclasses.replace(self, name=name)

    def with_config(self, **changes: Any) -> Integration:
        """With these top-level keys of the config set; the other keys stay."""
        return dataclasses.replace(self, config={**self.config, **changes})

    def with_tags(self, *tags: str) -> Integration:
        """With these tags, and no others."""
        return dataclasses.replace(self, tags=tags)

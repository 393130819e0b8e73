"""Questions to a store, and the pages that answer them: plain, frozen, checked when made.

May import: `domain`. What a question means is said here, once; `memory/matching.py` and
`sql/filtering.py` are its two translations.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

from integration_hub.domain import integration, sync_job, webhook
from integration_hub.domain.errors import InvalidCursor, InvalidSort, ValidationError
from integration_hub.domain.frozen import put
from integration_hub.domain.frozen_json import checked_object
from integration_hub.domain.values import (
    checked_count,
    checked_event,
    checked_flag,
    checked_id,
    checked_slug,
    checked_tags,
    checked_text,
    member,
    one_or_more,
    optional_time,
)

T_co = TypeVar("T_co", covariant=True)
Direction: TypeAlias = Literal["asc", "desc"]
Choice: TypeAlias = str | Collection[str] | None
Ids: TypeAlias = UUID | Collection[UUID] | None

MAX_PAGE_SIZE = 1_000
LATEST = datetime.max.replace(tzinfo=UTC)
"""Where a time that is missing sorts: after every time that is there."""


# --- filters ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What all filters have in common. A field left out does not filter; fields are and-ed.

    `status` (and every enumeration) takes one value or several; `tags_any` wants at least one of
    its tags, `tags_all` every one; `config_contains` is a JSON object that the config contains as
    Postgres' ``@>`` has it; `name_contains` is a part of the name, where case counts;
    `created_after` and `created_before` exclude the moment itself. An empty collection of choices
    matches nothing.
    """

    STATUSES: ClassVar[Mapping[str, str]]

    status: Choice = None
    is_active: bool | None = None
    tags_any: Collection[str] | None = None
    tags_all: Collection[str] | None = None
    config_contains: Mapping[str, Any] | None = None
    name_contains: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    def __post_init__(self) -> None:
        _choose(self, "status", self.STATUSES)
        _flag(self, "is_active")
        for name in ("tags_any", "tags_all"):
            if getattr(self, name) is not None:
                put(self, name, checked_tags(name, getattr(self, name)))
        if self.config_contains is not None:
            put(self, "config_contains", checked_object("config_contains", self.config_contains))
        checked_text("name_contains", self.name_contains)
        for name in ("created_after", "created_before"):
            put(self, name, optional_time(name, getattr(self, name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrationFilter(Filter):
    """Which integrations; see `Filter`. `type` takes one slug or several."""

    STATUSES: ClassVar[Mapping[str, str]] = integration.STATUSES

    type: Choice = None

    def __post_init__(self) -> None:
        Filter.__post_init__(self)
        if self.type is not None:
            types = {checked_slug("type", each) for each in one_or_more(self.type)}
            put(self, "type", tuple(sorted(types)))


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookFilter(Filter):
    """Which webhooks; see `Filter`. `event` is an event type that the patterns must match."""

    STATUSES: ClassVar[Mapping[str, str]] = webhook.STATUSES

    integration_id: Ids = None
    event: str | None = None

    def __post_init__(self) -> None:
        Filter.__post_init__(self)
        _ids(self, "integration_id")
        if self.event is not None:
            checked_event("event", self.event)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncJobFilter(Filter):
    """Which sync jobs; see `Filter`.

    `due_by` wants pending, active jobs whose next run is not after that moment (whatever state
    their integration is in); `running` and `failed` ask for, or against, that status.
    """

    STATUSES: ClassVar[Mapping[str, str]] = sync_job.STATUSES

    integration_id: Ids = None
    direction: Choice = None
    due_by: datetime | None = None
    running: bool | None = None
    failed: bool | None = None

    def __post_init__(self) -> None:
        Filter.__post_init__(self)
        _ids(self, "integration_id")
        _choose(self, "direction", sync_job.DIRECTIONS)
        put(self, "due_by", optional_time("due_by", self.due_by))
        _flag(self, "running")
        _flag(self, "failed")


def _choose(filter: Filter, name: str, choices: Mapping[str, str]) -> None:
    value = getattr(filter, name)
    if value is not None:
        chosen = {member(name, each, choices) for each in one_or_more(value)}
        put(filter, name, tuple(sorted(chosen)))


def _ids(filter: Filter, name: str) -> None:
    value = getattr(filter, name)
    if value is not None:
        put(filter, name, tuple(sorted({checked_id(name, each) for each in one_or_more(value)})))


def _flag(filter: Filter, name: str) -> None:
    if getattr(filter, name) is not None:
        checked_flag(name, getattr(filter, name))


F = TypeVar("F", bound=Filter)


def checked_filter(filter: object, kind: type[F]) -> F:
    """The filter, or one that lets everything pass; `ValidationError` where it is another's."""
    if filter is None:
        return kind()
    if not isinstance(filter, kind):
        raise ValidationError("filter", filter, f"must be made by {kind.__name__}(…)")
    return filter


# --- order ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sort:
    """The order of answers: by one field, ties by id, both in the same direction.

    Text is ordered by code point in every store; a time that is missing comes after all others.
    """

    field: str
    direction: Direction = "asc"

    def __post_init__(self) -> None:
        if self.direction not in ("asc", "desc"):
            raise ValidationError("direction", self.direction, "must be 'asc' or 'desc'")

    @property
    def is_descending(self) -> bool:
        return self.direction == "desc"


NEWEST_FIRST = Sort("created_at", "desc")
SORT_FIELDS: Mapping[type[Filter], tuple[str, ...]] = {
    IntegrationFilter: ("name", "type", "status", "created_at", "updated_at"),
    WebhookFilter: ("name", "status", "created_at", "updated_at"),
    SyncJobFilter: ("name", "status", "created_at", "updated_at", "next_run_at", "last_run_at"),
}
OPTIONAL_TIMES = frozenset({"next_run_at", "last_run_at"})


def checked_sort(sort: object, filter_type: type[Filter]) -> Sort:
    allowed = SORT_FIELDS[filter_type]
    if not isinstance(sort, Sort) or sort.field not in allowed:
        raise InvalidSort(sort.field if isinstance(sort, Sort) else sort, allowed)
    return sort


# --- pages ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page, counted from 1, and how large (1 to 1,000)."""

    number: int = 1
    size: int = 50

    def __post_init__(self) -> None:
        checked_count("number", self.number, least=1)
        checked_count("size", self.size, least=1, most=MAX_PAGE_SIZE)

    @property
    def offset(self) -> int:
        return (self.number - 1) * self.size


# No slots: on Python 3.11 a frozen generic with slots can't be made as ``Page[Integration](...)``.


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T_co]):
    """One page of a counted list. In long lists, `scroll` costs the same at any depth."""

    items: list[T_co]
    number: int
    size: int
    total: int

    @property
    def pages(self) -> int:
        return -(-self.total // self.size)

    @property
    def has_next(self) -> bool:
        return self.number < self.pages

    @property
    def has_previous(self) -> bool:
        return self.number > 1


@dataclass(frozen=True, kw_only=True)
class CursorPage(Generic[T_co]):
    """One page of a scroll; `next` is where the following one takes up, None at the end."""

    items: list[T_co]
    next: str | None


def checked_limit(limit: int | None) -> int | None:
    return None if limit is None else checked_count("limit", limit, least=1)


# --- cursors ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place of a scroll: the sort key and the id of the last object that was seen.

    Its text is bound to the filter and the sort it came from and carries a checksum, so that a
    damaged or misused cursor is refused. It is not a secret and grants nothing: the tenant is that
    of the unit of work, whatever the cursor says.
    """

    key: str | datetime
    id: UUID

    @classmethod
    def of(cls, item: Any, sort: Sort) -> Cursor:
        """The place of an object."""
        value = getattr(item, sort.field)
        return cls(LATEST if value is None else value, item.id)

    def encode(self, filter: Filter, sort: Sort) -> str:
        is_time = isinstance(self.key, datetime)
        key = self.key.isoformat() if isinstance(self.key, datetime) else self.key
        payload = json.dumps([is_time, key, self.id.hex], separators=(",", ":")).encode()
        seal = _seal(payload, filter, sort)
        return base64.urlsafe_b64encode(seal + payload).decode().rstrip("=")

    @classmethod
    def decode(cls, text: object, filter: Filter, sort: Sort) -> Cursor:
        if not isinstance(text, str):
            raise InvalidCursor("must be a string that scroll() gave")
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidCursor("can't be read") from error
        seal, payload = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
        if seal != _seal(payload, filter, sort):
            raise InvalidCursor("was changed, or belongs to another filter or sort")
        is_time, key, id = json.loads(payload)
        return cls(datetime.fromisoformat(key) if is_time else key, UUID(hex=id))


_SEAL_BYTES = 12


def _seal(payload: bytes, filter: Filter, sort: Sort) -> bytes:
    values = [(each.name, getattr(filter, each.name)) for each in fields(filter)]
    asked = repr((type(filter).__name__, [v for v in values if v[1] is not None], sort))
    return hashlib.blake2b(payload + asked.encode(), digest_size=_SEAL_BYTES).digest()

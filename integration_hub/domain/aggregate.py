"""What integrations, webhooks and sync jobs have in common: identity, tenant, version, audit.

May import: `errors`, `frozen`, `frozen_json`, `values`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from typing import Any, ClassVar, Self, TypeVar
from uuid import UUID

from integration_hub.domain.errors import InvalidTransition, NotFoundKind, ValidationError
from integration_hub.domain.frozen import evolved, put
from integration_hub.domain.frozen_json import checked_object
from integration_hub.domain.values import (
    checked_count,
    checked_flag,
    checked_id,
    checked_kind,
    checked_name,
    checked_tags,
    checked_text,
    checked_time,
    clipped_text,
    new_id,
    optional_time,
)

A = TypeVar("A", bound="Aggregate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """The ground of the three aggregates: a frozen value; a change is a new value.

    `tenant` is empty and `version` 0 until a unit of work stores the object; a tenant that is
    named before must be that of the unit of work. Times are aware and in UTC, and, like the
    actors, None until stored.
    """

    KIND: ClassVar[str]
    NOT_FOUND: ClassVar[NotFoundKind]
    TRANSITIONS: ClassVar[Mapping[str, frozenset[str]]]
    #: What an upsert leaves as it stands: the state that a thing is in, not what the thing is.
    STATE: ClassVar[frozenset[str]] = frozenset({"status", "status_changed_at", "error_message"})

    name: str
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold what is secret
    tags: Sequence[str] = ()
    description: str | None = None
    is_active: bool = True
    error_message: str | None = None
    status_changed_at: datetime | None = None
    id: UUID = field(default_factory=new_id)
    tenant: str = ""
    version: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None
    created_by: str | None = None
    updated_by: str | None = None

    def __post_init__(self) -> None:
        put(self, "name", checked_name("name", self.name))
        put(self, "config", checked_object("config", self.config))
        put(self, "tags", checked_tags("tags", self.tags))
        put(self, "description", checked_text("description", self.description))
        put(self, "error_message", checked_text("error_message", self.error_message))
        checked_flag("is_active", self.is_active)
        checked_id("id", self.id)
        checked_count("version", self.version)
        if self.tenant != "":
            checked_name("tenant", self.tenant)
        for name in ("status_changed_at", "created_at", "updated_at"):
            put(self, name, optional_time(name, getattr(self, name)))
        for name in ("created_by", "updated_by"):
            if getattr(self, name) is not None:
                checked_name(name, getattr(self, name))

    def added(self, *, tenant: str, actor: str, now: datetime) -> Self:
        """This object as a store keeps it first: version 1, with its tenant, times and actors.

        Times and actors that are set already stay, so that history can be brought along.
        """
        created = self.created_at or now
        return evolved(
            self,
            tenant=tenant,
            version=1,
            created_at=created,
            updated_at=self.updated_at or created,
            created_by=self.created_by or actor,
            updated_by=self.updated_by or self.created_by or actor,
        )

    def saved(self, *, actor: str, now: datetime) -> Self:
        """This object as a store keeps it after a change: the next version."""
        return evolved(self, version=self.version + 1, updated_at=now, updated_by=actor)

    def redeclared(self, declared: Aggregate) -> Self:
        """This stored object with what `declared` says it is, and its own identity and state."""
        own = self.STATE | IDENTITY
        names = (f.name for f in dataclasses.fields(self))
        return evolved(self, **{n: getattr(declared, n) for n in names if n not in own})

    def _moved(self, to: str, now: datetime, **changes: Any) -> Self:
        status: str = getattr(self, "status")  # noqa: B009 - each aggregate has its own enum
        allowed = self.TRANSITIONS[status]
        if to not in allowed:
            raise InvalidTransition(self.KIND, self.id, status, to, allowed)
        moment = checked_time("now", now)
        return evolved(self, status=to, status_changed_at=moment, **changes)


def no_ways(kind: type[Aggregate]) -> list[tuple[str, str]]:
    """Each state, with each other to which no number of steps leads from it."""
    pairs = product(sorted(kind.TRANSITIONS), repeat=2)
    return [(start, end) for start, end in pairs if not _leads(kind.TRANSITIONS, start, end)]


def require_way(found: A, changed: A) -> None:
    """What is to be saved may have gone any number of steps, but none that there is not."""
    start, end = (getattr(each, "status") for each in (found, changed))  # noqa: B009 - as above
    if not _leads(found.TRANSITIONS, start, end):
        raise InvalidTransition(found.KIND, found.id, start, end, found.TRANSITIONS[start])


def _leads(steps: Mapping[str, frozenset[str]], start: str, end: str) -> bool:
    reached, ways = {start}, [start]
    while ways and end not in reached:
        further = steps[ways.pop()] - reached
        reached |= further
        ways += further
    return end in reached


IDENTITY = frozenset(
    {"id", "tenant", "version", "created_at", "created_by", "updated_at", "updated_by"}
)


def checked_item(kind: type[A], item: object) -> A:
    """The object, if it is one of this kind; `ValidationError` otherwise."""
    return checked_kind("item", item, kind, f"must be one {kind.__name__}")


def in_words(field: str, value: object) -> str:
    """Why something failed, as text that can be stored: an error, or somebody's words."""
    text = clipped_text(value)
    if not text.strip():
        raise ValidationError(field, value, "must say what went wrong")
    return text

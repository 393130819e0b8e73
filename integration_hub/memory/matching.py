"""What a filter means for an object in memory; `sql/filtering.py` says the same in SQL.

May import: `ports`, `domain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any
from uuid import UUID

from integration_hub.domain.frozen_json import json_contains
from integration_hub.domain.sync_job import SyncJobStatus
from integration_hub.domain.values import patterns_for
from integration_hub.ports.query import LATEST, Filter, Sort

Predicate = Callable[[Any, Any], bool]


def _is_due(item: Any, moment: datetime) -> bool:
    is_waiting: bool = item.status == SyncJobStatus.PENDING and item.is_active
    return is_waiting and item.next_run_at is not None and item.next_run_at <= moment


_PREDICATES: Mapping[str, Predicate] = {
    "status": lambda item, wanted: item.status in wanted,
    "type": lambda item, wanted: item.type in wanted,
    "direction": lambda item, wanted: item.direction in wanted,
    "integration_id": lambda item, wanted: item.integration_id in wanted,
    "is_active": lambda item, wanted: item.is_active is wanted,
    "tags_any": lambda item, wanted: not set(item.tags).isdisjoint(wanted),
    "tags_all": lambda item, wanted: set(item.tags).issuperset(wanted),
    "config_contains": lambda item, wanted: json_contains(item.config, wanted),
    "name_contains": lambda item, wanted: wanted in item.name,
    "created_after": lambda item, moment: item.created_at > moment,
    "created_before": lambda item, moment: item.created_at < moment,
    "event": lambda item, event: not set(item.events).isdisjoint(patterns_for(event)),
    "due_by": _is_due,
    "running": lambda item, wanted: (item.status == SyncJobStatus.RUNNING) is wanted,
    "failed": lambda item, wanted: (item.status == SyncJobStatus.FAILED) is wanted,
}


def matcher(filter: Filter) -> Callable[[Any], bool]:
    """A function that says whether an object passes the filter."""
    asked = [(name, value) for name, value in asked_of(filter).items()]
    checks = [(_PREDICATES[name], value) for name, value in asked]
    return lambda item: all(check(item, value) for check, value in checks)


def asked_of(filter: Filter) -> dict[str, Any]:
    """The fields of a filter that were given."""
    values = ((each.name, getattr(filter, each.name)) for each in fields(filter))
    return {name: value for name, value in values if value is not None}


def index_keys(filter: Filter) -> dict[str, list[Any]]:
    """Which keys of which index hold a superset of what the filter lets pass."""
    asked = asked_of(filter)
    found: dict[str, list[Any]] = {
        name: list(asked[name]) for name in ("status", "type", "integration_id") if name in asked
    }
    if "tags_any" in asked:
        found["tags"] = list(asked["tags_any"])
    elif asked.get("tags_all"):
        found["tags"] = [asked["tags_all"][0]]
    if "event" in asked:
        found["events"] = list(patterns_for(asked["event"]))
    if asked.get("running"):
        found["status"] = [SyncJobStatus.RUNNING]
    if asked.get("failed"):
        found["status"] = [SyncJobStatus.FAILED]
    return found


def sort_key(sort: Sort) -> Callable[[Any], tuple[Any, UUID]]:
    """The total order of a sort: the field, then the id."""

    def key(item: Any) -> tuple[Any, UUID]:
        value = getattr(item, sort.field)
        return (LATEST if value is None else value, item.id)

    return key

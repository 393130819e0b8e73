"""Copies of frozen objects, and objects that are made past the checks."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from integration_hub import Integration, Schedule, SyncJob
from integration_hub.domain.frozen import draft, evolved, frozen
from integration_hub.domain.values import new_id
from integration_hub.testing.factories import IntegrationFactory, SyncJobFactory

SOME_ID = new_id()


class OwnIntegration(Integration):
    """As a service may have it: with methods of its own, and no slots."""

    def shouted(self) -> str:
        return self.name.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended(SyncJob):
    """As a service may have it: with a field of its own."""

    priority: int = 0


def test_a_copy_differs_in_what_was_changed_alone() -> None:
    job = SyncJobFactory.build(attempt=1)
    assert evolved(job, attempt=2) == replace(job, attempt=2)
    assert job.attempt == 1


def test_a_copy_is_of_the_same_class_and_frozen() -> None:
    changed = evolved(IntegrationFactory.build(), description="new")
    assert type(changed) is Integration
    with pytest.raises(FrozenInstanceError):
        changed.description = "newer"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        type(changed).__delattr__(changed, "description")


def test_a_copy_can_itself_be_copied_and_pickled_as_its_source() -> None:
    changed = evolved(IntegrationFactory.build(), version=7)
    assert copy.deepcopy(changed) == changed
    assert pickle.loads(pickle.dumps(changed)) == changed
    assert evolved(changed) == changed


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(AttributeError, match="statsu"):
        evolved(SyncJobFactory.build(), statsu="paused")


def test_a_class_of_a_service_stays_what_it_is() -> None:
    own = evolved(OwnIntegration(name="crm", type="salesforce"), name="erp")
    assert type(own) is OwnIntegration
    assert own.shouted() == "ERP"


def test_a_field_of_a_service_is_copied_too() -> None:
    parent = IntegrationFactory.build()
    job = Extended(name="daily", integration_id=parent.id, schedule=Schedule.manual(), priority=3)
    changed = evolved(job, attempt=1)
    assert (changed.priority, changed.attempt) == (3, 1)
    assert type(changed) is Extended


def test_a_draft_takes_what_is_named_in_that_order_and_has_defaults_for_the_rest() -> None:
    drafts = draft(Integration, ("type", "name", "id", "config"))
    made = frozen(Integration, drafts("crm", "a", SOME_ID, {}))
    assert type(made) is Integration
    assert (made.type, made.name, made.id, made.tags, made.version) == ("crm", "a", SOME_ID, (), 0)


def test_a_draft_needs_what_has_no_default() -> None:
    with pytest.raises(TypeError, match="name"):
        draft(Integration, ("type", "name"))("crm")

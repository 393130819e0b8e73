"""What keeps tenants apart: every method is tried across the line.

May import everything.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from integration_hub.domain.errors import IntegrationNotFound, NotFound, ValidationError
from integration_hub.domain.schedule import Schedule
from integration_hub.hub import Hub
from integration_hub.ports.query import IntegrationFilter, Sort
from integration_hub.ports.repositories import (
    IntegrationRepository,
    SyncJobRepository,
    WebhookRepository,
)
from integration_hub.ports.unit_of_work import EVERY_TENANT, UnitOfWork
from integration_hub.testing.clock import ManualClock
from integration_hub.testing.factories import (
    IntegrationFactory,
    SyncJobFactory,
    WebhookFactory,
)

KINDS = ("integrations", "webhooks", "sync_jobs")
NAME = "the same in both"
#: The methods whose answers `_looks` compares, and those that `_changes` tries.
COVERED = {
    "add",
    "add_many",
    "by_status",
    "by_tag",
    "by_type",
    "claim",  # in SyncRunContract
    "count",
    "due",
    "exists",
    "failed",
    "find",
    "for_event",
    "for_integration",
    "get",
    "get_by_name",
    "get_many",
    "next_due",
    "page",
    "remove",
    "running",
    "save",
    "scroll",
    "stream",
    "upsert",
}


class TenantContract:
    """Two tenants with the same names, neither of which can see or touch the other."""

    @pytest.fixture
    def theirs(self, hub: Hub, hub_clock: ManualClock) -> dict[str, Any]:
        """Tenant beta's objects; tenant acme has their like."""
        stored: dict[str, Any] = {}
        for tenant in ("acme", "beta"):
            with hub.unit_of_work(tenant=tenant) as uow:
                parent = uow.integrations.add(
                    IntegrationFactory(name=NAME, type="sap", tags=["t"], config={"a": 1})
                )
                common: dict[str, Any] = {"name": NAME, "integration_id": parent.id, "tags": ["t"]}
                now = hub_clock.now()
                stored = {
                    "integrations": parent,
                    "webhooks": uow.webhooks.add(WebhookFactory(**common, failing=True)),
                    "sync_jobs": uow.sync_jobs.add(SyncJobFactory(**common, next_run_at=now)),
                }
                uow.commit()
        return stored

    def test_the_suite_tries_every_method(self) -> None:
        ports = (IntegrationRepository, WebhookRepository, SyncJobRepository)
        methods = {name for port in ports for name in dir(port) if not name.startswith("_")}
        assert methods == COVERED

    @pytest.mark.parametrize("kind", KINDS)
    def test_looking_finds_nothing_of_others(
        self, hub: Hub, theirs: dict[str, Any], kind: str
    ) -> None:
        with hub.unit_of_work(tenant="acme") as uow:
            answers = _looks(uow, kind, theirs)
        assert {name: {i.tenant for i in items} for name, items in answers.items()} == {
            name: {"acme"} for name in answers
        }

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_s_id_is_not_found(self, hub: Hub, theirs: dict[str, Any], kind: str) -> None:
        other = theirs[kind]
        with hub.unit_of_work(tenant="acme") as uow:
            repository = getattr(uow, kind)
            assert repository.get_many([other.id]) == {}
            call: Any
            for call in (
                lambda: repository.get(other.id),
                lambda: repository.remove(other.id),
                lambda: repository.save(dataclasses.replace(other, description="stolen")),
                lambda: repository.save(dataclasses.replace(other, tenant="acme")),
                lambda: repository.save(dataclasses.replace(other, tenant="")),
            ):
                with pytest.raises(NotFound) as missing:
                    call()
                assert missing.value.id == other.id
            uow.commit()
        with hub.unit_of_work(tenant="beta") as uow:
            assert getattr(uow, kind).get(other.id) == other

    def test_another_s_integration_takes_no_children(
        self, hub: Hub, theirs: dict[str, Any]
    ) -> None:
        parent = theirs["integrations"].id
        with hub.unit_of_work(tenant="acme") as uow:
            own_hook = uow.webhooks.find()[0]
            own_job = uow.sync_jobs.find()[0]
            for call in (
                lambda: uow.webhooks.add(WebhookFactory(integration_id=parent)),
                lambda: uow.webhooks.add_many([WebhookFactory(integration_id=parent)]),
                lambda: uow.webhooks.upsert(WebhookFactory(integration_id=parent)),
                lambda: uow.webhooks.upsert(WebhookFactory(integration_id=parent, name=NAME)),
                lambda: uow.webhooks.save(dataclasses.replace(own_hook, integration_id=parent)),
                lambda: uow.sync_jobs.add(SyncJobFactory(integration_id=parent)),
                lambda: uow.sync_jobs.save(dataclasses.replace(own_job, integration_id=parent)),
            ):
                with pytest.raises(IntegrationNotFound):
                    call()
            assert uow.webhooks.for_integration(parent) == []
            with pytest.raises(NotFound):
                uow.webhooks.get_by_name(NAME, parent)
            with pytest.raises(NotFound):
                uow.sync_jobs.get_by_name(NAME, parent)

    def test_upsert_changes_one_s_own(self, hub: Hub, theirs: dict[str, Any]) -> None:
        with hub.unit_of_work(tenant="acme") as uow:
            changed = uow.integrations.upsert(IntegrationFactory(name=NAME, type="changed"))
            uow.commit()
        with hub.unit_of_work(tenant="beta") as uow:
            assert uow.integrations.get_by_name(NAME) == theirs["integrations"]
        assert changed.tenant == "acme"
        assert changed.id != theirs["integrations"].id

    def test_removing_touches_one_s_own(self, hub: Hub, theirs: dict[str, Any]) -> None:
        with hub.unit_of_work(tenant="acme") as uow:
            uow.integrations.remove(uow.integrations.get_by_name(NAME).id)
            uow.commit()
        with hub.unit_of_work(tenant="beta") as uow:
            assert [getattr(uow, kind).count() for kind in KINDS] == [1, 1, 1]

    def test_an_object_that_names_another_tenant_is_refused(self, hub: Hub) -> None:
        with hub.unit_of_work(tenant="acme") as uow:
            for call in (uow.integrations.add, uow.integrations.upsert):
                with pytest.raises(ValidationError) as refused:
                    call(IntegrationFactory(tenant="beta"))
                assert refused.value.field == "tenant"
            assert uow.integrations.add(IntegrationFactory(tenant="acme")).tenant == "acme"

    def test_the_time_of_another_s_job_is_not_told(
        self, hub: Hub, hub_clock: ManualClock, theirs: dict[str, Any]
    ) -> None:
        before = theirs["sync_jobs"].next_run_at - timedelta(seconds=1)
        with hub.unit_of_work(tenant="acme") as uow:
            (ours,) = uow.sync_jobs.find()
            uow.sync_jobs.remove(ours.id)
            assert uow.sync_jobs.next_due(before) is None
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            assert uow.sync_jobs.next_due(before) == hub_clock.now()

    # --- every tenant -------------------------------------------------------------------------

    def test_every_tenant_sees_all(self, hub: Hub, theirs: dict[str, Any]) -> None:
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            for kind in KINDS:
                repository = getattr(uow, kind)
                assert sorted(item.tenant for item in repository.find()) == ["acme", "beta"]
                assert repository.count() == 2
                assert repository.get(theirs[kind].id) == theirs[kind]
            assert len(uow.sync_jobs.due()) == 2
            assert len(uow.webhooks.for_event("invoice.paid")) == 2

    def test_every_tenant_scrolls_over_all(self, hub: Hub) -> None:
        for tenant in ("b", "a", "c"):
            with hub.unit_of_work(tenant=tenant) as uow:
                uow.integrations.add_many(IntegrationFactory.build_batch(3))
                uow.commit()
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            page = uow.integrations.scroll(sort=Sort("name"), size=4)
            seen = list(page.items)
            while page.next:
                page = uow.integrations.scroll(sort=Sort("name"), size=4, after=page.next)
                seen += page.items
        assert [item.name for item in seen] == sorted(item.name for item in seen)
        assert len(seen) == 9

    def test_every_tenant_changes_what_it_found(self, hub: Hub, theirs: dict[str, Any]) -> None:
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            saved = uow.integrations.save(theirs["integrations"].with_tags("swept"))
            uow.webhooks.remove(theirs["webhooks"].id)
            uow.commit()
        with hub.unit_of_work(tenant="beta") as uow:
            assert uow.integrations.get_by_name(NAME) == saved
            assert uow.webhooks.count() == 0
        with hub.unit_of_work(tenant="acme") as uow:
            assert uow.webhooks.count() == 1

    @pytest.mark.parametrize("kind", KINDS)
    def test_who_leaves_the_tenant_out_means_one_s_own(
        self, hub: Hub, theirs: dict[str, Any], kind: str
    ) -> None:
        """As where an object was put together anew from what a form or a request has."""
        anew = dataclasses.replace(theirs[kind], tenant="", description="anew")
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            with pytest.raises(ValidationError) as refused:
                getattr(uow, kind).save(anew)
            assert refused.value.field == "tenant"
            with pytest.raises(NotFound):  # nor does it move to another one
                getattr(uow, kind).save(dataclasses.replace(anew, tenant="acme"))
        with hub.unit_of_work(tenant="beta") as uow:
            repository = getattr(uow, kind)
            saved = repository.save(anew)
            assert (saved.tenant, saved.description) == ("beta", "anew")
            assert repository.get(saved.id) == saved

    def test_through_every_tenant_a_new_object_names_its_own(self, hub: Hub) -> None:
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            with pytest.raises(ValidationError) as refused:
                uow.integrations.add(IntegrationFactory())
            assert refused.value.field == "tenant"
            parent = uow.integrations.add(IntegrationFactory(tenant="acme"))
            child = WebhookFactory(integration_id=parent.id)
            with pytest.raises(ValidationError):
                uow.webhooks.add(child)
            with pytest.raises(IntegrationNotFound):
                uow.webhooks.add(dataclasses.replace(child, tenant="beta"))
            assert uow.webhooks.add(dataclasses.replace(child, tenant="acme")).tenant == "acme"

    def test_a_name_that_several_tenants_bear_is_refused_across_them(
        self, hub: Hub, theirs: dict[str, Any]
    ) -> None:
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            with pytest.raises(ValidationError) as refused:
                uow.integrations.get_by_name(NAME)
            assert refused.value.field == "name"
            only = uow.integrations.add(IntegrationFactory(name="only one", tenant="acme"))
            assert uow.integrations.get_by_name("only one") == only


def _looks(uow: UnitOfWork, kind: str, theirs: dict[str, Any]) -> dict[str, list[Any]]:
    """What every looking method answers; a count stands as that many of acme's objects."""
    repository = getattr(uow, kind)
    found: list[Any] = repository.find()
    answers = {
        "find": found,
        "page": repository.page().items,
        "scroll": repository.scroll().items,
        "stream": list(repository.stream()),
        "get_many": list(repository.get_many([theirs[kind].id, found[0].id]).values()),
    }
    assert repository.page().total == repository.count() == len(found) == 1
    if kind == "integrations":
        answers["get_by_name"] = [uow.integrations.get_by_name(NAME)]
        answers["by_type"] = uow.integrations.by_type("sap")
        answers["by_status"] = uow.integrations.by_status("pending")
        answers["by_tag"] = uow.integrations.by_tag("t")
        theirs_only = IntegrationFilter(created_after=found[0].created_at + timedelta(1))
        assert not uow.integrations.exists(theirs_only)
        answers["config"] = uow.integrations.find(IntegrationFilter(config_contains={"a": 1}))
    elif kind == "webhooks":
        answers["for_event"] = uow.webhooks.for_event("invoice.paid")
        answers["failed"] = uow.webhooks.failed()
        answers["for_integration"] = uow.webhooks.for_integration(found[0].integration_id)
    else:
        running = dataclasses.replace(found[0], status="running", schedule=Schedule.manual())
        answers["due"] = uow.sync_jobs.due()
        stored = uow.sync_jobs.save(running)
        answers["running"] = uow.sync_jobs.running()
        uow.sync_jobs.save(dataclasses.replace(stored, status="failed"))
        answers["failed"] = uow.sync_jobs.failed()
    return answers

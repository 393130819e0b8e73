"""Objects for tests, by factory-boy; valid as they come, and to be changed at will.

May import: `domain`, `ports`, factory-boy. ``IntegrationFactory()`` makes an object and stores
nothing; ``IntegrationFactory(store=uow)`` adds it to a unit of work and gives it as stored.
"""

# Each Meta stands for itself, as factory-boy has it, and is no child of the one above.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import collections.abc
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from factory.base import Factory
from factory.declarations import LazyFunction, Sequence, Trait

from integration_hub.domain.aggregate import Aggregate
from integration_hub.domain.integration import Integration, IntegrationStatus
from integration_hub.domain.schedule import Schedule
from integration_hub.domain.sync_job import SyncJob, SyncJobStatus
from integration_hub.domain.values import new_id
from integration_hub.domain.webhook import Webhook, WebhookStatus
from integration_hub.ports.unit_of_work import UnitOfWork

A = TypeVar("A", bound=Aggregate)
_Integrations: TypeAlias = type[Integration]
_REPOSITORIES: dict[type[Aggregate], str] = {
    Integration: "integrations",
    Webhook: "webhooks",
    SyncJob: "sync_jobs",
}


class AggregateFactory(Factory[A]):
    """What the three have in common: `store=uow` adds what was made."""

    class Meta:
        abstract = True

    name = Sequence(lambda number: f"object {number:04d}")

    if TYPE_CHECKING:  # what the metaclass does, which says nothing of its types

        def __new__(  # type: ignore[misc]
            cls, *, store: UnitOfWork | None = None, **fields: Any
        ) -> A: ...

    @classmethod
    def _create(cls, model_class: type[A], *args: Any, **fields: Any) -> A:
        uow: UnitOfWork | None = fields.pop("store", None)
        made: A = super()._create(model_class, *args, **fields)
        if uow is None:
            return made
        stored: A = getattr(uow, _REPOSITORIES[model_class]).add(made)
        return stored


class IntegrationFactory(AggregateFactory[Integration]):
    """Integrations. Traits: `active`, `paused`, `broken`, `archived`.

    ``with_webhooks=2`` and ``with_jobs=3`` add children too, and need `store`.
    """

    class Meta:
        model = Integration

    class Params:
        active = Trait(status=IntegrationStatus.ACTIVE)
        paused = Trait(status=IntegrationStatus.PAUSED)
        broken = Trait(status=IntegrationStatus.ERROR, error_message="401 Unauthorized")
        archived = Trait(status=IntegrationStatus.ARCHIVED)

    type = "salesforce"

    @classmethod
    def _create(cls, model_class: _Integrations, *args: Any, **fields: Any) -> Integration:
        webhooks, jobs = fields.pop("with_webhooks", 0), fields.pop("with_jobs", 0)
        uow = fields.get("store")
        if (webhooks or jobs) and uow is None:
            raise TypeError("with_webhooks and with_jobs need store=uow: children must be stored")
        made = super()._create(model_class, *args, **fields)
        for _ in range(webhooks):
            WebhookFactory(store=uow, integration_id=made.id, tenant=made.tenant)
        for _ in range(jobs):
            SyncJobFactory(store=uow, integration_id=made.id, tenant=made.tenant)
        return made


class WebhookFactory(AggregateFactory[Webhook]):
    """Webhooks; give `integration_id`. Traits: `paused`, `failing`, `disabled`."""

    class Meta:
        model = Webhook

    class Params:
        paused = Trait(status=WebhookStatus.PAUSED)
        failing = Trait(status=WebhookStatus.FAILING, error_message="503")
        disabled = Trait(status=WebhookStatus.DISABLED, error_message="410 Gone")

    integration_id = LazyFunction(new_id)
    url = Sequence(lambda number: f"https://hooks.example.com/{number}")
    events: collections.abc.Sequence[str] = ("invoice.*",)


class SyncJobFactory(AggregateFactory[SyncJob]):
    """Sync jobs; give `integration_id`. Traits: `running`, `failed`, `paused`."""

    class Meta:
        model = SyncJob

    class Params:
        running = Trait(status=SyncJobStatus.RUNNING)
        failed = Trait(status=SyncJobStatus.FAILED, error_message="timed out")
        paused = Trait(status=SyncJobStatus.PAUSED)

    integration_id = LazyFunction(new_id)
    schedule = LazyFunction(lambda: Schedule.every(timedelta(minutes=15)))

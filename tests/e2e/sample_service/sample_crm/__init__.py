"""A small service, as others would write it: it connects CRMs and asks what is to be synced."""

from __future__ import annotations

from datetime import timedelta

from integration_hub import (
    EVERY_TENANT,
    DuplicateName,
    Hub,
    Integration,
    IntegrationFilter,
    Schedule,
    SyncJob,
)


class CrmService:
    """Connects a customer's CRM, with a job that fetches its contacts."""

    def __init__(self, hub: Hub, *, every: timedelta = timedelta(minutes=15)) -> None:
        self.hub = hub
        self.every = every

    def connect(self, customer: str, name: str, *, user: str) -> str:
        """Connect a CRM; gives ``connected``, or ``taken`` where the name is."""
        with self.hub.unit_of_work(tenant=customer, actor=user) as uow:
            try:
                crm = uow.integrations.add(Integration(name=name, type="crm", tags=["crm"]))
            except DuplicateName:
                return "taken"
            schedule = Schedule.every(self.every)
            uow.sync_jobs.add(SyncJob(integration_id=crm.id, name="contacts", schedule=schedule))
            uow.commit()
        return "connected"

    def names(self, customer: str) -> list[str]:
        """The names of a customer's CRMs."""
        with self.hub.unit_of_work(tenant=customer) as uow:
            return sorted(
                item.name for item in uow.integrations.find(IntegrationFilter(type="crm"))
            )

    def due(self) -> list[tuple[str, str]]:
        """What is to be fetched now, of all customers: the customer and the job's name."""
        with self.hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            return [(job.tenant, job.name) for job in uow.sync_jobs.due()]

"""`integration-hub integrations`: which there are, and whether their sync jobs run.

May import everything.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import typer

from integration_hub.cli.shared import (
    SHOWN,
    AsJson,
    AtMost,
    Column,
    OfStatus,
    TenantName,
    Url,
    changed,
    chosen,
    console,
    listed,
    of_integration,
    opened,
    plain,
    shown,
    state_of,
)
from integration_hub.domain.integration import Integration
from integration_hub.ports.query import IntegrationFilter, Sort
from integration_hub.ports.unit_of_work import UnitOfWork

integrations = typer.Typer(
    no_args_is_help=True, help="Integrations: which there are, and whether they rest."
)
IntegrationName = Annotated[
    str, typer.Argument(help="The integration's id, or its name where only one has it.")
]
_INTEGRATIONS: dict[str, Column] = {
    "tenant": "tenant",
    "id": "id",
    "integration": "name",
    "type": "type",
    "state": state_of,
    "since": "status_changed_at",
    "why": "error_message",
}


@integrations.command("list")
def list_integrations(
    status: OfStatus = None,
    type: Annotated[list[str] | None, typer.Option(help="Of this type only.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="With this tag only.")] = None,
    limit: AtMost = SHOWN,
    as_json: AsJson = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """Which integrations there are, by name."""
    wanted = IntegrationFilter(status=status or None, type=type or None, tags_all=tag or None)
    with opened(url) as hub, hub.unit_of_work(tenant=chosen(tenant)) as uow:
        page = uow.integrations.page(wanted, sort=Sort("name"), size=limit)
    listed(shown("integrations", page), page.items, _INTEGRATIONS, as_json=as_json)


@integrations.command()
def pause(integration: IntegrationName, tenant: TenantName = None, url: Url = None) -> None:
    """Let all sync jobs of an integration rest until it is activated; what runs goes on."""
    _change(integration, Integration.pause, tenant, url)


@integrations.command()
def activate(integration: IntegrationName, tenant: TenantName = None, url: Url = None) -> None:
    """Let its sync jobs run: it is set up, or mended, or has rested for long enough."""
    _change(integration, Integration.activate, tenant, url)


def _change(
    integration: str,
    act: Callable[[Integration, datetime], Integration],
    tenant: str | None,
    url: str | None,
) -> None:
    def change(uow: UnitOfWork, now: datetime) -> Integration:
        found = of_integration(uow, integration, option="integration")
        return uow.integrations.save(act(found, now))

    after = changed(url, tenant, change)
    console.print(plain(f"{after.name}: {after.status}"))

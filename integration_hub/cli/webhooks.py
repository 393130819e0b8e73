"""`integration-hub webhooks`: a dispatcher, and what became of messages.

May import everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from integration_hub.cli.shared import (
    PRUNED_AT_ONCE,
    SHOWN,
    AsJson,
    AtMost,
    Column,
    OfIntegration,
    OfStatus,
    TenantName,
    Url,
    Verbose,
    ago,
    changed,
    chosen,
    console,
    duration,
    function_at,
    id_of_integration,
    identity,
    in_batches,
    listed,
    opened,
    plain,
    pointed_at,
    show,
    shown,
    state_of,
    with_integrations,
    work,
)
from integration_hub.delivery import WebhookDispatcher
from integration_hub.domain.errors import ValidationError
from integration_hub.domain.values import without_query
from integration_hub.domain.webhook import IN_TROUBLE, Webhook
from integration_hub.domain.webhook_message import (
    PING_EVENT,
    WebhookDelivery,
    WebhookHealth,
    WebhookMessage,
)
from integration_hub.ports.query import Sort, WebhookFilter
from integration_hub.ports.unit_of_work import UnitOfWork

webhooks = typer.Typer(
    no_args_is_help=True, help="Webhooks: deliver messages, and see how it went."
)
WebhookName = Annotated[
    str, typer.Argument(help="The webhook's id, or its name where only one has it.")
]
_TROUBLED = {
    "id": "webhook.id",
    "webhook": "webhook.name",
    "state": "webhook.status",
    "failures": "health.failures",
    "since": "health.failing_since",
    "spared until": "health.throttled_until",
    "why": "webhook.error_message",
}
_WEBHOOKS: dict[str, Column] = {
    "tenant": "item.tenant",
    "id": "item.id",
    "webhook": "item.name",
    "integration": "integration.name",
    "state": lambda each: state_of(each.item),
    "events": lambda each: ", ".join(each.item.events),
    "url": lambda each: without_query(each.item.url),  # in which some have their key
}
_DELIVERIES = {
    "id": "delivery.id",
    "event": "message.event_type",
    "made": "delivery.created_at",
    "state": "delivery.status",
    "attempts": "delivery.attempt_count",
    "next": "delivery.next_attempt_at",
}
_ATTEMPTS = {
    "no.": "number",
    "started": "started_at",
    "ms": "duration_ms",
    "status": "response_status",
    "error": "error_message",
    "answer": "response_body",
}


@webhooks.command()
def dispatch(
    concurrency: Annotated[int, typer.Option(help="How many requests at once.")] = 16,
    per_host: Annotated[int, typer.Option(help="How many of them to one host.")] = 8,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Send to any address, private ones too.")
    ] = False,
    allow_network: Annotated[
        list[str] | None, typer.Option(help="Send to this network too, such as 10.20.0.0/16.")
    ] = None,
    lease: Annotated[str, typer.Option(help="How long a silent dispatcher keeps a claim.")] = "60s",
    poll: Annotated[str, typer.Option(help="How often to look for work.")] = "5s",
    grace: Annotated[str, typer.Option(help="How long requests may go on after SIGTERM.")] = "20s",
    worker: Annotated[str | None, typer.Option(help="Its name; or host and process.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Deliver what is due now, and end.")] = False,
    on_attempt: Annotated[
        str | None, typer.Option(help="package.module:function, called with what came of each.")
    ] = None,
    verbose: Verbose = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """Deliver messages until SIGTERM."""
    with opened(url) as hub:
        sender = WebhookDispatcher(
            hub,
            concurrency=concurrency,
            per_host=per_host,
            allow_private_addresses=allow_private,
            allow_networks=allow_network or (),
            lease=duration("--lease", lease),
            poll=duration("--poll", poll),
            grace=duration("--grace", grace),
            worker=worker,
            tenant=chosen(tenant),
            on_attempt=function_at("--on-attempt", on_attempt, "of a delivery and its outcome"),
        )
        does = "delivers messages"
        work(sender, "dispatcher", does, once=once, counted="attempts", is_verbose=verbose)


@webhooks.command("list")
def list_webhooks(
    status: OfStatus = None,
    integration: OfIntegration = None,
    event: Annotated[str | None, typer.Option(help="Those only that are told of it.")] = None,
    limit: AtMost = SHOWN,
    as_json: AsJson = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """Which webhooks there are, by name, and what they are told of."""
    with opened(url) as hub, hub.unit_of_work(tenant=chosen(tenant)) as uow:
        parent = id_of_integration(uow, integration)
        wanted = WebhookFilter(status=status or None, integration_id=parent, event=event)
        page = uow.webhooks.page(wanted, sort=Sort("name"), size=limit)
        found = with_integrations(uow, page.items)
    listed(shown("webhooks", page), found, _WEBHOOKS, as_json=as_json)


@dataclass(frozen=True)
class _Troubled:
    webhook: Webhook
    health: WebhookHealth


@webhooks.command()
def status(tenant: TenantName = None, url: Url = None) -> None:
    """How many deliveries there are in each state, and which webhooks are in trouble."""
    with opened(url) as hub, hub.unit_of_work(tenant=chosen(tenant)) as uow:
        counts = uow.messages.counts()
        ill = uow.webhooks.find(WebhookFilter(status=IN_TROUBLE), limit=SHOWN)
        troubled = [_Troubled(each, uow.messages.health(each.id)) for each in ill]
    show("deliveries", ("state", "deliveries"), counts.items())
    listed("webhooks in trouble", troubled, _TROUBLED)


@webhooks.command()
def pause(webhook: WebhookName, tenant: TenantName = None, url: Url = None) -> None:
    """Send nothing to a webhook until it is resumed; what is published meanwhile passes it by."""
    _change(webhook, Webhook.pause, tenant, url)


@webhooks.command()
def resume(webhook: WebhookName, tenant: TenantName = None, url: Url = None) -> None:
    """Send to a webhook again, after a pause, trouble or a disablement."""
    _change(webhook, Webhook.resume, tenant, url)


@webhooks.command()
def ping(webhook: WebhookName, tenant: TenantName = None, url: Url = None) -> None:
    """Send a message of type webhook.ping to one webhook, whatever it subscribes to."""

    def send(uow: UnitOfWork, now: datetime) -> WebhookDelivery:
        hook = _webhook(uow, "webhook", webhook)
        message = uow.messages.publish(PING_EVENT, {}, to=hook.id, tenant=hook.tenant)
        return uow.messages.deliveries(message.id)[0]

    console.print(f"delivery {changed(url, tenant, send).id} is to be sent", highlight=False)


@dataclass(frozen=True)
class _Delivery:
    delivery: WebhookDelivery
    message: WebhookMessage


@webhooks.command()
def deliveries(
    webhook: WebhookName,
    status: OfStatus = None,
    limit: Annotated[int, typer.Option(help="At most so many, the latest first.")] = 20,
    as_json: AsJson = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """The deliveries to a webhook."""
    with opened(url) as hub, hub.unit_of_work(tenant=chosen(tenant)) as uow:
        hook = _webhook(uow, "webhook", webhook)
        made = uow.messages.of_webhook(hook.id, limit, status=status or None)
        found = [_Delivery(each, uow.messages.get(each.message_id)) for each in made]
    listed(f"{hook.name}: {hook.status}", found, _DELIVERIES, as_json=as_json)


@webhooks.command()
def attempts(
    delivery: Annotated[str, typer.Argument(help="The delivery's id.")],
    as_json: AsJson = False,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """The attempts at a delivery, and what came back."""
    with opened(url) as hub, hub.unit_of_work(tenant=chosen(tenant)) as uow:
        found = uow.messages.attempts(identity("delivery", delivery))
    listed("attempts", found, _ATTEMPTS, as_json=as_json)


@webhooks.command()
def replay(
    delivery: Annotated[str | None, typer.Argument(help="The delivery's id.")] = None,
    failed_of: Annotated[
        str | None, typer.Option(help="Instead of one: all that failed of this webhook.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Failed in the last 12h, 30d …")] = None,
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """Send again: one delivery, or all that failed of a webhook."""
    if (delivery is None) == (failed_of is None):
        problem = "must be given, or else --failed-of with a webhook"
        raise ValidationError("delivery", delivery, problem)

    age = None if since is None else duration("--since", since)

    def again(uow: UnitOfWork, now: datetime) -> int:
        if delivery is not None:
            uow.messages.replay(identity("delivery", delivery))
            return 1
        hook = _webhook(uow, "--failed-of", failed_of or "")
        return uow.messages.replay_failed(hook.id, since=None if age is None else now - age)

    count = changed(url, tenant, again)
    console.print(f"{count} to be sent again", highlight=False)


@webhooks.command()
def prune(
    older_than: Annotated[str, typer.Option(help="How long messages are kept: 30d, 12h …")] = "30d",
    tenant: TenantName = None,
    url: Url = None,
) -> None:
    """Forget messages that are over, and what was received, in batches that hold nobody up."""
    of = chosen(tenant)
    with opened(url) as hub:
        before = ago(hub, "--older-than", older_than)
        gone = in_batches(hub, of, lambda uow: uow.messages.prune(before, limit=PRUNED_AT_ONCE))
        read = in_batches(hub, of, lambda uow: uow.inbox.prune(before, limit=PRUNED_AT_ONCE))
    console.print(f"{gone} messages and {read} of the inbox forgotten", highlight=False)


def _change(
    webhook: str, act: Callable[[Webhook, datetime], Webhook], tenant: str | None, url: str | None
) -> None:
    def change(uow: UnitOfWork, now: datetime) -> Webhook:
        return uow.webhooks.save(act(_webhook(uow, "webhook", webhook), now))

    after = changed(url, tenant, change)
    console.print(plain(f"{after.name}: {after.status}"))


def _webhook(uow: UnitOfWork, option: str, given: str) -> Webhook:
    return pointed_at(uow.webhooks, WebhookFilter(name_contains=given), option, given)

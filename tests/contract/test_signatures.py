"""What other services may say by name: the signatures of api.md, on the face and in every store.

`=` marks what may be left out; what stands behind a `*` is said by name alone.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from operator import attrgetter

import pytest

import integration_hub
from integration_hub import Hub
from integration_hub.http.client import CallOptions

KEYWORD_ONLY = Parameter.KEYWORD_ONLY
UNNAMED = (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
LISTING = "filter=, *, sort="
ON_THE_FACE = {
    "Hub.from_url": "url, *, settings=, clock=",
    "Hub.from_settings": "settings",
    "Hub.in_memory": "clock=",
    "Hub.unit_of_work": "*, tenant=, actor=, session=",
    "Hub.run": "operation, *, tenant=, actor=, attempts=",
    "Hub.http": "name_or_integration",
    "Integration": "*, name, type, config=, tags=, description=, status=, is_active=",
    "Integration.activate": "now",
    "Integration.pause": "now",
    "Integration.fail": "error, now",
    "Integration.archive": "now",
    "Integration.rename": "name",
    "Webhook": "*, integration_id, name, url, events, config=, tags=",
    "Webhook.subscribes_to": "event",
    "Webhook.pause": "now",
    "Webhook.resume": "now",
    "Webhook.disable": "reason, now",
    "SyncJob": "*, integration_id, name, schedule, config=, direction=, max_attempts=",
    "SyncJob.pause": "now",
    "SyncJob.resume": "now",
    "SyncJob.cancel": "now",
    "Schedule.once": "at",
    "Schedule.every": "interval, *, start=",
    "Schedule.cron": "expression, *, tz=",
    "Schedule.next_after": "moment",
    "IntegrationFilter": "*, type=, status=, is_active=, tags_any=, tags_all=, config_contains=, "
    "name_contains=, created_after=, created_before=",
    "WebhookFilter": "*, integration_id=, event=, status=, is_active=, tags_any=",
    "SyncJobFilter": "*, integration_id=, status=, is_active=, due_by=, running=, failed=, "
    "direction=, tags_any=",
    "Sort": "field, direction=",
    "InMemoryUnitOfWork": "store=, *, tenant=, actor=",
    "UnitOfWorkFactory.for_url": "url",
    "UnitOfWorkManager": "factory",
    "UnitOfWorkManager.run": "operation",
    "DatabaseConnectionManager": "url, *, pool=, statement_timeout=",
    "DatabaseConnectionManager.query": "sql, params=, *, into=",
    "MockDatabaseConnection.query": "sql, params=, *, into=",
    "PoolSettings": "*, size=, max_overflow=, timeout=, recycle=, pre_ping=",
    "DatabaseSchemaManager": "manager",
    "HttpClient": "base_url=, *, timeout=, retry=, interceptors=, headers=, auth=, limits=, "
    "transport=",
    "HttpClient.get": "path, *, params=, headers=, timeout=, into=",
    "HttpClient.post": "path, *, json=, data=, content=, idempotency_key=, into=, params=",
    "HttpClient.stream": "method, path, *, params=, headers=, timeout=",
    "RetryPolicy": "attempts=, backoff=, statuses=, methods=, retry_after_cap=, budget=",
    "Backoff": "base=, factor=, cap=, jitter=",
    "Timeout": "connect=, read=, total=",
    "Limits": "pool=, max_response_bytes=",
    "HttpClientFactory": "defaults=",
    "HttpClientFactory.register": "name",
    "HttpClientFactory.get": "name",
    "SyncRunner": "hub, handlers, *, worker=, concurrency=",
    "SyncContext.progress": "records=, checkpoint=",
    "WebhookDispatcher": "hub, *, concurrency=, allow_private_addresses=",
    "verify": "secret, headers, body, *, tolerance=",
    "sign": "secret, id, timestamp, body",
}
IN_A_STORE = {
    f"{repository}.{method}": declared
    for repository in ("integrations", "webhooks", "sync_jobs")
    for method, declared in {
        "remove": "id",
        "get": "id",
        "get_many": "ids",
        "find": f"{LISTING}, limit=",
        "page": f"{LISTING}, number=, size=",
        "scroll": f"{LISTING}, size=, after=",
        "stream": f"{LISTING}, batch=",
        "count": "filter=",
        "exists": "filter",
    }.items()
} | {
    "integrations.get_by_name": "name",
    "webhooks.get_by_name": "name, integration_id",
    "webhooks.for_event": "event",
    "webhooks.for_integration": "id",
    "sync_jobs.get_by_name": "name, integration_id",
    "sync_jobs.for_integration": "id",
    "sync_jobs.due": "now=, *, limit=",
    "sync_jobs.claim": "worker, *, limit=, lease=, now=",
    "sync_runs.heartbeat": "run, *, records=, checkpoint=",
    "sync_runs.succeed": "run, *, records=, checkpoint=",
    "sync_runs.fail": "run, error, *, retry_in=",
    "sync_runs.release": "run",
    "sync_runs.reap": "now=",
    "sync_runs.history": "job_id, limit=",
    "messages.publish": "event, data, *, idempotency_key=",
    "messages.deliveries": "message_id",
    "messages.attempts": "delivery_id",
    "messages.replay": "delivery_id",
    "messages.replay_failed": "webhook_id, since=",
}


def declared_names(text: str) -> dict[str, bool]:
    """Each with whether it may be left out."""
    return {each.rstrip("="): each.endswith("=") for each in text.split(", ") if each}


def assert_takes(function: Callable[..., object], declared: str) -> None:
    before, _, behind = f"{declared}, ".partition("*, ")
    found = [each for each in signature(function).parameters.values() if each.name != "self"]
    by_name = {each.name: each for each in found if each.kind not in UNNAMED}
    if "CallOptions" in str(found[-1:]):
        options = CallOptions.__annotations__
        by_name |= {each: Parameter(each, KEYWORD_ONLY, default=None) for each in options}
    may_be_left_out = {name: each.default is not each.empty for name, each in by_name.items()}
    wanted = declared_names(before) | declared_names(behind)

    in_order = [each.name for each in found[: len(declared_names(before))]]
    assert in_order == list(declared_names(before))
    assert {name: may_be_left_out.get(name) for name in wanted} == wanted
    assert all(may_be_left_out[name] for name in by_name if name not in wanted)


@pytest.mark.parametrize(("name", "declared"), ON_THE_FACE.items())
def test_the_face_takes_what_its_design_says(name: str, declared: str) -> None:
    assert_takes(attrgetter(name)(integration_hub), declared)


@pytest.mark.parametrize(("name", "declared"), IN_A_STORE.items())
def test_every_store_takes_what_its_design_says(each_hub: Hub, name: str, declared: str) -> None:
    with each_hub.unit_of_work() as uow:
        assert_takes(attrgetter(name)(uow), declared)

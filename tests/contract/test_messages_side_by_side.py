"""The life of messages on dicts, SQLite and Postgres side by side: every answer must be the same.

Publishing, claims, what comes of attempts, replays, cancelling, endpoints that change and go, and
the passing of time, each in a unit of work of its own; what races do is in
`contracts.MessageContract`. Ids are a store's own and are not compared: a delivery is told by its
message's number and its webhook. The jitter of retries is off.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import URL

from hubs import Act, ask_all, side_by_side
from integration_hub import (
    EVERY_TENANT,
    AttemptOutcome,
    Hub,
    Integration,
    UnitOfWork,
    Webhook,
    WebhookDelivery,
    WebhookMessage,
)
from integration_hub.ports.unit_of_work import Tenant
from integration_hub.testing import ManualClock
from strategies import KINDS, MOSTLY_EVERY_TENANT, START

TABLES = (
    *("inbox_messages", "webhook_attempts", "webhook_deliveries", "webhook_messages"),
    *("webhook_health", "webhook_secrets", "sync_runs", *reversed(KINDS)),
)
PATTERNS = [["*"], ["a.*"], ["a.b"], ["x.y", "webhook.disabled"], ["a.c", "x.*"]]
RETRIES = st.sampled_from([[], [5], [5, 60]])
#: Each has webhooks and keys of its own.
OWNERS = st.sampled_from(["acme", "acme", "beta"])


class Messages(RuleBasedStateMachine):
    """Three hubs with the same webhooks; `made` are the messages, `taken` the claims, of each."""

    hubs: dict[str, Hub]
    clock: ManualClock
    start_over: Callable[[], dict[str, Hub]]

    @initialize(
        hooks=st.lists(
            st.tuples(st.sampled_from(PATTERNS), st.integers(1, 3), RETRIES, OWNERS),
            min_size=1,
            max_size=4,
        )
    )
    def start(self, hooks: list[Any]) -> None:
        self.hubs = self.start_over()
        self.made: list[dict[str, WebhookMessage]] = []
        self.taken: list[dict[str, WebhookDelivery]] = []
        self.hooks: list[UUID] = []
        parents = {
            tenant: Integration(name="i", type="crm", tenant=tenant) for tenant in ("acme", "beta")
        }
        webhooks = []
        for number, (events, most, retries, tenant) in enumerate(hooks):
            options = {"max_concurrency": most, "retries": retries, "disabled_after": 300}
            webhooks.append(
                Webhook(
                    integration_id=parents[tenant].id,
                    name=f"w{number}",
                    url=f"https://h{number % 2}.example/{number}",
                    events=events,
                    config={"delivery": options},
                    tenant=tenant,
                )
            )
        self.hooks = [webhook.id for webhook in webhooks]

        def store(uow: UnitOfWork) -> None:
            for parent in parents.values():
                uow.integrations.add(parent)
            for webhook in webhooks:
                uow.webhooks.add(webhook)

        self.does(lambda _: store)

    @rule(seconds=st.sampled_from([1, 5, 30, 60, 400]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(
        event=st.sampled_from(["a.b", "a.c", "x.y"]),
        key=st.sampled_from([None, None, "k1", "k2"]),
        tenant=OWNERS,
    )
    def publish(self, event: str, key: str | None, tenant: str) -> None:
        self.clock.advance(1)
        number = len(self.made)

        def say(uow: UnitOfWork) -> WebhookMessage:
            return uow.messages.publish(event, number, idempotency_key=key, tenant=tenant)

        self.made.append(self.does(lambda _: say))

    @rule(at=st.integers(0, 3), key=st.sampled_from([None, "k1"]), tenant=OWNERS)
    def publish_to_one(self, at: int, key: str | None, tenant: str) -> None:
        self.clock.advance(1)
        number, id = len(self.made), self.hooks[at % len(self.hooks)]

        def say(uow: UnitOfWork) -> WebhookMessage:
            return uow.messages.publish("x.y", number, idempotency_key=key, to=id, tenant=tenant)

        self.made.append(self.does(lambda _: say))

    @rule(
        limit=st.integers(1, 4),
        lease=st.sampled_from([30, 60]),
        per_host=st.integers(1, 4),
        of_troubled=st.integers(0, 3),
        tenant=MOSTLY_EVERY_TENANT,
    )
    def claim(self, tenant: Tenant, **options: Any) -> None:
        def act(uow: UnitOfWork) -> Any:
            return uow.messages.claim(**options)

        found = self.does(lambda _: act, tenant)
        for together in zip(*found.values(), strict=True):
            self.taken.append(dict(zip(found, together, strict=True)))

    @precondition(lambda self: self.taken)
    @rule(
        at=st.integers(0, 99),
        act=st.sampled_from(["record", "record", "record", "release", "replay", "cancel"]),
        status=st.sampled_from([200, 204, 404, 429, 500, 500, 410, None]),
        retry_after=st.sampled_from([None, 40]),
        tenant=MOSTLY_EVERY_TENANT,
    )
    def go_on(
        self, at: int, act: str, status: int | None, retry_after: int | None, tenant: Tenant
    ) -> None:
        each = self.taken[-1 - at % min(len(self.taken), 6)]
        outcome = AttemptOutcome(
            started_at=self.clock.now(),
            status=status,
            error_code=None if status else "timed_out",
            error_message=None if status else "it took too long",
            retry_after=None if retry_after is None else timedelta(seconds=retry_after),
        )

        def ask(store: str) -> Act:
            mine = each[store]
            acts: dict[str, Act] = {
                "record": lambda uow: uow.messages.record(mine, outcome),
                "release": lambda uow: uow.messages.release(mine),
                "replay": lambda uow: uow.messages.replay(mine.id),
                "cancel": lambda uow: uow.messages.cancel(mine.id),
            }
            return acts[act]

        self.does(ask, tenant)

    @rule(at=st.integers(0, 3), seconds=st.sampled_from([None, 60]), tenant=MOSTLY_EVERY_TENANT)
    def replay_failed(self, at: int, seconds: int | None, tenant: Tenant) -> None:
        id = self.hooks[at % len(self.hooks)]
        since = None if seconds is None else self.clock.now() - timedelta(seconds=seconds)
        self.does(lambda _: lambda uow: uow.messages.replay_failed(id, since=since), tenant)

    @rule(at=st.integers(0, 3), act=st.sampled_from(["pause", "resume", "resume", "remove"]))
    def change(self, at: int, act: str) -> None:
        id = self.hooks[at % len(self.hooks)]

        def change(uow: UnitOfWork) -> Any:
            if act == "remove":
                return uow.webhooks.remove(id)
            return uow.webhooks.save(getattr(uow.webhooks.get(id), act)(self.clock.now()))

        self.does(lambda _: change)

    @rule(
        at=st.integers(0, 3),
        events=st.sampled_from(PATTERNS),
        most=st.integers(1, 3),
        retries=RETRIES,
        after=st.sampled_from([60, 300]),
        host=st.integers(0, 1),
        is_active=st.sampled_from([True, True, False]),
    )
    def configure(
        self, at: int, most: int, retries: Any, after: int, host: int, **new: Any
    ) -> None:
        """An endpoint gets other options, events and another host while it has something open."""
        id = self.hooks[at % len(self.hooks)]
        options = {"max_concurrency": most, "retries": retries, "disabled_after": after}
        new |= {"config": {"delivery": options}, "url": f"https://h{host}.example/{at}"}

        def change(uow: UnitOfWork) -> Any:
            return uow.webhooks.save(dataclasses.replace(uow.webhooks.get(id), **new))

        self.does(lambda _: change)

    @rule(seconds=st.sampled_from([0, 60]), limit=st.integers(1, 3), tenant=MOSTLY_EVERY_TENANT)
    def prune(self, seconds: int, limit: int, tenant: Tenant) -> None:
        before = self.clock.now() - timedelta(seconds=seconds)
        self.does(lambda _: lambda uow: uow.messages.prune(before, limit=limit), tenant)

    @rule(id=st.sampled_from(["m1", "m2"]), window=st.sampled_from([10, 100]), tenant=OWNERS)
    def accept(self, id: str, window: int, tenant: str) -> None:
        self.does(lambda _: lambda uow: uow.inbox.accept(id, window=window, tenant=tenant))

    # --- comparing ----------------------------------------------------------------------------

    def does(self, act: Callable[[str], Act], tenant: Tenant = EVERY_TENANT) -> dict[str, Any]:
        """Each store's answer, all of which must be the same, and must leave the same behind."""
        values = ask_all(self.hubs, act, shown, tenant=tenant)
        content = {store: self.content(hub, store) for store, hub in self.hubs.items()}
        for store, held in content.items():
            assert held == content["memory"], f"{store} holds what memory does not"
        return values

    def content(self, hub: Hub, store: str) -> list[Any]:
        """All that a store holds, without its ids."""
        found: list[Any] = []
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            found.append(sorted((str(k), v) for k, v in uow.messages.counts().items()))
            for webhook in sorted(uow.webhooks.find(), key=lambda each: each.name):
                health = uow.messages.health(webhook.id)
                found.append((webhook.name, webhook.status, webhook.error_message, webhook.version))
                found.append(shown(health))
                for delivery in uow.messages.of_webhook(webhook.id, 1_000):
                    log = uow.messages.attempts(delivery.id)
                    message = uow.messages.get(delivery.message_id)
                    found.append((message.payload, shown(delivery), shown(log)))
        return found


def shown(value: Any) -> Any:
    """An answer without ids."""
    if isinstance(value, list):
        return [shown(each) for each in value]
    if isinstance(value, WebhookDelivery):
        payload = None if value.message is None else value.message.payload
        hook = None if value.webhook is None else value.webhook.name
        counts = (value.attempt_count, value.retries_used, value.version)
        times = (value.created_at, value.next_attempt_at, value.last_attempt_at, value.finished_at)
        return (payload, hook, value.status, value.is_troubled, *counts, *map(str, times))
    if isinstance(value, WebhookMessage):
        return (value.payload, value.idempotency_key, str(value.occurred_at))
    fields = getattr(type(value), "__dataclass_fields__", None)
    if fields is None:
        return value
    return [
        (name, str(getattr(value, name)))
        for name in fields
        if name not in {"id", "delivery_id", "message_id"}
    ]


@pytest.fixture(scope="module")
def machine(
    hub_postgres_server: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[type[Messages]]:
    class Machine(Messages):
        pass

    Machine.clock = ManualClock(START)
    folder = tmp_path_factory.mktemp("messages")
    with (
        side_by_side(hub_postgres_server, folder, TABLES, Machine.clock) as start_over,
        mock.patch.object(random, "uniform", return_value=1.0),
    ):
        Machine.start_over = staticmethod(start_over)  # pyright: ignore[reportAttributeAccessIssue]
        yield Machine


def test_the_life_of_messages_is_the_same_in_all_stores(machine: type[Messages]) -> None:
    # A third of the walks: after every step all that the stores hold is compared.
    fewer = settings(max_examples=settings().max_examples // 3)
    run_state_machine_as_test(machine, settings=fewer)

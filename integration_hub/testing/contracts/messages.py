"""What every store must do with messages to webhooks: publishing, claims, retries, health, replay.

May import everything.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from integration_hub.domain.errors import (
    DeliveryNotFound,
    HubError,
    InvalidTransition,
    LeaseLost,
    MessageNotFound,
    UnitOfWorkClosed,
    ValidationError,
    WebhookNotFound,
)
from integration_hub.domain.integration import Integration
from integration_hub.domain.values import new_id
from integration_hub.domain.webhook import Webhook
from integration_hub.domain.webhook_message import (
    LARGEST_PAYLOAD,
    AttemptOutcome,
    DeliveryStatus,
    WebhookDelivery,
    WebhookMessage,
)
from integration_hub.hub import Hub
from integration_hub.ports.messages import MOST_AT_ONCE
from integration_hub.ports.unit_of_work import EVERY_TENANT, UnitOfWork
from integration_hub.testing.clock import ManualClock
from integration_hub.testing.factories import IntegrationFactory, WebhookFactory

LEASE = timedelta(minutes=1)


class MessageContract:
    """The outbox, deliveries and their attempts, endpoint health, secrets, the inbox."""

    @pytest.fixture
    def parent(self, hub: Hub) -> Integration:
        return self.add_parent(hub, "default")

    def add_parent(self, hub: Hub, tenant: str) -> Integration:
        with hub.unit_of_work(tenant=tenant) as uow:
            parent: Integration = IntegrationFactory(active=True, store=uow)
            uow.commit()
        return parent

    def add_webhook(self, hub: Hub, parent: Integration, **fields: Any) -> Webhook:
        with hub.unit_of_work(tenant=parent.tenant) as uow:
            given = {"events": ["invoice.*"], **fields}
            webhook: Webhook = WebhookFactory(store=uow, integration_id=parent.id, **given)
            uow.commit()
        return webhook

    def publish(
        self, hub: Hub, event: str = "invoice.paid", data: Any = None, **options: Any
    ) -> WebhookMessage:
        message: WebhookMessage = self.does(
            hub, lambda uow: uow.messages.publish(event, data, **options), tenant="default"
        )
        return message

    def does(self, hub: Hub, act: Callable[[UnitOfWork], Any], tenant: Any = EVERY_TENANT) -> Any:
        with hub.unit_of_work(tenant=tenant, actor="d1") as uow:
            found = act(uow)
            uow.commit()
        return found

    def claim(self, hub: Hub, **options: Any) -> list[WebhookDelivery]:
        given = {"limit": 100, "lease": LEASE, **options}
        found: list[WebhookDelivery] = self.does(hub, lambda uow: uow.messages.claim(**given))
        return found

    def record(
        self, hub: Hub, delivery: WebhookDelivery, status: int | None = 200, **fields: Any
    ) -> WebhookDelivery:
        outcome = AttemptOutcome(started_at=self.now(hub), status=status, **fields)
        found: WebhookDelivery = self.does(hub, lambda uow: uow.messages.record(delivery, outcome))
        return found

    def now(self, hub: Hub) -> Any:
        with hub.unit_of_work() as uow:
            clock: Any = uow
            return clock.clock.now()

    def deliveries(self, hub: Hub, message: WebhookMessage) -> list[WebhookDelivery]:
        found: list[WebhookDelivery] = self.does(
            hub, lambda uow: uow.messages.deliveries(message.id)
        )
        return found

    @staticmethod
    def asked(call: str, id: UUID) -> Callable[[UnitOfWork], Any]:
        return lambda uow: getattr(uow.messages, call)(id)

    def webhook(self, hub: Hub, webhook: Webhook) -> Webhook:
        found: Webhook = self.does(hub, lambda uow: uow.webhooks.get(webhook.id))
        return found

    # --- publishing ---------------------------------------------------------------------------

    def test_a_message_goes_to_who_subscribes(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        told = [
            self.add_webhook(hub, parent, events=events)
            for events in (["invoice.paid"], ["invoice.*"], ["*"], ["order.*", "invoice.paid"])
        ]
        for fields in (
            {"events": ["order.*"]},
            {"events": ["invoice.paid.late"]},
            {"is_active": False},
            {"status": "paused"},
            {"status": "disabled"},
        ):
            self.add_webhook(hub, parent, **fields)
        message = self.publish(hub, data={"id": 7, "name": "Ü"})
        now = hub_clock.now()
        assert (message.event_type, message.tenant, message.occurred_at) == (
            *("invoice.paid", "default"),
            now,
        )
        assert message.message_id == f"msg_{message.id.hex}"
        found = self.deliveries(hub, message)
        assert {each.webhook_id for each in found} == {each.id for each in told}
        assert {each.status for each in found} == {DeliveryStatus.PENDING}
        assert {each.next_attempt_at for each in found} == {now}
        assert self.does(hub, lambda uow: uow.messages.get(message.id)) == message

    def test_the_payload_is_canonical_and_fixed(self, hub: Hub, hub_clock: ManualClock) -> None:
        message = self.publish(hub, data={"b": [1, 2.5, None], "a": {"ü": True}})
        when = hub_clock.now().isoformat().replace("+00:00", "Z")
        expected = (
            '{"data":{"a":{"ü":true},"b":[1,2.5,null]},'
            f'"timestamp":"{when}","type":"invoice.paid"}}'
        )
        assert message.payload == expected.encode()
        stored = self.does(hub, lambda uow: uow.messages.get(message.id))
        assert stored.payload == message.payload
        assert stored.data == {"a": {"ü": True}, "b": [1, 2.5, None]}
        assert "ü" not in repr(message)

    def test_the_largest_payload_has_256_kib_to_the_byte(self, hub: Hub) -> None:
        rest = LARGEST_PAYLOAD - len(self.publish(hub, data="").payload)
        message = self.publish(hub, data="x" * rest)
        stored = self.does(hub, lambda uow: uow.messages.get(message.id))
        assert (len(stored.payload), len(stored.data)) == (256 * 1024, rest)
        with pytest.raises(ValidationError, match="of 262,145 bytes; at most 262,144") as refused:
            self.publish(hub, data="x" * (rest + 1))
        assert refused.value.field == "data"

    def test_what_is_rolled_back_was_never_said(self, hub: Hub, parent: Integration) -> None:
        self.add_webhook(hub, parent)
        with hub.unit_of_work() as uow:
            message = uow.messages.publish("invoice.paid", {})
            assert len(uow.messages.deliveries(message.id)) == 1
        assert self.claim(hub) == []
        with pytest.raises(MessageNotFound):
            self.does(hub, lambda uow: uow.messages.get(message.id))
        with hub.unit_of_work() as uow:
            with pytest.raises(RuntimeError), uow.savepoint():
                uow.messages.publish("invoice.paid", {})
                raise RuntimeError
            uow.commit()
        assert self.claim(hub) == []

    def test_a_key_makes_a_message_once_per_tenant(self, hub: Hub, parent: Integration) -> None:
        self.add_webhook(hub, parent)
        first = self.publish(hub, data=1, idempotency_key="k1")
        assert self.publish(hub, data=2, idempotency_key="k1") == first
        other = self.publish(hub, data=3, idempotency_key="k2")
        assert other.id != first.id
        assert len(self.claim(hub)) == 2
        theirs = self.does(
            hub,
            lambda uow: uow.messages.publish("invoice.paid", 4, idempotency_key="k1"),
            tenant="beta",
        )
        assert theirs.id != first.id
        with hub.unit_of_work() as uow:
            one = uow.messages.publish("invoice.paid", 5, idempotency_key="k5")
            assert uow.messages.publish("invoice.paid", 6, idempotency_key="k5") == one
            uow.commit()

    def test_threads_with_one_key_make_one_message(self, hub: Hub, parent: Integration) -> None:
        self.add_webhook(hub, parent)
        gate = threading.Barrier(4)

        def say(number: int) -> UUID:
            gate.wait(10)
            said = hub.run(
                lambda uow: uow.messages.publish("invoice.paid", number, idempotency_key="k"),
                attempts=20,
            )
            return said.unwrap().id

        with ThreadPoolExecutor(4) as pool:
            ids = set(pool.map(say, range(4)))
        assert len(ids) == 1
        assert len(self.claim(hub)) == 1

    def test_many_subscribers_are_told_by_the_dispatcher(
        self, hub: Hub, parent: Integration
    ) -> None:
        with hub.unit_of_work() as uow:
            uow.webhooks.add_many(
                WebhookFactory.build(integration_id=parent.id, events=["*"])
                for _ in range(MOST_AT_ONCE + 5)
            )
            uow.commit()
        message = self.publish(hub)
        assert not message.is_fanned_out
        assert self.does(hub, lambda uow: uow.messages.fan_out(), tenant="other") == 0
        assert self.deliveries(hub, message) == []
        assert self.does(hub, lambda uow: uow.messages.fan_out()) == 1
        assert len(self.deliveries(hub, message)) == MOST_AT_ONCE + 5
        assert self.does(hub, lambda uow: uow.messages.fan_out()) == 0
        assert self.does(hub, lambda uow: uow.messages.get(message.id)).is_fanned_out

    def test_one_webhook_alone_is_told_whatever_it_subscribes_to(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        one, other = (self.add_webhook(hub, parent, events=["order.*"]) for _ in range(2))
        message = self.publish(hub, "webhook.ping", {"hello": True}, to=one.id)
        assert message.is_fanned_out
        (delivery,) = self.deliveries(hub, message)
        assert delivery.webhook_id == one.id
        assert [each.webhook_id for each in self.claim(hub)] == [one.id]
        again = self.publish(hub, "order.made", 1, to=other.id, idempotency_key="k1")
        assert self.publish(hub, "order.made", 2, to=one.id, idempotency_key="k1") == again
        assert [each.webhook_id for each in self.deliveries(hub, again)] == [other.id]
        for rests in (other.pause(hub_clock.now()), dataclasses.replace(one, is_active=False)):
            with hub.unit_of_work() as uow:
                uow.webhooks.save(rests)
                uow.commit()
            with pytest.raises(ValidationError, match="resume it first") as refused:
                self.publish(hub, to=rests.id)
            assert refused.value.field == "to"

    def test_a_webhook_of_another_tenant_is_not_told(self, hub: Hub, parent: Integration) -> None:
        hook = self.add_webhook(hub, parent)
        for tenant, named in (("other", None), (EVERY_TENANT, "other")):
            with pytest.raises(WebhookNotFound), hub.unit_of_work(tenant=tenant) as uow:
                uow.messages.publish("invoice.paid", 1, to=hook.id, tenant=named)
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            message = uow.messages.publish("invoice.paid", 1, to=hook.id, tenant=parent.tenant)
            assert len(uow.messages.deliveries(message.id)) == 1

    @pytest.mark.parametrize(
        ("field", "call"),
        [
            ("event", lambda m: m.publish("invoice paid", {})),
            ("id", lambda m: m.publish("a.b", {}, to="x")),
            ("event", lambda m: m.publish("", {})),
            ("data.x", lambda m: m.publish("a.b", {"x": object()})),
            ("data", lambda m: m.publish("a.b", "x" * 256 * 1024)),
            ("idempotency_key", lambda m: m.publish("a.b", 1, idempotency_key="")),
            ("limit", lambda m: m.claim(limit=0)),
            ("lease", lambda m: m.claim(lease=0.1)),
            ("per_host", lambda m: m.claim(per_host=0)),
            ("of_troubled", lambda m: m.claim(of_troubled=-1)),
            ("of_slow", lambda m: m.claim(of_slow=-1)),
            ("slow", lambda m: m.claim(slow=["x"])),
            ("limit", lambda m: m.prune(datetime.now(UTC), limit=0)),
            ("before", lambda m: m.prune("yesterday")),
            ("now", lambda m: m.claim(now=datetime.max.replace(tzinfo=UTC))),
            ("delivery", lambda m: m.record("x", None)),
            ("delivery", lambda m: m.release(None)),
            ("limit", lambda m: m.fan_out(limit=0)),
            ("id", lambda m: m.get("x")),
        ],
    )
    def test_what_is_asked_is_checked(self, hub: Hub, field: str, call: Any) -> None:
        with hub.unit_of_work() as uow, pytest.raises(ValidationError) as refused:
            call(uow.messages)
        assert refused.value.field == field

    def test_secrets_are_those_of_webhooks(self, hub: Hub) -> None:
        wrong: Any = "a webhook"
        with hub.unit_of_work() as uow, pytest.raises(ValidationError) as refused:
            uow.secrets.of_many([wrong])
        assert refused.value.field == "item"

    def test_of_every_tenant_one_must_be_named(self, hub: Hub) -> None:
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            with pytest.raises(ValidationError) as refused:
                uow.messages.publish("a.b", {})
            assert refused.value.field == "tenant"
            assert uow.messages.publish("a.b", {}, tenant="acme").tenant == "acme"

    # --- claims -------------------------------------------------------------------------------

    def test_a_claim_leases_what_is_due(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        webhook = self.add_webhook(hub, parent)
        message = self.publish(hub, data={"id": 1})
        now = hub_clock.advance(3)
        (delivery,) = self.claim(hub)
        assert (delivery.status, delivery.attempt_count) == (DeliveryStatus.DELIVERING, 1)
        assert (delivery.next_attempt_at, delivery.last_attempt_at) == (now + LEASE, now)
        assert (delivery.message, delivery.webhook) == (message, webhook)
        assert self.deliveries(hub, message) == [delivery]
        assert self.claim(hub) == []

    def test_each_delivery_of_a_claim_has_its_own_message_and_webhook(
        self, hub: Hub, parent: Integration
    ) -> None:
        webhooks = [self.add_webhook(hub, parent) for _ in range(3)]
        messages = [self.publish(hub, data={"id": number}) for number in range(2)]
        claimed = self.claim(hub)
        pairs = {(message.id, webhook.id) for message in messages for webhook in webhooks}
        assert {(each.message_id, each.webhook_id) for each in claimed} == pairs
        for each in claimed:
            assert each.message in messages
            assert each.webhook in webhooks
            assert each.message is not None
            assert each.webhook is not None
            assert (each.message.id, each.webhook.id) == (each.message_id, each.webhook_id)

    def test_a_dispatcher_that_is_not_heard_of_loses_its_claim(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        self.add_webhook(hub, parent)
        self.publish(hub)
        (lost,) = self.claim(hub)
        began = hub_clock.now()
        hub_clock.advance(LEASE - timedelta(seconds=1))
        assert self.claim(hub) == []
        hub_clock.advance(1)
        (again,) = self.claim(hub)
        assert (again.id, again.attempt_count) == (lost.id, 2)
        for act in (
            lambda uow: uow.messages.record(lost, AttemptOutcome(started_at=began, status=200)),
            lambda uow: uow.messages.release(lost),
        ):
            with pytest.raises(LeaseLost) as refused:
                self.does(hub, act)
            assert refused.value.run_id == lost.id
        self.record(hub, again)
        log = self.does(hub, lambda uow: uow.messages.attempts(lost.id), tenant="default")
        told = [(each.number, each.error_code, each.started_at) for each in log]
        assert told == [(1, "lease_lost", began), (2, None, hub_clock.now())]
        assert "not heard of in time" in log[0].error_message
        assert {each.tenant for each in log} == {"default"}

    def test_a_claim_that_is_not_committed_leaves_nothing(
        self, hub: Hub, parent: Integration
    ) -> None:
        self.add_webhook(hub, parent)
        self.publish(hub)
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            assert len(uow.messages.claim()) == 1
        assert len(self.claim(hub)) == 1

    def test_a_released_claim_is_as_it_was(self, hub: Hub, parent: Integration) -> None:
        self.add_webhook(hub, parent)
        self.publish(hub)
        (delivery,) = self.claim(hub)
        released = self.does(hub, lambda uow: uow.messages.release(delivery))
        assert (released.status, released.attempt_count) == (DeliveryStatus.PENDING, 0)
        assert self.does(hub, lambda uow: uow.messages.attempts(delivery.id)) == []
        assert len(self.claim(hub)) == 1

    def test_of_a_webhook_and_of_a_host_no_more_than_they_bear(
        self, hub: Hub, parent: Integration
    ) -> None:
        urls = ["https://a.example/1", "https://a.example/2", "https://b.example:444/1"]
        hooks = [
            self.add_webhook(hub, parent, url=url, config={"delivery": {"max_concurrency": most}})
            for url, most in zip(urls, (2, 9, 3), strict=True)
        ]
        for number in range(6):
            self.publish(hub, data=number)
        found = self.claim(hub, per_host=4)
        assert Counter(each.webhook_id for each in found) == {
            hooks[0].id: 2,
            hooks[1].id: 2,
            hooks[2].id: 3,
        }
        assert self.claim(hub, per_host=4, busy=found) == []
        more = self.claim(hub, per_host=5, busy=found)
        assert [each.webhook_id for each in more] == [hooks[1].id]

    def test_who_is_failing_is_sent_to_one_at_a_time(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        self.add_webhook(hub, parent, config={"delivery": {"max_concurrency": 9}})
        for number in range(12):
            self.publish(hub, data=number)
        at = self.claim(hub, limit=6)
        for each in at[1:]:
            self.record(hub, each, 500)
        assert self.claim(hub, busy=at[:1]) == []
        (probe,) = self.claim(hub)
        self.record(hub, probe)
        assert len(self.claim(hub)) == 5

    def test_of_all_that_are_troubled_no_more_than_asked_for(
        self, hub: Hub, parent: Integration
    ) -> None:
        """Those that have failed since their last success, be it once."""
        for number in range(4):
            self.add_webhook(hub, parent, url=f"https://h{number}.example")
        for number in range(3):
            self.publish(hub, data=number)
        well, *others = self.claim(hub, limit=4)
        self.record(hub, well)
        for each in others:
            self.record(hub, each, 500)
        assert {each.webhook_id for each in self.claim(hub, of_troubled=0)} == {well.webhook_id}
        busy = self.claim(hub, of_troubled=2)
        assert [each.is_troubled for each in busy] == [True, True]
        assert self.claim(hub, of_troubled=2, busy=busy) == []
        (last,) = self.claim(hub, of_troubled=3, busy=busy)
        assert last.is_troubled

    def test_who_has_the_fewest_comes_first(self, hub: Hub, parent: Integration) -> None:
        """Or those with the longest queues, as the slow ones have, would take every turn."""
        many = {"delivery": {"max_concurrency": 9}}
        late = self.add_webhook(hub, parent, url="https://late.example", config=many)
        for number in range(6):
            self.publish(hub, data=number)
        busy = self.claim(hub, limit=3)
        quick = self.add_webhook(hub, parent, url="https://quick.example", config=many)
        for number in range(4):
            self.publish(hub, data=number)
        found = self.claim(hub, limit=3, busy=busy)
        assert Counter(each.webhook_id for each in found) == {quick.id: 3}
        found += self.claim(hub, limit=1, busy=[*busy, *found])
        assert found[-1].webhook_id == late.id  # of two that have as many, who waits longest
        rest = self.claim(hub, per_host=9, busy=[*busy, *found])
        assert Counter(each.webhook_id for each in rest) == {quick.id: 1, late.id: 5}

    def test_of_all_that_are_slow_no_more_than_asked_for(
        self, hub: Hub, parent: Integration
    ) -> None:
        """Which these are is what a dispatcher knows."""
        one, two, quick = (
            self.add_webhook(hub, parent, url=f"https://h{number}.example").id
            for number in range(3)
        )
        for number in range(3):
            self.publish(hub, data=number)
        busy = self.claim(hub, limit=4, slow=[one, two], of_slow=1)
        assert Counter(each.webhook_id for each in busy) == {one: 1, quick: 3}
        assert self.claim(hub, busy=busy, slow=[one, two], of_slow=1) == []
        more = self.claim(hub, busy=busy, slow=[one, two], of_slow=2)
        assert [each.webhook_id for each in more] == [two]
        assert len(self.claim(hub, busy=[*busy, *more], slow=[one], of_slow=0)) == 2  # of the other
        assert len(self.claim(hub)) == 2

    def test_what_a_dispatcher_is_at_is_what_a_claim_gave(
        self, hub: Hub, parent: Integration
    ) -> None:
        self.add_webhook(hub, parent)
        (open_one,) = self.deliveries(hub, self.publish(hub))
        self.claim(hub)
        with pytest.raises(ValidationError) as refused:
            self.claim(hub, busy=[open_one])
        assert refused.value.field == "busy"

    def test_all_that_are_failing_have_their_turns(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        """Not only those whose queue is the longest, as they never answer."""
        hooks = set()
        for number in range(3):
            url = f"https://h{number}.example"
            hooks.add(self.add_webhook(hub, parent, url=url, failing=True).id)
            self.publish(hub)
            hub_clock.advance(60)
        tried = set()
        for _ in range(100):  # that one of three has no turn: by a chance of 1 to 10^17
            with hub.unit_of_work(tenant=EVERY_TENANT) as uow:  # it is rolled back
                (delivery,) = uow.messages.claim(of_troubled=1)
            tried.add(delivery.webhook_id)
            hub_clock.advance(1)
        assert tried == hooks

    def test_many_that_are_failing_hide_nobody(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("integration_hub.ports.message_life.MOST_WAITING", 5)

        def hook(number: int, **fields: Any) -> UUID:
            url = f"https://h{number}.example"
            id: UUID = self.add_webhook(hub, parent, url=url, **fields).id
            return id

        failing = [hook(number, failing=True, events=["old.*"]) for number in range(6)]
        self.publish(hub, "old.made")
        hub_clock.advance(60)
        well = [hook(number) for number in (6, 7)]
        self.publish(hub)
        found = [each.webhook_id for each in self.claim(hub)]
        assert sorted(found) == sorted([*failing[:3], *well])

    def test_a_long_queue_of_one_does_not_starve_another(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        crowd = self.add_webhook(hub, parent, url="https://crowd.example")
        for number in range(30):
            self.publish(hub, data=number)
        hub_clock.advance(60)
        other = self.add_webhook(hub, parent, url="https://other.example", events=["order.*"])
        self.publish(hub, "order.made")
        found = self.claim(hub, limit=4)
        counted = Counter(each.webhook_id for each in found)
        assert counted == {crowd.id: 2, other.id: 1}
        assert found[0].webhook_id == crowd.id

    def test_many_dispatchers_get_each_delivery_once(self, hub: Hub, parent: Integration) -> None:
        for number in range(3):
            self.add_webhook(
                hub,
                parent,
                url=f"https://h{number}.example",
                config={"delivery": {"max_concurrency": 100}},
            )
        for number in range(12):
            self.publish(hub, data=number)
        gate = threading.Barrier(6)

        def work(_: int) -> list[WebhookDelivery]:
            gate.wait(10)
            found = []
            for _ in range(4):
                found += self.claim(hub, limit=5, per_host=100)
            return found

        with ThreadPoolExecutor(6) as pool:
            found = [each for part in pool.map(work, range(6)) for each in part]
        found += self.claim(hub, per_host=100)
        assert len(found) == len({each.id for each in found}) == 36

    @pytest.mark.parametrize(
        "change",
        [
            lambda hook, now: hook.pause(now),
            lambda hook, now: hook.disable("enough", now),
            lambda hook, now: dataclasses.replace(hook, is_active=False),
        ],
    )
    def test_who_rests_is_not_sent_to_and_goes_on_when_resumed(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, change: Any
    ) -> None:
        webhook = self.add_webhook(hub, parent)
        self.publish(hub)
        resting = change(webhook, hub_clock.now())
        stored = self.does(hub, lambda uow: uow.webhooks.save(resting))
        assert self.claim(hub) == []
        well = dataclasses.replace(stored, status="active", is_active=True)
        self.does(hub, lambda uow: uow.webhooks.save(well))
        assert len(self.claim(hub)) == 1

    # --- what comes of an attempt -------------------------------------------------------------

    @pytest.mark.parametrize("status", [200, 201, 204, 299])
    def test_2xx_is_success(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, status: int
    ) -> None:
        webhook = self.add_webhook(hub, parent)
        message = self.publish(hub)
        (delivery,) = self.claim(hub)
        took = timedelta(milliseconds=1500)
        done = self.record(hub, delivery, status, body="thanks", duration=took)
        assert (done.status, done.finished_at) == (DeliveryStatus.DELIVERED, hub_clock.now())
        assert self.deliveries(hub, message) == [done]
        (attempt,) = self.does(hub, lambda uow: uow.messages.attempts(delivery.id))
        assert (attempt.number, attempt.response_status, attempt.is_success) == (1, status, True)
        assert (attempt.response_body, attempt.duration_ms) == ("thanks", 1500)
        assert attempt.started_at == hub_clock.now()
        assert self.claim(hub) == []
        assert self.does(hub, lambda uow: uow.messages.health(webhook.id)).failures == 0

    @pytest.mark.parametrize("status", [199, 300, 302, 304, 400, 404, 500, 503])
    def test_all_else_is_tried_again_by_the_schedule(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock, status: int
    ) -> None:
        self.add_webhook(hub, parent)
        self.publish(hub)
        (delivery,) = self.claim(hub)
        waiting = self.record(hub, delivery, status)
        assert waiting.status == DeliveryStatus.PENDING
        assert waiting.next_attempt_at is not None
        wait = waiting.next_attempt_at - hub_clock.now()
        assert timedelta(seconds=4) <= wait <= timedelta(seconds=6)
        assert self.claim(hub) == []
        hub_clock.advance(6)
        (again,) = self.claim(hub)
        later = self.record(hub, again, status)
        assert later.next_attempt_at is not None
        wait = later.next_attempt_at - hub_clock.now()
        assert timedelta(seconds=240) <= wait <= timedelta(seconds=360)
        log = self.does(hub, lambda uow: uow.messages.attempts(delivery.id))
        assert [(each.number, each.error_code) for each in log] == [
            (1, "status_error"),
            (2, "status_error"),
        ]

    def test_the_schedule_is_the_specification_s_and_then_it_is_given_up(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        """Source: Standard Webhooks, "Deliverability and reliability"; 20 % more or less."""
        minute, hour = 60, 3_600
        waits = [5, 5 * minute, 30 * minute]
        waits += [hours * hour for hours in (2, 5, 10, 14, 20, 24)]
        self.add_webhook(hub, parent)
        self.publish(hub)
        for wait in waits:
            (delivery,) = self.claim(hub)
            waiting = self.record(hub, delivery, 500)
            assert waiting.next_attempt_at is not None
            chosen = waiting.next_attempt_at - hub_clock.now()
            assert timedelta(seconds=0.8 * wait) <= chosen <= timedelta(seconds=1.2 * wait)
            hub_clock.advance(chosen)
        (delivery,) = self.claim(hub)
        assert delivery.attempt_count == 10
        assert self.record(hub, delivery, 500).status == DeliveryStatus.FAILED

    def test_a_webhook_may_have_its_own_schedule_and_then_it_is_given_up(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        config = {"delivery": {"retries": [10, 20]}}
        webhook = self.add_webhook(hub, parent, config=config)
        message = self.publish(hub)
        for _ in range(3):
            (delivery,) = self.claim(hub)
            self.record(hub, delivery, 500)
            hub_clock.advance(30)
        (failed,) = self.deliveries(hub, message)
        assert (failed.status, failed.attempt_count) == (DeliveryStatus.FAILED, 3)
        assert failed.next_attempt_at is None
        assert self.claim(hub) == []
        found = self.does(hub, lambda uow: uow.messages.of_webhook(webhook.id, status="failed"))
        assert found == [failed]

    def test_many_outcomes_are_recorded_at_once_and_none_for_another(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        self.add_webhook(hub, parent)
        for number in range(3):
            self.publish(hub, data=number)
        first = self.claim(hub)
        hub_clock.advance(LEASE)
        (again,) = self.claim(hub, limit=1)
        began = hub_clock.now()
        outcomes = [
            (each, AttemptOutcome(started_at=began, status=status))
            for each, status in zip([*first, again], (200, 500, 204, 201), strict=True)
        ]
        recorded = self.does(hub, lambda uow: uow.messages.record_many(outcomes))
        assert [(each.id, each.status) for each in recorded] == [
            (first[1].id, "pending"),
            (first[2].id, "delivered"),
            (again.id, "delivered"),
        ]
        assert again.id == first[0].id
        log = self.does(hub, self.asked("attempts", again.id))
        assert [(each.number, each.response_status) for each in log] == [(1, None), (2, 201)]
        assert self.does(hub, lambda uow: uow.messages.record_many([])) == []

    def test_what_must_not_be_tried_again_is_not(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        self.add_webhook(hub, parent)
        self.publish(hub)
        (delivery,) = self.claim(hub)
        over = self.record(
            hub, delivery, None, error_code="blocked_address", error_message="no", is_final=True
        )
        assert over.status == DeliveryStatus.FAILED
        (attempt,) = self.does(hub, lambda uow: uow.messages.attempts(delivery.id))
        assert (attempt.error_code, attempt.response_status) == ("blocked_address", None)

    def test_the_beginning_of_the_body_is_kept_made_storable(
        self, hub: Hub, parent: Integration
    ) -> None:
        self.add_webhook(hub, parent)
        self.publish(hub)
        (delivery,) = self.claim(hub)
        self.record(hub, delivery, 500, body="\x00" + "x" * 5_000)
        (attempt,) = self.does(hub, lambda uow: uow.messages.attempts(delivery.id))
        assert attempt.response_body == "\N{REPLACEMENT CHARACTER}" + "x" * 1_023

    # --- the health of endpoints --------------------------------------------------------------

    @pytest.mark.parametrize(
        ("status", "retry_after", "spared"),
        [(429, None, 30), (502, None, 30), (504, None, 30), (503, 90, 90), (429, 7, 7)],
    )
    def test_who_asks_for_less_is_spared(
        self,
        hub: Hub,
        parent: Integration,
        hub_clock: ManualClock,
        status: int,
        retry_after: int | None,
        spared: int,
    ) -> None:
        self.add_webhook(hub, parent)
        self.publish(hub, data=1)
        (delivery,) = self.claim(hub)
        asked = None if retry_after is None else timedelta(seconds=retry_after)
        self.record(hub, delivery, status, retry_after=asked)
        self.publish(hub, data=2)
        hub_clock.advance(spared - 1)
        assert self.claim(hub) == []
        hub_clock.advance(1)
        assert len(self.claim(hub)) >= 1

    def test_after_failures_in_a_row_it_is_failing_and_after_a_success_well_again(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        webhook = self.add_webhook(hub, parent)
        for number in range(5):
            assert self.webhook(hub, webhook).status == "active"
            self.publish(hub, data=number)
            (delivery,) = self.claim(hub, limit=1)
            self.record(hub, delivery, 500)
        failing = self.webhook(hub, webhook)
        assert failing.status == "failing"
        assert failing.error_message is not None
        assert "5 failures in a row" in failing.error_message
        health = self.does(hub, lambda uow: uow.messages.health(webhook.id))
        assert (health.failures, health.failing_since) == (5, hub_clock.now())
        self.publish(hub)
        (delivery,) = self.claim(hub, limit=1)
        self.record(hub, delivery)
        assert self.webhook(hub, webhook).status == "active"
        assert self.does(hub, lambda uow: uow.messages.health(webhook.id)).failures == 0

    def test_after_days_of_nothing_but_failures_it_is_disabled_and_that_is_told(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        webhook = self.add_webhook(hub, parent)
        watcher = self.add_webhook(hub, parent, events=["webhook.disabled"])
        message = self.publish(hub)
        (delivery,) = self.claim(hub)
        self.record(hub, delivery, 500)
        hub_clock.advance(timedelta(days=5))
        (delivery,) = self.claim(hub)
        self.record(hub, delivery, 500)
        disabled = self.webhook(hub, webhook)
        assert disabled.status == "disabled"
        assert disabled.error_message is not None
        assert "nothing but failures since" in disabled.error_message
        hub_clock.advance(timedelta(days=1))
        (told,) = self.claim(hub)
        assert told.webhook_id == watcher.id
        assert told.message is not None
        assert told.message.event_type == "webhook.disabled"
        assert told.message.data["webhook_id"] == str(webhook.id)
        self.record(hub, told)
        resumed = disabled.resume(hub_clock.now())
        self.does(hub, lambda uow: uow.webhooks.save(resumed))
        (again,) = self.claim(hub)
        assert again.message_id == message.id

    def test_after_how_long_it_is_disabled_a_webhook_may_say(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        config = {"delivery": {"disabled_after": 60, "retries": [1] * 9}}
        webhook = self.add_webhook(hub, parent, config=config)
        self.publish(hub)
        for seconds, expected in ((0, "active"), (59, "active"), (2, "disabled")):
            hub_clock.advance(seconds)
            (delivery,) = self.claim(hub)
            self.record(hub, delivery, 500)
            assert self.webhook(hub, webhook).status == expected

    def test_one_that_somebody_has_paused_meanwhile_stays_so(
        self, hub: Hub, hub_clock: ManualClock, parent: Integration
    ) -> None:
        webhook = self.add_webhook(hub, parent)
        self.publish(hub)
        (delivery,) = self.claim(hub)
        paused = self.does(hub, lambda uow: uow.webhooks.save(webhook.pause(hub_clock.now())))
        assert self.record(hub, delivery, 410).status == DeliveryStatus.FAILED
        assert self.webhook(hub, webhook) == paused

    def test_an_attempt_is_of_a_delivery_that_was_claimed(
        self, hub: Hub, parent: Integration
    ) -> None:
        self.add_webhook(hub, parent)
        (delivery,) = self.deliveries(hub, self.publish(hub))
        with pytest.raises(ValidationError, match="must be one that a claim gave"):
            self.record(hub, delivery)
        (claimed,) = self.claim(hub)
        wrong: Any = 200
        with pytest.raises(ValidationError, match="must be an AttemptOutcome"):
            self.does(hub, lambda uow: uow.messages.record(claimed, wrong))
        assert self.record(hub, claimed).status == DeliveryStatus.DELIVERED

    def test_one_that_is_gone_is_disabled_at_once(self, hub: Hub, parent: Integration) -> None:
        webhook = self.add_webhook(hub, parent)
        self.publish(hub)
        (delivery,) = self.claim(hub)
        assert self.record(hub, delivery, 410).status == DeliveryStatus.FAILED
        assert self.webhook(hub, webhook).status == "disabled"

    # --- again, no more, and over -------------------------------------------------------------

    def test_a_delivery_is_replayed_whatever_came_of_it(
        self, hub: Hub, parent: Integration
    ) -> None:
        self.add_webhook(hub, parent, config={"delivery": {"retries": []}})
        message = self.publish(hub)
        for status, expected in ((200, "delivered"), (500, "failed"), (200, "delivered")):
            (delivery,) = self.claim(hub)
            assert delivery.message == message
            assert self.record(hub, delivery, status).status == expected
            again = self.does(hub, self.asked("replay", delivery.id))
            assert (again.status, again.retries_used) == (DeliveryStatus.PENDING, 0)
        (delivery,) = self.claim(hub)
        assert delivery.attempt_count == 4
        with pytest.raises(InvalidTransition):
            self.does(hub, lambda uow: uow.messages.replay(delivery.id))

    def test_what_failed_is_replayed_from_a_time_on(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        webhook, other = (
            self.add_webhook(hub, parent, config={"delivery": {"retries": []}}) for _ in range(2)
        )
        times = []
        for number in range(3):
            self.publish(hub, data=number)
            for delivery in self.claim(hub):
                self.record(hub, delivery, 500)
            times.append(hub_clock.now())
            hub_clock.advance(60)
        again = self.does(hub, lambda uow: uow.messages.replay_failed(webhook.id, since=times[1]))
        assert again == 2
        found = self.claim(hub)
        assert {each.webhook_id for each in found} == {webhook.id}
        assert len(found) == 2
        assert self.does(hub, lambda uow: uow.messages.replay_failed(other.id)) == 3
        with pytest.raises(WebhookNotFound):
            self.does(hub, lambda uow: uow.messages.replay_failed(new_id()))

    def test_a_cancelled_delivery_is_sent_no_more(self, hub: Hub, parent: Integration) -> None:
        self.add_webhook(hub, parent)
        message = self.publish(hub)
        (delivery,) = self.claim(hub)
        cancelled = self.does(hub, lambda uow: uow.messages.cancel(delivery.id))
        assert cancelled.status == DeliveryStatus.CANCELLED
        with pytest.raises(LeaseLost):
            self.record(hub, delivery)
        with pytest.raises(LeaseLost):
            self.does(hub, lambda uow: uow.messages.cancel(delivery.id))
        assert self.deliveries(hub, message) == [cancelled]
        counts = self.does(hub, lambda uow: uow.messages.counts())
        assert {status: count for status, count in counts.items() if count} == {"cancelled": 1}

    def test_old_messages_are_pruned_unless_they_are_still_on_their_way(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        self.add_webhook(hub, parent)
        old = [self.publish(hub, data=number) for number in range(4)]
        found = {each.message_id: each for each in self.claim(hub)}
        for message in old[:3]:
            self.record(hub, found[message.id])
        hub_clock.advance(60)
        young = self.publish(hub)
        unheard = self.publish(hub, "nobody.listens")
        before = hub_clock.now()
        counts = [self.does(hub, lambda uow: uow.messages.prune(before, limit=2)) for _ in "abc"]
        assert counts == [2, 1, 0]
        for message, is_left in ((old[0], False), (old[3], True), (young, True), (unheard, True)):
            if is_left:
                self.does(hub, self.asked("get", message.id))
            else:
                with pytest.raises(MessageNotFound):
                    self.does(hub, self.asked("get", message.id))
        with pytest.raises(DeliveryNotFound):
            self.does(hub, lambda uow: uow.messages.attempts(found[old[0].id].id))

    def test_all_goes_with_the_webhook_and_with_its_integration(
        self, hub: Hub, parent: Integration
    ) -> None:
        first, second = (self.add_webhook(hub, parent) for _ in range(2))
        message = self.publish(hub)
        found = {each.webhook_id: each for each in self.claim(hub)}
        self.record(hub, found[first.id], 500)
        self.does(hub, lambda uow: uow.secrets.of(first.id))
        self.does(hub, lambda uow: uow.webhooks.remove(first.id))
        assert [each.webhook_id for each in self.deliveries(hub, message)] == [second.id]
        with pytest.raises(DeliveryNotFound):
            self.does(hub, lambda uow: uow.messages.attempts(found[first.id].id))
        self.does(hub, lambda uow: uow.integrations.remove(parent.id))
        assert self.deliveries(hub, message) == []
        with pytest.raises(DeliveryNotFound):
            self.record(hub, found[second.id])

    # --- secrets ------------------------------------------------------------------------------

    def test_a_webhook_has_a_secret_that_stays(self, hub: Hub, parent: Integration) -> None:
        webhook = self.add_webhook(hub, parent)
        (secret,) = self.does(hub, lambda uow: uow.secrets.of(webhook.id))
        assert secret.secret.startswith("whsec_")
        assert secret.secret not in repr(secret)
        assert self.does(hub, lambda uow: uow.secrets.of(webhook.id)) == [secret]

    def test_while_a_secret_is_replaced_two_are_valid(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        webhook = self.add_webhook(hub, parent)
        (old,) = self.does(hub, lambda uow: uow.secrets.of(webhook.id))
        hub_clock.advance(1)
        new = self.does(hub, lambda uow: uow.secrets.rotate(webhook.id, overlap=60))
        both = self.does(hub, lambda uow: uow.secrets.of(webhook.id))
        assert [each.secret for each in both] == [new.secret, old.secret]
        hub_clock.advance(60)
        assert self.does(hub, lambda uow: uow.secrets.of(webhook.id)) == [new]
        brought = "whsec_" + "QUFB" * 10
        given = self.does(
            hub, lambda uow: uow.secrets.rotate(webhook.id, secret=brought, overlap=0)
        )
        assert given.secret == brought
        assert self.does(hub, lambda uow: uow.secrets.of(webhook.id)) == [given]
        with hub.unit_of_work() as uow, pytest.raises(ValidationError) as refused:
            uow.secrets.rotate(webhook.id, secret="short")
        assert "short" not in refused.value.message

    # --- the inbox ----------------------------------------------------------------------------

    def test_a_message_is_accepted_once_within_the_window(
        self, hub: Hub, hub_clock: ManualClock
    ) -> None:
        def accept(id: str, tenant: str = "acme", **options: Any) -> bool:
            found: bool = self.does(hub, lambda uow: uow.inbox.accept(id, **options), tenant=tenant)
            return found

        assert accept("msg_1", window=60)
        assert not accept("msg_1", window=60)
        assert accept("msg_2")
        assert accept("msg_1", source="stripe")
        assert accept("msg_1", tenant="beta")
        hub_clock.advance(60)
        assert not accept("msg_1", window=60)
        hub_clock.advance(1)
        assert accept("msg_1", window=60)
        with hub.unit_of_work(tenant="acme") as uow:
            assert uow.inbox.accept("msg_3")
            assert not uow.inbox.accept("msg_3")
        assert accept("msg_3")  # what was rolled back was not accepted

    def test_threads_accept_a_message_once(self, hub: Hub) -> None:
        gate = threading.Barrier(4)

        def accept(_: int) -> bool:
            gate.wait(10)
            return hub.run(lambda uow: uow.inbox.accept("msg_1"), attempts=20).unwrap()

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(accept, range(4))) == [False, False, False, True]

    def test_the_inbox_is_pruned(self, hub: Hub, hub_clock: ManualClock) -> None:
        for number in range(3):
            self.does(hub, partial(_accepted, f"m{number}"), tenant="acme")
            hub_clock.advance(60)
        before = hub_clock.now() - timedelta(seconds=90)
        assert self.does(hub, lambda uow: uow.inbox.prune(before), tenant="beta") == 0
        assert self.does(hub, lambda uow: uow.inbox.prune(before, limit=1), tenant="acme") == 1
        assert self.does(hub, lambda uow: uow.inbox.prune(before)) == 1
        assert not self.does(hub, lambda uow: uow.inbox.accept("m2"), tenant="acme")

    # --- tenants, and the end -----------------------------------------------------------------

    def test_every_question_keeps_to_its_tenant(
        self, hub: Hub, parent: Integration, hub_clock: ManualClock
    ) -> None:
        webhook = self.add_webhook(hub, parent)
        message = self.publish(hub)
        with hub.unit_of_work(tenant="acme") as uow:
            assert uow.messages.claim() == []
            assert uow.messages.publish("invoice.paid", {}).tenant == "acme"
            assert set(uow.messages.counts().values()) == {0}
        (delivery,) = self.claim(hub)
        self.record(hub, delivery)
        with hub.unit_of_work(tenant="acme") as uow:
            assert uow.messages.prune(hub_clock.advance(60)) == 0
            acts: tuple[Callable[[], object], ...] = (
                lambda: uow.messages.get(message.id),
                lambda: uow.messages.deliveries(message.id),
                lambda: uow.messages.delivery(delivery.id),
                lambda: uow.messages.attempts(delivery.id),
                lambda: uow.messages.replay(delivery.id),
                lambda: uow.messages.cancel(delivery.id),
                lambda: uow.messages.of_webhook(webhook.id),
                lambda: uow.messages.replay_failed(webhook.id),
                lambda: uow.messages.health(webhook.id),
                lambda: uow.secrets.of(webhook.id),
                lambda: uow.secrets.rotate(webhook.id),
            )
            for act in acts:
                with pytest.raises(HubError) as refused:
                    act()
                assert "not_found" in refused.value.code
        with hub.unit_of_work(tenant="default") as uow:
            assert uow.messages.counts()[DeliveryStatus.DELIVERED] == 1

    def test_after_its_end_a_unit_of_work_answers_nothing_about_messages(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            uow.commit()
        for act in (
            lambda: uow.messages.publish("a.b", {}),
            lambda: uow.messages.get(new_id()),
            lambda: uow.messages.claim(),
            lambda: uow.messages.counts(),
            lambda: uow.messages.fan_out(),
            lambda: uow.messages.prune(json.loads("null")),
            lambda: uow.secrets.of(new_id()),
            lambda: uow.inbox.accept("m"),
        ):
            with pytest.raises(UnitOfWorkClosed):
                act()


def _accepted(id: str, uow: UnitOfWork) -> bool:
    return uow.inbox.accept(id)

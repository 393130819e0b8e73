"""Messages over dicts.

May import: `ports`, `domain`, and its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID

from integration_hub.domain.frozen import evolved
from integration_hub.domain.webhook import DELIVERABLE, Webhook, WebhookStatus
from integration_hub.domain.webhook_message import (
    STATUSES,
    DeliveryStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookHealth,
    WebhookMessage,
)
from integration_hub.memory.store import ANY
from integration_hub.ports.message_life import OLDEST_FIRST, MessagesLife, Waiting
from integration_hub.ports.query import WebhookFilter

if TYPE_CHECKING:
    from integration_hub.memory.unit_of_work import MemoryUnitOfWork


class InMemoryMessageRepository(MessagesLife["MemoryUnitOfWork"]):
    """Messages over dicts."""

    def __init__(self, uow: MemoryUnitOfWork) -> None:
        self._uow = uow
        self.clock = uow.clock
        self._messages = uow.layer(WebhookMessage)
        self._rows = uow.layer(WebhookDelivery)

    def counts(self) -> dict[DeliveryStatus, int]:
        self._uow.require_active()
        found = dict.fromkeys(STATUSES.values(), 0)
        with self._uow.store.lock:
            for delivery in self._loaded(self._rows.all_ids()):
                found[delivery.status] += self._uow.sees(delivery.tenant)
        return found

    def _loaded(self, ids: Iterable[UUID]) -> list[WebhookDelivery]:
        return [row for row in map(self._rows.get, ids) if row is not None]

    def _webhooks_of(self, tenant: str, wanted: WebhookFilter, limit: int | None) -> list[Webhook]:
        found = self._uow.webhooks.find(wanted, sort=OLDEST_FIRST)
        return [webhook for webhook in found if webhook.tenant == tenant][:limit]

    def _put_message(self, message: WebhookMessage) -> WebhookMessage | None:
        with self._uow.store.lock:
            if message.idempotency_key is not None:
                key = (message.tenant, message.idempotency_key)
                for id in self._messages.ids("key", [key]):
                    return self._messages.get(id)
            self._uow.put_new(WebhookMessage, [message])
        return None

    def _put_deliveries(self, deliveries: list[WebhookDelivery]) -> None:
        with self._uow.store.lock:
            self._uow.put_new(WebhookDelivery, deliveries)

    def _put_attempt(self, attempt: WebhookAttempt) -> None:
        with self._uow.store.lock:
            self._uow.put_new(WebhookAttempt, [attempt])

    def _message(self, id: UUID) -> WebhookMessage | None:
        with self._uow.store.lock:
            found = self._messages.get(id)
        return found if found is not None and self._uow.sees(found.tenant) else None

    def _delivery(self, id: UUID) -> WebhookDelivery | None:
        with self._uow.store.lock:
            found = self._rows.get(id)
        return found if found is not None and self._uow.sees(found.tenant) else None

    def _deliveries_of(self, message: WebhookMessage) -> list[WebhookDelivery]:
        with self._uow.store.lock:
            found = self._loaded(self._rows.ids("message_id", [message.id]))
        return sorted(found, key=_made)

    def _deliveries_to(
        self, webhook_id: UUID, statuses: list[str], limit: int
    ) -> list[WebhookDelivery]:
        with self._uow.store.lock:
            found = self._loaded(self._rows.ids("webhook_id", [webhook_id]))
        found = [delivery for delivery in found if delivery.status in statuses]
        return sorted(found, key=_made, reverse=True)[:limit]

    def _attempts_of(self, delivery: WebhookDelivery) -> list[WebhookAttempt]:
        attempts = self._uow.layer(WebhookAttempt)
        with self._uow.store.lock:
            found = [attempts.get(id) for id in attempts.ids("delivery_id", [delivery.id])]
        return sorted(
            (each for each in found if each is not None), key=lambda each: (each.number, each.id)
        )

    def _not_fanned_out(self, limit: int) -> list[WebhookMessage]:
        with self._uow.store.lock:
            ids = sorted(self._messages.ids("not_fanned_out", [ANY]))
            free = [row for row in map(self._message, ids) if row and self._is_free(row.id)][:limit]
            for message in free:
                self._uow.store.held[message.id] = self._uow
            return free

    def _is_free(self, id: UUID) -> bool:
        return self._uow.store.held.get(id, self._uow) is self._uow

    def _fanned_out(self, message: WebhookMessage) -> None:
        done = evolved(message, is_fanned_out=True, version=message.version + 1)
        with self._uow.store.lock:
            self._uow.put(WebhookMessage, done)

    def _waiting(self, now: datetime, limit: int) -> list[Waiting]:
        since: dict[UUID, datetime] = {}
        with self._uow.store.lock:
            for delivery in self._loaded(self._rows.ids("open", [ANY])):
                due = delivery.next_attempt_at
                if due is not None and due <= now:
                    since[delivery.webhook_id] = min(due, since.get(delivery.webhook_id, due))
            found = []
            for id, first in since.items():
                webhook = self._uow.layer(Webhook).get(id)
                health = self._uow.layer(WebhookHealth).get(id)
                if webhook is not None and self._may_be_sent_to(webhook, health, now):
                    is_troubled = health is not None or webhook.status == WebhookStatus.FAILING
                    found.append(Waiting(webhook, is_troubled, first))
        return _by_turns(sorted(found, key=lambda each: (each.since, each.webhook.id)))[:limit]

    def _may_be_sent_to(
        self, webhook: Webhook, health: WebhookHealth | None, now: datetime
    ) -> bool:
        throttled = None if health is None else health.throttled_until
        return (
            self._uow.sees(webhook.tenant)
            and webhook.is_active
            and webhook.status in DELIVERABLE
            and (throttled is None or throttled <= now)
        )

    def _take(
        self, rooms: Mapping[UUID, int], now: datetime, lease: timedelta
    ) -> list[tuple[WebhookDelivery, WebhookDelivery]]:
        found = []
        with self._uow.store.lock:
            for id, room in rooms.items():
                due = [
                    (each.next_attempt_at, each.id, each)
                    for each in self._loaded(self._rows.ids("open", [id]))
                    if each.next_attempt_at is not None
                    and each.next_attempt_at <= now
                    and self._is_free(each.id)
                ]
                for at, delivery_id, before in sorted(due, key=lambda each: each[:2])[:room]:
                    taken = before.claimed(now, lease)
                    self._uow.store.held[delivery_id] = self._uow
                    self._uow.put(WebhookDelivery, taken)
                    message = self._messages.get(before.message_id)
                    found.append((at, delivery_id, before, evolved(taken, message=message)))
        found.sort(key=lambda each: each[:2])
        return [(before, taken) for _, _, before, taken in found]

    def _finish(
        self, after: WebhookDelivery, before: WebhookDelivery, attempt: WebhookAttempt | None
    ) -> bool:
        with self._uow.store.lock:
            found = self._rows.get(before.id)
            if found is None or found.version != before.version:
                return False
            self._uow.store.held[before.id] = self._uow
            stored = evolved(after, message=None, webhook=None, is_troubled=False)
            self._uow.put(WebhookDelivery, stored)
            if attempt is not None:
                self._put_attempt(attempt)
        return True

    def _open_failed(self, webhook: Webhook, since: datetime | None, now: datetime) -> int:
        with self._uow.store.lock:
            failed = [
                each
                for each in self._loaded(self._rows.ids("webhook_id", [webhook.id]))
                if each.status == DeliveryStatus.FAILED
                and each.finished_at is not None
                and (since is None or each.finished_at >= since)
            ]
            for each in failed:
                self._uow.put(WebhookDelivery, each.replayed(now))
        return len(failed)

    def _health(self, webhook: Webhook) -> WebhookHealth | None:
        with self._uow.store.lock:
            return self._uow.layer(WebhookHealth).get(webhook.id)

    def _count_failure(
        self, webhook: Webhook, now: datetime, throttled_until: datetime | None
    ) -> WebhookHealth:
        with self._uow.store.lock:
            found = self._health(webhook)
            known = found or WebhookHealth(id=webhook.id, tenant=webhook.tenant, version=0)
            counted = known.failed(now, throttled_until)
            if found is None:
                self._uow.put_new(WebhookHealth, [counted])
            else:
                self._uow.put(WebhookHealth, counted)
        return counted

    def _clear_health(self, webhook: Webhook) -> None:
        with self._uow.store.lock:
            if self._health(webhook) is not None:
                self._uow.discard(WebhookHealth, webhook.id, is_cascade=True)

    def _forget(self, before: datetime, limit: int) -> int:
        with self._uow.store.lock:
            messages = [m for m in map(self._messages.get, self._messages.all_ids()) if m]
            old = [
                (message.occurred_at, message.id)
                for message in messages
                if message.occurred_at < before
                and message.is_fanned_out
                and self._uow.sees(message.tenant)
                and not any(each.is_open for each in self._deliveries_of(message))
            ]
            gone = sorted(old)[:limit]
            for _, id in gone:
                self._uow.discard_tree(WebhookMessage, id, is_cascade=True)
        return len(gone)


def _by_turns(waiting: list[Waiting]) -> list[Waiting]:
    """One that is troubled, and one that is not; each kind in the order in which it is given."""
    turns = {True: count(), False: count()}
    return sorted(waiting, key=lambda each: next(turns[each.is_troubled]))


def _made(delivery: WebhookDelivery) -> tuple[datetime, UUID]:
    return delivery.created_at, delivery.id

"""The life of messages and their deliveries, which all stores share.

May import: `domain`, and its neighbours. What happens to messages and their deliveries is said here
once, on the few questions that a store answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from integration_hub.domain.errors import (
    DeliveryNotFound,
    HubError,
    LeaseLost,
    MessageNotFound,
    SerializationConflict,
    ValidationError,
    WebhookNotFound,
)
from integration_hub.domain.frozen import evolved
from integration_hub.domain.values import (
    checked_count,
    checked_id,
    checked_kind,
    checked_lease,
    checked_start,
    checked_time,
    member,
    one_or_more,
    optional_time,
)
from integration_hub.domain.webhook import DELIVERABLE, Webhook, WebhookStatus
from integration_hub.domain.webhook_message import (
    DISABLED_EVENT,
    FAILING_AFTER,
    STATUSES,
    AttemptOutcome,
    DeliveryOptions,
    DeliveryStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookHealth,
    WebhookMessage,
    checked_delivery,
    written,
)
from integration_hub.ports.clock import Clock
from integration_hub.ports.messages import DELIVERY_LEASE, MOST_AT_ONCE, MOST_CLAIMED, PER_HOST
from integration_hub.ports.query import Sort, WebhookFilter
from integration_hub.ports.repositories import WebhookRepository
from integration_hub.ports.turns import Place, by_lot, rooms_of
from integration_hub.ports.waiting import DELIVERY_WORK

OLDEST_FIRST = Sort("created_at", "asc")
MOST_WAITING = 1_000  # endpoints that one claim looks at
LEASE_LOST = "lease_lost"
LOST = "the dispatcher was not heard of in time; it may have arrived"


@dataclass(frozen=True, slots=True)
class Waiting:
    """An endpoint with deliveries that are due, the earliest of them at `since`; and whether it has
    failed since its last success.
    """

    webhook: Webhook
    is_troubled: bool
    since: datetime


@dataclass(frozen=True, slots=True)
class Made:
    """An attempt that was made, and what it makes of its delivery."""

    before: WebhookDelivery
    after: WebhookDelivery
    outcome: AttemptOutcome
    webhook: Webhook

    @property
    def key(self) -> tuple[UUID, int]:
        """Which claim of which delivery it was."""
        return self.before.id, self.before.version


class _Uow(Protocol):
    """What the life of messages needs of its unit of work."""

    @property
    def webhooks(self) -> WebhookRepository: ...
    def require_active(self) -> None: ...
    def tenant_for(self, item_tenant: str) -> str: ...
    def announce(self, channel: str) -> None: ...


U = TypeVar("U", bound=_Uow)


class MessagesLife(Generic[U]):
    """What happens to messages, on the few questions that a store answers (those with a `_`)."""

    clock: Clock
    _uow: U

    # --- publishing ---------------------------------------------------------------------------

    def publish(
        self,
        event: str,
        data: Any,
        *,
        idempotency_key: str | None = None,
        to: UUID | None = None,
        tenant: str | None = None,
    ) -> WebhookMessage:
        self._uow.require_active()
        owner = self._uow.tenant_for(tenant or "")
        now = self.clock.now()
        message = written(event, data, tenant=owner, now=now, idempotency_key=idempotency_key)
        if to is None:
            told = self._subscribers(message, limit=MOST_AT_ONCE + 1)
        else:
            told = [self._one_of(owner, to)]
        if len(told) > MOST_AT_ONCE:
            message = evolved(message, is_fanned_out=False)
        first = self._put_message(message)
        if first is not None:
            return first
        if message.is_fanned_out:
            self._put_deliveries([_delivery(message, each, now) for each in told])
        if told:
            self._uow.announce(DELIVERY_WORK)
        return message

    def fan_out(self, *, limit: int = 10) -> int:
        self._uow.require_active()
        checked_count("limit", limit, least=1)
        now = self.clock.now()
        messages = self._not_fanned_out(limit)
        for message in messages:
            told = self._subscribers(message, limit=None)
            self._put_deliveries([_delivery(message, each, now) for each in told])
            self._fanned_out(message)
        return len(messages)

    def _one_of(self, tenant: str, id: UUID) -> Webhook:
        webhook = self._uow.webhooks.get(id)
        if webhook.tenant != tenant:
            raise WebhookNotFound(id)
        if webhook.status not in DELIVERABLE or not webhook.is_active:
            how = str(webhook.status) if webhook.is_active else "inactive"
            raise ValidationError("to", how, "must be a webhook that is sent to; resume it first")
        return webhook

    def _subscribers(self, message: WebhookMessage, *, limit: int | None) -> list[Webhook]:
        wanted = WebhookFilter(event=message.event_type, is_active=True, status=DELIVERABLE)
        return self._webhooks_of(message.tenant, wanted, limit)

    # --- looking up ---------------------------------------------------------------------------

    def get(self, id: UUID) -> WebhookMessage:
        self._uow.require_active()
        found = self._message(checked_id("id", id))
        if found is None:
            raise MessageNotFound(id)
        return found

    def delivery(self, id: UUID) -> WebhookDelivery:
        self._uow.require_active()
        found = self._delivery(checked_id("id", id))
        if found is None:
            raise DeliveryNotFound(id)
        return found

    def deliveries(self, message_id: UUID) -> list[WebhookDelivery]:
        return self._deliveries_of(self.get(message_id))

    def of_webhook(
        self,
        webhook_id: UUID,
        limit: int = 50,
        *,
        status: str | Collection[str] | None = None,
    ) -> list[WebhookDelivery]:
        self._uow.webhooks.get(webhook_id)
        checked_count("limit", limit, least=1)
        wanted = list(STATUSES) if status is None else one_or_more(status)
        statuses = sorted({member("status", each, STATUSES).value for each in wanted})
        return self._deliveries_to(webhook_id, statuses, limit) if statuses else []

    def attempts(self, delivery_id: UUID) -> list[WebhookAttempt]:
        return self._attempts_of(self.delivery(delivery_id))

    def health(self, webhook_id: UUID) -> WebhookHealth:
        webhook = self._uow.webhooks.get(webhook_id)
        return self._health(webhook) or WebhookHealth(id=webhook.id, tenant=webhook.tenant)

    # --- again, or no more --------------------------------------------------------------------

    def replay(self, delivery_id: UUID) -> WebhookDelivery:
        found = self.delivery(delivery_id)
        self._uow.announce(DELIVERY_WORK)
        return self._changed(found, found.replayed(self.clock.now()))

    def replay_failed(self, webhook_id: UUID, since: datetime | None = None) -> int:
        webhook = self._uow.webhooks.get(webhook_id)
        start = optional_time("since", since)
        self._uow.announce(DELIVERY_WORK)
        return self._open_failed(webhook, start, self.clock.now())

    def cancel(self, delivery_id: UUID) -> WebhookDelivery:
        found = self.delivery(delivery_id)
        if not found.is_open:
            raise LeaseLost(found.id, found.KIND)
        over = evolved(
            found,
            status=DeliveryStatus.CANCELLED,
            next_attempt_at=None,
            finished_at=self.clock.now(),
            version=found.version + 1,
        )
        return self._changed(found, over)

    def prune(self, before: datetime, *, limit: int = 1_000) -> int:
        self._uow.require_active()
        checked_count("limit", limit, least=1)
        return self._forget(checked_time("before", before), limit)

    def _changed(self, before: WebhookDelivery, after: WebhookDelivery) -> WebhookDelivery:
        if not self._finish(after, before, None):
            # A dispatcher was quicker; the same call will find what it made of it.
            raise SerializationConflict("the delivery was changed just now; try again")
        return after

    # --- delivering ---------------------------------------------------------------------------

    def claim(
        self,
        *,
        limit: int = 10,
        lease: timedelta | float = DELIVERY_LEASE,
        per_host: int = PER_HOST,
        of_troubled: int = MOST_CLAIMED,
        of_slow: int = MOST_CLAIMED,
        busy: Iterable[WebhookDelivery] = (),
        slow: Iterable[UUID] = (),
        now: datetime | None = None,
    ) -> list[WebhookDelivery]:
        self._uow.require_active()
        checked_count("limit", limit, least=1, most=MOST_CLAIMED)
        checked_count("per_host", per_host, least=1)
        checked_count("of_troubled", of_troubled)
        checked_count("of_slow", of_slow)
        duration = checked_lease("lease", lease)
        moment = self.clock.now() if now is None else checked_start("now", now)
        waiting = {each.webhook.id: each for each in self._waiting(moment, MOST_WAITING)}
        late = {checked_id("slow", each) for each in slow}
        places = [
            Place.of(each.webhook, late, is_troubled=each.is_troubled) for each in waiting.values()
        ]
        rooms = rooms_of(
            by_lot(places, moment),
            [Place.at(each, late) for each in busy],
            limit,
            per_host=per_host,
            of_troubled=of_troubled,
            of_slow=of_slow,
        )
        taken = self._take(rooms, moment, duration) if rooms else []
        found = []
        for before, delivery in taken:
            if before.status == DeliveryStatus.DELIVERING:
                self._put_attempt(_lost(before))
            each = waiting[delivery.webhook_id]
            found.append(evolved(delivery, webhook=each.webhook, is_troubled=each.is_troubled))
        return found

    def release(self, delivery: WebhookDelivery) -> WebhookDelivery:
        self._uow.require_active()
        after = checked_delivery(delivery).released(self.clock.now())
        if not self._finish(after, delivery, None):
            raise self._not_ours(delivery)
        return after

    def record(self, delivery: WebhookDelivery, outcome: AttemptOutcome) -> WebhookDelivery:
        for after in self.record_many([(delivery, outcome)]):
            return after
        raise self._not_ours(delivery)

    def record_many(
        self, outcomes: Iterable[tuple[WebhookDelivery, AttemptOutcome]]
    ) -> list[WebhookDelivery]:
        self._uow.require_active()
        now = self.clock.now()
        made = [self._made(delivery, outcome, now) for delivery, outcome in outcomes]
        recorded = self._finish_many(made)
        # All in one order, or two could wait for each other.
        for each in sorted(made, key=_endpoint):
            if each.key not in recorded:
                continue
            if not each.outcome.is_success:
                self._in_trouble(each.webhook, each.outcome, now)
            elif each.before.is_troubled:
                self._well_again(each.webhook)
        return [each.after for each in made if each.key in recorded]

    @staticmethod
    def _made(delivery: WebhookDelivery, outcome: AttemptOutcome, now: datetime) -> Made:
        webhook = checked_delivery(delivery).webhook
        if webhook is None:
            raise ValidationError("delivery", delivery.id, "must be one that a claim gave")
        checked_kind("outcome", outcome, AttemptOutcome, "must be an AttemptOutcome")
        if outcome.is_success:
            after = delivery.delivered(now)
        else:
            wait = outcome.wait(delivery, DeliveryOptions.of(webhook).retries)
            after = delivery.failed(now, wait)
        return Made(delivery, after, outcome, webhook)

    def _not_ours(self, delivery: WebhookDelivery) -> HubError:
        if self._delivery(delivery.id) is None:
            return DeliveryNotFound(delivery.id)
        return LeaseLost(delivery.id, delivery.KIND)

    def _in_trouble(self, known: Webhook, outcome: AttemptOutcome, now: datetime) -> None:
        health = self._count_failure(known, now, outcome.throttled_until(now))
        since = health.failing_since or now
        is_long = now - since >= DeliveryOptions.of(known).disabled_after
        if not (outcome.is_gone or is_long or health.failures >= FAILING_AFTER):
            return
        webhook = self._uow.webhooks.get(known.id)
        if webhook.status not in DELIVERABLE:
            return
        if outcome.is_gone or is_long:
            why = (
                "the endpoint is gone (status 410)"
                if outcome.is_gone
                else f"nothing but failures since {since:%Y-%m-%d %H:%M} UTC"
            )
            self._uow.webhooks.save(webhook.disable(why, now))
            data = {"webhook_id": str(webhook.id), "name": webhook.name, "reason": why}
            self.publish(DISABLED_EVENT, data, tenant=webhook.tenant)
        elif webhook.status != WebhookStatus.FAILING:
            words = outcome.error_message or f"status {outcome.status}"
            why = f"{health.failures} failures in a row; the last one: {words}"
            self._uow.webhooks.save(webhook.fail(why, now))

    def _well_again(self, known: Webhook) -> None:
        self._clear_health(known)
        webhook = self._uow.webhooks.get(known.id)
        if webhook.status == WebhookStatus.FAILING:
            self._uow.webhooks.save(webhook.resume(self.clock.now()))

    # --- what a store answers -----------------------------------------------------------------

    def _webhooks_of(self, tenant: str, wanted: WebhookFilter, limit: int | None) -> list[Webhook]:
        """The webhooks of one tenant that a filter wants, in the order of their creation."""
        raise AssertionError(type(self).__name__)

    def _put_message(self, message: WebhookMessage) -> WebhookMessage | None:
        """Keep it; gives the one that is there instead, if its key is taken."""
        raise AssertionError(type(self).__name__)

    def _put_deliveries(self, deliveries: list[WebhookDelivery]) -> None:
        raise AssertionError(type(self).__name__)

    def _put_attempt(self, attempt: WebhookAttempt) -> None:
        raise AssertionError(type(self).__name__)

    def _message(self, id: UUID) -> WebhookMessage | None:
        raise AssertionError(type(self).__name__)

    def _delivery(self, id: UUID) -> WebhookDelivery | None:
        raise AssertionError(type(self).__name__)

    def _deliveries_of(self, message: WebhookMessage) -> list[WebhookDelivery]:
        raise AssertionError(type(self).__name__)

    def _deliveries_to(
        self, webhook_id: UUID, statuses: list[str], limit: int
    ) -> list[WebhookDelivery]:
        raise AssertionError(type(self).__name__)

    def _attempts_of(self, delivery: WebhookDelivery) -> list[WebhookAttempt]:
        raise AssertionError(type(self).__name__)

    def _not_fanned_out(self, limit: int) -> list[WebhookMessage]:
        """Messages that are still to be brought, past those that others are at."""
        raise AssertionError(type(self).__name__)

    def _fanned_out(self, message: WebhookMessage) -> None:
        raise AssertionError(type(self).__name__)

    def _waiting(self, now: datetime, limit: int) -> list[Waiting]:
        """Endpoints that may be sent to and have something due, the longest waiting first, and by
        turns one that is troubled and one that is not: so that many of the former hide none.
        """
        raise AssertionError(type(self).__name__)

    def _take(
        self, rooms: Mapping[UUID, int], now: datetime, lease: timedelta
    ) -> list[tuple[WebhookDelivery, WebhookDelivery]]:
        """Claim so many of each webhook, past those that others hold: as they were, and are.

        The latter with their message; in the order in which they were due.
        """
        raise AssertionError(type(self).__name__)

    def _finish(
        self, after: WebhookDelivery, before: WebhookDelivery, attempt: WebhookAttempt | None
    ) -> bool:
        """Change a delivery that is still as it was, and log the attempt; whether it was."""
        raise AssertionError(type(self).__name__)

    def _finish_many(self, made: list[Made]) -> set[tuple[UUID, int]]:
        """As `_finish`, with an attempt for each; gives the `key` of those that were as before.

        One delivery may be there twice, where its lease was lost and it was claimed again.
        """
        return {
            each.key
            for each in made
            if self._finish(each.after, each.before, each.outcome.attempt(each.before))
        }

    def _open_failed(self, webhook: Webhook, since: datetime | None, now: datetime) -> int:
        raise AssertionError(type(self).__name__)

    def _health(self, webhook: Webhook) -> WebhookHealth | None:
        raise AssertionError(type(self).__name__)

    def _count_failure(
        self, webhook: Webhook, now: datetime, throttled_until: datetime | None
    ) -> WebhookHealth:
        raise AssertionError(type(self).__name__)

    def _clear_health(self, webhook: Webhook) -> None:
        raise AssertionError(type(self).__name__)

    def _forget(self, before: datetime, limit: int) -> int:
        raise AssertionError(type(self).__name__)


def _delivery(message: WebhookMessage, webhook: Webhook, now: datetime) -> WebhookDelivery:
    return WebhookDelivery(
        message_id=message.id,
        webhook_id=webhook.id,
        created_at=now,
        next_attempt_at=now,
        tenant=message.tenant,
    )


def _lost(before: WebhookDelivery) -> WebhookAttempt:
    """The log's line for an attempt whose dispatcher was not heard of again."""
    return WebhookAttempt(
        delivery_id=before.id,
        number=before.attempt_count,
        started_at=before.last_attempt_at or before.created_at,
        error_code=LEASE_LOST,
        error_message=LOST,
        tenant=before.tenant,
    )


def _endpoint(made: Made) -> UUID:
    return made.webhook.id

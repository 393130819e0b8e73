"""What the repository of messages answers: messages, their deliveries, and the attempts at them.

May import: `domain`, and its neighbours. What its answers mean is said once, in `message_life`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from integration_hub.domain.webhook_message import (
    AttemptOutcome,
    DeliveryStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookHealth,
    WebhookMessage,
)

DELIVERY_LEASE = timedelta(seconds=60)
MOST_AT_ONCE = 100
"""To so many subscribers a message goes within the transaction that publishes it; to more, the
dispatcher brings it."""
MOST_CLAIMED = 1_000
PER_HOST = 8


class MessageRepository(Protocol):
    """The messages of a tenant, their deliveries and attempts."""

    def publish(
        self,
        event: str,
        data: Any,
        *,
        idempotency_key: str | None = None,
        to: UUID | None = None,
        tenant: str | None = None,
    ) -> WebhookMessage:
        """A message to every webhook that subscribes, sent once this unit of work is committed.

        `data` is any JSON. Where the tenant has a message with this `idempotency_key`, that one
        is given, and nothing is sent again. `to` is the one webhook that is told, whatever it
        subscribes to: to try it out. `tenant` must be named in a unit of work of every tenant.
        Raises `ValidationError` for a payload of over 256 KiB, and for a webhook that rests.
        """
        ...

    def get(self, id: UUID) -> WebhookMessage:
        """Raises `MessageNotFound`."""
        ...

    def delivery(self, id: UUID) -> WebhookDelivery:
        """Raises `DeliveryNotFound`."""
        ...

    def deliveries(self, message_id: UUID) -> list[WebhookDelivery]:
        """The deliveries of a message, in the order in which they were made."""
        ...

    def of_webhook(
        self,
        webhook_id: UUID,
        limit: int = 50,
        *,
        status: str | Collection[str] | None = None,
    ) -> list[WebhookDelivery]:
        """The deliveries to a webhook, the latest first."""
        ...

    def attempts(self, delivery_id: UUID) -> list[WebhookAttempt]:
        """The log of a delivery, the first attempt first."""
        ...

    def health(self, webhook_id: UUID) -> WebhookHealth:
        """How an endpoint has done since its last success."""
        ...

    def counts(self) -> dict[DeliveryStatus, int]:
        """How many deliveries there are in each state."""
        ...

    def replay(self, delivery_id: UUID) -> WebhookDelivery:
        """Send it again, with all its retries, whatever came of it."""
        ...

    def replay_failed(self, webhook_id: UUID, since: datetime | None = None) -> int:
        """Send again what was given up, at `since` or later; gives how many it were."""
        ...

    def cancel(self, delivery_id: UUID) -> WebhookDelivery:
        """Send it no more; what is on its way may arrive. Raises `LeaseLost` if it is over."""
        ...

    def prune(self, before: datetime, *, limit: int = 1_000) -> int:
        """Forget up to `limit` messages from before a moment that are over for all webhooks."""
        ...

    # --- for dispatchers ----------------------------------------------------------------------

    def fan_out(self, *, limit: int = 10) -> int:
        """Bring messages to their many subscribers; gives how many messages it were."""
        ...

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
        """Deliveries that are due, each for this dispatcher alone until its lease runs out.

        Of a webhook, no more than its ``max_concurrency``, or one while it is failing; of a host no
        more than `per_host`; of all that have failed since their last success no more than
        `of_troubled`; and of the webhooks that this dispatcher knows to be `slow` no more than
        `of_slow`. What it is at, `busy`, counts. The webhook that has the fewest comes first.
        """
        ...

    def record(self, delivery: WebhookDelivery, outcome: AttemptOutcome) -> WebhookDelivery:
        """What came of an attempt. Raises `LeaseLost` where the delivery is another's by now."""
        ...

    def record_many(
        self, outcomes: Iterable[tuple[WebhookDelivery, AttemptOutcome]]
    ) -> list[WebhookDelivery]:
        """As `record`, for many at once; those that are another's by now are left out."""
        ...

    def release(self, delivery: WebhookDelivery) -> WebhookDelivery:
        """Give a claim back: no attempt was made."""
        ...

"""Whose turn it is: how many deliveries a claim takes of each endpoint.

May import: `domain`. An endpoint bears so much at once, and so does its host; those in trouble have
no more than their share of a dispatcher's threads; and of the rest each has its turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID
from zlib import crc32

from integration_hub.domain.errors import ValidationError
from integration_hub.domain.webhook import Webhook, WebhookStatus
from integration_hub.domain.webhook_message import (
    DeliveryOptions,
    WebhookDelivery,
    checked_delivery,
)


def host_of(webhook: Webhook) -> str:
    try:
        return urlsplit(webhook.url).hostname or ""
    except ValueError:  # it was written by hand, and its attempts will fail
        return ""


@dataclass(frozen=True, slots=True)
class Place:
    """An endpoint, and how much it bears at once."""

    id: UUID
    host: str
    most: int
    is_troubled: bool

    @classmethod
    def of(cls, webhook: Webhook, is_troubled: bool) -> Place:
        is_failing = webhook.status == WebhookStatus.FAILING
        most = 1 if is_failing else DeliveryOptions.of(webhook).max_concurrency
        return cls(webhook.id, host_of(webhook), most, is_troubled)

    @classmethod
    def at(cls, delivery: WebhookDelivery) -> Place:
        """Where a dispatcher is."""
        webhook = checked_delivery(delivery).webhook
        if webhook is None:
            raise ValidationError("busy", delivery.id, "must be deliveries that a claim gave")
        return cls.of(webhook, delivery.is_troubled)


def by_lot(places: list[Place], now: datetime) -> list[Place]:
    """Those that are troubled, among themselves, in another order each time: the longest waiting
    are those that never answer, and would have every turn. The same in every store.
    """
    stamp = now.isoformat().encode()
    troubled = [place for place in places if place.is_troubled]
    lots = iter(sorted(troubled, key=lambda place: crc32(place.id.bytes + stamp)))
    return [next(lots) if place.is_troubled else place for place in places]


def rooms_of(
    waiting: list[Place],
    limit: int,
    per_host: int,
    of_troubled: int,
    busy: Iterable[WebhookDelivery],
) -> dict[UUID, int]:
    """How many deliveries to take of each endpoint: one each in turn, so that none is starved."""
    known = {place.id: place for place in waiting}
    taken = [known.get(place.id, place) for place in map(Place.at, busy)]
    at = Counter(place.id for place in taken)
    hosts = Counter(place.host for place in taken)
    troubled = sum(place.is_troubled for place in taken)
    rooms: Counter[UUID] = Counter()
    open_to = waiting
    while open_to and rooms.total() < limit:
        still = []
        for place in open_to:
            if rooms.total() == limit:
                break
            if at[place.id] >= place.most or hosts[place.host] >= per_host:
                continue
            if place.is_troubled and troubled >= of_troubled:
                continue
            rooms[place.id] += 1
            at[place.id] += 1
            hosts[place.host] += 1
            troubled += place.is_troubled
            still.append(place)
        open_to = still
    return dict(rooms)

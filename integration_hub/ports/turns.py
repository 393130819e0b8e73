"""Whose turn it is: how many deliveries a claim takes of each endpoint.

May import: `domain`. An endpoint bears so much at once, and so does its host; those in trouble, and
those that are slow, have no more than their share of a dispatcher's threads; and all have their
turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
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


def _host_of(webhook: Webhook) -> str:
    """The name of its host; empty where its URL is none."""
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
    is_slow: bool

    @classmethod
    def of(cls, webhook: Webhook, slow: Collection[UUID], *, is_troubled: bool) -> Place:
        is_failing = webhook.status == WebhookStatus.FAILING
        most = 1 if is_failing else DeliveryOptions.of(webhook).max_concurrency
        return cls(webhook.id, _host_of(webhook), most, is_troubled, webhook.id in slow)

    @classmethod
    def at(cls, delivery: WebhookDelivery, slow: Collection[UUID]) -> Place:
        """Where a dispatcher is."""
        webhook = checked_delivery(delivery).webhook
        if webhook is None:
            raise ValidationError("busy", delivery.id, "must be deliveries that a claim gave")
        return cls.of(webhook, slow, is_troubled=delivery.is_troubled)


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
    busy: list[Place],
    limit: int,
    *,
    per_host: int,
    of_troubled: int,
    of_slow: int,
) -> dict[UUID, int]:
    """How many deliveries to take of each endpoint: who has the fewest comes first, so that none is
    starved.
    """
    known = {place.id: place for place in waiting}
    taken = [known.get(place.id, place) for place in busy]
    at = Counter(place.id for place in taken)
    hosts = Counter(place.host for place in taken)
    troubled = sum(place.is_troubled for place in taken)
    slow = sum(place.is_slow for place in taken)
    rooms: Counter[UUID] = Counter()
    open_to, turn = waiting, 0
    while open_to:
        still = []
        for place in open_to:
            if rooms.total() == limit:
                return dict(rooms)
            if at[place.id] > turn:  # it has had this one
                still.append(place)
                continue
            if at[place.id] >= place.most or hosts[place.host] >= per_host:
                continue
            if (place.is_troubled and troubled >= of_troubled) or (
                place.is_slow and slow >= of_slow
            ):
                continue
            rooms[place.id] += 1
            at[place.id] += 1
            hosts[place.host] += 1
            troubled += place.is_troubled
            slow += place.is_slow
            still.append(place)
        open_to, turn = still, turn + 1
    return dict(rooms)

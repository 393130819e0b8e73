"""Secrets and the inbox over dicts.

May import: `ports`, `domain`, and its neighbours.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from integration_hub.domain.frozen import evolved
from integration_hub.domain.webhook_secret import WebhookSecret
from integration_hub.memory.store import InboxEntry
from integration_hub.ports.secrets import InboxLife, SecretsLife

if TYPE_CHECKING:
    from integration_hub.memory.unit_of_work import MemoryUnitOfWork


class InMemorySecretRepository(SecretsLife["MemoryUnitOfWork"]):
    """Secrets over dicts."""

    def __init__(self, uow: MemoryUnitOfWork) -> None:
        self._uow = uow
        self.clock = uow.clock
        self._rows = uow.layer(WebhookSecret)

    def _all_of(self, webhook_ids: list[UUID]) -> list[WebhookSecret]:
        with self._uow.store.lock:
            found = map(self._rows.get, self._rows.ids("webhook_id", webhook_ids))
            return [secret for secret in found if secret is not None]

    def _put(self, secret: WebhookSecret) -> None:
        with self._uow.store.lock:
            self._uow.put_new(WebhookSecret, [secret])

    def _expire(self, webhook_ids: list[UUID], until: datetime) -> None:
        with self._uow.store.lock:
            for secret in self._all_of(webhook_ids):
                if secret.expires_at is None:
                    expiring = evolved(secret, expires_at=until, version=secret.version + 1)
                    self._uow.put(WebhookSecret, expiring)


class InMemoryInboxRepository(InboxLife["MemoryUnitOfWork"]):
    """The inbox over dicts."""

    def __init__(self, uow: MemoryUnitOfWork) -> None:
        self._uow = uow
        self.clock = uow.clock
        self._rows = uow.layer(InboxEntry)

    def _accept(self, key: tuple[str, str, str], now: datetime, oldest: datetime) -> bool:
        entry = InboxEntry.of(key, now)
        with self._uow.store.lock:
            found = self._rows.get(entry.id)
            if found is not None and found.received_at >= oldest:
                return False
            if found is None:
                self._uow.put_new(InboxEntry, [entry])
            else:
                self._uow.put(InboxEntry, evolved(entry, version=found.version + 1))
        return True

    def _forget(self, before: datetime, limit: int) -> int:
        with self._uow.store.lock:
            rows = [row for row in map(self._rows.get, self._rows.all_ids()) if row is not None]
            seen = [row for row in rows if self._uow.sees(row.tenant)]
            old = sorted((row.received_at, row.id) for row in seen if row.received_at < before)
            for _, id in old[:limit]:
                self._uow.discard(InboxEntry, id, is_cascade=True)
        return len(old[:limit])

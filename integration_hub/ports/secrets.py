"""What the repositories of secrets and of the inbox answer, and what they share in all stores.

May import: `domain`, and its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from integration_hub.domain.aggregate import checked_item
from integration_hub.domain.values import (
    checked_count,
    checked_duration,
    checked_name,
    checked_time,
)
from integration_hub.domain.webhook import Webhook
from integration_hub.domain.webhook_secret import (
    WebhookSecret,
    checked_secret,
    new_symmetric_secret,
)
from integration_hub.ports.clock import Clock
from integration_hub.ports.repositories import WebhookRepository

OVERLAP = timedelta(days=1)
INBOX_WINDOW = timedelta(days=7)


class SecretRepository(Protocol):
    """The secrets that messages to webhooks are signed with."""

    def of(self, webhook_id: UUID) -> list[WebhookSecret]:
        """Those valid now, the newest first; one is made where there is none."""
        ...

    def of_many(self, webhooks: Iterable[Webhook]) -> dict[UUID, list[WebhookSecret]]: ...

    def rotate(
        self,
        webhook_id: UUID,
        /,
        *,
        secret: str | None = None,
        overlap: timedelta | float = OVERLAP,
    ) -> WebhookSecret:
        """A new secret (or the one given); the former ones are valid for `overlap` more.

        Messages carry a signature by each, so that the receiver can change over in its own time.
        """
        ...


class InboxRepository(Protocol):
    """The messages that were received from others, so that each is dealt with once."""

    def accept(
        self,
        message_id: str,
        *,
        source: str = "default",
        window: timedelta | float = INBOX_WINDOW,
        tenant: str | None = None,
    ) -> bool:
        """Whether a message is new: not accepted from this source within the window.

        It is noted in this unit of work, with what it causes, or not at all.
        """
        ...

    def prune(self, before: datetime, *, limit: int = 1_000) -> int:
        """Forget up to `limit` of those accepted before a moment."""
        ...


class _Uow(Protocol):
    """What secrets and the inbox need of their unit of work."""

    @property
    def webhooks(self) -> WebhookRepository: ...
    def require_active(self) -> None: ...
    def tenant_for(self, item_tenant: str) -> str: ...


U = TypeVar("U", bound=_Uow)


class SecretsLife(Generic[U]):
    """What happens to secrets; a store answers `_valid` and keeps with `_put`."""

    clock: Clock
    _uow: U

    def of(self, webhook_id: UUID) -> list[WebhookSecret]:
        webhook = self._uow.webhooks.get(webhook_id)
        return self.of_many([webhook])[webhook.id]

    def of_many(self, webhooks: Iterable[Webhook]) -> dict[UUID, list[WebhookSecret]]:
        self._uow.require_active()
        owners = {checked_item(Webhook, webhook).id: webhook for webhook in webhooks}
        now = self.clock.now()
        found: dict[UUID, list[WebhookSecret]] = {id: [] for id in owners}
        for secret in self._all_of(list(owners)) if owners else []:
            if secret.is_valid(now):
                found[secret.webhook_id].append(secret)
        for id, secrets in found.items():
            secrets.sort(key=_age, reverse=True)
            if not secrets:
                secrets.append(self._made(owners[id], new_symmetric_secret(), now))
        return found

    def rotate(
        self,
        webhook_id: UUID,
        /,
        *,
        secret: str | None = None,
        overlap: timedelta | float = OVERLAP,
    ) -> WebhookSecret:
        chosen = new_symmetric_secret() if secret is None else checked_secret(secret)
        until = self.clock.now() + checked_duration("overlap", overlap)
        webhook = self._uow.webhooks.get(webhook_id)
        self._expire([webhook.id], until)
        return self._made(webhook, chosen, self.clock.now())

    def _made(self, webhook: Webhook, secret: str, now: datetime) -> WebhookSecret:
        made = WebhookSecret(
            webhook_id=webhook.id, secret=secret, created_at=now, tenant=webhook.tenant
        )
        self._put(made)
        return made

    def _all_of(self, webhook_ids: list[UUID]) -> list[WebhookSecret]:
        raise AssertionError(type(self).__name__)

    def _put(self, secret: WebhookSecret) -> None:
        raise AssertionError(type(self).__name__)

    def _expire(self, webhook_ids: list[UUID], until: datetime) -> None:
        """Let those that never expire do so then."""
        raise AssertionError(type(self).__name__)


class InboxLife(Generic[U]):
    """Checks, for the inbox of each store."""

    clock: Clock
    _uow: U

    def accept(
        self,
        message_id: str,
        *,
        source: str = "default",
        window: timedelta | float = INBOX_WINDOW,
        tenant: str | None = None,
    ) -> bool:
        self._uow.require_active()
        owner = self._uow.tenant_for(tenant or "")
        key = (owner, checked_name("source", source), checked_name("message_id", message_id))
        now = self.clock.now()
        return self._accept(key, now, now - checked_duration("window", window))

    def prune(self, before: datetime, *, limit: int = 1_000) -> int:
        self._uow.require_active()
        checked_count("limit", limit, least=1)
        return self._forget(checked_time("before", before), limit)

    def _accept(self, key: tuple[str, str, str], now: datetime, oldest: datetime) -> bool:
        raise AssertionError(type(self).__name__)

    def _forget(self, before: datetime, limit: int) -> int:
        raise AssertionError(type(self).__name__)


def _age(secret: WebhookSecret) -> tuple[datetime, UUID]:
    return secret.created_at, secret.id

"""Delivering messages to webhooks: signatures, safe addresses, the dispatcher.

May import: `ports`, `domain`, `http`, `workforce`.
"""

from integration_hub.delivery.dispatcher import WebhookDispatcher
from integration_hub.delivery.guard import AddressGuard
from integration_hub.delivery.signing import new_secret, public_key, sign, verify

__all__ = ["AddressGuard", "WebhookDispatcher", "new_secret", "public_key", "sign", "verify"]

"""The secrets that messages to a webhook are signed with.

May import: `errors`, `values`. They are kept apart from the webhook, so that no list of webhooks
brings them along, and are in no `repr`.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Final
from uuid import UUID

from integration_hub.domain.errors import NotFoundKind, ValidationError, WebhookNotFound
from integration_hub.domain.values import new_id

SYMMETRIC: Final = "whsec_"
PRIVATE_KEY: Final = "whsk_"
PUBLIC_KEY: Final = "whpk_"
#: How many bytes each kind has. Source: Standard Webhooks, "Signature scheme"; a private key is
#: ed25519's seed, with or without the public key behind it.
_LENGTHS = {SYMMETRIC: range(24, 65), PRIVATE_KEY: (32, 64), PUBLIC_KEY: (32,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSecret:
    """A secret of a webhook, valid until it expires; the newest one never does."""

    KIND: ClassVar[str] = "webhook secret"
    NOT_FOUND: ClassVar[NotFoundKind] = WebhookNotFound

    webhook_id: UUID
    secret: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    id: UUID = field(default_factory=new_id)
    tenant: str = ""
    version: int = 1

    def is_valid(self, now: datetime) -> bool:
        return self.expires_at is None or now < self.expires_at


def new_symmetric_secret() -> str:
    """Thirty-two random bytes, as ``whsec_…``."""
    return SYMMETRIC + base64.b64encode(secrets.token_bytes(32)).decode()


def secret_bytes(secret: str, prefix: str) -> bytes:
    """The bytes of a secret of this kind. Raises `ValidationError`, without repeating it."""
    kind = f"must be {prefix} and base64 of {_lengths(prefix)} bytes"
    if not isinstance(secret, str) or not secret.startswith(prefix):
        raise ValidationError("secret", "<not shown>", kind)
    try:
        encoded = secret.removeprefix(prefix)
        found = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValidationError("secret", "<not shown>", kind) from None
    if len(found) not in _LENGTHS[prefix]:
        raise ValidationError("secret", "<not shown>", kind)
    return found


def checked_secret(secret: str) -> str:
    """A secret to sign with: ``whsec_…`` or ``whsk_…``."""
    is_private = isinstance(secret, str) and secret.startswith(PRIVATE_KEY)
    secret_bytes(secret, PRIVATE_KEY if is_private else SYMMETRIC)
    return secret


def _lengths(prefix: str) -> str:
    allowed = _LENGTHS[prefix]
    return " or ".join(map(str, allowed)) if isinstance(allowed, tuple) else "24 to 64"

"""Signatures of webhooks, and their verification, by the Standard Webhooks specification.

May import: `domain`, cryptography. Source: github.com/standard-webhooks/standard-webhooks, spec.
What is signed is ``{id}.{timestamp}.{body}``, with HMAC-SHA256 (``v1``, a secret ``whsec_…`` that
both sides have) or ed25519 (``v1a``, a private key ``whsk_…``, whose public key ``whpk_…`` the
receiver has).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from integration_hub.domain.errors import SignatureError, ValidationError
from integration_hub.domain.values import checked_duration, checked_time
from integration_hub.domain.webhook_secret import (
    PRIVATE_KEY,
    PUBLIC_KEY,
    SYMMETRIC,
    checked_secret,
    new_symmetric_secret,
    secret_bytes,
)

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
TOLERANCE = timedelta(minutes=5)
_SECONDS = re.compile("[0-9]{1,12}")  # since 1970


class Headers(Protocol):
    """The headers of a request: a mapping, or what Flask, Django and others have in its place."""

    def items(self) -> Iterable[tuple[str, str]]: ...


def new_secret(version: str = "v1") -> str:
    """A new secret: ``whsec_…`` for ``v1``, a private key ``whsk_…`` for ``v1a``."""
    if version == "v1":
        return new_symmetric_secret()
    if version != "v1a":
        raise ValidationError("version", version, "must be v1 or v1a")
    key = Ed25519PrivateKey.generate()
    both = key.private_bytes_raw() + key.public_key().public_bytes_raw()
    return PRIVATE_KEY + base64.b64encode(both).decode()


def public_key(secret: str) -> str:
    """The public key ``whpk_…`` of a private key ``whsk_…``: what a receiver verifies with."""
    key = _private_key(secret)
    return PUBLIC_KEY + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def sign(secret: str, id: str, timestamp: datetime | int, body: bytes | str) -> str:
    """The signature of a message, ``v1,…`` or ``v1a,…``, as the secret is of one kind or the other.

    `timestamp` is that of the attempt: a moment, or whole seconds since 1970. Raises
    `ValidationError` for a secret that is none; it is not repeated in the message.
    """
    content = _content(id, _seconds(timestamp), body)
    if checked_secret(secret).startswith(PRIVATE_KEY):
        return _encoded("v1a", _private_key(secret).sign(content))
    return _encoded("v1", hmac.digest(_key(secret), content, hashlib.sha256))


def signed_headers(
    secrets: Iterable[str], id: str, timestamp: datetime | int, body: bytes
) -> dict[str, str]:
    """The three headers of a message, with a signature by each secret that is valid."""
    signatures = [sign(secret, id, timestamp, body) for secret in secrets]
    return {ID: id, TIMESTAMP: str(_seconds(timestamp)), SIGNATURE: " ".join(signatures)}


def verify(
    secret: str | Iterable[str],
    headers: Headers,
    body: bytes | str,
    *,
    tolerance: timedelta | float = TOLERANCE,
    now: datetime | None = None,
) -> str:
    """The id of the message, if one of its signatures is by the secret, and made just now.

    `headers` are as a framework gives them; `secret` is ``whsec_…`` or a public key ``whpk_…`` (or
    several, while one is replaced); `body` is what was received, byte for byte. The id stays the
    same when a message is sent again: see `uow.inbox.accept`. Raises `SignatureError`,
    which doesn't say what would have been right.
    """
    found = {str(name).lower(): value for name, value in headers.items()}
    for name in (ID, TIMESTAMP, SIGNATURE):
        if not found.get(name):
            raise SignatureError(f"the header {name} is missing")
    if "." in found[ID]:
        raise SignatureError(f"the header {ID} is no id of a message")
    if not _SECONDS.fullmatch(found[TIMESTAMP]):
        raise SignatureError(f"the header {TIMESTAMP} is no number of seconds")
    seconds = int(found[TIMESTAMP])
    limit = checked_duration("tolerance", tolerance).total_seconds()
    age = (datetime.now(UTC) if now is None else now).timestamp() - seconds
    if abs(age) > limit:
        when = "too old" if age > 0 else "of the future"
        raise SignatureError(
            f"the message is {when}: {abs(age):.0f} s, and {limit:.0f} s are allowed"
        )
    content = _content(found[ID], seconds, body)
    secrets = [secret] if isinstance(secret, str) else list(secret or ())
    if not secrets:
        raise ValidationError("secret", "none", "must be a secret, or several")
    # Each is tried, so that the time that it takes doesn't tell which one was right.
    matches = [_matches(each, content, found[SIGNATURE].split(" ")) for each in secrets]
    if True not in matches:
        raise SignatureError("no signature is by this secret")
    return found[ID]


def _matches(secret: str, content: bytes, signatures: list[str]) -> bool:
    if secret.startswith((PUBLIC_KEY, PRIVATE_KEY)):
        key = _public_key(secret)
        return True in [_is_signed(key, content, each) for each in signatures]
    expected = _encoded("v1", hmac.digest(_key(secret), content, hashlib.sha256)).encode()
    return True in [hmac.compare_digest(expected, _bytes(each)) for each in signatures]


def _is_signed(key: Ed25519PublicKey, content: bytes, signature: str) -> bool:
    version, _, encoded = signature.partition(",")
    if version != "v1a":
        return False
    try:
        key.verify(base64.b64decode(encoded, validate=True), content)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _content(id: str, seconds: int, body: bytes | str) -> bytes:
    if not isinstance(id, str) or not id or "." in id:
        raise ValidationError("id", id, "must be an id without a full stop")
    if not isinstance(body, bytes | bytearray | memoryview | str):
        problem = "must be the bytes that are sent, or were received, and not what they mean"
        raise ValidationError("body", type(body).__name__, problem)
    return _bytes(f"{id}.{seconds}.") + (_bytes(body) if isinstance(body, str) else body)


def _bytes(text: str) -> bytes:
    """Other texts are other bytes, those that a sender has broken too."""
    return text.encode(errors="surrogatepass")


def _seconds(timestamp: datetime | int) -> int:
    if isinstance(timestamp, datetime):
        return int(checked_time("timestamp", timestamp).timestamp())
    if not isinstance(timestamp, int | float) or isinstance(timestamp, bool):
        problem = "must be a moment, or seconds since 1970"
        raise ValidationError("timestamp", type(timestamp).__name__, problem)
    return int(timestamp)


def _encoded(version: str, signature: bytes) -> str:
    return f"{version},{base64.b64encode(signature).decode()}"


def _key(secret: str) -> bytes:
    return secret_bytes(secret, SYMMETRIC)


def _private_key(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(secret_bytes(secret, PRIVATE_KEY)[:32])


def _public_key(secret: str) -> Ed25519PublicKey:
    if secret.startswith(PRIVATE_KEY):
        return _private_key(secret).public_key()
    return Ed25519PublicKey.from_public_bytes(secret_bytes(secret, PUBLIC_KEY))

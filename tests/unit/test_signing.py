"""Signatures: the specification's own vector, another package's, and what must be refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Other

from integration_hub import SignatureError, ValidationError
from integration_hub.delivery.signing import (
    new_secret,
    public_key,
    sign,
    signed_headers,
    verify,
)

# Source: github.com/standard-webhooks/standard-webhooks, libraries, the tests of each.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = 1_614_265_330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
THEN = datetime.fromtimestamp(AT, UTC)


def headers(**changes: str) -> dict[str, str]:
    return {
        "webhook-id": ID,
        "webhook-timestamp": str(AT),
        "webhook-signature": SIGNATURE,
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }


def test_the_vector_of_the_specification() -> None:
    assert sign(SECRET, ID, AT, BODY) == SIGNATURE
    assert sign(SECRET, ID, THEN, BODY.decode()) == SIGNATURE
    assert verify(SECRET, headers(), BODY, now=THEN) == ID


@given(body=st.binary(max_size=200), id=st.from_regex(r"msg_[a-zA-Z0-9]{1,20}", fullmatch=True))
def test_another_package_verifies_what_we_sign_and_we_what_it_signs(body: bytes, id: str) -> None:
    text = json.dumps(base64.b64encode(body).decode())
    now = datetime.now(UTC)
    secret = new_secret()
    Other(secret).verify(text, signed_headers([secret], id, now, text.encode()))
    theirs = {
        "Webhook-Id": id,
        "Webhook-Timestamp": str(int(now.timestamp())),
        "Webhook-Signature": Other(secret).sign(id, now, text),
    }
    assert verify(secret, theirs, text) == id


def test_a_private_key_signs_and_its_public_key_verifies() -> None:
    secret = new_secret("v1a")
    known = public_key(secret)
    assert known.startswith("whpk_")
    found = signed_headers([secret], ID, AT, BODY)
    assert found["webhook-signature"].startswith("v1a,")
    for key in (known, secret):
        assert verify(key, found, BODY, now=THEN) == ID
    with pytest.raises(SignatureError):
        verify(public_key(new_secret("v1a")), found, BODY, now=THEN)
    with pytest.raises(SignatureError):
        verify(known, headers(webhook_signature="v1a,no base64"), BODY, now=THEN)
    with pytest.raises(SignatureError):
        verify(known, headers(), BODY, now=THEN)  # signed the other way
    seed = base64.b64encode(base64.b64decode(secret.removeprefix("whsk_"))[:32]).decode()
    assert sign(f"whsk_{seed}", ID, AT, BODY) == sign(secret, ID, AT, BODY)


def test_the_vector_of_ed25519() -> None:
    """Source: RFC 8032, 7.1, test 2: the key; the signature is deterministic."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    known = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    secret = f"whsk_{base64.b64encode(seed).decode()}"
    assert public_key(secret) == f"whpk_{base64.b64encode(known).decode()}"


def test_while_a_secret_is_replaced_both_are_good() -> None:
    old, new = new_secret(), new_secret()
    found = signed_headers([new, old], ID, AT, BODY)
    assert len(found["webhook-signature"].split()) == 2
    assert verify(old, found, BODY, now=THEN) == verify(new, found, BODY, now=THEN) == ID
    only_old = signed_headers([old], ID, AT, BODY)
    assert verify([new, old], only_old, BODY, now=THEN) == ID


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"webhook_id": ""}, "webhook-id is missing"),
        ({"webhook_timestamp": ""}, "webhook-timestamp is missing"),
        ({"webhook_signature": ""}, "webhook-signature is missing"),
        ({"webhook_id": "msg.another"}, "no id of a message"),
        ({"webhook_id": "msg\ud800"}, "no signature"),
        ({"webhook_timestamp": "soon"}, "no number of seconds"),
        ({"webhook_timestamp": "-1"}, "no number of seconds"),
        ({"webhook_timestamp": "1e3"}, "no number of seconds"),
        ({"webhook_timestamp": "²"}, "no number of seconds"),
        ({"webhook_timestamp": "9" * 13}, "no number of seconds"),
        ({"webhook_timestamp": "9" * 400}, "no number of seconds"),
        ({"webhook_timestamp": "9" * 12}, "of the future"),
        ({"webhook_timestamp": "1"}, "too old"),
        ({"webhook_signature": "v1,\ud800"}, "no signature"),
        ({"webhook_signature": "v1a,\ud800"}, "no signature"),
        ({"webhook_signature": "v1,AAAA"}, "no signature"),
        ({"webhook_signature": "nothing"}, "no signature"),
        ({"webhook_signature": SIGNATURE.replace("v1,", "v2,")}, "no signature"),
        ({"webhook_id": "msg_another"}, "no signature"),
        ({"webhook_timestamp": str(AT + 1)}, "no signature"),
    ],
)
def test_what_is_wrong_is_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(SignatureError) as refused:
        verify(SECRET, headers(**changes), BODY, now=THEN)
    assert words in refused.value.message
    assert SIGNATURE.removeprefix("v1,") not in refused.value.message


@given(
    id=st.text(), timestamp=st.text() | st.integers().map(str), signature=st.text(), body=st.text()
)
def test_whatever_comes_is_refused_in_one_way(
    id: str, timestamp: str, signature: str, body: str
) -> None:
    found = {"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature}
    for secret in (SECRET, public_key(new_secret("v1a"))):
        with pytest.raises(SignatureError):
            verify(secret, found, body, now=THEN, tolerance=timedelta(36_525))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("secret", {"secret": None}),
        ("id", {"id": None}),
        ("id", {"id": 7}),
        ("id", {"id": ""}),
        ("body", {"body": {"test": 1}}),
        ("timestamp", {"timestamp": "noon"}),
        ("timestamp", {"timestamp": None}),
        ("timestamp", {"timestamp": True}),
        ("timestamp", {"timestamp": THEN.replace(tzinfo=None)}),
    ],
)
def test_what_can_t_be_signed_is_named(field: str, changes: dict[str, Any]) -> None:
    given = {"secret": SECRET, "id": "msg_1", "timestamp": THEN, "body": BODY, **changes}
    with pytest.raises(ValidationError) as refused:
        sign(**given)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "changes"), [("secret", {"secret": None}), ("body", {"body": {"test": 1}})]
)
def test_what_can_t_be_verified_is_named(field: str, changes: dict[str, Any]) -> None:
    """The receiver's own mistakes: a secret that is not there, a body that is no longer bytes."""
    given = {"secret": SECRET, "body": BODY, **changes}
    with pytest.raises(ValidationError) as refused:
        verify(headers=headers(), now=THEN, **given)
    assert refused.value.field == field


def test_a_body_that_was_changed_is_refused() -> None:
    with pytest.raises(SignatureError):
        verify(SECRET, headers(), BODY + b" ", now=THEN)


@pytest.mark.parametrize(
    ("seconds", "is_good"), [(300, True), (-300, True), (301, False), (-301, False)]
)
def test_a_message_is_good_for_five_minutes(seconds: int, is_good: bool) -> None:
    now = THEN + timedelta(seconds=seconds)
    if is_good:
        assert verify(SECRET, headers(), BODY, now=now) == ID
    else:
        with pytest.raises(SignatureError):
            verify(SECRET, headers(), BODY, now=now)
    assert verify(SECRET, headers(), BODY, now=now, tolerance=3_600) == ID


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_c2hvcnQ=", "whsec_no base64", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
)
def test_a_secret_that_is_none_is_refused_without_being_repeated(secret: str) -> None:
    acts: tuple[Callable[[], object], ...] = (
        lambda: sign(secret, ID, AT, BODY),
        lambda: verify(secret, headers(), BODY, now=THEN),
    )
    for act in acts:
        with pytest.raises(ValidationError) as refused:
            act()
        assert refused.value.field == "secret"
        rest = secret.removeprefix("whsec_")
        assert not rest or rest not in refused.value.message


def test_a_secret_without_its_padding_is_taken() -> None:
    secret = "whsec_" + base64.b64encode(bytes(range(25))).decode()
    assert sign(secret.rstrip("="), ID, AT, BODY) == sign(secret, ID, AT, BODY)


def test_ids_kinds_and_lists_are_checked() -> None:
    with pytest.raises(ValidationError):
        sign(SECRET, "msg.with.stops", AT, BODY)
    with pytest.raises(ValidationError):
        new_secret("v2")
    with pytest.raises(ValidationError):
        verify([], headers(), BODY, now=THEN)
    with pytest.raises(ValidationError):
        public_key(SECRET)

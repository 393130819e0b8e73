"""Tokens of an authorization server: what it is asked, and what becomes of its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import pytest

from integration_hub import Err, HttpClient, HttpRequest, OAuth2ClientCredentials, StatusError
from integration_hub.http import OAuth2Auth, OAuth2RefreshToken
from integration_hub.testing import ScriptedTransport

LOGIN = "https://login.test/token"


def form_of(request: HttpRequest) -> dict[str, str]:
    assert isinstance(request.body, bytes)
    return {name: value for name, (value,) in parse_qs(request.body.decode()).items()}


class System:
    """A client of a system, its authorization server, and what passes."""

    def __init__(self) -> None:
        self.logins = ScriptedTransport()
        self.api = ScriptedTransport(self.logins.clock).reply(times=None)

    def client(self, auth: OAuth2Auth) -> HttpClient:
        return HttpClient("https://crm.test", auth=auth, transport=self.api)

    def by(self) -> HttpClient:
        return HttpClient(transport=self.logins)

    def token(self, number: int, **more: Any) -> None:
        self.logins.reply(json={"access_token": f"t{number}", "expires_in": 100, **more})

    def call(self, client: HttpClient) -> str | None:
        """Once each hundred seconds; gives what it was authorized by."""
        self.logins.clock.advance(100)
        client.get("x").unwrap()
        return self.api.requests[-1].headers.get("Authorization")

    @property
    def asked(self) -> list[dict[str, str]]:
        return [form_of(each) for each in self.logins.requests]


@pytest.fixture
def system() -> System:
    return System()


def test_a_server_is_told_what_it_wants_besides(system: System) -> None:
    system.token(1)
    auth = OAuth2ClientCredentials(
        LOGIN,
        "id",
        "s3",
        scope="read write",
        parameters={"audience": "https://crm.test"},
        client=system.by(),
    )
    assert system.call(system.client(auth)) == "Bearer t1"
    grant = {"grant_type": "client_credentials", "scope": "read write"}
    assert system.asked == [{**grant, "audience": "https://crm.test"}]
    assert system.logins.requests[0].headers["Authorization"] == "Basic aWQ6czM="


def test_the_credentials_of_a_client_may_be_in_the_form(system: System) -> None:
    system.token(1)
    method: Any = "client_secret_post"
    auth = OAuth2ClientCredentials(LOGIN, "id", "s3", auth_method=method, client=system.by())
    system.call(system.client(auth))
    own = {"client_id": "id", "client_secret": "s3"}
    assert system.asked == [{"grant_type": "client_credentials", **own}]
    assert "Authorization" not in system.logins.requests[0].headers


@pytest.mark.parametrize("secret", ["s3", None])
def test_a_refresh_token_is_used_as_long_as_the_server_gives_no_other(
    system: System, secret: str | None
) -> None:
    system.token(1)
    system.token(2, refresh_token="r1")
    system.token(3, refresh_token=None)
    stored: list[str] = []
    auth = OAuth2RefreshToken(LOGIN, "id", secret, "r1", rotated=stored.append, client=system.by())
    client = system.client(auth)
    assert [system.call(client) for _ in range(3)] == ["Bearer t1", "Bearer t2", "Bearer t3"]
    own = {} if secret else {"client_id": "id"}
    assert system.asked == [{"grant_type": "refresh_token", "refresh_token": "r1", **own}] * 3
    assert stored == []


def test_a_refresh_token_that_replaces_another_is_stored_and_used(system: System) -> None:
    for number in (1, 2, 3):
        system.token(number, refresh_token=f"r{number}")
    stored: list[str] = []
    auth = OAuth2RefreshToken(LOGIN, "id", "s3", "r0", rotated=stored.append, client=system.by())
    client = system.client(auth)
    for _ in range(3):
        system.call(client)
    assert [each["refresh_token"] for each in system.asked] == ["r0", "r1", "r2"]
    assert stored == ["r1", "r2", "r3"]


def test_nothing_is_lost_where_it_could_not_be_stored(system: System) -> None:
    system.token(1, refresh_token="r1")
    system.token(2)

    def rotated(token: str) -> None:
        raise OSError("the vault is shut")

    auth = OAuth2RefreshToken(LOGIN, "id", "s3", lambda: "r0", rotated=rotated, client=system.by())
    client = system.client(auth)
    with pytest.raises(OSError, match="shut"):
        system.call(client)
    assert client.get("x").is_ok
    assert system.api.requests[-1].headers["Authorization"] == "Bearer t1"
    assert system.call(client) == "Bearer t2"
    assert [each["refresh_token"] for each in system.asked] == ["r0", "r1"]


def test_processes_that_share_a_refresh_token_use_what_another_has_stored(system: System) -> None:
    vault = {"token": "r0"}

    def process() -> HttpClient:
        auth = OAuth2RefreshToken(
            LOGIN,
            "id",
            "s3",
            lambda: vault["token"],
            rotated=lambda token: vault.update(token=token),
            client=system.by(),
        )
        return system.client(auth)

    one, other = process(), process()
    system.token(1, refresh_token="r1")
    assert system.call(one) == "Bearer t1"
    system.token(2, refresh_token="r2")
    assert system.call(other) == "Bearer t2"
    # Somebody else is quicker: between the look-up and the request.
    system.logins.reply(400, json={"error": "invalid_grant"})
    system.token(3, refresh_token="r4")
    quicker = iter(["r2", "r3", "r3"])
    late = OAuth2RefreshToken(LOGIN, "id", "s3", lambda: next(quicker), client=system.by())
    assert system.call(system.client(late)) == "Bearer t3"
    used = [each["refresh_token"] for each in system.asked]
    assert used == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize("status", [400, 401])
def test_a_refresh_token_that_is_refused_is_the_outcome(system: System, status: int) -> None:
    system.logins.reply(status, json={"error": "invalid_grant"})
    auth = OAuth2RefreshToken(LOGIN, "id", "s3", "s3cr3t-r0", client=system.by())
    outcome = system.client(auth).get("x")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert outcome.error.status == status
    assert "s3cr3t-r0" not in outcome.error.message
    assert (system.api.requests, system.logins.left) == ([], 0)


def test_a_server_that_can_t_be_reached_is_not_asked_again_for_another_token(
    system: System,
) -> None:
    system.logins.fail(times=3)  # as often as a client tries
    looked_up = iter(["r0", "r1", "r1"])
    auth = OAuth2RefreshToken(LOGIN, "id", "s3", lambda: next(looked_up), client=system.by())
    assert isinstance(system.client(auth).get("x"), Err)
    assert {each["refresh_token"] for each in system.asked} == {"r0"}
    assert system.logins.left == 0


class Assertion(OAuth2Auth):
    """A grant of a service's own (RFC 7523, 2.1)."""

    def grant(self) -> Mapping[str, str]:
        return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "a.b.c"}


def test_another_grant_is_a_subclass(system: System) -> None:
    system.token(1)
    system.token(2)
    client = system.client(Assertion(LOGIN, client=system.by()))
    assert [system.call(client) for _ in range(2)] == ["Bearer t1", "Bearer t2"]
    assert system.asked == [Assertion(LOGIN).grant()] * 2
    assert "Authorization" not in system.logins.requests[0].headers

"""Which addresses are connected to: a table, spellings, and a name that changes its mind."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from integration_hub import (
    BlockedAddress,
    Err,
    HttpClient,
    Hub,
    Integration,
    RetryPolicy,
    ValidationError,
)
from integration_hub.delivery.guard import AddressGuard
from integration_hub.http.sockets import Addresses

REFUSED = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200"),
    *("100.127.255.255", "127.0.0.1", "127.8.8.8", "169.254.0.1", "169.254.169.254"),
    *("169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255"),
    *("198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "168.63.129.16"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1"),
    *("::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
    *("100::1", "2001::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1"),
    *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fdff::1", "fe80::1", "fe80::1%eth0"),
    *("febf::1", "fec0::1", "ff02::1", "ff0e::1", "4000::1", "abcd::1"),
]
ALLOWED = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.0", "172.15.255.255"),
    *("172.32.0.0", "192.0.1.1", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0"),
    *("203.0.112.255", "203.0.114.0", "223.255.255.255", "2001:4860:4860::8888"),
    *("2606:4700:4700::1111", "2a00:1450::1", "64:ff9b::808:808"),
]


def test_the_table_is_long_enough() -> None:
    assert len(REFUSED) + len(ALLOWED) >= 60


@pytest.mark.parametrize("address", REFUSED)
def test_refused(address: str) -> None:
    assert AddressGuard().why_blocked(address)


@pytest.mark.parametrize("address", ALLOWED)
def test_allowed(address: str) -> None:
    assert AddressGuard().why_blocked(address) is None


def test_networks_are_allowed_by_name() -> None:
    guard = AddressGuard(["10.20.0.0/16", "fd00:1::/32", "127.0.0.1"])
    assert guard.why_blocked("10.20.3.4") is None
    assert guard.why_blocked("fd00:1::5") is None
    assert guard.why_blocked("127.0.0.1") is None
    assert guard.why_blocked("10.21.0.1") == "private"
    assert guard.why_blocked("127.0.0.2") == "loopback"
    assert AddressGuard("10.20.0.0/16").why_blocked("10.20.3.4") is None
    for wrong in ("10.20.0.1/16", "inside", ""):
        with pytest.raises(ValidationError):
            AddressGuard([wrong])


def refused(outcome: Any) -> Any:
    assert isinstance(outcome, Err)
    return outcome.error


def guarded(*allowed: str) -> HttpClient:
    return HttpClient(guard=AddressGuard(allowed), retry=RetryPolicy(attempts=1))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "localhost"),
        *("[::1]", "[::ffff:127.0.0.1]", "0", "LOCALHOST."),
    ],
)
def test_however_it_is_spelled_the_server_hears_nothing(httpserver: HTTPServer, host: str) -> None:
    with guarded() as client:
        outcome = client.post(f"http://{host}:{httpserver.port}/", content=b"x")
    assert isinstance(outcome, Err)
    # Some resolvers don't know the spelling; then there is nothing to block.
    is_unknown = "resolved" in outcome.error.message
    assert isinstance(outcome.error, BlockedAddress) or is_unknown
    assert httpserver.log == []


def test_the_error_names_the_address_and_the_way_out(httpserver: HTTPServer) -> None:
    with guarded() as client:
        error = refused(client.get(f"http://127.0.0.1:{httpserver.port}/?token=s3cr3t"))
    assert isinstance(error, BlockedAddress)
    assert (error.code, error.address, error.why) == ("blocked_address", "127.0.0.1", "loopback")
    assert "allow its network" in error.message
    assert "s3cr3t" not in error.message


def test_a_stored_integration_leads_nowhere_that_its_hub_does_not_let_it(
    httpserver: HTTPServer,
) -> None:
    config = {"http": {"base_url": f"http://127.0.0.1:{httpserver.port}/"}}
    crm = Integration(name="crm", type="crm", config=config)
    with Hub.in_memory(client_options=lambda _: {"guard": AddressGuard()}) as hub:
        assert isinstance(refused(hub.http(crm).get("contacts")), BlockedAddress)
    assert httpserver.log == []


@pytest.mark.parametrize("wrong", [AddressGuard, "127.0.0.1"])
def test_a_guard_is_an_object(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"guard must be such as AddressGuard\(\)"):
        HttpClient(guard=wrong)


def test_what_is_allowed_is_reached(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_data("ok")
    with guarded("127.0.0.0/8") as client:
        assert client.get(f"http://127.0.0.1:{httpserver.port}/").unwrap().text == "ok"


def test_names_of_metadata_services_are_refused_wherever_they_lead() -> None:
    guard = AddressGuard()
    assert guard.why_blocked("8.8.8.8", "metadata.google.internal") is not None
    assert guard.why_blocked("8.8.8.8", "Metadata.Google.Internal.") is not None
    assert guard.why_blocked("8.8.8.8", "hooks.example.com") is None


def test_a_name_that_changes_its_answer_is_asked_once(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebinding: a harmless address for the check, and another for the connection."""
    httpserver.expect_request("/").respond_with_data("ok")
    asked: list[str] = []
    real = socket.getaddrinfo

    def lies(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        answer = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return real(answer, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lies)
    with guarded("127.0.0.1") as client:  # the second answer is not allowed
        url = f"http://rebound.example:{httpserver.port}/"
        assert client.get(url).unwrap().text == "ok"
    assert asked == ["rebound.example"]
    asked.clear()
    with guarded("127.0.0.2") as client:
        error = refused(client.get(url))
    assert isinstance(error, BlockedAddress)
    assert asked == ["rebound.example"]


def test_of_several_addresses_only_those_allowed_are_connected_to(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/").respond_with_data("ok")
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    both = [(*kind, (each, httpserver.port)) for each in ("10.0.0.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with guarded("127.0.0.1") as client:
        assert client.get(f"http://two.example:{httpserver.port}/").unwrap().text == "ok"


@pytest.mark.parametrize(
    ("addresses", "named"), [(["10.0.0.1", "127.0.0.1"], "10.0.0.1"), ([], None)]
)
def test_of_several_addresses_the_first_is_named_and_of_none_that_it_has_none(
    addresses: list[str], named: str | None
) -> None:
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found: Addresses = [(*kind, (each, 443)) for each in addresses]
    with pytest.raises(BlockedAddress) as blocked:
        AddressGuard()("two.example", found, method="POST", url="https://two.example/")
    assert (blocked.value.address, blocked.value.why) == (
        named,
        "private" if named else "it has none",
    )


def test_redirects_are_checked_as_well(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_data(
        "", status=302, headers={"Location": f"http://127.0.0.2:{httpserver.port}/inside"}
    )
    with guarded("127.0.0.1") as client:
        error = refused(client.get(f"http://127.0.0.1:{httpserver.port}/"))
    assert isinstance(error, BlockedAddress)
    assert error.address == "127.0.0.2"

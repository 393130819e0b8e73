"""By a proxy: http as it is, https by a tunnel; what goes wrong there, and what is told of it."""

from __future__ import annotations

import socket
import ssl
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr
from urllib3.util import parse_url

from integration_hub import (
    BlockedAddress,
    ConnectionFailed,
    Err,
    HttpClient,
    HttpError,
    Hub,
    HubSettings,
    Integration,
    Limits,
    RetryPolicy,
    TimedOut,
    ValidationError,
    Webhook,
    WebhookDispatcher,
)
from integration_hub.delivery.guard import AddressGuard
from integration_hub.http import Backoff, OAuth2ClientCredentials, Proxies, Timeout, Tls
from integration_hub.http.sockets import _authority
from integration_hub.http.transport import UrllibTransport, needs_no_proxy
from raw_server import Behave, Peer, Serve, answer, tunnels

ONCE = RetryPolicy(attempts=1)


@pytest.fixture(params=["http", "https"])
def proxy_tls(request: pytest.FixtureRequest, tls: ssl.SSLContext) -> ssl.SSLContext | None:
    """How proxies are spoken to."""
    return tls if request.param == "https" else None


def refusal(outcome: Any) -> HttpError:
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, HttpError)
    return outcome.error


def test_https_goes_through_a_tunnel_that_is_kept(
    serve: Serve, tls: ssl.SSLContext, proxy_tls: ssl.SSLContext | None, authority_file: str
) -> None:
    server = serve(lambda peer: peer.send(answer(b'"there"')), tls)
    proxy = serve(tunnels, proxy_tls)
    url = proxy.url.replace("://", "://user:s3cr3t@")
    with HttpClient(server.url, tls=Tls(ca=authority_file), proxies=Proxies(https=url)) as client:
        for _ in range(3):
            assert client.post("x", json=1, into=str).unwrap().value == "there"
        assert (proxy.connections, server.connections) == (1, 1)
    (asked,) = proxy.requests
    assert asked.startswith(f"CONNECT localhost:{server.port} ".encode())
    assert b"Basic dXNlcjpzM2NyM3Q=" in asked
    assert all(b"Basic" not in request for request in server.requests)
    assert server.is_left()
    assert proxy.is_left()


def test_http_is_forwarded(
    serve: Serve, proxy_tls: ssl.SSLContext | None, authority_file: str
) -> None:
    proxy = serve(lambda peer: peer.send(answer(b'"by proxy"')), proxy_tls)
    url = proxy.url.replace("://", "://user:s3cr3t@")
    proxies, trusted = Proxies(http=url), Tls(ca=authority_file)
    client = HttpClient("http://crm.test/v1", proxies=proxies, tls=trusted)
    assert client.get("x?y=1", into=str).unwrap().value == "by proxy"
    (request,) = proxy.requests
    assert request.startswith(b"GET http://crm.test/v1/x?y=1 HTTP/1.1\r\nHost: crm.test\r\n")
    assert b"Basic dXNlcjpzM2NyM3Q=" in request
    assert "s3cr3t" not in repr(proxies)


def test_hosts_that_need_no_proxy_are_reached_directly(serve: Serve) -> None:
    proxy = serve(lambda peer: peer.send(answer(b'"by proxy"')))
    server = serve(lambda peer: peer.send(answer(b'"directly"')))
    around = HttpClient(server.url, proxies=Proxies(http=proxy.url, no_proxy=["127.0.0.1"]))
    assert around.get("x", into=str).unwrap().value == "directly"
    bare = Proxies(http=proxy.url.removeprefix("http://"))  # as curl takes it, too
    by_proxy = HttpClient("http://crm.test/v1", proxies=bare)
    assert by_proxy.get("x", into=str).unwrap().value == "by proxy"


# --- proxies that fail ------------------------------------------------------------------------


def says(data: bytes) -> Behave:
    return lambda peer: peer.send(data)


def opens_and(then: Callable[[Peer], None]) -> Behave:
    def behave(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        then(peer)

    return behave


def drips(peer: Peer) -> None:
    peer.drip(b"HTTP/1.1 200 OK\r\n" + b"X: yyyyyyyyyyyy\r\n" * 1_000)


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        (says(b"HTTP/1.1 407 Log in\r\n\r\n"), "its proxy refused to connect to it (407)"),
        (says(b"HTTP/1.1 502 Who?\r\n\r\n"), "its proxy refused to connect to it (502)"),
        (says(b"What?\r\n\r\n"), "BadStatusLine"),
        (says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 99_999), "LineTooLong"),
        (Peer.reset, ""),
        (opens_and(Peer.reset), ""),
        (Peer.hang, "no answer within 0.5 s (total)"),
        (drips, "no answer within 0.5 s (total)"),
        (opens_and(Peer.hang), "no answer within 0.5 s (total)"),
    ],
)
def test_a_tunnel_that_can_t_be_had_is_told_of_and_nothing_was_sent(
    serve: Serve,
    proxy_tls: ssl.SSLContext | None,
    authority_file: str,
    behave: Behave,
    said: str,
) -> None:
    proxy = serve(behave, proxy_tls)
    proxies = Proxies(https=proxy.url.replace("://", "://user:s3cr3t@"))
    client = HttpClient(
        "https://crm.test",
        tls=Tls(ca=authority_file),
        proxies=proxies,
        retry=ONCE,
        timeout=0.5,
        limits=Limits(pool=1),
    )
    for _ in range(2):  # its place in the pool is free again
        error = refusal(client.post("x", json=1))
        assert isinstance(error, ConnectionFailed | TimedOut)
        assert error.message.endswith(said)
        assert not error.was_sent
        assert "s3cr3t" not in "".join(traceback.format_exception(error))


def test_a_post_is_tried_again_where_its_tunnel_was_refused(
    serve: Serve, tls: ssl.SSLContext, authority_file: str
) -> None:
    def refuses_once(peer: Peer) -> None:
        if peer.number == 1:
            peer.send(b"HTTP/1.1 503 Full\r\n\r\n")
        else:
            tunnels(peer)

    server = serve(lambda peer: peer.send(answer()), tls)
    proxies, trusted = Proxies(https=serve(refuses_once).url), Tls(ca=authority_file)
    retry = RetryPolicy(attempts=2, backoff=Backoff(base=0))
    client = HttpClient(server.url, tls=trusted, proxies=proxies, retry=retry)
    assert client.post("x", json=1).unwrap().attempts == 2
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "its proxy: Connection refused"),
        ("http://proxy.invalid:1", "its proxy: its name can't be resolved"),
    ],
)
def test_a_proxy_that_is_not_there_is_what_is_told_of(url: str, said: str) -> None:
    for base in ("http://crm.test", "https://crm.test"):
        client = HttpClient(base, proxies=Proxies(http=url, https=url), retry=ONCE)
        assert refusal(client.get("/")).message.endswith(said)


def test_a_proxy_that_nobody_vouches_for_is_refused(serve: Serve, tls: ssl.SSLContext) -> None:
    proxies = Proxies(https=serve(tunnels, tls).url)
    error = refusal(HttpClient("https://crm.test", proxies=proxies, retry=ONCE).get("/"))
    assert "its proxy: its certificate is not trusted" in error.message


def test_a_drip_through_a_tunnel_cannot_stretch_the_total(
    serve: Serve, tls: ssl.SSLContext, proxy_tls: ssl.SSLContext | None, authority_file: str
) -> None:
    server = serve(lambda peer: peer.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9_000), tls)
    proxies, trusted = Proxies(https=serve(tunnels, proxy_tls).url), Tls(ca=authority_file)
    client = HttpClient(server.url, tls=trusted, proxies=proxies, timeout=0.5)
    assert "0.5 s (total)" in refusal(client.get("/")).message


def test_a_server_that_never_speaks_tls_is_no_connection_in_time(serve: Serve) -> None:
    server = serve(Peer.hang)
    server.is_deaf = True
    url = server.url.replace("http:", "https:")
    assert_no_connection_in_time(HttpClient(url, retry=ONCE))


@pytest.mark.parametrize("behave", [Peer.hang, drips, opens_and(Peer.hang)])
def test_a_tunnel_is_made_within_the_limit_of_connections(
    serve: Serve, proxy_tls: ssl.SSLContext | None, authority_file: str, behave: Behave
) -> None:
    """In all, with TLS through it: not each byte within that of reading."""
    proxies, trusted = Proxies(https=serve(behave, proxy_tls).url), Tls(ca=authority_file)
    client = HttpClient("https://crm.test", tls=trusted, proxies=proxies, retry=ONCE)
    assert_no_connection_in_time(client)


def assert_no_connection_in_time(client: HttpClient) -> None:
    error = refusal(client.post("/", timeout=Timeout(connect=0.2, read=5, total=5)))
    assert isinstance(error, TimedOut)
    assert (error.phase, error.limit.total_seconds(), error.was_sent) == ("connect", 0.2, False)


# --- with a guard -----------------------------------------------------------------------------


def resolve(monkeypatch: pytest.MonkeyPatch, **names: str) -> None:
    """Let names be resolved to addresses; an underscore stands for a full stop."""
    real = socket.getaddrinfo

    def resolved(host: str, *args: Any, **options: Any) -> Any:
        return real(names.get(str(host).replace(".", "_"), host), *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


def test_a_proxy_is_asked_for_the_address_that_was_checked(
    serve: Serve, tls: ssl.SSLContext, authority_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy's own address need not be allowed. A name that leads inside gets nowhere."""
    resolve(monkeypatch, inside_test="10.0.0.1", localhost="127.0.0.2")
    server = serve(lambda peer: peer.send(answer(b'"there"')), tls)
    proxy = serve(tunnels)
    transport = UrllibTransport(
        tls=Tls(ca=authority_file),
        proxies=Proxies(http=proxy.url, https=proxy.url),
        guard=AddressGuard(["127.0.0.2"]),
    )
    with HttpClient(transport=transport, retry=ONCE) as client:
        assert client.get(server.url, into=str).unwrap().value == "there"
        assert proxy.requests[0].startswith(f"CONNECT 127.0.0.2:{server.port} ".encode())
        assert b"localhost" not in proxy.requests[0]
        assert f"Host: localhost:{server.port}\r\n".encode() in server.requests[0]
        error = refusal(client.get("https://inside.test/"))
        assert isinstance(error, BlockedAddress)
        assert error.address == "10.0.0.1"
        error = refusal(client.get("http://crm.test/"))
        assert isinstance(error, BlockedAddress)
        assert error.address is None
        assert "can't be checked: behind a proxy" in error.message
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("address", "authority"), [("192.0.2.1", "192.0.2.1:443"), ("2001:db8::1", "[2001:db8::1]:443")]
)
def test_an_address_is_named_as_an_authority(address: str, authority: str) -> None:
    assert _authority(address, 443) == authority


def test_a_guard_is_asked_where_no_proxy_is_needed(serve: Serve) -> None:
    server = serve(lambda peer: peer.send(answer()))
    proxies = Proxies(http="http://127.0.0.1:1", no_proxy=["127.0.0.1"])
    transport = UrllibTransport(proxies=proxies, guard=AddressGuard())
    error = refusal(HttpClient(transport=transport, retry=ONCE).get(server.url))
    assert isinstance(error, BlockedAddress)
    assert error.address == "127.0.0.1"


def test_a_dispatcher_goes_by_the_proxies_of_its_hub_or_its_own(
    serve: Serve, tls: ssl.SSLContext, authority_file: str
) -> None:
    server, proxy, other = serve(says(answer()), tls), serve(tunnels), serve(tunnels)
    settings = HubSettings(https_proxy=SecretStr(proxy.url))
    with Hub.from_url("memory://", settings=settings) as hub:
        with hub.unit_of_work() as uow:
            crm = uow.integrations.add(Integration(name="crm", type="salesforce"))
            url = f"{server.url}/hook"
            hook = Webhook(integration_id=crm.id, name="hook", url=url, events=["*"])
            uow.webhooks.add(hook)
            uow.commit()
        options: dict[str, Any] = {"tls": Tls(ca=authority_file), "allow_networks": ["127.0.0.1"]}
        for proxies in (None, Proxies(https=other.url), Proxies()):
            with hub.unit_of_work() as uow:
                message = uow.messages.publish("invoice.paid", {})
                uow.commit()
            assert WebhookDispatcher(hub, proxies=proxies, **options).run_once() == 1
            with hub.unit_of_work() as uow:
                (delivery,) = uow.messages.deliveries(message.id)
            assert delivery.status == "delivered"
    assert (proxy.connections, other.connections, server.connections) == (1, 1, 3)


def test_a_dispatcher_sends_as_much_at_once_through_a_proxy(serve: Serve) -> None:
    """All hosts that are spoken to without TLS share the connections to it."""
    together = threading.Barrier(3, timeout=20)

    def behave(peer: Peer) -> None:
        together.wait()
        peer.send(answer())

    proxy = serve(behave)
    with Hub.in_memory() as hub:
        with hub.unit_of_work() as uow:
            crm = uow.integrations.add(Integration(name="crm", type="salesforce"))
            for number in range(1, 4):
                url = f"http://127.0.0.{number}:9/hook"
                hook = Webhook(integration_id=crm.id, name=url, url=url, events=["*"])
                uow.webhooks.add(hook)
            message = uow.messages.publish("invoice.paid", {})
            uow.commit()
        sender = WebhookDispatcher(
            hub, per_host=1, proxies=Proxies(http=proxy.url), allow_private_addresses=True
        )
        assert sender.run_once() == 3
        with hub.unit_of_work() as uow:
            found = uow.messages.deliveries(message.id)
    assert [each.status for each in found] == ["delivered"] * 3


def test_a_token_is_fetched_by_the_proxy_of_its_client(
    serve: Serve, tls: ssl.SSLContext, authority_file: str
) -> None:
    def behave(peer: Peer) -> None:
        is_login = peer.request.startswith(b"POST /token")
        peer.send(answer(b'{"access_token": "t1"}' if is_login else b"[]"))

    login, crm, proxy = serve(behave, tls), serve(behave, tls), serve(tunnels)
    auth = OAuth2ClientCredentials(f"{login.url}/token", "id", "s3cr3t")
    proxies, trusted = Proxies(https=proxy.url), Tls(ca=authority_file)
    assert HttpClient(crm.url, auth=auth, tls=trusted, proxies=proxies).get("x").is_ok
    assert len(login.requests) == 1
    assert b"Authorization: Bearer t1" in crm.requests[0]
    assert proxy.connections == 2


# --- which hosts, and which proxies -----------------------------------------------------------


@pytest.mark.parametrize(
    "proxy", ["socks5://u:s3cr3t@p.test", "u:s3cr3t@p.test:s3cr3t", "http://", "https://:80", ""]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_none_is_refused(scheme: str, proxy: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Proxies(**{scheme: proxy})
    assert refused.value.field == f"proxies.{scheme}"
    assert "s3cr3t" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("exception", "is_direct"),
    [
        ("crm.test", True),
        (".crm.test", True),
        ("test", True),
        ("rm.test", False),
        ("api.crm.test:8080", True),
        ("api.crm.test:9090", False),
        ("API.CRM.TEST", True),
        ("*", True),
        ("*.crm.test", True),
        ("*.pi.crm.test", False),
        ("10.0.0.0/8", False),
        ("", False),
    ],
)
def test_hosts_without_a_proxy_are_known_by_name(exception: str, is_direct: bool) -> None:
    for url in ("http://api.crm.test:8080/", "http://api.crm.test.:8080/"):
        assert needs_no_proxy(parse_url(url), [exception]) is is_direct


@pytest.mark.parametrize(
    ("host", "exception", "is_direct"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.1/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "2.3", False),
        ("[::1]", "::1", True),
        ("[::1]", "[::1]", True),
        ("[::1]", "[::1]:80", True),
        ("[::1]", "0:0::1", True),
        ("[fd00::1:2]", "fd00::/8", True),
        ("[fe00::1:2]", "fd00::/8", False),
        ("[::1]", "0.0.0.0/0", False),
    ],
)
def test_hosts_without_a_proxy_are_known_by_network(
    host: str, exception: str, is_direct: bool
) -> None:
    url = parse_url(f"http://{host}:80/")
    assert needs_no_proxy(url, ["x", exception]) is is_direct
    assert not needs_no_proxy(url, [])


def test_the_environment_says_nothing_behind_one_s_back(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server = serve(lambda peer: peer.send(answer()))
    assert HttpClient(server.url, retry=RetryPolicy(backoff=Backoff(base=0))).get("/").is_ok

"""Interceptors, guards, pages, the factory and the hub's own clients."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from integration_hub import (
    CircuitBreaker,
    CircuitOpen,
    ConnectionFailed,
    DatabaseConnectionManager,
    DecodeError,
    Err,
    HttpClient,
    HttpClientFactory,
    HttpError,
    HttpRequest,
    HttpResponse,
    Hub,
    HubSettings,
    Integration,
    IntegrationNotFound,
    Interceptor,
    RateLimit,
    RateLimited,
    RetriesExhausted,
    RetryPolicy,
    StatusError,
    SyncRunner,
    Timeout,
    TooManyPages,
    ValidationError,
    WebhookDispatcher,
)
from integration_hub.http import (
    AfterLast,
    Backoff,
    BasicAuth,
    BearerAuth,
    Cursor,
    Limits,
    LinkHeader,
    LoggingInterceptor,
    MetricsInterceptor,
    NextLink,
    OAuth2ClientCredentials,
    OAuth2RefreshToken,
    Offset,
    PageNumber,
    Proxies,
    RequestIdInterceptor,
)
from integration_hub.http.factory import MOST_CURRENT
from integration_hub.http.interceptors import HIDDEN, Measurement, redacted_json, redacted_url
from integration_hub.http.messages import Headers
from integration_hub.http.transport import UrllibTransport
from integration_hub.testing import IntegrationFactory, ManualClock, ScriptedTransport
from raw_server import Peer, Serve, answer

ONCE = RetryPolicy(attempts=1)
AT_ONCE = RetryPolicy(backoff=Backoff(base=0))


def client(transport: ScriptedTransport, **options: Any) -> HttpClient:
    return HttpClient("https://crm.test/v1", transport=transport, **{"retry": ONCE, **options})


# --- interceptors -----------------------------------------------------------------------------


class Marks(Interceptor):
    """Writes its name on what passes."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def on_request(self, request: HttpRequest) -> HttpRequest:
        self.log.append(f"{self.name} request {request.attempt}")
        return request.merged({"X-Way": request.headers.get("X-Way", "") + self.name})

    def on_response(self, response: HttpResponse[Any]) -> HttpResponse[Any]:
        self.log.append(f"{self.name} response")
        return dataclasses.replace(response, content=response.content + self.name.encode())

    def on_error(self, error: HttpError) -> HttpError:
        self.log.append(f"{self.name} error")
        return error


def test_requests_pass_in_order_and_answers_in_reverse() -> None:
    log: list[str] = []
    transport = ScriptedTransport().reply(503).reply(200)
    caller = client(transport, interceptors=[Marks("a", log), Marks("b", log)], retry=AT_ONCE)
    response = caller.get("x").unwrap()
    assert log == [
        *("a request 1", "b request 1", "b error", "a error"),
        *("a request 2", "b request 2", "b response", "a response"),
    ]
    assert transport.requests[0].headers["X-Way"] == "ab"
    assert response.content == b"ba"


def test_streams_pass_too_before_they_are_read(caplog: pytest.LogCaptureFixture) -> None:
    class Looks(Interceptor):
        def on_response(self, response: HttpResponse[Any]) -> HttpResponse[Any]:
            log.append(f"{response.status} {response.content!r}")
            return dataclasses.replace(response, headers={"X-Way": "looked at"})

    log: list[str] = []
    measured: list[Measurement] = []
    caplog.set_level(logging.INFO, "integration_hub.http")
    interceptors = [
        MetricsInterceptor(measured.append),
        LoggingInterceptor(bodies=True),
        Marks("a", log),
        Looks(),
    ]
    transport = ScriptedTransport().reply(503).reply(201, content=b"7,Ada")
    caller = client(transport, interceptors=interceptors, retry=AT_ONCE)
    with caller.stream("GET", "x") as outcome:
        stream = outcome.unwrap()
        assert log == ["a request 1", "a error", "a request 2", "201 b''", "a response"]
        assert [each.outcome for each in measured] == ["503", "201"]
        assert "GET https://crm.test/v1/x: 201 in 0 ms" in caplog.text
        assert (stream.status, stream.headers) == (201, {"X-Way": "looked at"})
        assert list(stream.lines()) == ["7,Ada"]


def test_a_stream_that_breaks_off_is_told_to_interceptors(serve: Serve) -> None:
    log: list[str] = []
    measured: list[Measurement] = []

    def breaks_off(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1\n2\n")
        peer.connection.close()

    interceptors = [MetricsInterceptor(measured.append), Marks("a", log)]
    with (
        HttpClient(serve(breaks_off).url, interceptors=interceptors) as caller,
        caller.stream("GET", "x") as outcome,
    ):
        lines = outcome.unwrap().lines()
        assert [next(lines), next(lines)] == ["1", "2"]
        with pytest.raises(ConnectionFailed):
            next(lines)
    assert log == ["a request 1", "a response", "a error"]
    assert [each.outcome for each in measured] == ["200", "connection_failed"]


def test_an_interceptor_may_refuse_a_stream(serve: Serve) -> None:
    class Refuses(Interceptor):
        def on_response(self, response: HttpResponse[Any]) -> HttpResponse[Any]:
            raise response.undecodable("", "is not wanted")

    server = serve(lambda peer: peer.send(answer(b"7")))
    with HttpClient(server.url, interceptors=[Refuses()], limits=Limits(pool=1)) as caller:
        for _ in range(3):  # and its connection is free afterwards
            with caller.stream("GET", "x") as outcome:
                assert isinstance(outcome, Err)
                assert "is not wanted" in outcome.error.message


def test_an_interceptor_may_turn_one_error_into_another() -> None:
    class Explains(Interceptor):
        def on_error(self, error: HttpError) -> HttpError:
            assert isinstance(error, StatusError)
            return DecodeError("", f"was {error.status}", method=error.method, url=error.url)

    outcome = client(ScriptedTransport().reply(400), interceptors=[Explains()]).get("x")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, DecodeError)
    assert outcome.error.problem == "was 400"


def test_every_try_has_a_request_id_of_its_own_unless_one_is_given() -> None:
    transport = ScriptedTransport().reply(503).reply(200).reply(200)
    caller = client(transport, interceptors=[RequestIdInterceptor()], retry=AT_ONCE)
    response = caller.get("x").unwrap()
    caller.get("x", headers={"x-request-id": "mine"}).unwrap()
    first, second, third = (request.headers["X-Request-Id"] for request in transport.requests)
    assert first != second
    assert response.request_id == second
    assert third == "mine"


def test_an_interceptor_can_sign_the_body_and_change_it() -> None:
    class Signs(Interceptor):
        def on_request(self, request: HttpRequest) -> HttpRequest:
            assert isinstance(request.body, bytes)
            signed = request.merged({"X-Signature": hashlib.sha256(request.body).hexdigest()})
            return dataclasses.replace(signed, body=request.body + b"!")

    transport = ScriptedTransport().reply(200)
    assert client(transport, interceptors=[Signs()]).post("x", content=b"body").is_ok
    assert transport.requests[0].headers["X-Signature"] == hashlib.sha256(b"body").hexdigest()
    assert transport.requests[0].body == b"body!"


def test_metrics_are_measured_per_try() -> None:
    measured: list[Measurement] = []
    transport = ScriptedTransport().reply(503).fail().reply(201, after=2)
    interceptors = [MetricsInterceptor(measured.append)]
    caller = client(transport, interceptors=interceptors, retry=AT_ONCE)
    caller.put("x?key=s3cr3t", json={}).unwrap()
    assert [(each.method, each.url, each.outcome) for each in measured] == [
        ("PUT", "https://crm.test/v1/x", "503"),
        ("PUT", "https://crm.test/v1/x", "connection_failed"),
        ("PUT", "https://crm.test/v1/x", "201"),
    ]
    assert measured[2].elapsed is not None
    assert measured[2].elapsed.total_seconds() == 2


def test_logs_hold_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "integration_hub.http")
    transport = ScriptedTransport()
    answer = {"data": [{"id": 7, "refresh_token": "s3cr3t"}]}
    transport.reply(200, json=answer, headers={"Set-Cookie": "s3cr3t"}).reply(
        500, content=b"s3cr3t"
    )
    caller = client(transport, interceptors=[LoggingInterceptor(bodies=True)])
    headers = {"Authorization": "Bearer s3cr3t", "X-Shop-Token": "s3cr3t", "X-Plain": "shown"}
    body = {"user": "shown too", "password": "s3cr3t", "nested": {"apiKey": "s3cr3t"}}
    url = "x?api_key=s3cr3t&page=2&access_token=s3cr3t"
    caller.post(url, headers=headers, json=body).unwrap()
    caller.post("x", content=b"s3cr3t, and no JSON")
    assert "s3cr3t" not in caplog.text
    for words in ("page=2", "shown", "shown too", f"api_key={HIDDEN}", '"id": 7', "status 500"):
        assert words in caplog.text, words


def test_a_call_is_logged_in_a_line_for_each_try_and_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport = ScriptedTransport()
    transport.reply(503, after=1.5).reply(200, after=0.25)
    caller = client(transport, retry=AT_ONCE, interceptors=[LoggingInterceptor(bodies=True)])
    with caplog.at_level(logging.INFO, "integration_hub.http"):
        caller.get("x", params={"page": 2}).unwrap()
    assert caplog.messages == [
        "GET https://crm.test/v1/x?page=2 (try 1)",
        "GET https://crm.test/v1/x: status 503",
        "GET https://crm.test/v1/x?page=2 (try 2)",
        "GET https://crm.test/v1/x?page=2: 200 in 1750 ms",  # from the call on, as `elapsed`
    ]
    caplog.clear()
    transport.reply(200, json={"id": 7}, headers={"X-Plan": "free"})
    with caplog.at_level(logging.DEBUG, "integration_hub.http"):
        caller.get("y").unwrap()
    kinds = [line.split(":")[0] for line in caplog.messages]
    assert kinds[1] == "request headers"  # and no body: there is none
    assert kinds[3:] == ["response headers", "response body"]
    assert "free" in caplog.messages[3]
    assert '"id": 7' in caplog.messages[4]


@pytest.mark.parametrize("said", [None, "soon", "", -5, 1e999, "nan", [], {}, 10**400])
def test_a_token_is_fetched_anew_a_while_before_it_expires(said: object) -> None:
    """And after an hour, where nothing is said that makes sense."""
    logins = ScriptedTransport()
    logins.reply(200, json={"access_token": "t1", "expires_in": 100})
    logins.reply(200, json={"access_token": "t2", "expires_in": "100"})
    logins.reply(200, json={"access_token": "t3", "expires_in": 10})  # shorter than it is early
    logins.reply(200, json={"access_token": "t4", "expires_in": said})
    auth = OAuth2ClientCredentials("https://crm.test/token", "id", "s", client=client(logins))
    transport = ScriptedTransport()
    caller = client(transport, auth=auth)
    for seconds in (0, 69, 1, 70, 4, 1, 3_569):
        logins.clock.advance(seconds)
        transport.reply(200)
        caller.get("x").unwrap()
    sent = [each.headers["Authorization"] for each in transport.requests]
    assert sent == [f"Bearer {token}" for token in ("t1", "t1", "t2", "t3", "t3", "t4", "t4")]
    assert logins.left == 0


@pytest.mark.parametrize("token", ["", "a b", "t\r\nX: y", "ü", 7, None])
def test_a_token_that_no_header_can_hold_is_the_outcome(token: object) -> None:
    logins = ScriptedTransport().reply(200, json={"access_token": token})
    auth = OAuth2ClientCredentials("https://crm.test/token", "id", "s", client=client(logins))
    outcome = client(ScriptedTransport(), auth=auth).get("x")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, DecodeError)
    assert outcome.error.where == "access_token"


SECRETS = st.text("abcdefgh", min_size=8, max_size=12).map(lambda text: f"S3CR3T{text}")


@given(st.dictionaries(st.sampled_from(["token", "client_secret", "API-Key", "auth"]), SECRETS))
def test_no_value_of_a_secret_name_is_shown(pairs: dict[str, str]) -> None:
    document = {"a": [pairs, {"b": pairs}]}
    assert "S3CR3T" not in json.dumps(redacted_json(document))
    query = "&".join(f"{name}={value}" for name, value in pairs.items())
    assert "S3CR3T" not in redacted_url(f"https://u:S3CR3Tx@h.test/p?{query}")


def test_headers_are_equal_whatever_their_case_and_show_names_alone() -> None:
    headers = Headers({"X-Key": "s3cr3t", "Accept": "*/*"})
    assert headers["x-KEY"] == "s3cr3t"
    assert "X-KEY" in headers
    neither: Any = 7
    assert neither not in headers
    assert len(headers.merged({"x-key": "other"})) == 2
    assert list(headers.without("ACCEPT")) == ["X-Key"]
    assert repr(headers) == "Headers(X-Key, Accept)"
    request = HttpRequest("GET", "https://h.test/x?key=s3cr3t", headers, b"s3cr3t")
    assert "s3cr3t" not in repr(request.with_headers(Idempotency_Key="1"))
    assert request.with_headers(Idempotency_Key="1").headers["idempotency-key"] == "1"


@pytest.mark.parametrize("headers", ["X-Key: s3cr3t", b"X-Key: s3cr3t", 7])
def test_headers_are_a_mapping_or_pairs(headers: Any) -> None:
    with pytest.raises(ValidationError, match="headers must be a mapping or pairs") as refused:
        client(ScriptedTransport()).get("x", headers=headers)
    assert "s3cr3t" not in str(refused.value)


# --- guards -----------------------------------------------------------------------------------


def test_a_circuit_opens_after_failures_and_closes_after_a_probe() -> None:
    transport = ScriptedTransport()
    caller = client(transport, breaker=CircuitBreaker(failures=3, window=600, rest=30))
    transport.reply(500).fail().hang()
    assert [caller.get("x").is_ok for _ in range(3)] == [False] * 3
    outcome = caller.get("x")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, CircuitOpen)
    assert outcome.error.wait.total_seconds() == 30
    transport.clock.advance(31)
    transport.reply(500)
    assert not caller.get("x").is_ok  # the probe failed: the rest begins anew
    assert isinstance(caller.get("x"), Err)
    assert transport.left == 0
    transport.clock.advance(31)
    transport.reply(200).reply(500).reply(500).reply(200)
    assert caller.get("x").is_ok
    # What failed before counts no more: that were three, with one of those.
    assert [caller.get("x").is_ok for _ in range(3)] == [False, False, True]


def test_failures_that_lie_apart_do_not_open_a_circuit() -> None:
    transport = ScriptedTransport()
    caller = client(transport, breaker=CircuitBreaker(failures=2, window=10))
    for _ in range(5):
        transport.reply(500)
        caller.get("x")
        transport.clock.advance(11)
    transport.reply(200)
    assert caller.get("x").is_ok


@pytest.mark.parametrize(("apart", "opens"), [(10, True), (10.1, False)])
def test_failures_within_the_window_open_a_circuit(apart: float, *, opens: bool) -> None:
    breaker = CircuitBreaker(failures=2, window=10, rest=5)
    breaker.tell(100, failed=True)
    breaker.tell(100 + apart, failed=True)
    assert breaker.wait(100 + apart) == (5 if opens else 0)


def test_answers_that_are_the_caller_s_fault_do_not_open_a_circuit() -> None:
    transport = ScriptedTransport()
    caller = client(transport, breaker=CircuitBreaker(failures=1))
    for status in (400, 404, 429):
        transport.reply(status)
        outcome = caller.get("x")
        assert isinstance(outcome, Err)
        assert isinstance(outcome.error, StatusError)


def test_one_request_probes_while_others_are_refused() -> None:
    breaker = CircuitBreaker(failures=1, rest=10)
    assert breaker.wait(0) == 0
    breaker.tell(0, failed=True)
    assert breaker.wait(4) == 6
    assert breaker.wait(10) == 0
    assert breaker.wait(10) == 10
    breaker.tell(10, failed=None)  # the probe said nothing: another may try
    assert breaker.wait(11) == 0
    breaker.tell(11, failed=False)
    assert [breaker.wait(11), breaker.wait(11)] == [0, 0]


def test_what_began_before_a_circuit_opened_says_nothing_of_its_rest() -> None:
    breaker = CircuitBreaker(failures=1, rest=10)
    assert [breaker.wait(0), breaker.wait(0)] == [0, 0]
    breaker.tell(0, failed=True)
    breaker.tell(5, failed=False)  # the other one
    assert breaker.wait(5) == 5


def test_requests_wait_for_their_turn_within_their_time() -> None:
    transport = ScriptedTransport()
    caller = client(transport, rate_limit=RateLimit(2, per=1, burst=2), timeout=Timeout(total=1.4))
    for _ in range(4):
        transport.reply(200)
        assert caller.get("x").is_ok
    assert transport.waits == [0.5, 0.5]
    shared = RateLimit(1, per=10, burst=1)
    first, second = (client(transport, rate_limit=shared, timeout=5) for _ in range(2))
    transport.reply(200)
    assert first.get("x").is_ok
    outcome = second.get("x")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, RateLimited)
    assert outcome.error.wait.total_seconds() == 10
    assert transport.left == 0


@pytest.mark.parametrize(("rate", "burst"), [(2.5, 2), (0.1, 1)])
def test_a_bucket_holds_what_comes_in_its_time_where_no_burst_is_given(
    rate: float, burst: int
) -> None:
    limit = RateLimit(rate, per=60)
    assert [limit.take(0, patience=0)[0] for _ in range(3)].count(True) == burst


def test_a_bucket_fills_up_to_its_burst() -> None:
    limit = RateLimit(10, per=1, burst=3)
    assert [limit.take(100, patience=0)[0] for _ in range(5)] == [True, True, True, False, False]
    assert [limit.take(100.1, patience=0)[0] for _ in range(2)] == [True, False]
    is_given, wait = limit.take(100.1, patience=1)
    assert is_given
    assert wait == pytest.approx(0.1)


def odd(value: object) -> Any:
    """What no type checker would let pass."""
    return value


ODD = odd(object())


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("retry", lambda: client(ScriptedTransport(), retry=3)),
        ("retry", lambda: client(ScriptedTransport(), retry=None)),
        ("limits", lambda: client(ScriptedTransport(), limits=None)),
        ("breaker", lambda: client(ScriptedTransport(), breaker=True)),
        ("rate_limit", lambda: client(ScriptedTransport(), rate_limit=10)),
        ("tls", lambda: client(ScriptedTransport(), tls=False)),
        ("proxies", lambda: client(ScriptedTransport(), proxies={"https": "http://p.test"})),
        ("auth", lambda: client(ScriptedTransport(), auth=("user", "s3cr3t"))),
        ("interceptors", lambda: client(ScriptedTransport(), interceptors=LoggingInterceptor())),
        ("interceptors", lambda: client(ScriptedTransport(), interceptors=["log"])),
        ("base_url", lambda: HttpClient(ODD)),
        ("method", lambda: client(ScriptedTransport()).request(ODD, "x")),
        ("params", lambda: client(ScriptedTransport()).get("x", params=odd("a=s3cr3t"))),
        ("params", lambda: client(ScriptedTransport()).get("x", params=ODD)),
        ("headers", lambda: client(ScriptedTransport()).get("x", headers=odd("s3cr3t"))),
        ("headers", lambda: client(ScriptedTransport()).get("x", headers={ODD: "1"})),
        ("data", lambda: client(ScriptedTransport()).post("x", data=odd("a=s3cr3t"))),
        ("content", lambda: client(ScriptedTransport()).post("x", content="s3cr3t\ud800")),
        ("files", lambda: client(ScriptedTransport()).post("x", files=odd([b"x"]))),
        ("files.f", lambda: client(ScriptedTransport()).post("x", files={"f": odd("p.csv")})),
        ("files.f", lambda: client(ScriptedTransport()).post("x", files={"f": odd(StringIO())})),
        ("token", lambda: BearerAuth(odd(None))),
        ("token", lambda: client(ScriptedTransport(), auth=BearerAuth(odd(dict))).get("x")),
        ("username", lambda: BasicAuth(odd(None), "s3cr3t")),
        ("password", lambda: BasicAuth("user", "s3cr3t\ud800")),
        ("client_secret", lambda: OAuth2ClientCredentials("https://x.test", "id", odd(None))),
        ("client_id", lambda: OAuth2ClientCredentials("https://x.test", odd(None), "s3cr3t")),
        ("refresh_token", lambda: OAuth2RefreshToken("https://x.test", "id", "s3", odd(None))),
        (
            "auth_method",
            lambda: OAuth2RefreshToken("https://x.test", "i", "s", "t", auth_method=odd("basic")),
        ),
        ("retry.methods", lambda: RetryPolicy(methods="POST")),
        ("retry.statuses", lambda: RetryPolicy(statuses=odd(503))),
        ("retry.statuses", lambda: RetryPolicy(statuses=odd(["503"]))),
        ("rate_limit.rate", lambda: RateLimit(odd("10"))),
        ("tls", lambda: UrllibTransport(tls=odd(False))),
        ("proxies", lambda: WebhookDispatcher(Hub.in_memory(), proxies=odd({"https": "s3cr3t"}))),
        ("handlers", lambda: SyncRunner(Hub.in_memory(), odd([print]))),
        ("client_options", lambda: Hub.in_memory(client_options=odd({"auth": "s3cr3t"}))),
        ("pool", lambda: DatabaseConnectionManager("sqlite://", pool=odd(5))),
        ("proxies.https", lambda: Proxies(https=odd(SecretStr("http://u:s3cr3t@p.test")))),
    ],
)
def test_what_is_none_of_what_is_wanted_is_named(field: str, call: Callable[[], object]) -> None:
    """As whoever comes from another client may well write it."""
    with pytest.raises(ValidationError) as refused:
        call()
    assert refused.value.field == field
    told = (refused.value, vars(refused.value), refused.value.__cause__)
    assert "s3cr3t" not in repr(told)


@pytest.mark.parametrize("make", [lambda: RateLimit(0), lambda: CircuitBreaker(0)])
def test_guards_are_checked_when_they_are_made(make: Any) -> None:
    with pytest.raises(ValidationError):
        make()


# --- answers that nobody foresaw --------------------------------------------------------------


@pytest.mark.parametrize(
    "charset",
    ["rot13", "hex", "zlib", "idna", "punycode", "undefined", "unicode_escape", "klingon", "é"],
)
def test_what_is_no_charset_is_read_as_utf_8(charset: str) -> None:
    kind = {"Content-Type": f"application/json; charset={charset}"}
    transport = ScriptedTransport().reply(content='"ü"'.encode(), headers=kind)
    response = client(transport).get("x", into=str).unwrap()
    assert (response.value, response.text, response.json()) == ("ü", '"ü"', "ü")


def test_json_that_is_nested_too_deep_is_told_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    transport = ScriptedTransport().reply(content=deep).reply(content=deep)
    logging = LoggingInterceptor(bodies=True)
    caplog.set_level("DEBUG")
    response = client(transport, interceptors=[logging]).get("x").unwrap()
    with pytest.raises(DecodeError, match="nested too deep"):
        response.json()
    assert "200,000 bytes that are no JSON" in caplog.text
    assert not client(transport).get("x", into=list[int]).is_ok


# --- pages ------------------------------------------------------------------------------------


def test_pages_follow_link_headers() -> None:
    transport = ScriptedTransport()
    links = '<https://crm.test/v1/x?page=2>; rel="next", <https://crm.test/v1/x?page=9>; rel="last"'
    transport.reply(json=[1], headers={"Link": links}).reply(json=[2])
    found = [
        page.unwrap().value
        for page in client(transport).pages(
            "x", strategy=LinkHeader(), into=list[int], params={"size": 1}
        )
    ]
    assert found == [[1], [2]]
    assert [request.url for request in transport.requests] == [
        "https://crm.test/v1/x?size=1",
        "https://crm.test/v1/x?page=2",
    ]


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ('<x?page=2>; rel="next"', "https://crm.test/v1/x?page=2"),
        ('<?a b>;REL="Last NEXT"', "https://crm.test/v1/x?a%20b"),
        ("</ü?n=ü>; rel=next".encode().decode("latin-1"), "https://crm.test/%C3%BC?n=%C3%BC"),
    ],
)
def test_links_are_read_as_they_are_meant(link: str, url: str) -> None:
    transport = ScriptedTransport().reply(headers={"Link": link}).reply()
    assert len(list(client(transport).pages("x", strategy=LinkHeader()))) == 2
    assert transport.requests[1].url == url


@pytest.mark.parametrize(
    ("base", "location", "asked"),
    [
        ("https://crm.test", "/b", ["https://crm.test/a", "https://crm.test/b"]),
        ("https://crm.test", "https://www.test/", ["https://crm.test/a", "https://www.test/"]),
        ("http://crm.test", "https://crm.test/b", ["http://crm.test/a", "https://crm.test/b"]),
        ("https://crm.test", "http://crm.test/b", ["https://crm.test/a"]),
    ],
)
def test_a_redirect_is_followed_wherever_https_is_not_given_up(
    base: str, location: str, asked: list[str]
) -> None:
    transport = ScriptedTransport().reply(302, headers={"Location": location}).reply(204)
    result = HttpClient(base, transport=transport).get("a")
    assert result.is_ok is (len(asked) == 2)
    assert [request.url for request in transport.requests] == asked


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("https://crm.test", "https://CRM.test:443/x"),
        ("http://crm.test:80", "http://crm.test/x"),
        ("http://crm.test:8080/v1", "http://crm.test:8080/x"),
    ],
)
def test_an_origin_is_the_same_with_its_port_and_without(base: str, path: str) -> None:
    transport = ScriptedTransport().reply(204)
    assert HttpClient(base, transport=transport).get(path).is_ok
    assert transport.requests[0].url == path.replace("CRM", "crm")


@pytest.mark.parametrize(
    "link",
    ["https://evil.test/x", "//evil.test/x", "http://[", "//u:s3cr3t@crm.test/", "ftp://x"],
)
def test_a_link_that_cannot_be_followed_ends_the_pages(link: str) -> None:
    transport = ScriptedTransport().reply(json=[1], headers={"Link": f'<{link}>; rel="next"'})
    first, second = client(transport).pages("x", strategy=LinkHeader(), into=list[int])
    assert first.unwrap().value == [1]
    assert isinstance(second, Err)
    assert isinstance(second.error, DecodeError)
    assert "the next page: can't be followed" in second.error.message
    assert "s3cr3t" not in repr(second.error)
    assert len(transport.requests) == 1


@pytest.mark.parametrize(
    ("strategy", "answers", "queries"),
    [
        (
            Cursor(at="meta.next", param="after"),
            [{"meta": {"next": "a b"}}, {"meta": {"next": 7}}, {"meta": {}}],
            ["s=1", "s=1&after=a+b", "s=1&after=7"],
        ),
        (Cursor(), [{"next_cursor": 0}, {"next_cursor": ""}], ["s=1", "s=1&cursor=0"]),
        (
            NextLink(),
            [{"next": "?s=1&p=2"}, {"next": "https://crm.test/v1/x?p=3"}, {"next": None}],
            ["s=1", "s=1&p=2", "p=3"],
        ),
        (
            NextLink(at="@odata.nextLink"),
            [{"@odata.nextLink": "/v1/x?$skip=2"}, {"@odata.nextLink": ""}],
            ["s=1", "$skip=2"],
        ),
        (
            NextLink(at="links.next.href"),
            [{"links": {"next": {"href": "x?p=2"}}}, {"links": {"next": None}}],
            ["s=1", "p=2"],
        ),
        (
            AfterLast(),
            [
                {"data": [{"id": "a"}, {"id": "b c"}], "has_more": True},
                {"data": [{"id": 7}]},
                {"data": [{"id": "d"}], "has_more": False},
            ],
            ["s=1", "s=1&starting_after=b+c", "s=1&starting_after=7"],
        ),
        (
            AfterLast(items="", key="ref.no", param="after", more=""),
            [[{"ref": {"no": 1}}], []],
            ["s=1", "s=1&after=1"],
        ),
        (PageNumber(items="rows"), [{"rows": [1]}, {"rows": []}], ["s=1&page=1", "s=1&page=2"]),
        (
            Offset(size=2),
            [[1, 2], [3]],
            ["s=1&limit=2&offset=0", "s=1&limit=2&offset=2"],
        ),
        (
            PageNumber(last="meta.last"),
            [{"meta": {"last": 2}}, {"meta": {"last": 2}}],
            ["s=1&page=1", "s=1&page=2"],
        ),
        (PageNumber(last="last", start=0), [{"last": 0}], ["s=1&page=0"]),
    ],
)
def test_pages_go_on_as_the_strategy_says(
    strategy: Any, answers: list[Any], queries: list[str]
) -> None:
    transport = ScriptedTransport()
    for each in answers:
        transport.reply(json=each)
    pages = list(client(transport).pages("x", strategy=strategy, params=iter([("s", 1)])))
    assert [page.unwrap().json() for page in pages] == answers
    assert [request.url.partition("?")[2] for request in transport.requests] == queries


@pytest.mark.parametrize(
    ("strategy", "answer", "problem"),
    [
        (NextLink(), {"next": 7}, "at next: must be the URL of the next page"),
        (NextLink(at="links.next"), {"links": {"next": {"href": "/x"}}}, "at links.next: must be"),
        (AfterLast(), {"data": [{"id": 1}, {"no": 2}]}, r"at data\[1\].id: must be there"),
        (AfterLast(), {"data": [None]}, r"at data\[0\].id: must be there"),
        (AfterLast(), {"items": []}, "at data: must be a list"),
        (PageNumber(last="last"), {"last": "2"}, "at last: must be the number of the last page"),
        (PageNumber(last="last"), {"last": True}, "at last: must be the number of the last page"),
    ],
)
def test_a_page_that_does_not_say_where_the_next_one_is_is_an_error(
    strategy: Any, answer: Any, problem: str
) -> None:
    transport = ScriptedTransport().reply(json=answer)
    (only,) = client(transport).pages("x", strategy=strategy)
    assert isinstance(only, Err)
    assert isinstance(only.error, DecodeError)
    assert re.search(problem, only.error.message)


@pytest.mark.parametrize(
    ("strategy", "params", "queries"),
    [
        (PageNumber(), {"page": 7}, ["page=7", "page=8"]),
        (PageNumber(), {"page": None}, ["page=1", "page=2"]),
        (Offset(size=2), {"offset": 500}, ["limit=2&offset=500", "limit=2&offset=502"]),
        (Offset(size=2), {"offset": "500"}, ["limit=2&offset=500", "limit=2&offset=502"]),
        (Cursor(), {"cursor": "c7"}, ["cursor=c7"]),
    ],
)
def test_pages_begin_where_the_call_says(
    strategy: Any, params: dict[str, Any], queries: list[str]
) -> None:
    transport = ScriptedTransport()
    for query, page in zip(queries, ([1, 2], []), strict=False):
        transport.reply(json=page, to=f"?{query}")
    pages = list(client(transport).pages("x", strategy=strategy, params=params))
    assert len(pages) == len(transport.requests) == len(queries)


@pytest.mark.parametrize(
    ("strategy", "params"),
    [(PageNumber(), {"page": "seven"}), (Offset(size=2), {"offset": -2})],
)
def test_pages_begin_with_a_number(strategy: Any, params: dict[str, Any]) -> None:
    pages = client(ScriptedTransport()).pages("x", strategy=strategy, params=params)
    with pytest.raises(
        ValidationError, match=r"params\.(page|offset).*must be the number to begin"
    ):
        next(pages)


def test_pages_are_got_when_they_are_asked_for() -> None:
    transport = ScriptedTransport().reply(json=[1, 2])
    pages = client(transport).pages("x", strategy=Offset(size=2))
    assert transport.requests == []
    next(pages)
    assert len(transport.requests) == 1


def test_pages_end_with_an_error_or_with_the_most_that_were_asked_for() -> None:
    transport = ScriptedTransport().reply(json=[1, 2]).reply(404)
    first, second = client(transport).pages("x", strategy=Offset(size=2))
    assert first.is_ok
    assert isinstance(second, Err)
    transport.reply(json=[1, 2]).reply(json=[1, 2])
    *_, last = client(transport).pages("x", strategy=Offset(size=2), max_pages=2)
    with pytest.raises(ValidationError):
        next(client(transport).pages("x", strategy=Offset(size=2), max_pages=0))
    assert isinstance(last, Err)
    assert isinstance(last.error, TooManyPages)
    transport.reply(json={"no": "list"})
    (only,) = client(transport).pages("x", strategy=Offset(size=2))
    assert isinstance(only, Err)
    assert isinstance(only.error, DecodeError)


@pytest.mark.parametrize("strategy", [LinkHeader, "next", None])
def test_a_strategy_is_an_object(strategy: Any) -> None:
    with pytest.raises(ValidationError, match="strategy"):
        next(client(ScriptedTransport()).pages("x", strategy=strategy))


# --- the factory and the hub ------------------------------------------------------------------


def test_a_factory_has_one_client_per_name() -> None:
    factory = HttpClientFactory(timeout=7).register("crm", base_url="https://crm.test")
    factory.register("erp", base_url="https://erp.test", timeout=9)
    with ThreadPoolExecutor(8) as pool:
        clients = set(pool.map(lambda _: id(factory.get("crm")), range(64)))
    assert clients == {id(factory.get("crm"))}
    assert factory.get("crm") is not factory.get("erp")
    with pytest.raises(ValidationError, match="known: crm, erp"):
        factory.get("cms")
    with pytest.raises(ValidationError, match="already"):
        factory.register("crm")


def test_a_factory_takes_its_defaults_as_a_mapping_or_by_name() -> None:
    transport = ScriptedTransport().reply(200).reply(200)
    defaults: dict[str, Any] = {"base_url": "https://crm.test", "transport": transport}
    for factory in (HttpClientFactory(defaults), HttpClientFactory(**defaults)):
        answer = factory.register(name="crm").get(name="crm").get("contacts").unwrap()
        assert answer.url == "https://crm.test/contacts"
    with pytest.raises(ValidationError, match="defaults"):
        HttpClientFactory(Timeout(total=7))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_closing_a_factory_closes_every_client() -> None:
    transports = [ScriptedTransport(), ScriptedTransport()]
    with HttpClientFactory() as factory:
        for number, transport in enumerate(transports):
            factory.register(f"c{number}", transport=transport).get(f"c{number}")
    assert [transport.is_closed for transport in transports] == [True, True]


@pytest.fixture
def crm(each_hub: Hub) -> Integration:
    http = {
        "base_url": "https://crm.test/v1",
        "timeout": {"connect": 1, "read": 2, "total": 3},
        "retry": {"attempts": 2, "base": 0, "statuses": [418]},
        "headers": {"Accept-Language": "de"},
    }
    with each_hub.unit_of_work() as uow:
        stored = uow.integrations.add(IntegrationFactory(name="crm", config={"http": http}))
        uow.commit()
    return stored


def test_a_hub_makes_the_client_that_an_integration_describes(
    each_hub: Hub, crm: Integration
) -> None:
    transport = ScriptedTransport().reply(418).reply(200).reply(503).hang().hang()
    caller = each_hub.http("crm", transport=transport)
    assert caller.get("x").is_ok
    assert transport.requests[0].url == "https://crm.test/v1/x"
    assert transport.requests[0].headers["Accept-Language"] == "de"
    outcome = caller.get("x")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    start = transport.now()
    assert not caller.get("x").is_ok
    assert transport.now() - start == 3  # the read limit, and what was left of the total


def test_a_changed_integration_gets_a_fresh_client(each_hub: Hub, crm: Integration) -> None:
    first = each_hub.http("crm")
    assert each_hub.http(crm.id) is first
    assert each_hub.http(crm) is first
    with each_hub.unit_of_work() as uow:
        changed = uow.integrations.save(crm.with_tags("changed"))
        uow.commit()
    second = each_hub.http("crm")
    assert second is not first
    assert each_hub.http(changed) is second


def test_who_works_with_the_former_version_keeps_its_client(serve: Serve) -> None:
    """A run that goes on for a while does not take turns with others at making clients."""
    server = serve(lambda peer: peer.send(answer(b"1")))
    crm = IntegrationFactory(config={"http": {"base_url": server.url}})
    versions = [dataclasses.replace(crm, version=number) for number in (1, 2, 3)]
    with Hub.in_memory() as hub:
        first, second = (hub.http(version) for version in versions[:2])
        assert first.get("/").is_ok
        assert second.get("/").is_ok
        assert [hub.http(each) for each in (*versions[:2], *versions[:2])] == [first, second] * 2
        third = hub.http(versions[2])
        assert server.is_left(most=1)  # the first one's connections are closed
        assert [hub.http(each) for each in (*versions[1:], *versions[1:])] == [second, third] * 2
    assert server.is_left()


@dataclasses.dataclass
class Beyond:
    """What clients need beyond the config: who asked for it, and what they sent then."""

    asked: list[str] = dataclasses.field(default_factory=list)
    transport: ScriptedTransport = dataclasses.field(default_factory=ScriptedTransport)

    def options(self, integration: Integration) -> dict[str, Any] | None:
        self.asked.append(integration.name)
        if integration.type != "crm":
            return None
        return {"auth": BearerAuth("t1"), "headers": {"X-Own": "1"}, "transport": self.transport}


@pytest.fixture
def beyond() -> Beyond:
    return Beyond()


@pytest.fixture
def authenticated(beyond: Beyond) -> Iterator[Hub]:
    """A hub whose clients have more than the config says."""
    with Hub.in_memory(client_options=beyond.options) as hub:
        yield hub


def test_a_client_has_what_the_hub_says_beyond_the_config(
    authenticated: Hub, beyond: Beyond
) -> None:
    config = {"http": {"base_url": "https://crm.test", "headers": {"Accept-Language": "de"}}}
    crm = IntegrationFactory(type="crm", config=config, name="first")
    client = authenticated.http(crm)
    beyond.transport.reply(200).reply(200)
    assert client.get("x").is_ok
    headers = beyond.transport.requests[0].headers
    assert headers["Authorization"] == "Bearer t1"
    assert (headers["X-Own"], headers["Accept-Language"]) == ("1", "de")
    assert authenticated.http(crm) is client
    assert beyond.asked == ["first"]
    changed = dataclasses.replace(crm, version=crm.version + 1, name="second")
    assert authenticated.http(changed) is not client
    assert beyond.asked == ["first", "second"]
    with authenticated.http(changed, auth=BearerAuth("t2")) as own:  # the caller comes first
        assert own.get("x").is_ok
    assert beyond.transport.requests[1].headers["Authorization"] == "Bearer t2"


def test_what_the_hub_says_may_be_nothing_or_all(authenticated: Hub) -> None:
    with pytest.raises(ValidationError) as refused:
        authenticated.http(IntegrationFactory(type="erp", config={}))
    assert refused.value.field == "config.http"
    config = {"http": {"base_url": "https://erp.test"}}
    assert "erp.test" in repr(authenticated.http(IntegrationFactory(type="erp", config=config)))
    base = {"base_url": "https://all.test"}
    with Hub.in_memory(client_options=lambda integration: base) as hub:
        assert "all.test" in repr(hub.http(IntegrationFactory(config={})))
    wrong: Any = ["auth"]
    with Hub.in_memory(client_options=lambda integration: wrong) as hub:
        with pytest.raises(ValidationError) as refused:
            hub.http(IntegrationFactory(config=config))
        assert refused.value.field == "client_options"


def test_who_waits_for_a_vault_holds_nobody_up() -> None:
    waits, go_on = threading.Event(), threading.Event()

    def client_options(integration: Integration) -> dict[str, Any]:
        if integration.type == "slow":
            waits.set()
            assert go_on.wait(10)
        return {"base_url": "https://crm.test"}

    slow = IntegrationFactory(type="slow", config={})
    with Hub.in_memory(client_options=client_options) as hub, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(hub.http, slow) for _ in range(2)]
        assert waits.wait(10)
        hub.http(IntegrationFactory(type="quick", config={}))
        go_on.set()
        assert both[0].result() is both[1].result()


def test_clients_that_were_not_asked_for_the_longest_make_room(serve: Serve) -> None:
    server = serve(lambda peer: peer.send(answer(b"1")))
    config = {"http": {"base_url": server.url}}
    kept, left, *others = IntegrationFactory.build_batch(MOST_CURRENT + 1, config=config)
    with Hub.in_memory() as hub:
        first, second = hub.http(kept), hub.http(left)
        assert second.get("/").is_ok
        for other in others[:-1]:
            hub.http(other)
        assert hub.http(kept) is first
        hub.http(others[-1])
        assert hub.http(kept) is first
        assert server.is_left()  # its connections are closed
        assert second.get("/").is_ok  # but whoever has it can go on
        assert hub.http(left) is not second
        second.close()


def test_another_tenant_s_integration_has_no_client_here(each_hub: Hub, crm: Integration) -> None:
    for asked in ("crm", crm.id):
        with pytest.raises(IntegrationNotFound):
            each_hub.http(asked, tenant="acme")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({}, "config.http"),
        ({"http": {}}, "config.http.base_url"),
        (
            {"http": {"base_url": "https://x.test", "timeout": {"red": 1}}},
            "config.http.timeout.red",
        ),
        ({"http": {"base_url": "https://x.test", "pool": "s3cr3t"}}, "config.http.pool"),
        ({"http": {"base_url": "x.test"}}, "base_url"),
    ],
)
def test_a_config_that_cannot_be_used_names_the_key(config: Any, field: str) -> None:
    hub = Hub.in_memory()
    with pytest.raises(ValidationError) as refused:
        hub.http(IntegrationFactory(config=config))
    assert refused.value.field == field
    assert "s3cr3t" not in refused.value.message


def test_no_unit_of_work_is_open_during_traffic(hub_postgres: Hub) -> None:
    with hub_postgres.unit_of_work() as uow:
        config = {"http": {"base_url": "https://crm.test"}}
        uow.integrations.add(IntegrationFactory(name="crm", config=config))
        uow.commit()
    seen: list[int] = []

    class Looks(Interceptor):
        def on_request(self, request: HttpRequest) -> HttpRequest:
            seen.append(hub_postgres.health().pool.in_use)
            return request

    transport = ScriptedTransport().reply(200)
    assert hub_postgres.http("crm", transport=transport, interceptors=[Looks()]).get("x").is_ok
    assert seen == [0]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), timedelta(0)])
def test_a_single_time_limit_that_is_none_is_refused_by_its_own_name(timeout: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        client(ScriptedTransport()).get("x", timeout=timeout)
    assert refused.value.field == "timeout"


def test_proxies_come_from_the_settings_or_once_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://env.test:1")
    monkeypatch.setenv("NO_PROXY", "a.test, .b.test")
    assert HubSettings().proxies().https is None
    found = HubSettings(use_proxies_of_the_environment=True).proxies()
    assert (found.https, found.no_proxy) == ("http://env.test:1", ("a.test", ".b.test"))
    monkeypatch.setenv("HUB_HTTP_PROXY", "http://hub.test:1")
    monkeypatch.setenv("HUB_NO_PROXY", "c.test")
    chosen = HubSettings().proxies()
    assert (chosen.http, chosen.no_proxy) == ("http://hub.test:1", ("c.test",))
    monkeypatch.setenv("HUB_HTTP_PROXY", "")
    assert HubSettings().proxies().http is None


# --- the scripted transport -------------------------------------------------------------------


def test_a_script_says_what_was_not_played_and_what_was_not_foreseen() -> None:
    with (
        pytest.raises(AssertionError, match="1 steps were not played"),
        ScriptedTransport() as left,
    ):
        left.reply(200)
    with pytest.raises(AssertionError, match="no answer to HttpRequest\\(GET"):
        client(ScriptedTransport()).get("x")


def test_steps_wait_for_the_requests_that_they_are_for() -> None:
    transport = (
        ScriptedTransport()
        .reply(201, to="POST https://crm.test/v1/orders")
        .reply(204, to="/orders", times=2)
        .fail(to="/down", was_sent=False)
        .hang(to="/slow", times=None)
        .reply(200, json={}, times=None)
    )
    caller = client(transport)
    assert transport.left == 4
    assert [caller.get(f"orders/{number}").unwrap().status for number in (1, 2)] == [204, 204]
    assert caller.get("orders/3").unwrap().status == 200
    assert caller.post("orders").unwrap().status == 201
    assert isinstance(caller.get("down"), Err)
    assert transport.left == 0
    assert isinstance(caller.get("slow"), Err)
    assert [caller.get("contacts").is_ok for _ in range(3)] == [True] * 3


def test_threads_play_each_step_once() -> None:
    transport = ScriptedTransport()
    for number in range(200):
        transport.reply(200, json=number, to=f"/{number % 8}/")
    caller = client(transport)

    def ask(number: int) -> list[int]:
        return [caller.get(f"{number}/x").unwrap().json() for _ in range(25)]

    with transport, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert answers == [list(range(number, 200, 8)) for number in range(8)]


@pytest.mark.parametrize(
    "step",
    [
        lambda transport: transport.reply(times=0),
        lambda transport: transport.fail(times=True),
        lambda transport: transport.hang(to=7),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(step: Callable[[Any], object]) -> None:
    transport = ScriptedTransport()
    with pytest.raises(ValidationError, match=r"^(times|to) must be"):
        step(transport)
    assert transport.left == 0


def test_a_script_keeps_the_limits_of_the_client() -> None:
    clock = ManualClock()
    transport = ScriptedTransport(clock).reply(200, after=40).reply(200, content=b"x" * 11_000_000)
    caller = client(transport)
    outcome = caller.get("x")
    assert isinstance(outcome, Err)
    assert "30 s (read)" in outcome.error.message
    assert "bytes" in str(caller.get("x"))


def test_errors_of_the_client_cross_process_boundaries() -> None:
    transport = ScriptedTransport().reply(503).reply(503)
    outcome = client(transport, retry=RetryPolicy(attempts=2, backoff=Backoff(base=0))).get("x")
    assert isinstance(outcome, Err)
    copy = pickle.loads(pickle.dumps(outcome.error))
    assert isinstance(copy, RetriesExhausted)
    assert [attempt.cause.code for attempt in copy.attempts] == ["status_error"] * 2

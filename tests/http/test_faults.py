"""What goes wrong on the wire, with real sockets: resets, silence, drips, lies, bombs."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import pytest

from integration_hub import (
    ConnectionFailed,
    DecodeError,
    Err,
    HttpClient,
    HttpError,
    Limits,
    Ok,
    ResponseTooLarge,
    Result,
    RetryPolicy,
    StatusError,
    TimedOut,
    Timeout,
    TooManyRedirects,
)
from integration_hub.http import Backoff
from raw_server import Peer, Serve, answer

ONCE = RetryPolicy(attempts=1)
AT_ONCE = RetryPolicy(backoff=Backoff(base=0))
HEAD = b"HTTP/1.1 200 OK\r\n"


def failure(outcome: Result[Any, HttpError], kind: type[HttpError] = HttpError) -> Any:
    assert isinstance(outcome, Err), outcome
    assert isinstance(outcome.error, kind), outcome.error
    return outcome.error


# --- connections that break -------------------------------------------------------------------

#: What is sent before the connection breaks, and whether it breaks by a reset or by an end.
BREAKS: dict[str, tuple[bytes, bool]] = {
    "before the headers": (b"", True),
    "in the headers": (HEAD + b"Content-Le", True),
    "in the body": (HEAD + b"Content-Length: 9\r\n\r\nabc", True),
    "by an end without an answer": (b"", False),
    "by an end in the body": (HEAD + b"Content-Length: 9\r\n\r\nabc", False),
    "by a broken chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", False),
    "by no HTTP at all": (b"SSH-2.0-OpenSSH\r\n", False),
}


@pytest.mark.parametrize("moment", BREAKS)
def test_a_connection_that_breaks_is_told_and_tried_again_where_allowed(
    serve: Serve, moment: str
) -> None:
    def behave(peer: Peer) -> None:
        if peer.number == 2:
            peer.send(answer(b"[1]"))
            return
        data, by_reset = BREAKS[moment]
        peer.send(data)
        peer.reset() if by_reset else peer.connection.close()

    server = serve(behave)
    with HttpClient(server.url, retry=AT_ONCE) as client:
        outcome = client.get("/", into=list[int])
        assert isinstance(outcome, Ok), outcome
        assert (outcome.value.value, outcome.value.attempts) == ([1], 2)
        error = failure(client.post("/", json={"n": 1}), ConnectionFailed)
    assert error.was_sent
    assert len(server.requests) == 3


LONG = HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(100_000)
UNREADABLE = HEAD + b"Content-Encoding: gzip\r\nContent-Length: 99999\r\n\r\n" + bytes(99_999)


def got(client: HttpClient) -> None:
    client.get("/")


def streamed(client: HttpClient, pieces: int) -> None:
    with client.stream("GET", "/") as outcome:
        list(islice(outcome.unwrap().chunks(10), pieces))


def unreadable(client: HttpClient) -> None:
    with pytest.raises(DecodeError):
        streamed(client, 3)


@pytest.mark.parametrize(
    ("sent", "call"),
    [
        *((data, got) for data, _ in BREAKS.values()),
        (LONG, got),
        (LONG.replace(b"200 OK", b"503 Unavailable"), got),
        (LONG.replace(b"200 OK\r\n", b"302 Found\r\nLocation: /\r\n"), got),
        (UNREADABLE, got),
        (LONG, partial(streamed, pieces=0)),
        (LONG, partial(streamed, pieces=3)),
        (LONG, partial(streamed, pieces=100_000)),
        (UNREADABLE, unreadable),
    ],
)
def test_the_place_of_a_connection_is_free_afterwards_whatever_came_of_it(
    serve: Serve, sent: bytes, call: Callable[[HttpClient], object]
) -> None:
    def behave(peer: Peer) -> None:
        if peer.number == 1:
            peer.send(sent)
            if sent not in (LONG, UNREADABLE):
                peer.connection.shutdown(socket.SHUT_WR)
        else:
            peer.send(answer(b"[1]"))

    limits = Limits(pool=1, max_response_bytes=50_000)
    with HttpClient(serve(behave).url, retry=ONCE, limits=limits, timeout=5) as client:
        call(client)
        assert client.get("/").is_ok


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_what_comes_before_the_answer_is_passed_by(serve: Serve, interim: bytes) -> None:
    """Or the answer would be taken for that of the next request."""

    def behave(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 " + interim + b"\r\nLink: </a.css>\r\n\r\n")
        peer.drip(b"HTTP/1.1 " + interim + b"\r\n\r\n", every=0.001)
        peer.send(answer(b"[%d]" % peer.number))

    server = serve(behave)
    with HttpClient(server.url, retry=ONCE) as client:
        values = [client.get("/", into=list[int]).unwrap().value for _ in range(3)]
    assert (values, server.connections) == ([[1], [2], [3]], 1)


@pytest.mark.parametrize(
    "head",
    [
        b"101 Switching Protocols\r\nUpgrade: h2c\r\n",
        b"200 OK\r\nno colon\r\nContent-Length: 3\r\nSet-Cookie: s=s3cr3t\r\n",
        b"200 OK\r\nContent-Type: multipart/mixed; boundary=x\r\nno colon\r\n",
    ],
)
def test_headers_that_make_no_sense_are_told_and_in_no_log(
    serve: Serve, caplog: pytest.LogCaptureFixture, head: bytes
) -> None:
    server = serve(lambda peer: peer.send(b"HTTP/1.1 " + head + b"\r\nabc"))
    with HttpClient(server.url, retry=ONCE, timeout=5) as client:
        error = failure(client.get("/", params={"key": "s3cr3t"}), ConnectionFailed)
    assert error.was_sent
    assert "s3cr3t" not in str(error) + caplog.text


@pytest.mark.parametrize("line", [b" folded: x", b": no name", b"X: \xff\xfe"])
def test_a_header_that_is_wrong_costs_no_more_than_itself(
    serve: Serve, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    server = serve(
        lambda peer: peer.send(HEAD + line + b"\r\nContent-Length: 3\r\nX-Id: 7\r\n\r\nabc")
    )
    with HttpClient(server.url, retry=ONCE, timeout=5) as client:
        response = client.get("/", params={"key": "s3cr3t"}).unwrap()
    assert (response.content, response.headers["x-id"]) == (b"abc", "7")
    assert "s3cr3t" not in caplog.text


def test_where_nothing_listens_a_post_is_tried_again() -> None:
    client = HttpClient("http://127.0.0.1:1", retry=AT_ONCE, timeout=5)
    error = failure(client.post("/", json={}))
    assert error.code == "retries_exhausted"
    assert [attempt.cause.code for attempt in error.attempts] == ["connection_failed"] * 3
    assert not error.last.was_sent
    assert "refused" in error.last.message


def test_a_name_that_does_not_exist_is_told() -> None:
    client = HttpClient("http://no-such-host.invalid", retry=ONCE)
    error = failure(client.get("/"), ConnectionFailed)
    assert not error.was_sent
    assert "resolved" in error.message


# --- time limits ------------------------------------------------------------------------------


def timed(call: Any) -> tuple[Any, float]:
    start = time.monotonic()
    return call(), time.monotonic() - start


def test_silence_runs_into_the_read_limit(serve: Serve) -> None:
    server = serve(lambda peer: peer.hang())
    client = HttpClient(server.url, retry=ONCE, timeout=Timeout(read=0.2, total=5))
    outcome, taken = timed(lambda: client.get("/"))
    error = failure(outcome, TimedOut)
    assert (error.phase, error.limit.total_seconds(), error.was_sent) == ("read", 0.2, True)
    assert 0.2 <= taken < 3


DRIPS = {
    "headers": HEAD + b"X-Long: " + b"x" * 10_000,
    "body": HEAD + b"Content-Length: 10000\r\n\r\n" + b"x" * 10_000,
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
    "compressed": HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(range(256)) * 99),
}


@pytest.mark.parametrize("what", DRIPS)
def test_a_drip_of_bytes_cannot_stretch_the_total(serve: Serve, what: str) -> None:
    server = serve(lambda peer: peer.drip(DRIPS[what]))
    client = HttpClient(server.url, timeout=Timeout(read=5, total=0.4), retry=ONCE)
    outcome, taken = timed(lambda: client.get("/"))
    error = failure(outcome, TimedOut)
    assert (error.phase, error.limit.total_seconds()) == ("total", 0.4)
    assert 0.4 <= taken < 3


def test_the_total_bounds_all_tries_and_their_waits(serve: Serve) -> None:
    server = serve(lambda peer: peer.send(answer(status="503 Busy", headers="Retry-After: 1\r\n")))
    client = HttpClient(server.url, timeout=1.5, retry=RetryPolicy(attempts=10))
    outcome, taken = timed(lambda: client.get("/"))
    error = failure(outcome)
    assert error.code == "retries_exhausted"
    assert len(error.attempts) == 2
    assert taken < 1.5


def test_a_receiver_that_does_not_read_runs_into_the_limit(serve: Serve) -> None:
    server = serve(lambda peer: peer.hang())
    server.is_deaf = True
    client = HttpClient(server.url, timeout=Timeout(read=0.3, total=5), retry=ONCE)
    outcome, taken = timed(lambda: client.put("/", content=b"x" * 50_000_000))
    assert failure(outcome, TimedOut).was_sent
    assert taken < 4


def test_a_connection_that_is_not_made_runs_into_the_connect_limit() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = []
        for _ in range(8):  # what the system queues beyond the backlog
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
            waiting.append(each)
        limits = Timeout(connect=0.3, total=5)
        client = HttpClient(f"http://127.0.0.1:{port}", timeout=limits, retry=ONCE)
        error = failure(client.post("/"), TimedOut)
        for each in waiting:
            each.close()
    assert (error.phase, error.was_sent) == ("connect", False)


def test_a_name_that_is_not_resolved_in_time_runs_into_the_connect_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **given: is_over.wait(60) and [])
    limits = Timeout(connect=0.2, total=5)
    outcome, taken = timed(
        lambda: HttpClient("http://crm.test", timeout=limits, retry=ONCE).get("/")
    )
    is_over.set()
    error = failure(outcome, TimedOut)
    assert (error.phase, error.limit.total_seconds(), error.was_sent) == ("connect", 0.2, False)
    assert 0.2 <= taken < 3


def test_waiting_for_a_free_connection_has_a_limit_too(serve: Serve) -> None:
    entered = threading.Event()

    def behave(peer: Peer) -> None:
        entered.set()
        peer.hang()

    server = serve(behave)
    client = HttpClient(
        server.url, limits=Limits(pool=1), timeout=Timeout(connect=0.2, total=5), retry=ONCE
    )
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: client.get("/", timeout=1.5))
        assert entered.wait(5)
        error = failure(client.get("/"), TimedOut)
    assert (error.phase, error.was_sent) == ("pool", False)


# --- bodies -----------------------------------------------------------------------------------


def test_a_gzip_bomb_stops_at_the_limit(serve: Serve) -> None:
    bomb = gzip.compress(bytes(200_000_000), 9)
    server = serve(lambda peer: peer.send(answer(bomb, headers="Content-Encoding: gzip\r\n")))
    client = HttpClient(server.url, limits=Limits(max_response_bytes=1_000_000))
    outcome, taken = timed(lambda: client.get("/"))
    assert failure(outcome, ResponseTooLarge).limit == 1_000_000
    assert taken < 2


def test_chunks_without_end_stop_at_the_limit(serve: Serve) -> None:
    def behave(peer: Peer) -> None:
        peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            peer.send(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")

    client = HttpClient(serve(behave).url, limits=Limits(max_response_bytes=100_000))
    assert failure(client.get("/"), ResponseTooLarge).limit == 100_000


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_is_the_last_size_that_is_taken(serve: Serve, extra: int) -> None:
    server = serve(lambda peer: peer.send(answer(b"x" * (1_000 + extra))))
    client = HttpClient(server.url, limits=Limits(max_response_bytes=1_000))
    assert client.get("/").is_ok is (extra == 0)


def test_a_broken_encoding_is_a_decode_error(serve: Serve) -> None:
    headers = "Content-Encoding: gzip\r\n"
    server = serve(lambda peer: peer.send(answer(b"not gzip at all", headers=headers)))
    assert "encoding" in failure(HttpClient(server.url).get("/"), DecodeError).problem


def test_too_many_headers_are_refused(serve: Serve) -> None:
    server = serve(lambda peer: peer.send(HEAD + b"X: y\r\n" * 5_000 + b"\r\n"))
    failure(HttpClient(server.url, retry=ONCE).get("/"), ConnectionFailed)


# --- redirects --------------------------------------------------------------------------------


def test_a_redirect_without_end_stops_after_five(serve: Serve) -> None:
    server = serve(lambda peer: peer.send(answer(status="302 Found", headers="Location: /\r\n")))
    error = failure(HttpClient(server.url).get("/"), TooManyRedirects)
    assert error.most == 5
    assert len(server.requests) == 6
    assert server.connections == 1


@pytest.mark.parametrize(
    ("status", "method", "becomes", "keeps_body"),
    [
        (301, "GET", "GET", False),
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (302, "PUT", "PUT", True),
        (303, "PUT", "GET", False),
        (303, "HEAD", "HEAD", False),
        (307, "POST", "POST", True),
        (308, "PUT", "PUT", True),
    ],
)
def test_a_redirect_keeps_to_the_method_rules(
    serve: Serve, status: int, method: str, becomes: str, keeps_body: bool
) -> None:
    def behave(peer: Peer) -> None:
        if peer.number == 1:
            peer.send(answer(b"", status=f"{status} Moved", headers="Location: /there?a=1\r\n"))
        else:
            peer.send(answer(b""))

    server = serve(behave)
    content = None if method in ("GET", "HEAD") else b"the body"
    outcome = HttpClient(server.url + "/v1").request(method, "/here", content=content)
    assert isinstance(outcome, Ok), outcome
    second = server.requests[1]
    assert second.split(b" HTTP")[0] == f"{becomes} /there?a=1".encode()
    assert second.endswith(b"the body") is keeps_body
    assert outcome.value.url == f"{server.url}/there?a=1"


def test_credentials_do_not_go_to_another_origin(serve: Serve) -> None:
    other = serve(lambda peer: peer.send(answer()))

    def behave(peer: Peer) -> None:
        peer.send(answer(status="307 Moved", headers=f"Location: {other.url}/\r\n"))

    headers = {"Authorization": "Bearer s3cr3t", "Cookie": "s3cr3t", "X-Kept": "kept"}
    client = HttpClient(serve(behave).url, headers=headers)
    assert client.get("/").is_ok
    assert b"s3cr3t" not in other.requests[0]
    assert b"X-Kept: kept" in other.requests[0]


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/a b", b"/a%20b"),
        ("/ü?n=ü", b"/%C3%BC?n=%C3%BC"),
        ("/%C3%BC#there", b"/%C3%BC"),
        ("?a=1", b"/here?a=1"),
        ("/a\tb", b"/a%09b"),
    ],
)
def test_a_location_is_read_as_it_is_meant(serve: Serve, location: str, path: bytes) -> None:
    def behave(peer: Peer) -> None:
        if peer.number == 1:
            peer.send(b"HTTP/1.1 302 Found\r\nLocation: " + location.encode() + b"\r\n")
            peer.send(b"Content-Length: 0\r\n\r\n")
        else:
            peer.send(answer())

    server = serve(behave)
    assert HttpClient(server.url).get("/here").is_ok
    assert server.requests[1].split(b" ")[1] == path


@pytest.mark.parametrize(
    "location",
    ["ftp://127.0.0.1/", "http://user:pass@127.0.0.1/", "http://[::1", "javascript:alert(1)", ""],
)
def test_a_redirect_that_is_not_safe_is_not_followed(serve: Serve, location: str) -> None:
    headers = f"Location: {location}\r\n" if location else ""
    server = serve(lambda peer: peer.send(answer(status="302 Found", headers=headers)))
    error = failure(HttpClient(server.url).get("/"), StatusError)
    assert error.status == 302
    assert "not followed" in error.message
    assert len(server.requests) == 1


def test_a_stream_is_not_sent_twice_by_a_redirect(serve: Serve) -> None:
    server = serve(lambda peer: peer.send(answer(status="307 Moved", headers="Location: /\r\n")))
    error = failure(HttpClient(server.url).post("/", content=iter([b"a"])), StatusError)
    assert error.status == 307


# --- many threads -----------------------------------------------------------------------------


def test_many_threads_share_a_client_and_mix_nothing_up(serve: Serve) -> None:
    def behave(peer: Peer) -> None:
        number = peer.request.split()[1].rpartition(b"/")[2]
        peer.send(answer(number))

    server = serve(behave)
    with HttpClient(server.url, limits=Limits(pool=7), timeout=60) as client:

        def ask(number: int) -> tuple[int, int]:
            return number, client.get(f"/n/{number}", into=int).unwrap().value

        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(ask, range(5_000)))
    assert all(number == found for number, found in answers)
    assert len(server.requests) == 5_000
    assert server.most_at_once <= 7
    assert server.connections <= 7

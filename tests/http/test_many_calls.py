"""Whatever a server answers, call after call: each has its own, and the client stays whole."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration_hub import HttpClient, HttpError, Limits, RetryPolicy
from integration_hub.http import Backoff
from integration_hub.http.transport import UrllibTransport
from raw_server import Peer, Serve, answer

PLACES = 2
MOST = 20_000
OK = b"HTTP/1.1 200 OK\r\n"


def own(peer: Peer) -> bytes:
    """What this very request is answered: its path."""
    return peer.request.split(b" ")[1]


def chunked(peer: Peer) -> bytes:
    body = own(peer)
    return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def long(peer: Peer) -> bytes:
    return own(peer).ljust(MOST + 1, b"x")


def closes(peer: Peer, sent: bytes = b"") -> None:
    peer.send(sent)
    peer.connection.close()


ANSWERS: dict[str, Callable[[Peer], None]] = {
    "plain": lambda peer: peer.send(answer(own(peer))),
    "chunks": lambda peer: peer.send(OK + chunked(peer)),
    "gzip": lambda peer: peer.send(
        answer(gzip.compress(own(peer)), headers="Content-Encoding: gzip\r\n")
    ),
    "no gzip": lambda peer: peer.send(answer(own(peer), headers="Content-Encoding: gzip\r\n")),
    "interim": lambda peer: peer.send(b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" + answer(own(peer))),
    "until the end": lambda peer: closes(peer, OK + b"\r\n" + own(peer)),
    "empty": lambda peer: peer.send(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "refusal": lambda peer: peer.send(answer(own(peer), status="404 Not Found")),
    "failure": lambda peer: peer.send(answer(long(peer), status="503 Unavailable")),
    "too long": lambda peer: peer.send(answer(long(peer))),
    "elsewhere": lambda peer: peer.send(
        answer(b"moved", status="302 Found", headers="Location: " + own(peer).decode() + "x\r\n")
    ),
    "more than it says": lambda peer: peer.send(answer(own(peer)) + answer(b"another's")),
    "less than it says": lambda peer: closes(peer, OK + b"Content-Length: 99\r\n\r\nabc"),
    "no chunks": lambda peer: closes(peer, OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "no headers": lambda peer: closes(peer, OK + b"no colon\r\n\r\n"),
    "no HTTP": lambda peer: closes(peer, b"SSH-2.0\r\n"),
    "an end": closes,
    "a reset": lambda peer: peer.reset(),
}


def got(client: HttpClient, path: str) -> bytes | None:
    outcome = client.get(path)
    return outcome.unwrap().content if outcome.is_ok else None


def posted(client: HttpClient, path: str) -> bytes | None:
    outcome = client.post(path, content=bytes(100_000), idempotency_key="k")
    return outcome.unwrap().content if outcome.is_ok else None


def read(client: HttpClient, path: str) -> bytes | None:
    with suppress(HttpError), client.stream("GET", path) as outcome:
        return b"".join(outcome.unwrap().chunks(3))
    return None


def left(client: HttpClient, path: str) -> bytes | None:
    with suppress(HttpError), client.stream("GET", path) as outcome:
        next(outcome.unwrap().chunks(1), None)
    return None


CALLS = {call.__name__: call for call in (got, posted, read, left)}
#: Calls, each with what its requests are answered: retries and redirects are requests, too.
STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(CALLS)), st.lists(st.sampled_from(sorted(ANSWERS)))),
    min_size=1,
    max_size=12,
)


@given(steps=STEPS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_call_has_its_own_answer_and_leaves_its_place(
    serve: Serve, steps: list[tuple[str, list[str]]]
) -> None:
    script: list[str] = []

    def behave(peer: Peer) -> None:
        ANSWERS[script.pop(0) if script else "plain"](peer)

    limits = Limits(pool=PLACES, max_response_bytes=MOST)
    transport = UrllibTransport(limits=limits)
    retry = RetryPolicy(attempts=2, backoff=Backoff(base=0))
    url = serve(behave).url
    with HttpClient(url, limits=limits, retry=retry, timeout=5, transport=transport) as client:
        for number, (call, answers) in enumerate(steps):
            script[:] = answers
            found = CALLS[call](client, f"/{number}")
            assert found is None or found.rstrip(b"x") in (b"", b"/%d" % number)
            (pool,) = transport._pools.values()
            assert pool.pool is not None
            assert pool.pool.qsize() == PLACES
        script.clear()
        assert got(client, "/last") == b"/last"

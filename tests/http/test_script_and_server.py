"""The scripted transport beside a real server that answers the same: no client can tell."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration_hub import HttpClient, HttpError, Limits, Ok, Result, RetryPolicy
from integration_hub.http import Backoff, HttpStream
from integration_hub.testing import ScriptedTransport
from raw_server import Peer, Serve

STATUSES = [200, 201, 202, 204, 205, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 404, 408]
STATUSES += [410, 425, 429, 500, 501, 502, 503, 504, 599]
BODIES = [b"", b"null", b"1", b'"x"', b"{", b"no JSON", b"\xff\xfe", "ü".encode("latin-1")]
BODIES += [b"x" * 3_000, b"[" * 2_000, b"\xef\xbb\xbf7", b"a\r\nb\nc"]
HEADERS: list[dict[str, str]] = [
    {},
    {"Content-Type": "application/json"},
    {"Content-Type": "text/html"},
    {"Content-Type": "application/json; charset=latin-1"},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Encoding": "gzip"},  # and the body is none
    {"Retry-After": "0"},
    {"Location": "/elsewhere"},
    {"Location": "ftp://x"},
    {"X-Request-Id": "abc"},
]


@dataclass
class Answer:
    """What is answered, as a server sends it and as a script says it."""

    status: int
    headers: dict[str, str]
    content: bytes

    def send(self, peer: Peer) -> None:
        content = b"" if self.status in (204, 304) else self.content
        fields = {**self.headers, "Content-Length": str(len(content))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        is_shown = not peer.request.startswith(b"HEAD ")
        peer.send(f"HTTP/1.1 {self.status} So\r\n{head}\r\n".encode() + content * is_shown)


def zipped(answer: Answer) -> Answer:
    headers = {**answer.headers, "Content-Encoding": "gzip"}
    return Answer(answer.status, headers, gzip.compress(answer.content))


ANSWERS = st.builds(
    Answer, st.sampled_from(STATUSES), st.sampled_from(HEADERS), st.sampled_from(BODIES)
)
OK = Answer(200, {}, b"7")
REDIRECTS, ATTEMPTS = 2, 3


@dataclass
class Question:
    """A call, and the answers to it and to what follows of it."""

    method: str
    into: Any
    body: dict[str, Any]
    is_streamed: bool
    answers: list[Answer] = field(default_factory=list)

    def asked_of(self, client: HttpClient) -> tuple[Any, ...]:
        """All that a caller sees of what came of it, but for how long it took."""
        if self.is_streamed:
            with client.stream(self.method, "x?q=1", **self.body) as streamed:
                return _read(streamed)
        outcome = client.request(self.method, "x?q=1", into=self.into, **self.body)
        if isinstance(outcome, Ok):
            found = outcome.value
            seen = (found.content, found.text, found.value, found.attempts, found.request_id)
            return (found.status, found.url, *seen)
        return _seen(outcome.error)


def _read(streamed: Result[HttpStream, HttpError]) -> tuple[Any, ...]:
    if not isinstance(streamed, Ok):
        return _seen(streamed.error)
    found = streamed.value
    lines: list[str] = []
    try:
        lines += found.lines()
    except HttpError as error:
        return (found.status, found.url, *_seen(error))
    return (found.status, found.url, lines)


def _seen(error: HttpError) -> tuple[Any, ...]:
    return (error.message, error.is_retryable, _kept(error), _kept(getattr(error, "last", {})))


def _kept(error: Any) -> dict[str, Any]:
    return {name: value for name, value in getattr(error, "__dict__", {}).items() if _plain(value)}


def _plain(value: object) -> bool:
    return not isinstance(value, BaseException | list | tuple)


QUESTIONS = st.builds(
    Question,
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]),
    st.sampled_from([None, int, str, list[int]]),
    st.sampled_from([{}, {"json": 1}, {"content": b"x", "idempotency_key": "k"}]),
    st.booleans(),
    st.lists(ANSWERS | ANSWERS.map(zipped), max_size=4),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=st.lists(QUESTIONS, min_size=1, max_size=3))
def test_a_script_answers_as_a_server_does(serve: Serve, questions: list[Question]) -> None:
    to_come: list[Answer] = []
    server = serve(lambda peer: to_come.pop(0).send(peer))
    script = ScriptedTransport()
    options: dict[str, Any] = {
        "retry": RetryPolicy(attempts=ATTEMPTS, backoff=Backoff(base=0)),
        "limits": Limits(max_response_bytes=1_000, max_redirects=REDIRECTS),
    }
    with (
        HttpClient(server.url, **options) as real,
        HttpClient(server.url, transport=script, **options) as scripted,
    ):
        for question in questions:
            answers = [*question.answers, *[OK] * ATTEMPTS * (REDIRECTS + 1)]
            to_come[:] = answers
            script._script.clear()
            for each in answers:
                script.reply(each.status, headers=each.headers, content=each.content)
            assert question.asked_of(scripted) == question.asked_of(real)
            assert script.left == len(to_come)
    server.close()

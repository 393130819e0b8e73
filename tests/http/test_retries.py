"""Which request is tried again, when, and how often: by a transport that plays a script."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from integration_hub import (
    ConnectionFailed,
    DecodeError,
    Err,
    HttpClient,
    Ok,
    RetriesExhausted,
    StatusError,
    TimedOut,
    ValidationError,
)
from integration_hub.http import (
    Backoff,
    OAuth2ClientCredentials,
    RetryBudget,
    RetryPolicy,
    Timeout,
)
from integration_hub.testing import ScriptedTransport

AT_ONCE = RetryPolicy(backoff=Backoff(base=0, jitter="none"))
DOCS = Path(__file__).parents[2] / "docs"


def client(transport: ScriptedTransport, **options: Any) -> HttpClient:
    return HttpClient(
        "https://crm.example.com", transport=transport, **{"retry": AT_ONCE, **options}
    )


def matrix() -> Iterator[tuple[str, bool, str, bool]]:
    """The table of docs/http.md: method, whether with a key, what happens, whether tried again."""
    text = (DOCS / "http.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"(\| method \|.*?)\n\n", text, re.DOTALL)
    head, _, *lines = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.split("\n")]
    for methods, key, *cells in lines:
        for method in methods.split(", "):
            for failure, cell in zip(head[2:], cells, strict=True):
                assert cell in ("again", "–"), cell  # noqa: RUF001 - as the page has it
                yield method, key == "yes", failure, cell == "again"


PLAYS = {
    "not sent": lambda script: script.fail(was_sent=False),
    "no connection in time": lambda script: script.hang(was_sent=False),
    "sent, no answer": lambda script: script.fail(was_sent=True),
    "no answer in time": lambda script: script.hang(was_sent=True),
    "408, 425, 429, 500, 502, 503, 504": lambda script: script.reply(503),
    "another status": lambda script: script.reply(501),
}


@pytest.mark.parametrize(("method", "has_key", "failure", "is_tried_again"), list(matrix()))
def test_a_request_is_tried_again_as_the_docs_have_it(
    method: str, has_key: bool, failure: str, is_tried_again: bool
) -> None:
    transport = PLAYS[failure](ScriptedTransport()).reply(200)
    key = "key-1" if has_key else None
    outcome = client(transport).request(method, "/x", idempotency_key=key)
    assert outcome.is_ok is is_tried_again
    assert len(transport.requests) == (2 if is_tried_again else 1)
    if has_key:
        assert {request.headers["idempotency-key"] for request in transport.requests} == {"key-1"}


def test_the_matrix_has_every_method_with_and_without_a_key() -> None:
    asked = {(method, key) for method, key, _, _ in matrix()}
    assert len(asked) == 2 * 7
    assert {failure for _, _, failure, _ in matrix()} == set(PLAYS)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_these_statuses_are_tried_again(status: int) -> None:
    transport = ScriptedTransport().reply(status).reply(status).reply(200, json=[1])
    outcome = client(transport).get("/x")
    assert isinstance(outcome, Ok)
    assert (outcome.value.attempts, outcome.value.json()) == (3, [1])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 501, 505])
def test_other_statuses_are_an_answer(status: int) -> None:
    transport = ScriptedTransport().reply(status, content=b"no such thing")
    outcome = client(transport).get("/x?token=s3cr3t")
    assert isinstance(outcome, Err)
    error = outcome.error
    assert isinstance(error, StatusError)
    assert (error.status, error.body, error.is_retryable) == (status, "no such thing", False)
    assert (error.method, error.url) == ("GET", "https://crm.example.com/x")


def test_giving_up_lists_every_try_with_its_cause_and_wait() -> None:
    transport = ScriptedTransport().reply(503).fail("reset").hang()
    backoff = Backoff(base=1, factor=3, jitter="none")
    outcome = client(transport, retry=RetryPolicy(backoff=backoff), timeout=Timeout(read=2)).get(
        "/"
    )
    assert isinstance(outcome, Err)
    error = outcome.error
    assert isinstance(error, RetriesExhausted)
    assert [type(attempt.cause) for attempt in error.attempts] == [
        StatusError,
        ConnectionFailed,
        TimedOut,
    ]
    assert [attempt.wait.total_seconds() for attempt in error.attempts] == [1, 3, 0]
    assert [attempt.number for attempt in error.attempts] == [1, 2, 3]
    assert error.last is error.attempts[-1].cause
    assert "status_error, connection_failed, timed_out" in error.message
    assert transport.waits == [1, 3]


def test_a_later_answer_that_is_final_is_told_as_it_is() -> None:
    outcome = client(ScriptedTransport().reply(503).reply(404)).get("/")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert outcome.error.status == 404


def test_waits_grow_up_to_their_cap_and_are_jittered() -> None:
    plain = Backoff(base=0.5, factor=2, cap=3, jitter="none")
    assert [plain.wait(n) for n in range(1, 6)] == [0.5, 1, 2, 3, 3]
    full = [Backoff(base=1, cap=1).wait(1) for _ in range(200)]
    assert 0 <= min(full) < 0.2
    assert 0.8 < max(full) <= 1
    assert Backoff().wait(10_000) <= 20


@pytest.mark.parametrize(
    ("header", "date", "wait"),
    [
        ("7", None, 7),
        ("0", None, 0),
        ("86400", None, 60),
        ("Wed, 21 Oct 2026 07:28:09 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 9),
        ("Wed, 21 Oct 2026 07:28:09 GMT", "Wed, 21 Oct 2026 07:28:00 -0000", 9),
        ("Wed, 21 Oct 2026 07:28:09 -0000", "Wed, 21 Oct 2026 07:28:00 GMT", 9),
        ("Wed, 21 Oct 2026 07:00:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 0),
        ("Wed, 21 Oct 1998 07:28:00 GMT", None, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", 60),
        ("soon", None, 0.25),
        ("-5", None, 0.25),
        ("²", None, 0.25),
    ],
)
def test_retry_after_is_heeded_up_to_its_cap(header: str, date: str | None, wait: float) -> None:
    headers = {"Retry-After": header, **({"Date": date} if date else {})}
    transport = ScriptedTransport().reply(503, headers=headers).reply(200)
    policy = RetryPolicy(backoff=Backoff(base=0.25, jitter="none"))
    outcome = client(transport, retry=policy, timeout=Timeout(total=100)).get("/")
    assert outcome.is_ok
    assert transport.waits == [wait]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3600", 3_600), ("999999999999", 10**9), ("Fri, 31 Dec 9999 23:59:59 GMT", 10**9)],
)
def test_what_was_asked_for_is_kept_in_the_error(header: str, seconds: int) -> None:
    transport = ScriptedTransport().reply(429, headers={"Retry-After": header})
    outcome = client(transport, retry=RetryPolicy(attempts=1)).get("/")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert outcome.error.retry_after == timedelta(seconds=seconds)
    assert outcome.error.is_retryable


def test_a_budget_holds_no_more_than_its_capacity_and_a_success_gives_back_what_it_cost() -> None:
    failed = ConnectionFailed("cut", method="GET", url="https://crm.test/", was_sent=True)
    late = TimedOut(
        "read", timedelta(seconds=1), method="GET", url="https://crm.test/", was_sent=True
    )
    budget = RetryBudget(20, cost=5, timeout_cost=15)
    assert [budget.spend(failed), budget.spend(late), budget.spend(failed)] == [5, 15, 0]
    assert budget.left == 0
    lefts = []
    for spent in (0, 15, 0, 5):
        budget.give_back(spent)
        lefts.append(budget.left)
    assert lefts == [1, 16, 17, 20]


def test_no_wait_goes_beyond_the_total() -> None:
    transport = ScriptedTransport().reply(503, headers={"Retry-After": "20"})
    outcome = client(transport, timeout=10).get("/")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, RetriesExhausted)
    assert "after the time limit" in outcome.error.message
    assert transport.waits == []


def test_the_total_counts_from_the_call_over_all_tries() -> None:
    transport = ScriptedTransport().reply(503, after=4).reply(503, after=4).reply(200, after=4)
    outcome = client(transport, timeout=10).get("/")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, RetriesExhausted)
    last = outcome.error.last
    assert isinstance(last, TimedOut)
    assert last.phase == "total"
    assert transport.now() == 10


def test_an_outage_uses_up_the_budget_and_success_gives_back() -> None:
    budget = RetryBudget(20, cost=5, timeout_cost=10)
    policy = RetryPolicy(attempts=2, backoff=AT_ONCE.backoff, budget=budget)
    transport = ScriptedTransport()
    caller = client(transport, retry=policy)
    for _ in range(4):
        transport.reply(500).reply(500)
        assert not caller.get("/").is_ok
    assert budget.left == 0
    transport.reply(500)
    outcome = caller.get("/")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, RetriesExhausted)
    assert "budget" in outcome.error.message
    assert len(outcome.error.attempts) == 1
    for _ in range(5):
        transport.reply(200)
        assert caller.get("/").is_ok
    assert budget.left == 5
    transport.reply(500).reply(200)
    assert caller.get("/").is_ok
    assert budget.left == 5  # what the retry had cost came back


def test_a_time_out_costs_more() -> None:
    budget = RetryBudget(10)
    transport = ScriptedTransport().hang().reply(500)
    policy = RetryPolicy(attempts=2, backoff=AT_ONCE.backoff, budget=budget)
    assert not client(transport, retry=policy).get("/").is_ok
    assert budget.left == 0


def test_a_stream_that_cannot_go_back_is_sent_once() -> None:
    transport = ScriptedTransport().reply(503).reply(200)
    outcome = client(transport).put("/x", content=iter([b"a", b"b"]))
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert [request.body for request in transport.requests] == [b"ab"]


def test_a_stream_that_was_not_begun_is_sent_by_the_next_try() -> None:
    tokens, transport = ScriptedTransport(), ScriptedTransport()
    tokens.reply(503).reply(200, json={"access_token": "t"})
    logins = HttpClient(transport=tokens, retry=RetryPolicy(attempts=1))
    auth = OAuth2ClientCredentials("https://login.test/token", "id", "secret", client=logins)
    transport.reply(200)
    assert client(transport, auth=auth).put("/x", content=iter([b"a", b"b"])).is_ok
    assert [request.body for request in transport.requests] == [b"ab"]


def test_a_file_goes_back_to_where_it_stood() -> None:
    transport = ScriptedTransport().reply(503).reply(200)
    file = io.BytesIO(b"skipped:content")
    file.seek(8)
    assert client(transport).put("/x", content=file).is_ok
    assert [request.body for request in transport.requests] == [b"content", b"content"]
    assert {request.headers["content-length"] for request in transport.requests} == {"7"}


def test_what_cannot_be_decoded_is_not_tried_again() -> None:
    transport = ScriptedTransport().reply(200, json={"id": "x"})
    outcome = client(transport).get("/", into=list[int])
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, DecodeError)


def test_each_try_has_its_number() -> None:
    transport = ScriptedTransport().reply(503).reply(503).reply(200)
    assert client(transport).get("/").is_ok
    assert [request.attempt for request in transport.requests] == [1, 2, 3]


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("retry.attempts", lambda: RetryPolicy(attempts=0)),
        ("retry.retry_after_cap", lambda: RetryPolicy(retry_after_cap=-1)),
        ("backoff.base", lambda: Backoff(base=-1)),
        ("backoff.jitter", lambda: Backoff(jitter="some")),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        ("timeout.total", lambda: Timeout(total=0)),
        ("timeout.read", lambda: Timeout(read=-1)),
        ("budget.capacity", lambda: RetryBudget(-1)),
    ],
)
def test_a_policy_is_checked_when_it_is_made(field: str, make: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        make()
    assert refused.value.field == field

"""The dispatcher, on every store, against real servers that behave and misbehave."""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import URL, create_engine, text
from werkzeug import Request, Response

from integration_hub import (
    EVERY_TENANT,
    AttemptOutcome,
    DeliveryNotFound,
    Hub,
    HubSettings,
    Integration,
    LeaseLost,
    QueryTimeout,
    ValidationError,
    Webhook,
    WebhookAttempt,
    WebhookDelivery,
    WebhookDispatcher,
    WebhookMessage,
    new_secret,
    public_key,
    verify,
)
from integration_hub.delivery.pace import Pace
from integration_hub.domain.webhook_message import DeliveryOptions
from integration_hub.http.client import USER_AGENT
from integration_hub.http.messages import HttpRequest
from integration_hub.http.sockets import Deadline
from integration_hub.http.transport import Reply
from integration_hub.testing import (
    IntegrationFactory,
    ManualClock,
    ScriptedTransport,
    WebhookFactory,
)
from raw_server import Peer, Serve


def add_webhook(hub: Hub, url: str, **fields: Any) -> Webhook:
    with hub.unit_of_work() as uow:
        parent: Integration = IntegrationFactory(active=True, store=uow)
        given = {"url": url, "events": ["*"], **fields}
        webhook: Webhook = WebhookFactory(store=uow, integration_id=parent.id, **given)
        uow.commit()
    return webhook


def publish(hub: Hub, data: Any = None) -> WebhookMessage:
    with hub.unit_of_work() as uow:
        message = uow.messages.publish("invoice.paid", data)
        uow.commit()
    return message


def deliveries(hub: Hub, message: WebhookMessage) -> list[WebhookDelivery]:
    with hub.unit_of_work() as uow:
        return uow.messages.deliveries(message.id)


def log_of(hub: Hub, message: WebhookMessage) -> list[WebhookAttempt]:
    with hub.unit_of_work() as uow:
        (delivery,) = uow.messages.deliveries(message.id)
        return uow.messages.attempts(delivery.id)


def secrets_of(hub: Hub, webhook: Webhook) -> list[str]:
    with hub.unit_of_work() as uow:
        found = [each.secret for each in uow.secrets.of(webhook.id)]
        uow.commit()
    return found


@pytest.fixture
def threaded() -> Iterator[HTTPServer]:
    """A server that answers many at once."""
    with HTTPServer(threaded=True) as server:
        yield server


def dispatcher(hub: Hub, **options: Any) -> WebhookDispatcher:
    return WebhookDispatcher(hub, **{"allow_networks": ["127.0.0.0/8"], **options})


@contextmanager
def at_work(sender: WebhookDispatcher) -> Iterator[Future[None]]:
    """It delivers, in a thread, for the length of the block, and has ended well after it."""
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(sender.run_forever)
        try:
            yield working
        finally:
            sender.stop()
            working.result(30)


def answers_once_released(server: HTTPServer, path: str) -> threading.Event:
    release = threading.Event()

    def answer(request: Request) -> Response:
        assert release.wait(30)
        return Response("")

    server.expect_request(path).respond_with_handler(answer)
    return release


def answers_and_tells(server: HTTPServer, path: str, *, number: int) -> threading.Event:
    """Of so many requests."""
    arrived = threading.Event()

    def answer(request: Request) -> Response:
        if sum(each.path == path for each, _ in server.log) == number - 1:
            arrived.set()
        return Response("")

    server.expect_request(path).respond_with_handler(answer)
    return arrived


def test_a_message_arrives_signed_and_is_logged(each_hub: Hub, httpserver: HTTPServer) -> None:
    config = {"delivery": {"headers": {"X-Own": "yes"}}}
    webhook = add_webhook(each_hub, httpserver.url_for("/hook?x=1"), config=config)
    (secret,) = secrets_of(each_hub, webhook)
    httpserver.expect_request("/hook", "POST").respond_with_data("thanks", 202)
    message = publish(each_hub, {"id": 7, "name": "Ü"})
    assert dispatcher(each_hub).run_once() == 1
    ((request, _),) = httpserver.log
    assert verify(secret, request.headers, request.data) == message.message_id
    assert request.data == message.payload
    assert json.loads(request.data)["data"] == {"id": 7, "name": "Ü"}
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"] == USER_AGENT
    assert request.headers["X-Own"] == "yes"
    assert request.query_string == b"x=1"
    (delivery,) = deliveries(each_hub, message)
    assert (delivery.status, delivery.attempt_count) == ("delivered", 1)
    (attempt,) = log_of(each_hub, message)
    assert (attempt.response_status, attempt.response_body) == (202, "thanks")
    assert attempt.error_code is None
    assert dispatcher(each_hub).run_once() == 0


def test_who_listens_is_told_of_each_attempt(
    each_hub: Hub, hub_clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"delivery": {"retries": [1]}}
    webhook = add_webhook(each_hub, "https://crm.test/", config=config)
    message = publish(each_hub)
    heard: list[tuple[WebhookDelivery, AttemptOutcome]] = []
    secret = "s3cr3t"

    def listen(delivery: WebhookDelivery, outcome: AttemptOutcome) -> None:
        heard.append((delivery, outcome))
        raise RuntimeError(secret)

    transport = ScriptedTransport(hub_clock).reply(500).reply(204)
    sender = dispatcher(each_hub, transport=transport, on_attempt=listen)
    assert sender.run_due() == 1
    hub_clock.advance(2)
    assert sender.run_due() == 1
    assert [(each.status, outcome.status) for each, outcome in heard] == [
        ("pending", 500),
        ("delivered", 204),
    ]
    assert heard[1][0] == deliveries(each_hub, message)[0]
    assert [each.webhook and each.webhook.id for each, _ in heard] == [webhook.id] * 2
    assert {each.message and each.message.event_type for each, _ in heard} == {"invoice.paid"}
    faults = [line for line in caplog.messages if "a listener met a fault: RuntimeError" in line]
    assert len(faults) == 2
    assert secret not in caplog.text
    wrong: Any = "print"
    with pytest.raises(ValidationError, match="on_attempt must be a function"):
        dispatcher(each_hub, on_attempt=wrong)


def test_what_failed_is_sent_again_when_it_is_due(each_hub: Hub, hub_clock: ManualClock) -> None:
    config = {"delivery": {"retries": [1, 2, 3_600]}}
    add_webhook(each_hub, "https://crm.test/", config=config)
    message = publish(each_hub)
    transport = ScriptedTransport(hub_clock).reply(500).reply(503).reply(204)
    sender = dispatcher(each_hub, transport=transport, poll=3_600)
    began = time.monotonic()
    with at_work(sender) as working:
        while deliveries(each_hub, message)[0].is_open:
            assert time.monotonic() < began + 60
            assert not wait([working], 0.05).done
            hub_clock.advance(0.05)
    assert [each.response_status for each in log_of(each_hub, message)] == [500, 503, 204]


def test_only_what_is_due_before_the_next_look_is_remembered(
    each_hub: Hub, hub_clock: ManualClock
) -> None:
    add_webhook(each_hub, "https://crm.test/", config={"delivery": {"retries": [3, 60]}})
    publish(each_hub)
    transport = ScriptedTransport(hub_clock).reply(500).reply(500)
    sender = dispatcher(each_hub, transport=transport, poll=5)
    assert sender._due_in() == math.inf
    assert sender.run_once() == 1
    assert 0 < sender._due_in() < 5
    hub_clock.advance(5)
    assert sender._due_in() < 0  # it came to be due after the last claim
    assert sender.run_once() == 1
    assert sender._to_come == []  # what is over is forgotten, though nobody asks for the next
    assert sender._due_in() == math.inf  # a minute is more than the next look


def test_an_outcome_that_the_database_does_not_take_is_stored_before_the_next_claim(
    hub_postgres: Hub, hub_postgres_url: URL, httpserver: HTTPServer
) -> None:
    engine = create_engine(hub_postgres_url)
    settings = HubSettings.model_construct(lock_timeout=0.2)
    with Hub.from_url(hub_postgres_url, settings=settings) as hub, engine.connect() as other:

        def receive(request: Request) -> Response:
            other.execute(text("LOCK TABLE webhook_attempts IN EXCLUSIVE MODE"))
            return Response("thanks")

        httpserver.expect_request("/hook").respond_with_handler(receive)
        add_webhook(hub, httpserver.url_for("/hook"))
        message = publish(hub)
        sender = dispatcher(hub, grace=0.3)
        with pytest.raises(QueryTimeout):
            sender.run_once()
        assert [each.status for each in deliveries(hub_postgres, message)] == ["delivering"]
        other.rollback()
        assert sender.run_once() == 0
    engine.dispose()
    assert [each.status for each in deliveries(hub_postgres, message)] == ["delivered"]
    assert len(httpserver.log) == 1


def test_what_is_due_is_delivered_and_comes_to_an_end_however_much_is_published(
    each_hub: Hub, hub_clock: ManualClock, httpserver: HTTPServer
) -> None:
    def receive(request: Request) -> Response:
        hub_clock.advance(11)  # beyond the first retry
        publish(each_hub, len(httpserver.log))
        return Response(status=200 if len(httpserver.log) else 500)

    httpserver.expect_request("/hook").respond_with_handler(receive)
    add_webhook(each_hub, httpserver.url_for("/hook"))
    before = [publish(each_hub, -each) for each in range(3)]
    assert dispatcher(each_hub, concurrency=1).run_due() == 4
    assert len(httpserver.log) == 4
    statuses = [each.status for message in before for each in deliveries(each_hub, message)]
    assert statuses == ["pending", "delivered", "delivered"]


def test_the_id_stays_and_the_timestamp_is_that_of_the_attempt(
    each_hub: Hub, hub_clock: ManualClock, httpserver: HTTPServer
) -> None:
    add_webhook(each_hub, httpserver.url_for("/"))
    httpserver.expect_ordered_request("/").respond_with_data("no", 500)
    httpserver.expect_ordered_request("/").respond_with_data("", 200)
    message = publish(each_hub)
    sender = dispatcher(each_hub)
    assert sender.run_once() == 1
    assert sender.run_once() == 0
    hub_clock.advance(10)
    assert sender.run_once() == 1
    ids = {request.headers["webhook-id"] for request, _ in httpserver.log}
    assert ids == {message.message_id}
    told = [
        (each.number, each.response_status, each.error_code) for each in log_of(each_hub, message)
    ]
    assert told == [(1, 500, "status_error"), (2, 200, None)]


def test_while_a_secret_is_replaced_there_are_two_signatures(
    each_hub: Hub, httpserver: HTTPServer
) -> None:
    webhook = add_webhook(each_hub, httpserver.url_for("/"))
    httpserver.expect_request("/").respond_with_data("")
    (old,) = secrets_of(each_hub, webhook)
    key = new_secret("v1a")
    with each_hub.unit_of_work() as uow:
        uow.secrets.rotate(webhook.id, secret=key)
        uow.commit()
    message = publish(each_hub)
    dispatcher(each_hub).run_once()
    ((request, _),) = httpserver.log
    for secret in (old, public_key(key)):
        assert verify(secret, request.headers, request.data) == message.message_id


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (302, {"Location": "/elsewhere"}, "pending"),
        (304, {}, "pending"),
        (404, {}, "pending"),
        (503, {"Retry-After": "70"}, "pending"),
        (503, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, "pending"),
        (410, {}, "failed"),
    ],
)
def test_what_is_no_success(
    hub: Hub,
    hub_clock: ManualClock,
    httpserver: HTTPServer,
    status: int,
    headers: dict[str, str],
    expected: str,
) -> None:
    webhook = add_webhook(hub, httpserver.url_for("/"))
    httpserver.expect_request("/").respond_with_data("why", status, headers=headers)
    message = publish(hub)
    dispatcher(hub).run_once()
    assert len(httpserver.log) == 1  # no redirect is followed
    (delivery,) = deliveries(hub, message)
    assert delivery.status == expected
    (attempt,) = log_of(hub, message)
    assert (attempt.response_status, attempt.error_code) == (status, "status_error")
    if "Retry-After" in headers:
        assert delivery.next_attempt_at is not None
        wait = delivery.next_attempt_at - hub_clock.now()
        assert timedelta(seconds=70) <= wait <= timedelta(days=1)
    with hub.unit_of_work() as uow:
        assert uow.webhooks.get(webhook.id).status == ("disabled" if status == 410 else "active")


def test_an_attempt_has_fifteen_seconds_unless_a_webhook_says_less() -> None:
    assert DeliveryOptions.of(WebhookFactory.build()).timeout == timedelta(seconds=15)
    less = WebhookFactory.build(config={"delivery": {"timeout": 2}})
    assert DeliveryOptions.of(less).timeout == timedelta(seconds=2)


def hangs(peer: Peer) -> None:
    peer.hang()


def drips(peer: Peer) -> None:
    peer.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)


def resets(peer: Peer) -> None:
    peer.reset()


def babbles(peer: Peer) -> None:
    peer.send(b"what?\r\n\r\n")
    peer.reset()


@pytest.mark.parametrize(
    ("behave", "code"),
    [
        (hangs, "timed_out"),
        (drips, "timed_out"),
        (resets, "connection_failed"),
        (babbles, "connection_failed"),
    ],
)
def test_servers_that_misbehave(
    hub: Hub, serve: Serve, behave: Callable[[Peer], None], code: str
) -> None:
    server = serve(behave)
    add_webhook(hub, server.url, config={"delivery": {"timeout": 0.3}})
    message = publish(hub)
    dispatcher(hub).run_once()
    (attempt,) = log_of(hub, message)
    assert (attempt.error_code, attempt.response_status) == (code, None)
    assert attempt.duration_ms < 5_000
    (delivery,) = deliveries(hub, message)
    assert delivery.status == "pending"


def test_a_success_with_a_body_without_end_is_a_success(hub: Hub, httpserver: HTTPServer) -> None:
    add_webhook(hub, httpserver.url_for("/"))
    httpserver.expect_request("/").respond_with_data("x" * 1_000_000, 200)
    message = publish(hub)
    dispatcher(hub).run_once()
    (attempt,) = log_of(hub, message)
    assert (attempt.response_status, attempt.error_code) == (200, None)


def test_a_private_address_is_blocked_and_not_tried_again(
    each_hub: Hub, httpserver: HTTPServer
) -> None:
    add_webhook(each_hub, httpserver.url_for("/"))
    message = publish(each_hub)
    assert WebhookDispatcher(each_hub).run_once() == 1
    assert httpserver.log == []
    (delivery,) = deliveries(each_hub, message)
    assert delivery.status == "failed"
    (attempt,) = log_of(each_hub, message)
    assert attempt.error_code == "blocked_address"
    assert attempt.error_message is not None
    assert "127.0.0.1 is blocked" in attempt.error_message
    httpserver.expect_request("/").respond_with_data("")
    with each_hub.unit_of_work() as uow:
        uow.messages.replay(delivery.id)
        uow.commit()
    assert WebhookDispatcher(each_hub, allow_private_addresses=True).run_once() == 1
    assert len(httpserver.log) == 1


def test_a_slow_endpoint_does_not_hold_up_others(hub: Hub, threaded: HTTPServer) -> None:
    release = answers_once_released(threaded, "/slow")
    arrived = answers_and_tells(threaded, "/quick", number=10)
    add_webhook(hub, threaded.url_for("/slow"), config={"delivery": {"max_concurrency": 2}})
    quick_url = threaded.url_for("/quick").replace("localhost", "127.0.0.1")
    add_webhook(hub, quick_url)
    messages = [publish(hub, number) for number in range(10)]
    with at_work(dispatcher(hub, concurrency=4, poll=0.05)):
        assert arrived.wait(30)
        release.set()
    assert len(messages) == 10


def test_many_that_never_answer_do_not_hold_up_others(hub: Hub, threaded: HTTPServer) -> None:
    """More than there are threads for; each was tried before, and is known to be failing."""
    release = answers_once_released(threaded, "/never")
    arrived = answers_and_tells(threaded, "/well", number=30)
    for _ in range(8):
        add_webhook(hub, threaded.url_for("/never"), failing=True)
    for number in range(3):
        publish(hub, number)
    add_webhook(hub, threaded.url_for("/well"))
    for number in range(30):
        publish(hub, number)
    with at_work(dispatcher(hub, concurrency=4, per_host=99, poll=0.05)):
        assert arrived.wait(20)
        release.set()


@pytest.mark.parametrize(("threads", "of_slow"), [(2, 1), (4, 3), (8, 6)])
def test_many_that_are_slow_to_answer_do_not_hold_up_others(
    hub: Hub, threaded: HTTPServer, monkeypatch: pytest.MonkeyPatch, threads: int, of_slow: int
) -> None:
    """They are known once one of their requests takes long, and leave some threads to others."""
    now = [0.0]
    monkeypatch.setattr(
        "integration_hub.delivery.dispatcher.Pace", lambda: Pace(clock=lambda: now[0])
    )
    release = threading.Event()
    began: queue.SimpleQueue[None] = queue.SimpleQueue()

    def answer(request: Request) -> Response:
        began.put(None)
        assert release.wait(30)
        return Response("")

    threaded.expect_request("/slow").respond_with_handler(answer)
    arrived = answers_and_tells(threaded, "/quick", number=10)
    add_webhook(hub, threaded.url_for("/slow"), config={"delivery": {"max_concurrency": 99}})
    publish(hub)
    with at_work(dispatcher(hub, concurrency=threads, per_host=99, poll=0.05)):
        try:
            began.get(timeout=30)
            now[0] += 5
            for number in range(10):
                publish(hub, number)
            for _ in range(of_slow - 1):
                began.get(timeout=30)
            add_webhook(hub, threaded.url_for("/quick"))
            for number in range(10):
                publish(hub, number)
            assert arrived.wait(20)
            assert began.empty()
        finally:
            release.set()


@pytest.mark.parametrize("concurrency", [500, 501, 1_000])
def test_a_dispatcher_may_have_a_thousand_threads(
    each_hub: Hub, httpserver: HTTPServer, concurrency: int
) -> None:
    """It claims ahead, though no more than a claim gives."""
    arrived = threading.Event()

    def answer(request: Request) -> Response:
        arrived.set()
        return Response("")

    httpserver.expect_request("/").respond_with_handler(answer)
    add_webhook(each_hub, httpserver.url_for("/"))
    message = publish(each_hub)
    with at_work(dispatcher(each_hub, concurrency=concurrency)):
        assert arrived.wait(30)
    (delivery,) = deliveries(each_hub, message)
    assert delivery.status == "delivered"


def test_a_dispatcher_that_stops_gives_back_what_it_has_not_sent(
    each_hub: Hub, threaded: HTTPServer
) -> None:
    release, began = threading.Event(), threading.Event()

    def slow(request: Request) -> Response:
        began.set()
        assert release.wait(30)
        return Response("")

    threaded.expect_request("/").respond_with_handler(slow)
    add_webhook(each_hub, threaded.url_for("/"))
    messages = [publish(each_hub, number) for number in range(2)]
    sender = dispatcher(each_hub, concurrency=1, poll=0.05)
    with at_work(sender):
        assert began.wait(30)
        sender.stop()
        release.set()
    states = sorted(deliveries(each_hub, each)[0].status for each in messages)
    assert states == ["delivered", "pending"]
    assert len(threaded.log) == 1


class Meanwhile(ScriptedTransport):
    """Something happens while a request is on its way."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act = act

    def send(self, request: HttpRequest, deadline: Deadline) -> Reply:
        self._act()
        return super().send(request, deadline)


def test_what_another_has_taken_up_meanwhile_is_left_to_it(
    each_hub: Hub, hub_clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    add_webhook(each_hub, "https://crm.test/")
    message = publish(each_hub)

    def taken_up() -> None:
        hub_clock.advance(3_600)
        with each_hub.unit_of_work() as uow:
            assert len(uow.messages.claim()) == 1
            uow.commit()

    dispatcher(each_hub, transport=Meanwhile(taken_up).reply(200)).run_once()
    (delivery,) = deliveries(each_hub, message)
    assert (delivery.status, delivery.attempt_count) == ("delivering", 2)
    assert [each.error_code for each in log_of(each_hub, message)] == ["lease_lost"]
    assert [each.getMessage() for each in caplog.records] == [
        LeaseLost(delivery.id, delivery.KIND).message
    ]


def test_a_webhook_that_is_removed_meanwhile_holds_up_nobody(
    each_hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    webhook = add_webhook(each_hub, "https://crm.test/")
    messages = [publish(each_hub, number) for number in range(2)]
    sent, waiting = (deliveries(each_hub, each)[0].id for each in messages)

    def removed() -> None:
        with each_hub.unit_of_work() as uow:
            uow.webhooks.remove(webhook.id)
            uow.commit()
        sender.stop()

    transport = Meanwhile(removed).reply(200)
    sender = dispatcher(each_hub, concurrency=1, transport=transport)
    sender.run_forever()
    assert len(transport.requests) == 1
    assert [each.getMessage() for each in caplog.records] == [
        LeaseLost(sent, WebhookDelivery.KIND).message,
        DeliveryNotFound(waiting).message,
    ]


def test_a_fault_of_ours_is_an_attempt_that_failed(
    each_hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    add_webhook(each_hub, "https://crm.test/")
    message = publish(each_hub)
    words = "s3cr3t"

    def fails() -> None:
        raise KeyError(words)

    assert dispatcher(each_hub, transport=Meanwhile(fails)).run_once() == 1
    (attempt,) = log_of(each_hub, message)
    assert (attempt.error_code, attempt.error_message) == ("KeyError", "KeyError")
    assert deliveries(each_hub, message)[0].status == "pending"  # to be tried again
    assert "could not be made: KeyError" in caplog.text
    assert "in fails" in caplog.text
    assert words not in caplog.text


def test_no_unit_of_work_is_open_while_a_request_is_on_its_way(
    hub_postgres: Hub, httpserver: HTTPServer
) -> None:
    seen: list[int] = []

    def look(request: Request) -> Response:
        seen.append(hub_postgres.health().pool.in_use)
        return Response("")

    httpserver.expect_request("/").respond_with_handler(look)
    add_webhook(hub_postgres, httpserver.url_for("/"))
    publish(hub_postgres)
    dispatcher(hub_postgres).run_once()
    assert seen == [0]


def test_no_secret_is_logged_or_shown(
    hub: Hub, httpserver: HTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    webhook = add_webhook(
        hub,
        httpserver.url_for("/hook?token=s3cr3t"),
        config={"delivery": {"headers": {"Authorization": "Bearer s3cr3t"}}},
    )
    (secret,) = secrets_of(hub, webhook)
    httpserver.expect_request("/hook").respond_with_data("", 500)
    message = publish(hub)
    dispatcher(hub).run_once()
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("integration_hub")]
    told = " ".join([*ours, *map(repr, log_of(hub, message)), repr(webhook.config and webhook)])
    assert secret not in told
    assert "Bearer s3cr3t" not in told


@pytest.mark.parametrize(
    "delivery",
    [
        {"retries": [-1]},
        {"retries": [True]},
        {"retries": [1] * 51},
        {"retries": "soon"},
        {"headers": ["X"]},
        {"headers": {"Webhook-Id": "x"}},
        {"headers": {"X Y": "x"}},
        {"headers": {"X": "a\nb"}},
        {"headers": {"X": 1}},
        {"timeout": 0},
        {"timeout": 61},
        {"max_concurrency": 0},
        {"disabled_after": "long"},
        {"retry": [1]},
        [1],
    ],
)
def test_the_options_of_a_webhook_are_checked(delivery: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        WebhookFactory.build(config={"delivery": delivery})
    assert refused.value.field.startswith("config.delivery")


def test_a_dispatcher_is_told_of_messages_at_once(
    hub_postgres_url: Any, httpserver: HTTPServer
) -> None:
    arrived = threading.Event()

    def note(request: Request) -> Response:
        arrived.set()
        return Response("")

    httpserver.expect_request("/").respond_with_handler(note)
    with Hub.from_url(hub_postgres_url) as hub:
        add_webhook(hub, httpserver.url_for("/"))
        first = publish(hub)
        with at_work(dispatcher(hub, poll=600)):
            assert arrived.wait(30)
            arrived.clear()
            publish(hub)
            assert arrived.wait(30)
        assert deliveries(hub, first)[0].status == "delivered"
        with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
            assert uow.messages.counts()["delivered"] == 2  # type: ignore[index] # pyright: ignore[reportArgumentType]

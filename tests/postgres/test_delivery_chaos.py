"""Dispatchers that are killed while they deliver 3,000 messages to endpoints that misbehave.

The endpoints are real servers, which note each request that they see. At the end their notes and
the log of attempts must tell the same story, but for what was on its way at a kill.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import URL

from integration_hub import (
    EVERY_TENANT,
    Hub,
    Integration,
    SignatureError,
    Webhook,
    WebhookDispatcher,
    WebhookMessage,
    verify,
)
from integration_hub.testing.postgres import temporary_database

pytestmark = pytest.mark.once
MESSAGES = 3_000
ENDPOINTS = 20
DISPATCHERS = 4
KILLS = 12
LEASE = 3  # seconds
RETRIES = [0.05] * 50
KINDS = 10  # of messages; each goes to two endpoints, of which one may be ill


@dataclass
class Endpoints:
    """Servers in threads of one process, each path an endpoint: every third one is ill."""

    secrets: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, bool]] = field(default_factory=list)  # endpoint, id, is signed
    url: str = ""
    chance: random.Random = field(default_factory=lambda: random.Random(3))
    over: threading.Event = field(default_factory=threading.Event)

    def note(self, endpoint: str, headers: Any, body: bytes) -> None:
        try:
            id, is_signed = verify(self.secrets[endpoint], headers, body), True
        except SignatureError:
            id, is_signed = str(headers["webhook-id"]), False
        self.seen.append((endpoint, id, is_signed))

    def status(self, endpoint: int) -> int | None:
        """What an endpoint says; None: nothing, it closes the connection."""
        if endpoint % 6 == 1:
            self.over.wait(0.1)  # slow
        if endpoint % 6 == 3 and self.chance.random() < 0.3:
            return 500
        return None if endpoint % 6 == 5 and self.chance.random() < 0.3 else 204


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    found = Endpoints()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True
                return  # whoever sent it was killed before the end
            endpoint = self.path.removeprefix("/")
            found.note(endpoint, self.headers, body)
            status = found.status(int(endpoint))
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Not into the output of the tests."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A dispatcher that was killed leaves its connections broken."""

    server = Server(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    found.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def database(hub_postgres_server: URL, endpoints: Endpoints) -> Iterator[tuple[URL, Hub]]:
    with temporary_database(hub_postgres_server) as url, Hub.from_url(url) as hub:
        hub.schema.upgrade()
        config = {"delivery": {"retries": RETRIES, "timeout": 2}}
        with hub.unit_of_work() as uow:
            parent = uow.integrations.add(Integration(name="CRM", type="crm", status="active"))
            for number in range(ENDPOINTS):
                webhook = uow.webhooks.add(
                    Webhook(
                        integration_id=parent.id,
                        name=f"w{number}",
                        url=f"{endpoints.url}/{number}",
                        events=[f"kind{number % KINDS}.*"],
                        config=config,
                    )
                )
                (secret,) = uow.secrets.of(webhook.id)
                endpoints.secrets[str(number)] = secret.secret
            uow.commit()
        yield url, hub


def dispatch(url: str, name: str) -> None:
    with Hub.from_url(url) as hub:
        WebhookDispatcher(
            hub,
            concurrency=8,
            allow_private_addresses=True,
            worker=name,
            lease=LEASE,
            poll=0.2,
            per_host=64,
        ).run_until_signalled()


def open_deliveries(hub: Hub) -> int:
    with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
        counts = dict(uow.messages.counts().items())
    return sum(counts[status] for status in counts if status in ("pending", "delivering"))


def publish_all(hub: Hub, messages: list[WebhookMessage]) -> None:
    for batch in range(MESSAGES // 100):
        with hub.unit_of_work() as uow:
            for number in range(100):
                kind = f"kind{number % KINDS}.made"
                messages.append(uow.messages.publish(kind, {"batch": batch, "number": number}))
            uow.commit()


def test_every_message_arrives_whoever_is_killed(
    database: tuple[URL, Hub], endpoints: Endpoints
) -> None:
    url, hub = database
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["integration_hub", "psycopg"])
    shown = url.render_as_string(hide_password=False)
    chance = random.Random(11)

    def start(number: int) -> Any:
        process = processes.Process(target=dispatch, args=(shown, f"d{number}"))
        process.start()
        return process

    dispatchers = [start(number) for number in range(DISPATCHERS)]
    messages: list[WebhookMessage] = []
    publishing = threading.Thread(target=publish_all, args=(hub, messages))
    publishing.start()
    deadline = time.monotonic() + 240
    kills, seen = 0, 0
    try:
        while publishing.is_alive() or open_deliveries(hub):
            assert time.monotonic() < deadline
            dispatchers[0].join(0.1)
            if kills < KILLS and len(endpoints.seen) - seen > 250:
                seen = len(endpoints.seen)
                at = chance.randrange(DISPATCHERS)
                os.kill(dispatchers[at].pid, signal.SIGKILL)
                dispatchers[at].join()
                dispatchers[at] = start(at)
                kills += 1
        for process in dispatchers:
            process.terminate()  # SIGTERM: they end by themselves
            process.join(30)
    finally:
        for process in dispatchers:
            process.kill()  # after a failure they would go on
    assert [process.exitcode for process in dispatchers] == [0] * DISPATCHERS
    assert kills >= KILLS / 2

    # Every message arrived at every endpoint that it was for, signed, and under its one id.
    arrived = Counter((endpoint, id) for endpoint, id, _ in endpoints.seen)
    assert all(is_signed for _, _, is_signed in endpoints.seen)
    expected = {
        (str(number), message.message_id)
        for message in messages
        for number in range(ENDPOINTS)
        if message.event_type == f"kind{number % KINDS}.made"
    }
    assert len(expected) == MESSAGES * 2
    assert set(arrived) == expected
    # What the log says was sent is what was seen, but for what was on its way at a kill.
    with hub.unit_of_work() as uow:
        hooks = {webhook.id: webhook.name.removeprefix("w") for webhook in uow.webhooks.find()}
        lost = 0
        for message in messages:
            for delivery in uow.messages.deliveries(message.id):
                assert delivery.status == "delivered"
                log = uow.messages.attempts(delivery.id)
                assert [each.number for each in log] == list(range(1, len(log) + 1))
                assert [each.is_success for each in log].count(True) == 1
                in_flight = sum(each.error_code == "lease_lost" for each in log)
                requests = arrived[hooks[delivery.webhook_id], message.message_id]
                assert len(log) - in_flight <= requests <= len(log)
                lost += in_flight
    assert lost >= 1


def publish_and_wait(url: str, ready: Any) -> None:
    with Hub.from_url(url) as hub, hub.unit_of_work() as uow:
        for number in range(10):
            uow.messages.publish("kind0.never", number)
        ready.set()
        threading.Event().wait()  # to be killed before it commits


def test_a_process_that_is_killed_before_it_commits_has_said_nothing(
    database: tuple[URL, Hub], endpoints: Endpoints
) -> None:
    url, hub = database
    processes = multiprocessing.get_context("spawn")
    ready = processes.Event()
    arguments = (url.render_as_string(hide_password=False), ready)
    publisher = processes.Process(target=publish_and_wait, args=arguments)
    publisher.start()
    assert ready.wait(60)
    os.kill(publisher.pid or 0, signal.SIGKILL)
    publisher.join()
    with hub.unit_of_work() as uow:
        uow.messages.publish("kind0.rolled_back", None)
    with hub.unit_of_work() as uow:
        kept = uow.messages.publish("kind0.kept", None)
        uow.commit()
    sender = WebhookDispatcher(hub, allow_private_addresses=True)
    counted = 0
    while open_deliveries(hub):
        counted += sender.run_once()
    assert counted == 2
    assert {id for _, id, _ in endpoints.seen} == {kept.message_id}

"""How many messages are published, and how many are delivered, in a second; and what a claim costs.

The receiver is a process of its own on the loopback, which reads a request and answers 204. It is
sent to by a dispatcher (everything stored: claims, attempts, states), and by a loop of plain
`requests.post` with one Session per thread, in as many threads, with nothing stored. And when
messages come to quick endpoints, beside others that are slow to answer.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import requests
from harness import NTH_ID, compare, shown, table
from sqlalchemy import URL

from integration_hub import EVERY_TENANT, Hub, Integration, Webhook, WebhookDispatcher
from integration_hub.testing.postgres import dsn, temporary_database

THREADS = 16
MESSAGES = 2_000
ENDPOINTS = 4
ROUNDS = 5
WAITING = (1_000, 10_000, 100_000)
WANTED = 0.5  # of the plain loop
SLOW = (0, 4, 16)  # endpoints
TAKES = 5.0  # seconds, to answer
BACKLOG = 100  # messages for each of these
QUICK, EACH_SECOND = 10, 100  # endpoints, and messages for them
SECONDS, SETTLED = 24.0, 12.0  # how long, and from when on: who is slow is known then
DATA = {"id": 12_345, "amount": "99.50", "currency": "EUR", "lines": list(range(20))}


def _answer(connection: socket.socket, told: Any) -> None:
    """Requests of a connection, one after the other, each with a Content-Length. Tells when it was
    published, and when it came, of what comes to a quick endpoint.
    """
    with connection:
        rest = b""
        while True:
            while b"\r\n\r\n" not in rest:
                more = connection.recv(65_536)
                if not more:
                    return
                rest += more
            head, _, rest = rest.partition(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            while len(rest) < length:
                rest += connection.recv(65_536)
            if head.startswith(b"POST /quick"):
                told.put((json.loads(rest[:length])["data"]["at"], time.time()))
            elif head.startswith(b"POST /slow"):
                time.sleep(TAKES)
            rest = rest[length:]
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def _serve(ports: Any, told: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        ports.put(server.getsockname()[1])
        with ThreadPoolExecutor(256) as pool:
            while True:
                connection, _ = server.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pool.submit(_answer, connection, told)


@contextmanager
def receiver() -> Iterator[tuple[str, Any]]:
    context = multiprocessing.get_context("spawn")
    ports, told = context.Queue(), context.Queue()
    process = context.Process(target=_serve, args=(ports, told), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ports.get(timeout=60)}", told
    finally:
        process.terminate()
        process.join()


def subscribe(hub: Hub, url: str) -> None:
    with hub.unit_of_work() as uow:
        parent = uow.integrations.add(Integration(name="CRM", type="crm", status="active"))
        config = {"delivery": {"max_concurrency": THREADS}}
        for number in range(ENDPOINTS):
            hook = Webhook(
                integration_id=parent.id,
                name=f"w{number}",
                url=f"{url}/{number}",
                events=[f"kind{number}.*"],
                config=config,
            )
            uow.webhooks.add(hook)
        uow.commit()


def publish(hub: Hub) -> float:
    """Each in a unit of work of its own, by one thread; seconds."""
    start = time.perf_counter()
    for number in range(MESSAGES):
        with hub.unit_of_work() as uow:
            uow.messages.publish(f"kind{number % ENDPOINTS}.made", DATA)
            uow.commit()
    return time.perf_counter() - start


def deliver(hub: Hub) -> float:
    """All that were published; seconds."""
    sender = WebhookDispatcher(
        hub, concurrency=THREADS, per_host=THREADS * 4, allow_private_addresses=True, poll=0.05
    )
    start = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(sender.run_forever)
        while _open(hub):
            time.sleep(0.02)
        took = time.perf_counter() - start
        sender.stop()
        done.result()
    return took


def _open(hub: Hub) -> int:
    with hub.unit_of_work() as uow:
        counts = uow.messages.counts()
    assert not counts[_FAILED]
    return counts[_PENDING] + counts[_DELIVERING]


_FAILED, _PENDING, _DELIVERING = "failed", "pending", "delivering"


def post(url: str, payload: bytes) -> float:
    """As many requests by plain `requests`, in as many threads; seconds."""

    def work(_: int) -> None:
        with requests.Session() as session:
            for number in range(MESSAGES // THREADS):
                answer = session.post(
                    f"{url}/{number % ENDPOINTS}",
                    data=payload,
                    headers={"Content-Type": "application/json"},
                    timeout=15,
                )
                assert answer.status_code == 204

    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    return time.perf_counter() - start


def of_queues(server: URL) -> str:
    """What a claim costs while more and more waits for one endpoint, as after an outage."""
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for count in WAITING:
            url = stack.enter_context(temporary_database(server))
            hub = stack.enter_context(Hub.from_url(url))
            hub.schema.upgrade()
            subscribe(hub, "https://hooks.example.com")
            with hub.unit_of_work() as uow:
                (hook,) = uow.webhooks.for_event("kind0.made")
                messages = [uow.messages.publish("kind1.made", DATA) for _ in range(THREADS)]
                uow.commit()
            _fill(url, messages[0].id, hook.id, count)
            calls[str(count)] = partial(_claim_and_forget, hub)
        found = compare(calls)
    heads = [f"a claim of {THREADS}", *(f"{count:,} wait for one endpoint" for count in WAITING)]
    return table(heads, [["", *(shown(found[str(count)].seconds) for count in WAITING)]])


def _fill(url: URL, like: UUID, webhook_id: UUID, count: int) -> None:
    """More messages like this one, each waiting for the webhook."""
    with psycopg.connect(dsn(url), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO webhook_messages (id, tenant_id, event_type, payload, occurred_at,"
            f" is_fanned_out, version) SELECT {NTH_ID}, tenant_id, 'kind0.made', payload,"
            f" occurred_at, true, 1 FROM webhook_messages, generate_series(1, {count}) n"
            " WHERE id = %s".encode(),
            [like],
        )
        connection.execute(
            "INSERT INTO webhook_deliveries (id, tenant_id, message_id, webhook_id, created_at,"
            " status, attempt_count, next_attempt_at, retries_used, version)"
            " SELECT id, tenant_id, id, %s, occurred_at, 'pending', 0, occurred_at, 0, 1"
            " FROM webhook_messages WHERE event_type = 'kind0.made'",
            [webhook_id],
        )
        connection.execute("VACUUM ANALYZE")


def _claim_and_forget(hub: Hub) -> None:
    with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
        assert len(uow.messages.claim(limit=THREADS, per_host=THREADS)) == THREADS


def of_slow(server: URL) -> str:
    """How late messages come to quick endpoints, beside more and more slow ones with a backlog."""
    lines: list[list[str]] = [["median"], ["99 of 100"]]
    for slow in SLOW:
        late = sorted(_late(server, slow))
        for line, share in zip(lines, (0.5, 0.99), strict=True):
            line.append(shown(late[int(len(late) * share)]))
    heads = [
        f"{EACH_SECOND} a second to {QUICK} endpoints",
        *(f"beside {slow} that take {TAKES:g} s" for slow in SLOW),
    ]
    return table(heads, lines)


@contextmanager
def receiving_hub(server: URL) -> Iterator[tuple[Hub, str, Any]]:
    """A hub on a database of its own, the URL of a receiver, and what that tells."""
    with (
        receiver() as (url, told),
        temporary_database(server) as database,
        Hub.from_url(database) as hub,
    ):
        hub.schema.upgrade()
        yield hub, url, told


def _late(server: URL, slow: int) -> list[float]:
    """Seconds from publishing to arrival, of what was published once it had settled; infinite for
    what has not come.
    """
    with receiving_hub(server) as (hub, url, told):
        with hub.unit_of_work() as uow:
            parent = uow.integrations.add(Integration(name="CRM", type="crm", status="active"))
            uow.webhooks.add_many(
                Webhook(
                    integration_id=parent.id,
                    name=f"{kind}{number}",
                    url=f"{url}/{kind}{number}",
                    events=[f"{kind}{number}.made"],
                )
                for kind, count in (("quick", QUICK), ("slow", slow))
                for number in range(count)
            )
            for number in range(slow * BACKLOG):
                uow.messages.publish(f"slow{number % slow}.made", DATA)
            uow.commit()
        sender = WebhookDispatcher(
            hub, concurrency=THREADS, per_host=THREADS * 8, allow_private_addresses=True
        )
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(sender.run_forever)
            began, published = time.time(), set()
            for number in range(int(SECONDS * EACH_SECOND)):
                time.sleep(max(0.0, began + number / EACH_SECOND - time.time()))
                at = time.time()
                published.add(at)
                with hub.unit_of_work() as uow:
                    uow.messages.publish(f"quick{number % QUICK}.made", {"at": at})
                    uow.commit()
            time.sleep(1)  # for the last ones
            sender.stop()
            done.result()
        arrived = {}
        while not told.empty():
            at, came = told.get()
            arrived[at] = came - at
    return [arrived.get(at, math.inf) for at in published if at >= began + SETTLED]


def run(server: URL) -> str:
    """The tables, in Markdown."""
    return f"{of_rates(server)}\n\n{of_queues(server)}\n\n{of_slow(server)}"


def of_rates(server: URL) -> str:
    published, delivered, posted = [], [], []
    with receiving_hub(server) as (hub, url, _):
        subscribe(hub, url)
        with hub.unit_of_work() as uow:
            payload = uow.messages.publish("sample.made", DATA).payload
        for _ in range(ROUNDS):
            published.append(publish(hub))
            delivered.append(deliver(hub))
            posted.append(post(url, payload))
    ratio = statistics.median(plain / ours for plain, ours in zip(posted, delivered, strict=True))
    heads = ["", "a second"]
    verdict = f"{ratio:.2f} of plain; wanted {WANTED}: {'met' if ratio >= WANTED else 'missed'}"
    return table(
        heads,
        [
            ["published, each in a transaction of its own, one thread", _rate(published)],
            [f"delivered, {THREADS} threads, all stored", f"{_rate(delivered)} ({verdict})"],
            [f"plain requests.post, {THREADS} threads, nothing stored", _rate(posted)],
        ],
    )


def _rate(times: list[float]) -> str:
    return f"{MESSAGES / statistics.median(times):,.0f}"

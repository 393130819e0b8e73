"""What a GET of a small JSON costs, beside requests, requests with urllib3's Retry, httpx, urllib3.

The hub's client has its retry policy, two interceptors and typed decoding on; the others parse the
JSON and do no more. A server in a process of its own answers over the loopback.
"""

from __future__ import annotations

import multiprocessing
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import requests
import urllib3
from harness import compare, shown, table
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from integration_hub import HttpClient, Limits
from integration_hub.http import MetricsInterceptor, RequestIdInterceptor

ALLOWED = 1.0  # of requests.Session.get(...).json()
THREADS = (1, 8)
CALLS = 100
BODY = b'{"id": 7, "name": "Ada", "email": "ada@example.com", "tags": ["a", "b"]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


@dataclass
class Contact:
    id: int
    name: str
    email: str
    tags: list[str]


def serve(port: Any) -> None:
    """Answer every request at once, on as many connections as come."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    port.put(listener.getsockname()[1])

    def answer(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(ANSWER)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def contenders(url: str, threads: int) -> dict[str, Callable[[], object]]:
    session, retrying = requests.Session(), requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=threads))
    retrying.mount("http://", HTTPAdapter(max_retries=Retry(3), pool_maxsize=threads))
    pool = urllib3.PoolManager(maxsize=threads)
    other = httpx.Client()
    measured: list[object] = []
    hub = HttpClient(
        url,
        interceptors=[RequestIdInterceptor(), MetricsInterceptor(lambda _: measured.clear())],
        limits=Limits(pool=threads),
    )
    return {
        "requests": lambda: session.get(f"{url}/c/7").json(),
        "integration_hub": lambda: hub.get("/c/7", into=Contact).unwrap().value,
        "requests with Retry": lambda: retrying.get(f"{url}/c/7").json(),
        "httpx": lambda: other.get(f"{url}/c/7").json(),
        "urllib3": lambda: pool.request("GET", f"{url}/c/7").json(),
    }


def run(_: object = None) -> str:
    """The table, in Markdown."""
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get(timeout=30)}"
    lines = []
    try:
        for threads in THREADS:
            each = contenders(url, threads)
            names = list(each)
            with ThreadPoolExecutor(threads) as pool:
                found = compare(
                    {name: _spread(pool, call, threads) for name, call in each.items()},
                    calls=3,
                )
            ratio = found["integration_hub"].ratio
            met = "met" if ratio <= ALLOWED else "missed"
            lines.append(
                [
                    str(threads),
                    shown(found["requests"].seconds / CALLS),
                    *(f"{found[name].ratio:.2f}" for name in names[1:]),
                    f"at most {ALLOWED:.1f}: {met}",
                ]
            )
            print(" | ".join(lines[-1]), flush=True)
    finally:
        server.terminate()
    return table(["threads", "requests", *names[1:], "the hub's target"], lines)


def _spread(
    pool: ThreadPoolExecutor, call: Callable[[], object], threads: int
) -> Callable[[], object]:
    """`CALLS` calls, by so many threads."""

    def work(_: int) -> None:
        for _ in range(CALLS // threads):
            call()

    if threads == 1:
        return lambda: work(0)
    return lambda: list(pool.map(work, range(threads)))


if __name__ == "__main__":
    print(run())

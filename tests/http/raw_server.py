"""A server of raw sockets, that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

Behave = Callable[["Peer"], None]


class Serve(Protocol):
    """What the fixture `serve` is."""

    def __call__(self, behave: Behave, context: ssl.SSLContext | None = None) -> RawServer: ...


@dataclass
class Peer:
    """The server's end of a connection, whose request has been read."""

    connection: socket.socket
    request: bytes
    number: int  # of the request, from 1
    over: threading.Event

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def reset(self) -> None:
        """Close so that the other end gets a reset, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def hang(self) -> None:
        """Say nothing until the test is over."""
        self.over.wait(30)

    def drip(self, data: bytes, every: float = 0.05) -> None:
        """Send a byte, wait, send a byte."""
        for byte in data:
            self.send(bytes([byte]))
            if self.over.wait(every):
                return


@dataclass
class RawServer:
    """Listens on a free port of the loopback; every request is a call of `behave`."""

    behave: Behave
    context: ssl.SSLContext | None = None
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    most_at_once: int = 0
    is_deaf: bool = False
    _now: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._listener = socket.create_server(("", 0), backlog=128)
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        scheme = "http" if self.context is None else "https"
        host = "127.0.0.1" if self.context is None else "localhost"
        return f"{scheme}://{host}:{self.port}"

    def is_left(self, within: float = 10, *, most: int = 0) -> bool:
        """Whether all connections are closed by then, but so many."""
        with self._left:
            return self._left.wait_for(lambda: self._now <= most, within)

    def close(self) -> None:
        self._over.set()
        self._listener.close()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._sockets.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        with contextlib.suppress(OSError, ssl.SSLError):
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            while request := self._read(connection):
                with self._lock:
                    self.requests.append(request)
                    number = len(self.requests)
                self.behave(Peer(connection, request, number, self._over))
        with self._lock:
            self._now -= 1
            self._left.notify_all()
        connection.close()

    def _read(self, connection: socket.socket) -> bytes:
        """A whole request: its head, and the body that Content-Length or chunks announce."""
        if self.is_deaf:
            self._over.wait(30)
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
            if line.startswith(b"transfer-encoding:"):
                while not body.endswith(b"0\r\n\r\n"):
                    body += connection.recv(65536)
        while len(body) < length:
            body += connection.recv(65536)
        return head + b"\r\n\r\n" + body


def answer(content: bytes = b"{}", *, status: str = "200 OK", headers: str = "") -> bytes:
    """A well-formed answer in JSON."""
    length = f"Content-Length: {len(content)}\r\nContent-Type: application/json\r\n"
    return f"HTTP/1.1 {status}\r\n{length}{headers}\r\n".encode() + content


def tunnels(peer: Peer) -> None:
    """What a proxy does at a CONNECT: it carries what comes, both ways, until one end is done."""
    method, place, _ = peer.request.split(b" ", 2)
    assert method == b"CONNECT"
    host, _, port = place.decode().rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port))) as there:
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_carry, args=(there, peer.connection), daemon=True)
        back.start()
        _carry(peer.connection, there)
        back.join()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):  # or who waits for the other one would wait for ever
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

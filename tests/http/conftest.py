"""Servers for the tests of the HTTP client, and certificates of a CA of the tests' own."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from raw_server import Behave, RawServer, Serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    """``serve(behave)`` starts a server, which ends with the test."""
    servers: list[RawServer] = []

    def start(behave: Behave, context: ssl.SSLContext | None = None) -> RawServer:
        servers.append(RawServer(behave, context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A CA that nobody trusts unless told to."""
    return trustme.CA()


@pytest.fixture(scope="session")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its certificate, as a PEM file."""
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context, with a certificate for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context

"""What a client does when all is well: over real sockets, to a server that answers."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import ssl
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import UUID

import pydantic
import pytest
import trustme
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from integration_hub import (
    ApiKeyAuth,
    BasicAuth,
    BearerAuth,
    ConnectionFailed,
    DecodeError,
    Err,
    HttpClient,
    OAuth2ClientCredentials,
    Ok,
    RetryPolicy,
    StatusError,
    TimedOut,
    ValidationError,
)
from integration_hub.domain.values import LONGEST
from integration_hub.http import LinkHeader, Timeout, Tls
from integration_hub.http.client import CallOptions
from integration_hub.http.transport import _MOST_HOSTS
from integration_hub.testing import ScriptedTransport
from raw_server import Peer, Serve, answer


@pytest.fixture
def client(httpserver: HTTPServer) -> Iterator[HttpClient]:
    with HttpClient(httpserver.url_for("/v1")) as client:
        yield client


def echo(request: Request) -> Response:
    """What was asked, as JSON."""
    told = {
        "method": request.method,
        "path": request.path,
        "query": request.query_string.decode(),
        "headers": dict(request.headers),
        "body": request.get_data().decode("latin-1"),
        "form": request.form.to_dict(flat=False),
        "files": {name: file.read().decode() for name, file in request.files.items()},
    }
    return Response(json.dumps(told), content_type="application/json")


@pytest.fixture
def echoing(httpserver: HTTPServer, client: HttpClient) -> HttpClient:
    httpserver.expect_request(re.compile(".*")).respond_with_handler(echo)
    return client


def asked(outcome: Any) -> Any:
    assert isinstance(outcome, Ok), outcome
    return outcome.value.json()


# --- asking -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "options", "post", "put", "patch", "delete"])
def test_every_method_is_there(echoing: HttpClient, method: str) -> None:
    assert asked(getattr(echoing, method)("contacts"))["method"] == method.upper()
    assert asked(echoing.request(method.upper(), "contacts"))["path"] == "/v1/contacts"


def test_head_has_no_content(echoing: HttpClient) -> None:
    outcome = echoing.head("contacts")
    assert isinstance(outcome, Ok)
    assert (outcome.value.status, outcome.value.content) == (200, b"")


@pytest.mark.parametrize("method", ["get", "G ET", "GET\r\n", ""])
def test_what_is_no_method_is_refused(echoing: HttpClient, method: str) -> None:
    with pytest.raises(ValidationError) as refused:
        echoing.request(method, "/")
    assert refused.value.field == "method"


def test_a_query_is_encoded(echoing: HttpClient) -> None:
    params = {"q": "a b&c=d/é", "tag": ["x", "y"], "none": None, "flag": True, "n": 1}
    query = asked(echoing.get("contacts?page=1", params=params))["query"]
    assert query == "page=1&q=a+b%26c%3Dd%2F%C3%A9&tag=x&tag=y&flag=true&n=1"


class Order(Enum):
    NEWEST = "-created"


SINCE = datetime(2026, 11, 28, 4, 19, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("value", "query"),
    [
        (SINCE, "x=2026-11-28T04%3A19%3A00%2B01%3A00"),
        ([SINCE.date(), SINCE.time()], "x=2026-11-28&x=04%3A19%3A00"),
        (Order.NEWEST, "x=-created"),
        ([True, None, 1.5, Decimal("2.50"), UUID(int=7)], f"x=true&x=1.5&x=2.50&x={UUID(int=7)}"),
        ({"a": 1}.keys(), "x=a"),
        ({"a": 1}.values(), "x=1"),
        (range(2), "x=0&x=1"),
        (frozenset("a"), "x=a"),
        ((), ""),
    ],
)
def test_what_a_query_says_is_what_other_systems_read(
    echoing: HttpClient, value: Any, query: str
) -> None:
    assert asked(echoing.get("contacts", params={"x": value}))["query"] == query
    assert asked(echoing.post("contacts", data={"x": value}))["body"] == query


@pytest.mark.parametrize(
    "value", [b"s3cr3t", bytearray(), memoryview(b""), {"s3cr3t": 1}, [[1]], iter("ab"), [b""]]
)
def test_what_only_python_reads_is_in_no_query(echoing: HttpClient, value: Any) -> None:
    for field, options in (
        ("params.x", CallOptions(params={"x": value})),
        ("data.x", CallOptions(data={"x": value})),
    ):
        with pytest.raises(ValidationError, match="must be text, a number") as refused:
            echoing.post("contacts", **options)
        assert refused.value.field == field
        assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize("pairs", [["ab"], [("a",)], [("a", 1, 2)], {"ab"}, [7]])
def test_a_query_is_of_pairs(echoing: HttpClient, pairs: Any) -> None:
    with pytest.raises(ValidationError, match="params must be a mapping, or pairs"):
        echoing.get("contacts", params=pairs)


def test_a_header_may_be_given_in_bytes(echoing: HttpClient) -> None:
    header: Any = "Grüße".encode("latin-1")
    assert asked(echoing.get("/", headers={"X-Word": header}))["headers"]["X-Word"] == "Grüße"


def test_headers_are_merged_whatever_their_case(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_handler(echo)
    client = HttpClient(httpserver.url_for("/"), headers={"X-Team": "a", "user-agent": "mine/1"})
    headers = asked(client.get("/", headers={"x-team": "b", "X-More": "c"}))["headers"]
    assert (headers["X-Team"], headers["X-More"], headers["User-Agent"]) == ("b", "c", "mine/1")


def test_the_client_says_who_it_is(echoing: HttpClient) -> None:
    assert asked(echoing.get("/"))["headers"]["User-Agent"].startswith("integration-hub/")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "a\r\nX-Evil: 1"),
        ("X-A", "a\nb"),
        ("X-A", "a\x00b"),
        ("X-A", "ħ"),
        ("X A", "a"),
        ("X-A\r\n", "a"),
        ("", "a"),
        ("X-A", 7),
    ],
)
def test_a_header_that_would_break_out_is_refused_and_not_repeated(
    echoing: HttpClient, name: str, value: Any
) -> None:
    with pytest.raises(ValidationError) as refused:
        echoing.get("/", headers={name: value})
    assert refused.value.field == "headers"
    assert "Evil" not in refused.value.message


def test_json_is_what_pydantic_can_serialize(echoing: HttpClient) -> None:
    class Model(pydantic.BaseModel):
        at: datetime

    value = {"id": UUID(int=1), "model": Model(at=datetime(2026, 1, 1)), "é": None}  # noqa: DTZ001
    told = asked(echoing.post("/", json=value))
    assert told["headers"]["Content-Type"] == "application/json"
    assert json.loads(told["body"].encode("latin-1")) == {
        "id": "00000000-0000-0000-0000-000000000001",
        "model": {"at": "2026-01-01T00:00:00"},
        "é": None,
    }
    assert asked(echoing.post("/", json=None))["body"] == "null"
    with pytest.raises(ValidationError):
        echoing.post("/", json=object())


def test_a_form_a_text_and_bytes(echoing: HttpClient) -> None:
    form = asked(echoing.post("/", data={"a": "1 2", "b": ["x", "y"]}))
    assert form["form"] == {"a": ["1 2"], "b": ["x", "y"]}
    text = asked(echoing.post("/", content="é"))
    assert text["body"] == "é".encode().decode("latin-1")
    assert text["headers"]["Content-Type"] == "text/plain; charset=utf-8"
    raw = asked(echoing.post("/", content=b"\x00\xff", headers={"Content-Type": "image/x"}))
    assert (raw["body"], raw["headers"]["Content-Type"]) == ("\x00\xff", "image/x")


def test_files_go_with_a_form(echoing: HttpClient) -> None:
    files: dict[str, Any] = {
        "plain": b"1",
        "named": ("a.txt", b"2"),
        "typed": ("b.csv", io.BytesIO(b"3"), "text/csv"),
        "open": io.BytesIO(b"4"),
    }
    told = asked(echoing.post("/", data={"k": "v"}, files=files))
    assert told["files"] == {"plain": "1", "named": "2", "typed": "3", "open": "4"}
    assert told["form"] == {"k": ["v"]}
    assert told["headers"]["Content-Type"].startswith("multipart/form-data; boundary=")


class OnlyReads:
    """What some libraries give for a download, which is handed on."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._content.read(size)


def test_a_stream_goes_up_in_chunks_and_a_file_with_its_length(serve: Serve) -> None:
    server = serve(lambda peer: peer.send(answer()))
    client = HttpClient(server.url)
    assert client.post("/", content=(part for part in [b"ab", b"cde"])).is_ok
    assert client.post("/", content=io.BytesIO(b"abcde")).is_ok
    reading, writing = os.pipe()
    os.write(writing, b"abcde")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:  # a file of which nobody knows how long it is
        assert client.post("/", content=pipe).is_ok
    download: Any = OnlyReads(b"abcde")
    assert client.post("/", content=download).is_ok
    chunked, whole, piped, read = server.requests
    assert b"5\r\nabcde\r\n0\r\n\r\n" in piped
    assert b"5\r\nabcde\r\n0\r\n\r\n" in read
    assert b"Transfer-Encoding: chunked" in chunked
    assert b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n" in chunked
    assert b"Content-Length: 5" in whole
    assert whole.endswith(b"\r\n\r\nabcde")


@pytest.mark.parametrize(
    "bodies", [{"json": 1, "data": {}}, {"json": 1, "content": b""}, {"content": {"a": 1}}]
)
def test_a_body_is_given_in_one_way(echoing: HttpClient, bodies: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        echoing.post("/", **bodies)


# --- where it goes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("contacts", "/v1/contacts"),
        ("/contacts", "/v1/contacts"),
        ("//evil.test/x", "/v1/evil.test/x"),
        ("\\\\evil.test/x", "/v1/%5C%5Cevil.test/x"),
        ("@evil.test", "/v1/@evil.test"),
        (":80/x", "/v1/:80/x"),
        ("a%2Fb", "/v1/a%2Fb"),
        ("é", "/v1/%C3%A9"),
        ("a//b", "/v1/a//b"),
        ("", "/v1"),
        ("?q=1", "/v1?q=1"),
        ("?q=[ü]", "/v1?q=%5B%C3%BC%5D"),
        ("a#fragment", "/v1/a"),
        ("#fragment", "/v1"),
        (".hidden..x", "/v1/.hidden..x"),
    ],
)
def test_a_path_stays_below_the_base(serve: Serve, path: str, url: str) -> None:
    server = serve(lambda peer: peer.send(answer()))
    assert HttpClient(f"{server.url}/v1/").get(path).unwrap().url == f"{server.url}{url}"
    assert server.requests[0].split(b" ")[1].decode() == url


@pytest.mark.parametrize(
    "path",
    [
        "../admin",
        "a/../../admin",
        "%2e%2e/admin",
        "..%2fadmin",
        "..\\admin",
        "a b",
        "a?key=s3cr3t b",
        "http://[?key=s3cr3t",
        "a\r\nX: 1",
        "http://evil.test/",
        "https://crm.test.evil.test/",
        "http://crm.test/",
        "https://crm.test:444/",
        "https://user:s3cr3t@crm.test/",
        "ftp://crm.test/",
        7,
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        HttpClient("https://crm.test/v1").get(path)
    assert refused.value.field == "path"
    assert "s3cr3t" not in "".join(traceback.format_exception(refused.value))


def test_an_absolute_url_of_the_same_origin_is_taken(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/other").respond_with_json([1])
    client = HttpClient(httpserver.url_for("/v1"))
    assert asked(client.get(httpserver.url_for("/other"))) == [1]
    assert asked(HttpClient().get(httpserver.url_for("/other"))) == [1]
    with pytest.raises(ValidationError) as refused:
        HttpClient().get("other?key=s3cr3t")
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize(
    "base",
    [
        "crm.test?key=s3cr3t",
        "ftp://crm.test?key=s3cr3t",
        "https://u:s3cr3t@crm.test",
        "u:s3cr3t@crm.test",
        "https://crm.test?key=s3cr3t",
        "https://crm.test:s3cr3t",
        "https:///crm",
        "https://:443",
        "https://crm.test/a b",
        "https://crm.test/s3cr3t\n",
        "x y",
    ],
)
def test_a_base_that_is_none_is_refused(base: str) -> None:
    with pytest.raises(ValidationError) as refused:
        HttpClient(base)
    assert refused.value.field == "base_url"
    assert "s3cr3t" not in "".join(traceback.format_exception(refused.value))


# --- answers ----------------------------------------------------------------------------------


@dataclass
class Contact:
    id: int
    email: str


class Model(pydantic.BaseModel):
    id: int


class Dict(TypedDict):
    id: int


def test_a_response_tells_where_it_came_from(httpserver: HTTPServer, client: HttpClient) -> None:
    httpserver.expect_request("/v1/x").respond_with_json({}, headers={"X-Request-Id": "r-1"})
    outcome = client.get("x", params={"a": 1})
    assert isinstance(outcome, Ok)
    response = outcome.value
    assert (response.status, response.attempts, response.request_id) == (200, 1, "r-1")
    assert response.url == httpserver.url_for("/v1/x") + "?a=1"
    assert response.headers["content-TYPE"] == "application/json"
    assert timedelta(0) < response.elapsed < timedelta(seconds=10)
    assert response.value is None


def test_bodies_are_decoded_into_types(httpserver: HTTPServer, client: HttpClient) -> None:
    httpserver.expect_request("/v1/one").respond_with_json({"id": 1, "email": "a@b"})
    httpserver.expect_request("/v1/many").respond_with_json([{"id": 1, "email": "a@b"}])
    assert client.get("one", into=Contact).unwrap().value == Contact(1, "a@b")
    assert client.get("one", into=Model).unwrap().value.id == 1
    assert client.get("many", into=list[Contact]).unwrap().value == [Contact(1, "a@b")]
    either: pydantic.TypeAdapter[Model | list[Model]] = pydantic.TypeAdapter(Model | list[Model])
    assert client.get("one", into=either).unwrap().value == Model(id=1)


@pytest.mark.parametrize("into", [HttpClient, list[HttpClient], "Nowhere", 3, {"id": int}])
def test_nothing_is_sent_whose_answer_could_not_be_decoded(into: Any) -> None:
    transport = ScriptedTransport()
    client = HttpClient("https://crm.test", transport=transport)
    calls: list[Callable[[], object]] = [
        lambda: client.post("charges", into=into),
        lambda: next(client.pages("charges", strategy=LinkHeader(), into=into)),
    ]
    for call in calls:
        with pytest.raises(ValidationError) as refused:
            call()
        assert refused.value.field == "into"
        assert len(refused.value.message.splitlines()) == 1
    assert transport.requests == []


def test_a_type_without_a_hash_is_decoded_into() -> None:
    cents: Any = Annotated[int, {"unit": "cent"}]
    client = HttpClient("https://crm.test", transport=ScriptedTransport().reply(json=7))
    assert client.get("price", into=cents).unwrap().value == 7


def test_a_document_that_does_not_fit_is_told_by_its_place(
    httpserver: HTTPServer, client: HttpClient
) -> None:
    document = {"contacts": [{"id": 1, "email": "a"}, {"id": "s3cr3t", "email": "b"}]}
    httpserver.expect_request("/v1/x").respond_with_json(document)
    outcome = client.get("x", into=dict[str, list[Contact]])
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, DecodeError)
    assert outcome.error.where == "contacts[1].id"
    assert "s3cr3t" not in outcome.error.message


@pytest.mark.parametrize(
    ("content", "kind", "problem"),
    [
        (b"<html>", "text/html", "content type"),
        (b"", "application/json", "empty"),
        (b"{", "application/json", "JSON"),
    ],
)
def test_what_is_no_json_is_a_decode_error(
    httpserver: HTTPServer, client: HttpClient, content: bytes, kind: str, problem: str
) -> None:
    httpserver.expect_request("/v1/x").respond_with_data(content, content_type=kind)
    outcome = client.get("x", into=Model)
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, DecodeError)
    assert problem in outcome.error.problem
    if kind == "application/json":
        with pytest.raises(DecodeError):
            client.get("x").unwrap().json()


def test_json_that_is_called_something_else_can_be_read(
    httpserver: HTTPServer, client: HttpClient
) -> None:
    httpserver.expect_request("/v1/x").respond_with_data(b'{"id": 7}', content_type="text/html")
    outcome = client.get("x", into=Model)
    assert isinstance(outcome, Err)
    assert "leave `into` out, and use .json()" in outcome.error.message
    assert client.get("x").unwrap().json() == {"id": 7}


@pytest.mark.parametrize("verb", ["get", "options", "post", "put", "patch", "delete"])
def test_every_verb_decodes(httpserver: HTTPServer, client: HttpClient, verb: str) -> None:
    httpserver.expect_request("/v1/x", method=verb.upper()).respond_with_json({"id": 7})
    assert getattr(client, verb)("x", into=Model).unwrap().value == Model(id=7)


def test_an_answer_to_head_has_nothing_to_decode(
    httpserver: HTTPServer, client: HttpClient
) -> None:
    httpserver.expect_request("/v1/x", method="HEAD").respond_with_json({"id": 7})
    outcome = client.head("x", into=Model)
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, DecodeError)
    assert "ask for `… | None`" in outcome.error.message


def test_a_response_shows_nothing_that_may_be_secret(
    httpserver: HTTPServer, client: HttpClient
) -> None:
    httpserver.expect_request("/v1/x").respond_with_json("s3cr3t", headers={"X-Key": "s3cr3t"})
    response = client.get("x", params={"key": "s3cr3t"}, into=str).unwrap()
    assert response.value == "s3cr3t"
    assert "s3cr3t" not in repr(response)


def test_an_empty_body_can_be_asked_for(httpserver: HTTPServer, client: HttpClient) -> None:
    httpserver.expect_request("/v1/x").respond_with_data(b"", status=204)
    either: pydantic.TypeAdapter[Model | None] = pydantic.TypeAdapter(Model | None)
    assert client.delete("x", into=either).unwrap().value is None


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("application/json; charset=iso-8859-1", '"é"'.encode("latin-1"), '"é"'),
        ("application/json", '"é"'.encode(), '"é"'),
        ("application/vnd.api+json; charset=UTF-8", '"é"'.encode(), '"é"'),
        ('application/json; charset="utf-16"', '"é"'.encode("utf-16"), '"é"'),
        ("application/json; charset=klingon", b'"x"', '"x"'),
        ("application/json", '"é"'.encode("utf-8-sig"), '"é"'),
        ("application/json; charset=utf-8", '"é"'.encode("utf-8-sig"), '"é"'),
    ],
)
def test_the_charset_is_respected(
    httpserver: HTTPServer, client: HttpClient, kind: str, content: bytes, text: str
) -> None:
    httpserver.expect_request("/v1/x").respond_with_data(content, content_type=kind)
    response = client.get("x", into=str).unwrap()
    assert (response.text, response.value) == (text, json.loads(text))
    assert response.json() == response.value


def test_compressed_bodies_are_unpacked(serve: Serve) -> None:
    packed = gzip.compress(b"[1, 2]")
    server = serve(lambda peer: peer.send(answer(packed, headers="Content-Encoding: gzip\r\n")))
    assert HttpClient(server.url).get("/", into=list[int]).unwrap().value == [1, 2]
    assert b"Accept-Encoding: gzip, deflate" in server.requests[0]


def test_an_error_keeps_the_beginning_of_the_body(
    httpserver: HTTPServer, client: HttpClient
) -> None:
    headers = {"X-Request-Id": "r-9"}
    httpserver.expect_request("/v1/x").respond_with_data("é" * 5_000, status=422, headers=headers)
    outcome = client.get("x")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert outcome.error.body == "é" * 1_024
    assert outcome.error.request_id == "r-9"
    assert "é" not in outcome.error.message


def test_connections_are_kept_and_used_again(serve: Serve) -> None:
    def behave(peer: Peer) -> None:
        peer.send(answer(status="404 None" if peer.number % 3 == 0 else "200 OK"))

    server = serve(behave)
    with HttpClient(server.url) as client:
        for _ in range(9):
            client.get("/")
    assert (len(server.requests), server.connections) == (9, 1)


def test_a_not_modified_is_an_answer(httpserver: HTTPServer, client: HttpClient) -> None:
    httpserver.expect_request("/v1/x").respond_with_data(b"", status=304)
    either: pydantic.TypeAdapter[Model | None] = pydantic.TypeAdapter(Model | None)
    response = client.get("x", headers={"If-None-Match": '"1"'}, into=either).unwrap()
    assert (response.status, response.value) == (304, None)


# --- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length", "close", "gzip"])
def test_a_stream_is_read_as_it_comes(serve: Serve, framing: str) -> None:
    go_on = threading.Event()
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    is_chunked = framing in ("chunked", "gzip")

    def piece(line: bytes) -> bytes:
        if framing == "gzip":
            line = packer.compress(line) + packer.flush(zlib.Z_SYNC_FLUSH)
        return b"%x\r\n%b\r\n" % (len(line), line) if is_chunked else line

    def behave(peer: Peer) -> None:
        head = {
            "chunked": "Transfer-Encoding: chunked",
            "length": "Content-Length: 12",
            "close": "Connection: close",
            "gzip": "Transfer-Encoding: chunked\r\nContent-Encoding: gzip",
        }
        peer.send(f"HTTP/1.1 200 OK\r\n{head[framing]}\r\n\r\n".encode() + piece(b"first\n"))
        assert go_on.wait(30)
        peer.send(piece(b"second") + b"0\r\n\r\n" * is_chunked)
        peer.connection.close()

    with HttpClient(serve(behave).url) as client, client.stream("GET", "/") as outcome:
        lines = outcome.unwrap().lines()
        assert next(lines) == "first"
        go_on.set()
        assert list(lines) == ["second"]


def test_a_stream_may_be_larger_than_the_limit(httpserver: HTTPServer) -> None:
    from integration_hub import Limits

    httpserver.expect_request("/").respond_with_data(b"line\r\n" * 100_000)
    client = HttpClient(httpserver.url_for("/"), limits=Limits(max_response_bytes=1_000))
    with client.stream("GET", "/") as outcome:
        assert sum(1 for line in outcome.unwrap().lines() if line == "line") == 100_000
    assert not client.get("/").is_ok


def test_the_lines_of_a_stream_are_text(serve: Serve) -> None:
    def behave(peer: Peer) -> None:
        kind = "text/csv; charset=latin-1" if peer.number == 1 else "text/csv"
        head = f"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nContent-Type: {kind}\r\n\r\n"
        peer.send(head.encode() + b"a\xe9\r\n\nb\r\xe9")

    with HttpClient(serve(behave).url) as client:
        for expected in (["aé", "", "b\ré"], ["a\ufffd", "", "b\r\ufffd"]):
            with client.stream("GET", "/") as outcome:
                assert list(outcome.unwrap().lines()) == expected


@pytest.mark.parametrize(
    ("charset", "encoding", "letter"),
    [
        ("utf-8", "utf-8", "é"),
        ("utf-8", "utf-8-sig", "é"),
        ("klingon", "utf-8-sig", "é"),
        ("utf-16", "utf-16", "\u0a0d"),
        ("utf-32", "utf-32", "é"),
        ("latin-1", "latin-1", "é"),
        ("iso-2022-jp", "iso-2022-jp", "あ"),
    ],
)
def test_lines_are_those_of_the_text_however_it_comes(
    serve: Serve, charset: str, encoding: str, letter: str
) -> None:
    lines = [f"{letter},name", "", f"7,{letter}\r{letter}", "8," + letter * 200_000, "9"]
    body = "\r\n".join(lines).encode(encoding)

    def behave(peer: Peer) -> None:
        kind = f"Content-Type: text/csv; charset={charset}"
        head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{kind}\r\n\r\n"
        pieces = [*(body[i : i + 1] for i in range(40)), body[40:70_001], body[70_001:]]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in [*pieces, b""])
        peer.send(head.encode() + chunks)

    with HttpClient(serve(behave).url) as client, client.stream("GET", "/") as outcome:
        assert list(outcome.unwrap().lines()) == lines


def test_a_stream_that_is_no_text_is_told(serve: Serve) -> None:
    kind = "Content-Type: text/csv; charset=utf-16\r\n"
    server = serve(lambda peer: peer.send(answer("a\nb".encode("utf-16-be"), headers=kind)))
    with (
        HttpClient(server.url) as client,
        client.stream("GET", "/x?key=s3cr3t") as outcome,
        pytest.raises(DecodeError, match="the text: is no utf-16") as told,
    ):
        list(outcome.unwrap().lines())
    assert (told.value.method, told.value.url) == ("GET", f"{server.url}/x")


def test_a_stream_that_is_left_is_closed(serve: Serve) -> None:
    def behave(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nX-Kind: long\r\nContent-Length: 100\r\n\r\nabc")

    server = serve(behave)
    with HttpClient(server.url) as client:
        with client.stream("GET", "/a?b=1") as outcome:
            stream = outcome.unwrap()
            assert (stream.status, stream.headers["x-kind"]) == (200, "long")
            assert stream.url == f"{server.url}/a?b=1"
            assert next(stream.chunks(1)) == b"a"
            with pytest.raises(ValidationError):
                stream.chunks(0)
        assert server.is_left()


def test_a_stream_that_is_refused_or_breaks_is_told(serve: Serve) -> None:
    def behave(peer: Peer) -> None:
        if peer.number == 1:
            peer.send(answer(status="404 None"))
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
            peer.reset()

    client = HttpClient(serve(behave).url)
    with client.stream("GET", "/") as outcome:
        assert isinstance(outcome, Err)
    with client.stream("GET", "/") as outcome:
        chunks = outcome.unwrap().chunks()
        with pytest.raises(ConnectionFailed):
            list(chunks)


# --- credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (BearerAuth("t1"), "Authorization", "Bearer t1"),
        (BearerAuth(lambda: "t2"), "Authorization", "Bearer t2"),
        (BasicAuth("üser", "pass"), "Authorization", "Basic w7xzZXI6cGFzcw=="),
        (ApiKeyAuth("k"), "X-Api-Key", "k"),
        (ApiKeyAuth("k", header="X-Shop-Key"), "X-Shop-Key", "k"),
    ],
)
def test_credentials_are_sent(httpserver: HTTPServer, auth: Any, header: str, value: str) -> None:
    httpserver.expect_request("/").respond_with_handler(echo)
    client = HttpClient(httpserver.url_for("/"), auth=auth)
    assert asked(client.get("/"))["headers"][header] == value


def test_a_key_of_any_name_does_not_go_to_another_origin(serve: Serve) -> None:
    other = serve(lambda peer: peer.send(answer()))
    moved = f"Location: {other.url}/\r\n"
    server = serve(lambda peer: peer.send(answer(status="302 Found", headers=moved)))
    client = HttpClient(server.url, auth=ApiKeyAuth("s3cr3t", header="X-Shop-Key"))
    assert client.get("/").is_ok
    assert b"s3cr3t" in server.requests[0]
    assert b"s3cr3t" not in other.requests[0]


class Login:
    """An authorization server, and a system that takes its newest token alone."""

    def __init__(self, httpserver: HTTPServer) -> None:
        self.tokens = 0
        self.asked: list[dict[str, str]] = []
        self.is_strict = True
        self.lock = threading.Lock()
        httpserver.expect_request("/token", method="POST").respond_with_handler(self.login)
        httpserver.expect_request("/data").respond_with_handler(self.data)
        self.auth = OAuth2ClientCredentials(
            httpserver.url_for("/token"), "id", "s3cr3t", scope="read"
        )
        self.client = HttpClient(httpserver.url_for("/"), auth=self.auth)

    def login(self, request: Request) -> Response:
        with self.lock:
            self.tokens += 1
            self.asked.append({**request.form, "auth": request.headers["Authorization"]})
            document = {"access_token": f"t{self.tokens}", "expires_in": 3600}
        return Response(json.dumps(document), content_type="application/json")

    def data(self, request: Request) -> Response:
        is_valid = request.headers["Authorization"] == f"Bearer t{self.tokens}"
        return Response("{}", status=200 if is_valid and self.is_strict else 401)


def test_a_token_is_fetched_once_and_kept(httpserver: HTTPServer) -> None:
    login = Login(httpserver)
    assert [login.client.get("data").is_ok for _ in range(3)] == [True] * 3
    assert login.asked == [
        {"grant_type": "client_credentials", "scope": "read", "auth": "Basic aWQ6czNjcjN0"}
    ]


def test_a_token_that_is_refused_is_fetched_anew_once(httpserver: HTTPServer) -> None:
    login = Login(httpserver)
    assert login.client.get("data").is_ok
    login.tokens += 1  # somebody else logged in: ours is no longer the newest
    outcome = login.client.post("data", json={})
    assert isinstance(outcome, Ok)
    assert len(login.asked) == 2
    login.is_strict = False
    outcome = login.client.get("data")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert outcome.error.status == 401
    assert len(login.asked) == 3


def test_a_credential_that_is_refused_and_has_no_successor_is_the_outcome() -> None:
    transport = ScriptedTransport().reply(401)
    outcome = HttpClient("https://crm.test", auth=BearerAuth("t1"), transport=transport).get("x")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert len(transport.requests) == 1


def test_what_can_t_be_sent_again_is_not_after_a_401_either(httpserver: HTTPServer) -> None:
    login = Login(httpserver)
    assert login.client.get("data").is_ok
    login.tokens += 1
    outcome = login.client.put("data", content=iter([b"a", b"b"]))
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert len(login.asked) == 1


def test_many_threads_fetch_one_token(httpserver: HTTPServer) -> None:
    login = Login(httpserver)
    assert login.client.get("data").is_ok
    login.tokens += 1
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda _: login.client.get("data").is_ok, range(16)))
    assert outcomes == [True] * 16
    assert len(login.asked) == 2


def test_a_login_that_hangs_is_over_with_the_call(serve: Serve) -> None:
    """So is the wait for another thread's login."""
    server = serve(lambda peer: peer.hang())
    auth = OAuth2ClientCredentials(f"{server.url}/token", "id", "s3cr3t")
    client = HttpClient(server.url, auth=auth)
    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda total: client.get("/", timeout=total), [0.6, 0.3, 0.3]))
    assert time.monotonic() - began < 5
    for outcome in outcomes:
        assert isinstance(outcome, Err)
        last = getattr(outcome.error, "last", outcome.error)
        assert isinstance(last, TimedOut)
    assert all(b"/token" in request for request in server.requests)


def test_a_login_that_fails_is_the_outcome_and_tells_no_secret(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/token").respond_with_json({"error": "invalid_client"}, status=400)
    auth = OAuth2ClientCredentials(httpserver.url_for("/token"), "id", "s3cr3t")
    outcome = HttpClient(httpserver.url_for("/"), auth=auth).get("data")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert outcome.error.url == httpserver.url_for("/token")
    assert "s3cr3t" not in repr(outcome.error) + repr(auth)


def test_connections_to_many_hosts_do_not_use_up_the_files_of_a_process(serve: Serve) -> None:
    server = serve(lambda peer: peer.send(answer(b"1")))
    hosts = [f"http://127.0.{n // 200 + 1}.{n % 200 + 1}:{server.port}" for n in range(300)]
    with HttpClient(retry=RetryPolicy(attempts=1)) as client:
        for host in [*hosts, *hosts]:
            assert client.get(host, into=int).unwrap().value == 1
        assert server.is_left(most=_MOST_HOSTS)
        connections = server.connections
        assert client.get(hosts[-1]).is_ok  # on the connection that it has
        assert server.connections == connections
    assert server.is_left()


def test_who_has_time_may_say_so(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_json(1)
    for timeout in (LONGEST, Timeout(LONGEST, LONGEST, LONGEST)):
        assert HttpClient(timeout=timeout).get(httpserver.url_for("/")).is_ok


# --- TLS --------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_refused(
    serve: Serve, tls: ssl.SSLContext, authority_file: str
) -> None:
    server = serve(lambda peer: peer.send(answer(b"[1]")), tls)
    retry = RetryPolicy(attempts=1)
    outcome = HttpClient(server.url, retry=retry).post("/")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, ConnectionFailed)
    assert "certificate is not trusted" in outcome.error.message
    assert not outcome.error.was_sent
    with HttpClient(server.url, tls=Tls(ca=authority_file)) as client:
        assert client.get("/", into=list[int]).unwrap().value == [1]
        assert client.get("/").is_ok
    assert server.connections == 2
    wrong_name = server.url.replace("localhost", "127.0.0.1")
    outcome = HttpClient(wrong_name, retry=retry, tls=Tls(ca=authority_file)).get("/")
    assert isinstance(outcome, Err)
    assert "certificate is not trusted" in outcome.error.message


def test_a_ca_that_is_renewed_counts_for_clients_made_after_that(
    serve: Serve, tls: ssl.SSLContext, authority_file: str, tmp_path: Path
) -> None:
    server = serve(lambda peer: peer.send(answer()), tls)
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    retry = RetryPolicy(attempts=1)
    assert not HttpClient(server.url, tls=Tls(ca=str(ca)), retry=retry).get("/").is_ok
    ca.write_bytes(Path(authority_file).read_bytes())
    os.utime(ca, ns=(0, 0))  # another moment, however coarse the clock of files is
    assert HttpClient(server.url, tls=Tls(ca=str(ca)), retry=retry).get("/").is_ok


def test_files_that_can_t_be_used_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    missing = tmp_path / "missing.pem"
    for chosen in (Tls(ca=str(missing)), Tls(ca=str(empty)), Tls(certificate=str(empty))):
        with pytest.raises(ValidationError) as refused:
            HttpClient("https://crm.test", tls=chosen)
        assert refused.value.field == "tls"
    with pytest.raises(ValidationError) as refused:
        HttpClient("https://crm.test", tls=Tls(ca=str(missing)))
    assert "No such file or directory" in refused.value.message


def test_a_client_certificate_is_shown_where_it_is_asked_for(
    serve: Serve, tls: ssl.SSLContext, authority: Any, authority_file: str, tmp_path: Any
) -> None:
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    server = serve(lambda peer: peer.send(answer()), tls)
    mine = authority.issue_cert("service@example.com")
    certificate, key = str(tmp_path / "c.pem"), str(tmp_path / "k.pem")
    mine.cert_chain_pems[0].write_to_path(certificate)
    mine.private_key_pem.write_to_path(key)
    shown = Tls(ca=authority_file, certificate=certificate, key=key)
    assert HttpClient(server.url, tls=shown).get("/").is_ok
    hidden = HttpClient(server.url, tls=Tls(ca=authority_file), retry=RetryPolicy(attempts=1))
    assert not hidden.get("/").is_ok


def test_a_drip_within_tls_cannot_stretch_the_total(
    serve: Serve, tls: ssl.SSLContext, authority_file: str
) -> None:
    server = serve(lambda peer: peer.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9_000), tls)
    client = HttpClient(server.url, tls=Tls(ca=authority_file), timeout=0.5)
    outcome = client.get("/")
    assert isinstance(outcome, Err)
    assert "0.5 s (total)" in outcome.error.message


def test_a_redirect_from_https_to_http_is_not_followed(
    serve: Serve, tls: ssl.SSLContext, authority_file: str
) -> None:
    plain = serve(lambda peer: peer.send(answer()))
    moved = f"Location: {plain.url}/\r\n"
    server = serve(lambda peer: peer.send(answer(status="302 Found", headers=moved)), tls)
    outcome = HttpClient(server.url, tls=Tls(ca=authority_file)).get("/")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, StatusError)
    assert plain.requests == []

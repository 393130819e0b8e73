"""What a request carries: JSON, a form, files, bytes or a stream; and whether it can be sent again.

May import: `domain`, `messages`, `urls`, urllib3, pydantic-core.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final, TypeAlias
from urllib.parse import urlencode

import pydantic_core
from urllib3.filepost import encode_multipart_formdata

from integration_hub.domain.errors import ValidationError
from integration_hub.http.messages import Body
from integration_hub.http.urls import Params, query_pairs

File: TypeAlias = bytes | IO[bytes] | tuple[str, bytes | IO[bytes]] | tuple[str, Any, str]
"""A file to upload: its content, or (name, content), or (name, content, content type)."""

_BINARY = "application/octet-stream"
NOT_GIVEN: Final[Any] = object()
"""No JSON at all, which is not the JSON ``null``."""


@dataclass(slots=True)
class Content:
    """The body of a request, and the content type that it calls for."""

    body: Body = None
    kind: str | None = None
    start: int | None = None  # where a file stood when it was given
    length: int | None = None  # what a file still has to give, in bytes
    was_read: bool = False

    def can_be_sent(self) -> bool:
        """Whether the body is whole: bytes always, a file that can go back, a stream once."""
        return isinstance(self.body, bytes | None) or self.start is not None or not self.was_read

    def sent(self) -> None:
        """Note that the body goes out now, from its beginning."""
        if self.start is not None:
            self.body.seek(self.start)  # type: ignore[union-attr]
        self.was_read = True


def content_of(
    *,
    json: Any = NOT_GIVEN,
    data: Params | None = None,
    files: Mapping[str, File] | None = None,
    content: bytes | str | IO[bytes] | Iterable[bytes] | None = None,
) -> Content:
    """The one body that was given; `data` and `files` go together. Raises `ValidationError`."""
    given = [
        name
        for name, is_given in (
            ("json", json is not NOT_GIVEN),
            ("data", data is not None or files is not None),
            ("content", content is not None),
        )
        if is_given
    ]
    if len(given) > 1:
        raise ValidationError("body", " and ".join(given), "must be given in one way")
    if json is not NOT_GIVEN:
        return Content(_json(json), "application/json")
    if files is not None:
        return _multipart(_form(data), files)
    if data is not None:
        return Content(urlencode(_form(data)).encode(), "application/x-www-form-urlencoded")
    if isinstance(content, str):
        return Content(_utf8(content), "text/plain; charset=utf-8")
    if isinstance(content, bytes | None):
        return Content(content, None)
    return _stream(content)


def _form(data: Params | None) -> list[tuple[str, str]]:
    if isinstance(data, str | bytes):
        problem = "must be a mapping or pairs; bytes and text are given as content"
        raise ValidationError("data", type(data).__name__, problem)
    return query_pairs(data, "data")


def _utf8(content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError:
        problem = "must not hold lone surrogates, which are no UTF-8"
        raise ValidationError("content", "<not shown>", problem) from None


def _json(value: Any) -> bytes:
    try:
        return pydantic_core.to_json(value, inf_nan_mode="strings")
    except (pydantic_core.PydanticSerializationError, ValueError) as error:
        raise ValidationError("json", type(value).__name__, f"can't be JSON ({error})") from error


def _multipart(pairs: list[tuple[str, str]], files: Mapping[str, File]) -> Content:
    if not isinstance(files, Mapping):
        raise ValidationError("files", type(files).__name__, "must be a mapping of names to files")
    fields: list[tuple[str, Any]] = list(pairs)
    for name, file in files.items():
        match file:
            case (filename, content, kind):
                fields.append((name, (filename, _whole(name, content), kind)))
            case (filename, content):
                fields.append((name, (filename, _whole(name, content))))
            case _:
                filename = str(getattr(file, "name", name)).rpartition("/")[2]
                fields.append((name, (filename, _whole(name, file))))
    body, kind = encode_multipart_formdata(fields)
    return Content(body, kind)


def _whole(name: str, content: Any) -> bytes:
    found = content.read() if hasattr(content, "read") else content
    if not isinstance(found, bytes | bytearray | memoryview):  # a path would be sent as it is
        problem = "must be bytes, or a file that is open for reading bytes"
        raise ValidationError(f"files.{name}", type(content).__name__, problem)
    return bytes(found)


def _stream(content: Any) -> Content:
    if hasattr(content, "read"):
        seekable = getattr(content, "seekable", None)
        if seekable is None or not seekable():
            return Content(content, _BINARY)
        start = content.tell()
        length = content.seek(0, io.SEEK_END) - start
        return Content(content, _BINARY, start, length)
    if isinstance(content, str | Mapping) or not isinstance(content, Iterable):
        raise ValidationError("content", type(content).__name__, "must be bytes, text or a stream")
    return Content(content, _BINARY)

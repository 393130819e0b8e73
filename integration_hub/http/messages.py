"""What is asked and what is answered: requests, headers, responses, typed values.

May import: `domain`, `urls`, pydantic.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import IO, Any, Generic, TypeAlias

import pydantic
from typing_extensions import TypeVar

from integration_hub.domain.errors import DecodeError, ValidationError
from integration_hub.domain.values import without_query

T = TypeVar("T", default=None)
Body: TypeAlias = bytes | IO[bytes] | Iterable[bytes] | None

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2: token
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, 5.5, as Latin-1


class Headers(Mapping[str, str]):
    """Header fields, whose names are equal whatever their case; frozen.

    Raises `ValidationError` for a name or value that a header can't hold, such as one with a line
    break, and never repeats the value.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        if isinstance(fields, str | bytes) or not isinstance(fields, Iterable):
            raise ValidationError("headers", type(fields).__name__, "must be a mapping or pairs")
        items: Any = fields.items() if isinstance(fields, Mapping) else fields
        self._fields: dict[str, tuple[str, str]] = {}
        for name, value in items:
            checked = _checked(name, value)
            self._fields[name.lower()] = (name, checked)

    def merged(self, others: Mapping[str, str] | None) -> Headers:
        """These, with the others in the place of those of the same name."""
        if not others:
            return self
        found = Headers.__new__(Headers)
        given = others if isinstance(others, Headers) else Headers(others)
        found._fields = {**self._fields, **given._fields}
        return found

    def without(self, *names: str) -> Headers:
        dropped = {name.lower() for name in names}
        found = Headers.__new__(Headers)
        found._fields = {key: item for key, item in self._fields.items() if key not in dropped}
        return found

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def plain(self) -> dict[str, str]:
        """A dict, as urllib3 takes it."""
        return dict(self._fields.values())

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"  # names alone: values may be secret


def _checked(name: object, value: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValidationError("headers", name, "must have names that are tokens")
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        problem = f"{name} must be Latin-1 text without line breaks or control characters"
        raise ValidationError("headers", "<not shown>", problem)
    return value.strip(" \t")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request on its way; interceptors give changed copies. `attempt` counts tries from 1."""

    method: str
    url: str
    headers: Headers = field(default_factory=Headers)
    body: Body = field(default=None, repr=False)
    attempt: int = 1

    def with_headers(self, **fields: str) -> HttpRequest:
        """With these headers; an underscore in a name stands for a hyphen."""
        return self.merged({name.replace("_", "-"): value for name, value in fields.items()})

    def merged(self, headers: Mapping[str, str]) -> HttpRequest:
        """With these headers in the place of those of the same name."""
        merged = self.headers.merged(headers)
        return HttpRequest(self.method, self.url, merged, self.body, self.attempt)

    @property
    def safe_url(self) -> str:
        """The URL as errors and logs may show it, without its query."""
        return without_query(self.url)

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self.safe_url}, {self.headers!r}, try {self.attempt})"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse(Generic[T]):
    """An answer that is a success. `value` is the body as what `into` asked for, None without it.

    `url` is where the answer came from, after redirects; `attempts` how many tries it took;
    `elapsed` counts from the call; `request_id` is the ``X-Request-Id`` of the answer, or else of
    the request.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    url: str = field(repr=False)
    method: str = "GET"
    elapsed: timedelta = timedelta(0)
    attempts: int = 1
    request_id: str | None = None
    value: T = field(default=None, repr=False)  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]

    @property
    def text(self) -> str:
        """The body in the charset that the answer names, or UTF-8; what can't be read is U+FFFD. A
        byte order mark is no part of it.
        """
        return self.content.decode(charset_of(self.headers), errors="replace")

    def json(self) -> Any:
        """The body as JSON. Raises `DecodeError`."""
        try:
            return json.loads(_utf8(self.headers, self.content))
        except ValueError as error:
            raise self.undecodable("", f"is no JSON ({error})") from None
        except RecursionError:
            raise self.undecodable("", "is JSON that is nested too deep") from None

    def undecodable(self, where: str, problem: str, part: str = "body") -> DecodeError:
        """The error of an answer that is not what was asked for; see `DecodeError`."""
        url = without_query(self.url)
        return DecodeError(where, problem, method=self.method, url=url, part=part)


#: .NET, and what Excel saves, begin with a byte order mark; "utf-8-sig" reads past one.
_UTF_8 = "utf-8-sig"


def charset_of(headers: Mapping[str, str]) -> str:
    """The charset in a content type; UTF-8 where there is none that Python knows."""
    kind = headers.get("content-type")
    if kind is None or "charset" not in kind.lower():
        return _UTF_8
    found = re.search(r"charset\s*=\s*\"?([\w.:-]+)", kind, re.IGNORECASE | re.ASCII)
    return _known_charset(found[1]) if found else _UTF_8


@lru_cache(maxsize=64)
def _known_charset(name: str) -> str:
    """One for texts in general: Python also knows "rot13", which is for no bytes, and "idna"."""
    try:
        known = codecs.lookup(name).name
        b" ".decode(known, errors="replace")
    except (LookupError, UnicodeError):
        return _UTF_8
    return _UTF_8 if known.replace("-", "_") in {"utf_8", *_PYTHON_S_OWN} else known


#: Source: Python's manual, codecs, "Python Specific Encodings".
_PYTHON_S_OWN = {"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"}


def _utf8(headers: Mapping[str, str], content: bytes) -> bytes:
    charset = charset_of(headers)
    if charset in (_UTF_8, "ascii"):
        return content.removeprefix(codecs.BOM_UTF8)
    return content.decode(charset, errors="replace").encode()


@lru_cache(maxsize=512)
def _adapter(into: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(into)


def adapter_for(into: Any) -> pydantic.TypeAdapter[Any] | None:
    """What reads a body as a type: one that pydantic's TypeAdapter takes, or such an adapter; None
    where None is wanted.

    Raises `ValidationError` for another, so that nothing is sent whose answer can't be read.
    """
    if into is None:
        return None
    try:
        found = into if isinstance(into, pydantic.TypeAdapter) else _made(into)
        if not found.pydantic_complete:
            found.rebuild()
    except Exception as error:  # pydantic raises many kinds for what is no type
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValidationError("into", str(into), f"can't be decoded into: {why}") from error
    return found


def _made(into: Any) -> pydantic.TypeAdapter[Any]:
    try:
        return _adapter(into)
    except TypeError:  # it can't be kept, since it has no hash: `Annotated[int, {"unit": "cent"}]`
        return pydantic.TypeAdapter(into)


def decoded(response: HttpResponse[Any], adapter: pydantic.TypeAdapter[T]) -> T:
    """The body as what the adapter makes of it. Raises `DecodeError`."""
    kind = response.headers.get("content-type")
    try:
        if not response.content:
            return adapter.validate_python(None)
        if kind is not None and "json" not in kind.lower():
            way = "where it is JSON all the same, leave `into` out, and use .json()"
            raise response.undecodable("", f"its content type is {kind!r}; {way}")
        return adapter.validate_json(_utf8(response.headers, response.content))
    except pydantic.ValidationError as error:
        if not response.content:
            problem = "is empty; where it may be (204, 304), ask for `… | None`"
            raise response.undecodable("", problem) from None
        first = error.errors(include_input=False, include_url=False)[0]
        raise response.undecodable(_place(first["loc"]), first["msg"]) from None


def _place(location: tuple[int | str, ...]) -> str:
    """``("contacts", 2, "email")`` as ``contacts[2].email``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")

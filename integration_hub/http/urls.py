"""Where a request goes: a path joined to a base it can't leave, a query, and safe redirects.

May import: `domain`, urllib3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, KeysView, Mapping, ValuesView
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode, urljoin

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from integration_hub.domain.errors import ValidationError
from integration_hub.domain.values import checked_kind, without_query

_UNPRINTABLE = re.compile("[\x00-\x20\x7f]")
_PORTS = {"http": 80, "https": 443}
_NEEDS_PARSING = re.compile(r"[^A-Za-z0-9_.~/=&-]|\.\.")


class Origin(NamedTuple):
    """What must be the same for credentials to go along (RFC 6454)."""

    scheme: str
    host: str
    port: int


def parsed(field: str, url: str) -> Url:
    """An absolute http(s) URL, normalised; without credentials in it."""
    if _UNPRINTABLE.search(url):
        raise ValidationError(field, "<not shown>", "must not hold blanks or control characters")
    try:
        found = parse_url(url)
    except LocationParseError:  # it repeats the URL
        raise ValidationError(field, "<not shown>", "must be a valid URL") from None
    if found.auth is not None:
        problem = "must not hold credentials; give them as auth="
        raise ValidationError(field, "<not shown>", problem)
    if found.scheme not in _PORTS or not found.host:
        problem = "must be an absolute http or https URL"
        raise ValidationError(field, without_query(url), problem)
    return found


def origin(url: Url) -> Origin:
    assert url.scheme is not None
    assert url.host is not None
    return Origin(url.scheme, url.host, url.port or _PORTS[url.scheme])


class BaseUrl:
    """What the paths of a client are joined to."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        self._origin: Origin | None = None
        self._stem = ""
        if url is not None:
            checked_kind("base_url", url, str, "must be text: str() of a URL object, say")
            found = parsed("base_url", url)
            if found.query is not None or found.fragment is not None:
                problem = "must not have a query or a fragment"
                raise ValidationError("base_url", without_query(url), problem)
            self._origin = origin(found)
            path = (found.path or "").rstrip("/")
            self._stem = found._replace(path=path).url

    def join(self, path: str) -> str:
        """The URL of a path below the base, or of an absolute URL of the same origin.

        Raises `ValidationError` for a path that leads elsewhere: another host, or ``..``.
        """
        checked_kind("path", path, str, "must be a string")
        if _UNPRINTABLE.search(path):
            problem = "must not hold blanks or control characters; quote() what may have them"
            raise ValidationError("path", without_query(path), problem)
        if "://" in path.partition("?")[0]:
            return self._absolute(path)
        if not self._stem:
            problem = "must be an absolute URL: the client has no base_url"
            raise ValidationError("path", without_query(path), problem)
        path = path.partition("#")[0]
        if not path:
            return self._stem
        url = self._stem + path if path[0] == "?" else f"{self._stem}/{path.lstrip('/')}"
        return _normal(url) if _NEEDS_PARSING.search(path) else url

    def _absolute(self, url: str) -> str:
        found = parsed("path", url)
        if self._origin is not None and origin(found) != self._origin:
            problem = f"must stay on {self._origin.scheme}://{self._origin.host}"
            raise ValidationError("path", without_query(url), problem)
        return found._replace(fragment=None).url


def _normal(url: str) -> str:
    """With what must be quoted quoted."""
    path, mark, query = url.partition("?")
    segments = unquote(path.partition("://")[2]).replace("\\", "/").split("/")
    if ".." in segments:
        raise ValidationError("path", path, "must not lead upwards by '..'")
    return parse_url(f"{path}{mark}{query}".replace("\\", "%5C")).url


Params = Mapping[str, Any] | Iterable[tuple[str, Any]]


def with_params(url: str, params: Params | None) -> str:
    """The URL with these added to its query: a list gives its name once per item, None nothing, a
    moment is written by ISO 8601.
    """
    pairs = query_pairs(params)
    if not pairs:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(pairs)}"


def query_pairs(params: Params | None, field: str = "params") -> list[tuple[str, str]]:
    if params is None:
        return []
    if isinstance(params, str | bytes) or not isinstance(params, Iterable):
        problem = "must be a mapping or pairs; a query that is written out goes into the path"
        raise ValidationError(field, type(params).__name__, problem)
    found: list[tuple[str, str]] = []
    pairs: Any = params.items() if isinstance(params, Mapping) else params
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            problem = "must be a mapping, or pairs of a name and a value"
            raise ValidationError(field, f"one {type(pair).__name__}", problem)
        name, value = pair
        several = value if isinstance(value, _SEVERAL) else (value,)
        found += [(name, _text(f"{field}.{name}", each)) for each in several if each is not None]
    return found


_SEVERAL = (list, tuple, set, frozenset, range, KeysView, ValuesView)
_NO_TEXT = (*_SEVERAL, bytes, bytearray, memoryview, Mapping, Iterator)
"""What `str` shows as Python writes it."""


def _text(field: str, value: object) -> str:
    if isinstance(value, Enum):
        return _text(field, value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, _NO_TEXT):
        problem = "must be text, a number or a moment, or a list of such"
        raise ValidationError(field, type(value).__name__, problem)
    return str(value)


_MAY_STAND_IN_A_URL = "!#$%&'()*+,/:;=?@[]"  # beside letters, digits and -._~; RFC 3986, 2


def said_by(header: str) -> str:
    """A URL that a header says, with quoted what should have been: blanks, and text in UTF-8, which
    is there as Latin-1.
    """
    return quote(header.strip(), safe=_MAY_STAND_IN_A_URL, encoding="latin-1")


class Redirect(NamedTuple):
    """Where a redirect leads, with which method, and whether credentials may go along."""

    method: str
    url: str
    keeps_body: bool
    keeps_credentials: bool


def redirect(method: str, url: str, status: int, location: str) -> Redirect | None:
    """What to do with a redirect; None where following it is not safe.

    A 303 becomes a GET, as does a POST at 301 and 302; 307 and 308 repeat the request (RFC 9110,
    15.4). Never from https to http, never to another scheme, never to a URL with credentials.
    """
    try:
        here, there = parse_url(url), parsed("location", urljoin(url, said_by(location)))
    except (ValidationError, ValueError):
        return None
    if here.scheme == "https" and there.scheme != "https":
        return None
    becomes_get = (status == 303 and method != "HEAD") or (
        status in (301, 302) and method == "POST"
    )
    return Redirect(
        method="GET" if becomes_get else method,
        url=there._replace(fragment=None).url,
        keeps_body=not becomes_get,
        keeps_credentials=origin(here) == origin(there),
    )

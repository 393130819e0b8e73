"""The small values that all aggregates are made of, each refused at the door if it can't be kept.

May import: `errors`. Every check takes the field's name first, so that the error can say it.

JSON is canonical from its construction on, so that what a store gives back equals what it was
given, to the letter: objects have their keys in the order in which Postgres keeps them (shorter
first, then by bytes), a float too large for fractions is the integer that it is, and -0.0 is 0.0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, TypeAlias, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from uuid_utils.compat import uuid7

from integration_hub.domain.errors import ValidationError

Json: TypeAlias = (
    "Mapping[str, Json] | list[Json] | tuple[Json, ...] | str | int | float | bool | None"
)
"""What may be given as JSON."""

T = TypeVar("T")

MAX_NAME = 255
MAX_TEXT = 4_000
MAX_URL = 2_048
MAX_TAGS = 100
MAX_JSON_BYTES = 256 * 1024
MAX_JSON_DEPTH = 100
MAX_JSON_INTEGER_BITS = 1_024  # beyond it no double holds the number, and parsers disagree
_FRACTIONLESS = 1e16  # from here on every double is an integer, and Postgres prints it as one

_SLUG = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_EVENT_PART = re.compile(r"[a-zA-Z0-9_]+")  # Standard Webhooks: full-stop-delimited [a-zA-Z0-9_]
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # Postgres: no NUL; UTF-8: no lone surrogates
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): ordered by the time of its making, within a process strictly."""
    return uuid7()


# --- text -------------------------------------------------------------------------------------


def _text(field: str, value: object, limit: int) -> str:
    if not isinstance(value, str):
        raise ValidationError(field, value, "must be a string")
    if _UNSTORABLE.search(value):
        raise ValidationError(field, value, "must not hold NUL or lone surrogates")
    if len(value) > limit:
        raise ValidationError(field, value, f"must have at most {limit:,} characters")
    return str(value)


def checked_name(field: str, value: object, *, limit: int = MAX_NAME) -> str:
    """A line of 1 to `limit` characters, without blanks at its ends or control characters."""
    text = _text(field, value, limit)
    if not text.strip():
        raise ValidationError(field, value, "must not be empty")
    if text != text.strip():
        raise ValidationError(field, value, "must not begin or end with blanks")
    if _CONTROL.search(text):
        raise ValidationError(field, value, "must not hold control characters")
    return text


def searchable(field: str, value: object) -> str:
    """Text to look something up by: any that a store could hold."""
    return _text(field, value, MAX_TEXT)


def checked_text(field: str, value: object) -> str | None:
    """Free text of at most 4,000 characters, or None."""
    return None if value is None else _text(field, value, MAX_TEXT)


def clipped_text(value: object) -> str:
    """Text from elsewhere (an error's words), made storable instead of refused."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))[:MAX_TEXT]


def checked_slug(field: str, value: object) -> str:
    """Lower-case words of letters and digits, joined by ``.``, ``_`` or ``-``."""
    text = _text(field, value, MAX_NAME)
    if not _SLUG.fullmatch(text):
        raise ValidationError(field, value, "must be a slug such as 'salesforce' or 'sap-erp'")
    return text


def checked_url(field: str, value: object) -> str:
    """An absolute http(s) URL without credentials.

    A URL with credentials is not repeated in the error: they belong into the secret store.
    """
    text = _text(field, value, MAX_URL)
    if "@" in text.partition("://")[2].partition("/")[0].partition("?")[0]:
        raise ValidationError(field, "<not shown>", "must not hold credentials")
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValidationError(field, value, "must be a valid URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_valid:
        raise ValidationError(field, value, "must be an absolute http or https URL")
    if not text.isprintable() or " " in text:
        raise ValidationError(field, value, "must not hold blanks or control characters")
    return text


# --- plain values -----------------------------------------------------------------------------


def checked_id(field: str, value: object) -> UUID:
    if not isinstance(value, UUID):
        raise ValidationError(field, value, "must be a uuid.UUID; wrap a string in UUID(…)")
    return value


def checked_flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValidationError(field, value, "must be True or False")
    return value


def checked_count(field: str, value: object, *, least: int = 0, most: int = 2**31 - 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValidationError(field, value, f"must be a whole number from {least:,} to {most:,}")
    return value


def checked_time(field: str, value: object) -> datetime:
    """An aware moment, given back in UTC."""
    if not isinstance(value, datetime):
        raise ValidationError(field, value, "must be a datetime")
    if value.utcoffset() is None:
        raise ValidationError(field, value, "must be an aware datetime; add tzinfo=UTC, say")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValidationError(field, value, "must lie between the years 1 and 9999") from error


def optional_time(field: str, value: object) -> datetime | None:
    return None if value is None else checked_time(field, value)


def checked_duration(field: str, value: object) -> timedelta:
    """A `timedelta` or a number of seconds, not negative, given back as a `timedelta`."""
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        try:
            duration = timedelta(seconds=value)
        except OverflowError as error:
            raise ValidationError(field, value, "must be a shorter time") from error
    else:
        raise ValidationError(field, value, "must be a timedelta or a number of seconds")
    if duration < timedelta(0):
        raise ValidationError(field, value, "must not be negative")
    return duration


def checked_lease(field: str, value: object) -> timedelta:
    """A duration of at least a second: less would be lost before its holder could say a word."""
    lease = checked_duration(field, value)
    if lease < timedelta(seconds=1):
        raise ValidationError(field, value, "must be at least a second")
    return lease


def member(field: str, value: object, choices: Mapping[str, T]) -> T:
    """The member of an enumeration that `value` is, or spells."""
    found = choices.get(value) if isinstance(value, str) else None
    if found is None:
        raise ValidationError(field, value, f"must be one of {', '.join(choices)}")
    return found


def members_of(field: str, value: object) -> list[object]:
    """The elements of a collection; one string is refused, since a string is a collection too."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ValidationError(field, value, "must be a collection of strings")
    return list(value)


def checked_tags(field: str, value: object) -> tuple[str, ...]:
    """A set of names: sorted by code point, without duplicates, at most 100."""
    tags = tuple(sorted({checked_name(field, tag) for tag in members_of(field, value)}))
    if len(tags) > MAX_TAGS:
        raise ValidationError(field, len(tags), f"must be at most {MAX_TAGS} tags")
    return tags


# --- events -----------------------------------------------------------------------------------


def checked_event(field: str, value: object) -> str:
    """An event type: full-stop-delimited parts of ``[a-zA-Z0-9_]`` (Standard Webhooks)."""
    text = _text(field, value, MAX_NAME)
    if not all(_EVENT_PART.fullmatch(part) for part in text.split(".")):
        raise ValidationError(field, value, "must be an event type such as 'invoice.paid'")
    return text


def checked_patterns(field: str, value: object) -> tuple[str, ...]:
    """Event patterns: an event type, one that ends in ``.*``, or ``*``; sorted, not empty."""
    patterns = set()
    for pattern in members_of(field, value):
        text = _text(field, pattern, MAX_NAME)
        stem = text.removesuffix(".*")
        if text != "*" and not all(_EVENT_PART.fullmatch(part) for part in stem.split(".")):
            raise ValidationError(
                field, pattern, "must be patterns such as 'invoice.paid', 'invoice.*' or '*'"
            )
        patterns.add(text)
    if not 1 <= len(patterns) <= MAX_TAGS:
        raise ValidationError(field, len(patterns), f"must be 1 to {MAX_TAGS} patterns")
    return tuple(sorted(patterns))


def patterns_for(event: str) -> tuple[str, ...]:
    """Every pattern that `event` matches: itself, and a ``*`` after each run of leading parts.

    ``invoice.paid.late`` matches itself, ``invoice.paid.*``, ``invoice.*`` and ``*``; so one index
    look-up per pattern finds the subscribers of an event.
    """
    parts = event.split(".")
    stems = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return (event, *(f"{stem}.*" for stem in stems), "*")


# --- JSON -------------------------------------------------------------------------------------


def _refuse(self: object, *_args: object, **_kwargs: object) -> NoReturn:
    raise TypeError("stored JSON is frozen; make a changed copy and store that with save()")


class FrozenDict(dict[str, Any]):
    """A JSON object that can't be changed; equal to, and dumped like, the plain dict."""

    __slots__ = ()
    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = _refuse
    __ior__ = _refuse

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: object) -> FrozenDict:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A JSON array that can't be changed; equal to, and dumped like, the plain list."""

    __slots__ = ()
    __setitem__ = __delitem__ = append = clear = extend = insert = pop = remove = _refuse
    reverse = sort = __iadd__ = __imul__ = _refuse

    def __copy__(self) -> FrozenList:
        return self

    def __deepcopy__(self, memo: object) -> FrozenList:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


def key_order(key: str) -> tuple[int, bytes]:
    """Where JSONB keeps a key: by the length of its UTF-8, then by its bytes."""
    encoded = key.encode()
    return len(encoded), encoded


def checked_json(field: str, value: object, *, depth: int = 0) -> Any:
    """JSON that survives a round trip through every store, frozen and canonical.

    Refused are NaN and infinities, keys that are not strings, NUL and lone surrogates, integers
    beyond 1,024 bits, nesting beyond 100 levels, and more than 256 KiB when dumped as UTF-8.
    Errors name the path and never repeat a value: a config may hold what is not for logs.
    """
    frozen = _frozen(field, value, depth)
    if isinstance(frozen, dict | list | str):
        size = len(json.dumps(frozen, ensure_ascii=False, separators=(",", ":")).encode())
        if size > MAX_JSON_BYTES:
            raise ValidationError(field, size, f"must have at most {MAX_JSON_BYTES:,} bytes")
    return frozen


def checked_object(field: str, value: object) -> FrozenDict:
    """A JSON object; see `checked_json`."""
    if not isinstance(value, Mapping):
        raise ValidationError(field, type(value).__name__, "must be a JSON object (a mapping)")
    frozen: FrozenDict = checked_json(field, value)
    return frozen


def _frozen(path: str, value: object, depth: int) -> Any:
    if depth > MAX_JSON_DEPTH:
        raise ValidationError(path, depth, f"must be nested at most {MAX_JSON_DEPTH} deep")
    match value:
        case None | True | False:
            return value
        case str():
            return _json_text(path, value)
        case int():
            if value.bit_length() > MAX_JSON_INTEGER_BITS:
                problem = f"must be an integer of at most {MAX_JSON_INTEGER_BITS:,} bits"
                raise ValidationError(path, f"{value.bit_length()} bits", problem)
            return int(value)
        case float():
            if not math.isfinite(value):
                raise ValidationError(path, value, "must be a finite number")
            return int(value) if abs(value) >= _FRACTIONLESS else float(value) + 0.0
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    problem = "must have strings for keys"
                    raise ValidationError(path, f"a key of type {type(key).__name__}", problem)
                _json_text(f"a key of {path}", key)
            keys = sorted(value, key=key_order)
            return FrozenDict((str(k), _frozen(f"{path}.{k}", value[k], depth + 1)) for k in keys)
        case list() | tuple():
            items = enumerate(value)
            return FrozenList(_frozen(f"{path}[{at}]", item, depth + 1) for at, item in items)
    raise ValidationError(path, type(value).__name__, "must be JSON")


def _json_text(path: str, value: str) -> str:
    if _UNSTORABLE.search(value):
        raise ValidationError(path, "such a string", "must not hold NUL or lone surrogates")
    return str(value)


def stored_json(value: Any) -> Any:
    """Freeze JSON that comes from a store, where it was checked before it went in."""
    if type(value) is dict:
        for key, item in value.items():
            if type(item) is dict or type(item) is list:
                value[key] = stored_json(item)
        return FrozenDict(value)
    if type(value) is list:
        return FrozenList(
            stored_json(item) if type(item) is dict or type(item) is list else item
            for item in value
        )
    return value


def json_equal(left: object, right: object) -> bool:
    """Equality as JSON has it: ``1`` equals ``1.0``, and ``true`` does not equal ``1``."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(json_equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(json_equal, left, right))
    return left == right


def json_contains(document: object, fragment: object) -> bool:
    """Whether `document` contains `fragment`, as the operator ``@>`` of Postgres has it.

    An object contains another's keys with contained values; an array contains another's elements
    in any order and number; at the top alone, an array also contains a scalar that is an element.
    Source: PostgreSQL manual, 8.14.3 jsonb Containment and Existence.
    """
    if isinstance(document, list | tuple) and not isinstance(fragment, Mapping | list | tuple):
        return any(json_equal(item, fragment) for item in document)
    return _contains(document, fragment)


def _contains(document: object, fragment: object) -> bool:
    if isinstance(fragment, Mapping):
        return isinstance(document, Mapping) and all(
            key in document and _contains(document[key], fragment[key]) for key in fragment
        )
    if isinstance(fragment, list | tuple):
        return isinstance(document, list | tuple) and all(
            any(_contains(item, wanted) for item in document) for wanted in fragment
        )
    return not isinstance(document, Mapping | list | tuple) and json_equal(document, fragment)


def one_or_more(value: object) -> Collection[Any]:
    """A single value or a collection of them, as a collection."""
    if isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping):
        return value
    return (value,)

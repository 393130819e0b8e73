"""The small values that all aggregates are made of, each refused at the door if it can't be kept.

May import: `errors`. Every check takes the field's name first, so that the error can say it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from uuid_utils.compat import uuid7

from integration_hub.domain.errors import HubError, ValidationError

T = TypeVar("T")

MAX_NAME = 255
MAX_TEXT = 4_000
MAX_URL = 2_048
MAX_TAGS = 100
LONGEST = timedelta(days=36_525)
"""A century: nobody waits longer, it can be added to any moment, and a double holds its µs."""
LONGEST_ASKED = timedelta(days=1)
"""The longest wait that another system may ask for: some say years, and nobody would notice."""

_SLUG = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_EVENT_PART = re.compile(r"[a-zA-Z0-9_]+")  # Standard Webhooks: full-stop-delimited [a-zA-Z0-9_]
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # Postgres: no NUL; UTF-8: no lone surrogates
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): ordered by the time of its making, within a process strictly."""
    return uuid7()


def checked_kind(field: str, value: object, kind: type[T], problem: str) -> T:
    """The value, if it is one of a kind. An error tells its type alone, for it may be anything."""
    if not isinstance(value, kind):
        raise ValidationError(field, type(value).__name__, problem)
    return value


# --- text -------------------------------------------------------------------------------------


def _text(field: str, value: object, limit: int, *, shown: Callable[[str], object] = str) -> str:
    if not isinstance(value, str):
        raise ValidationError(field, value, "must be a string")
    if UNSTORABLE.search(value):
        raise ValidationError(field, shown(value), "must not hold NUL or lone surrogates")
    if len(value) > limit:
        raise ValidationError(field, shown(value), f"must have at most {limit:,} characters")
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
    """Text from elsewhere, or an error's words, made storable instead of refused.

    The words of `KeyError('id')` are ``'id'``, and some errors have none: so others than the
    package's own come with their kind.
    """
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - an error that can't say what it is still has a kind
        text = ""
    if isinstance(value, BaseException) and not isinstance(value, HubError):
        text = f"{type(value).__name__}: {text}" if text else type(value).__name__
    return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)[:MAX_TEXT]


def checked_slug(field: str, value: object) -> str:
    """Lower-case words of letters and digits, joined by ``.``, ``_`` or ``-``."""
    text = _text(field, value, MAX_NAME)
    if not _SLUG.fullmatch(text):
        raise ValidationError(field, value, "must be a slug such as 'salesforce' or 'sap-erp'")
    return text


def without_query(url: str) -> str:
    """The URL as errors, logs and a `repr` may show it: queries hold keys and tokens, and what
    stands before the host is a password.
    """
    return _USERINFO.sub(r"\1", url.partition("?")[0].partition("#")[0])


_USERINFO = re.compile(r"^([^/@]*//)?[^/]*@")


def checked_url(field: str, value: object) -> str:
    """An absolute http(s) URL without credentials.

    A URL with credentials is not repeated in the error: they belong into the secret store.
    """
    text = _text(field, value, MAX_URL, shown=without_query)
    if "@" in text.partition("://")[2].partition("/")[0].partition("?")[0]:
        raise ValidationError(field, "<not shown>", "must not hold credentials")
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:  # it repeats what stands where a port should
        raise ValidationError(field, "<not shown>", "must be a valid URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_valid:
        problem = "must be an absolute http or https URL"
        raise ValidationError(field, without_query(text), problem)
    if not text.isprintable() or " " in text:
        problem = "must not hold blanks or control characters"
        raise ValidationError(field, without_query(text), problem)
    return text


# --- plain values -----------------------------------------------------------------------------


def checked_id(field: str, value: object) -> UUID:
    if not isinstance(value, UUID):
        problem = "must be a uuid.UUID; wrap a string in UUID(…), and give an object's .id"
        raise ValidationError(field, value, problem)
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


def checked_start(field: str, value: object) -> datetime:
    """An aware moment, in UTC, to which any duration can be added."""
    moment = checked_time(field, value)
    if moment > _LAST_START:
        raise ValidationError(field, value, "must lie before the year 9899")
    return moment


_LAST_START = datetime(9899, 1, 1, tzinfo=UTC)


def optional_time(field: str, value: object) -> datetime | None:
    return None if value is None else checked_time(field, value)


def checked_duration(field: str, value: object) -> timedelta:
    """A `timedelta` or a number of seconds, not negative and of a century at most, given back as a
    `timedelta`.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    else:
        raise ValidationError(field, value, "must be a timedelta or a number of seconds")
    if isinstance(seconds, float) and math.isnan(seconds):
        raise ValidationError(field, value, "must be a number")
    if seconds < 0:
        raise ValidationError(field, value, "must not be negative")
    if seconds > LONGEST.total_seconds():
        raise ValidationError(field, value, "must be at most 100 years")
    return value if isinstance(value, timedelta) else timedelta(seconds=seconds)


def milliseconds(duration: timedelta) -> int:
    """As databases count and keep them, in 31 bits: up to 24 days."""
    return min(round(duration.total_seconds() * 1000), 2**31 - 1)


def checked_period(field: str, value: object) -> timedelta:
    """A duration longer than nothing: what is done that often would else be done without pause."""
    period = checked_duration(field, value)
    if not period:
        raise ValidationError(field, value, "must be longer than 0 s")
    return period


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


def one_or_more(value: object) -> Collection[Any]:
    """A single value or a collection of them, as a collection."""
    if isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping):
        return value
    return (value,)

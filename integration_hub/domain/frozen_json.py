"""JSON as it is kept: checked, canonical, frozen, and compared as Postgres compares it.

May import: `errors`, `values`.

It is canonical from its construction on, so that what a store gives back equals what it was
given, to the letter: objects have their keys in the order in which Postgres keeps them (shorter
first, then by bytes), a float too large for fractions is the integer that it is, and -0.0 is 0.0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import is_dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from typing import Any, NoReturn, TypeAlias
from uuid import UUID

from integration_hub.domain.errors import ValidationError
from integration_hub.domain.values import UNSTORABLE

Json: TypeAlias = (
    "Mapping[str, Json] | list[Json] | tuple[Json, ...] | str | int | float | bool | None"
)
"""What may be given as JSON."""

MAX_JSON_BYTES = 256 * 1024
MAX_JSON_DEPTH = 100
MAX_JSON_INTEGER_BITS = 1_024  # beyond it no double holds the number, and parsers disagree
_FRACTIONLESS = 1e16  # from here on every double is an integer, and Postgres prints it as one


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

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

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

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

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
    raise ValidationError(path, type(value).__name__, f"must be JSON{_as_json(value)}")


def _as_json(value: object) -> str:
    """The way out, for what is often meant to be JSON."""
    match value:
        case date() | time():
            return ": text by .isoformat(), say"
        case UUID() | Decimal():
            return ": text by str(), say"
        case Enum():
            return ": its .value, say"
        case AbstractSet():
            return ": a list by sorted(), say"
    if is_dataclass(value):
        return ": a mapping by dataclasses.asdict(), say"
    return ': a mapping by .model_dump(mode="json"), say' if hasattr(value, "model_dump") else ""


def _json_text(path: str, value: str) -> str:
    if UNSTORABLE.search(value):
        raise ValidationError(path, "such a string", "must not hold NUL or lone surrogates")
    return str(value)


def checked_part(
    config: Mapping[str, Any], name: str, known: Collection[str], *, of: str
) -> Mapping[str, Any]:
    """The object that a config has by a name, or an empty one; another value raises, and so does
    what is not known there, which would be said in vain.
    """
    found = config.get(name, {})
    if not isinstance(found, Mapping):
        raise ValidationError(f"config.{name}", type(found).__name__, "must be a JSON object")
    for each in found:
        if each not in known:
            problem = f"of {of} may only have: {', '.join(sorted(known))}"
            raise ValidationError(f"config.{name}", each, problem)
    return found


def stored_part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The same of a stored config: what somebody wrote there by hand, and is none, is as none."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


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


def json_contains(document: object, fragment: object) -> bool:
    """Whether `document` contains `fragment`, as the operator ``@>`` of Postgres has it.

    An object contains another's keys with contained values; an array contains another's elements
    in any order and number; at the top alone, an array also contains a scalar that is an element.
    Source: PostgreSQL manual, 8.14.3 jsonb Containment and Existence.
    """
    if isinstance(document, list | tuple) and not isinstance(fragment, Mapping | list | tuple):
        return any(_same(item, fragment) for item in document)
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
    return not isinstance(document, Mapping | list | tuple) and _same(document, fragment)


def _same(left: object, right: object) -> bool:
    """Whether scalars are equal as JSON has it: ``1`` and ``1.0`` are, ``true`` and ``1`` not."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return left == right

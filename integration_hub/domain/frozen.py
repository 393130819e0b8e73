"""Frozen objects that are made past the checks of their constructors: copies, and stored rows.

May import: nothing of ours. A frozen dataclass sets each of its fields by a call of
`object.__setattr__`, which takes longer than all else that is done with a row. A draft is an object
of a class with the same slots that may be changed: the interpreter stores straight into them; then
the object is given the frozen class. (Setting `__class__` is for classes of one layout. Source:
Python's reference, 3.3.2.4.1, slots.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, field, fields, make_dataclass
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

D = TypeVar("D")
_Known: TypeAlias = tuple[Callable[[Any], tuple[Any, ...]], type[Any]]
_KNOWN: dict[type[Any], _Known] = {}


def put(target: object, name: str, value: object) -> None:
    """Set a field of a frozen object that is still being made."""
    object.__setattr__(target, name, value)


def evolved(source: D, /, **changes: Any) -> D:
    """A copy of a frozen dataclass with changes that need no check, since they are our own."""
    kind = type(source)
    read, draft_ = _KNOWN.get(kind) or _known(kind)
    copy = draft_(*read(source))
    for name, value in changes.items():
        setattr(copy, name, value)
    return frozen(kind, copy)


def draft(kind: type[Any], names: Sequence[str]) -> type[Any]:
    """The class of the drafts of a frozen dataclass with slots.

    It takes the fields that are named, in that order, and those others that have a default.
    `frozen` makes what it is to be of a draft.
    """
    defaults = [
        (each.name, object, field(default=each.default))
        for each in fields(kind)
        if each.name not in names and each.default is not MISSING
    ]
    plain = make_dataclass("plain", [*((name, object) for name in names), *defaults])
    body = {
        "__init__": vars(plain)["__init__"],
        # Both: with one that is not `object`'s, no attribute is stored the quick way.
        "__setattr__": object.__setattr__,
        "__delattr__": object.__delattr__,
    }
    own = {"__slots__": kind.__slots__} if "__slots__" in vars(kind) else {}
    return type(f"{kind.__name__}Draft", kind.__bases__, own | body)


def frozen(kind: type[D], made: Any) -> D:
    """A draft of this class that is done, as an object of the class."""
    made.__class__ = kind
    done: D = made
    return done


def _known(kind: type[Any]) -> _Known:
    """What reads all fields at once, and what takes them."""
    first, *others = names = [each.name for each in fields(kind)]
    found = _KNOWN[kind] = attrgetter(first, *others), draft(kind, names)
    return found

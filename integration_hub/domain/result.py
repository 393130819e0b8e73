"""Outcomes as values: `Ok` or `Err`, for calls whose failure a caller must expect.

May import: the standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

T = TypeVar("T", covariant=True)
E = TypeVar("E", bound=Exception, covariant=True)
U = TypeVar("U")
F = TypeVar("F", bound=Exception)

# No slots: on Python 3.11 a frozen generic with slots can't be made as ``Ok[int](5)``.


@dataclass(frozen=True)
class Ok(Generic[T]):
    """What went well, with its value; matches ``case Ok(value)``."""

    value: T

    @property
    def is_ok(self) -> Literal[True]:
        return True

    def unwrap(self) -> T:
        return self.value

    def unwrap_or(self, default: object) -> T:
        return self.value

    def map(self, change: Callable[[T], U]) -> Ok[U]:
        return Ok(change(self.value))

    def map_error(self, change: Callable[[Any], Exception]) -> Ok[T]:
        return self

    def and_then(self, following: Callable[[T], Ok[U] | Err[F]]) -> Ok[U] | Err[F]:
        """What `following` makes of the value; an `Err` skips it."""
        return following(self.value)


@dataclass(frozen=True)
class Err(Generic[E]):
    """What failed, with its error; matches ``case Err(error)``."""

    error: E

    @property
    def is_ok(self) -> Literal[False]:
        return False

    def unwrap(self) -> NoReturn:
        """Raises the error itself."""
        raise self.error

    def unwrap_or(self, default: U) -> U:
        return default

    def map(self, change: Callable[[Any], object]) -> Err[E]:
        return self

    def map_error(self, change: Callable[[E], F]) -> Err[F]:
        return Err(change(self.error))

    def and_then(self, following: Callable[[Any], object]) -> Err[E]:
        return self


Result: TypeAlias = Ok[T] | Err[E]

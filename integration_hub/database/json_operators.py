"""Questions to JSON columns (and to text), each with one meaning and two translations.

May import: `domain`, SQLAlchemy. On Postgres these are the operators that a GIN index serves; on
SQLite they are Python functions that `register_functions` adds to a connection.
"""

from __future__ import annotations

import json
from typing import Any, Final

from sqlalchemy import JSON, Boolean, ColumnElement
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from integration_hub.domain.frozen_json import json_contains


class _Contains(GenericFunction[bool]):
    name = "integration_hub_json_contains"
    inherit_cache = True
    type = Boolean()


class _HasAny(GenericFunction[bool]):
    name = "integration_hub_json_has_any"
    inherit_cache = True
    type = Boolean()


def contains(column: ColumnElement[Any], fragment: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the document contains the fragment, as `frozen_json.json_contains` has it."""
    return _Contains(column, fragment)


TEXTS: Final = ARRAY(TEXT).with_variant(JSON(), "sqlite")
"""The type of a parameter that is a list of texts."""


def has_any(column: ColumnElement[Any], texts: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether an array of texts has at least one of these, an expression of type `TEXTS`."""
    return _HasAny(column, texts)


@compiles(_Contains, "postgresql")
def _contains_on_postgres(element: _Contains, compiler: SQLCompiler, **options: Any) -> str:
    document, fragment = (compiler.process(each, **options) for each in element.clauses)
    return f"({document} @> {fragment})"


@compiles(_HasAny, "postgresql")
def _has_any_on_postgres(element: _HasAny, compiler: SQLCompiler, **options: Any) -> str:
    document, texts = (compiler.process(each, **options) for each in element.clauses)
    return f"({document} ?| {texts})"


def register_functions(connection: Any) -> None:
    """Give a `sqlite3.Connection` what stands for Postgres' operators."""
    for name, function in (
        (_Contains.name, _contains_on_sqlite),
        (_HasAny.name, _has_any_on_sqlite),
        ("strpos", lambda text, part: text.find(part) + 1),  # LIKE ignores case on SQLite
    ):
        connection.create_function(name, 2, function, deterministic=True)


def _contains_on_sqlite(document: str | None, fragment: str) -> bool | None:
    return None if document is None else json_contains(json.loads(document), json.loads(fragment))


def _has_any_on_sqlite(document: str | None, texts: str) -> bool | None:
    if document is None:
        return None
    found = json.loads(document)
    among = [found] if isinstance(found, str) else found
    return isinstance(among, list | dict) and any(each in among for each in json.loads(texts))

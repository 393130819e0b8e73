"""Writes those parts of the docs that the code knows best: the tables, and the errors.

``python docs/generate.py`` rewrites them; with ``--check`` it only says, by its exit code, whether
they are current. Each part stands between two comments that bear its name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

from sqlalchemy import Column, Index, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql

from integration_hub import HubError, Integration, StatusError, SyncJob, Webhook
from integration_hub.sql.models import metadata

DOCS = Path(__file__).parent
DIALECT = postgresql.dialect()
SHORT = {"TIMESTAMP WITH TIME ZONE": "timestamptz"}


def diagram() -> Iterator[str]:
    """The tables and their foreign keys, as Mermaid draws them."""
    yield "```mermaid"
    yield "erDiagram"
    for table in metadata.sorted_tables:
        for key in sorted(table.foreign_keys, key=lambda key: key.parent.name):
            yield f'    {key.column.table.name} ||--o{{ {table.name} : "{key.parent.name}"'
    for table in metadata.sorted_tables:
        yield f"    {table.name} {{"
        for column in table.columns:
            yield f"        {type_of(column)} {column.name}{mark(column)}"
        yield "    }"
    yield "```"


def type_of(column: Column[object]) -> str:
    name = column.type.compile(DIALECT).partition(" COLLATE")[0]
    return SHORT.get(name, name.lower())


def mark(column: Column[object]) -> str:
    keys = {"PK": column.primary_key, "FK": bool(column.foreign_keys)}
    found = ", ".join(word for word, is_one in keys.items() if is_one)
    note = '"may be null"' if column.nullable else ""
    return "".join(f" {words}" for words in (found, note) if words)


def states() -> Iterator[str]:
    """Of each aggregate, the states that lead from each state."""
    for kind in (Integration, Webhook, SyncJob):
        yield f"| {kind.KIND} that is | can become |"
        yield "|---|---|"
        for state, ways in kind.TRANSITIONS.items():
            listed = ", ".join(way for way in kind.TRANSITIONS if way in ways)
            yield f"| {state} | {listed or 'nothing: it is final'} |"
        yield ""


def indexes() -> Iterator[str]:
    """Every index, with what it is on."""
    yield "| table | index | on | kind |"
    yield "|---|---|---|---|"
    for table in metadata.sorted_tables:
        for name, on, kind in sorted(indexes_of(table)):
            yield f"| {table.name} | `{name}` | {on} | {kind} |"


def indexes_of(table: Table) -> Iterator[tuple[str, str, str]]:
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            on = ", ".join(column.name for column in constraint.columns)
            yield str(constraint.name), on, "unique"
    for index in table.indexes:
        on = ", ".join(column.name for column in index.columns)
        yield str(index.name), on, kind_of(index)


def kind_of(index: Index) -> str:
    options = index.dialect_options["postgresql"]
    if options.get("using") == "gin":
        operators = "".join(f", {each}" for each in options["ops"].values())
        return f"GIN{operators} (Postgres)"
    unique = "unique, " if index.unique else ""
    where = options.get("where")
    return f"{unique}partial: `{where}`" if where is not None else f"{unique}B-tree"


def errors() -> Iterator[str]:
    """The tree of errors, with their codes and whether trying again may help."""
    yield "| error | `code` | try again? | when |"
    yield "|---|---|---|---|"
    for depth, kind in below(HubError, 0):
        summary = cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        again = "yes" if kind.is_retryable else "no"
        if kind is StatusError:
            again = "some statuses"
        indent = "&emsp;" * depth
        yield f"| {indent}`{kind.__name__}` | `{kind.code}` | {again} | {summary} |"


def below(kind: type[HubError], depth: int) -> Iterator[tuple[int, type[HubError]]]:
    yield depth, kind
    for child in kind.__subclasses__():
        if child.__module__.startswith("integration_hub."):
            yield from below(child, depth + 1)


PARTS = {
    "data-model.md": {"diagram": diagram, "states": states, "indexes": indexes},
    "errors.md": {"errors": errors},
}


def current(page: str) -> str:
    """The text of a page with its generated parts as they should be."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, part in PARTS[page].items():
        between = re.compile(f"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        body = "\n".join(part())
        text, count = between.subn(lambda m, b=body: f"{m[1]}{b}\n{m[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"docs/{page}: the comments around {name!r} stand {count} times")
    return text


def main(arguments: list[str]) -> int:
    stale = []
    for page in PARTS:
        text, path = current(page), DOCS / page
        if path.read_text(encoding="utf-8") != text:
            stale.append(page)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"not current: {', '.join(stale)}; run python docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

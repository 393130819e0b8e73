"""Dicts, SQLite and Postgres driven side by side by Hypothesis: every answer must be the same.

Two machines. `SideBySide` walks through whole lives of units of work: adds, saves of fresh and of
stale versions, removals, cascades, upserts, savepoints, commits, rollbacks, up to three units of
work open at once. `test_every_question...` asks a fixed, awkward set of rows everything that can be
asked. Answers are compared to the type and the order of keys, errors by class, code and fields.

Of the units of work that are open at once one writes, since on SQLite, and for one row on Postgres,
a second writer would wait for the first, which a single thread can't. What happens when they do
meet is in `contracts.UnitOfWorkContract`, with threads.

``tox -e fuzz`` runs this for a long time; what it found has a test of its own elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import URL, create_engine

from integration_hub import (
    EVERY_TENANT,
    Hub,
    HubError,
    Integration,
    Sort,
    UnitOfWork,
)
from integration_hub.testing import ManualClock
from integration_hub.testing.postgres import temporary_database
from strategies import (
    KINDS,
    START,
    TENANTS,
    documents,
    filters,
    fragments,
    integrations,
    names,
    sorts,
    sync_jobs,
    tag_sets,
    webhooks,
)

Hubs = Mapping[str, Hub]

# --- comparing --------------------------------------------------------------------------------


def exact(value: Any) -> Any:
    """The value in a form that is equal only to what is the same, types and order included."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))
        shown = [(n, json.dumps(v) if n in JSON else exact(v)) for n, v in fields]
        return (type(value).__name__, *shown)
    if isinstance(value, dict):
        return ("dict", *((exact(key), exact(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return (type(value).__name__, *map(exact, value))
    if isinstance(value, datetime):
        return ("datetime", value.isoformat(), value.tzinfo is UTC)
    return (type(value).__name__, repr(value))


JSON = {"config", "checkpoint"}


def outcome(call: Callable[[Any], Any], subject: Any) -> Any:
    try:
        return ("gave", exact(call(subject)))
    except HubError as error:
        return ("raised", type(error).__name__, error.code, exact(vars(error)))


def same(answers: Mapping[str, Any]) -> Any:
    """The answer that all stores gave."""
    expected = answers["memory"]
    for store, answer in answers.items():
        assert answer == expected, f"{store} differs from memory"
    return expected


@dataclasses.dataclass
class Open:
    """A unit of work on each store, all three at the same point of their lives."""

    tenant: Any
    each: dict[str, UnitOfWork]
    savepoints: list[dict[str, AbstractContextManager[object]]] = dataclasses.field(
        default_factory=list
    )
    has_written: bool = False


# --- the machine ------------------------------------------------------------------------------


class SideBySide(RuleBasedStateMachine):
    """Three hubs, and up to three units of work on each."""

    hubs: Hubs
    clock: ManualClock
    rows: dict[str, list[Any]]
    start_over: Callable[[dict[str, list[Any]]], None]

    @initialize(count=st.integers(0, 9))
    def start(self, count: int) -> None:
        self.open: list[Open] = []
        self.ended: Open | None = None
        first = {kind: items[:count] for kind, items in self.rows.items()}
        self.start_over(first)
        self.seen: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        with self.hubs["memory"].unit_of_work(tenant=EVERY_TENANT) as uow:
            for kind in KINDS:
                self.seen[kind] += getattr(uow, kind).find()
        self.cursors: list[tuple[str, Any, Sort, str]] = []

    def teardown(self) -> None:
        for each in getattr(self, "open", []):
            for uow in each.each.values():
                uow.rollback()
        if hasattr(self, "open"):
            self.same_content()

    def same_content(self) -> None:
        for kind in KINDS:
            answers = {}
            for store, hub in self.hubs.items():
                with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
                    answers[store] = outcome(
                        lambda r: r.find(sort=Sort("name")), getattr(uow, kind)
                    )
            same(answers)

    # --- lives of units of work ---------------------------------------------------------------

    @precondition(lambda self: len(self.open) < 3)
    @rule(tenant=st.sampled_from(TENANTS), actor=st.sampled_from(["alice", "bob"]))
    def begin(self, tenant: Any, actor: str) -> None:
        each = {
            store: hub.unit_of_work(tenant=tenant, actor=actor) for store, hub in self.hubs.items()
        }
        for uow in each.values():
            uow.__enter__()
        self.open.append(Open(tenant, each))

    @precondition(lambda self: self.open)
    @rule(at=st.integers(0, 2), how=st.sampled_from(["commit", "commit", "rollback", "raise"]))
    def end(self, at: int, how: str) -> None:
        ending = self.open.pop(at % len(self.open))
        while ending.savepoints:
            self.leave_savepoint(ending, fails=False)
        if how == "raise":
            for uow in ending.each.values():
                uow.__exit__(RuntimeError, RuntimeError(), None)
        else:
            self.on(ending, lambda uow: getattr(uow, how)())
        same({store: uow.state for store, uow in ending.each.items()})
        self.ended = ending

    @precondition(lambda self: self.open)
    @rule()
    def enter_savepoint(self) -> None:
        chosen = self.writer()
        if len(chosen.savepoints) < 3:
            entered = {store: uow.savepoint() for store, uow in chosen.each.items()}
            for savepoint in entered.values():
                savepoint.__enter__()
            chosen.savepoints.append(entered)

    @precondition(lambda self: any(each.savepoints for each in self.open))
    @rule(fails=st.booleans())
    def end_savepoint(self, fails: bool) -> None:
        self.leave_savepoint(next(each for each in self.open if each.savepoints), fails=fails)

    def leave_savepoint(self, chosen: Open, *, fails: bool) -> None:
        for savepoint in chosen.savepoints.pop().values():
            if fails:
                assert not savepoint.__exit__(RuntimeError, RuntimeError(), None)
            else:
                savepoint.__exit__(None, None, None)

    @rule(seconds=st.sampled_from([0, 0.000001, 60, 86_400]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # --- changes ------------------------------------------------------------------------------

    @precondition(lambda self: self.open)
    @rule(
        kind=st.sampled_from(KINDS), data=st.data(), how=st.sampled_from(["add", "add", "upsert"])
    )
    def add(self, kind: str, data: st.DataObject, how: str) -> None:
        item = data.draw(self.new(kind), "item")
        if self.seen[kind]:
            other = data.draw(st.sampled_from(self.seen[kind]), "other")
            clash = data.draw(st.sampled_from(["", "", "", "name", "name", "id"]), "clash")
            if clash == "id":
                item = dataclasses.replace(item, id=other.id)
            elif clash == "name" and kind == "integrations":
                item = dataclasses.replace(item, name=other.name)
            elif clash == "name":
                parent = other.integration_id
                item = dataclasses.replace(item, name=other.name, integration_id=parent)
        self.change(kind, lambda repository: getattr(repository, how)(item))

    @precondition(lambda self: self.open)
    @rule(kind=st.sampled_from(KINDS), data=st.data())
    def add_many(self, kind: str, data: st.DataObject) -> None:
        items = data.draw(st.lists(self.new(kind), max_size=4), "items")
        self.change(kind, lambda repository: repository.add_many(items))

    @precondition(lambda self: self.open and any(self.seen.values()))
    @rule(data=st.data())
    def save(self, data: st.DataObject) -> None:
        kind, item = self.draw_seen(data)
        item = dataclasses.replace(
            item,
            name=data.draw(self.names_for(item), "name"),
            tags=data.draw(tag_sets, "tags"),
            config=data.draw(fragments, "config"),
            is_active=data.draw(st.booleans(), "is_active"),
            status=data.draw(st.sampled_from(sorted(item.TRANSITIONS)), "status"),
        )
        if kind == "sync_jobs":
            item = dataclasses.replace(item, checkpoint=data.draw(documents, "checkpoint"))
        if kind != "integrations" and data.draw(st.integers(0, 4)) == 0:
            item = dataclasses.replace(item, integration_id=data.draw(self.parents(), "parent"))
        self.change(kind, lambda repository: repository.save(item))

    @precondition(lambda self: self.open and any(self.seen.values()))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        kind, item = self.draw_seen(data)
        self.change(kind, lambda repository: repository.remove(item.id))

    # --- questions ----------------------------------------------------------------------------

    @precondition(lambda self: self.open and any(self.seen.values()))
    @rule(data=st.data(), at=st.integers(0, 2))
    def get(self, data: st.DataObject, at: int) -> None:
        kind, item = self.draw_seen(data)
        chosen = self.open[at % len(self.open)]
        scope = () if kind == "integrations" else (item.integration_id,)
        ids = [each.id for each in self.seen[kind][-3:]] + [item.id]
        self.ask(chosen, kind, lambda repository: repository.get(item.id))
        self.ask(chosen, kind, lambda repository: repository.get_by_name(item.name, *scope))
        self.ask(chosen, kind, lambda repository: repository.get_many(ids))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), kind=st.sampled_from(KINDS), at=st.integers(0, 2))
    def query(self, data: st.DataObject, kind: str, at: int) -> None:
        chosen = self.open[at % len(self.open)]
        asked = data.draw(filters(kind, self.parents()), "filter")
        sort = data.draw(sorts(kind), "sort")
        size = data.draw(st.integers(1, 4), "size")
        for question in questions(asked, sort, size):
            self.ask(chosen, kind, question)
        for question in named_questions(kind):
            self.ask(chosen, kind, question)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), kind=st.sampled_from(KINDS), at=st.integers(0, 2), goes_on=st.booleans())
    def scroll(self, data: st.DataObject, kind: str, at: int, goes_on: bool) -> None:
        chosen = self.open[at % len(self.open)]
        asked = data.draw(filters(kind, self.parents()), "filter")
        sort = data.draw(sorts(kind).filter(lambda sort: sort.field != "config"), "sort")
        after = None
        if self.cursors and goes_on:
            kind, asked, sort, after = data.draw(st.sampled_from(self.cursors), "cursor")
            if data.draw(st.integers(0, 4)) == 0:  # a cursor of another query
                sort = data.draw(sorts(kind), "other sort")
        answer = self.ask(chosen, kind, lambda r: r.scroll(asked, sort=sort, size=2, after=after))
        if answer[0] == "gave":
            repository: Any = getattr(chosen.each["memory"], kind)
            page = repository.scroll(asked, sort=sort, size=2, after=after)
            if page.next is not None:
                self.cursors.append((kind, asked, sort, page.next))

    @precondition(lambda self: self.ended is not None)
    @rule(kind=st.sampled_from(KINDS))
    def use_one_that_has_ended(self, kind: str) -> None:
        assert self.ended is not None
        answer = self.ask(self.ended, kind, lambda repository: repository.count())
        assert answer[1] == "UnitOfWorkClosed"

    # --- inside -------------------------------------------------------------------------------

    def writer(self) -> Open:
        """The one that has written, or else the one that was opened last."""
        chosen = next((each for each in self.open if each.has_written), self.open[-1])
        chosen.has_written = True
        return chosen

    def on(self, chosen: Open, call: Callable[[UnitOfWork], Any]) -> Any:
        return same({store: outcome(call, uow) for store, uow in chosen.each.items()})

    def ask(self, chosen: Open, kind: str, question: Callable[[Any], Any]) -> Any:
        return self.on(chosen, lambda uow: question(getattr(uow, kind)))

    def change(self, kind: str, change: Callable[[Any], Any]) -> None:
        chosen = self.writer()
        self.ask(chosen, kind, change)
        repository: Any = getattr(chosen.each["memory"], kind)
        for item in repository.find():
            if item not in self.seen[kind]:
                self.seen[kind].append(item)

    def names_for(self, item: Any) -> st.SearchStrategy[str]:
        """Its own name, a new one, or one that is taken."""
        taken = [other.name for kind in KINDS for other in self.seen[kind]]
        return st.one_of(st.just(item.name), names, st.sampled_from(taken))

    def parents(self) -> st.SearchStrategy[Any]:
        known = [item.id for item in self.seen["integrations"]]
        return st.sampled_from(known or [UNKNOWN.id])

    def new(self, kind: str) -> st.SearchStrategy[Any]:
        if kind == "integrations":
            return integrations
        return (webhooks if kind == "webhooks" else sync_jobs)(self.parents())

    def draw_seen(self, data: st.DataObject) -> tuple[str, Any]:
        kind = data.draw(st.sampled_from([kind for kind in KINDS if self.seen[kind]]), "kind")
        # The newest are mostly fresh, the others mostly stale or gone.
        item = data.draw(st.sampled_from(self.seen[kind][-3:] + self.seen[kind]), "item")
        return kind, item


UNKNOWN = Integration(name="never stored", type="crm")


def questions(asked: Any, sort: Sort, size: int) -> Iterator[Callable[[Any], Any]]:
    yield lambda r: r.find(asked, sort=sort)
    yield lambda r: r.find(asked, sort=sort, limit=size)
    yield lambda r: r.page(asked, sort=sort, number=2, size=size)
    yield lambda r: list(r.stream(asked, sort=sort, batch=size))
    yield lambda r: r.count(asked)
    yield lambda r: r.exists(asked)


def named_questions(kind: str) -> Iterator[Callable[[Any], Any]]:
    match kind:
        case "integrations":
            yield lambda r: r.by_type("crm", "erp")
            yield lambda r: r.by_status("active", "paused")
            yield lambda r: r.by_tag("a", "it's")
        case "webhooks":
            yield lambda r: r.for_event("a.b.c")
            yield lambda r: r.failed()
        case _:
            yield lambda r: r.due()
            yield lambda r: r.due(START, limit=2)
            yield lambda r: r.next_due()
            yield lambda r: r.next_due(START)
            yield lambda r: r.running()
            yield lambda r: r.failed()


# --- running it -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def databases(
    hub_postgres_server: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str | URL]]:
    file = tmp_path_factory.mktemp("side-by-side") / "hub.db"
    with temporary_database(hub_postgres_server) as database:
        yield {"sqlite": f"sqlite:///{file}", "postgres": database}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Any]]:
    """Objects that can be stored together, many of them with the same values."""
    drawn: dict[str, list[Any]] = {kind: [] for kind in KINDS}

    @settings(max_examples=60, database=None, derandomize=True, deadline=None)
    @given(st.data(), st.sampled_from(["acme", "acme", "beta"]))
    def draw(data: st.DataObject, tenant: str) -> None:
        parent = data.draw(integrations)
        family = {
            "integrations": parent,
            "webhooks": data.draw(webhooks(st.just(parent.id))),
            "sync_jobs": data.draw(sync_jobs(st.just(parent.id))),
        }
        for kind, item in family.items():
            name = f"{item.name[:9]}{len(drawn[kind])}"
            drawn[kind].append(dataclasses.replace(item, tenant=tenant, name=name))

    draw()
    return drawn


@pytest.fixture(scope="module")
def machine(
    databases: dict[str, str | URL], rows: dict[str, list[Any]]
) -> Iterator[type[SideBySide]]:
    class Machine(SideBySide):
        pass

    Machine.clock, Machine.rows = ManualClock(START), rows
    hubs = {store: Hub.from_url(url, clock=Machine.clock) for store, url in databases.items()}
    engines = [create_engine(url) for url in databases.values()]
    for hub in hubs.values():
        hub.schema.upgrade()

    def start_over(first: dict[str, list[Any]]) -> None:
        Machine.clock.set(START)
        Machine.hubs = {"memory": Hub.in_memory(clock=Machine.clock), **hubs}
        for engine in engines:
            with engine.begin() as connection:
                for kind in reversed(KINDS):
                    connection.exec_driver_sql(f"DELETE FROM {kind}")
        for hub in Machine.hubs.values():
            with hub.unit_of_work(tenant=EVERY_TENANT) as uow:
                for kind, items in first.items():
                    getattr(uow, kind).add_many(items)
                uow.commit()

    Machine.start_over = staticmethod(start_over)
    yield Machine
    for engine in engines:
        engine.dispose()
    for hub in hubs.values():
        hub.close()


def test_the_stores_cannot_be_told_apart(machine: type[SideBySide]) -> None:
    run_state_machine_as_test(machine)


@pytest.fixture(scope="module")
def filled(machine: type[SideBySide], rows: dict[str, list[Any]]) -> Hubs:
    """Every store with the same rows."""
    machine.start_over(rows)
    return machine.hubs


def test_every_question_has_one_answer(filled: Hubs) -> None:
    with filled["memory"].unit_of_work(tenant="acme") as uow:
        parents = st.sampled_from([item.id for item in uow.integrations.find()])

    @given(kind=st.sampled_from(KINDS), size=st.integers(1, 7), data=st.data())
    def ask(kind: str, size: int, data: st.DataObject) -> None:
        asked = data.draw(filters(kind, parents), "filter")
        sort = data.draw(sorts(kind), "sort")
        for question in (*questions(asked, sort, size), lambda r: scrolled(r, asked, sort, size)):
            answers = {}
            for store, hub in filled.items():
                with hub.unit_of_work(tenant="acme") as uow:
                    answers[store] = outcome(question, getattr(uow, kind))
            same(answers)

    ask()


def scrolled(repository: Any, asked: Any, sort: Sort, size: int) -> list[Any]:
    """Every page of a scroll, cursors included, which must be what `find` gives at once."""
    page = repository.scroll(asked, sort=sort, size=size)
    pages = [page]
    while page.next is not None:
        page = repository.scroll(asked, sort=sort, size=size, after=page.next)
        pages.append(page)
    assert [item for each in pages for item in each.items] == repository.find(asked, sort=sort)
    return pages

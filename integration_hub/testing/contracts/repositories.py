"""What each repository must do: storing, looking up, filtering, sorting, paging.

May import everything.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest

from integration_hub.domain.errors import (
    DuplicateId,
    DuplicateName,
    IntegrationNotFound,
    InvalidCursor,
    InvalidSort,
    InvalidTransition,
    NotFound,
    StaleVersion,
    SyncJobNotFound,
    UnitOfWorkClosed,
    ValidationError,
    WebhookNotFound,
)
from integration_hub.domain.integration import Integration
from integration_hub.domain.schedule import Schedule
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.webhook import Webhook
from integration_hub.hub import Hub
from integration_hub.ports.query import (
    Filter,
    IntegrationFilter,
    Sort,
    SyncJobFilter,
    WebhookFilter,
)
from integration_hub.ports.unit_of_work import UnitOfWork
from integration_hub.testing.clock import ManualClock
from integration_hub.testing.factories import (
    IntegrationFactory,
    SyncJobFactory,
    WebhookFactory,
)

PARENT = UUID("01900000-0000-7000-8000-000000000001")
BY_NAME = Sort("name")


class RepositoryContract:
    """What the three repositories have in common; subclasses say of which aggregate."""

    FILTER: type[Any]
    NOT_FOUND: type[NotFound]
    SORTS: tuple[str, ...]
    NO_WAYS: frozenset[tuple[str, str]] = frozenset()

    def repository(self, uow: UnitOfWork) -> Any:
        raise AssertionError("a subclass says which")

    def make(self, **fields: Any) -> Any:
        raise AssertionError("a subclass says what")

    @pytest.fixture(autouse=True)
    def parent(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            uow.integrations.add(IntegrationFactory(id=PARENT, name="the parent", tags=["parent"]))
            uow.commit()

    def stored(self, hub: Hub, *items: Any) -> list[Any]:
        """The objects, committed one by one in this order."""
        with hub.unit_of_work(actor="alice") as uow:
            stored = [self.repository(uow).add(item) for item in items]
            uow.commit()
        return stored

    def own(self, **fields: Any) -> Filter:
        """A filter that leaves out the parent where the aggregate is the integration itself."""
        wanted: Filter = self.FILTER(**{"tags_any": ["mine"], **fields})
        return wanted

    def mine(self, **fields: Any) -> Any:
        return self.make(**{"tags": ["mine"], **fields})

    # --- storing ------------------------------------------------------------------------------

    def test_what_was_added_comes_back_as_it_was(self, hub: Hub, hub_clock: ManualClock) -> None:
        given = self.make(
            name="Ünïcode ✓ 名前",
            config={"b": [1, 2.5, None, True], "aa": {"": "", "z": "\U0001f600"}, "n": -0.0},
            tags=["b", "a", "b"],
            description="line one\nline two",
        )
        (stored,) = self.stored(hub, given)
        with hub.unit_of_work() as uow:
            found = self.repository(uow).get(given.id)
        assert found == stored
        assert (found.version, found.tenant) == (1, "default")
        assert found.created_at == found.updated_at == hub_clock.now()
        assert (found.created_by, found.updated_by) == ("alice", "alice")
        assert found.tags == ("a", "b")
        assert found.config == given.config
        assert list(found.config) == list(given.config)
        assert found.created_at.tzinfo is UTC

    def test_history_that_is_brought_along_is_kept(self, hub: Hub) -> None:
        born = datetime(2001, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
        (stored,) = self.stored(hub, self.make(created_at=born, created_by="migration"))
        with hub.unit_of_work() as uow:
            found = self.repository(uow).get(stored.id)
        assert (found.created_at, found.updated_at) == (born, born)
        assert (found.created_by, found.updated_by) == ("migration", "migration")

    def test_a_saved_change_is_the_next_version(self, hub: Hub, hub_clock: ManualClock) -> None:
        (first,) = self.stored(hub, self.make())
        later = hub_clock.advance(60)
        with hub.unit_of_work(actor="bob") as uow:
            saved = self.repository(uow).save(dataclasses.replace(first, description="new"))
            uow.commit()
        with hub.unit_of_work() as uow:
            found = self.repository(uow).get(first.id)
        assert found == saved
        assert (found.version, found.updated_at, found.updated_by) == (2, later, "bob")
        assert (found.created_at, found.created_by) == (first.created_at, "alice")
        assert found.description == "new"

    def test_a_state_is_reached_along_the_table_in_any_number_of_steps(self, hub: Hub) -> None:
        """Also by who replaces the status itself, past the methods that look at the table."""
        for start, end in product(type(self.make()).TRANSITIONS, repeat=2):
            (there,) = self.stored(hub, self.make(status=start))
            moved = dataclasses.replace(there, status=end, description="moved")
            with hub.unit_of_work() as uow:
                if (start, end) in self.NO_WAYS:
                    with pytest.raises(InvalidTransition) as refused:
                        self.repository(uow).save(moved)
                    told = refused.value
                    assert (told.id, told.from_, told.to) == (there.id, start, end)
                    assert self.repository(uow).get(there.id) == there
                else:
                    assert self.repository(uow).save(moved).status == end

    def test_a_name_that_is_taken_is_refused_and_the_unit_of_work_goes_on(self, hub: Hub) -> None:
        self.stored(hub, self.make(name="taken"))
        with hub.unit_of_work() as uow:
            with pytest.raises(DuplicateName) as refused:
                self.repository(uow).add(self.make(name="taken"))
            self.repository(uow).add(self.make(name="free"))
            uow.commit()
        assert refused.value.name == "taken"
        with hub.unit_of_work() as uow:
            names = {item.name for item in self.repository(uow).find()} - {"the parent"}
        assert names == {"taken", "free"}

    def test_names_differ_by_case_and_by_composition(self, hub: Hub) -> None:
        names = ["Crm", "crm", "é", "e\u0301"]
        self.stored(hub, *(self.mine(name=name) for name in names))
        with hub.unit_of_work() as uow:
            found = self.repository(uow).find(self.own(), sort=BY_NAME)
        assert [item.name for item in found] == sorted(names)

    def test_an_id_that_is_taken_is_refused(self, hub: Hub) -> None:
        (first,) = self.stored(hub, self.make())
        with hub.unit_of_work() as uow, pytest.raises(DuplicateId) as refused:
            self.repository(uow).add(self.make(id=first.id))
        assert refused.value.id == first.id

    def test_an_id_counts_before_a_name(self, hub: Hub) -> None:
        (first,) = self.stored(hub, self.make())
        with hub.unit_of_work() as uow, pytest.raises(DuplicateId):
            self.repository(uow).add(self.make(id=first.id, name=first.name))

    def test_a_stale_version_is_refused_with_both_versions(self, hub: Hub) -> None:
        (first,) = self.stored(hub, self.make())
        with hub.unit_of_work() as uow:
            self.repository(uow).save(first)
            uow.commit()
        with hub.unit_of_work() as uow, pytest.raises(StaleVersion) as refused:
            self.repository(uow).save(first)
        assert (refused.value.expected, refused.value.found) == (1, 2)

    def test_what_add_was_given_is_no_version_to_change(self, hub: Hub) -> None:
        given = self.make()
        self.stored(hub, given)
        with hub.unit_of_work() as uow, pytest.raises(StaleVersion) as refused:
            self.repository(uow).save(given)
        assert (refused.value.expected, refused.value.found) == (0, 1)
        assert "change what add() gave" in refused.value.message

    def test_a_change_leaves_the_creation_as_it_was(self, hub: Hub) -> None:
        (first,) = self.stored(hub, self.make())
        another = {"created_by": "mallory", "created_at": datetime(2000, 1, 1, tzinfo=UTC)}
        with hub.unit_of_work(actor="bob") as uow:
            self.repository(uow).save(dataclasses.replace(first, description="new", **another))
            uow.commit()
        with hub.unit_of_work() as uow:
            found = self.repository(uow).get(first.id)
        assert (found.description, found.updated_by) == ("new", "bob")
        assert (found.created_at, found.created_by) == (first.created_at, first.created_by)

    def test_saving_what_was_never_stored_is_refused(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow, pytest.raises(self.NOT_FOUND):
            self.repository(uow).save(self.make())

    def test_a_rename_to_a_name_that_is_taken_is_refused(self, hub: Hub) -> None:
        _, second = self.stored(hub, self.make(name="taken"), self.make(name="other"))
        with hub.unit_of_work() as uow:
            with pytest.raises(DuplicateName):
                self.repository(uow).save(dataclasses.replace(second, name="taken"))
            self.repository(uow).save(dataclasses.replace(second, name="free"))
            uow.commit()
        with hub.unit_of_work() as uow:
            assert self.repository(uow).get(second.id).name == "free"

    def test_names_can_be_swapped_by_way_of_a_third(self, hub: Hub) -> None:
        a, b = self.stored(hub, self.make(name="a"), self.make(name="b"))
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            a = repository.save(dataclasses.replace(a, name="c"))
            repository.save(dataclasses.replace(b, name="a"))
            repository.save(dataclasses.replace(a, name="b"))
            uow.commit()
        with hub.unit_of_work() as uow:
            names = [self.repository(uow).get(item.id).name for item in (a, b)]
        assert names == ["b", "a"]

    def test_removed_is_removed_and_its_name_is_free(self, hub: Hub) -> None:
        (first,) = self.stored(hub, self.make(name="again"))
        with hub.unit_of_work() as uow:
            self.repository(uow).remove(first.id)
            uow.commit()
        with hub.unit_of_work() as uow:
            with pytest.raises(self.NOT_FOUND) as missing:
                self.repository(uow).get(first.id)
            with pytest.raises(self.NOT_FOUND):
                self.repository(uow).remove(first.id)
            self.repository(uow).add(self.make(name="again"))
        assert missing.value.id == first.id

    def test_many_are_added_at_once(self, hub: Hub) -> None:
        items = [
            self.mine(name=f"{n:04d}", config={"n": n, "t": "tab\tand\\slash\n"})
            for n in range(257)
        ]
        with hub.unit_of_work() as uow:
            assert self.repository(uow).add_many(iter(items)) == 257
            assert self.repository(uow).add_many([]) == 0
            uow.commit()
        with hub.unit_of_work() as uow:
            found = self.repository(uow).find(self.own(), sort=BY_NAME)
        assert [(i.id, i.config, i.version) for i in found] == [(i.id, i.config, 1) for i in items]

    @pytest.mark.parametrize("clash", ["stored name", "own name", "stored id", "own id"])
    def test_many_are_added_all_or_none(self, hub: Hub, clash: str) -> None:
        (stored,) = self.stored(hub, self.mine(name="stored"))
        fresh = [self.mine(name=f"fresh {n}") for n in range(3)]
        last, error = {
            "stored name": (self.mine(name="stored"), DuplicateName),
            "own name": (self.mine(name="fresh 1"), DuplicateName),
            "stored id": (self.mine(id=stored.id), DuplicateId),
            "own id": (self.mine(id=fresh[0].id), DuplicateId),
        }[clash]
        with hub.unit_of_work() as uow:
            with pytest.raises(error):
                self.repository(uow).add_many([*fresh, last])
            self.repository(uow).add(self.mine(name="after"))
            uow.commit()
        with hub.unit_of_work() as uow:
            names = [item.name for item in self.repository(uow).find(self.own(), sort=BY_NAME)]
        assert names == ["after", "stored"]

    def test_upsert_adds_what_is_new(self, hub: Hub) -> None:
        item = self.make(name="declared")
        with hub.unit_of_work() as uow:
            stored = self.repository(uow).upsert(item)
            uow.commit()
        assert (stored.id, stored.version) == (item.id, 1)

    def test_upsert_changes_what_is_there_and_keeps_its_identity(self, hub: Hub) -> None:
        (first,) = self.stored(hub, self.make(name="declared", config={"old": 1}))
        with hub.unit_of_work(actor="deploy") as uow:
            changed = self.repository(uow).upsert(self.make(name="declared", config={"new": 2}))
            uow.commit()
        with hub.unit_of_work() as uow:
            found = self.repository(uow).get(first.id)
        assert found == changed
        assert (found.config, found.version, found.updated_by) == ({"new": 2}, 2, "deploy")
        assert (found.created_at, found.created_by) == (first.created_at, "alice")

    @pytest.mark.parametrize("wrong", [None, "crm", 7, object])
    def test_what_is_no_such_object_is_refused(self, hub: Hub, wrong: object) -> None:
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            calls = (repository.add, repository.save, repository.upsert)
            for call in (*calls, lambda item: repository.add_many([item])):
                with pytest.raises(ValidationError) as refused:
                    call(wrong)
                assert refused.value.field == "item"

    # --- looking up ---------------------------------------------------------------------------

    @pytest.mark.parametrize("wrong", [None, "abc", 7, str(PARENT)])
    def test_an_id_that_is_no_uuid_is_refused(self, hub: Hub, wrong: Any) -> None:
        with hub.unit_of_work() as uow:
            for call in (self.repository(uow).get, self.repository(uow).remove):
                with pytest.raises(ValidationError) as refused:
                    call(wrong)
                assert refused.value.field == "id"
            with pytest.raises(ValidationError):
                self.repository(uow).get_many([wrong])

    def test_get_many_gives_those_that_exist_in_the_order_of_asking(self, hub: Hub) -> None:
        a, b, c = self.stored(hub, *(self.make() for _ in range(3)))
        with hub.unit_of_work() as uow:
            found = self.repository(uow).get_many([c.id, uuid4(), a.id, c.id])
            assert self.repository(uow).get_many([]) == {}
        assert list(found.items()) == [(c.id, c), (a.id, a)]
        assert b.id not in found

    def test_count_and_exists_agree_with_find(self, hub: Hub) -> None:
        self.stored(hub, self.mine(name="a"), self.mine(name="b", is_active=False))
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            for filter in (self.own(), self.own(is_active=False), self.own(name_contains="zz")):
                found = repository.find(filter)
                assert repository.count(filter) == len(found)
                assert repository.exists(filter) is bool(found)

    def test_own_changes_are_seen_before_they_are_committed(self, hub: Hub) -> None:
        first, second = self.stored(hub, self.mine(name="first"), self.mine(name="second"))
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            repository.save(dataclasses.replace(first, name="renamed", tags=["other"]))
            repository.remove(second.id)
            third = repository.add(self.mine(name="third"))
            assert repository.find(self.own()) == [third]
            assert [i.name for i in repository.find(self.own(tags_any=["other"]))] == ["renamed"]
            assert list(repository.stream(self.own())) == [third]
            assert repository.count(self.own()) == 1
            assert repository.get_many([first.id, second.id])[first.id].name == "renamed"

    # --- filters ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ({}, "abc"),
            ({"name_contains": "B"}, ""),
            ({"name_contains": "b"}, "b"),
            ({"name_contains": ""}, "abc"),
            ({"name_contains": "%"}, ""),
            ({"name_contains": "_"}, ""),
            ({"is_active": True}, "ab"),
            ({"is_active": False}, "c"),
            ({"tags_any": ["x"]}, "ab"),
            ({"tags_any": ["y", "z"]}, "bc"),
            ({"tags_any": []}, ""),
            ({"tags_all": ["x", "y"]}, "b"),
            ({"tags_all": []}, "abc"),
            ({"tags_any": ["x"], "tags_all": ["y"]}, "b"),
            ({"config_contains": {}}, "abc"),
            ({"config_contains": {"region": "eu"}}, "ab"),
            ({"config_contains": {"region": "eu", "size": 2}}, "b"),
            ({"config_contains": {"region": None}}, "c"),
            ({"config_contains": {"missing": None}}, ""),
            ({"config_contains": {"region": "eu"}, "is_active": True, "tags_any": ["y"]}, "b"),
            ({"created_after": timedelta(0)}, "bc"),
            ({"created_before": timedelta(minutes=1)}, "a"),
            ({"created_after": timedelta(0), "created_before": timedelta(minutes=2)}, "b"),
        ],
    )
    def test_a_filter_lets_pass_what_it_says(
        self, hub: Hub, hub_clock: ManualClock, asked: dict[str, Any], expected: str
    ) -> None:
        start = hub_clock.now()
        made: dict[str, dict[str, Any]] = {
            "a": {"tags": ["x"], "config": {"region": "eu", "size": 1}},
            "b": {"tags": ["x", "y"], "config": {"region": "eu", "size": 2}},
            "c": {"tags": ["z"], "config": {"region": None}, "is_active": False},
        }
        for minute, (name, fields) in enumerate(made.items()):
            moment = start + timedelta(minutes=minute)
            self.stored(hub, self.make(name=name, created_at=moment, **fields))
        times = {k: start + v if isinstance(v, timedelta) else v for k, v in asked.items()}
        with hub.unit_of_work() as uow:
            found = self.repository(uow).find(self.FILTER(**times), sort=BY_NAME)
            assert "".join(i.name for i in found if i.id != PARENT) == expected
            if "created_after" not in times:  # the parent is as old as "a"
                assert self.repository(uow).count(self.FILTER(**times)) == len(found)

    def test_a_status_is_asked_for_alone_or_among_several(self, hub: Hub) -> None:
        statuses = list(self.FILTER.STATUSES.values())
        self.stored(hub, *(self.mine(name=status.value, status=status) for status in statuses))
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            for status in statuses:
                assert [i.name for i in repository.find(self.own(status=status))] == [status.value]
                assert [i.status for i in repository.find(self.own(status=str(status)))] == [status]
            some = {statuses[0], statuses[-1]}
            assert {i.status for i in repository.find(self.own(status=some))} == some
            assert repository.find(self.own(status=[])) == []
            assert repository.count(self.own(status=statuses)) == len(statuses)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("status", "sleeping"),
            ("status", 7),
            ("is_active", "yes"),
            ("is_active", 1),
            ("tags_any", "x"),
            ("tags_any", [""]),
            ("tags_all", [7]),
            ("config_contains", [1]),
            ("config_contains", {"a": float("nan")}),
            ("name_contains", "nul\x00"),
            ("name_contains", 7),
            ("created_after", datetime(2026, 1, 1)),  # noqa: DTZ001 - naive on purpose
            ("created_before", "2026-01-01"),
        ],
    )
    def test_a_filter_of_the_wrong_type_names_the_field(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError) as refused:
            self.FILTER(**{field: value})
        assert refused.value.field.startswith(field)

    def test_another_repository_s_filter_is_refused(self, hub: Hub) -> None:
        other: Any = {IntegrationFilter: WebhookFilter}.get(self.FILTER, IntegrationFilter)
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            for call in (
                repository.find,
                repository.page,
                repository.scroll,
                repository.stream,
                repository.count,
                repository.exists,
            ):
                with pytest.raises(ValidationError) as refused:
                    call(other())
                assert refused.value.field == "filter"

    # --- order and pages ----------------------------------------------------------------------

    def test_every_sort_is_total_and_pages_tell_the_same(
        self, hub: Hub, hub_clock: ManualClock
    ) -> None:
        names = ["b", "B", "a", "é", "Z", "10", "9", "\U0001f600", "\uffff"]
        for index, name in enumerate(names):
            hub_clock.advance(index % 2)  # so that some times are equal
            self.stored(hub, self.mine(name=name))
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            everything = {item.id: item for item in repository.find(self.own())}
            for field in self.SORTS:
                for direction in ("asc", "desc"):
                    sort = Sort(field, direction)
                    found = repository.find(self.own(), sort=sort)
                    keys = [_sort_key(item, field) for item in found]
                    assert keys == sorted(keys, reverse=direction == "desc")
                    assert {item.id for item in found} == everything.keys()
                    assert list(repository.stream(self.own(), sort=sort, batch=2)) == found
                    assert _scrolled(repository, self.own(), sort, size=2) == found
                    assert _paged(repository, self.own(), sort, size=4) == found
                    assert repository.find(self.own(), sort=sort, limit=3) == found[:3]

    def test_the_newest_come_first_where_nothing_is_said(
        self, hub: Hub, hub_clock: ManualClock
    ) -> None:
        old, _ = self.stored(hub, self.mine(name="old")), hub_clock.advance(1)
        new = self.stored(hub, self.mine(name="new"))
        with hub.unit_of_work() as uow:
            assert self.repository(uow).find(self.own()) == new + old

    def test_a_page_knows_where_it_stands(self, hub: Hub) -> None:
        self.stored(hub, *(self.mine(name=f"{n}") for n in range(5)))
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            pages = [repository.page(self.own(), sort=BY_NAME, number=n, size=2) for n in (1, 2, 3)]
            beyond = repository.page(self.own(), number=9, size=2)
            last = repository.page(self.own(), number=2**31 - 1, size=1_000)
        assert [[i.name for i in page.items] for page in pages] == [["0", "1"], ["2", "3"], ["4"]]
        assert [(p.total, p.pages, p.size) for p in pages] == [(5, 3, 2)] * 3
        assert [(p.has_previous, p.has_next) for p in pages] == [
            (False, True),
            (True, True),
            (True, False),
        ]
        for page in (beyond, last):
            assert (page.items, page.total, page.has_next) == ([], 5, False)

    def test_a_scroll_ends_with_a_page_that_is_full(self, hub: Hub) -> None:
        self.stored(hub, *(self.mine(name=name) for name in "abcd"))
        with hub.unit_of_work() as uow:
            scroll = partial(self.repository(uow).scroll, self.own(), sort=BY_NAME, size=2)
            first = scroll()
            second = scroll(after=first.next)
            assert [i.name for i in (*first.items, *second.items)] == list("abcd")
            assert second.next is None
            uow.commit()

    def test_a_scroll_is_not_shaken_by_changes_before_its_place(self, hub: Hub) -> None:
        self.stored(hub, *(self.mine(name=name) for name in "bdfh"))
        with hub.unit_of_work() as uow:
            first = self.repository(uow).scroll(self.own(), sort=BY_NAME, size=2)
        self.stored(hub, self.mine(name="a"), self.mine(name="g"))
        with hub.unit_of_work() as uow:
            second = self.repository(uow).scroll(self.own(), sort=BY_NAME, size=9, after=first.next)
        assert [i.name for i in second.items] == ["f", "g", "h"]
        assert second.next is None

    def test_a_stream_shows_what_was_there_when_it_began(self, hub: Hub) -> None:
        self.stored(hub, *(self.mine(name=name) for name in "acegi"))
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            seen = []
            for item in repository.stream(self.own(), sort=BY_NAME, batch=1):
                seen.append(item.name)
                if item.name == "a":
                    repository.add(self.mine(name="b"))
                    repository.save(dataclasses.replace(item, name="z"))
            assert seen == list("acegi")
            assert [i.name for i in repository.find(self.own(), sort=BY_NAME)] == list("bcegiz")

    def test_a_stream_ends_with_its_unit_of_work(self, hub: Hub) -> None:
        self.stored(hub, *(self.mine(name=name) for name in "abc"))
        with hub.unit_of_work() as uow:
            stream = self.repository(uow).stream(self.own(), sort=BY_NAME, batch=2)
            assert next(stream).name == "a"
        with pytest.raises(UnitOfWorkClosed):
            next(stream)

    @pytest.mark.parametrize("field", ["config", "Name", "", "name; DROP TABLE", None])
    def test_an_unknown_sort_field_names_those_that_are_known(self, hub: Hub, field: Any) -> None:
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            for call in (repository.find, repository.page, repository.scroll, repository.stream):
                with pytest.raises(InvalidSort) as refused:
                    call(sort=Sort(field))
                assert refused.value.allowed == self.SORTS

    def test_a_sort_that_is_none_or_sideways_is_refused(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow, pytest.raises(InvalidSort, match=r"give a Sort\(…\) of"):
            self.repository(uow).find(sort="name")
        with pytest.raises(ValidationError) as refused:
            Sort("name", "up")  # type: ignore[arg-type]
        assert refused.value.field == "direction"

    @pytest.mark.parametrize("wrong", [0, -1, 1_001, "5", True, 2.0])
    def test_sizes_out_of_bounds_are_refused(self, hub: Hub, wrong: Any) -> None:
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            for call in (repository.page, repository.scroll):
                with pytest.raises(ValidationError) as refused:
                    call(size=wrong)
                assert refused.value.field == "size"
            if wrong != 1_001:
                for call, field in (
                    (lambda: repository.page(number=wrong), "number"),
                    (lambda: repository.find(limit=wrong), "limit"),
                    (lambda: repository.stream(batch=wrong), "batch"),
                ):
                    with pytest.raises(ValidationError) as refused:
                        call()
                    assert refused.value.field == field

    def test_a_cursor_that_is_not_this_query_s_is_refused(self, hub: Hub) -> None:
        self.stored(hub, *(self.mine(name=name) for name in "abc"))
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            cursor = repository.scroll(self.own(), sort=BY_NAME, size=1).next
            assert cursor is not None
            tampered = [cursor[:-2], cursor + "AA", cursor[::-1], "", "%%%", "é", 7, b"x"]
            flipped = cursor[:20] + ("A" if cursor[20] != "A" else "B") + cursor[21:]
            for after in (*tampered, flipped):
                with pytest.raises(InvalidCursor):
                    repository.scroll(self.own(), sort=BY_NAME, size=1, after=after)
            for filter, sort in (
                (self.own(), Sort("name", "desc")),
                (self.own(), Sort("created_at")),
                (self.own(is_active=True), BY_NAME),
                (None, BY_NAME),
            ):
                with pytest.raises(InvalidCursor):
                    repository.scroll(filter, sort=sort, after=cursor)
            followed = repository.scroll(self.own(), sort=BY_NAME, size=2, after=cursor)
            assert [item.name for item in followed.items] == ["b", "c"]


def _sort_key(item: Any, field: str) -> tuple[Any, UUID]:
    value = getattr(item, field)
    return (datetime.max.replace(tzinfo=UTC) if value is None else value, item.id)


def _scrolled(repository: Any, filter: Any, sort: Sort, *, size: int) -> list[Any]:
    page = repository.scroll(filter, sort=sort, size=size)
    items = list(page.items)
    while page.next is not None:
        page = repository.scroll(filter, sort=sort, size=size, after=page.next)
        items += page.items
    return items


def _paged(repository: Any, filter: Any, sort: Sort, *, size: int) -> list[Any]:
    first = repository.page(filter, sort=sort, size=size)
    rest = range(2, first.pages + 1)
    pages = [first, *(repository.page(filter, sort=sort, number=n, size=size) for n in rest)]
    return [item for page in pages for item in page.items]


class IntegrationContract(RepositoryContract):
    """What a repository of integrations must do."""

    FILTER = IntegrationFilter
    NOT_FOUND = IntegrationNotFound
    SORTS = ("name", "type", "status", "created_at", "updated_at")
    NO_WAYS = frozenset(
        {(start, "pending") for start in ("active", "paused", "error", "archived")}
        | {("archived", end) for end in ("active", "paused", "error")}
    )

    def repository(self, uow: UnitOfWork) -> Any:
        return uow.integrations

    def make(self, **fields: Any) -> Integration:
        return IntegrationFactory(**fields)

    def test_an_integration_is_found_by_its_name(self, hub: Hub) -> None:
        (crm,) = self.stored(hub, self.make(name="crm"))
        with hub.unit_of_work() as uow:
            assert uow.integrations.get_by_name("crm") == crm
            for name in ("CRM", "crm ", "", "nobody"):
                with pytest.raises(IntegrationNotFound) as missing:
                    uow.integrations.get_by_name(name)
                assert missing.value.id == name
            for wrong in ("crm\x00", "\ud800", 7, None):
                with pytest.raises(ValidationError):
                    uow.integrations.get_by_name(wrong)  # type: ignore[arg-type]

    def test_integrations_are_found_by_type_status_and_tag(self, hub: Hub) -> None:
        self.stored(
            hub,
            self.make(name="a", type="sap", tags=["eu"], status="active"),
            self.make(name="b", type="stripe", tags=["eu", "us"], status="error"),
            self.make(name="c", type="stripe", tags=["us"], status="active"),
        )
        with hub.unit_of_work() as uow:
            found = {
                "sap": uow.integrations.by_type("sap"),
                "sap, stripe": uow.integrations.by_type("sap", "stripe"),
                "active": uow.integrations.by_status("active"),
                "active, error": uow.integrations.by_status("active", "error"),
                "eu": uow.integrations.by_tag("eu"),
                "eu, us": uow.integrations.by_tag("eu", "us"),
                "filter": uow.integrations.find(IntegrationFilter(type=["stripe"], status="error")),
                "nothing": uow.integrations.by_type(),
            }
        assert {key: "".join(sorted(i.name for i in items)) for key, items in found.items()} == {
            "sap": "a",
            "sap, stripe": "abc",
            "active": "ac",
            "active, error": "abc",
            "eu": "ab",
            "eu, us": "abc",
            "filter": "b",
            "nothing": "",
        }

    def test_children_go_with_their_integration(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            kept = IntegrationFactory(store=uow, with_webhooks=1, with_jobs=1)
            gone = IntegrationFactory(store=uow, with_webhooks=2, with_jobs=3)
            uow.commit()
        with hub.unit_of_work() as uow:
            uow.integrations.remove(gone.id)
            assert uow.webhooks.for_integration(gone.id) == []
            uow.commit()
        with hub.unit_of_work() as uow:
            assert {w.integration_id for w in uow.webhooks.find()} == {kept.id}
            assert {j.integration_id for j in uow.sync_jobs.find()} == {kept.id}
            assert (uow.webhooks.count(), uow.sync_jobs.count()) == (1, 1)

    def test_upsert_keeps_the_state_that_an_operator_has_set(
        self, hub: Hub, hub_clock: ManualClock
    ) -> None:
        declared = self.make(name="crm", type="salesforce")
        (stored,) = self.stored(hub, declared)
        with hub.unit_of_work() as uow:
            uow.integrations.save(stored.activate(hub_clock.now()).fail("401", hub_clock.now()))
            changed = uow.integrations.upsert(self.make(name="crm", type="hubspot"))
        assert (changed.type, changed.status, changed.error_message) == ("hubspot", "error", "401")
        assert changed.status_changed_at == hub_clock.now()


class ChildContract(RepositoryContract):
    """What the repositories of what hangs on an integration have in common."""

    def test_a_child_needs_its_integration(self, hub: Hub) -> None:
        nobody = uuid4()
        with hub.unit_of_work() as uow:
            repository = self.repository(uow)
            orphan = self.make(integration_id=nobody)
            call: Any
            for call in (
                lambda: repository.add(orphan),
                lambda: repository.add_many([self.make(), orphan]),
                lambda: repository.upsert(orphan),
            ):
                with pytest.raises(IntegrationNotFound) as missing:
                    call()
                assert missing.value.id == nobody
            assert repository.count() == 0

    def test_names_are_unique_within_an_integration_only(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            other = uow.integrations.add(IntegrationFactory())
            first = self.repository(uow).add(self.make(name="same"))
            second = self.repository(uow).add(self.make(name="same", integration_id=other.id))
            assert self.repository(uow).get_by_name("same", PARENT) == first
            assert self.repository(uow).get_by_name("same", other.id) == second
            assert self.repository(uow).for_integration(other.id) == [second]
            for name, id in (("other", PARENT), ("same", uuid4())):
                with pytest.raises(self.NOT_FOUND):
                    self.repository(uow).get_by_name(name, id)
            with pytest.raises(ValidationError):
                self.repository(uow).get_by_name("same", "no uuid")

    def test_a_child_can_move_to_another_integration(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            other = uow.integrations.add(IntegrationFactory())
            child = self.repository(uow).add(self.make())
            moved = self.repository(uow).save(dataclasses.replace(child, integration_id=other.id))
            assert self.repository(uow).for_integration(other.id) == [moved]
            with pytest.raises(IntegrationNotFound):
                self.repository(uow).save(dataclasses.replace(moved, integration_id=uuid4()))

    def test_children_of_several_integrations_are_asked_for_at_once(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            others = [uow.integrations.add(IntegrationFactory()).id for _ in range(2)]
            for id in (PARENT, *others):
                self.repository(uow).add(self.make(integration_id=id))
            found = self.repository(uow).find(self.FILTER(integration_id=others))
        assert {child.integration_id for child in found} == set(others)


class WebhookContract(ChildContract):
    """What a repository of webhooks must do."""

    FILTER = WebhookFilter
    NOT_FOUND = WebhookNotFound
    SORTS = ("name", "status", "created_at", "updated_at")

    def repository(self, uow: UnitOfWork) -> Any:
        return uow.webhooks

    def make(self, **fields: Any) -> Webhook:
        return WebhookFactory(**{"integration_id": PARENT, **fields})

    @pytest.mark.parametrize(
        ("event", "expected"),
        [
            ("invoice.paid", ["all", "exact", "family"]),
            ("invoice.paid.late", ["all", "family", "longer"]),
            ("invoice", ["all", "short"]),
            ("invoicing.paid", ["all"]),
            ("Invoice.paid", ["all"]),
        ],
    )
    def test_an_event_finds_those_that_subscribe(
        self, hub: Hub, event: str, expected: list[str]
    ) -> None:
        patterns = {
            "exact": ["invoice.paid", "invoice.sent"],
            "family": ["invoice.*"],
            "longer": ["invoice.paid.*"],
            "all": ["*"],
            "short": ["invoice"],
            "other": ["order.paid"],
        }
        made = self.stored(hub, *(self.make(name=n, events=e) for n, e in patterns.items()))
        with hub.unit_of_work() as uow:
            found = uow.webhooks.for_event(event)
            filtered = uow.webhooks.find(WebhookFilter(event=event))
        assert sorted(webhook.name for webhook in found) == expected
        assert filtered == found
        assert sorted(w.name for w in made if w.subscribes_to(event)) == expected

    def test_only_those_that_can_be_told_are_told(self, hub: Hub) -> None:
        self.stored(
            hub,
            *(self.make(name=s, status=s) for s in ("active", "paused", "failing", "disabled")),
            self.make(name="off", is_active=False),
        )
        with hub.unit_of_work() as uow:
            told = uow.webhooks.for_event("invoice.paid")
            troubled = uow.webhooks.failed()
            everybody = uow.webhooks.count(WebhookFilter(event="invoice.paid"))
        assert sorted(webhook.name for webhook in told) == ["active", "failing"]
        assert sorted(webhook.name for webhook in troubled) == ["disabled", "failing"]
        assert everybody == 5

    @pytest.mark.parametrize("wrong", ["", "invoice.*", "*", "a..b", "a b", "ä", 7])
    def test_what_is_no_event_is_refused(self, hub: Hub, wrong: Any) -> None:
        with hub.unit_of_work() as uow:
            for call in (uow.webhooks.for_event, lambda e: WebhookFilter(event=e)):
                with pytest.raises(ValidationError) as refused:
                    call(wrong)
                assert refused.value.field == "event"


class SyncJobContract(ChildContract):
    """What a repository of sync jobs must do."""

    FILTER = SyncJobFilter
    NOT_FOUND = SyncJobNotFound
    SORTS = ("name", "status", "created_at", "updated_at", "next_run_at", "last_run_at")
    NO_WAYS = frozenset(
        ("cancelled", end) for end in ("pending", "running", "completed", "failed", "paused")
    )

    def repository(self, uow: UnitOfWork) -> Any:
        return uow.sync_jobs

    def make(self, **fields: Any) -> SyncJob:
        return SyncJobFactory(**{"integration_id": PARENT, **fields})

    @pytest.mark.parametrize(
        "schedule",
        [
            Schedule.manual(),
            Schedule.once(datetime(2026, 7, 1, tzinfo=UTC)),
            Schedule.every(0.5 + 1, start=datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)),
            Schedule.every(timedelta(days=1, microseconds=1)),
            Schedule.cron("30 2 * * 1-5", tz="Europe/Berlin"),
        ],
        ids=lambda schedule: f"{schedule.kind}",
    )
    def test_a_job_comes_back_with_its_schedule_and_progress(
        self, hub: Hub, hub_clock: ManualClock, schedule: Schedule
    ) -> None:
        (stored,) = self.stored(
            hub,
            self.make(
                schedule=schedule,
                direction="both",
                checkpoint=["page", {"after": 10**30}],
                records_processed=2**40,
                last_run_at=hub_clock.now(),
                max_attempts=7,
                attempt=2,
            ),
        )
        with hub.unit_of_work() as uow:
            found = uow.sync_jobs.get(stored.id)
        assert found == stored
        assert found.schedule == schedule
        assert found.next_run_at == schedule.first_run(hub_clock.now())
        assert found.checkpoint == ["page", {"after": 10**30}]

    def test_what_is_due_comes_in_the_order_of_its_time(
        self, hub: Hub, hub_clock: ManualClock
    ) -> None:
        now = hub_clock.now()
        late, now_, early = self.stored(
            hub,
            self.make(name="late", next_run_at=now - timedelta(seconds=1)),
            self.make(name="now", next_run_at=now),
            self.make(name="early", next_run_at=now - timedelta(hours=1)),
        )
        self.stored(
            hub,
            self.make(name="future", next_run_at=now + timedelta(microseconds=1)),
            self.make(name="manual", schedule=Schedule.manual()),
            self.make(name="off", next_run_at=now, is_active=False),
            *(
                self.make(name=s, status=s, next_run_at=now)
                for s in ("running", "completed", "failed", "paused", "cancelled")
            ),
        )
        with hub.unit_of_work() as uow:
            assert uow.sync_jobs.due() == [early, late, now_]
            assert uow.sync_jobs.due(now - timedelta(minutes=1)) == [early]
            assert uow.sync_jobs.due(limit=2) == [early, late]
            assert uow.sync_jobs.due(now - timedelta(days=1)) == []
            assert uow.sync_jobs.count(SyncJobFilter(due_by=now)) == 3
            assert [job.name for job in uow.sync_jobs.running()] == ["running"]
            assert [job.name for job in uow.sync_jobs.failed()] == ["failed"]
            assert uow.sync_jobs.count(SyncJobFilter(running=False)) == 10
            assert uow.sync_jobs.count(SyncJobFilter(failed=False, running=False)) == 9
            with pytest.raises(ValidationError):
                uow.sync_jobs.due(limit=0)
            for ask in (uow.sync_jobs.due, uow.sync_jobs.next_due):
                with pytest.raises(ValidationError):
                    ask(datetime(2026, 1, 1))  # noqa: DTZ001 - naive on purpose

    def test_the_next_time_of_a_job_is_later_than_now(
        self, hub: Hub, hub_clock: ManualClock
    ) -> None:
        now = hub_clock.now()
        soon, later = now + timedelta(microseconds=1), now + timedelta(hours=1)
        with hub.unit_of_work() as uow:
            assert uow.sync_jobs.next_due() is None
            resting = IntegrationFactory(store=uow, name="resting", paused=True)
            uow.sync_jobs.add(self.make(name="due", next_run_at=now))
            uow.sync_jobs.add(self.make(name="manual", schedule=Schedule.manual()))
            uow.sync_jobs.add(self.make(name="off", next_run_at=soon, is_active=False))
            uow.sync_jobs.add(self.make(name="running", status="running", next_run_at=soon))
            assert uow.sync_jobs.next_due() is None
            uow.sync_jobs.add(self.make(name="later", next_run_at=later))
            uow.commit()
        with hub.unit_of_work() as uow:
            assert uow.sync_jobs.next_due() == later
            child = self.make(name="soon", integration_id=resting.id, next_run_at=soon)
            uow.sync_jobs.add(child)
            assert uow.sync_jobs.next_due() == soon
            assert uow.sync_jobs.next_due(soon) == later
            assert uow.sync_jobs.next_due(now - timedelta(seconds=1)) == now
            assert uow.sync_jobs.next_due(later) is None
            uow.sync_jobs.remove(uow.sync_jobs.get_by_name("later", PARENT).id)
            assert uow.sync_jobs.next_due(soon) is None

    def test_jobs_of_an_integration_at_rest_are_not_due(
        self, hub: Hub, hub_clock: ManualClock
    ) -> None:
        now = hub_clock.now()
        states: dict[str, dict[str, Any]] = {
            "pending": {},
            "active": {"active": True},
            "error": {"broken": True},
            "paused": {"paused": True},
            "archived": {"archived": True},
            "off": {"is_active": False},
        }
        with hub.unit_of_work() as uow:
            for name, state in states.items():
                parent = IntegrationFactory(store=uow, name=name, **state)
                uow.sync_jobs.add(self.make(name=name, integration_id=parent.id, next_run_at=now))
            uow.commit()
        with hub.unit_of_work() as uow:
            assert {job.name for job in uow.sync_jobs.due()} == {"pending", "active", "error"}
            assert uow.sync_jobs.count(SyncJobFilter(due_by=now)) == 6

    def test_a_job_is_asked_for_by_direction(self, hub: Hub) -> None:
        self.stored(hub, *(self.make(name=d, direction=d) for d in ("pull", "push", "both")))
        with hub.unit_of_work() as uow:
            found = uow.sync_jobs.find(SyncJobFilter(direction=["push", "both"]), sort=BY_NAME)
            pulls = uow.sync_jobs.find(SyncJobFilter(direction="pull"))
        assert [job.name for job in found] == ["both", "push"]
        assert [job.name for job in pulls] == ["pull"]

    def test_upsert_keeps_progress_and_plans_only_a_new_schedule(
        self, hub: Hub, hub_clock: ManualClock
    ) -> None:
        (job,) = self.stored(hub, self.make(name="contacts", schedule=Schedule.every(60)))
        progress = {"status": "paused", "checkpoint": {"after": 7}, "records_processed": 100}
        with hub.unit_of_work() as uow:
            uow.sync_jobs.save(dataclasses.replace(job, **progress))
            uow.commit()
        hub_clock.advance(3600)
        with hub.unit_of_work() as uow:
            same = uow.sync_jobs.upsert(self.make(name="contacts", schedule=Schedule.every(60)))
            other = uow.sync_jobs.upsert(self.make(name="contacts", schedule=Schedule.every(90)))
        assert {name: getattr(same, name) for name in progress} == progress
        assert {name: getattr(other, name) for name in progress} == progress
        assert same.next_run_at == job.next_run_at
        assert other.next_run_at == hub_clock.now() + timedelta(seconds=90)

    def test_a_job_that_is_resumed_is_planned_again(self, hub: Hub, hub_clock: ManualClock) -> None:
        (job,) = self.stored(hub, self.make(schedule=Schedule.every(60), failed=True))
        assert job.next_run_at is None
        with hub.unit_of_work() as uow:
            resumed = uow.sync_jobs.save(job.resume(hub_clock.now()))
            hub_clock.advance(60)
            assert uow.sync_jobs.due() == [resumed]

"""What a unit of work must do: all or nothing, isolation, savepoints, its life.

May import everything.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from integration_hub.domain.errors import (
    DuplicateName,
    HubError,
    IntegrationNotFound,
    SerializationConflict,
    StaleVersion,
    StoreClosed,
    UnitOfWorkClosed,
    ValidationError,
)
from integration_hub.domain.integration import Integration
from integration_hub.domain.result import Err, Ok
from integration_hub.hub import Hub
from integration_hub.ports.unit_of_work import UnitOfWork, UnitOfWorkManager
from integration_hub.testing.factories import IntegrationFactory, WebhookFactory


def names(hub: Hub) -> list[str]:
    """The names of what is committed, sorted."""
    with hub.unit_of_work() as uow:
        return sorted(item.name for item in uow.integrations.find())


class UnitOfWorkContract:
    """The life of a unit of work and what others see of it."""

    def test_what_was_committed_is_there(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            uow.integrations.add(IntegrationFactory(name="crm"))
            uow.commit()
        assert names(hub) == ["crm"]

    def test_leaving_without_commit_rolls_back(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            uow.integrations.add(IntegrationFactory())
        assert uow.state == "rolled_back"
        assert names(hub) == []

    def test_leaving_by_an_exception_rolls_back_and_lets_it_pass(self, hub: Hub) -> None:
        with pytest.raises(ZeroDivisionError), hub.unit_of_work() as uow:
            uow.integrations.add(IntegrationFactory())
            _ = 1 / 0
        assert uow.state == "rolled_back"
        assert names(hub) == []

    def test_a_rollback_undoes_every_kind_of_change(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            kept = IntegrationFactory(store=uow, name="kept", with_webhooks=1, with_jobs=1)
            changed = uow.integrations.add(IntegrationFactory(name="changed"))
            uow.commit()
        with hub.unit_of_work() as uow:
            uow.integrations.remove(kept.id)
            uow.integrations.save(changed.rename("renamed"))
            uow.integrations.add_many(IntegrationFactory.build_batch(3))
            uow.integrations.upsert(IntegrationFactory(name="renamed"))
            uow.rollback()
        with hub.unit_of_work() as uow:
            assert uow.integrations.get_many([kept.id, changed.id]) == {
                kept.id: kept,
                changed.id: changed,
            }
            assert (uow.integrations.count(), uow.webhooks.count(), uow.sync_jobs.count()) == (
                2,
                1,
                1,
            )

    def test_the_state_tells_the_life(self, hub: Hub) -> None:
        uow = hub.unit_of_work()
        states: list[str] = [uow.state]
        with uow:
            states.append(uow.state)
            uow.commit()
            states.append(uow.state)
        assert states == ["new", "active", "committed"]
        with hub.unit_of_work() as uow:
            uow.rollback()
        assert uow.state == "rolled_back"

    @pytest.mark.parametrize("end", ["commit", "rollback", "leave", "never began"])
    def test_a_unit_of_work_is_used_once(self, hub: Hub, end: str) -> None:
        uow = hub.unit_of_work()
        item: Integration = IntegrationFactory()
        if end != "never began":
            with uow:
                if end != "leave":
                    getattr(uow, end)()
        repository: Any = uow.integrations
        calls: list[Any] = [
            uow.commit,
            uow.rollback,
            lambda: uow.savepoint().__enter__(),
            lambda: repository.add(item),
            lambda: repository.add_many([item]),
            lambda: repository.save(item),
            lambda: repository.upsert(item),
            lambda: repository.remove(item.id),
            lambda: repository.get(item.id),
            lambda: repository.get_many([item.id]),
            lambda: repository.get_by_name("x"),
            repository.find,
            repository.page,
            repository.scroll,
            repository.stream,
            repository.count,
            lambda: uow.webhooks.for_event("a.b"),
            lambda: uow.webhooks.get_by_name("x", item.id),
            lambda: uow.sync_jobs.due(),
            lambda: uow.sync_jobs.next_due(),
            lambda: uow.sync_jobs.get_by_name("x", item.id),
        ]
        if end != "never began":
            calls.append(uow.__enter__)
        for call in calls:
            with pytest.raises(UnitOfWorkClosed) as refused:
                call()
            assert refused.value.state.startswith(uow.state)

    @pytest.mark.parametrize("field", ["tenant", "actor"])
    @pytest.mark.parametrize("wrong", ["", " x", "nul\x00", 7, None, "x" * 256])
    def test_a_tenant_and_an_actor_are_names(self, hub: Hub, field: str, wrong: Any) -> None:
        with pytest.raises(ValidationError) as refused:
            hub.unit_of_work(**{field: wrong})
        assert refused.value.field == field

    # --- isolation ----------------------------------------------------------------------------

    def test_nobody_sees_what_is_not_committed(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            first = uow.integrations.add(IntegrationFactory(name="first"))
            uow.commit()
        with hub.unit_of_work() as writer, hub.unit_of_work() as reader:
            second = writer.integrations.add(IntegrationFactory(name="second"))
            writer.integrations.save(first.rename("renamed"))
            assert reader.integrations.find() == [first]
            assert reader.integrations.get(first.id) == first
            with pytest.raises(IntegrationNotFound):
                reader.integrations.get(second.id)
            writer.commit()
            assert {i.name for i in reader.integrations.find()} == {"renamed", "second"}

    def test_a_removal_is_not_seen_before_its_commit(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            parent = IntegrationFactory(store=uow, with_webhooks=1)
            uow.commit()
        with hub.unit_of_work() as writer, hub.unit_of_work() as reader:
            writer.integrations.remove(parent.id)
            assert writer.webhooks.count() == 0
            assert (reader.integrations.count(), reader.webhooks.count()) == (1, 1)

    def test_of_two_that_changed_the_same_row_one_is_refused(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            item = uow.integrations.add(IntegrationFactory())
            uow.commit()
        barrier = threading.Barrier(2)

        def change(name: str) -> object:
            with hub.unit_of_work() as uow:
                loaded = uow.integrations.get(item.id)
                barrier.wait(10)
                try:
                    uow.integrations.save(loaded.rename(name))
                    uow.commit()
                except StaleVersion as error:
                    return error
                return name

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(change, ["one", "two"]))
        won = [outcome for outcome in outcomes if isinstance(outcome, str)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, StaleVersion)]
        assert [(error.expected, error.found) for error in lost] == [(1, 2)]
        assert names(hub) == won

    def test_of_many_that_add_the_same_name_one_succeeds(self, hub: Hub) -> None:
        barrier = threading.Barrier(4)

        def add(number: int) -> object:
            with hub.unit_of_work() as uow:
                barrier.wait(10)
                try:
                    uow.integrations.add(IntegrationFactory(name="same"))
                    uow.commit()
                except DuplicateName as error:
                    return error
                return number

        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(add, range(4)))
        assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
        assert names(hub) == ["same"]

    def test_counting_up_from_many_threads_loses_nothing(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            item = uow.integrations.add(IntegrationFactory(config={"n": 0}))
            uow.commit()

        def increment(_: int) -> None:
            while True:
                try:
                    with hub.unit_of_work() as uow:
                        loaded = uow.integrations.get(item.id)
                        uow.integrations.save(loaded.with_config(n=loaded.config["n"] + 1))
                        uow.commit()
                    return
                except StaleVersion:
                    continue

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(increment, range(20)))
        with hub.unit_of_work() as uow:
            found = uow.integrations.get(item.id)
        assert (found.config["n"], found.version) == (20, 21)

    def test_an_upsert_from_many_threads_makes_one(self, hub: Hub) -> None:
        barrier = threading.Barrier(4)

        def declare(number: int) -> HubError | None:
            barrier.wait(10)
            return _error_of(hub, lambda uow: uow.integrations.upsert(IntegrationFactory(name="x")))

        with ThreadPoolExecutor(4) as pool:
            errors = list(pool.map(declare, range(4)))
        refusals = {SerializationConflict, DuplicateName}  # of who came too late each time
        assert {type(error) for error in errors} <= {type(None), *refusals}
        assert None in errors
        assert names(hub) == ["x"]

    # --- savepoints ---------------------------------------------------------------------------

    def test_a_savepoint_that_fails_undoes_its_own_changes_alone(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            first = uow.integrations.add(IntegrationFactory(name="first"))
            with pytest.raises(ZeroDivisionError), uow.savepoint():
                uow.integrations.add(IntegrationFactory(name="second"))
                uow.integrations.save(first.rename("renamed"))
                _ = 1 / 0
            uow.integrations.add(IntegrationFactory(name="second"))
            assert uow.integrations.get(first.id) == first
            uow.commit()
        assert names(hub) == ["first", "second"]

    def test_a_savepoint_that_ends_well_joins_the_rest(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            with uow.savepoint():
                uow.integrations.add(IntegrationFactory(name="inner"))
            uow.commit()
        with hub.unit_of_work() as uow, uow.savepoint():
            uow.integrations.add(IntegrationFactory(name="lost"))
        assert names(hub) == ["inner"]

    def test_savepoints_nest(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            with uow.savepoint():
                kept = IntegrationFactory(store=uow, name="kept", with_webhooks=1)
                with pytest.raises(ZeroDivisionError), uow.savepoint():
                    with uow.savepoint():
                        uow.integrations.remove(kept.id)
                    assert uow.webhooks.count() == 0
                    _ = 1 / 0
                assert uow.webhooks.count() == 1
            uow.commit()
        assert names(hub) == ["kept"]

    def test_a_commit_within_a_savepoint_commits_all(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            uow.integrations.add(IntegrationFactory(name="outer"))
            with uow.savepoint():
                uow.integrations.add(IntegrationFactory(name="inner"))
                uow.commit()
        assert names(hub) == ["inner", "outer"]

    # --- the manager --------------------------------------------------------------------------

    def test_run_commits_and_gives_the_value(self, hub: Hub) -> None:
        outcome = hub.run(lambda uow: uow.integrations.add(IntegrationFactory(name="crm")).name)
        assert outcome == Ok("crm")
        assert names(hub) == ["crm"]

    def test_run_gives_an_error_of_ours_and_rolls_back(self, hub: Hub) -> None:
        def operation(uow: UnitOfWork) -> None:
            uow.integrations.add(IntegrationFactory(name="crm"))
            uow.integrations.add(IntegrationFactory(name="crm"))

        match hub.run(operation):
            case Err(DuplicateName() as error):
                assert error.name == "crm"
            case outcome:
                pytest.fail(f"expected DuplicateName, got {outcome}")
        assert names(hub) == []

    def test_run_lets_a_bug_pass_and_rolls_back(self, hub: Hub) -> None:
        def operation(uow: UnitOfWork) -> None:
            uow.integrations.add(IntegrationFactory())
            raise KeyError("bug")

        with pytest.raises(KeyError):
            hub.run(operation)
        assert names(hub) == []

    def test_run_takes_no_coroutines(self, hub: Hub) -> None:
        async def operation(uow: UnitOfWork) -> None:
            uow.integrations.add(IntegrationFactory())

        wrong: Any
        for wrong in (operation, 5):
            with pytest.raises(ValidationError) as refused:
                hub.run(wrong)
            assert refused.value.field == "operation"
        outcome = hub.run(lambda uow: operation(uow))
        assert isinstance(outcome, Err)
        assert isinstance(outcome.error, ValidationError)
        assert names(hub) == []

    def test_run_leaves_a_unit_of_work_that_ended_itself_alone(self, hub: Hub) -> None:
        def give_up(uow: UnitOfWork) -> str:
            uow.integrations.add(IntegrationFactory())
            uow.rollback()
            return "gave up"

        assert hub.run(give_up) == Ok("gave up")
        assert names(hub) == []

    def test_the_current_unit_of_work_is_that_of_this_thread_and_task(self, hub: Hub) -> None:
        manager = UnitOfWorkManager(hub.unit_of_work)
        seen: list[object] = []

        async def look() -> None:
            seen.append(manager.current)

        def operation(uow: UnitOfWork) -> None:
            assert manager.current is uow
            assert manager.has_active_transaction
            thread = threading.Thread(target=lambda: seen.append(manager.current))
            thread.start()
            thread.join()
            asyncio.run(look())
            inner = manager.run(lambda inner: inner is manager.current and inner is not uow)
            seen.append(inner.unwrap())
            assert manager.current is uow
            uow.commit()
            assert not manager.has_active_transaction

        assert manager.current is None
        manager.run(operation).unwrap()
        assert manager.current is None
        assert seen == [None, None, True]

    def test_a_child_added_while_its_parent_goes_is_not_left_alone(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            parent = uow.integrations.add(IntegrationFactory())
            uow.commit()
        barrier = threading.Barrier(2)

        def remove(uow: UnitOfWork) -> None:
            barrier.wait(10)
            uow.integrations.remove(parent.id)

        def add(uow: UnitOfWork) -> None:
            barrier.wait(10)
            uow.webhooks.add(WebhookFactory(integration_id=parent.id))

        with ThreadPoolExecutor(2) as pool:
            errors = list(pool.map(lambda operation: _error_of(hub, operation), [remove, add]))
        assert errors[0] is None
        assert errors[1] is None or isinstance(errors[1], IntegrationNotFound)
        with hub.unit_of_work() as uow:
            assert (uow.integrations.count(), uow.webhooks.count()) == (0, 0)

    def test_a_hub_that_is_closed_opens_nothing_and_says_so(self, hub: Hub) -> None:
        hub.close()
        with pytest.raises(StoreClosed, match="this hub is closed"):
            hub.unit_of_work()
        assert isinstance(hub.run(lambda uow: uow.integrations.count()), Err)
        assert (hub.health().ok, hub.health().error) == (False, "this hub is closed; make another")
        hub.close()

    def test_replacing_a_field_checks_it(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            stored = uow.integrations.add(IntegrationFactory())
            with pytest.raises(ValidationError):
                dataclasses.replace(stored, name=" ")


def _error_of(hub: Hub, operation: Any) -> HubError | None:
    outcome = hub.run(operation)
    return outcome.error if isinstance(outcome, Err) else None

"""The Session that a unit of work hands out: all of it is stored, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from hubs import names
from integration_hub import Hub, Integration, StorageError
from integration_hub.sql.mapping import INTEGRATIONS
from integration_hub.sql.models import IntegrationRow
from integration_hub.sql.unit_of_work import SqlUnitOfWork


@pytest.fixture(params=["sqlite", "postgres"])
def sql_hub(request: pytest.FixtureRequest) -> Hub:
    found: Hub = request.getfixturevalue(f"hub_{request.param}")
    return found


def opened(hub: Hub) -> SqlUnitOfWork:
    uow = hub.unit_of_work()
    assert isinstance(uow, SqlUnitOfWork)
    return uow


def named(name: str) -> Integration:
    return Integration(name=name, type="salesforce")


def row(uow: SqlUnitOfWork, name: str) -> IntegrationRow:
    """A model of the hub's own, as it stands for one of a service's."""
    made = named(name).added(tenant="default", actor="it", now=uow.clock.now())
    return IntegrationRow(**INTEGRATIONS.dump(made))


def use(session: Session) -> None:
    session.execute(text("SELECT 1"))


def leave(session: Session) -> None:
    """It was only asked for, as by somebody who makes repositories that need it now and then."""


@pytest.mark.parametrize("act", [use, leave])
@pytest.mark.parametrize("comes_first", [True, False])
def test_what_the_unit_of_work_has_done_is_stored_whatever_its_session_did(
    sql_hub: Hub, act: Callable[[Session], None], *, comes_first: bool
) -> None:
    with opened(sql_hub) as uow:
        if comes_first:
            act(uow.session)
        uow.integrations.add(named("a"))
        act(uow.session)
        uow.integrations.add(named("b"))
        assert uow.integrations.count() == 2
        uow.commit()
    assert names(sql_hub) == ["a", "b"]


def test_its_session_is_stored_by_the_unit_of_work_alone(sql_hub: Hub) -> None:
    with opened(sql_hub) as uow:
        uow.integrations.add(named("a"))
        uow.session.add(row(uow, "b"))
        with pytest.raises(StorageError, match=r"call the unit of work's commit"):
            uow.session.commit()
        with pytest.raises(StorageError, match="savepoint"):
            uow.session.rollback()
        assert names(sql_hub) == []
        uow.commit()
    assert names(sql_hub) == ["a", "b"]


def close(uow: SqlUnitOfWork) -> None:
    uow.session.close()


def take_a_name_again(uow: SqlUnitOfWork) -> None:
    uow.session.add(row(uow, "a"))
    uow.session.flush()


def fail_to_flush(uow: SqlUnitOfWork) -> None:
    with pytest.raises(IntegrityError):
        take_a_name_again(uow)


def add_and_raise(uow: SqlUnitOfWork) -> None:
    uow.integrations.add(named("undone"))
    uow.session.add(row(uow, "undone too"))
    raise KeyError


@pytest.mark.parametrize("end", [close, fail_to_flush])
def test_a_session_that_is_over_leaves_nothing_to_be_stored(
    sql_hub: Hub, end: Callable[[SqlUnitOfWork], None]
) -> None:
    with opened(sql_hub) as uow:
        uow.integrations.add(named("a"))
        end(uow)
        for act in (
            lambda: uow.integrations.add(named("b")),
            uow.integrations.count,
            uow.savepoint().__enter__,
            uow.commit,
        ):
            with pytest.raises(StorageError, match="roll back and start again"):
                act()
        assert uow.state == "rolled_back"
    assert names(sql_hub) == []


def test_what_its_session_could_not_do_in_a_savepoint_leaves_the_rest(sql_hub: Hub) -> None:
    with opened(sql_hub) as uow:
        uow.integrations.add(named("a"))
        session = uow.session
        for block in (uow.savepoint, session.begin_nested):
            with pytest.raises(IntegrityError), block():
                take_a_name_again(uow)
            with pytest.raises(KeyError), block():
                add_and_raise(uow)
        with uow.savepoint():
            session.add(row(uow, "b"))
        uow.integrations.add(named("c"))
        uow.commit()
    assert names(sql_hub) == ["a", "b", "c"]


def test_a_session_is_asked_for_before_a_savepoint(sql_hub: Hub) -> None:
    with opened(sql_hub) as uow:
        uow.integrations.add(named("a"))
        with uow.savepoint(), pytest.raises(StorageError, match="before the savepoint"):
            use(uow.session)
        use(uow.session)
        with uow.savepoint():
            use(uow.session)
        uow.commit()
    assert names(sql_hub) == ["a"]

"""What a fault of Postgres means is told by its SQLSTATE."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.exc import InvalidRequestError

from integration_hub import (
    DatabaseUnavailable,
    HubError,
    QueryTimeout,
    SchemaOutOfDate,
    SerializationConflict,
    StorageError,
)
from integration_hub.database.faults import driver_fault, fault

MEANINGS: dict[str, type[HubError]] = {
    "40001": SerializationConflict,
    "40P01": SerializationConflict,
    "57014": QueryTimeout,
    "55P03": QueryTimeout,
    "25P02": StorageError,
    "42501": StorageError,
    "22012": StorageError,
    "25006": DatabaseUnavailable,
    "57P01": DatabaseUnavailable,
    "57P02": DatabaseUnavailable,
    "57P03": DatabaseUnavailable,
    "53100": DatabaseUnavailable,
    "53200": DatabaseUnavailable,
    "53300": DatabaseUnavailable,
    "53400": DatabaseUnavailable,
    "25P03": DatabaseUnavailable,
    "08006": DatabaseUnavailable,
}


@pytest.mark.parametrize("state", MEANINGS)
@pytest.mark.parametrize("is_lost", [True, False])
def test_a_fault_is_told_by_its_code_and_keeps_it(state: str, is_lost: bool) -> None:
    told = driver_fault(psycopg.errors.lookup(state)("words of the server"), is_lost=is_lost)
    is_plain = MEANINGS[state] is StorageError and state == "22012"
    assert type(told) is (DatabaseUnavailable if is_lost and is_plain else MEANINGS[state])
    assert isinstance(told, StorageError)
    assert told.sqlstate == state


def test_what_the_server_has_run_out_of_is_told_in_its_words() -> None:
    told = driver_fault(psycopg.errors.DiskFull("could not extend file: No space left on device"))
    assert told.message.endswith(
        "has run out of something: could not extend file: No space left on device"
    )


@pytest.mark.parametrize("state", ["42P01", "42703", "3F000"])
def test_what_is_missing_in_the_schema_is_told_with_the_way_out(state: str) -> None:
    told = driver_fault(psycopg.errors.lookup(state)("words of the server"))
    assert type(told) is SchemaOutOfDate


@pytest.mark.parametrize(
    ("error", "is_lost", "kind"),
    [
        (psycopg.OperationalError("no route"), False, DatabaseUnavailable),
        (psycopg.errors.ConnectionTimeout("too slow"), False, DatabaseUnavailable),
        (psycopg.InterfaceError("closed"), False, StorageError),
        (psycopg.InterfaceError("closed"), True, DatabaseUnavailable),
    ],
)
def test_a_fault_without_a_code_is_told_by_its_kind(
    error: Exception, is_lost: bool, kind: type[HubError]
) -> None:
    assert type(driver_fault(error, is_lost=is_lost)) is kind


def test_a_fault_of_sqlalchemy_s_own_is_told_by_its_kind_and_without_its_words() -> None:
    told = fault(InvalidRequestError("this Session's transaction, s3cr3t"))
    assert type(told) is StorageError
    assert told.message == "the database layer failed (InvalidRequestError)"

"""What a database's fault means, in the words of the package.

May import: `domain`, SQLAlchemy. Told apart by SQLSTATE and constraint name, never by message
text, but for SQLite's missing tables, for which it has no code.
Source of the codes: PostgreSQL manual, appendix A; sqlite.org/rescode.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    PendingRollbackError,
    SQLAlchemyError,
    TimeoutError,
)

from integration_hub.domain.errors import (
    DatabaseUnavailable,
    HubError,
    PoolExhausted,
    QueryTimeout,
    SchemaOutOfDate,
    SerializationConflict,
    StorageError,
)

ABORTED = "an earlier statement of this transaction failed; roll back and start again"
LOST = "the connection to the database was lost, and what was begun on it; start again"
UPGRADE = "run `integration-hub db upgrade`, or hub.schema.upgrade()"

_SERIALIZATION = {"40001", "40P01"}  # serialization_failure, deadlock_detected
_TIMEOUT = {"57014", "55P03"}  # query_canceled, lock_not_available
_SCHEMA = {"42P01", "42703"}  # undefined_table, undefined_column
_NO_SCHEMA = "3F000"  # invalid_schema_name
_PRIVILEGE = "42501"  # insufficient_privilege
_UNAVAILABLE = {"57P01", "57P02", "57P03", "53300", "25P03"}  # shut down, starting, too many, idle
_RESOURCES = "53"  # the class of what has run out: the disk, memory, locks
_CONNECTION = "08"  # the class of connection exceptions
_CONSTRAINT, _DATA = "23", "22"  # the classes of constraint violations, and of data exceptions
_MEANING, _SYNTAX = "42", "42601"  # the class of what a statement can't mean, and syntax_error
_OUT_OF_PLACE = ("0A", "25")  # of what the server can't do, or not within a transaction
_ABORTED = "25P02"  # in_failed_sql_transaction
_SQLITE_FILE = (
    "SQLITE_CANTOPEN",
    "SQLITE_CORRUPT",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_NOTADB",
    "SQLITE_READONLY",
)
_READ_ONLY = "25006"  # read_only_sql_transaction


def fault(error: SQLAlchemyError) -> HubError:
    """The error to raise for one of SQLAlchemy's; ``raise fault(error) from error``."""
    if isinstance(error, TimeoutError):
        message = "every pooled connection is in use and none came back in time; raise pool_size"
        return PoolExhausted(message)
    if isinstance(error, PendingRollbackError):
        return StorageError(ABORTED)
    if not isinstance(error, DBAPIError) or error.orig is None:
        return StorageError(f"the database layer failed ({type(error).__name__})")
    found = driver_fault(error.orig, is_lost=error.connection_invalidated)
    if not str(error.args[0]).endswith(words := str(error.orig)):
        error.args = (words,)  # something was hidden there
    return found


def driver_fault(error: BaseException, *, is_lost: bool = False) -> HubError:
    """The error to raise for one that psycopg or sqlite3 raised itself."""
    sqlite_name: str | None = getattr(error, "sqlite_errorname", None)
    if sqlite_name is not None:
        return _sqlite_fault(sqlite_name, str(error))
    return _postgres_fault(getattr(error, "sqlstate", None), error, is_lost)


def _postgres_fault(state: str | None, error: BaseException, is_lost: bool) -> HubError:
    kind = type(error).__name__
    _hide_values(error, state)
    if state in _SERIALIZATION:
        message = "the database chose this transaction to give way to another; run it again"
        return SerializationConflict(message, sqlstate=state)
    if state in _TIMEOUT:
        message = "a statement, or its wait for a lock, took longer than the limit"
        return QueryTimeout(message, sqlstate=state)
    if state in _SCHEMA:
        return _missing(_first_line(error))
    if state == _NO_SCHEMA:
        return SchemaOutOfDate(
            "none of the schemas in the search_path exists; create one, or set it"
        )
    if state == _PRIVILEGE:
        message = f"the database's user lacks a privilege: {_first_line(error)}"
        return StorageError(message, sqlstate=state)
    if state == _ABORTED:
        return StorageError(ABORTED, sqlstate=state)
    if state == _READ_ONLY:
        message = "the database takes no writes: it is a standby, or its sessions are read-only"
        return DatabaseUnavailable(message, sqlstate=state)
    if state is None:
        is_lost = is_lost or kind in ("OperationalError", "ConnectionTimeout")
    elif state.startswith(_CONNECTION) or state in _UNAVAILABLE:
        is_lost = True
    if is_lost:
        message = f"the database can't be reached: {_first_line(error)}"
        return DatabaseUnavailable(message, sqlstate=state)
    if state is not None and state.startswith(_RESOURCES):
        message = f"the database has run out of something: {_first_line(error)}"
        return DatabaseUnavailable(message, sqlstate=state)
    what = f"{kind}{_particulars(error, state)}"
    return StorageError(f"the database refused ({what})", sqlstate=state)


def _particulars(error: BaseException, state: str | None) -> str:
    """What else may be said of a refusal: names and places, and no data."""
    if state == _SYNTAX:  # its words repeat what stands there, which may be anything
        diag: Any = getattr(error, "diag", None)
        return f" near character {diag.statement_position} of the statement"
    is_the_driver_s = state is None and type(error).__name__ == "ProgrammingError"
    if is_the_driver_s or (state or "").startswith((_MEANING, *_OUT_OF_PLACE)):
        return f": {_first_line(error)}"
    constraint = violated_constraint(error)
    return f" of {constraint}" if constraint else ""


def _hide_values(error: BaseException, state: str | None) -> None:
    """In the error itself, which a traceback shows as the cause of ours: Postgres shows data that
    it refuses, and in the DETAIL of a broken constraint the whole row.
    """
    if state is None:
        return
    if state.startswith(_CONSTRAINT):
        error.args = (_first_line(error),)
    elif state.startswith(_DATA):
        error.args = ("the data are not shown",)


def is_of_no_use(error: BaseException | None) -> bool:
    """Whether the connection that gave this answer should be given up for another: after a failover
    it may still lead to the former primary, which is a standby now.
    """
    return getattr(error, "sqlstate", None) == _READ_ONLY


def name_file(error: BaseException, file: str | None) -> None:
    """In an error of SQLite's, which does not say what file it is that it can't use."""
    if getattr(error, "sqlite_errorname", "").startswith(_SQLITE_FILE):
        error.args = (f"{error} ({file})",)


def _sqlite_fault(name: str, text: str) -> HubError:
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        message = "another writer held the SQLite file for longer than the lock limit"
        return QueryTimeout(f"{message}; it may be a unit of work of yours that is still open")
    if any(words in text for words in ("no such table", "no such column", "has no column")):
        return _missing(text)
    if name.startswith(_SQLITE_FILE):
        return DatabaseUnavailable(f"the SQLite file can't be used: {text}")
    return StorageError(f"SQLite refused ({name})")


def _missing(words: str) -> SchemaOutOfDate:
    problem = f"a table or column that is asked for is missing ({words})"
    return SchemaOutOfDate(f"{problem}; if it is one of the hub's, {UPGRADE}")


def _first_line(error: BaseException) -> str:
    # libpq's messages name host, port and user, and no password.
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def breaks_constraint(error: BaseException | None) -> bool:
    """Whether it is what was to be stored that the database did not take."""
    state: str | None = getattr(error, "sqlstate", None)
    return isinstance(error, IntegrityError) or (state or "").startswith(_CONSTRAINT)


def violated_constraint(error: BaseException | None) -> str | None:
    """The name of the constraint that a statement broke, where the database tells it."""
    if isinstance(error, IntegrityError):
        error = error.orig
    name: str | None = getattr(getattr(error, "diag", None), "constraint_name", None)
    return name


@contextmanager
def faults_named() -> Iterator[None]:
    """A block in which the database's faults become errors of the package."""
    try:
        yield
    except SQLAlchemyError as error:
        raise fault(error) from error


def _lacks_parent(error: BaseException | None) -> bool:
    if isinstance(error, IntegrityError):
        error = error.orig
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    return code in ("23503", "SQLITE_CONSTRAINT_FOREIGNKEY")  # 23503: foreign_key_violation


@contextmanager
def webhooks_there() -> Iterator[None]:
    """A webhook that was removed just now is a conflict: run again, it will not be looked at."""
    try:
        yield
    except StorageError as error:
        if not _lacks_parent(error.__cause__):
            raise
        words = "a webhook was removed at the same moment; run it again"
        raise SerializationConflict(words) from error

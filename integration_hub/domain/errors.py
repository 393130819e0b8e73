"""Every error that the package raises or returns, in one tree.

May import: the standard library. Errors carry ids and plain values, never entities, responses or
sessions, so that any layer may raise them; no message and no field holds a secret.

::

    HubError
    ├─ ValidationError            a value that can't be stored, or a question that can't be asked
    ├─ InvalidSort                a sort field outside the closed set
    ├─ InvalidCursor              a cursor that was changed, or belongs to another query
    ├─ InvalidSchedule            a schedule that can't be read, or never comes
    ├─ InvalidTransition          a state that can't be reached from the present one
    ├─ NotFound
    │   ├─ IntegrationNotFound
    │   ├─ WebhookNotFound
    │   └─ SyncJobNotFound
    ├─ DuplicateName              a name that is taken
    ├─ DuplicateId                an id that is taken
    ├─ StaleVersion               somebody else changed it first
    ├─ UnitOfWorkClosed           a unit of work that has ended
    └─ StorageError               the database said no
        ├─ DatabaseUnavailable    (retryable)
        ├─ SerializationConflict  (retryable)
        ├─ PoolExhausted          (retryable)
        ├─ QueryTimeout
        └─ SchemaOutOfDate
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar
from uuid import UUID

_SHOWN = 80  # characters of a refused value that a message repeats


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _restored(cls: type[HubError], args: tuple[Any, ...], fields: dict[str, Any]) -> HubError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(fields)
    return error


class HubError(Exception):
    """The root of the tree: ``except HubError`` catches whatever this package raises on purpose.

    `code` is stable over releases, for logs and for replies to other systems; `is_retryable` says
    whether the same call may succeed when it is made again.
    """

    code: ClassVar[str] = "hub_error"
    is_retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # The usual way calls __init__ with `args`, which our keyword fields do not fit: errors
        # must cross process boundaries (multiprocessing, task queues) whole.
        return _restored, (type(self), self.args, dict(self.__dict__))


class ValidationError(HubError):
    """A value that can't be stored, or a question that can't be asked.

    `field` names it; `value` is what was given, or a stand-in where that may hold a secret.
    """

    code = "validation_error"

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(f"{field} {problem}, got {_shown(value)}")
        self.field = field
        self.value = value


class InvalidSort(HubError):
    """A sort field outside the closed set of the aggregate; `allowed` lists that set."""

    code = "invalid_sort"

    def __init__(self, field: object, allowed: Iterable[str]) -> None:
        self.field = field
        self.allowed = tuple(allowed)
        super().__init__(f"can't sort by {_shown(field)}; allowed are {', '.join(self.allowed)}")


class InvalidCursor(HubError):
    """A scroll cursor that was changed on its way, or that belongs to another query."""

    code = "invalid_cursor"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the cursor {reason}; start again without `after`")
        self.reason = reason


class InvalidSchedule(HubError):
    """A schedule that can't be read, or that never comes."""

    code = "invalid_schedule"

    def __init__(self, value: object, problem: str) -> None:
        super().__init__(f"schedule {problem}, got {_shown(value)}")
        self.value = value


class InvalidTransition(HubError):
    """A state that can't be reached from the present one."""

    code = "invalid_transition"

    def __init__(self, kind: str, id: UUID, from_: str, to: str, allowed: Iterable[str]) -> None:
        ways = ", ".join(sorted(allowed)) or "none: it is final"
        super().__init__(f"{kind} {id} can't go from {from_} to {to}; from there lead: {ways}")
        self.kind = kind
        self.id = id
        self.from_ = from_
        self.to = to


class NotFound(HubError):
    """Nothing of this kind has this id or name within the unit of work's tenant."""

    code = "not_found"
    kind: ClassVar[str] = "object"

    def __init__(self, id: UUID | str) -> None:
        shown = f"named {_shown(id)}" if isinstance(id, str) else f"with id {id}"
        super().__init__(f"no {self.kind} {shown} in this tenant")
        self.id = id


class IntegrationNotFound(NotFound):
    """No such integration; for a new webhook or sync job, its parent."""

    code = "integration_not_found"
    kind = "integration"


class WebhookNotFound(NotFound):
    """No such webhook."""

    code = "webhook_not_found"
    kind = "webhook"


class SyncJobNotFound(NotFound):
    """No such sync job."""

    code = "sync_job_not_found"
    kind = "sync job"


class DuplicateName(HubError):
    """The name is taken: within the tenant for integrations, within the integration for others."""

    code = "duplicate_name"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{_a(kind)} named {_shown(name)} exists already; choose another name")
        self.kind = kind
        self.name = name


class DuplicateId(HubError):
    """The id is taken: the object was added before, perhaps; a change is stored by `save`."""

    code = "duplicate_id"

    def __init__(self, kind: str, id: UUID) -> None:
        super().__init__(f"{_a(kind)} with id {id} exists already; store a change with save()")
        self.kind = kind
        self.id = id


class StaleVersion(HubError):
    """Somebody else stored a change since this object was loaded: load it and change it again."""

    code = "stale_version"

    def __init__(self, kind: str, id: UUID, expected: int, found: int) -> None:
        super().__init__(
            f"{kind} {id} was loaded as version {expected} and is version {found} by now; "
            "load it again and repeat the change"
        )
        self.kind = kind
        self.id = id
        self.expected = expected
        self.found = found


class UnitOfWorkClosed(HubError):
    """The unit of work has ended, or has not begun; open another one."""

    code = "unit_of_work_closed"

    def __init__(self, state: str) -> None:
        super().__init__(f"this unit of work is {state}; open one with hub.unit_of_work()")
        self.state = state


class StorageError(HubError):
    """The database refused, and no narrower class fits; `sqlstate` has its five-letter code."""

    code = "storage_error"

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DatabaseUnavailable(StorageError):
    """No connection could be made, or the connection broke."""

    code = "database_unavailable"
    is_retryable = True


class SerializationConflict(StorageError):
    """The database chose this transaction to give way (serialization failure, deadlock)."""

    code = "serialization_conflict"
    is_retryable = True


class PoolExhausted(StorageError):
    """Every pooled connection is in use and none came back in time."""

    code = "pool_exhausted"
    is_retryable = True


class QueryTimeout(StorageError):
    """A statement ran, or waited for a lock, longer than the limit that the server was given."""

    code = "query_timeout"


class SchemaOutOfDate(StorageError):
    """The tables and the code do not fit each other; the message names the command that helps."""

    code = "schema_out_of_date"

    def __init__(self, message: str, *, current: str | None = None, head: str | None = None):
        super().__init__(message)
        self.current = current
        self.head = head

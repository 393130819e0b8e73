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
    │   ├─ SyncJobNotFound
    │   ├─ SyncRunNotFound
    │   ├─ MessageNotFound
    │   └─ DeliveryNotFound
    ├─ DuplicateName              a name that is taken
    ├─ DuplicateId                an id that is taken
    ├─ StaleVersion               somebody else changed it first
    ├─ UnitOfWorkClosed           a unit of work that has ended
    ├─ LeaseLost                  a sync run or a delivery that is no longer one's own
    ├─ SignatureError             a message that was not signed, or not by whom it should be
    ├─ StorageError               the database said no
    │   ├─ DatabaseUnavailable    (retryable)
    │   ├─ SerializationConflict  (retryable)
    │   ├─ PoolExhausted          (retryable)
    │   ├─ QueryTimeout
    │   ├─ SchemaOutOfDate
    │   └─ StoreClosed            one's own hub was closed
    └─ HttpError                  another system did not answer as it should
        ├─ ConnectionFailed       (retryable)
        ├─ TimedOut               (retryable)
        ├─ TooManyRedirects
        ├─ ResponseTooLarge
        ├─ StatusError            (retryable for some)
        ├─ DecodeError
        ├─ RateLimited            (retryable)
        ├─ CircuitOpen            (retryable)
        ├─ RetriesExhausted
        ├─ TooManyPages
        └─ BlockedAddress         an address that must not be connected to
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Literal, TypeAlias
from uuid import UUID

_SHOWN = 80  # characters of a refused value that a message repeats
_CREDENTIALS = re.compile(r"://(?:(?!://)[^\s'\"])*@")  # of a URL, up to its host


def _shown(value: object) -> str:
    """A value as a message may show it: shortened, and without passwords that are in a URL."""
    text = _without_passwords(repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _without_passwords(text: str) -> str:
    return _CREDENTIALS.sub("://***@", text)


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
    is_retryable: bool = False

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
        self.value = _without_passwords(value) if isinstance(value, str) else value


class InvalidSort(HubError):
    """A sort field outside the closed set of the aggregate; `allowed` lists that set."""

    code = "invalid_sort"

    def __init__(self, field: object, allowed: Iterable[str]) -> None:
        self.field = field
        self.allowed = tuple(allowed)
        known = ", ".join(self.allowed)
        super().__init__(f"can't sort by {_shown(field)}; give a Sort(…) of one of {known}")


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


NotFoundKind: TypeAlias = type[NotFound]
"""With a name, since within a class that has a field `type` there is no other."""


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


class SyncRunNotFound(NotFound):
    """No such sync run."""

    code = "sync_run_not_found"
    kind = "sync run"


class MessageNotFound(NotFound):
    """No message to webhooks has that id, in this tenant."""

    code = "message_not_found"
    kind = "message"


class DeliveryNotFound(NotFound):
    """No delivery of a message has that id, in this tenant."""

    code = "delivery_not_found"
    kind = "delivery"


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
        way_out = "load it again and repeat the change"
        if not expected:  # it was not loaded at all
            way_out = f"change what add() gave, or {way_out}"
        super().__init__(
            f"{kind} {id} was loaded as version {expected} and is version {found} by now; {way_out}"
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


class LeaseLost(HubError):
    """What was claimed is no longer this worker's: its lease ran out, or it was cancelled.

    `run_id` is that of the sync run, or of the delivery of a message.
    """

    code = "lease_lost"

    def __init__(self, run_id: UUID, kind: str = "sync run") -> None:
        super().__init__(f"{kind} {run_id} is no longer this worker's; stop working on it")
        self.run_id = run_id
        self.kind = kind


class SignatureError(HubError):
    """A message whose signature is missing, wrong or too old: don't believe it."""

    code = "signature_error"


class StorageError(HubError):
    """The database refused, and no narrower class fits; `sqlstate` has its five-letter code."""

    code = "storage_error"

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DatabaseUnavailable(StorageError):
    """No connection could be made, or it broke, or the database has run out of room."""

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


class StoreClosed(StorageError):
    """The hub, or its connection manager, was closed; make another one."""

    code = "store_closed"


Phase: TypeAlias = Literal["pool", "connect", "read", "total"]
"""What a time limit was for: a free connection, a new one, an answer's next bytes, or all of it."""


class HttpError(HubError):
    """Another system did not answer as it should. `url` has no query and no credentials."""

    code = "http_error"

    def __init__(self, message: str, *, method: str, url: str) -> None:
        super().__init__(f"{method} {url}: {message}")
        self.method = method
        self.url = url


class ConnectionFailed(HttpError):
    """No connection, or one that broke; `was_sent` says whether the request may have arrived."""

    code = "connection_failed"
    is_retryable = True

    def __init__(self, reason: str, *, method: str, url: str, was_sent: bool) -> None:
        super().__init__(reason, method=method, url=url)
        self.was_sent = was_sent


class TimedOut(HttpError):
    """A time limit passed; `phase` says which, `limit` how long it was."""

    code = "timed_out"
    is_retryable = True

    def __init__(
        self, phase: Phase, limit: timedelta, *, method: str, url: str, was_sent: bool
    ) -> None:
        seconds = f"{limit.total_seconds():g} s"
        super().__init__(f"no answer within {seconds} ({phase})", method=method, url=url)
        self.phase = phase
        self.limit = limit
        self.was_sent = was_sent


class TooManyRedirects(HttpError):
    """The other system sent the request on and on."""

    code = "too_many_redirects"

    def __init__(self, most: int, *, method: str, url: str) -> None:
        super().__init__(f"redirected more than {most} times", method=method, url=url)
        self.most = most


class ResponseTooLarge(HttpError):
    """The body, decoded, has more bytes than the client takes; `status` is that of the answer."""

    code = "response_too_large"

    def __init__(self, limit: int, *, method: str, url: str, status: int | None = None) -> None:
        message = f"the body has more than {limit:,} bytes; raise Limits.max_response_bytes"
        super().__init__(message, method=method, url=url)
        self.limit = limit
        self.status = status


class StatusError(HttpError):
    """An answer that is no success; `body` has its first 1,024 characters.

    `retry_after` is what the other system asked for, uncapped; it is None where it asked nothing.
    """

    code = "status_error"

    def __init__(
        self,
        status: int,
        *,
        method: str,
        url: str,
        is_retryable: bool = False,
        body: str = "",
        retry_after: timedelta | None = None,
        request_id: str | None = None,
        note: str = "",
    ) -> None:
        words = f"status {status}{f' ({note})' if note else ''}"
        super().__init__(words, method=method, url=url)
        self.is_retryable = is_retryable
        self.status = status
        self.body = body
        self.retry_after = retry_after
        self.request_id = request_id


class DecodeError(HttpError):
    """An answer that is not what was asked for: a body (`where` is the place in the document), or
    another `part` of it.
    """

    code = "decode_error"

    def __init__(
        self, where: str, problem: str, *, method: str, url: str, part: str = "body"
    ) -> None:
        place = f" at {where or 'its top'}" if part == "body" else ""
        super().__init__(f"the {part}{place}: {problem}", method=method, url=url)
        self.where = where
        self.part = part
        self.problem = problem


class BlockedAddress(HttpError):
    """The host's address is none that may be connected to: private, loopback, a cloud's own …; or
    (`address` is None then) it has none that can be checked.
    """

    code = "blocked_address"

    def __init__(self, address: str | None, why: str, *, method: str, url: str) -> None:
        words = f"its address {address} is blocked: {why}; allow its network if you deliver inside"
        if address is None:
            words = f"its address can't be checked: {why}"
        super().__init__(words, method=method, url=url)
        self.address = address
        self.why = why


class RateLimited(HttpError):
    """The client's own rate limit would make the request wait longer than its time limit."""

    code = "rate_limited"
    is_retryable = True

    def __init__(self, wait: timedelta, *, method: str, url: str) -> None:
        seconds = wait.total_seconds()
        super().__init__(
            f"its turn comes in {seconds:.3g} s, after its time limit", method=method, url=url
        )
        self.wait = wait


class CircuitOpen(HttpError):
    """The other system failed so often that it is left alone for `wait`."""

    code = "circuit_open"
    is_retryable = True

    def __init__(self, wait: timedelta, *, method: str, url: str) -> None:
        seconds = wait.total_seconds()
        super().__init__(f"left alone for {seconds:.3g} s after failures", method=method, url=url)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a request: its number from 1, why it failed, and the wait that followed it."""

    number: int
    cause: HttpError
    wait: timedelta


class RetriesExhausted(HttpError):
    """Every try failed; `attempts` lists them, `last` is the last one's error."""

    code = "retries_exhausted"

    def __init__(self, attempts: Iterable[Attempt], reason: str, *, method: str, url: str) -> None:
        self.attempts = tuple(attempts)
        self.last = self.attempts[-1].cause
        causes = ", ".join(each.cause.code for each in self.attempts)
        tries = f"{len(self.attempts)} {'try' if len(self.attempts) == 1 else 'tries'}"
        super().__init__(
            f"gave up after {tries} ({causes}): {reason}; last: {self.last.message}",
            method=method,
            url=url,
        )


class TooManyPages(HttpError):
    """A list goes on after the most pages that were asked for."""

    code = "too_many_pages"

    def __init__(self, most: int, *, method: str, url: str) -> None:
        super().__init__(f"more than {most:,} pages; raise max_pages", method=method, url=url)
        self.most = most


def unpicklable(what: str, way: str) -> TypeError:
    """What who sends something with connections to another process is told, as by pickle itself."""
    return TypeError(f"{what} can't be pickled: its connections are its process's own; {way}")

"""The statements on messages, their deliveries and attempts, built once per dialect.

May import: `domain`, and what stands below the repositories. Where Postgres can do it in one, the
statement is text; the others are built for both.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

from sqlalchemy import (
    Integer,
    Text,
    and_,
    bindparam,
    column,
    delete,
    exists,
    false,
    func,
    insert,
    literal_column,
    null,
    select,
    text,
    update,
)

from integration_hub.domain.webhook import DELIVERABLE
from integration_hub.domain.webhook_message import STATUSES
from integration_hub.sql.mapping import ATTEMPTS, DELIVERIES, HEALTH, MESSAGES, WEBHOOKS, Mapper
from integration_hub.sql.models import OPEN
from integration_hub.sql.prepared import Prepared, delete_those, type_name
from integration_hub.sql.statements import INSERTS

_MESSAGES, _DELIVERIES, _ATTEMPTS = MESSAGES.table, DELIVERIES.table, ATTEMPTS.table
_HOOKS, _HEALTH = WEBHOOKS.table, HEALTH.table
#: What an attempt, or somebody's wish, changes of a delivery.
CHANGES = (
    *("status", "attempt_count", "next_attempt_at", "last_attempt_at", "finished_at"),
    *("retries_used", "version"),
)
_MAY_BE_SENT_TO = ", ".join(f"'{status}'" for status in sorted(DELIVERABLE))

#: Endpoint by endpoint through the index on what is open, and of each the earliest: so the cost is
#: that of the number of endpoints with something open, whatever hangs behind one of them.
_WAITING = """
WITH RECURSIVE hooks(id) AS (
    SELECT (SELECT d.webhook_id FROM webhook_deliveries d WHERE {open}
        ORDER BY d.webhook_id LIMIT 1)
    UNION ALL
    SELECT (SELECT d.webhook_id FROM webhook_deliveries d WHERE {open}
        AND d.webhook_id > h.id ORDER BY d.webhook_id LIMIT 1)
    FROM hooks h WHERE h.id IS NOT NULL
), due AS MATERIALIZED (  -- or the earliest would be looked up twice
    SELECT h.id, (SELECT d.next_attempt_at FROM webhook_deliveries d WHERE {open}
        AND d.webhook_id = h.id ORDER BY d.next_attempt_at LIMIT 1) AS since
    FROM hooks h WHERE h.id IS NOT NULL
)
SELECT {columns}, {troubled} AS is_troubled, due.since AS since
FROM due JOIN webhooks w ON w.id = due.id LEFT JOIN webhook_health t ON t.id = w.id
WHERE due.since <= :now AND w.is_active AND w.status IN ({deliverable})
    AND (t.throttled_until IS NULL OR t.throttled_until <= :now) {scope}
ORDER BY row_number() OVER (PARTITION BY {troubled} ORDER BY due.since, w.id), due.since, w.id
LIMIT :limit
"""

_TAKE = """
WITH wanted AS (
    SELECT * FROM json_to_recordset(CAST(:rooms AS json)) AS w(webhook_id uuid, room integer)
), picked AS MATERIALIZED (  -- a message is told once: many endpoints may wait for the same
    SELECT d.*, row_number() OVER (PARTITION BY d.message_id) = 1 AS is_first
    FROM wanted w CROSS JOIN LATERAL (
        SELECT id, message_id, status, next_attempt_at, last_attempt_at FROM webhook_deliveries d
        WHERE d.webhook_id = w.webhook_id AND {open} AND d.next_attempt_at <= :now
        ORDER BY d.next_attempt_at, d.id LIMIT w.room
        FOR UPDATE SKIP LOCKED
    ) d
)
UPDATE webhook_deliveries d
SET status = 'delivering', attempt_count = d.attempt_count + 1, next_attempt_at = :expires,
    last_attempt_at = :now, version = d.version + 1
FROM picked p LEFT JOIN webhook_messages m ON m.id = p.message_id AND p.is_first
WHERE d.id = p.id
    AND d.id = ANY (ARRAY(SELECT id FROM picked))  -- few, as the plan has it: all by index
RETURNING p.status AS was, p.next_attempt_at AS was_due, p.last_attempt_at AS was_last,
    {deliveries}, {messages}
"""


_PUT_DELIVERIES = """
INSERT INTO webhook_deliveries ({names})
SELECT {names} FROM json_to_recordset(CAST(:rows AS json)) AS r({typed})
ON CONFLICT DO NOTHING
"""


_FINISH_MANY = """
WITH made AS (
    SELECT * FROM json_to_recordset(CAST(:made AS json)) AS m({typed})
), locked AS (
    SELECT d.id, m.was FROM webhook_deliveries d JOIN made m ON m.id = d.id AND m.was = d.version
    ORDER BY d.id FOR UPDATE OF d  -- all in one order, or two could wait for each other
), done AS (
    UPDATE webhook_deliveries d SET {changes}
    FROM made m JOIN locked l USING (id, was) WHERE d.id = m.id RETURNING d.id, m.was
), logged AS (
    INSERT INTO webhook_attempts ({columns})
    SELECT {values} FROM made m JOIN done USING (id, was)
)
SELECT id, was FROM done
"""


class MessageStatements:
    """The statements on messages, built once per dialect."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.is_postgres = dialect == "postgresql"
        self.get = lru_cache(self._get)
        self.waiting = lru_cache(self._waiting)
        self.counts = lru_cache(self._counts)
        self.deliveries_to = lru_cache(self._deliveries_to)
        self.forget = lru_cache(self._forget)
        self.open_failed = lru_cache(self._open_failed)
        self.not_fanned_out = lru_cache(self._not_fanned_out)

    def _get(self, mapper: Mapper[Any], *, scoped: bool) -> Prepared:
        table = mapper.table
        return Prepared(select(table).where(_is(table, "id"), *_scope(table, scoped)))

    @cached_property
    def put_message(self) -> Prepared:
        statement = INSERTS[self.dialect](_MESSAGES).values(MESSAGES.new_values())
        statement = statement.on_conflict_do_nothing(
            index_elements=["tenant_id", "idempotency_key"]
        )
        return Prepared(statement.execution_options(preserve_rowcount=True))

    @cached_property
    def by_key(self) -> Prepared:
        key = and_(_is(_MESSAGES, "tenant_id"), _is(_MESSAGES, "idempotency_key"))
        return Prepared(select(_MESSAGES).where(key))

    @cached_property
    def put_delivery(self) -> Prepared:
        return Prepared(insert(_DELIVERIES).values(DELIVERIES.new_values()))

    @cached_property
    def put_deliveries(self) -> Prepared:
        """Postgres: many at once, from a JSON array of rows; those that are there stay."""
        typed = ", ".join(f"{each.name} {type_name(each.type)}" for each in _DELIVERIES.columns)
        names = ", ".join(DELIVERIES.columns)
        sql = _PUT_DELIVERIES.format(names=names, typed=typed)
        return Prepared(text(sql).bindparams(bindparam("rows", type_=Text)))

    @cached_property
    def put_attempt(self) -> Prepared:
        return Prepared(insert(_ATTEMPTS).values(ATTEMPTS.new_values()))

    @cached_property
    def deliveries_of(self) -> Prepared:
        found = select(_DELIVERIES).where(_is(_DELIVERIES, "message_id"))
        return Prepared(found.order_by(_DELIVERIES.c.created_at, _DELIVERIES.c.id))

    def _deliveries_to(self, statuses: tuple[str, ...]) -> Prepared:
        found = select(_DELIVERIES).where(_is(_DELIVERIES, "webhook_id"))
        if len(statuses) < len(STATUSES):
            found = found.where(
                _DELIVERIES.c.status.in_(list(map(literal_column, map(repr, statuses))))
            )
        found = found.order_by(_DELIVERIES.c.created_at.desc(), _DELIVERIES.c.id.desc())
        return Prepared(found.limit(bindparam("limit", type_=Integer)))

    @cached_property
    def attempts_of(self) -> Prepared:
        found = select(_ATTEMPTS).where(_is(_ATTEMPTS, "delivery_id"))
        return Prepared(found.order_by(_ATTEMPTS.c.number, _ATTEMPTS.c.id))

    def _counts(self, *, scoped: bool) -> Prepared:
        found = select(_DELIVERIES.c.status, func.count()).group_by(_DELIVERIES.c.status)
        return Prepared(found.where(*_scope(_DELIVERIES, scoped)))

    def _not_fanned_out(self, *, scoped: bool) -> Prepared:
        waiting = text("NOT is_fanned_out" if self.is_postgres else "is_fanned_out = 0")
        found = select(_MESSAGES).where(waiting, *_scope(_MESSAGES, scoped))
        found = found.order_by(_MESSAGES.c.id)
        found = found.limit(bindparam("limit", type_=Integer))
        return Prepared(found.with_for_update(skip_locked=True))

    @cached_property
    def fanned_out(self) -> Prepared:
        done = {"is_fanned_out": True, "version": _MESSAGES.c.version + 1}
        row = _MESSAGES.c.id == _new(_MESSAGES, "id")
        return Prepared(update(_MESSAGES).where(row).values(done))

    def _waiting(self, *, scoped: bool) -> Prepared:
        sql = _WAITING.format(
            columns=WEBHOOKS.listed("w"),
            open=_open("d"),
            deliverable=_MAY_BE_SENT_TO,
            troubled="(t.id IS NOT NULL OR w.status = 'failing')",
            scope="AND w.tenant_id = :tenant_id" if scoped else "",
        )
        typed = [
            *WEBHOOKS.typed("w"),
            column("is_troubled", _HOOKS.c.is_active.type),
            column("since", _DELIVERIES.c.next_attempt_at.type),
        ]
        statement = text(sql).bindparams(
            bindparam("now", type_=_DELIVERIES.c.next_attempt_at.type),
            bindparam("limit", type_=Integer),
            *([bindparam("tenant_id", type_=Text)] if scoped else []),
        )
        return Prepared(statement.columns(*typed))

    @cached_property
    def take(self) -> Prepared:
        """Postgres: one statement. One row for each message has its columns, the others nulls."""
        sql = _TAKE.format(
            open=_open("d"), deliveries=DELIVERIES.listed("d"), messages=MESSAGES.listed("m")
        )
        moment = _DELIVERIES.c.next_attempt_at.type
        typed = [
            column("was", _DELIVERIES.c.status.type),
            column("was_due", moment),
            column("was_last", moment),
            *DELIVERIES.typed("d"),
            *MESSAGES.typed("m"),
        ]
        statement = text(sql).bindparams(
            bindparam("now", type_=moment),
            bindparam("expires", type_=moment),
            bindparam("rooms", type_=Text),
        )
        return Prepared(statement.columns(*typed))

    @cached_property
    def due(self) -> Prepared:
        """SQLite: the first that are due of one webhook, with their messages."""
        found = select(_DELIVERIES, _MESSAGES).join(
            _MESSAGES, _MESSAGES.c.id == _DELIVERIES.c.message_id
        )
        due = _DELIVERIES.c.next_attempt_at <= _parameter(_DELIVERIES, "next_attempt_at")
        found = found.where(_is(_DELIVERIES, "webhook_id"), text(_open("webhook_deliveries")), due)
        found = found.order_by(_DELIVERIES.c.next_attempt_at, _DELIVERIES.c.id)
        return Prepared(found.limit(bindparam("limit", type_=Integer)))

    @cached_property
    def finish(self) -> Prepared:
        row = and_(
            _DELIVERIES.c.id == bindparam("new_id", type_=_DELIVERIES.c.id.type),
            _DELIVERIES.c.version == bindparam("was", type_=Integer),
        )
        values = {name: _new(_DELIVERIES, name) for name in CHANGES}
        return Prepared(update(_DELIVERIES).where(row).values(values))

    @cached_property
    def finish_many(self) -> Prepared:
        """Postgres: from a JSON array of deliveries, each with its attempt; both are changed in one
        statement, the attempt only if the delivery was as it was.
        """
        changes = {name: _DELIVERIES.c[name] for name in CHANGES}
        typed = [
            f"id {type_name(_DELIVERIES.c.id.type)}",
            "was integer",
            *(f"{name} {type_name(each.type)}" for name, each in changes.items()),
            *(f"attempt_{each.name} {type_name(each.type)}" for each in _ATTEMPTS.columns),
        ]
        sql = _FINISH_MANY.format(
            typed=", ".join(typed),
            changes=", ".join(f"{name} = m.{name}" for name in changes),
            columns=", ".join(ATTEMPTS.columns),
            values=", ".join(f"m.attempt_{name}" for name in ATTEMPTS.columns),
        )
        statement = text(sql).bindparams(bindparam("made", type_=Text))
        id = column("id", _DELIVERIES.c.id.type)
        return Prepared(statement.columns(id, column("was", Integer)))

    def _open_failed(self, *, dated: bool) -> Prepared:
        of = bindparam("of_webhook", type_=_DELIVERIES.c.webhook_id.type)
        moment = _DELIVERIES.c.next_attempt_at.type
        failed = [
            _DELIVERIES.c.webhook_id == of,
            _DELIVERIES.c.status == literal_column("'failed'"),
        ]
        if dated:
            failed.append(_DELIVERIES.c.finished_at >= bindparam("since", type_=moment))
        values = {
            "status": literal_column("'pending'"),
            "next_attempt_at": bindparam("due", type_=moment),
            "finished_at": null(),
            "retries_used": literal_column("0"),
            "version": _DELIVERIES.c.version + 1,
        }
        return Prepared(update(_DELIVERIES).where(*failed).values(values))

    @cached_property
    def count_failure(self) -> Prepared:
        """One more, whatever others count at the same time."""
        statement = INSERTS[self.dialect](_HEALTH).values(HEALTH.new_values())
        given = statement.excluded
        later = func.greatest if self.is_postgres else func.max
        # SQLite's max() is NULL where one of its arguments is; Postgres' greatest() is not.
        throttled = later(
            func.coalesce(_HEALTH.c.throttled_until, given.throttled_until),
            func.coalesce(given.throttled_until, _HEALTH.c.throttled_until),
        )
        statement = statement.on_conflict_do_update(
            index_elements=["id"],
            set_={
                "failures": _HEALTH.c.failures + 1,
                "failing_since": func.coalesce(_HEALTH.c.failing_since, given.failing_since),
                "throttled_until": throttled,
                "version": _HEALTH.c.version + 1,
            },
        )
        return Prepared(statement.returning(*_HEALTH.columns))

    @cached_property
    def clear_health(self) -> Prepared:
        return Prepared(delete(_HEALTH).where(_is(_HEALTH, "id")))

    def _forget(self, *, scoped: bool) -> Prepared:
        its = _DELIVERIES.c.message_id == _MESSAGES.c.id
        still_open = exists().where(its, text(_open("webhook_deliveries")))
        is_old = _MESSAGES.c.occurred_at < _parameter(_MESSAGES, "occurred_at")
        old = select(_MESSAGES.c.id).where(is_old, ~still_open)
        old = old.where(_MESSAGES.c.is_fanned_out != false(), *_scope(_MESSAGES, scoped))
        old = old.order_by(_MESSAGES.c.occurred_at, _MESSAGES.c.id)
        old = old.limit(bindparam("limit", type_=Integer)).with_for_update(skip_locked=True)
        return Prepared(delete_those(_MESSAGES, old))


def _open(alias: str) -> str:
    return str(OPEN).replace("status", f"{alias}.status")


def _parameter(table: Any, name: str) -> Any:
    return bindparam(name, type_=table.c[name].type)


def _new(table: Any, name: str) -> Any:
    return bindparam(f"new_{name}", type_=table.c[name].type)


def _is(table: Any, name: str) -> Any:
    return table.c[name] == _parameter(table, name)


def _scope(table: Any, scoped: bool) -> list[Any]:
    return [_is(table, "tenant_id")] if scoped else []

"""The claim and the endings on Postgres: one statement each, in SQL as they run.

May import: `domain`, `ports`, `filtering`, `mapping`, `prepared`, SQLAlchemy.

What it relies on: at READ COMMITTED, a row that another transaction has changed is looked at
again before it is locked, and one that is locked is passed by (SKIP LOCKED); and two partial
unique indexes, which let a job run once at a time, and an integration take each of its places
once, whatever two claims see at the same moment. Of two that want the same place, one waits for
the other; so each connection looks for free places from a start of its own, and connections with
neighbouring numbers start far from each other (40503 is 2^16 over the golden ratio: Fibonacci
hashing, Knuth, The Art of Computer Programming, 6.4). Source: PostgreSQL manual, 13.2.1 (Read
Committed) and SELECT, The Locking Clause. The plan is to be the same beside any number of jobs and
runs that are over: see `models.BY_SLOT`, and what is said at the parts of the statement. And
Postgres is to keep it, since to plan takes longer than to claim: so it must not see by the values
that there is less to do than it would guess, hence ``(SELECT :now)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import JSON, Integer, Text, TextClause, bindparam, column, text

from integration_hub.domain.integration import MOST_AT_ONCE
from integration_hub.ports.sync_runs import Change
from integration_hub.sql.filtering import RESTING_LISTED
from integration_hub.sql.mapping import INTEGRATIONS, SYNC_JOBS, SYNC_RUNS, Mapper
from integration_hub.sql.prepared import array_name, array_text, concise

_Column: TypeAlias = tuple[str, Callable[[Any], Any], bool]

#: The domain sees to it that it is a whole number in these bounds; but who writes another into the
#: table by hand must not stop all claims.
_MOST = """
CASE WHEN jsonb_typeof(config #> '{sync,max_concurrency}') = 'number'
    THEN least(greatest((config #>> '{sync,max_concurrency}')::numeric, 1), {most_at_once})::integer
    ELSE 1 END
"""

#: Of a job or a run: whether it is the worker's tenant's, or the worker is everybody's.
_OF_TENANT = "(CAST(:tenant AS text) IS NULL OR tenant_id = :tenant)"

#: Of an integration: whether its jobs may run, and are wanted.
_MAY_RUN = """
is_active AND status NOT IN ({resting})
AND coalesce(type = ANY (CAST(:types AS text[])), true)
"""

#: Due jobs that nobody holds, and that do not wait in vain: for an integration that rests or has no
#: place left. What is taken there, Postgres remembers for its other jobs (Memoize).
_FREE = """
SELECT j.id, j.tenant_id, j.integration_id, j.next_run_at, j.attempt, j.checkpoint, i.most, i.taken
FROM {looked_at}
CROSS JOIN LATERAL (  -- with OFFSET 0 it is asked in the order of the jobs, until there are enough
    SELECT most, ARRAY(SELECT slot FROM sync_runs WHERE status = 'running'
        AND integration_id = parent.id ORDER BY slot LIMIT most) AS taken
    FROM (
        SELECT id, {most} AS most FROM integrations WHERE id = j.integration_id AND {may_run}
    ) AS parent
    OFFSET 0
) AS i
WHERE j.status = 'pending' AND j.is_active AND j.next_run_at <= (SELECT :now)
    {among}
    AND cardinality(i.taken) < i.most
    AND coalesce((SELECT false FROM sync_runs  -- paused and resumed, while its run goes on
        WHERE finished_at IS NULL AND sync_job_id = j.id LIMIT 1), true)
ORDER BY {order}
LIMIT {limit}
FOR UPDATE OF j SKIP LOCKED
"""

#: Among the first so many that are due: jobs that wait in vain must not be looked at each time.
#: Each is read once more, by itself: only so can it be locked, and be looked at again by then.
_NEAR = {
    "{looked_at}": """(
        SELECT id AS due_id, next_run_at AS due_at FROM sync_jobs
        WHERE status = 'pending' AND is_active AND next_run_at <= (SELECT :now)
            AND {of_tenant}
        ORDER BY next_run_at, id LIMIT {near}
    ) AS due JOIN sync_jobs j ON j.id = due_id""",
    "{among}": "",
    "{order}": "due_at, due_id",
}

#: Among all from one on, passing by those that wait in vain: of integrations that rest, are not
#: wanted, or have no place left, which are found once, and not for each of their jobs.
_FAR = {
    "{looked_at}": "sync_jobs j",
    "{among}": """
    AND {of_tenant}
    AND (next_run_at, j.id) >= (:since, :since_id) AND integration_id NOT IN (
        SELECT i.id FROM (
            SELECT DISTINCT integration_id AS id FROM sync_jobs
            WHERE status = 'pending' AND is_active AND next_run_at BETWEEN :since AND (SELECT :now)
        ) AS due JOIN integrations i USING (id)
        WHERE NOT ({may_run}) OR (SELECT true FROM sync_runs WHERE status = 'running'
            AND integration_id = i.id ORDER BY slot OFFSET {most} - 1 LIMIT 1) IS TRUE
    )""",
    "{order}": "j.next_run_at, j.id",
}

_FIRST_FREE = "SELECT next_run_at, id FROM ({free}) AS first"

_CLAIM = """
WITH free AS (
    {free}
), queued AS (
    SELECT *, row_number() OVER () AS turn,
        row_number() OVER (PARTITION BY integration_id ORDER BY next_run_at, id) AS place,
        ((pg_backend_pid()::bigint * 40503 & 65535) * most >> 16)::integer AS start
    FROM free
), placed AS MATERIALIZED (
    SELECT *, (
        SELECT slot
        FROM (SELECT generate_series(start, start + most - 1) % most + 1 AS slot) AS places
        WHERE slot <> ALL (taken)  -- and runs above, of a limit that was lowered, count as well: so
            -- all who claim at once have together no more places than are left
            AND slot + cardinality(taken) - width_bucket(slot, taken) <= most
        OFFSET place - 1 LIMIT 1
    ) AS slot
    FROM queued
), opened AS (
    INSERT INTO sync_runs (id, tenant_id, sync_job_id, integration_id, slot, attempt, status,
        worker, started_at, heartbeat_at, lease_expires_at, records_processed, checkpoint_before,
        version)
    SELECT (CAST(:ids AS uuid[]))[turn], tenant_id, id, integration_id, slot, attempt + 1,
        'running', :worker, :now, :now, :expires, 0, checkpoint, 1
    FROM placed WHERE slot BETWEEN 1 AND most  -- few, as the plan has it: so all is found by index
    ORDER BY integration_id, slot  -- all in one order, or two claims could wait for each other
    ON CONFLICT DO NOTHING
    RETURNING id, sync_job_id, integration_id, slot
), told AS (  -- an integration is told once, with the first of its runs: its config may be long
    SELECT *, row_number() OVER (PARTITION BY integration_id) = 1 AS is_first FROM opened
)
UPDATE sync_jobs j
SET status = 'running', status_changed_at = :now, attempt = j.attempt + 1,
    version = j.version + 1, updated_at = :now, updated_by = :actor
FROM told o LEFT JOIN integrations i ON i.id = o.integration_id AND o.is_first
WHERE j.id = o.sync_job_id
RETURNING o.id AS run_id, o.slot, {jobs}, {parents}
"""

#: What a run does to its job, and nothing else of it.
OF_JOB = (
    *("status", "status_changed_at", "error_message", "attempt", "next_run_at", "last_run_at"),
    *("records_processed", "checkpoint", "scheduled_for", "version", "updated_at", "updated_by"),
)
OF_RUN = (
    *("status", "heartbeat_at", "lease_expires_at", "finished_at", "records_processed"),
    *("checkpoint_after", "error_code", "error_message", "version"),
)

#: What an ending changes: the rest of these is as it was, or follows from it.
ENDED_RUN = tuple(n for n in OF_RUN if n not in ("heartbeat_at", "lease_expires_at", "version"))
ENDED_JOB = tuple(n for n in OF_JOB if n not in ("version", "updated_by"))

_END = """
WITH given AS (
    SELECT * FROM unnest({arrays}) AS g({names})
), own AS (  -- each job before its run, as everybody takes them
    SELECT g.*, j.version AS job_is, r.version AS run_is
    FROM given g
    CROSS JOIN LATERAL (SELECT version FROM sync_jobs WHERE id = g.job_id FOR UPDATE) j
    CROSS JOIN LATERAL (
        SELECT version FROM sync_runs
        WHERE id = g.id AND sync_job_id = g.job_id
            AND {of_tenant}
        FOR UPDATE
    ) r
), whole AS (
    SELECT * FROM own
    WHERE run_is = run_was AND job_is = job_was AND (SELECT count(*) FROM given)
        = (SELECT count(*) FROM own WHERE run_is = run_was AND job_is = job_was)
), ended AS (
    UPDATE sync_runs r SET version = r.version + 1, {of_run} FROM whole w WHERE r.id = w.id
)
UPDATE sync_jobs j SET version = j.version + 1, updated_by = :actor, {of_job}
FROM whole w WHERE j.id = w.job_id
"""


def ending_text() -> Any:
    """The statement that ends runs whose version, and whose job's, are what the worker knows.

    It takes the ids, the versions and each column as an array in text, all in the order of the
    jobs' ids, or two endings could wait for each other; it changes all rows, or none. (psycopg
    takes longer to write arrays than Postgres to end the runs, and Postgres longer to read the
    same as JSON: `array_text` is quick for both.) The first array comes by way of a subquery, so
    that Postgres can't see how long it is, and plan anew for that.
    """
    typed: dict[str, Any] = {
        "id": SYNC_RUNS.table.c.id.type,
        "job_id": SYNC_JOBS.table.c.id.type,
        "run_was": SYNC_RUNS.table.c.version.type,
        "job_was": SYNC_JOBS.table.c.version.type,
        **{f"run_{name}": SYNC_RUNS.table.c[name].type for name in ENDED_RUN},
        **{f"job_{name}": SYNC_JOBS.table.c[name].type for name in ENDED_JOB},
    }
    arrays = [f"CAST(:{name} AS {array_name(each)})" for name, each in typed.items()]
    arrays[0] = f"(SELECT {arrays[0]})"
    sql = (
        _END.replace("{of_tenant}", _OF_TENANT)
        .replace("{arrays}", ", ".join(arrays))
        .replace("{names}", ", ".join(typed))
    )
    for of, names in (("run", ENDED_RUN), ("job", ENDED_JOB)):
        changes = ", ".join(f"{name} = w.{of}_{name}" for name in names)
        sql = sql.replace(f"{{of_{of}}}", changes)
    words = [bindparam(name, type_=Text) for name in ("tenant", "actor")]
    return text(concise(sql)).bindparams(*words)


def _columns(mapper: Mapper[Any], names: tuple[str, ...], prefix: str) -> list[_Column]:
    """For each column: its parameter, what reads it from an object, and whether it is JSON."""
    types = mapper.table.c
    return [(prefix + n, attrgetter(n), isinstance(types[n].type, JSON)) for n in names]


_ENDED_RUN = _columns(SYNC_RUNS, ENDED_RUN, "run_")
_ENDED_JOB = _columns(SYNC_JOBS, ENDED_JOB, "job_")


def ending_values(changes: Iterable[Change]) -> dict[str, str]:
    """The parameters of the statement that ends runs, as `ending_text` takes them."""
    ordered = sorted(changes, key=_job_of)
    return {
        "id": array_text([change.run.id for change in ordered]),
        "job_id": array_text([change.job.id for change in ordered]),
        "run_was": array_text([change.run.version for change in ordered]),
        "job_was": array_text([change.job.version for change in ordered]),
        **_arrays(_ENDED_RUN, [change.ended for change in ordered]),
        **_arrays(_ENDED_JOB, [change.after for change in ordered]),
    }


def _job_of(change: Change) -> UUID:
    return change.job.id


def _arrays(columns: list[_Column], items: list[Any]) -> dict[str, str]:
    """Columns of objects, each as an array in text."""
    found = {}
    for name, read, is_json in columns:
        values = list(map(read, items))
        if is_json:
            values = [None if value is None else json.dumps(value) for value in values]
        found[name] = array_text(values)
    return found


def claim_text(limit: int, *, far: bool) -> Any:
    """The statement. Each row has the id and the slot of a run, and its job with all its columns;
    one row for each integration has its columns too, and the others have nulls there.

    The limit stands in the text, so that Postgres sees that it may keep the plan: with one that it
    doesn't know it plans anew each time, which takes longer than to claim.
    """
    run = [column("run_id", SYNC_RUNS.table.c.id.type), column("slot", Integer)]
    sql = _CLAIM.replace("{free}", _FREE).replace("{jobs}", SYNC_JOBS.listed("j"))
    statement = _looking(sql.replace("{parents}", INTEGRATIONS.listed("i")), limit, far=far)
    statement = statement.bindparams(
        bindparam("expires", type_=SYNC_RUNS.table.c.started_at.type),
        bindparam("worker", type_=Text),
        bindparam("actor", type_=Text),
    )
    return statement.columns(*run, *SYNC_JOBS.typed("j"), *INTEGRATIONS.typed("i"))


def free_text() -> Any:
    """The statement that finds the first job which nobody holds and which may run, if there is any:
    its `next_run_at` and its id.
    """
    statement = _looking(_FIRST_FREE.replace("{free}", _FREE), 1, far=True)
    return statement.columns(SYNC_JOBS.table.c.next_run_at, SYNC_JOBS.table.c.id)


def _looking(sql: str, limit: int, *, far: bool) -> TextClause:
    parts = {  # in this order: some have others within
        **(_FAR if far else _NEAR),
        "{of_tenant}": _OF_TENANT,
        "{may_run}": _MAY_RUN,
        "{most}": _MOST,
        "{most_at_once}": str(MOST_AT_ONCE),
        "{resting}": RESTING_LISTED,
        "{near}": str(_near(limit)),
        "{limit}": str(int(limit)),
    }
    for name, part in parts.items():
        sql = sql.replace(name, part)
    statement = text(concise(sql))
    moment, id = SYNC_JOBS.table.c.next_run_at.type, SYNC_JOBS.table.c.id.type
    if far:
        statement = statement.bindparams(
            bindparam("since", type_=moment), bindparam("since_id", type_=id)
        )
    words = [bindparam(name, type_=Text) for name in ("tenant", "types")]
    return statement.bindparams(bindparam("now", type_=moment), *words)


def _near(limit: int) -> int:
    """How many due jobs a claim of so many looks at first: enough to pass by what others hold."""
    return 64 + 8 * limit

"""The claim and the endings on Postgres: one statement each, in SQL as they run.

May import: `filtering`, `mapping`, `prepared`, SQLAlchemy.

What it relies on: at READ COMMITTED, a row that another transaction has changed is looked at
again before it is locked, and one that is locked is passed by (SKIP LOCKED); and two partial
unique indexes, which let a job run once at a time, and an integration take each of its places
once, whatever two claims see at the same moment. Source: PostgreSQL manual, 13.2.1 (Read
Committed) and SELECT, The Locking Clause.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Integer, Text, bindparam, column, text
from sqlalchemy.dialects.postgresql import ARRAY

from integration_hub.sql.filtering import RESTING_LISTED
from integration_hub.sql.mapping import INTEGRATIONS, SYNC_JOBS, SYNC_RUNS
from integration_hub.sql.prepared import DIALECT

_CLAIM = """
WITH busy AS (
    SELECT integration_id, count(*) AS running
    FROM sync_runs WHERE status = 'running' GROUP BY integration_id
), free AS (
    SELECT j.id, j.integration_id, j.next_run_at, p.most
    FROM sync_jobs j
    JOIN integrations i ON i.id = j.integration_id
    LEFT JOIN busy b ON b.integration_id = j.integration_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN jsonb_typeof(i.config #> '{sync,max_concurrency}') = 'number'
            THEN (i.config #>> '{sync,max_concurrency}')::numeric::integer ELSE 1 END AS most
    ) p
    WHERE j.status = 'pending' AND j.is_active AND j.next_run_at <= :now
        AND (CAST(:tenant AS text) IS NULL OR j.tenant_id = :tenant)
        AND i.is_active AND i.status NOT IN ({resting})
        AND coalesce(b.running, 0) < p.most
        AND NOT EXISTS (  -- paused and resumed, while its run goes on
            SELECT 1 FROM sync_runs r WHERE r.status = 'running' AND r.sync_job_id = j.id)
    ORDER BY j.next_run_at, j.id
    LIMIT :limit
    FOR UPDATE OF j SKIP LOCKED
), queued AS (
    SELECT *, row_number() OVER (
        PARTITION BY integration_id ORDER BY next_run_at, id) AS place
    FROM free
), places AS (
    SELECT f.integration_id, s.slot,
        row_number() OVER (PARTITION BY f.integration_id ORDER BY random()) AS place
    FROM (SELECT DISTINCT integration_id, most FROM free) f
    CROSS JOIN LATERAL generate_series(1, f.most) AS s(slot)
    WHERE NOT EXISTS (
        SELECT 1 FROM sync_runs r WHERE r.status = 'running'
            AND r.integration_id = f.integration_id AND r.slot = s.slot)
), numbered AS (
    SELECT q.id, p.slot, row_number() OVER (ORDER BY q.next_run_at, q.id) AS number
    FROM queued q JOIN places p USING (integration_id, place)
), opened AS (
    INSERT INTO sync_runs (id, tenant_id, sync_job_id, integration_id, slot, attempt, status,
        worker, started_at, heartbeat_at, lease_expires_at, records_processed, checkpoint_before,
        version)
    SELECT (CAST(:ids AS uuid[]))[n.number], j.tenant_id, j.id, j.integration_id, n.slot,
        j.attempt + 1, 'running', :worker, :now, :now, :expires, 0, j.checkpoint, 1
    FROM numbered n JOIN sync_jobs j ON j.id = n.id
    ORDER BY j.integration_id, n.slot  -- all in one order, or two claims could wait for each other
    ON CONFLICT DO NOTHING
    RETURNING *
), claimed AS (
    UPDATE sync_jobs j
    SET status = 'running', status_changed_at = :now, attempt = j.attempt + 1,
        version = j.version + 1, updated_at = :now, updated_by = :actor
    FROM opened o JOIN integrations i ON i.id = o.integration_id
    WHERE j.id = o.sync_job_id
    RETURNING {columns}
)
SELECT (SELECT count(*) FROM free), claimed.*
FROM (VALUES (1)) AS always LEFT JOIN claimed ON true
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

_END = """
WITH given AS (
    SELECT * FROM unnest({arrays}) AS g(id, run_was, job_was, {names})
), own AS (
    SELECT g.*, j.id AS job_id
    FROM given g JOIN sync_runs r USING (id) JOIN sync_jobs j ON j.id = r.sync_job_id
    WHERE r.status = 'running' AND r.version = g.run_was AND j.version = g.job_was
        AND (CAST(:tenant AS text) IS NULL OR r.tenant_id = :tenant)
    ORDER BY j.id  -- all in one order, or two endings could wait for each other
    FOR UPDATE OF j, r
), whole AS (
    SELECT * FROM own WHERE (SELECT count(*) FROM own) = (SELECT count(*) FROM given)
), ended AS (
    UPDATE sync_runs r SET {of_run} FROM whole w WHERE r.id = w.id
)
UPDATE sync_jobs j SET {of_job} FROM whole w WHERE j.id = w.job_id
"""


def ending_text() -> Any:
    """The statement that ends runs whose version, and whose job's, are what the worker knows.

    Its parameters are arrays with one value for each run; it changes all rows, or none.
    """
    typed: dict[str, Any] = {
        "ids": SYNC_RUNS.table.c.id.type,
        "run_was": SYNC_RUNS.table.c.version.type,
        "job_was": SYNC_JOBS.table.c.version.type,
        **{f"run_{name}": SYNC_RUNS.table.c[name].type for name in OF_RUN},
        **{f"job_{name}": SYNC_JOBS.table.c[name].type for name in OF_JOB},
    }
    arrays = [
        f"CAST(:{name} AS {each.dialect_impl(DIALECT).compile(DIALECT).split(' COLLATE')[0]}[])"
        for name, each in typed.items()
    ]
    names = list(typed)[3:]
    sql = _END.replace("{arrays}", ", ".join(arrays)).replace("{names}", ", ".join(names))
    for of, columns in (("run", OF_RUN), ("job", OF_JOB)):
        changes = ", ".join(f"{name} = w.{of}_{name}" for name in columns)
        sql = sql.replace(f"{{of_{of}}}", changes)
    arguments = [bindparam(name, type_=ARRAY(each)) for name, each in typed.items()]
    return text(sql).bindparams(bindparam("tenant", type_=Text), *arguments)


def claim_text() -> Any:
    """The statement. Each row has the number of jobs that were free, and then a run, its job and
    its integration, each with all columns in order; where nothing was claimed, one row has nulls.
    """
    columns = [
        (alias, each)
        for alias, mapper in (("o", SYNC_RUNS), ("j", SYNC_JOBS), ("i", INTEGRATIONS))
        for each in mapper.table.columns
    ]
    listed = ", ".join(f"{alias}.{each.name} AS {alias}_{each.name}" for alias, each in columns)
    typed = [column(f"{alias}_{each.name}", each.type) for alias, each in columns]
    moment = SYNC_RUNS.table.c.started_at.type
    sql = _CLAIM.replace("{columns}", listed).replace("{resting}", RESTING_LISTED)
    statement = text(sql).bindparams(
        bindparam("now", type_=moment),
        bindparam("expires", type_=moment),
        bindparam("tenant", type_=Text),
        bindparam("worker", type_=Text),
        bindparam("actor", type_=Text),
        bindparam("limit", type_=Integer),
        bindparam("ids", type_=ARRAY(SYNC_RUNS.table.c.id.type)),
    )
    return statement.columns(column("free", Integer), *typed)

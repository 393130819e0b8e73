"""The claim on Postgres: one statement, in SQL as it runs.

May import: `filtering`, `mapping`, SQLAlchemy.

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

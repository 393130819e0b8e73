"""What the stores are given to keep, and what they are asked, by Hypothesis.

Values are few where they shall clash, and such as collations, patterns and escapes tell apart.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from integration_hub import (
    EVERY_TENANT,
    Filter,
    Integration,
    IntegrationFilter,
    IntegrationStatus,
    Schedule,
    Sort,
    SyncJob,
    SyncJobFilter,
    SyncJobStatus,
    Webhook,
    WebhookFilter,
    WebhookStatus,
)
from integration_hub.ports.query import SORT_FIELDS

KINDS = ("integrations", "webhooks", "sync_jobs")
FILTERS: dict[str, type[Filter]] = {
    "integrations": IntegrationFilter,
    "webhooks": WebhookFilter,
    "sync_jobs": SyncJobFilter,
}
START = datetime(2026, 1, 1, 12, tzinfo=UTC)

NAMES = ["a", "A", "b", "B", "ä", "z", "é", "e\u0301", "ß", "ss", "10", "9", "_", "%", "a b", "\\"]
NAMES += ["\U0001f600", "\uffff", "İ", "i", "'", '"', "a'b--", "{}", "名前", "x" * 255]
TAGS = ["a", "A", "ä", 'x"y', "it's", "\\", "a,b", "{}", "%", "?", "null", "1", "\U0001f600"]
PATTERNS = ["*", "a", "a.*", "a.b", "a.b.*", "A.b", "b.*", "a_b", "ab", "1.2"]
EVENTS = ["a", "a.b", "a.b.c", "A.b", "b.x", "ab", "a_b", "1.2", "c"]
MOMENTS = [START + timedelta(microseconds=n) for n in (-1, 0, 1, 60_000_000)]
TENANTS: list[Any] = ["acme", "beta", EVERY_TENANT]
#: Mostly all of them, as workers work for.
MOSTLY_EVERY_TENANT = st.sampled_from([EVERY_TENANT, *TENANTS])

names = st.sampled_from(NAMES)
tag_sets = st.lists(st.sampled_from(TAGS), max_size=3)
moments = st.sampled_from(MOMENTS)
scalars: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False, 0, 1, -1, 1.0, 1.5, -0.0, 1e16, 1e300, 2**70, "", "1"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=3),
    st.floats(allow_nan=False, allow_infinity=False),
)
documents: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["a", "b", "", "aa", "ä", "\U0001f600"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from(["a", "b", "aa"]), documents, max_size=3)
#: Of what is asked for, much is there: small, and of the same few keys and values.
fragments: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.sampled_from([1, True, None, "", [], {}, [1], [[]], {"a": 1}, [{"a": 1}], 1.0, "1"]),
    max_size=2,
)
common = {
    "name": names,
    "tags": tag_sets,
    "config": st.one_of(fragments, objects),
    "description": st.none() | st.just("line\nline"),
    "is_active": st.booleans(),
    "created_at": st.none() | moments,
    "tenant": st.sampled_from(["", "", "acme", "beta"]),
}
schedules = st.sampled_from(
    [
        Schedule.manual(),
        Schedule.once(START),
        Schedule.every(60),
        Schedule.every(0.5 + 1, start=START),
        Schedule.cron("30 2 * * *", tz="Europe/Berlin"),
    ]
)
integrations = st.builds(
    Integration,
    **common,
    type=st.sampled_from(["crm", "erp", "a-b"]),
    status=st.sampled_from(IntegrationStatus),
)


def webhooks(parents: st.SearchStrategy[Any]) -> st.SearchStrategy[Webhook]:
    return st.builds(
        Webhook,
        **common,
        integration_id=parents,
        url=st.just("https://x.test/"),
        events=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3),
        status=st.sampled_from(WebhookStatus),
    )


def sync_jobs(parents: st.SearchStrategy[Any]) -> st.SearchStrategy[SyncJob]:
    return st.builds(
        SyncJob,
        **common,
        integration_id=parents,
        schedule=schedules,
        status=st.sampled_from(SyncJobStatus),
        direction=st.sampled_from(["pull", "push", "both"]),
        next_run_at=st.none() | moments,
        last_run_at=st.none() | moments,
        checkpoint=documents,
    )


def given_or_not(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the fields; most filters have few."""
    return st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({name: fields[name] for name in chosen})
    )


def choices(values: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(values), st.lists(st.sampled_from(values), max_size=2))


def filters(kind: str, parents: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    shared = {
        "is_active": st.booleans(),
        "tags_any": tag_sets,
        "tags_all": tag_sets,
        "config_contains": st.one_of(fragments, objects),
        "name_contains": st.sampled_from(
            ["", "a", "A", "%", "_", "\\", "'", "\u0301", "\U0001f600"]
        ),
        "created_after": moments,
        "created_before": moments,
    }
    own: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "integrations": {
            "type": choices(["crm", "erp", "a-b", "none"]),
            "status": choices(list(IntegrationStatus)),
        },
        "webhooks": {
            "integration_id": parents | st.lists(parents, max_size=2),
            "event": st.sampled_from(EVENTS),
            "status": choices(list(WebhookStatus)),
        },
        "sync_jobs": {
            "integration_id": parents | st.lists(parents, max_size=2),
            "status": choices(list(SyncJobStatus)),
            "direction": choices(["pull", "push", "both"]),
            "due_by": moments,
            "running": st.booleans(),
            "failed": st.booleans(),
        },
    }
    return given_or_not(**shared, **own[kind]).map(lambda fields: FILTERS[kind](**fields))


def sorts(kind: str) -> st.SearchStrategy[Sort]:
    allowed = [*SORT_FIELDS[FILTERS[kind]], "config"]
    return st.builds(Sort, st.sampled_from(allowed), st.sampled_from(["asc", "desc"]))

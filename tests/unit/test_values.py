"""What is refused at the door, with the field's name, and what is let in and how."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

import pydantic
import pytest

from integration_hub import (
    Integration,
    Page,
    Schedule,
    SyncJob,
    SyncJobFilter,
    ValidationError,
    Webhook,
)
from integration_hub.domain.frozen_json import MAX_JSON_BYTES, FrozenDict
from integration_hub.domain.values import checked_duration, new_id, patterns_for, without_query

PARENT = UUID("01900000-0000-7000-8000-000000000001")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Color(Enum):
    RED = "red"


class Invoice(pydantic.BaseModel):
    id: int


def integration(**fields: Any) -> Integration:
    return Integration(**{"name": "CRM", "type": "salesforce", **fields})


def webhook(**fields: Any) -> Webhook:
    given = {"name": "w", "url": "https://x.test/", "events": ["a.b"], "integration_id": PARENT}
    return Webhook(**{**given, **fields})


def job(**fields: Any) -> SyncJob:
    given = {"name": "j", "schedule": Schedule.manual(), "integration_id": PARENT}
    return SyncJob(**{**given, **fields})


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


REFUSED: list[tuple[Any, str, Any]] = [
    (integration, "name", ""),
    (integration, "name", "   "),
    (integration, "name", "x" * 256),
    (integration, "name", "CRM "),
    (integration, "name", "\tCRM"),
    (integration, "name", "C\x00RM"),
    (integration, "name", "C\nRM"),
    (integration, "name", "C\ud800RM"),
    (integration, "name", None),
    (integration, "name", b"CRM"),
    (integration, "type", "Sales Force"),
    (integration, "type", "-sap"),
    (integration, "type", ""),
    (integration, "type", 7),
    (integration, "status", "asleep"),
    (integration, "status", None),
    (integration, "is_active", 1),
    (integration, "description", "x" * 4_001),
    (integration, "description", 7),
    (integration, "tags", "crm"),
    (integration, "tags", [1]),
    (integration, "tags", {"crm": 1}),
    (integration, "tags", [f"tag {n}" for n in range(101)]),
    (integration, "config", [1]),
    (integration, "config", None),
    (integration, "config", {"a": "x" * MAX_JSON_BYTES}),
    (integration, "id", str(PARENT)),
    (integration, "version", -1),
    (integration, "version", True),
    (integration, "tenant", "acme "),
    (integration, "created_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - naive on purpose
    (integration, "created_at", "2026-01-01"),
    (integration, "updated_at", datetime.min.replace(tzinfo=timezone(timedelta(hours=2)))),
    (integration, "created_by", ""),
    (webhook, "integration_id", str(PARENT)),
    (webhook, "url", "ftp://x.test/"),
    (webhook, "url", "x.test"),
    (webhook, "url", "https://"),
    (webhook, "url", "https://x.test/a b"),
    (webhook, "url", "https://x.test/\n"),
    (webhook, "url", "https://x.test:99999/"),
    (webhook, "url", "https://x.test:0/"),
    (webhook, "url", "https://[::1/"),
    (webhook, "url", "https://x.test/" + "a" * 2_048),
    (webhook, "url", None),
    (webhook, "events", []),
    (webhook, "events", "invoice.paid"),
    (webhook, "events", ["invoice..paid"]),
    (webhook, "events", ["invoice.*.paid"]),
    (webhook, "events", ["invoice*"]),
    (webhook, "events", [f"e{n}" for n in range(101)]),
    (webhook, "status", "asleep"),
    (job, "integration_id", str(PARENT)),
    (job, "status", "asleep"),
    (job, "schedule", "* * * * *"),
    (job, "direction", "sideways"),
    (job, "max_attempts", 0),
    (job, "max_attempts", 1_001),
    (job, "attempt", -1),
    (job, "records_processed", 2**63),
    (job, "checkpoint", float("nan")),
    (job, "checkpoint", object()),
    (job, "next_run_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - naive on purpose
]


@pytest.mark.parametrize(("make", "field", "value"), REFUSED)
def test_a_value_that_cannot_be_kept_is_refused_by_the_name_of_its_field(
    make: Any, field: str, value: Any
) -> None:
    with pytest.raises(ValidationError) as refused:
        make(**{field: value})
    assert refused.value.field == field
    assert refused.value.code == "validation_error"
    assert refused.value.message.startswith(field)
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"a": float("nan")}, "config.a"),
        ({"a": [1, float("inf")]}, "config.a[1]"),
        ({1: "a"}, "config"),
        ({"a": {2: "b"}}, "config.a"),
        ({"a": "\x00"}, "config.a"),
        ({"\x00": "a"}, "a key of config"),
        ({"a": 2**1025}, "config.a"),
        ({"a": {1, 2}}, "config.a"),
        ({"a": b"bytes"}, "config.a"),
    ],
)
def test_json_that_would_not_survive_is_refused_by_its_path(config: Any, path: str) -> None:
    with pytest.raises(ValidationError) as refused:
        integration(config=config)
    assert refused.value.field == path


@pytest.mark.parametrize(
    ("value", "way_out"),
    [
        (datetime(2026, 11, 28, tzinfo=UTC), ".isoformat()"),
        (date(2026, 11, 28), ".isoformat()"),
        (PARENT, "str()"),
        (Decimal("12.50"), "str()"),
        (Color.RED, ".value"),
        ({1, 2}, "sorted()"),
        (frozenset({1}), "sorted()"),
        (Page(items=[], number=1, size=1, total=0), "dataclasses.asdict()"),
        (Invoice(id=7), '.model_dump(mode="json")'),
    ],
)
def test_what_is_often_meant_to_be_json_is_told_how(value: object, way_out: str) -> None:
    with pytest.raises(ValidationError, match="must be JSON: ") as refused:
        integration(config={"since": [value]})
    assert refused.value.field == "config.since[0]"
    assert way_out in refused.value.message


def test_json_may_be_a_hundred_levels_deep_and_no_deeper() -> None:
    assert integration(config={"a": nested(99)}).config == {"a": nested(99)}
    with pytest.raises(ValidationError, match="at most 100 deep"):
        integration(config={"a": nested(100)})


def test_an_error_about_a_config_never_repeats_a_value() -> None:
    with pytest.raises(ValidationError) as refused:
        integration(config={"token": "hunter2\x00"})
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(integration(config={"token": "hunter2"}))
    assert "hunter2" not in repr(job(checkpoint={"cursor": "hunter2"}))


@pytest.mark.parametrize(
    "url",
    ["https://user:hunter2@x.test/", "http://hunter2@x.test", "https://a@hunter2@x.test?q=1"],
)
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        webhook(url=url)
    assert refused.value.field == "url"
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in str(refused.value.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.test/?key=hunter2",
        "x.test/?key=hunter2",
        "user:hunter2@x.test/",
        "https://x.test:hunter2/",
        "https://x.test/a b?key=hunter2",
        "https://x.test/?key=hunter2\n",
        "https://x.test/?key=hunter2\x00",
        "https://x.test/?key=hunter2" + "a" * 2_048,
        "https://x.test/a b#hunter2",
    ],
)
def test_what_may_be_secret_in_a_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        webhook(url=url)
    assert refused.value.field == "url"
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
    assert "hunter2" not in str(refused.value.value)


def test_a_webhook_shows_where_it_leads_without_what_may_be_secret() -> None:
    shown = repr(webhook(url="https://x.test/hooks?key=hunter2#hunter2", config={"a": "hunter2"}))
    assert shown.startswith("Webhook(name='w', ")
    assert "url='https://x.test/hooks'" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://x.test/a?b=1", "https://x.test/a"),
        ("https://x.test/a#b?c", "https://x.test/a"),
        ("https://u:p@x.test/a", "https://x.test/a"),
        ("u:p@x.test/a", "x.test/a"),
        ("//u:p@q@x.test", "//x.test"),
        ("https://x.test/a@b", "https://x.test/a@b"),
        ("a@b", "b"),
        ("/a@b", "/a@b"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert without_query(url) == shown


@pytest.mark.parametrize(
    "url", ["https://x.test/a@b", "http://[::1]:8080/x?mail=a@b", "https://xn--bcher-kva.test/"]
)
def test_a_url_may_hold_what_is_no_credential(url: str) -> None:
    assert webhook(url=url).url == url


@pytest.mark.parametrize(
    "url", ["postgresql://u:hunter2@db/hub", "x https://u:hunter2/@q@h y", "http://hunter2@h"]
)
def test_a_password_in_a_url_is_not_shown_wherever_that_was_given(url: str) -> None:
    for given in (url, [url], {"a": url}):
        with pytest.raises(ValidationError) as refused:
            checked_duration("limit", given)
        shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value.args)
        assert "hunter2" not in shown
        assert "://***@" in refused.value.message
    with pytest.raises(ValidationError) as refused:
        checked_duration("limit", url)
    assert "hunter2" not in str(refused.value.value)


def test_tags_and_events_are_sets() -> None:
    assert integration(tags={"b", "a"}).tags == ("a", "b")
    assert integration(tags=["ä", "z", "ä", "Z"]).tags == ("Z", "z", "ä")
    assert webhook(events=["b.*", "a", "b.*"]).events == ("a", "b.*")


def test_times_are_given_back_in_utc() -> None:
    local = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    found = integration(created_at=local)
    assert found.created_at == NOON
    assert found.created_at is not None
    assert found.created_at.tzinfo is UTC


def test_json_is_canonical_from_its_construction_on() -> None:
    found = integration(config={"bb": 1e16, "a": -0.0, "c": (1, 2)}).config
    assert list(found) == ["a", "c", "bb"]
    assert isinstance(found["bb"], int)
    assert str(found["a"]) == "0.0"
    assert found["c"] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(a=1),
        lambda config: config.__setitem__("a", 1),
        lambda config: config.pop("list"),
        lambda config: config["list"].append(1),
        lambda config: config["list"].__setitem__(0, 1),
        lambda config: config["list"].sort(),
        lambda config: config["object"].clear(),
    ],
)
def test_stored_json_cannot_be_changed_behind_the_store_s_back(change: Any) -> None:
    config = integration(config={"list": [1], "object": {"a": 1}}).config
    with pytest.raises(TypeError, match="frozen"):
        change(config)
    assert config == {"list": [1], "object": {"a": 1}}
    assert isinstance(config, FrozenDict)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))],
)
def test_stored_json_is_copied_as_what_it_is(copied: Callable[[Any], Any]) -> None:
    config = integration(config={"list": [1, [2]], "object": {"a": 1}}).config
    parts: list[Any] = [config, config["list"]]
    for part in parts:
        again = copied(part)
        assert again == part
        assert type(again) is type(part)
        with pytest.raises(TypeError, match="frozen"):
            again.clear()


def test_objects_can_be_told_apart_in_a_set() -> None:
    crm = integration(config={"list": [1, {"a": None}], "object": {"a": 1.0}})
    again = pickle.loads(pickle.dumps(crm))
    hook = Webhook(integration_id=crm.id, name="w", url="https://e.example.com", events=["*"])
    job = SyncJob(
        integration_id=crm.id, name="j", schedule=Schedule.manual(), checkpoint=[1, {"page": 7}]
    )
    assert {crm, again, hook, job, crm.rename("ERP")} == {crm, hook, job, again.rename("ERP")}
    assert {crm: 1}[again] == 1


def test_an_object_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        integration().name = "other"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


def test_with_config_changes_some_keys_and_with_tags_all_tags() -> None:
    crm = integration(config={"a": 1, "b": 2}, tags=["old"])
    assert crm.with_config(b=3, c=4).config == {"a": 1, "b": 3, "c": 4}
    assert crm.with_tags("new", "er").tags == ("er", "new")
    assert crm.rename("ERP").name == "ERP"
    assert crm.config == {"a": 1, "b": 2}
    with pytest.raises(ValidationError):
        crm.rename("ERP ")


@pytest.mark.parametrize(
    ("event", "patterns"),
    [
        ("invoice", ("invoice", "*")),
        ("invoice.paid", ("invoice.paid", "invoice.*", "*")),
        ("a.b.c", ("a.b.c", "a.b.*", "a.*", "*")),
    ],
)
def test_an_event_has_a_pattern_for_each_run_of_its_parts(
    event: str, patterns: tuple[str, ...]
) -> None:
    assert patterns_for(event) == patterns


@pytest.mark.parametrize(
    ("pattern", "event", "matches"),
    [
        ("invoice.paid", "invoice.paid", True),
        ("invoice.paid", "invoice.paid.late", False),
        ("invoice.*", "invoice.paid.late", True),
        ("invoice.*", "invoice", False),
        ("invoice.*", "invoices.paid", False),
        ("Invoice.paid", "invoice.paid", False),
        ("*", "anything.at.all", True),
    ],
)
def test_a_webhook_subscribes_by_whole_parts(pattern: str, event: str, matches: bool) -> None:
    assert webhook(events=[pattern]).subscribes_to(event) is matches


@pytest.mark.parametrize("wrong", ["", "a.*", "*", "a b", None])
def test_only_an_event_can_be_subscribed_to(wrong: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        webhook().subscribes_to(wrong)
    assert refused.value.field == "event"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, timedelta(seconds=1)),
        (0.5, timedelta(milliseconds=500)),
        (timedelta(1), timedelta(1)),
        (3_155_760_000, timedelta(36_525)),
        (0, timedelta(0)),
    ],
)
def test_a_duration_is_a_timedelta_or_seconds(value: Any, expected: timedelta) -> None:
    assert checked_duration("limit", value) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        *(-1, timedelta(-1), "5", None, True, float("nan")),
        *(3_155_760_001, timedelta(36_525, microseconds=1), timedelta.max, 1e300, 10**400),
        *(float("inf"), float("-inf")),
    ],
)
def test_what_is_no_duration_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        checked_duration("limit", wrong)
    assert refused.value.field == "limit"


def test_ids_are_ordered_by_their_time() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert ids == sorted(ids)
    assert {id.version for id in ids} == {7}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "asleep"),
        ("status", ["pending", "asleep"]),
        ("direction", "sideways"),
        ("integration_id", [str(PARENT)]),
        ("due_by", "now"),
        ("running", "yes"),
        ("tags_any", "tag"),
        ("config_contains", [1]),
        ("created_after", datetime(2026, 1, 1)),  # noqa: DTZ001 - naive on purpose
        ("name_contains", 7),
    ],
)
def test_a_filter_is_checked_when_it_is_made(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        SyncJobFilter(**{field: value})
    assert refused.value.field == field


def test_a_filter_takes_one_or_several_choices() -> None:
    other = UUID(int=1)
    assert SyncJobFilter(status="failed").status == ("failed",)
    assert SyncJobFilter(status={"pending", "failed"}).status == ("failed", "pending")
    assert SyncJobFilter(integration_id=[PARENT, other]).integration_id == (other, PARENT)
    assert SyncJobFilter(integration_id=uuid4()) != SyncJobFilter()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"catch_up": "sometimes"}, "config.sync.catch_up"),
        ({"catch_up": None}, "config.sync.catch_up"),
        ({"timeout": 0}, "config.sync.timeout"),
        ({"timeout": "soon"}, "config.sync.timeout"),
    ],
)
def test_what_a_job_wants_of_its_runs_is_checked(config: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        job(config={"sync": config})
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("make", "config", "words"),
    [
        (integration, {"sync": {"max_concurency": 5}}, "an integration may only have: max_conc"),
        (integration, {"sync": {"timeout": 5}}, "an integration may only have: max_concurrency"),
        (job, {"sync": {"max_concurrency": 5}}, "a sync job may only have: catch_up, timeout"),
        (webhook, {"delivery": {"retry": [1]}}, "a webhook may only have: disabled_after"),
    ],
)
def test_an_option_that_would_be_said_in_vain_is_refused(
    make: Any, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        make(config=config)
    assert refused.value.field == f"config.{next(iter(config))}"

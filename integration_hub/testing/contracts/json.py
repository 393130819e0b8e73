"""What JSON must mean in every store: containment as the operator ``@>`` of Postgres has it.

May import everything.
"""

from __future__ import annotations

from typing import Any

import pytest

from integration_hub.domain.errors import ValidationError
from integration_hub.hub import Hub
from integration_hub.ports.query import IntegrationFilter
from integration_hub.testing.factories import IntegrationFactory, SyncJobFactory

CONTAINMENT: tuple[tuple[Any, Any, bool], ...] = (
    # an object contains what has its keys with contained values
    ({"a": 1, "b": 2}, {"a": 1}, True),
    ({"a": 1}, {"a": 1, "b": 2}, False),
    ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1}}}, True),
    ({"a": {"b": 1}}, {"b": 1}, False),
    ({}, {}, True),
    ({"a": 1}, {}, True),
    ({}, {"a": 1}, False),
    # an array contains a subset, in any order and number
    ({"a": [1, 2, 3]}, {"a": [3, 1]}, True),
    ({"a": [1, 2]}, {"a": [1, 1, 1]}, True),
    ({"a": [1, 2]}, {"a": [1, 4]}, False),
    ({"a": [[1, 2]]}, {"a": [[1]]}, True),
    ({"a": [1, 2]}, {"a": [[1]]}, False),
    ({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]}, True),
    ({"a": [{"b": 1}, {"c": 2}]}, {"a": [{"b": 1, "c": 2}]}, False),
    ({"a": []}, {"a": []}, True),
    ({"a": [1]}, {"a": []}, True),
    ({"a": []}, {"a": [1]}, False),
    ({"a": []}, {"a": {}}, False),
    ({"a": {}}, {"a": []}, False),
    # a scalar in an array counts at the top alone
    ({"a": [1, 2]}, {"a": 1}, False),
    ([1, 2], 1, True),
    ([1, 2], [1], True),
    (["x", "y"], "y", True),
    ([[1]], 1, False),
    ([1, 2], 3, False),
    ([True], 1, False),
    (1, [1], False),
    # scalars are equal as JSON has it
    ({"a": True}, {"a": 1}, False),
    ({"a": 1}, {"a": True}, False),
    ({"a": False}, {"a": 0}, False),
    ({"a": True}, {"a": True}, True),
    ({"a": 1}, {"a": 1.0}, True),
    ({"a": 1.0}, {"a": 1}, True),
    ({"a": 0.1}, {"a": 0.1}, True),
    ({"a": 1e100}, {"a": 10**100}, False),  # a double is not that power of ten
    ({"a": 1e16}, {"a": 10**16}, True),
    ({"a": 9007199254740993}, {"a": 9007199254740992.0}, False),
    ({"a": -0.0}, {"a": 0}, True),
    ({"a": "1"}, {"a": 1}, False),
    ({"a": "é"}, {"a": "e\u0301"}, False),
    # null is a value, and absent is not
    ({"a": None}, {"a": None}, True),
    ({}, {"a": None}, False),
    ({"a": 0}, {"a": None}, False),
    ({"a": [None]}, {"a": [None]}, True),
    ({"a": False}, {"a": None}, False),
    # keys are text
    ({"": 1}, {"": 1}, True),
    ({"a.b": 1}, {"a": {"b": 1}}, False),
    ({"1": "x"}, {"1": "x"}, True),
)
"""(document, fragment, whether the document contains the fragment)"""

ROUND_TRIPS: tuple[Any, ...] = (
    {},
    {"": {"": {"": []}}},
    {"text": '\\ " / \b\f\n\r\t \u2028 \U0001f600 \x7f'},
    {"numbers": [0, -1, 2**63, -(2**64), 10**300, 0.1, -2.5e-7, 5e-324, 1.7976931348623157e308]},
    {"order": {"b": 1, "a": 2, "ccc": 3, "é": 4, "zz": 5}},
    {"kinds": [None, True, False, "", [], {}]},
    {"deep": [[[[[[[[[[[[[[[["x"]]]]]]]]]]]]]]]]},
)

#: A number that SQLite takes for its own loses its kind, or its last digits.
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 1.0, 1.5, 2**53 + 1, 2**70, 10**300, 5e-324),
    *("", "1", "1.0", "null", "2026-01-01", "\U0001f600"),
)


class JsonContract:
    """Containment and round trips of JSON."""

    @pytest.mark.parametrize(
        ("document", "fragment", "expected"),
        [case for case in CONTAINMENT if isinstance(case[0], dict) and isinstance(case[1], dict)],
    )
    def test_containment_is_that_of_postgres(
        self, hub: Hub, document: Any, fragment: Any, expected: bool
    ) -> None:
        with hub.unit_of_work() as uow:
            stored = uow.integrations.add(IntegrationFactory(config=document))
            found = uow.integrations.find(IntegrationFilter(config_contains=fragment))
        assert (stored in found) is expected

    @pytest.mark.parametrize(
        "document", ROUND_TRIPS, ids=lambda document: next(iter(document), "empty")
    )
    def test_json_comes_back_as_it_was(self, hub: Hub, document: Any) -> None:
        given = IntegrationFactory(config=document)
        with hub.unit_of_work() as uow:
            uow.integrations.add(given)
            uow.commit()
        with hub.unit_of_work() as uow:
            found = uow.integrations.get(given.id)
        assert repr(found.config) == repr(given.config)
        assert found.config == document

    @pytest.mark.parametrize("document", SCALARS, ids=lambda value: repr(value)[:12])
    def test_a_checkpoint_of_one_value_comes_back_as_it_was(self, hub: Hub, document: Any) -> None:
        with hub.unit_of_work() as uow:
            parent = uow.integrations.add(IntegrationFactory())
            given = uow.sync_jobs.add(SyncJobFactory(integration_id=parent.id, checkpoint=document))
            uow.commit()
        with hub.unit_of_work() as uow:
            found = uow.sync_jobs.get(given.id)
        assert repr(found.checkpoint) == repr(given.checkpoint) == repr(document)

    def test_stored_json_is_frozen_at_every_depth(self, hub: Hub) -> None:
        with hub.unit_of_work() as uow:
            stored: Any = uow.integrations.add(IntegrationFactory(config={"a": [{"b": 1}]})).config
            uow.commit()
            with pytest.raises(TypeError):
                stored["a"] = 2
            with pytest.raises(TypeError):
                stored["a"].append(2)
            with pytest.raises(TypeError):
                stored["a"][0].update(b=2)
        assert stored == {"a": [{"b": 1}]}

    @pytest.mark.parametrize(
        "wrong",
        [
            {"a": float("nan")},
            {"a": [float("inf")]},
            {1: "x"},
            {"a": {None: 1}},
            {"a": "nul\x00"},
            {"nul\x00": 1},
            {"a": "\ud800"},
            {"a": {1, 2}},
            {"a": b"bytes"},
            {"a": 1 << 1024},
            {"a": "x" * 256 * 1024},
            [1, 2],
            None,
            "text",
        ],
        ids=range(14),
    )
    def test_json_that_would_not_survive_is_refused(self, wrong: Any) -> None:
        with pytest.raises(ValidationError) as refused:
            IntegrationFactory(config=wrong)
        assert "config" in refused.value.field

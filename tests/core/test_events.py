"""Event types, keys and batches: what codes and keys promise, and what `take` keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core import events
from stream.core.events import (
    FORGET,
    REQUEST,
    EventBatch,
    EventTypes,
    Request,
    event_keys,
    item_key,
    item_keys,
    segment_key,
    segment_keys,
    segment_text,
)


def _batch() -> EventBatch:
    return EventBatch.build(
        ["b", "a", "b", "c", "a"],
        ["x", "y", None, "x", "z"],
        [0, 1, REQUEST, 3, 7],
        [10, 20, 15, 40, 50],
        offset=[3, 4, 7, 8, 9],
        value=[np.nan, 1.5, np.nan, 2.0, -1.0],
        event_ids=["e0", None, "", "e3", "e4"],
        segments=[[1, 0], [2, 0], [0, 0], [1, 5], [2, 0]],
        requests={2: Request(n=3, exclude=("y",))},
    )


def test_codes_follow_the_order_of_names_and_control_types_have_their_own() -> None:
    codes = EventTypes().codes()
    assert list(codes.values()) == [0, 1, 2, 3, 4, 5, 6, 7, REQUEST, FORGET]
    assert [EventTypes().name_of(code) for code in codes.values()] == list(codes)
    with pytest.raises(ValueError, match="no event type has the code 8"):
        EventTypes().name_of(8)


def test_the_weight_table_weighs_kinds_and_nothing_else() -> None:
    table = EventTypes(("seen", "sold"), (0.5, -3.0)).weight_table()
    assert table[[0, 1, 2, REQUEST, FORGET]].tolist() == [0.5, -3.0, 0.0, 0.0, 0.0]
    assert table.shape == (256,)


def test_event_types_survive_json_with_their_order() -> None:
    types = EventTypes(("z", "a", "m"), (1.0, -2.0, 0.0))
    assert EventTypes.from_json(json.loads(json.dumps(types.as_json()))) == types


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        ((), (), "between 1 and 8"),
        (tuple("abcdefghi"), (1.0,) * 9, "between 1 and 8"),
        (("a", "b"), (1.0,), "1 weights"),
        (("a", "a"), (1.0, 1.0), "repeat"),
        (("a", ""), (1.0, 1.0), "cannot be the name"),
        (("request",), (1.0,), "cannot be the name"),
        (("a",), (float("nan"),), "weight of 'a'"),
    ],
)
def test_event_types_that_could_not_be_told_apart_are_refused(
    names: tuple[str, ...], weights: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EventTypes(names, weights)


def test_keys_never_change_between_versions_because_states_hold_them() -> None:
    assert item_key("item-1") == 8406168460641299428
    assert segment_key("mobile") == 3648549195


def test_keys_do_not_depend_on_the_process() -> None:
    """Python's own hash does; another process with another hash seed must find the same keys."""
    code = "from stream.core.events import item_key, segment_key; print(item_key('ä'), segment_key('ä'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.split() == [str(item_key("ä")), str(segment_key("ä"))]


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_keys_of_many_are_the_keys_of_each_and_0_only_for_the_empty_text(texts: list[str]) -> None:
    assert item_keys(texts).tolist() == [item_key(text) if text else 0 for text in texts]
    assert segment_keys(texts).tolist() == [segment_key(text) if text else 0 for text in texts]
    assert [key == 0 for key in event_keys([*texts, None]).tolist()] == [not text for text in [*texts, None]]
    assert item_keys(texts).dtype == event_keys(texts).dtype == np.uint64
    assert segment_keys(texts).dtype == np.uint32


def test_the_memory_of_keys_is_bounded() -> None:
    """Ids come from outside, without end."""
    for cached in (item_key, segment_key):
        assert cached.cache_info().maxsize is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(("", ""), ("3", "3"), (None, ""), (True, "true"), (False, "false")),
        *((3, "3"), (3.0, "3"), (-0.0, "0"), (2.5, "2.5"), (1e300, "1e+300")),
        *((float("nan"), ""), (float("inf"), "inf")),
    ],
)
def test_a_context_value_has_one_text_however_its_producer_writes_it(value: str | float | None, text: str) -> None:
    assert segment_text(value) == text


def test_a_batch_is_built_from_columns_with_users_by_first_appearance() -> None:
    batch = _batch()
    assert len(batch) == 5
    assert batch.users == ["b", "a", "c"]
    assert batch.user.tolist() == [0, 1, 0, 2, 1]
    assert batch.user_ids() == ["b", "a", "b", "c", "a"]
    assert batch.item_ids == ["x", "y", "", "x", "z"]
    assert batch.item.tolist() == [item_key("x"), item_key("y"), 0, item_key("x"), item_key("z")]
    assert batch.event_ids == ["e0", None, None, "e3", "e4"]
    assert (batch.event_id == 0).tolist() == [False, True, True, False, False]


def test_a_batch_of_bare_columns_misses_everything_else() -> None:
    batch = EventBatch.build(["a"], ["x"], [0], [5])
    assert batch.offset.tolist() == [0]
    assert np.isnan(batch.value).all()
    assert batch.event_ids == [None]
    assert batch.segments.shape == (1, 0)
    assert batch.requests == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": [0]}, "kind has the shape"),
        ({"offset": [2, 2]}, "offsets must rise"),
        ({"value": [[1.0], [2.0]]}, "value has the shape"),
        ({"event_ids": ["e"]}, "1 event ids"),
        ({"segments": [1, 2]}, "segments have the shape"),
        ({"requests": {2: Request()}}, "outside 0..1"),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(change: dict[str, Any], message: str) -> None:
    columns: dict[str, Any] = {"user_ids": ["a", "b"], "item_ids": ["x", "y"], "kind": [0, 1], "ts_ms": [1, 2]} | change
    with pytest.raises(ValueError, match=message):
        EventBatch.build(**columns)


@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_taking_rows_equals_building_from_those_rows(mask: list[bool]) -> None:
    whole, kept = _batch(), [row for row, keep in enumerate(mask) if keep]
    for taken in (whole.take(np.array(mask)), whole.take(np.array(kept, np.int64))):
        rebuilt = EventBatch.build(
            [whole.user_ids()[row] for row in kept],
            [whole.item_ids[row] for row in kept],
            whole.kind[kept],
            whole.ts_ms[kept],
            offset=whole.offset[kept],
            value=whole.value[kept],
            event_ids=[whole.event_ids[row] for row in kept],
            segments=whole.segments[kept],
            requests={new: whole.requests[row] for new, row in enumerate(kept) if row in whole.requests},
        )
        for name in events.EventBatch.__slots__:
            np.testing.assert_array_equal(getattr(taken, name), getattr(rebuilt, name), err_msg=name)
            assert np.asarray(getattr(taken, name)).dtype == np.asarray(getattr(rebuilt, name)).dtype, name


def test_a_slice_takes_a_run_of_rows() -> None:
    part = _batch().take(slice(1, 4))
    assert part.offset.tolist() == [4, 7, 8]
    assert part.users == ["a", "b", "c"]
    assert part.requests == {1: Request(n=3, exclude=("y",))}


@pytest.mark.parametrize("rows", [np.array([1, 0]), np.array([2, 2]), slice(None, None, -1)])
def test_rows_are_not_taken_out_of_order_or_twice(rows: events.Rows) -> None:
    with pytest.raises(ValueError, match="rising order"):
        _batch().take(rows)

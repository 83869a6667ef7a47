"""Activity as columns: what a sound batch is, and that joining batches loses nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stream.core.activity import ActivityBatch, checked, concatenated


def _activity(first: int, item_ids: list[str], items: list[int], source: str = "events/0") -> ActivityBatch:
    n_entries = len(items)
    return ActivityBatch(
        source=source,
        first=first,
        last=first + 9,
        segment_fields=("device",),
        item_ids=item_ids,
        offset=np.arange(first, first + n_entries, dtype=np.int64),
        item=np.array(items, np.int32),
        kind=np.zeros(n_entries, np.uint8),
        weight=np.ones(n_entries, np.float32),
        ts_ms=np.full(n_entries, 5, np.int64),
        continues=np.zeros(n_entries, np.bool_),
        previous=np.full((n_entries, 3), first, np.uint64),
        segments=np.full((n_entries, 1), first, np.uint32),
        previous_segments=np.zeros((n_entries, 1), np.uint32),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": np.array([0, 1], np.int64)}, "item is int64"),
        ({"previous": np.zeros((2, 2), np.uint64)}, r"previous is uint64 of shape \(2, 2\)"),
        ({"segments": np.zeros((2, 2), np.uint32)}, "segments is"),
        ({"first": -1}, "empty or negative"),
        ({"last": 0}, "empty or negative"),
        ({"item_ids": ["x", "x"]}, "repeat"),
        ({"item_ids": ["x", ""]}, "one is empty"),
        ({"offset": np.array([1, 1], np.int64)}, "do not rise"),
        ({"offset": np.array([1, 11], np.int64)}, r"within 1\.\.10"),
        ({"item": np.array([0, 2], np.int32)}, "outside the 2"),
        ({"item": np.array([0, -1], np.int32)}, "outside the 2"),
        ({"kind": np.array([0, 8], np.uint8)}, "event type 8"),
        ({"weight": np.array([1, np.nan], np.float32)}, "not finite"),
    ],
)
def test_an_unsound_batch_is_refused_with_what_is_wrong(change: dict[str, Any], message: str) -> None:
    sound = checked(_activity(1, ["x", "y"], [0, 1]))
    with pytest.raises(ValueError, match=message):
        checked(replace(sound, **change))


def test_a_range_without_entries_is_sound() -> None:
    """A batch of rejected or control events still covers its offsets."""
    assert len(checked(_activity(0, [], []))) == 0


def test_joined_batches_share_one_table_of_items() -> None:
    joined = checked(
        concatenated([_activity(0, ["x", "y"], [1, 0]), _activity(10, [], []), _activity(20, ["z", "x"], [0, 1])])
    )
    assert (joined.first, joined.last) == (0, 29)
    assert [joined.item_ids[row] for row in joined.item.tolist()] == ["y", "x", "z", "x"]
    assert sorted(joined.item_ids) == ["x", "y", "z"]
    assert joined.offset.tolist() == [0, 1, 20, 21]
    assert joined.previous[:, 0].tolist() == [0, 0, 20, 20]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no activity"),
        ([_activity(0, [], []), _activity(11, [], [])], "11 does not follow 9"),
        ([_activity(0, [], []), _activity(0, [], [])], "0 does not follow 9"),
        ([_activity(0, [], []), _activity(10, [], [], "events/1")], "events/1 cannot follow"),
    ],
)
def test_batches_join_only_without_holes_and_from_one_source(batches: list[ActivityBatch], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        concatenated(batches)

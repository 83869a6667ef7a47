"""Which activities of a partition become one message."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.activity import ActivityBatch, concatenated
from stream.worker.app import _runs
from tests.core.activities import Entry, activity


def some(first: int, n: int, hole: int = 0) -> ActivityBatch:
    """`n` entries from an offset on, covering `hole` offsets more that count nothing."""
    entries = [Entry(f"item-{offset}", 1.0, 0, False) for offset in range(first, first + n)]
    return activity(entries, first=first, last=first + n + hole - 1)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2), st.booleans()), max_size=12), most=st.integers(5, 9)
)
def test_runs_hold_every_entry_once_in_order_and_have_neither_holes_nor_too_many(
    sizes: list[tuple[int, int, bool]], most: int
) -> None:
    """A slice in which nothing counted leaves a hole in what is covered: a new message begins behind it."""
    activities, at = [], 0
    for n, hole, skip in sizes:
        activities.append(some(at, n, hole))
        at += n + hole + int(skip)
    runs = list(_runs(activities, most))
    assert [each for run in runs for each in run] == activities
    for run in runs:
        whole = concatenated(run)  # refuses holes
        assert len(whole) <= most
        np.testing.assert_array_equal(whole.offset, np.concatenate([each.offset for each in run]))
    for before, after in pairwise(runs):
        fits = sum(map(len, before)) + len(after[0]) <= most
        assert not (fits and after[0].first == before[-1].last + 1), "no more messages than needed"

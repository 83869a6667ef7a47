"""A log in files is the log in memory: the same events in the same order, the same targets, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.training.small_shop import SPEC, shop
from training.log import Log
from training.stored_log import store_log
from training.targets import find_targets, sampled

FIELDS = ("device",)


def table() -> pl.DataFrame:
    """The shop's events out of order, with equal times, repeated ids, control events and rows that are none."""
    events = shop().events.head(3_000).with_columns(ts_ms=pl.col("ts_ms") // 60_000 * 60_000)
    n = pl.int_range(pl.len())
    return events.with_columns(
        user_id=pl.when(n % 97 == 5).then(None).otherwise("user_id"),
        event_type=pl.when(n % 89 == 4).then(pl.lit("request")).otherwise("event_type"),
        event_id=pl.when(n % 7 == 0).then(pl.lit("twice")).when(n % 3 == 0).then(None).otherwise("event_id"),
    ).sample(fraction=1.0, shuffle=True, seed=1)


def stored(frame: pl.DataFrame, folder: Path, n_events: int) -> Log:
    first_ms, last_ms = frame["ts_ms"].min(), frame["ts_ms"].max()
    return store_log(
        lambda: (frame[at : at + 700] for at in range(0, len(frame), 700)),
        folder,
        SPEC.types,
        FIELDS,
        span_ms=(first_ms, last_ms + 1),  # type: ignore[arg-type, operator]  # there are events
        n_events=n_events,
    )


@pytest.mark.parametrize("n_events", [250, 10_000])
def test_a_log_in_files_has_the_events_of_the_log_in_memory(n_events: int, tmp_path: Path) -> None:
    frame = table()
    files, memory = stored(frame, tmp_path, n_events), Log.of(frame, SPEC.types, FIELDS)
    for name in ("ts_ms", "kind", "value", "segments"):
        np.testing.assert_array_equal(getattr(files, name), getattr(memory, name), err_msg=name)
    assert [files.item_ids[item] for item in files.item] == [memory.item_ids[item] for item in memory.item]
    assert files.n_dropped == memory.n_dropped > 0
    assert files.event_ids is not None
    assert memory.event_ids is not None
    named = [each or "" for each in memory.event_ids.tolist()]
    for ours, theirs in ((files.user.tolist(), memory.user.tolist()), (files.event_ids.tolist(), named)):
        pairs = set(zip(ours, theirs, strict=True))  # called otherwise, but alike where they are alike
        assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})
    assert len(set(files.user_ids)) == len(memory.user_ids)
    assert not list(tmp_path.iterdir()), "files have no names"


def test_its_targets_and_samples_of_them_are_the_same(tmp_path: Path) -> None:
    frame, weights = table(), SPEC.types.weight_table()
    found = [find_targets(log, weights) for log in (stored(frame, tmp_path, 250), Log.of(frame, SPEC.types, FIELDS))]
    assert len(found[0]) > 500
    for share in (1.0, 0.3):
        one, other = (sampled(each, len(frame), share, seed=4) for each in found)
        np.testing.assert_array_equal(one.row, other.row)
        np.testing.assert_array_equal(one.scored, other.scored)


def test_memory_is_that_of_a_stretch(tmp_path: Path) -> None:
    """What Python and NumPy hold at most, for 9,000 and for 90,000 events in stretches of 3,000."""
    events = shop().events.head(3_000)

    def batches(n: int) -> Iterator[pl.DataFrame]:
        return (events.with_columns(ts_ms=pl.col("ts_ms") + 10**9 * part) for part in range(n))

    def peak(n: int) -> int:
        first_ms, last_ms = events["ts_ms"].min(), events["ts_ms"].max()
        span_ms = (first_ms, last_ms + 10**9 * n)  # type: ignore[operator]  # there are events
        tracemalloc.start()
        log = store_log(lambda: batches(n), tmp_path, SPEC.types, FIELDS, span_ms=span_ms, n_events=3_000)  # type: ignore[arg-type]
        find_targets(log, SPEC.types.weight_table())
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(1)
    assert peak(30) < 1.5 * peak(3)

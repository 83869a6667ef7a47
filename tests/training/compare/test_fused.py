"""A fusion on the targets of a comparison: the log that it replays, what may reach what, what is found."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from msgspec.structs import replace as changed

from stream.core.catalogue import ItemUpdate
from tests.training.compare.ratings import sequences
from training.backtest.significance import gains
from training.compare.baselines import baseline
from training.compare.fused import FUSION, Fused, fuse, log_of
from training.compare.task import PROTOCOLS, Protocol, Task, look, split

SMALL = changed(FUSION, d=16, epochs=4, ranker=changed(FUSION.ranker, epochs=6))
ITEMS = [ItemUpdate(item, f"genre {n % 3}", f"film {n}") for n, item in enumerate(sequences().vocabulary)]


@cache
def fused_small(protocol: Protocol) -> tuple[Task, Fused]:
    """Nothing changes it, so that once is enough."""
    task = split(sequences(), protocol)
    return task, fuse(task, ITEMS, SMALL, withouts=("nothing", "statistics"))


def test_the_log_of_sequences_has_the_known_events_in_the_order_of_time() -> None:
    whole = sequences()
    item = whole.item.copy()
    item[[3, 90]] = 0
    whole = dataclasses.replace(whole, item=item)
    log, row_of = log_of(whole)
    assert len(log) == len(whole) - 2
    assert (np.diff(log.ts_ms) >= 0).all()
    assert row_of[[3, 90]].tolist() == [-1, -1]
    user = whole.user()
    for event in np.flatnonzero(row_of >= 0).tolist():
        row = row_of[event]
        assert log.user_ids[log.user[row]] == whole.user_ids[user[event]]
        assert log.item_ids[log.item[row]] == whole.vocabulary[whole.item[event] - 1]
        assert log.ts_ms[row] == whole.ts_ms[event]
    first = np.unique(log.user, return_index=True)[1]
    assert (np.diff(first) > 0).all(), "users are numbered as they come"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_fusion_finds_more_than_popularity_does(protocol: Protocol) -> None:
    task, fused = fused_small(protocol)
    assert set(fused.found) == {"nothing", "statistics"}
    popular = gains(look(task, baseline("popularity", task), max_length=200).place, 10)["ndcg"].mean()
    place = fused.found["nothing"].place
    assert place.shape == task.rows.shape
    assert gains(place, 10)["ndcg"].mean() > popular
    assert (fused.found["nothing"].lists >= 0).any(axis=1).all(), "every target's moment got a list"
    for row, listed in zip(task.rows.tolist(), fused.found["nothing"].lists, strict=True):
        start = task.whole.start[task.whole.user()[row]]
        assert not set((listed[listed >= 0] + 1).tolist()) & set(task.whole.item[start:row].tolist())
    assert fused.train_s > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_that_is_judged_reaches_what_learns(protocol: Protocol) -> None:
    """Exchange the items of all targets (and, split by time, of all that follows them): the same weights come out."""
    task, one = fused_small(protocol)
    item = task.whole.item.copy()
    item[task.rows] = 1 + item[task.rows] % 20
    whole = dataclasses.replace(task.whole, item=item)
    two = fuse(dataclasses.replace(task, whole=whole), ITEMS, SMALL)
    for mine, other in zip(one.models["nothing"].parameters(), two.models["nothing"].parameters(), strict=True):
        assert mine.equal(other)
    assert one.member.retriever.table.equal(two.member.retriever.table)

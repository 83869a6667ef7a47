"""Sequences cut from a log: vocabulary, targets, horizons, splits and batches, against naive walks."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from stream.core.events import EventBatch, EventTypes
from stream.core.fold import fold, source_key
from stream.core.scales import DEFAULT_SCALES, HOUR_MS
from stream.core.state import StateSpec, blank_states, window_counts
from tests.training.sequence_nets import made_up
from training.sequences import (
    batches,
    cut_sequences,
    frequent_items,
    histories,
    horizon_ends,
    leave_one_out,
    pad,
    pieces,
    split_at,
    window_totals,
)

# user    time   item            user    time   item
#  ann      1     a               bob      2     x
#  ann      3     b               bob      2     a     (the same second: the order of the log decides)
#  ann      3     dislike c       bob      9     b
LOG = pl.DataFrame(
    {
        "user_id": ["ann", "bob", "bob", "ann", "ann", "bob"],
        "item_id": ["a", "x", "a", "b", "c", "b"],
        "ts_ms": [1000, 2000, 2000, 3000, 3000, 9000],
        "event_type": ["view", "view", "rating", "view", "dislike", "view"],
        "value": [None, float("nan"), 4.0, None, None, None],
    }
)


def test_a_log_becomes_sequences_by_user_and_time() -> None:
    sequences = cut_sequences(LOG, ["a", "b", "c"])
    assert sequences.user_ids == ["ann", "bob"]
    assert sequences.start.tolist() == [0, 3, 6]
    assert sequences.item.tolist() == [1, 2, 3, 0, 1, 2]
    assert sequences.kind.tolist() == [0, 0, 6, 0, 4, 0]
    assert sequences.value.tolist() == [0, 0, 0, 0, 4, 0]
    assert sequences.gap_s().tolist() == [0, 2, 0, 0, 0, 7]


def test_the_target_is_the_next_item_unless_it_is_disliked_or_unknown_or_anothers() -> None:
    assert cut_sequences(LOG, ["a", "b", "c"]).target().tolist() == [2, 0, 0, 1, 2, 0]
    assert cut_sequences(LOG, ["b"]).target().tolist() == [1, 0, 0, 0, 1, 0]


def test_an_unknown_event_type_is_refused() -> None:
    with pytest.raises(ValueError, match="dislike"):
        cut_sequences(LOG, ["a"], EventTypes(("view", "rating"), (1.0, 1.0)))


def test_vocabularies_hold_the_most_frequent_first() -> None:
    assert frequent_items(LOG) == ["a", "b", "c", "x"]
    assert frequent_items(LOG, min_count=2) == ["a", "b"]


def test_a_k_core_is_peeled_until_nothing_falls_off() -> None:
    """Item c falls first, then user 3 with it, then item b; what is left has two of each."""
    log = pl.DataFrame({"user_id": list("1122333"), "item_id": list("adadbcb")})
    assert frequent_items(log, k_core=2) == ["a", "b", "d"]
    log = pl.DataFrame({"user_id": list("112233"), "item_id": list("adadbc")})
    assert frequent_items(log, k_core=2) == ["a", "d"]


def test_leave_one_out_holds_the_last_event_back() -> None:
    sequences = cut_sequences(LOG, ["a", "b", "c"])
    train, rows = leave_one_out(sequences)
    assert rows.tolist() == [5]  # ann's last is a dislike
    assert train.item.tolist() == [1, 2, 0, 1]
    assert train.target().tolist() == [2, 0, 1, 0]
    earlier, rows = leave_one_out(sequences, n_last=2)
    assert rows.tolist() == [1, 4]
    assert earlier.item.tolist() == [1, 0]


def test_a_split_in_time_learns_from_before_and_predicts_what_is_new_to_the_user() -> None:
    sequences = made_up(5, 40, seed=3)
    cut_ms = int(np.quantile(sequences.ts_ms, 0.6))
    train, rows = split_at(sequences, cut_ms)
    assert (train.ts_ms < cut_ms).all()
    assert len(train) == (sequences.ts_ms < cut_ms).sum()
    expected = []
    for user, start, stop in zip(range(5), sequences.start[:-1], sequences.start[1:], strict=True):
        assert (sequences.user()[start:stop] == user).all()
        had: set[int] = set()
        for row in range(start, stop):
            item = int(sequences.item[row])
            wanted = row > start and item > 0 and item not in had and sequences.positive[row]
            if wanted and sequences.ts_ms[row] >= cut_ms:
                expected.append(row)
            had.add(item)
    assert rows.tolist() == expected
    assert len(expected) > 20


def test_pieces_cover_every_event_once_and_the_newest_stand_in_a_full_one() -> None:
    sequences = made_up(2, 25).where(np.arange(50) < 32)
    assert pieces(sequences, 10).tolist() == [[0, 5], [5, 15], [15, 25], [25, 32]]


def test_a_horizon_ends_where_the_users_events_leave_it() -> None:
    sequences = made_up(4, 30, seed=1)
    ends = horizon_ends(sequences, HOUR_MS)
    user = sequences.user()
    for row in range(len(sequences)):
        within = (user == user[row]) & (np.arange(len(sequences)) > row)
        within &= sequences.ts_ms <= sequences.ts_ms[row] + HOUR_MS
        assert ends[row] == row + 1 + within.sum()


def test_window_totals_are_those_of_the_users_record() -> None:
    sequences = made_up(1, 60, seed=2)
    totals = window_totals(sequences, DEFAULT_SCALES)
    spec = StateSpec()
    states = blank_states(spec, 1)
    for row in range(60):
        batch = EventBatch.build(["u"], ["i"], [sequences.kind[row]], [sequences.ts_ms[row]], offset=[row])
        weights = EventTypes().weight_table()
        states = fold(spec, states, batch, source=source_key("events/0"), weights=weights).states
        counts = window_counts(spec, states, sequences.ts_ms[row : row + 1]).sum(axis=2)
        assert totals[row].tolist() == counts[0].tolist()


def test_an_epoch_has_every_target_once_in_an_order_of_its_own_that_the_seed_repeats() -> None:
    sequences = made_up(20, 15)

    def epoch(number: int, seed: int = 0) -> list[torch.Tensor]:
        return [batch.target for batch in batches(sequences, n_batch=4, max_length=6, seed=seed, epoch=number)]

    first, again, second, other = epoch(0), epoch(0), epoch(1), epoch(0, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a.shape == b.shape)
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True) if a.shape == b.shape)
    for targets in (first, second, other):
        drawn = torch.cat([target[target > 0] for target in targets])
        assert sorted(drawn.tolist()) == sorted(sequences.target()[sequences.target() > 0].tolist())


def test_targets_of_a_horizon_lie_within_it() -> None:
    sequences = made_up(10, 15)
    for batch in batches(sequences, n_batch=4, max_length=15, seed=0, epoch=0, horizons_ms=(HOUR_MS,)):
        for row in range(len(batch.length)):
            for at in range(int(batch.length[row])):
                within = (batch.time_s[row] <= batch.time_s[row, at] + 3600) & (torch.arange(batch.item.shape[1]) > at)
                assert int(batch.ahead[row, at, 0]) in {0, *batch.item[row, within].tolist()}


def test_a_padded_batch_says_where_its_events_end() -> None:
    sequences = made_up(2, 6).where(np.arange(12) != 11)
    batch = pad(sequences, pieces(sequences, 6))
    assert batch.length.tolist() == [6, 5]
    assert batch.item[1, 5] == 0
    assert batch.target[1, 4] == 0
    assert batch.time_s[1, 5] == batch.time_s[1, 4]


def test_histories_are_what_the_menu_says() -> None:
    """Newest last, ages as of the newest, padding in front."""
    sequences = cut_sequences(LOG, ["a", "b", "c"])
    batch = pad(sequences, pieces(sequences, 5))
    given = histories(batch, torch.tensor([1, 2]), 4)
    assert given.history_items.tolist() == [[0, 0, 1, 2], [0, 0, 1, 2]]
    assert given.history_age_s.tolist() == [[0, 0, 2, 0], [0, 7, 7, 0]]
    assert given.history_kinds.tolist() == [[0, 0, 0, 0], [0, 0, 4, 0]]
    assert given.history_values.tolist() == [[0, 0, 0, 0], [0, 0, 4, 0]]

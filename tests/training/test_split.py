"""Splits keep what is judged out of what is learnt from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.split import cut_ms, global_time, leave_one_out, prequential

SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS, share=st.floats(0.05, 0.95))
def test_nothing_learnt_is_as_late_as_anything_judged(seed: int, share: float) -> None:
    ts_ms = np.random.default_rng(seed).integers(0, 30, 50)
    try:
        cut = cut_ms(ts_ms, share)
    except ValueError:
        return
    split = global_time(ts_ms, until_ms=cut, validate_until_ms=cut + 5)
    assert split.train.any()
    parts = np.stack([split.train, split.validate, split.test])
    assert (parts.sum(axis=0) == 1).all()
    assert ts_ms[split.train].max() < cut <= ts_ms[~split.train].min()
    assert ts_ms[split.validate].max(initial=-1) < cut + 5 <= ts_ms[split.test].min(initial=99)


def test_a_cut_keeps_equal_times_together() -> None:
    assert cut_ms(np.array([1, 5, 5, 5, 9]), 0.5) == 5


@pytest.mark.parametrize(("ts_ms", "share"), [([3, 3, 3], 0.5), ([], 0.5), ([1, 2], 1.0)])
def test_a_cut_that_leaves_one_side_empty_is_refused(ts_ms: list[int], share: float) -> None:
    with pytest.raises(ValueError, match=r"cut"):
        cut_ms(np.array(ts_ms, np.int64), share)


def test_validation_does_not_end_before_it_begins() -> None:
    with pytest.raises(ValueError, match="ends later"):
        global_time(np.arange(3), until_ms=2, validate_until_ms=1)


@given(seed=SEEDS, validate=st.booleans())
def test_the_last_events_of_each_user_are_held_back(seed: int, *, validate: bool) -> None:
    rng = np.random.default_rng(seed)
    user, ts_ms = rng.integers(0, 6, 25), rng.integers(0, 8, 25)
    split = leave_one_out(user, ts_ms, validate=validate)
    for someone in np.unique(user).tolist():
        own = [int(row) for row in np.flatnonzero(user == someone)]
        own.sort(key=lambda row: (ts_ms[row], row))
        held = 2 if validate else 1
        expected = own[-held:] if len(own) > held else []
        assert [row for row in own if split.test[row]] == expected[-1:]
        assert [row for row in own if split.validate[row]] == (expected[:1] if validate else [])
        assert [row for row in own if split.train[row]] == own[: len(own) - len(expected)]


@given(seed=SEEDS, period_ms=st.integers(1, 7))
def test_a_period_knows_all_before_it_and_each_row_is_judged_once(seed: int, period_ms: int) -> None:
    ts_ms = np.random.default_rng(seed).integers(0, 40, 30)
    judged = np.zeros(30, np.int64)
    ended = 10
    for period in prequential(ts_ms, from_ms=10, period_ms=period_ms):
        assert period.from_ms >= ended
        ended = period.until_ms
        assert (period.known == (ts_ms < period.from_ms)).all()
        assert period.judged.any()
        judged += period.judged
    assert (judged == (ts_ms >= 10)).all()


def test_a_period_takes_time() -> None:
    with pytest.raises(ValueError, match="never ends"):
        next(prequential(np.arange(3), from_ms=0, period_ms=0))

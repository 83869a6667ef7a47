"""What is said about lists: intervals that hold what they promise, parts that are whole, and breadth."""

from __future__ import annotations

import numpy as np
import pytest

from stream.core.scales import HOUR_MS
from tests.training.backtest_log import START_MS, material
from training.backtest.analysis import analyse
from training.backtest.judged import Judged, judged_targets
from training.backtest.run import Outcome
from training.backtest.significance import gains, paired_difference, share_interval
from training.backtest.slices import parts_of, windows_of
from training.metrics import hit_rate, ndcg, reciprocal_rank

JUDGED = Judged(from_ms=START_MS + 1_500_000)


def test_gains_add_up_to_the_metrics() -> None:
    place = np.random.default_rng(0).integers(0, 13, 500)
    mean = {name: values.mean() for name, values in gains(place, 10).items()}
    assert mean == pytest.approx({"hr": hit_rate(place), "ndcg": ndcg(place), "mrr": reciprocal_rank(place)})


def test_no_difference_is_no_difference() -> None:
    rng = np.random.default_rng(1)
    gain, user = rng.random(400), rng.integers(0, 60, 400)
    found = paired_difference(gain, gain, user)
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_is_seen_and_its_sign_is_that_of_the_second() -> None:
    rng = np.random.default_rng(2)
    one = (rng.random(2000) < 0.3).astype(float)
    two = np.maximum(one, rng.random(2000) < 0.1)
    found = paired_difference(one, two, rng.integers(0, 300, 2000))
    assert 0 < found.low < found.mean < found.high
    assert found.p <= 0.001


def test_users_that_are_all_of_a_kind_widen_the_interval() -> None:
    """Twenty users with a hundred equal targets each say no more than twenty targets."""
    of_user = np.random.default_rng(3).random(20)
    gain, user = np.repeat(of_user, 100), np.repeat(np.arange(20), 100)
    grouped, alone = share_interval(gain, user), share_interval(gain, np.arange(2000))
    assert grouped.high - grouped.low > 5 * (alone.high - alone.low)


def test_the_interval_holds_the_truth_about_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(4)
    n_held = 0
    for number in range(200):
        taste = rng.normal(0.0, 1.0, 80)
        user = rng.integers(0, 80, 600)
        found = share_interval(taste[user] + rng.normal(0.0, 1.0, 600), user, seed=number)
        n_held += found.low <= 0.0 <= found.high
    assert 175 <= n_held <= 199


def test_parts_of_one_kind_hold_each_target_once() -> None:
    small = material()
    targets = judged_targets(small.log, small.types, small.fields, JUDGED)
    parts = parts_of(small, targets, JUDGED)
    kinds = {part.by for part in parts}
    assert {"user", "history length", "hour (UTC)", "device", "event type", "item age"} <= kinds
    for kind in kinds:
        assert (np.sum([part.mask for part in parts if part.by == kind], axis=0) == 1).all(), kind


def test_windows_cover_all_targets_and_are_few() -> None:
    ts_ms = START_MS + np.sort(np.random.default_rng(5).integers(0, 400 * HOUR_MS, 5000))
    ends, width_ms, step_ms = windows_of(ts_ms)
    assert len(ends) <= 125
    assert ends[-1] > ts_ms[-1] >= ends[-1] - step_ms
    assert ends[0] - width_ms <= ts_ms[0]


def outcome(name: str, items: np.ndarray, wanted: np.ndarray) -> Outcome:  # type: ignore[type-arg]
    found = items == wanted[:, None]
    place = np.where(found.any(1), found.argmax(1) + 1, 0)
    scores = np.tile(np.linspace(1, 0, items.shape[1], dtype=np.float32), (len(items), 1))
    return Outcome(name, np.arange(len(items)), place, items.astype(np.int32), scores, 1000, len(items), 1.0)


def test_breadth_tells_the_monotonous_from_the_manifold() -> None:
    small = material()
    targets = judged_targets(small.log, small.types, small.fields, JUDGED)
    wanted = small.log.item[targets.row]
    rng = np.random.default_rng(6)
    same = np.tile(np.arange(10), (len(wanted), 1))
    others = np.array([rng.permutation(50)[:10] for _ in wanted])
    analysis = analyse(small, targets, JUDGED, [outcome("same", same, wanted), outcome("others", others, wanted)])
    assert analysis.breadth["same"].n_items == 10
    assert analysis.breadth["same"].coverage == pytest.approx(0.2)
    assert analysis.breadth["others"].coverage == 1.0
    assert analysis.breadth["same"].gini == 0.0
    assert len(analysis.differences) == 1
    of = analysis.as_json()["bundles"]["others"]
    assert of["hr_at_10"] == pytest.approx((others == wanted[:, None]).any(1).mean())

"""Intervals that hold at every look, by simulation; and a fixed-horizon test, which does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stream.feedback.inference import difference, rate, split_e_value

N_DAYS = 30


def visits(rng: np.random.Generator, lift: float, n_days: int = N_DAYS) -> list[tuple[np.ndarray, np.ndarray]]:
    """Day by day, each user's hits and recommendations so far: some come often, each with a rate of their own.

    Users of a day arrive with new ones joining, so that sums grow by users and by visits.
    """
    n_users = 300
    first_day = rng.integers(0, n_days, n_users)
    own = rng.beta(2, 8, n_users) + lift
    frequency = rng.gamma(1.0, 3.0, n_users)
    hits, made, looks = np.zeros(n_users), np.zeros(n_users), []
    for day in range(n_days):
        n = np.where(first_day <= day, rng.poisson(frequency), 0)
        made = made + n
        hits = hits + rng.binomial(n, np.clip(own, 0, 1))
        seen = made > 0
        looks.append((hits[seen], made[seen]))
    return looks


def peeked(lift: float, n_runs: int, seed: int) -> tuple[float, float, float]:
    """Share of experiments in which some day's look found a difference: sequentially, by a z-test, and that missed."""
    rng = np.random.default_rng(seed)
    found = fooled = missed = 0
    for _ in range(n_runs):
        looks = list(zip(visits(rng, 0.0), visits(rng, lift), strict=True))
        told = [difference(rate(*new), rate(*old), effect=0.03) for old, new in looks]
        there = [each for each in told if each is not None]
        found += any(each.low > 0 or each.high < 0 for each in there)
        fooled += any(abs(each.z) > 1.96 for each in there)
        missed += any(not each.low <= lift <= each.high for each in there)
    return found / n_runs, fooled / n_runs, missed / n_runs


def test_daily_peeking_keeps_the_error_rate_and_a_fixed_horizon_test_does_not() -> None:
    """30 looks at no difference, users of very different activity: at most 5 % false alarms, against some 25 %."""
    found, fooled, missed = peeked(0.0, n_runs=600, seed=1)
    assert found == missed
    assert found <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)
    assert fooled >= 0.15


def test_a_difference_is_found_and_held_at_every_look() -> None:
    found, _, missed = peeked(0.08, n_runs=150, seed=2)
    assert found >= 0.9
    assert missed <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 150)


def test_the_variance_counts_users_not_recommendations() -> None:
    """Ten users with 100 recommendations each, all hit or none: as sure as ten coins, not as a thousand."""
    hits, made = np.array([100.0] * 5 + [0.0] * 5), np.full(10, 100.0)
    found = rate(hits, made)
    assert found.value == 0.5
    assert found.variance == pytest.approx(0.25 / 9)
    low, high = found.interval()
    assert (low, high) == pytest.approx((0.5 - 1.96 / 6, 0.5 + 1.96 / 6), abs=1e-3)


def test_the_evidence_and_the_interval_agree() -> None:
    """Zero leaves the interval exactly when the evidence reaches 1 / alpha."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        base = rate(rng.binomial(10, 0.3, 200).astype(float), np.full(200, 10.0))
        one = rate(rng.binomial(10, 0.3 + rng.normal(0, 0.05), 200).astype(float), np.full(200, 10.0))
        found = difference(one, base, alpha=0.1, effect=0.02)
        assert found is not None
        assert (found.low > 0 or found.high < 0) == (found.e >= 10)


def test_too_little_says_nothing() -> None:
    few = rate(np.ones(5), np.full(5, 2.0))
    assert difference(few, few) is None
    never = rate(np.zeros(100), np.full(100, 2.0))
    assert difference(never, never) is None
    assert math.isnan(rate(np.zeros(0), np.zeros(0)).value)


def test_a_fair_split_raises_no_alarm_at_any_look_and_a_crooked_one_does() -> None:
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(300):
        counts = np.cumsum(rng.multinomial(200, [0.7, 0.2, 0.1], size=60), axis=0)
        alarms += any(split_e_value(row, [7, 2, 1]) >= 20 for row in counts.tolist())
    assert alarms / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)
    assert split_e_value([50_000, 48_500], [1, 1]) > 1_000
    assert split_e_value([50_000, 49_900], [1, 1]) < 1
    assert split_e_value([100, 1], [1, 0]) == math.inf

"""Latencies and rates."""

import numpy as np
import pytest

from stream.live.timing import Latencies, Rate


def test_percentiles_are_those_of_the_sorted_latencies() -> None:
    latencies = Latencies()
    values = np.random.default_rng(0).integers(0, 500, 1001)
    for value in values.tolist():
        latencies.add(value)
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        assert latencies.percentile(share) == np.quantile(values, share, method="inverted_cdf")


def test_without_latencies_there_is_no_percentile_and_negative_ones_count_as_zero() -> None:
    latencies = Latencies()
    assert latencies.percentile(0.5) is None
    latencies.add(-7)
    assert latencies.percentile(0.5) == 0


def test_a_rate_is_the_mean_of_whole_seconds_and_quiet_ones_count() -> None:
    """second   10  11  12  13  14
    events      4   0   8   2   now"""
    rate = Rate(60)
    for second, n in ((10, 4), (12, 8), (13, 2)):
        rate.add(n, second + 0.5)
    assert rate.per_s(14.1, over_s=3) == pytest.approx(10 / 3)
    assert rate.per_s(14.1, over_s=30) == pytest.approx(14 / 4)
    assert rate.history(14.1)[-5:] == [0, 4, 0, 8, 2]
    assert rate.per_s(80.0) == 0.0

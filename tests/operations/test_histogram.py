"""Histograms count as a naive one does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.operations.histogram import SECONDS, Histogram

values = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 300)), max_size=50)


@given(values)
def test_each_bucket_holds_what_does_not_exceed_its_bound(observed: list[tuple[float, int]]) -> None:
    histogram = Histogram()
    for value, n in observed:
        histogram.observe(value, n)
    for bound, count in histogram.buckets():
        assert count == sum(n for value, n in observed if value <= float(bound))
    assert histogram.n == sum(n for _, n in observed)
    assert histogram.sum == pytest.approx(sum(value * n for value, n in observed))


@given(values, st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(observed: list[tuple[float, int]], share: float) -> None:
    histogram, every = Histogram(), sorted(value for value, n in observed for _ in range(n))
    for value, n in observed:
        histogram.observe(value, n)
    estimate = histogram.quantile(share)
    if not every:
        assert estimate is None
        return
    assert estimate is not None
    true = next(value for rank, value in enumerate(every, start=1) if rank >= share * len(every) * (1 - 1e-12))
    bounds = [0.0, *SECONDS]
    above = next((bound for bound in bounds[1:] if true <= bound), SECONDS[-1])
    below = bounds[bounds.index(above) - 1] if true <= SECONDS[-1] else SECONDS[-1]
    assert below * (1 - 1e-9) <= estimate <= above * (1 + 1e-9)


def test_bounds_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="ascend"):
        Histogram((1.0, 1.0))

"""Distributions in bins, and the index by which another one is told from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stream.core.distributions import CHANGED, WORTH_A_LOOK, Binned, psi

RNG = np.random.default_rng(0)


@given(arrays.arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e6, 1e6)))
def test_every_value_is_in_one_bin_and_shares_are_those_of_the_values(values: np.ndarray) -> None:  # type: ignore[type-arg]
    binned = Binned.of(values)
    counts = [0] * len(binned.shares)
    for value in values.tolist():
        counts[next((at for at, edge in enumerate(binned.edges) if value <= edge), len(binned.edges))] += 1
    assert binned.counts(values).tolist() == counts
    np.testing.assert_allclose(binned.shares, np.array(counts) / len(values), atol=1e-6)


def test_another_draw_of_the_same_distribution_is_no_drift() -> None:
    binned = Binned.of(RNG.normal(size=5000))
    assert psi(binned, binned.counts(RNG.normal(size=2000))) < WORTH_A_LOOK / 3


@pytest.mark.parametrize(("shift", "least"), [(0.4, WORTH_A_LOOK), (1.0, CHANGED)])
def test_a_shift_is_drift_and_a_larger_one_more(shift: float, least: float) -> None:
    binned = Binned.of(RNG.normal(size=5000))
    assert psi(binned, binned.counts(RNG.normal(shift, size=2000))) > least


def test_a_rare_flag_that_becomes_common_is_noticed() -> None:
    """Nine of ten quantiles are the same value: two bins are left, and they are enough."""
    flags = (RNG.random(5000) < 0.02).astype(np.float32)
    binned = Binned.of(flags)
    assert len(binned.edges) == 1
    assert psi(binned, binned.counts(flags[:1000])) < 0.02
    assert psi(binned, binned.counts((RNG.random(1000) < 0.4).astype(np.float32))) > CHANGED


def test_the_index_is_that_of_the_formula() -> None:
    binned = Binned((0.0, 1.0), (0.2, 0.3, 0.5))
    live = np.array([0.4, 0.4, 0.2])
    expected = float(((live - binned.shares) * np.log(live / np.array(binned.shares))).sum())
    assert psi(binned, np.round(live * 1e6).astype(np.int64), n_reference=1e9) == pytest.approx(expected, rel=1e-4)
    assert psi(binned, np.zeros(3, np.int64)) == 0.0


def test_what_has_no_values_has_no_distribution() -> None:
    with pytest.raises(ValueError, match="no values"):
        Binned.of(np.array([np.nan]))

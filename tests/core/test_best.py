"""The k best of a row are those that sorting it would give, in the same order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from stream.core.best import best_of


def by_sorting(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(B, k) places of the best, by the definition: falling scores, NaN last, equal ones as they stand."""
    falling = np.where(np.isnan(scores), np.inf, -scores)
    order = np.stack([np.lexsort((np.arange(len(row)), np.isnan(row), row_falling))
                      for row, row_falling in zip(scores, falling, strict=True)])  # fmt: skip
    return order[:, :k]


def agree(scores: NDArray[np.float32], k: int) -> None:
    places, values = best_of(scores, k)
    np.testing.assert_array_equal(places, by_sorting(scores, k))
    np.testing.assert_array_equal(values, np.take_along_axis(scores, places, axis=1))


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 60)),
        elements=st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, np.inf, -np.inf, np.nan]),
            st.floats(width=32, allow_nan=True),
        ),
    ),
    st.data(),
)
def test_any_numbers_are_ordered_as_sorting_orders_them(scores: NDArray[np.float32], data: st.DataObject) -> None:
    agree(scores, data.draw(st.integers(1, scores.shape[1])))


@pytest.mark.parametrize("k", [1, 10, 100, 1000, 3000])
@pytest.mark.parametrize("n_scores", [3000, 3001])
def test_scores_of_a_vocabulary(k: int, n_scores: int) -> None:
    agree(np.random.default_rng(k).standard_normal((5, n_scores)).astype(np.float32), k)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda row: np.full_like(row, 0.25), id="all equal"),
        pytest.param(np.round, id="many equal"),
        pytest.param(lambda row: np.exp(20 * row), id="one far above the others"),
        pytest.param(np.sort, id="rising"),
        pytest.param(lambda row: np.sort(row)[::-1], id="falling"),
        pytest.param(lambda row: np.where(row > 0, -np.inf, row), id="half masked"),
        pytest.param(lambda row: np.where(np.arange(len(row)) < 2990, -np.inf, row), id="nearly all masked"),
        pytest.param(lambda row: np.full_like(row, -np.inf), id="all masked"),
        pytest.param(lambda row: np.where(row > 2, np.inf, row), id="infinite ones"),
        pytest.param(lambda row: np.where(row < 1, np.nan, row), id="mostly NaN"),
        pytest.param(lambda row: np.full_like(row, np.nan), id="all NaN"),
        pytest.param(lambda row: row * np.float32(1e-42), id="denormal"),
    ],
)
def test_scores_that_are_no_bell(spoil: object) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 3000)).astype(np.float32)
    rows[1] = spoil(rows[1]).astype(np.float32)  # type: ignore[operator]
    agree(rows, 100)


def test_more_than_there_are_cannot_be_given() -> None:
    with pytest.raises(ValueError, match="the best 4 of 3"):
        best_of(np.zeros((1, 3), np.float32), 4)

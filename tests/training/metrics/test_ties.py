"""The place of a wanted item is the one that sorting the whole catalogue gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics.ties import TIES, Ties, places_by_score


@given(seed=st.integers(0, 2**32), ties=st.sampled_from(TIES))
def test_the_place_is_that_in_the_sorted_catalogue(seed: int, ties: Ties) -> None:
    rng = np.random.default_rng(seed)
    n_items = int(rng.integers(1, 8))
    scores = rng.integers(0, 4, (5, n_items)).astype(np.float32)  # few values, many ties
    wanted = rng.integers(-1, n_items, 5)
    excluded = rng.random((5, n_items)) < 0.3
    found = places_by_score(scores, wanted, excluded=excluded, ties=ties)
    for row, item in enumerate(wanted.tolist()):
        if item < 0 or excluded[row, item]:
            assert found[row] == 0
            continue
        key = {
            "against": lambda i, item=item: i == item,
            "for": lambda i, item=item: i != item,
            "by_number": lambda i: i,
        }[ties]
        order = sorted((i for i in range(n_items) if not excluded[row, i]), key=lambda i: (-scores[row, i], key(i)))
        assert found[row] == order.index(item) + 1


def test_a_model_that_knows_nothing_finds_nothing() -> None:
    scores = np.zeros((3, 100))
    assert places_by_score(scores, np.array([0, 50, 99])).tolist() == [100, 100, 100]


def test_an_item_outside_the_catalogue_has_no_place() -> None:
    assert places_by_score(np.zeros((2, 0)), np.array([-1, -1])).tolist() == [0, 0]


def test_what_has_no_order_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        places_by_score(np.array([[np.nan, 1.0]]), np.array([1]))
    with pytest.raises(ValueError, match="item 2 is not one of 2"):
        places_by_score(np.zeros((1, 2)), np.array([2]))
    with pytest.raises(ValueError, match="do not fit"):
        places_by_score(np.zeros((1, 2)), np.array([1, 1]))
    with pytest.raises(ValueError, match="not 'luck'"):
        places_by_score(np.zeros((1, 2)), np.array([1]), ties="luck")  # type: ignore[arg-type]

"""Lists drawn by the hash of their id: as likely as they say, and the same again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.exploration import Exploration, draw, list_probabilities, seed_of

POOL = np.array([10, 11, 12, 13], np.int32)
SCORES = np.array([2.0, 1.0, 1.0, -1.0], np.float32)
WAYS = (
    Exploration("softmax", temperature=0.7),
    Exploration("softmax", first=2, temperature=2.0),
    Exploration("epsilon", epsilon=0.3),
    Exploration("epsilon", first=3, epsilon=1.0),
)


def drawn(how: Exploration, n: int, n_lists: int) -> tuple[np.ndarray, np.ndarray]:
    seeds = np.array([seed_of("s", f"rec-{number}") for number in range(n_lists)], np.uint64)
    return draw(how, np.tile(POOL, (n_lists, 1)), np.tile(SCORES, (n_lists, 1)), np.full(n_lists, n), seeds)


@pytest.mark.parametrize("how", WAYS, ids=lambda how: f"{how.kind}-from-{how.first}")
def test_each_list_is_as_often_there_as_the_product_of_its_propensities_says(how: Exploration) -> None:
    """20,000 lists of three out of four items, against all permutations."""
    n_lists = 20_000
    columns, likely = drawn(how, 3, n_lists)
    found = {tuple(row): 0 for row in itertools.permutations(range(4), 3)}
    for row in columns.tolist():
        found[tuple(row)] += 1
    total = 0.0
    for listed, n in found.items():
        expected = list_probabilities(how, SCORES, np.array(listed)).prod()
        total += expected
        assert abs(n - n_lists * expected) <= 5 * np.sqrt(n_lists * expected * (1 - expected)) + 1e-9, listed
    assert total == pytest.approx(1.0)
    for row, chances in zip(columns[:300], likely[:300], strict=True):
        np.testing.assert_allclose(chances, list_probabilities(how, SCORES, row), rtol=1e-12)


@given(
    scores=st.lists(
        st.floats(-(2.0**99), 2.0**99, width=32) | st.sampled_from([np.inf, -np.inf]), min_size=1, max_size=8
    ),
    n=st.integers(1, 10),
    number=st.integers(0, 10**6),
    how=st.sampled_from(WAYS),
)
@settings(max_examples=200)
def test_any_scores_give_a_list_without_repetition_and_with_chances(
    scores: list[float], n: int, number: int, how: Exploration
) -> None:
    """Huge, equal and infinite scores among them; a pool that is too small gives what it has."""
    pool = np.sort(np.array(scores, np.float32))[::-1][None]
    items = np.arange(pool.size, dtype=np.int32)[None]
    seeds = np.array([seed_of("", str(number))], np.uint64)
    columns, likely = draw(how, items, pool, np.array([n]), seeds)
    shown = columns[0][columns[0] >= 0].tolist()
    assert len(shown) == len(set(shown)) == min(n, pool.size)
    assert shown[: how.first - 1] == list(range(min(how.first - 1, len(shown))))
    assert ((likely[0, : len(shown)] > 0) & (likely[0, : len(shown)] <= 1)).all()
    assert not likely[0, len(shown) :].any()
    again, _ = draw(how, np.repeat(items, 3, 0), np.repeat(pool, 3, 0), np.full(3, n), np.repeat(seeds, 3))
    assert (again == columns).all(), "neither company nor repetition changes a list"


def test_without_exploration_only_the_best_in_their_order_are_likely() -> None:
    assert list_probabilities(None, SCORES, np.array([0, 1, 2])).tolist() == [1, 1, 1]
    assert list_probabilities(None, SCORES, np.array([0, 2, 1])).tolist() == [1, 0, 0]
    assert list_probabilities(None, SCORES, np.array([-1, 0, 1])).tolist() == [0, 0, 0]


def test_salts_and_ids_decide() -> None:
    assert seed_of("a", "1") == seed_of("a", "1") != seed_of("b", "1")
    assert seed_of("a", "1") != seed_of("a", "2")


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "dice"}, {"first": 0}, {"pool": 1}, {"temperature": 0.0}, {"temperature": np.nan}, {"epsilon": 0}],
)
def test_figures_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"softmax|counted|temperature|epsilon"):
        Exploration(**wrong)  # type: ignore[arg-type]

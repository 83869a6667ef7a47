"""Metrics of lists agree with trec_eval's, by way of ir_measures, on random lists and random wishes."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.metrics import lists
from training.metrics.lists import Judged, judge
from training.metrics.single import hit_rate, places
from training.metrics.single import ndcg as ndcg_of_place
from training.metrics.single import reciprocal_rank as reciprocal_of_place

THEIRS = {
    "precision": "P@{k}",
    "recall": "R@{k}",
    "hit": "Success@{k}",
    "ndcg": "nDCG@{k}",
    "reciprocal_rank": "RR@{k}",
    "average_precision": "AP@{k}",
}


@st.composite
def judgements(draw: st.DrawFn) -> tuple[NDArray[np.int64], list[NDArray[np.int64]], list[NDArray[np.float64]]]:
    """Lists of distinct items, some shorter than others, what was wanted instead, and how much."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_lists, n_places, n_items = draw(st.integers(1, 5)), draw(st.integers(1, 12)), draw(st.integers(12, 20))
    items = np.stack([rng.permutation(n_items)[:n_places] for _ in range(n_lists)])
    shorter = rng.integers(0, n_places + 1, n_lists)
    items[np.arange(n_places) >= shorter[:, None]] = -1
    wanted = [rng.permutation(n_items)[: rng.integers(1, 9)] for _ in range(n_lists)]
    return items, wanted, [rng.integers(1, 4, len(some)).astype(float) for some in wanted]


def their(name: str, items: NDArray[np.int64], wanted: list[NDArray[np.int64]], gains: list[NDArray[np.float64]],
          k: int) -> NDArray[np.float64]:  # fmt: skip
    """The same figure by ir_measures; a list that it does not know, because it is empty, has 0."""
    qrels = [
        ir_measures.Qrel(str(row), str(item), int(gain))
        for row, some in enumerate(wanted)
        for item, gain in zip(some, gains[row], strict=True)
    ]
    run = [
        ir_measures.ScoredDoc(str(row), str(item), float(-place))
        for row, some in enumerate(items)
        for place, item in enumerate(some)
        if item >= 0
    ]
    figures = np.zeros(len(items))
    for found in ir_measures.iter_calc([ir_measures.parse_measure(THEIRS[name].format(k=k))], qrels, run):
        figures[int(found.query_id)] = found.value
    return figures


@pytest.mark.parametrize("name", THEIRS)
@settings(max_examples=40, deadline=None)
@given(drawn=judgements(), k=st.integers(1, 14))
def test_each_figure_is_the_one_that_trec_eval_gives(
    name: str,
    drawn: tuple[NDArray[np.int64], list[NDArray[np.int64]], list[NDArray[np.float64]]],
    k: int,
) -> None:
    items, wanted, gains = drawn
    ours = getattr(lists, name)(judge(items, wanted, gains), k)
    np.testing.assert_allclose(ours, their(name, items, wanted, gains, k), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(drawn=judgements(), k=st.integers(1, 14))
def test_f1_is_the_harmonic_mean_of_trec_evals_precision_and_recall(
    drawn: tuple[NDArray[np.int64], list[NDArray[np.int64]], list[NDArray[np.float64]]], k: int
) -> None:
    p, r = (their(name, *drawn, k) for name in ("precision", "recall"))
    expected = np.where(p + r > 0, 2 * p * r / np.where(p + r > 0, p + r, 1), 0)
    np.testing.assert_allclose(lists.f1(judge(*drawn), k), expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(drawn=judgements(), k=st.integers(1, 14))
def test_with_one_wanted_item_the_figures_are_those_of_its_place(
    drawn: tuple[NDArray[np.int64], list[NDArray[np.int64]], list[NDArray[np.float64]]], k: int
) -> None:
    items, several, _ = drawn
    wanted = np.array([some[0] for some in several])
    judged, place = judge(items, [np.array([item]) for item in wanted]), places(items, wanted)
    assert lists.hit(judged, k).mean() == hit_rate(place, k)
    assert lists.recall(judged, k).mean() == hit_rate(place, k)
    assert lists.ndcg(judged, k).mean() == pytest.approx(ndcg_of_place(place, k))
    assert lists.reciprocal_rank(judged, k).mean() == pytest.approx(reciprocal_of_place(place, k))


def test_a_repeated_item_counts_once() -> None:
    judged = judge(np.array([[3, 3, 5]]), [np.array([3])])
    assert judged.gain.tolist() == [[1, 0, 0]]
    assert lists.recall(judged, 3).tolist() == [1.0]


def test_a_list_of_nothing_finds_nothing() -> None:
    judged = judge(np.full((1, 3), -1), [np.array([0, 4])])
    for name in (*THEIRS, "f1"):
        assert getattr(lists, name)(judged, 3).tolist() == [0.0]


@pytest.mark.parametrize(
    ("wanted", "gains"), [([], None), ([2, 2], None), ([-1], None), ([2], [0.0]), ([2], [float("nan")]), ([2], [1, 1])]
)
def test_what_cannot_be_judged_is_refused(wanted: list[int], gains: list[float] | None) -> None:
    with pytest.raises(ValueError, match="list 0"):
        judge(np.array([[1, 2]]), [np.array(wanted, np.int64)], None if gains is None else [np.array(gains)])


def test_lists_and_wishes_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 lists for 1 sets"):
        judge(np.zeros((2, 3), np.int64), [np.array([1])])


@pytest.mark.parametrize("name", [*THEIRS, "f1"])
def test_no_list_is_cut_before_its_first_place(name: str) -> None:
    judged: Judged = judge(np.array([[1, 2]]), [np.array([1])])
    with pytest.raises(ValueError, match="not at 0"):
        getattr(lists, name)(judged, 0)

"""Metrics beside those of lists agree with scikit-learn and SciPy on random input."""

from __future__ import annotations

import doctest
import importlib
import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from training.metrics import beyond, calibration, classes, errors

SEEDS = st.integers(0, 2**32)


@pytest.mark.parametrize(
    "name",
    [f"metrics.{part}" for part in ("single", "ties", "lists", "beyond", "calibration", "classes", "errors")]
    + ["split"],
)
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"training.{name}")).failed == 0


# ---- beyond accuracy ----


@given(seed=SEEDS, k=st.integers(1, 6))
def test_coverage_counts_items_that_are_shown_at_all(seed: int, k: int) -> None:
    items = np.random.default_rng(seed).integers(-1, 12, (4, 5))
    shown = {item for some in items.tolist() for item in some[:k] if item >= 0}
    assert beyond.coverage(items, 12, k) == len(shown) / 12


@given(seed=SEEDS, k=st.integers(1, 6))
def test_novelty_is_the_mean_information_of_the_items_listed(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    items, count = rng.integers(-1, 12, (4, 5)), rng.integers(0, 50, 12)
    for found, some in zip(beyond.novelty(items, count, k), items.tolist(), strict=True):
        p = [(count[item] + 1) / (count.sum() + 12) for item in some[:k] if item >= 0]
        if not p:
            assert np.isnan(found)
            continue
        assert found == pytest.approx(np.mean([-math.log2(one) for one in p]))


@settings(deadline=None)
@given(seed=SEEDS, k=st.integers(1, 6))
def test_diversity_is_the_mean_jaccard_distance_of_pairs(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    items, member = rng.integers(-1, 12, (4, 5)), rng.random((12, 3)) < 0.5
    for found, some in zip(beyond.diversity(items, member, k), items, strict=True):
        own = member[some[:k][some[:k] >= 0]]
        if len(own) < 2:
            assert np.isnan(found)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            distance = sklearn.metrics.pairwise_distances(own, metric="jaccard")
        assert found == pytest.approx(distance.sum() / (len(own) * (len(own) - 1)))


def test_with_one_category_each_diversity_is_the_share_of_unlike_pairs() -> None:
    member = beyond.one_hot(np.array([0, 0, 1, -1]))
    assert beyond.diversity(np.array([[0, 1, 2], [0, 1, -1], [2, 3, -1]]), member, 3).tolist() == [2 / 3, 0.0, 1.0]


# ---- calibration ----


@settings(deadline=None)
@given(seed=SEEDS, n_bins=st.integers(1, 12))
def test_calibration_error_weighs_the_bins_of_scikit_learn(seed: int, n_bins: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.random(60)
    happened = rng.random(60) < 0.5
    share, said = calibration_curve(happened, probability, n_bins=n_bins)
    n_in_bin = np.histogram(probability, n_bins, (0, 1))[0]
    expected = (np.abs(share - said) * n_in_bin[n_in_bin > 0]).sum() / 60
    assert calibration.expected_calibration_error(probability, happened, n_bins) == pytest.approx(expected)


def test_the_ends_of_the_range_have_a_bin() -> None:
    assert calibration.expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


@given(seed=SEEDS)
def test_the_divergence_of_category_mixes_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    history, listed = rng.integers(0, 4, (5, 6)).astype(float), rng.integers(0, 4, (5, 6)).astype(float)
    history[:, 0] += 1
    listed[:, 1] += 1
    p, q = history / history.sum(1, keepdims=True), listed / listed.sum(1, keepdims=True)
    expected = scipy.stats.entropy(p, 0.99 * q + 0.01 * p, axis=1)
    np.testing.assert_allclose(calibration.category_kl(history, listed), expected, atol=1e-12)


def test_a_mix_that_is_not_there_has_no_divergence() -> None:
    found = calibration.category_kl(np.array([[0.0, 0], [1, 1], [1, 1]]), np.array([[1.0, 0], [0, 0], [2, 2]]))
    assert np.isnan(found[:2]).all()
    assert found[2] == 0


# ---- classes and values ----


@settings(deadline=None)
@given(seed=SEEDS, n_classes=st.integers(1, 5))
def test_figures_of_classes_are_those_of_scikit_learn(seed: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(0, n_classes, 12), rng.integers(0, n_classes, 12)
    assert classes.accuracy(true, predicted) == sklearn.metrics.accuracy_score(true, predicted)
    assert classes.accuracy(true, predicted) == pytest.approx(
        sklearn.metrics.precision_score(true, predicted, average="micro")
    )
    for name in ("precision", "recall", "f1"):
        theirs = getattr(sklearn.metrics, f"{name}_score")
        for average in ("macro", "weighted"):
            expected = theirs(true, predicted, average=average, zero_division=0)
            assert getattr(classes, name)(true, predicted, average) == pytest.approx(expected)
        expected = theirs(true == 1, predicted == 1, zero_division=0)
        assert getattr(classes, name)(true, predicted) == pytest.approx(expected)


@given(seed=SEEDS)
def test_errors_of_values_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, predicted = rng.normal(size=20), rng.normal(size=20).astype(np.float32)
    assert errors.mean_absolute_error(true, predicted) == pytest.approx(
        sklearn.metrics.mean_absolute_error(true, predicted)
    )
    assert errors.root_mean_squared_error(true, predicted) == pytest.approx(
        sklearn.metrics.root_mean_squared_error(true, predicted)
    )


def test_nothing_is_judged_on_nothing() -> None:
    none = np.zeros(0)
    codes = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="probabilities"):
        calibration.expected_calibration_error(none, none.astype(bool))
    with pytest.raises(ValueError, match="cases"):
        classes.accuracy(codes, codes)
    with pytest.raises(ValueError, match="values"):
        errors.mean_absolute_error(none, none)


def test_what_is_no_such_number_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration.expected_calibration_error(np.array([1.5]), np.array([True]))
    with pytest.raises(ValueError, match="not negative"):
        calibration.category_kl(np.array([[-1.0]]), np.array([[1.0]]))
    with pytest.raises(ValueError, match="codes from 0"):
        classes.accuracy(np.array([-1]), np.array([0]))
    with pytest.raises(ValueError, match="missing or infinite"):
        errors.mean_absolute_error(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match="not one of 2"):
        beyond.coverage(np.array([[2]]), 2)

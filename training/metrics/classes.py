"""Predicted classes against true ones, both (N,) codes from 0: an item, a category, an event type, yes or no."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Average", "accuracy", "f1", "precision", "recall"]

Average = Literal["yes", "macro", "weighted"]
"""`yes`: the figure of class 1. `macro`: mean over the classes that occur in either. `weighted`: by how often each is
true. Where a class is never predicted (or never true), its precision (or recall) is 0: it helped nobody.

(The mean over single cases, `micro`, is the accuracy.)"""


def accuracy(true: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Share of cases where both agree. Sokolova and Lapalme: A systematic analysis of performance measures for
    classification tasks, Information Processing and Management 45 (2009).

    >>> accuracy(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
    0.75
    """
    _check(true, predicted)
    return float((true == predicted).mean())


def precision(true: NDArray[np.integer], predicted: NDArray[np.integer], average: Average = "yes") -> float:
    """TP / (TP + FP) of each class, averaged. Sokolova and Lapalme 2009, table 3."""
    right, n_true, n_predicted = _counts(true, predicted)
    return _mean(_ratio(right, n_predicted), n_true, n_predicted, average)


def recall(true: NDArray[np.integer], predicted: NDArray[np.integer], average: Average = "yes") -> float:
    """TP / (TP + FN) of each class, averaged. Sokolova and Lapalme 2009, table 3."""
    right, n_true, n_predicted = _counts(true, predicted)
    return _mean(_ratio(right, n_true), n_true, n_predicted, average)


def f1(true: NDArray[np.integer], predicted: NDArray[np.integer], average: Average = "yes") -> float:
    """2 TP / (2 TP + FP + FN) of each class, averaged: the harmonic mean of precision and recall.

    van Rijsbergen: Information Retrieval, 2nd edition, 1979, chapter 7.
    """
    right, n_true, n_predicted = _counts(true, predicted)
    return _mean(_ratio(2 * right, n_true + n_predicted), n_true, n_predicted, average)


def _check(true: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
    if true.shape != predicted.shape or true.ndim != 1 or len(true) == 0:
        raise ValueError(f"{predicted.shape} predictions for {true.shape} cases")
    if min(true.min(), predicted.min()) < 0:
        raise ValueError("classes are codes from 0")


def _counts(
    true: NDArray[np.integer], predicted: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(C,) right predictions, cases and predictions of each class."""
    _check(true, predicted)
    n_classes = max(2, int(true.max()) + 1, int(predicted.max()) + 1)
    right = np.bincount(true[true == predicted], minlength=n_classes)
    n_true, n_predicted = np.bincount(true, minlength=n_classes), np.bincount(predicted, minlength=n_classes)
    return right.astype(np.int64), n_true.astype(np.int64), n_predicted.astype(np.int64)


def _mean(
    figure: NDArray[np.float64], n_true: NDArray[np.int64], n_predicted: NDArray[np.int64], average: Average
) -> float:
    if average == "yes":
        return float(figure[1])
    if average == "weighted":
        return float((figure * n_true).sum() / n_true.sum())
    return float(figure[(n_true > 0) | (n_predicted > 0)].mean())


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)

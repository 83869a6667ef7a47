"""Predicted values (ratings, amounts) against true ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["mean_absolute_error", "root_mean_squared_error"]


def mean_absolute_error(true: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """MAE = mean of |predicted - true|, in the unit of the values.

    Willmott and Matsuura: Advantages of the mean absolute error over the root mean square error, Climate Research 30
    (2005).

    >>> mean_absolute_error(np.array([4.0, 2.0]), np.array([5.0, 2.0]))
    0.5
    """
    return float(np.abs(_difference(true, predicted)).mean())


def root_mean_squared_error(true: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """RMSE = square root of the mean of (predicted - true)², in the unit of the values: large errors count more.

    Herlocker et al.: Evaluating collaborative filtering recommender systems, ACM TOIS 22 (2004).

    >>> root_mean_squared_error(np.array([4.0, 2.0]), np.array([5.0, 1.0]))
    1.0
    """
    return math.sqrt(float(np.square(_difference(true, predicted)).mean()))


def _difference(true: NDArray[np.floating], predicted: NDArray[np.floating]) -> NDArray[np.float64]:
    if true.shape != predicted.shape or true.size == 0:
        raise ValueError(f"{predicted.shape} predictions for {true.shape} values")
    difference = predicted.astype(np.float64) - true.astype(np.float64)
    if not np.isfinite(difference).all():
        raise ValueError("a value is missing or infinite: leave such cases out on purpose, not by accident")
    return difference

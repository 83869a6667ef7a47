"""Whether what is said with 70 % happens in 70 of 100 cases, and whether lists have the mix that their user has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["category_kl", "expected_calibration_error"]

_SMOOTHING = 0.01


def expected_calibration_error(
    probability: NDArray[np.floating], happened: NDArray[np.bool_], n_bins: int = 10
) -> float:
    """ECE = sum over bins b of n_b / n |share that happened in b - mean probability in b|.

    Bins divide [0, 1] evenly; each holds its lower end, the last its upper end too. For one of several classes, give
    the probability of the predicted class and whether it was right. Naeini, Cooper and Hauskrecht: Obtaining well
    calibrated probabilities using Bayesian binning, AAAI 2015.

    Args:
        probability: (N,) in [0, 1].
        happened: (N,).

    Raises:
        ValueError: there is nothing to judge, shapes do not fit, or a probability is outside [0, 1].

    >>> round(expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False])), 6)
    0.4
    """
    if probability.shape != happened.shape or probability.ndim != 1 or len(probability) == 0 or n_bins < 1:
        raise ValueError(f"{probability.shape} probabilities for {happened.shape} outcomes in {n_bins} bins")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities lie between 0 and 1")
    edges = np.linspace(0.0, 1.0, n_bins + 1)[1:-1]
    at = np.searchsorted(edges, probability, side="right")
    said = np.bincount(at, probability, n_bins)
    seen = np.bincount(at, happened, n_bins)
    return float(np.abs(said - seen).sum() / len(probability))


def category_kl(
    history: NDArray[np.floating], listed: NDArray[np.floating], smoothing: float = _SMOOTHING
) -> NDArray[np.float64]:
    """(T,) KL(p || q') = sum over categories c of p_c ln(p_c / q'_c), q' = (1 - a) q + a p, in nats; 0 is calibrated.

    p is the mix of categories in the user's history, q that of the list, both (T, C) of weights that need not add up
    to 1. NaN where either is empty. Steck: Calibrated recommendations, RecSys 2018, with its a = 0.01, which keeps
    categories that the list lacks from making it infinite.

    Raises:
        ValueError: shapes differ, a weight is negative, or `smoothing` is not in (0, 1].
    """
    if history.shape != listed.shape or history.ndim != 2 or not 0 < smoothing <= 1:
        raise ValueError(f"mixes of {history.shape} and {listed.shape}, smoothed by {smoothing}, cannot be compared")
    if history.min(initial=0) < 0 or listed.min(initial=0) < 0:
        raise ValueError("weights of categories are not negative")
    total_p, total_q = history.sum(axis=1, keepdims=True), listed.sum(axis=1, keepdims=True)
    p, q = history / np.where(total_p > 0, total_p, 1.0), listed / np.where(total_q > 0, total_q, 1.0)
    smoothed = (1 - smoothing) * q + smoothing * p
    term = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / np.where(smoothed > 0, smoothed, 1.0)), 0.0)
    return np.where((total_p > 0)[:, 0] & (total_q > 0)[:, 0], term.sum(axis=1), np.nan)

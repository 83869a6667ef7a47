"""Reading an experiment out: rates, differences that may be looked at every day, and whether users were split fairly.

Users are what is randomised, so users are what is counted: a rate is the ratio of two sums over users, and its variance
that of the delta method (Deng, Knoblich and Lu: Applying the Delta Method in Metric Analytics, KDD 2018):

    r = sum x / sum n        var(r) = sum (x - r n)^2 / (sum n)^2         x hits and n recommendations of each user

The interval of a difference d between two variants, with i = 1 / var(d) the information so far, is a confidence
sequence: with probability 1 - alpha it holds the truth at all looks together, however many there are and whenever one
stops. It is the asymptotic one of the normal mixture (Robbins: Statistical Methods Related to the Law of the Iterated
Logarithm, 1970; Howard, Ramdas, McAuliffe and Sekhon: Time-uniform, Nonparametric, Nonasymptotic Confidence Sequences,
2021; Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas: Time-uniform Central Limit Theory and Asymptotic Confidence
Sequences, 2024), which is the mixture sequential probability ratio test (Johari, Koomen, Pekelis and Walsh: Always
Valid Inference, 2022), with a normal mixture of standard deviation `effect` over the differences that there may be:

    rho = 1 / effect^2
    e = sqrt(rho / (i + rho)) * exp(d^2 i^2 / (2 (i + rho)))        p = min over looks of 1 / e
    radius = sqrt((i + rho) / i^2 * ln((i + rho) / (rho alpha^2)))

The test of the split is sequential as well: the ratio of a Dirichlet mixture's likelihood to that of the weights
(Lindon and Malek: Anytime-Valid Inference for Multinomial Count Data, 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Rate", "difference", "rate", "split_e_value"]

_FEWEST_USERS: Final = 30
"""Of each side before a difference is told: below, sums are too far from normal."""
_CONCENTRATION: Final = 10_000.0
"""Of the Dirichlet mixture around the weights: shares that are off by about a percent are looked for."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A ratio of sums over users.

    Attributes:
        value: the ratio; NaN where nothing was counted.
        variance: of it.
        n_users: users that were counted.
    """

    value: float
    variance: float
    n_users: int

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Holds the truth with probability 1 - alpha at one look; NaN where there is too little."""
        half = NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(self.variance)
        return self.value - half, self.value + half


def rate(hits: NDArray[np.floating], made: NDArray[np.floating]) -> Rate:
    """The ratio of the sums of `hits` (U,) and `made` (U,), and its variance over users."""
    n, total = len(made), float(made.sum())
    if n < 2 or total <= 0:
        return Rate(math.nan, math.nan, n)
    value = float(hits.sum()) / total
    residual = hits - value * made
    return Rate(value, float(residual @ residual) / total**2 * n / (n - 1), n)


@dataclass(frozen=True, slots=True)
class Difference:
    """A variant against another at one look.

    Attributes:
        value: rate minus rate.
        low, high: of the confidence sequence.
        e: evidence against there being no difference; its inverse is a p-value at any time.
        z: the value in its standard deviations, for those who look once.
    """

    value: float
    low: float
    high: float
    e: float
    z: float


def difference(one: Rate, base: Rate, *, alpha: float = 0.05, effect: float = 0.01) -> Difference | None:
    """`one` minus `base`; None while either has too few users.

    Args:
        alpha: how often the sequence may miss the truth at any look.
        effect: the size of differences that would matter; the sequence is tightest for those. It must be chosen before
            data are seen. Any choice is valid.
    """
    if min(one.n_users, base.n_users) < _FEWEST_USERS:
        return None
    variance = one.variance + base.variance
    if not variance > 0:  # NaN among them: nobody was ever successful, or nothing was made
        return None
    value, information, rho = one.value - base.value, 1.0 / variance, 1.0 / effect**2
    both = information + rho
    exponent = value**2 * information**2 / (2 * both)
    e = math.sqrt(rho / both) * math.exp(min(exponent, 700.0))
    radius = math.sqrt(both / information**2 * math.log(both / (rho * alpha**2)))
    return Difference(value, value - radius, value + radius, e, value / math.sqrt(variance))


def split_e_value(users: Sequence[int], weights: Sequence[float]) -> float:
    """Evidence against users having been split by the weights; its inverse is a p-value at any time.

    Args:
        users: of each variant.
        weights: of each variant, up to a common factor. Where one is 0 and has users, the evidence is infinite.
    """
    total = sum(weights)
    kept = [(n, weight / total) for n, weight in zip(users, weights, strict=True) if weight > 0]
    if sum(n for n, _ in kept) < sum(users):
        return math.inf
    n_all = sum(users)
    log = math.lgamma(_CONCENTRATION) - math.lgamma(_CONCENTRATION + n_all)
    for n, share in kept:
        prior = _CONCENTRATION * share
        log += math.lgamma(prior + n) - math.lgamma(prior) - n * math.log(share)
    return math.exp(min(log, 700.0))

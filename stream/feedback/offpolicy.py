"""What another policy would have earned, from lists that were drawn with known chances.

Of each list, place k was filled with probability m[k] given the places above it, and the other policy would have filled
it the same with probability p[k]. With weights W[k] = product over j <= k of p[j] / m[j] and outcomes r[k]:

    ips     mean of  sum over k of W[k] r[k]
    snips   sum over k of  (mean of W[k] r[k]) / (mean of W[k])
    dr      mean of  sum over k of W[k - 1] q[k] + W[k] (r[k] - q[k])        q[k] the mean outcome at place k

They are right if what happens at a place does not depend on what stands below it (McInerney, Brost, Chandar, Mehrotra
and Carterette: Counterfactual Evaluation of Slate Recommendations with Sequential Reward Interactions, KDD 2020); with
the weight of the whole list for every place, as `whole` has it, not even that is needed, at the price of more noise.
Self-normalised estimates: Swaminathan and Joachims, NIPS 2015. Doubly robust ones: Dudik, Langford and Li, ICML 2011;
the model is as plain as can be, one mean a place.

Intervals are normal ones over users, whose lists are not independent. The effective number of lists is
(sum W)^2 / sum W^2 of whole lists (Kong, 1992): where it is small, so is what can be said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "OffPolicy", "estimate"]

_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Estimate:
    """Outcomes per list, with an interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """Estimates of another policy's outcomes per list.

    Attributes:
        logged: of the policy that was shown: no estimate of the other one.
        ips, snips, dr, whole: see above; `whole` is ips with the weight of the whole list.
        n: lists.
        n_users: users.
        n_supported: lists that the other policy might have shown.
        n_effective: see above.
        mean_weight: of whole lists; far from 1, some lists of the other policy have no chance to be shown, and all
            estimates miss what those would have earned.
    """

    logged: Estimate
    ips: Estimate
    snips: Estimate
    dr: Estimate
    whole: Estimate
    n: int
    n_users: int
    n_supported: int
    n_effective: float
    mean_weight: float


def estimate(
    target: NDArray[np.float64],
    logged: NDArray[np.float64],
    outcomes: NDArray[np.float64],
    user: NDArray[np.integer[Any]],
    *,
    alpha: float = 0.05,
) -> OffPolicy:
    """Estimate a policy from the lists of another.

    Args:
        target: (L, n) probability of each shown item under the other policy, given those above it.
        logged: (L, n) the same under the policy that was shown; above 0 wherever an item was shown, and 1 beyond the
            end of shorter lists, where `target` is 1 as well.
        outcomes: (L, n) what came of each place.
        user: (L,) number of the list's user, from 0.
        alpha: 1 - alpha is the probability that an interval holds the truth.

    Raises:
        ValueError: there is no list, or something was shown that cannot have been.
    """
    if len(target) == 0:
        raise ValueError("there is no list to estimate from")
    if not (logged > 0).all():
        raise ValueError("an item was shown with probability 0")
    weight = np.cumprod(target / logged, axis=1, dtype=np.float64)
    before = np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1)
    last, total = weight[:, -1], outcomes.sum(1)
    model = outcomes.mean(0)
    return OffPolicy(
        logged=_mean(total, user, alpha),
        ips=_mean((weight * outcomes).sum(1), user, alpha),
        snips=_self_normalised(weight, outcomes, user, alpha),
        dr=_mean((before * model + weight * (outcomes - model)).sum(1), user, alpha),
        whole=_mean(last * total, user, alpha),
        n=len(target),
        n_users=len(np.unique(user)),
        n_supported=int(np.count_nonzero(last > 0)),
        n_effective=float(last.sum() ** 2 / (last**2).sum()) if last.any() else 0.0,
        mean_weight=float(last.mean()),
    )


def _mean(terms: NDArray[np.float64], user: NDArray[np.integer[Any]], alpha: float) -> Estimate:
    value = float(terms.mean())
    return _interval(value, terms - value, user, alpha)


def _self_normalised(
    weight: NDArray[np.float64], outcomes: NDArray[np.float64], user: NDArray[np.integer[Any]], alpha: float
) -> Estimate:
    mean_weight = weight.mean(0)
    there = mean_weight > 0
    ratio = np.where(there, (weight * outcomes).mean(0) / np.where(there, mean_weight, 1), 0)
    influence = (weight * (outcomes - ratio) / np.where(there, mean_weight, 1)).sum(1)
    return _interval(float(ratio.sum()), influence, user, alpha)


def _interval(value: float, influence: NDArray[np.float64], user: NDArray[np.integer[Any]], alpha: float) -> Estimate:
    """A normal interval; `influence` (L,) of each list on the value, summed by user."""
    by_user = np.bincount(user, weights=influence)
    n_users = len(np.unique(user))
    if n_users < 2:
        return Estimate(value, -math.inf, math.inf)
    deviation = math.sqrt(float(by_user @ by_user) * n_users / (n_users - 1)) / len(influence)
    half = _NORMAL.inv_cdf(1 - alpha / 2) * deviation
    return Estimate(value, value - half, value + half)

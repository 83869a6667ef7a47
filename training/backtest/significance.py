"""Whether one list of targets was served better than another, or only by chance.

Targets of one user resemble each other, so users, not targets, are drawn anew (Efron and Tibshirani: An Introduction to
the Bootstrap, 1993, on clustered data). The same draws serve both sides: what is compared is paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "gains", "paired_difference", "share_interval"]

_DRAWS_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, its 95 % interval, and how likely a difference as large would be if there were none.

    Attributes:
        mean: over targets.
        low, high: 2.5 % and 97.5 % of the draws.
        p: two-sided; 1 for plain means.
    """

    mean: float
    low: float
    high: float
    p: float = 1.0


def gains(place: NDArray[np.int64], k: int) -> dict[str, NDArray[np.float64]]:
    """(T,) what each target contributes to HR@k, NDCG@k and MRR@k."""
    hit = (place >= 1) & (place <= k)
    at = np.maximum(place, 1)
    return {"hr": hit.astype(np.float64), "ndcg": hit / np.log2(1.0 + at), "mrr": hit / at}


def paired_difference(
    one: NDArray[np.float64],
    two: NDArray[np.float64],
    user: NDArray[np.integer[Any]],
    *,
    n_draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """The mean of `two - one` (T,) over the targets of users (T,)."""
    return _bootstrap(two - one, user, n_draws, seed)


def share_interval(
    gain: NDArray[np.float64], user: NDArray[np.integer[Any]], *, n_draws: int = 400, seed: int = 0
) -> Interval:
    """The mean of `gain` (T,)."""
    found = _bootstrap(gain, user, n_draws, seed)
    return Interval(found.mean, found.low, found.high)


def _bootstrap(gain: NDArray[np.float64], user: NDArray[np.integer[Any]], n_draws: int, seed: int) -> Interval:
    if len(gain) == 0:
        return Interval(0.0, 0.0, 0.0)
    _, code = np.unique(user, return_inverse=True)
    n_users = int(code.max()) + 1
    total, count = np.bincount(code, gain, n_users), np.bincount(code, minlength=n_users).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, n_draws, _DRAWS_AT_ONCE):
        # How often each user is drawn: Poisson counts, which is the multinomial's limit for many users.
        drawn = rng.poisson(1.0, (min(_DRAWS_AT_ONCE, n_draws - start), n_users)).astype(np.float32)
        means.append((drawn @ total) / np.maximum(drawn @ count, 1.0))
    draws = np.concatenate(means)
    low, high = np.quantile(draws, [0.025, 0.975])
    below, above = float((draws <= 0).mean()), float((draws >= 0).mean())
    # With so many draws no probability below one in that many can be told from none.
    p = min(1.0, max(2 * min(below, above), 1.0 / n_draws))
    return Interval(float(gain.mean()), float(low), float(high), p)

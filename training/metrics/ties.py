"""The place of a wanted item among the scores of a whole catalogue. How ties are broken is part of the protocol.

A model that gives everything one score finds nothing; counted in its favour, its hit rate would be 1. So a tie counts
against the wanted item unless something else is asked for.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["TIES", "Ties", "places_by_score"]

Ties = Literal["against", "for", "by_number"]
TIES: Final[tuple[Ties, ...]] = ("against", "for", "by_number")


def places_by_score(
    scores: NDArray[np.floating],
    wanted: NDArray[np.integer],
    *,
    excluded: NDArray[np.bool_] | None = None,
    ties: Ties = "against",
) -> NDArray[np.int64]:
    """(T,) place, from 1, of each wanted item (T,) among all V items by their scores (T, V), the highest first.

    place = 1 + items that score more + those tied items that the rule puts first. Cremonesi, Koren and Turrin:
    Performance of recommender algorithms on top-n recommendation tasks, RecSys 2010, ranks among a sample; this is
    the full catalogue, see Krichene and Rendle: On sampled metrics for item recommendation, KDD 2020.

    Args:
        scores: -inf is a score like others.
        wanted: item numbers from 0; below 0 for an item outside the catalogue, whose place is 0.
        excluded: (T, V) items that are not recommended, such as seen ones. A wanted item among them has place 0.
        ties: `against`: all tied items come first. `for`: none does. `by_number`: those of lower number do.

    Raises:
        ValueError: shapes do not fit, an item number is beyond the catalogue, a score is NaN, or no such rule.

    >>> scores = np.array([[0.1, 0.7, 0.7, 0.9]])
    >>> [places_by_score(scores, np.array([2]), ties=ties).tolist() for ties in TIES]
    [[3], [2], [3]]
    """
    n_targets, n_items = scores.shape
    if wanted.shape != (n_targets,) or (excluded is not None and excluded.shape != scores.shape):
        raise ValueError(f"{scores.shape} scores with {wanted.shape} wanted items do not fit together")
    if wanted.max(initial=-1) >= n_items:
        raise ValueError(f"item {wanted.max()} is not one of {n_items}")
    if ties not in TIES:
        raise ValueError(f"ties are broken {', '.join(TIES)}, not {ties!r}")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: it has no place")
    row, item = np.arange(n_targets), np.maximum(wanted, 0)
    own = scores[row, item][:, None] if n_items > 0 else np.zeros((n_targets, 1))
    before = scores > own
    if ties != "for":
        tied = scores == own
        before |= tied if ties == "against" else tied & (np.arange(n_items) < item[:, None])
    found = wanted >= 0
    if excluded is not None:
        before &= ~excluded
        found &= ~excluded[row, item] if n_items > 0 else False
    if n_items > 0:
        before[row, item] = False
    return np.where(found, before.sum(axis=1) + 1, 0).astype(np.int64)

"""How good rankings are, from the place of the one item that was wanted.

Places count from 1; 0 says that the item was not in the list. With one relevant item a target, recall is the hit rate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["hit_rate", "ndcg", "places", "reciprocal_rank"]


def places(items: NDArray[np.integer], wanted: NDArray[np.integer]) -> NDArray[np.int64]:
    """(T,) place of each wanted item (T,) in its list (T, n), best first; wanted items below 0 are in none.

    >>> places(np.array([[7, 5, 3], [1, 2, 4]]), np.array([5, 9])).tolist()
    [2, 0]
    """
    found = (items == wanted[:, None]) & (wanted >= 0)[:, None]
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0).astype(np.int64)


def hit_rate(place: NDArray[np.int64], k: int = 10) -> float:
    """HR@k = mean of [1 <= place <= k].

    >>> hit_rate(np.array([1, 10, 11, 0]))
    0.5
    """
    return float(((place >= 1) & (place <= k)).mean())


def ndcg(place: NDArray[np.int64], k: int = 10) -> float:
    """NDCG@k = mean of 1 / log2(1 + place), 0 beyond k; with one wanted item the ideal gain is 1.

    Jarvelin and Kekalainen: Cumulated gain-based evaluation of IR techniques, ACM TOIS 20 (2002).

    >>> ndcg(np.array([1, 3, 0, 11]))
    0.375
    """
    hit = (place >= 1) & (place <= k)
    return float((hit / np.log2(1.0 + np.maximum(place, 1))).mean())


def reciprocal_rank(place: NDArray[np.int64], k: int = 10) -> float:
    """MRR@k = mean of 1 / place, 0 beyond k. Voorhees: The TREC-8 question answering track report, 1999.

    >>> reciprocal_rank(np.array([1, 4, 0, 11]))
    0.3125
    """
    hit = (place >= 1) & (place <= k)
    return float((hit / np.maximum(place, 1)).mean())

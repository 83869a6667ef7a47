"""What lists offer besides hits. Lists are (T, n) item numbers from 0, best first, -1 for padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["coverage", "diversity", "novelty", "one_hot"]


def coverage(items: NDArray[np.integer], n_items: int, k: int = 10) -> float:
    """Coverage@k = items of the catalogue that stand in at least one list / n_items.

    Ge, Delgado-Battenfeld and Jannach: Beyond accuracy: evaluating recommender systems by coverage and serendipity,
    RecSys 2010.

    >>> coverage(np.array([[0, 1], [1, -1]]), n_items=4)
    0.5
    """
    listed = np.unique(items[:, :k])
    if listed.max(initial=-1) >= n_items:
        raise ValueError(f"item {listed.max()} is not one of {n_items}")
    return int((listed >= 0).sum()) / n_items


def novelty(items: NDArray[np.integer], count: NDArray[np.integer], k: int = 10) -> NDArray[np.float64]:
    """(T,) mean over a list's items of -log2 p(i) in bits, p(i) = (count_i + 1) / sum over j of (count_j + 1).

    A list of what everybody knows has few bits. NaN for an empty list. Zhou et al.: Solving the apparent
    diversity-accuracy dilemma of recommender systems, PNAS 107 (2010), with one added so that new items have a figure.

    Args:
        count: (V,) events of each item in training.

    >>> novelty(np.array([[0, 1]]), np.array([2, 0])).tolist()  # p = 3/4 and 1/4
    [1.207518749639422]
    """
    share = (count + 1) / (count + 1).sum()
    there = items[:, :k] >= 0
    bits = np.where(there, -np.log2(share)[np.maximum(items[:, :k], 0)], 0.0)
    return _ratio(bits.sum(axis=1), there.sum(axis=1))


def diversity(items: NDArray[np.integer], member: NDArray[np.bool_], k: int = 10) -> NDArray[np.float64]:
    """(T,) intra-list diversity: mean over pairs of a list's items of 1 - |A and B| / |A or B|, their categories.

    With one category an item, that is the share of pairs of different categories. Items without any category are alike.
    NaN for a list of fewer than two items. Ziegler et al.: Improving recommendation lists through topic
    diversification, WWW 2005, with the Jaccard distance.

    Args:
        member: (V, C) which categories each item has; see `one_hot`.

    >>> diversity(np.array([[0, 1, 2]]), one_hot(np.array([0, 0, 1]))).round(3).tolist()
    [0.667]
    """
    listed = items[:, :k]
    there = listed >= 0
    own = member[np.maximum(listed, 0)].astype(np.float64)  # (T, k, C)
    both = own @ own.swapaxes(1, 2)
    size = own.sum(axis=2)
    either = size[:, :, None] + size[:, None, :] - both
    distance = np.where(either > 0, 1.0 - both / np.maximum(either, 1.0), 0.0)
    pair = there[:, :, None] & there[:, None, :] & ~np.eye(listed.shape[1], dtype=np.bool_)
    return _ratio((distance * pair).sum(axis=(1, 2)), pair.sum(axis=(1, 2)))


def one_hot(category: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(V, C) membership for items of one category each, (V,) codes from 0; below 0 for none."""
    return np.asarray(category[:, None] == np.arange(int(category.max(initial=-1)) + 1), np.bool_)


def _ratio(total: NDArray[np.float64], count: NDArray[np.integer]) -> NDArray[np.float64]:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

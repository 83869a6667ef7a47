"""How good lists are when any number of items is wanted, each perhaps by another degree.

Every figure comes a list, (T,), so that intervals and paired tests can be had; its mean is what tables show. A list
holds an item once: where it is repeated, only its first place counts. Lists shorter than k are padded with -1, and the
missing places count as misses. What is wanted by nobody cannot be judged: each list needs a wanted item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Judged",
    "average_precision",
    "f1",
    "hit",
    "judge",
    "ndcg",
    "precision",
    "recall",
    "reciprocal_rank",
]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """T lists of n places, compared with what was wanted.

    Attributes:
        gain: (T, n) how much the item of each place was wanted, 0 for not at all, for padding and for repetitions.
        ideal: (T, r) the gains of everything that was wanted, highest first, filled up with 0.
    """

    gain: NDArray[np.float64]
    ideal: NDArray[np.float64]

    @property
    def n_wanted(self) -> NDArray[np.int64]:
        """(T,) items wanted."""
        return np.asarray((self.ideal > 0).sum(axis=1), np.int64)

    def hits(self, k: int) -> NDArray[np.int64]:
        """(T,) wanted items among the first k; ValueError for k below 1."""
        if k < 1:
            raise ValueError(f"a list is cut after its first place at the earliest, not at {k}")
        return np.asarray((self.gain[:, :k] > 0).sum(axis=1), np.int64)


def judge(
    items: NDArray[np.integer],
    wanted: Sequence[NDArray[np.integer]],
    gains: Sequence[NDArray[np.floating]] | None = None,
) -> Judged:
    """Compare lists (T, n), best first, with the T sets of wanted items.

    Args:
        items: numbers from 0, -1 for padding.
        wanted: by list, distinct item numbers, at least one.
        gains: by list, how much each is wanted, above 0; 1 unless given.

    Raises:
        ValueError: a set is empty, repeats an item or holds a number below 0, or a gain is not above 0.

    >>> judge(np.array([[4, 2, -1]]), [np.array([2, 9])]).gain.tolist()
    [[0.0, 1.0, 0.0]]
    """
    n_lists, n_places = items.shape
    if len(wanted) != n_lists or (gains is not None and len(gains) != n_lists):
        raise ValueError(f"{n_lists} lists for {len(wanted)} sets of wanted items")
    gain = np.zeros((n_lists, n_places))
    ideal = np.zeros((n_lists, max((len(some) for some in wanted), default=0)))
    for row, some in enumerate(wanted):
        own = np.ones(len(some)) if gains is None else np.asarray(gains[row], np.float64)
        if len(some) == 0 or len(np.unique(some)) != len(some) or some.min() < 0:
            raise ValueError(f"list {row}: wanted items are distinct numbers from 0, and at least one")
        if own.shape != some.shape or not (np.isfinite(own) & (own > 0)).all():
            raise ValueError(f"list {row}: every wanted item has a gain above 0")
        order = np.argsort(some)
        at = np.minimum(np.searchsorted(some[order], items[row]), len(some) - 1)
        found = some[order][at] == items[row]
        first = np.zeros(n_places, np.bool_)
        first[np.unique(items[row], return_index=True)[1]] = True
        gain[row] = np.where(found & first, own[order][at], 0.0)
        ideal[row, : len(some)] = np.sort(own)[::-1]
    return Judged(gain, ideal)


def precision(judged: Judged, k: int = 10) -> NDArray[np.float64]:
    """P@k = wanted items among the first k / k, also where the list is shorter.

    Manning, Raghavan and Schütze: Introduction to Information Retrieval, 2008, section 8.4.
    """
    return judged.hits(k) / k


def recall(judged: Judged, k: int = 10) -> NDArray[np.float64]:
    """R@k = wanted items among the first k / wanted items. Manning et al. 2008, section 8.3."""
    return judged.hits(k) / judged.n_wanted


def f1(judged: Judged, k: int = 10) -> NDArray[np.float64]:
    """F1@k = 2 P@k R@k / (P@k + R@k) = 2 hits / (k + wanted), their harmonic mean.

    van Rijsbergen: Information Retrieval, 2nd edition, 1979, chapter 7, with beta = 1.
    """
    return 2.0 * judged.hits(k) / (k + judged.n_wanted)


def hit(judged: Judged, k: int = 10) -> NDArray[np.float64]:
    """HR@k = [a wanted item is among the first k], also called success.

    Deshpande and Karypis: Item-based top-n recommendation algorithms, ACM TOIS 22 (2004).
    """
    return (judged.hits(k) > 0).astype(np.float64)


def ndcg(judged: Judged, k: int = 10) -> NDArray[np.float64]:
    """NDCG@k = DCG@k / DCG@k of the best possible list, DCG@k = sum over places i <= k of gain_i / log2(1 + i).

    Järvelin and Kekäläinen: Cumulated gain-based evaluation of IR techniques, ACM TOIS 20 (2002), with linear gains
    and the discount from the second place on that has become usual.
    """
    judged.hits(k)  # refuses a k below 1
    return _discounted(judged.gain[:, :k]) / _discounted(judged.ideal[:, :k])


def reciprocal_rank(judged: Judged, k: int = 10) -> NDArray[np.float64]:
    """RR@k = 1 / place of the first wanted item, 0 beyond k; its mean is MRR.

    Voorhees: The TREC-8 question answering track report, 1999.
    """
    found = judged.hits(k) > 0
    return np.where(found, 1.0 / (1 + (judged.gain[:, :k] > 0).argmax(axis=1)), 0.0)


def average_precision(judged: Judged, k: int = 10) -> NDArray[np.float64]:
    """AP@k = sum over places i <= k that hold a wanted item of P@i / wanted items; its mean is MAP.

    Divided by everything wanted, as trec_eval's `map_cut` does: with more than k items wanted, 1 is out of reach.
    Buckley and Voorhees: Evaluating evaluation measure stability, SIGIR 2000.
    """
    judged.hits(k)
    wanted = judged.gain[:, :k] > 0
    running = wanted.cumsum(axis=1) / np.arange(1, wanted.shape[1] + 1)
    return np.asarray((running * wanted).sum(axis=1) / judged.n_wanted, np.float64)


def _discounted(gain: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((gain / np.log2(np.arange(2, gain.shape[1] + 2))).sum(axis=1), np.float64)

"""Distributions of features and scores in quantile bins, and how far others are from them.

    PSI = sum over bins of (live - reference) * ln(live / reference)

the population stability index (Siddiqi: Credit Risk Scorecards, Wiley 2006, chapter 9), which is the symmetric
Kullback-Leibler divergence of the two histograms. By the same source, below .1 nothing has changed, from .1 on it is
worth a look, and from .25 on the population is another one. With n and m events it is about (bins - 1) (1/n + 1/m) by
chance alone, so few events say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.core.features import FeatureSpec, candidate_feature_names, context_feature_names

__all__ = [
    "CHANGED",
    "FEWEST",
    "N_BINS",
    "UNSEEN",
    "WORTH_A_LOOK",
    "Binned",
    "best_scores",
    "candidate_columns",
    "context_columns",
    "group_of",
    "named_values",
    "psi",
]

N_BINS: Final = 10
WORTH_A_LOOK: Final = 0.1
"""From this index on somebody should look."""
CHANGED: Final = 0.25
"""From this index on the model sees another population than the one it was trained on."""
FEWEST: Final = 300
"""Events without which an index is not judged: by chance alone it would be .03."""
UNSEEN: Final = 0.5
"""Counted in every bin beside what is there, so that an empty one is no infinity."""
_CALENDAR: Final = ("day/", "week/")
_GROUPS: Final = {
    "popularity": "popularity",
    "lag": "co-visitation",
    "earlier": "co-visitation",
    "near": "co-visitation",
    "out_weight": "co-visitation",
    "own": "own",
    "taste": "taste",
    "age": "age",
    "kind": "kind",
    "segment": "segment",
}
"""By the beginning of a feature's name; all others tell of the user's history."""


@dataclass(frozen=True, slots=True)
class Binned:
    """A distribution.

    Attributes:
        edges: E rising upper bounds, included; what is above the last one is in one more bin.
        shares: E + 1 shares of the values, which sum to 1.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges rise, and there is one share more than edges")

    @classmethod
    def of(cls, values: NDArray[Any], n_bins: int = N_BINS) -> Binned:
        """Values of any shape in bins that hold about equally many; fewer bins where many values are the same.

        Raises ValueError when there is no value; NaN is none.
        """
        flat = values[np.isfinite(values)].astype(np.float64)
        if len(flat) == 0:
            raise ValueError("there are no values")
        cuts = np.quantile(flat, np.arange(1, n_bins) / n_bins, method="lower")
        edges = sorted({float(f"{cut:.6g}") for cut in cuts.tolist()})
        blank = cls(tuple(edges), (0.0,) * (len(edges) + 1))
        counts = blank.counts(flat)
        return cls(tuple(edges), tuple(round(float(share), 6) for share in counts / counts.sum()))

    def counts(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """(E + 1,) how many of the values, of any shape, are in each bin."""
        flat = values[np.isfinite(values)].astype(np.float64)
        found: NDArray[np.int64] = np.bincount(np.searchsorted(self.edges, flat), minlength=len(self.shares))
        return found


def psi(reference: Binned, counts: NDArray[np.int64], n_reference: float = 1e4) -> float:
    """The index of counts (E + 1,) against a reference; 0 where nothing was counted.

    Args:
        n_reference: values behind the reference's shares, for what is added to its empty bins.

    >>> round(psi(Binned((0.0,), (0.5, 0.5)), np.array([90, 10])), 2)
    0.86
    """
    if counts.sum() == 0:
        return 0.0
    live = (counts + UNSEEN) / (counts.sum() + UNSEEN * len(counts))
    known = np.asarray(reference.shares) * n_reference + UNSEEN
    known /= known.sum()
    return float(((live - known) * np.log(live / known)).sum())


def named_values(
    spec: FeatureSpec, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What a model was given and what it said, for R events, by name.

    Args:
        inputs: of a ranker `candidates` (R, C) with -1 for padding, `candidate_features` (R, C, F), `context_features`
            (R, G); of other models nothing is looked at.
        outputs: `items` and `scores` (R, k), see `stream.core.seam.Scorer`.

    Returns:
        `candidate:NAME` (n,) over all real candidates, `context:NAME` (R,), and `score` (R,), the best of each event.
        The time of day and of the week is left out: a window of some hours would always differ from that of training.
    """
    values: dict[str, NDArray[Any]] = {}
    if "candidate_features" in inputs:
        features = inputs["candidate_features"][inputs["candidates"] >= 0]
        values |= {name: features[:, at] for at, name in candidate_columns(spec)}
    if "context_features" in inputs:
        context = inputs["context_features"]
        values |= {name: context[:, at] for at, name in context_columns(spec)}
    best = best_scores(inputs, outputs)
    values["score"] = best[np.isfinite(best)]
    return values


def candidate_columns(spec: FeatureSpec) -> list[tuple[int, str]]:
    """(column, name) of the candidates' features whose distribution is known."""
    return [(at, f"candidate:{name}") for at, name in enumerate(candidate_feature_names(spec))]


def context_columns(spec: FeatureSpec) -> list[tuple[int, str]]:
    """(column, name) of the events' features whose distribution is known."""
    names = enumerate(context_feature_names(spec))
    return [(at, f"context:{name}") for at, name in names if not name.startswith(_CALENDAR)]


def best_scores(inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """(R,) the best score of each event, -inf where there is no item."""
    items, scores = outputs["items"], outputs["scores"]
    real = items >= 0 if "candidates" in inputs else items > 0  # a vocabulary begins at 1
    best: NDArray[np.float32] = np.where(real, scores, np.float32(-np.inf)).max(axis=1)
    return best


def group_of(name: str) -> str:
    """What a feature is about, in a word: those of one group move together, and few series are easier to watch.

    >>> group_of("candidate:lag2/any:7d"), group_of("context:segment/device/0"), group_of("score")
    ('co-visitation', 'segment', 'score')
    """
    stem = name.partition(":")[2].partition("/")[0]
    return _GROUPS.get(stem.rstrip("0123456789"), "history") if stem else name

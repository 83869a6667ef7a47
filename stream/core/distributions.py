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

__all__ = ["CHANGED", "FEWEST", "N_BINS", "WORTH_A_LOOK", "Binned", "named_values", "psi"]

N_BINS: Final = 10
WORTH_A_LOOK: Final = 0.1
"""From this index on somebody should look."""
CHANGED: Final = 0.25
"""From this index on the model sees another population than the one it was trained on."""
FEWEST: Final = 300
"""Events without which an index is not judged: by chance alone it would be .03."""
_CALENDAR: Final = ("day/", "week/")
_UNSEEN: Final = 0.5
"""Counted in every bin beside what is there, so that an empty one is no infinity."""


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
    live = (counts + _UNSEEN) / (counts.sum() + _UNSEEN * len(counts))
    known = np.asarray(reference.shares) * n_reference + _UNSEEN
    known /= known.sum()
    return float(((live - known) * np.log(live / known)).sum())


def named_values(
    spec: FeatureSpec, inputs: Mapping[str, NDArray[Any]], scores: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """What a ranker was given and what it said, for R events, by name.

    Args:
        inputs: `candidates` (R, C) with -1 for padding, `candidate_features` (R, C, F), `context_features` (R, G).
        scores: (R, C) of the candidates.

    Returns:
        `candidate:NAME` (n,) over all real candidates, `context:NAME` (R,), and `score` (R,), the best of each event.
        The time of day and of the week is left out: a window of some hours would always differ from that of training.
    """
    real = inputs["candidates"] >= 0
    values: dict[str, NDArray[Any]] = {}
    if "candidate_features" in inputs:
        features = inputs["candidate_features"][real]
        values |= {f"candidate:{name}": features[:, at] for at, name in enumerate(candidate_feature_names(spec))}
    if "context_features" in inputs:
        context = inputs["context_features"]
        values |= {
            f"context:{name}": context[:, at]
            for at, name in enumerate(context_feature_names(spec))
            if not name.startswith(_CALENDAR)
        }
    some = real.any(axis=1)
    values["score"] = np.where(real, scores, -np.inf).max(axis=1)[some]
    return values

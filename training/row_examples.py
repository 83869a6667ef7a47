"""Rows that a ranker was fitted to, as golden inputs of its bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.rows import Rows

__all__ = ["example_rows"]

_EXAMPLES = 12


def example_rows(rows: Rows) -> dict[str, NDArray[Any]]:
    """Real rows for the bundle's golden inputs, the candidates numbered by their place."""
    index = np.unique(np.linspace(0, len(rows) - 1, _EXAMPLES).astype(np.int64))
    index = np.resize(index, max(2, len(index)))  # tracing takes two
    place = np.arange(rows.candidate_features.shape[1])
    return {
        "candidates": np.where(place < rows.n_candidates[index, None], place, -1).astype(np.int64),
        "candidate_features": rows.candidate_features[index].astype(np.float32),
        "context_features": rows.context_features[index].astype(np.float32),
        **{name: column[index] for name, column in rows.heard.items()},
    }

"""What it costs to count features and scores while they are served: processor time of the count alone.

python -m tests.bench.drift models/shop-ranker
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.bundle.load import Bundle, load_bundle
from stream.core.distributions import N_BINS, Binned
from stream.core.features import candidate_feature_names, context_feature_names
from stream.core.tally import Tally

__all__ = ["us_per_event"]


def _made_up(bundle: Bundle, n: int) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    rng, spec = np.random.default_rng(0), bundle.features
    shape = (n, spec.candidates.n)
    inputs = {
        "candidates": rng.integers(0, 1000, shape),
        "candidate_features": rng.normal(size=(*shape, len(candidate_feature_names(spec)))).astype(np.float32),
        "context_features": rng.normal(size=(n, len(context_feature_names(spec)))).astype(np.float32),
    }
    return inputs, {"items": inputs["candidates"], "scores": rng.normal(size=shape).astype(np.float32)}


def us_per_event(bundle: Bundle, n_at_once: int, *, n_events: int = 100_000) -> float:
    """Microseconds of processor time an event, in batches of `n_at_once`; a model's references of full width."""
    spec = bundle.features
    edges = tuple(float(edge) for edge in np.linspace(-1.3, 1.3, N_BINS - 1))
    full = Binned(edges, (1 / N_BINS,) * N_BINS)
    names = [f"candidate:{name}" for name in candidate_feature_names(spec)]
    names += [f"context:{name}" for name in context_feature_names(spec)]
    tally = Tally(spec, dict.fromkeys([*names, "score"], full))
    inputs, outputs = _made_up(bundle, n_at_once)
    rows = np.arange(n_at_once)
    for _ in range(100):
        tally(rows, inputs, outputs)
    n_batches = max(n_events // n_at_once, 1)
    began_ns = time.process_time_ns()
    for _ in range(n_batches):
        tally(rows, inputs, outputs)
    return (time.process_time_ns() - began_ns) / 1000 / (n_batches * n_at_once)


def main(folder: Path) -> None:
    """Print the figures."""
    bundle = load_bundle(folder)
    for n_at_once in (1, 32, 256):
        print(f"{n_at_once:>4} events at once: {us_per_event(bundle, n_at_once):.2f} us an event")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Rows to train on, in files: what the scorer would have been given for each target, and where the target stood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.core.features import TensorSpec, candidate_feature_names, context_feature_names
from training.replay import RecordingScorer, Replay
from training.targets import Targets

__all__ = ["Rows", "record"]

_NARROW: Final = {"float32": np.float32, "int64": np.int32}
"""What is stored: indices of items and words need no more than 32 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """R rows: targets that were among their candidates. Half precision, since features are logarithms near 0.

    Attributes:
        candidate_features: (R, C, F) float16, a memory map; padding is 0.
        context_features: (R, G) float16.
        n_candidates: (R,) how many of the C candidates are none of the padding.
        label: (R,) the target's place among the candidates.
        row: (R,) the target's row in the log.
        n_targets: targets asked for; those beyond R were not among their candidates.
        heard: what else the scorer was given, by name, (R, ...) each: what a sequence model that goes before says.
    """

    candidate_features: NDArray[np.float16]
    context_features: NDArray[np.float16]
    n_candidates: NDArray[np.int16]
    label: NDArray[np.int64]
    row: NDArray[np.int64]
    n_targets: int
    heard: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def recall(self) -> float:
        """Share of the targets that were among their candidates."""
        return len(self) / max(self.n_targets, 1)


def record(
    replay: Replay,
    targets: Targets,
    folder: Path,
    *,
    until: int,
    on_progress: Callable[[int], None] | None = None,
) -> Rows:
    """Replay on to row `until` of the log and keep the inputs of every target's recommendation.

    Args:
        replay: its recommender has a `RecordingScorer`.
        targets: those whose scored event lies in what is replayed.
        folder: where the files go; must exist.
        on_progress: called with the number of events replayed so far.

    Raises:
        TypeError: the replay's scorer does not record.
        ValueError: no target was among its candidates.
    """
    recommender = replay.recommender
    scorer, spec = recommender.scorer, recommender.spec
    if not isinstance(scorer, RecordingScorer):
        raise TypeError("rows are recorded by a RecordingScorer")
    n_candidates, n_context = spec.candidates.n, len(context_feature_names(spec))
    shape = (len(targets), n_candidates, len(candidate_feature_names(spec)))
    # Sparse where nothing is written, so room for every target costs nothing.
    features = np.lib.format.open_memmap(folder / "candidate_features.npy", "w+", np.float16, shape)
    context = np.zeros((len(targets), n_context), np.float16)
    heard = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", _NARROW[tensor.dtype], (len(targets), *_sizes(tensor))
        )
        for name, tensor in scorer.inputs.items()
        if name not in ("candidates", "candidate_features", "context_features")
    }
    counts, labels = np.zeros(len(targets), np.int16), np.zeros(len(targets), np.int64)
    rows = np.zeros(len(targets), np.int64)
    target_of = targets.target_of(len(replay.log))
    log, n_rows = replay.log, 0
    for batch in replay.run(until, target_of >= 0):
        if len(batch.rows) > 0:
            target = target_of[batch.rows]
            wanted = replay.view.catalogue.index.lookup(log.key[log.item[target]])
            inputs = scorer.taken()
            candidates = inputs["candidates"]
            found = (candidates == wanted[:, None]) & (wanted >= 0)[:, None]  # (B, C)
            keep = np.flatnonzero(found.any(axis=1))
            here = slice(n_rows, n_rows + len(keep))
            features[here] = inputs["candidate_features"][keep]
            context[here] = inputs["context_features"][keep]
            for name, column in heard.items():
                column[here] = inputs[name][keep]
            counts[here] = (candidates[keep] >= 0).sum(axis=1)
            labels[here] = found[keep].argmax(axis=1)
            rows[here] = target[keep]
            n_rows += len(keep)
        if on_progress is not None:
            on_progress(batch.stop)
    if n_rows == 0:
        raise ValueError("no target was among its candidates: there is nothing to learn from")
    done = slice(0, n_rows)
    more = {name: column[done] for name, column in heard.items()}
    return Rows(features[done], context[done], counts[done], labels[done], rows[done], len(targets), more)


def _sizes(tensor: TensorSpec) -> list[int]:
    """The sizes behind the batch."""
    return [size for size in tensor.shape[1:] if isinstance(size, int)]

"""Rows to train on, in files: what the scorer would have been given for each target, and where the target stood."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.core.features import FeatureSpec, TensorSpec, candidate_feature_names, context_feature_names
from training.log import Log
from training.replay import RecordingScorer, Replay
from training.targets import Targets

__all__ = ["CANDIDATE_INPUTS", "Recorded", "Room", "Rows", "Sample", "record", "recorded"]

CANDIDATE_INPUTS: Final = ("candidates", "candidate_features", "context_features")
"""What every ranker is given; what else it asks for comes from a sequence model."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """What one batch adds: R rows, as the scorer was given them; targets that were no candidates are left out.

    Attributes:
        inputs: by name, (R, ...), of those that the scorer asked for.
        label: (R,) the target's place among the candidates.
        row: (R,) the target's row in the log.
        n_events: events replayed so far.
        sampled: the inputs of events that were asked for besides, by name, (S, ...).
    """

    inputs: Mapping[str, NDArray[Any]]
    label: NDArray[np.int64]
    row: NDArray[np.int64]
    n_events: int
    sampled: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def n_candidates(self) -> NDArray[np.int16]:
        """(R,) how many candidates are none of the padding."""
        n: NDArray[np.int16] = (self.inputs["candidates"] >= 0).sum(axis=1).astype(np.int16)
        return n


def recorded(
    replay: Replay, targets: Targets, *, until: int, also: NDArray[np.bool_] | None = None
) -> Iterator[Recorded]:
    """Replay on to row `until` of the log; for each batch, the inputs of its targets' recommendations.

    Args:
        replay: its recommender has a `RecordingScorer`.
        targets: those whose scored event lies in what is replayed.
        also: (N,) events of the log whose inputs are wanted besides, whether a target follows or not.

    Raises:
        TypeError: the replay's scorer does not record.
    """
    scorer, log = _recorder(replay), replay.log
    target_of = targets.target_of(len(log))
    nothing = np.zeros(0, np.int64)
    for batch in replay.run(until, target_of >= 0 if also is None else (target_of >= 0) | also):
        if len(batch.rows) == 0:
            yield Recorded({"candidates": nothing.reshape(0, 1)}, nothing, nothing, batch.stop)
            continue
        target = target_of[batch.rows]
        wanted = replay.view.catalogue.index.lookup(log.key[log.item[target]])
        inputs = scorer.taken()
        found = (inputs["candidates"] == wanted[:, None]) & ((wanted >= 0) & (target >= 0))[:, None]  # (B, C)
        keep = np.flatnonzero(found.any(axis=1))
        kept = {name: column[keep] for name, column in inputs.items()}
        sampled = {} if also is None else {name: column[also[batch.rows]] for name, column in inputs.items()}
        yield Recorded(kept, found[keep].argmax(axis=1), target[keep], batch.stop, sampled)


def record(
    replay: Replay,
    targets: Targets,
    folder: Path,
    *,
    until: int,
    on_progress: Callable[[int], None] | None = None,
    sample: Sample | None = None,
) -> Rows:
    """Replay on to row `until` of the log and keep the inputs of every target's recommendation.

    Args:
        replay: its recommender has a `RecordingScorer`.
        targets: those whose scored event lies in what is replayed.
        folder: where the files go; must exist.
        on_progress: called with the number of events replayed so far.
        sample: of all events, filled on the way.

    Raises:
        TypeError: the replay's scorer does not record.
        ValueError: no target was among its candidates.
    """
    room = Room(replay.recommender.spec, _recorder(replay).inputs, len(targets), folder)
    for part in recorded(replay, targets, until=until, also=None if sample is None else sample.events):
        if sample is not None:
            sample.add(part.sampled)
        if len(part.row) > 0:
            room.add(part.inputs, part.n_candidates, part.label, part.row)
        if on_progress is not None:
            on_progress(part.n_events)
    return room.rows(len(targets))


class Sample:
    """The inputs of some events, whatever followed them: what the scorer sees, not only what it learns from.

    Args:
        log: the events.
        rows: those to draw from.
        n: about how many.
        seed: of the draw.
    """

    def __init__(self, log: Log, rows: slice, n: int = 2000, seed: int = 0) -> None:
        self.events: NDArray[np.bool_] = np.zeros(len(log), np.bool_)
        drawn = np.random.default_rng(seed).random(rows.stop - rows.start) < n / max(rows.stop - rows.start, 1)
        self.events[rows] = drawn & log.happened()[rows]
        self._parts: list[Mapping[str, NDArray[Any]]] = []

    def add(self, part: Mapping[str, NDArray[Any]]) -> None:
        """Keep the inputs of a batch."""
        if len(part) > 0 and len(part["candidates"]) > 0:
            self._parts.append(part)

    def inputs(self) -> dict[str, NDArray[Any]]:
        """By name, (S, ...); empty when nothing was drawn."""
        if not self._parts:
            return {}
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}


class Room:
    """Room for at most so many rows, in files: sparse where nothing is written, so that it costs nothing to ask for.

    Args:
        inputs: what the scorer wants.
        n_rows: at most.
        folder: where the files go; must exist.
    """

    def __init__(self, spec: FeatureSpec, inputs: Mapping[str, TensorSpec], n_rows: int, folder: Path) -> None:
        shape = (n_rows, spec.candidates.n, len(candidate_feature_names(spec)))
        self._features = np.lib.format.open_memmap(folder / "candidate_features.npy", "w+", np.float16, shape)
        self._context = np.zeros((n_rows, len(context_feature_names(spec))), np.float16)
        self._heard = {
            name: np.lib.format.open_memmap(
                folder / f"{name}.npy", "w+", _NARROW[tensor.dtype], (n_rows, *_sizes(tensor))
            )
            for name, tensor in inputs.items()
            if name not in CANDIDATE_INPUTS
        }
        self._counts, self._labels = np.zeros(n_rows, np.int16), np.zeros(n_rows, np.int64)
        self._rows = np.zeros(n_rows, np.int64)
        self._n = 0

    def add(
        self,
        inputs: Mapping[str, NDArray[Any]],
        n_candidates: NDArray[np.int16],
        label: NDArray[np.int64],
        row: NDArray[np.int64],
    ) -> None:
        """Keep some rows, (R, ...) each."""
        here = slice(self._n, self._n + len(row))
        self._features[here] = inputs["candidate_features"]
        self._context[here] = inputs["context_features"]
        for name, column in self._heard.items():
            column[here] = inputs[name]
        self._counts[here], self._labels[here], self._rows[here] = n_candidates, label, row
        self._n = here.stop

    @property
    def n_rows(self) -> int:
        """Rows kept so far."""
        return self._n

    def rows(self, n_targets: int) -> Rows:
        """What was kept, of so many targets.

        Raises ValueError when nothing was.
        """
        if self._n == 0:
            raise ValueError("no target was among its candidates: there is nothing to learn from")
        done = slice(0, self._n)
        heard = {name: column[done] for name, column in self._heard.items()}
        return Rows(
            self._features[done], self._context[done], self._counts[done], self._labels[done], self._rows[done],
            n_targets, heard,
        )  # fmt: skip


def _recorder(replay: Replay) -> RecordingScorer:
    scorer = replay.recommender.scorer
    if not isinstance(scorer, RecordingScorer):
        raise TypeError("rows are recorded by a RecordingScorer")
    return scorer


def _sizes(tensor: TensorSpec) -> list[int]:
    """The sizes behind the batch."""
    return [size for size in tensor.shape[1:] if isinstance(size, int)]

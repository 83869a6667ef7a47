"""Rows for training from a replay: features as they were at each event, the label from what came later.

Memory holds the columns of the events, the users' records and one shard of rows, however many rows come out.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.bundle.load import Bundle
from stream.core.catalogue import ItemUpdate
from stream.core.features import FeatureSpec
from stream.core.scales import SECOND_MS
from stream.core.seam import Policy, Recommender
from stream.errors import PolytempoError
from training.log import Log
from training.replay import RecordingScorer, Replay
from training.rows import CANDIDATE_INPUTS, recorded
from training.shards import CHECKPOINT, Description, ShardWriter, scored_of
from training.targets import Targets

__all__ = ["Recipe", "ReplayOf", "make_rows"]

_CHECKPOINT_S: Final = 120.0


class ReplayOf(Protocol):
    """How a replay is made; `training.replay.Replay` itself, but for tests that plant a leak."""

    def __call__(
        self, log: Log, recommender: Recommender, *, items: list[ItemUpdate] | None = None, period_ms: int = 10_000
    ) -> Replay:
        """A replay at its beginning."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What rows are made of, beside the events.

    Attributes:
        spec: the features.
        bundle: whose sequence model goes before the ranker, if it has one; None for the features alone.
        seen: what is no candidate.
        period_ms: age of the item statistics at most.
        replay_of: how events are replayed.
    """

    spec: FeatureSpec
    bundle: Bundle | None = None
    seen: str = "session"
    period_ms: int = 10 * SECOND_MS
    replay_of: ReplayOf = Replay

    @property
    def inputs(self) -> tuple[str, ...]:
        """What is recorded."""
        heard: list[str] = []
        if self.bundle is not None and self.bundle.retriever is not None:
            heard = [name for name in self.bundle.scorer.inputs if name not in CANDIDATE_INPUTS]
        return (*CANDIDATE_INPUTS, *heard)

    def replay(self, log: Log, items: list[ItemUpdate]) -> Replay:
        """Events on their way past a scorer that records."""
        policy = Policy(10, self.seen)
        if self.bundle is None or self.bundle.retriever is None:
            recommender = Recommender(self.spec, RecordingScorer(self.spec), policy=policy)
        else:
            recommender = Recommender(
                self.spec,
                RecordingScorer(self.spec, self.inputs, self.bundle.manifest.n_query),
                self.bundle.vocabulary,
                policy,
                self.bundle.tag,
                self.bundle.retriever,
            )
        return self.replay_of(log, recommender, items=items, period_ms=self.period_ms)


def make_rows(
    log: Log,
    items: list[ItemUpdate],
    targets: Targets,
    recipe: Recipe,
    folder: Path,
    description: Description,
    *,
    on_progress: Callable[[int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Description | None:
    """Replay a log and write a row for each target that was among its candidates.

    What was interrupted goes on from its last checkpoint, and comes to the same rows; what is complete stays.

    Args:
        targets: those wanted.
        description: what the rows are, see `training.shards`.
        on_progress: called with the events replayed so far, of `scored.max() + 1`.
        stopped: asked between batches; True ends it early.

    Returns:
        The description of the complete folder; None when it was stopped.

    Raises:
        PolytempoError: the folder holds other rows, or its checkpoint cannot be read.
    """
    writer = ShardWriter(folder, description)
    if writer.done is not None:
        return writer.done
    replay = recipe.replay(log, items)
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        try:
            with np.load(checkpoint, allow_pickle=False) as stored:
                arrays: dict[str, NDArray[Any]] = dict(stored)
            n_shards, n_rows = arrays.pop("written").tolist()
            replay.resume(arrays)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise PolytempoError(f"{checkpoint} cannot be resumed: {error}.", "Delete it to begin anew.") from error
        writer.go_on(n_shards, n_rows)
    else:
        writer.go_on(0, 0)
    until = int(targets.scored.max()) + 1
    due_s = time.monotonic() + _CHECKPOINT_S
    for part in recorded(replay, targets, until=until):
        writer.add(part, log, scored_of(targets, part.row))
        if on_progress is not None:
            on_progress(part.n_events)
        over = stopped is not None and stopped()
        if over or time.monotonic() > due_s:
            writer.flush()
            _save(checkpoint, replay.checkpoint() | {"written": np.array([writer.n_shards, writer.n_rows])})
            due_s = time.monotonic() + _CHECKPOINT_S
        if over:
            return None
    return writer.finish(len(targets))


def _save(file: Path, arrays: dict[str, NDArray[Any]]) -> None:
    aside = file.with_name(f".{file.name}.tmp")
    with aside.open("wb") as opened:
        np.savez(opened, **arrays)  # type: ignore[arg-type]
    aside.replace(file)

"""The training of a sequence model from a log: histories, early stopping on a later slice, checkpoints.

    |----------- training window -----------|------ validation ------|
    |------- learnt from -------|- choose  -|
                                hold_back

Which epoch is exported is chosen on the end of the training window; what is reported comes from the validation range
behind it, by replaying the log through the bundle as a worker would.

A checkpoint holds everything that an export needs, see `training.checkpoint_export`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from stream.bundle.manifest import TrainingWindow
from stream.core.features import FeatureSpec
from stream.errors import PolytempoError
from training.compare.models import N_HISTORY, score_with
from training.compare.task import Task, look
from training.config import Config, SequenceTraining
from training.fit import Checkpoint, Fitted, Journal, fit
from training.indexing import some_histories
from training.lessons import Lesson
from training.losses import full_cross_entropy, unseen_cross_entropy
from training.processes import ALONE, Processes
from training.sequence_models import (
    SequenceModel,
    batches_for,
    build,
    fit_config,
    inputs_of,
    item_tables,
)
from training.sequences import SequenceBatch, UserSequences
from training.warm import Start

__all__ = ["Learnt", "learn", "places_of", "spec_for"]


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """What came of a training.

    Attributes:
        module: with the weights of the best epoch.
        fitted: losses and figures of all epochs.
    """

    module: SequenceModel
    fitted: Fitted

    def metrics(self) -> dict[str, float]:
        """For the manifest; `choose/ndcg@10` is what the epoch was chosen by."""
        best = self.fitted.best_epoch
        return {
            "epochs": float(len(self.fitted.losses)),
            "best_epoch": float(best),
            "train/loss": self.fitted.losses[best - 1],
            "choose/ndcg@10": self.fitted.figures[best - 1],
        }


def spec_for(model: SequenceTraining, spec: FeatureSpec) -> FeatureSpec:
    """The features with histories as long as the record's ring, up to what a model can use.

    Raises:
        PolytempoError: more kinds of events than models tell apart.
    """
    if spec.state.n_kinds > 8:
        raise PolytempoError(f"sequence models tell 8 kinds of events apart, not {spec.state.n_kinds}.")
    reads = "history_items" in inputs_of(model)
    return replace(spec, n_history=min(spec.state.n_ring, N_HISTORY)) if reads else spec


def learn(
    config: Config,
    model: SequenceTraining,
    lesson: Lesson,
    spec: FeatureSpec,
    *,
    window: TrainingWindow,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int, str], None] | None = None,
    processes: Processes = ALONE,
    journal: Journal | None = None,
    start: Start | None = None,
) -> Learnt:
    """Train on all but the end of the histories, and keep the epoch that predicts that end best.

    Args:
        lesson: the histories of the training window.
        window: what the bundle will say of its training.
        checkpoint: file to go on from, if it is there, and to keep what is needed to go on or to export.
        on_step: called with the steps taken, all that there may be, and the last loss and figure in words.
        processes: those that train together, and the device; the model that is returned is on the processor.
        journal: told of each step and epoch.
        start: weights to begin with, where there is no checkpoint yet.

    Raises:
        PolytempoError: there is nothing to learn from or to choose by, or the checkpoint is of another run.
    """
    if not lesson.vocabulary:
        raise PolytempoError("there is no event on an item in the training window.")
    if lesson.n_chosen == 0 or lesson.n_taught == 0:
        raise PolytempoError(
            f"the last {model.hold_back:.0%} of the training window have {lesson.n_chosen} events to choose by, "
            f"and before them are {lesson.n_taught}: both are needed.",
            "Train on a longer window, or set hold_back.",
        )
    torch.manual_seed(config.seed)
    scales = spec.state.scales
    module = build(model, len(lesson.vocabulary), n_history=spec.n_history, scales=scales)
    if start is not None:
        start.give(module, lesson.vocabulary, item_tables(model, n_history=spec.n_history, scales=scales))
    module.to(processes.device)
    loss = processes.of_all(unseen_cross_entropy if config.policy.seen == "history" else full_cross_entropy)

    def parted(sequences: UserSequences, seed: int, epoch: int) -> Iterator[SequenceBatch]:
        return batches_for(model, sequences, n_history=spec.n_history, scales=scales, seed=seed)(epoch)

    def epoch(epoch: int) -> Iterator[SequenceBatch]:
        return lesson.epoch(parted, config.seed, epoch)

    n_steps = model.epochs * sum(1 for _ in epoch(0))
    seen = _Seen(journal)

    def evaluate() -> float:
        return lesson.figure(lambda task: places_of(module, model, task))

    told = some_histories(lesson.example())
    about = {
        "config": msgspec.json.encode(config).decode(),
        "features": msgspec.json.encode(spec.to_json()).decode(),
        "window": msgspec.json.encode(window).decode(),
        "vocabulary": lesson.vocabulary,
        "histories": {field.name: getattr(told, field.name) for field in fields(told)},
    }
    try:
        fitted = fit(
            module,
            epoch,
            lambda batch: module.loss(batch, loss),
            fit_config(model, config.seed),
            evaluate=evaluate,
            checkpoint=None if checkpoint is None else Checkpoint(checkpoint, about=about),
            on_step=None if on_step is None else lambda done: on_step(done, n_steps, seen.note()),
            processes=processes,
            journal=seen,
        )
    except ValueError as error:
        raise PolytempoError(f"{error}") from error
    return Learnt(module.cpu(), fitted)


def places_of(module: SequenceModel, model: SequenceTraining, task: Task) -> NDArray[np.int64]:
    """Where in the whole catalogue a model finds the targets of a task, 0 beyond its list."""
    return look(task, score_with(module, task.whole), max_length=model.length).place


class _Seen:
    """A journal that also has in few words what was noted last."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal, self._loss, self._figure = journal, "", ""

    def note(self) -> str:
        """Behind the bar."""
        return f"loss {self._loss}{self._figure}"

    def step(self, n_steps: int, *, loss: float, rate: float, gradient: float) -> None:
        """After a step."""
        self._loss = f"{loss:.3f}"
        if self._journal is not None:
            self._journal.step(n_steps, loss=loss, rate=rate, gradient=gradient)

    def epoch(self, n_steps: int, *, loss: float, figure: float | None) -> None:
        """After an epoch."""
        self._figure = "" if figure is None else f", NDCG {figure:.3f}"
        if self._journal is not None:
            self._journal.epoch(n_steps, loss=loss, figure=figure)

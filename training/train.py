"""From a configuration to a bundle, whatever the model.

What is evaluated is the exported bundle behind the worker's own composition, not the module in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as with_fields
from pathlib import Path

import polars as pl
import torch

from stream.core.features import FeatureSpec
from stream.errors import PolytempoError
from training.config import Config, FusionTraining, RankerTraining, RecurrentTraining, SequenceTraining
from training.fit import Journal
from training.fusion import sequences_of
from training.job import Clock, Job, Trained
from training.lessons import InMemory
from training.material import Material, prepare
from training.processes import ALONE, Processes
from training.reporter import Quiet, Reporter
from training.sequence_learning import learn, spec_for
from training.sequences import UserSequences
from training.train_fusion import train_fusion
from training.train_next_item import train_next_item
from training.train_ranker import train_ranker
from training.train_sequence import train_sequence
from training.train_streamed import is_long, streamed
from training.warm import Start

__all__ = ["assist", "train"]


def train(
    config: Config,
    *,
    command: str,
    tables: tuple[pl.DataFrame, pl.DataFrame | None] | None = None,
    report: Reporter | None = None,
    replace: bool = True,
    checkpoint: Path | None = None,
    rows: Path | None = None,
    processes: Processes = ALONE,
    journal: Journal | None = None,
    start: Start | None = None,
    shards: Path | None = None,
) -> Trained:
    """Do what a configuration says; writes the bundle.

    Args:
        command: what the bundle's manifest gives as the way to make it again.
        tables: see `prepare`.
        replace: whether another bundle at the output path may be replaced.
        checkpoint, processes, journal: of a sequence model, see `training.sequence_learning.learn`. With several
            processes this is what the first one does, `assist` what the others do.
        rows: of a ranker: what it is fitted to, instead of recording it; see `prepare`.
        start: weights of a bundle before, to begin a ranker, a sequence model or both halves of a fusion with.
        shards: of a sequence model: a folder for what its file is cut into, so that memory does not grow with it.

    Raises:
        PolytempoError: see `prepare`.
        BundleError: the bundle cannot be written where it should be.
    """
    report = report or Quiet()
    if rows is not None and not isinstance(config.model, RankerTraining):
        raise PolytempoError("rows are what a ranker is fitted to.", "Leave --rows out: other models read the log.")
    if not isinstance(config.model, SequenceTraining):
        _refuse("checkpoints are kept", "Leave --checkpoint out.", asked=checkpoint is not None)
        _refuse("files are cut into shards", "Leave --shards out.", asked=shards is not None)
        _refuse("logs for TensorBoard are written", "Leave --tensorboard out.", asked=journal is not None)
        _refuse("a training by several processes is there", "Leave torchrun out.", asked=processes.n > 1)
    torch.set_num_threads(config.threads)
    clock = Clock()
    if isinstance(config.model, SequenceTraining) and (shards is not None or (tables is None and is_long(config))):
        if tables is not None or start is not None:
            raise PolytempoError("shards are cut from a file, and learnt from anew.", "Leave --shards out.")
        with streamed(config, config.model, shards, report=report, processes=processes) as found:
            if found.material is None:
                raise ValueError("the process that trains is the first one; the others assist")
            clock.lap("read")
            job = Job(config, found.material, command, replace, report, clock)
            return train_sequence(
                job, config.model, found.lesson, checkpoint=checkpoint, processes=processes, journal=journal
            )
    report.stage("reading the log", 1)
    material = prepare(config, tables, rows)
    clock.lap("read")
    job = Job(config, material, command, replace, report, clock)
    if isinstance(config.model, RankerTraining):
        return train_ranker(job, config.model, rows, start)
    if isinstance(config.model, FusionTraining):
        return train_fusion(job, config.model, start)
    if isinstance(config.model, RecurrentTraining):
        return train_next_item(job, config.model)
    spec, sequences = _sequences(config.model, material, () if start is None else start.vocabulary)
    return train_sequence(
        with_fields(job, material=with_fields(material, spec=spec)),
        config.model,
        InMemory(sequences, config.model.hold_back),
        checkpoint=checkpoint,
        processes=processes,
        journal=journal,
        start=start,
    )


def assist(
    config: Config,
    processes: Processes,
    *,
    tables: tuple[pl.DataFrame, pl.DataFrame | None] | None = None,
    checkpoint: Path | None = None,
    shards: Path | None = None,
) -> None:
    """Train along with the process that calls `train` with the same arguments, and leave the bundle to it.

    Raises:
        PolytempoError: see `train`.
    """
    if not isinstance(config.model, SequenceTraining):
        _refuse("a training by several processes is there", "Leave torchrun out.", asked=True)
        return
    torch.set_num_threads(config.threads)
    if shards is not None or (tables is None and is_long(config)):
        with streamed(config, config.model, shards, processes=processes) as found:
            learn(
                config, config.model, found.lesson, found.spec, window=found.window, checkpoint=checkpoint,
                processes=processes,
            )  # fmt: skip
        return
    material = prepare(config, tables)
    spec, sequences = _sequences(config.model, material)
    window = material.window("")
    lesson = InMemory(sequences, config.model.hold_back)
    learn(config, config.model, lesson, spec, window=window, checkpoint=checkpoint, processes=processes)


def _sequences(
    model: SequenceTraining, material: Material, known: Sequence[str] = ()
) -> tuple[FeatureSpec, UserSequences]:
    """The features of a sequence model, and the histories of the training window."""
    spec = spec_for(model, material.spec)
    window = material.log.between(material.from_ms, material.split_ms)
    return spec, sequences_of(material.log, spec, window, model.n_items, known)


def _refuse(what: str, hint: str, *, asked: bool) -> None:
    if asked:
        raise PolytempoError(f"{what} for sequence models only.", hint)

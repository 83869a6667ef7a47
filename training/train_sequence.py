"""From what a sequence model is taught to its bundle, judged behind the worker's composition."""

from __future__ import annotations

from pathlib import Path

from training.bundle_writer import BundleWriter
from training.config import SequenceTraining
from training.fit import Journal
from training.indexing import some_histories
from training.job import Job, Trained
from training.judging import distributions_of, evaluate_bundle
from training.lessons import Lesson
from training.processes import ALONE, Processes
from training.reporter import Steps
from training.sequence_learning import learn
from training.sequence_models import inputs_of, n_state_of, parts_of
from training.warm import Start, keep_weights

__all__ = ["train_sequence"]


def train_sequence(
    job: Job,
    model: SequenceTraining,
    lesson: Lesson,
    *,
    checkpoint: Path | None = None,
    processes: Processes = ALONE,
    journal: Journal | None = None,
    start: Start | None = None,
) -> Trained:
    """Train a sequence model and write its bundle.

    Args:
        lesson: what it is taught.
        checkpoint, processes, journal, start: see `training.sequence_learning.learn`.
    """
    config, material, report, clock = job.config, job.material, job.report, job.clock
    learnt = learn(
        config,
        model,
        lesson,
        material.spec,
        window=material.window(job.command),
        checkpoint=checkpoint,
        on_step=Steps(report),
        processes=processes,
        journal=journal,
        start=start,
    )
    clock.lap("fit")
    module = learnt.module
    writer = BundleWriter(
        job,
        module,
        None,
        inputs_of(model),
        "vocabulary",
        lesson.vocabulary,
        n_state_of(model, module),
        parts=parts_of(module),
        histories=some_histories(lesson.example()),
    )
    bundle = writer.draft()
    evaluation = evaluate_bundle(bundle, material, period_ms=job.period_ms, report=report, measure=True)
    clock.lap("evaluate")
    metrics = {"n_rows": float(lesson.n_events), **learnt.metrics(), **evaluation.metrics()}
    manifest = writer.write(metrics, distributions_of(bundle, job))
    keep_weights(job.path, manifest, module, lesson.vocabulary)
    return job.came_to(manifest, evaluation)

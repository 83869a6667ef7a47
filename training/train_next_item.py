"""From a log to the bundle of the small recurrent model, `training.nets.recurrent`."""

from __future__ import annotations

import numpy as np

from training.bundle_writer import BundleWriter
from training.config import RecurrentTraining
from training.fusion import sequences_of
from training.indexing import some_histories
from training.job import Job, Trained
from training.judging import beside_baskets, distributions_of, evaluate_bundle
from training.nets.recurrent import RecurrentConfig, Sequences, train_recurrent

__all__ = ["train_next_item"]


def train_next_item(job: Job, model: RecurrentTraining) -> Trained:
    """Train the small recurrent model and write its bundle."""
    config, material, report, clock = job.config, job.material, job.report, job.clock
    spec, log = material.spec, material.log
    window = log.between(material.from_ms, material.split_ms)
    rows = window.start + np.flatnonzero(log.happened()[window])
    counts = np.bincount(log.item[rows], minlength=len(log.item_ids))
    common = np.argsort(-counts, kind="stable")[: model.n_items]
    common = common[counts[common] > 0]
    vocabulary = [log.item_ids[number] for number in common.tolist()]
    index = np.zeros(len(log.item_ids), np.int64)
    index[common] = np.arange(1, len(common) + 1)
    rows = rows[np.argsort(log.user[rows], kind="stable")]
    sequences = Sequences(
        user=log.user[rows].astype(np.int64),
        item=index[log.item[rows]],
        kind=log.kind[rows].astype(np.int64),
        ts_ms=log.ts_ms[rows],
        value=spec.values.transform(log.value[rows], log.kind[rows]),
    )
    weights = spec.types.weight_table()
    report.stage("training", model.epochs)
    module = train_recurrent(
        sequences,
        RecurrentConfig(len(vocabulary), spec.state.n_kinds, model.n_state, model.n_best, model.dropout),
        n_epochs=model.epochs,
        n_length=model.length,
        n_batch=model.batch,
        learning_rate=model.learning_rate,
        positive_kinds=tuple(np.flatnonzero(weights > 0).tolist()),
        seed=config.seed,
        on_epoch=lambda epoch, loss: report.at(epoch, f"loss {loss:.3f}"),
    )
    clock.lap("fit")
    wanted = ("item", "kind", "gap_s", "value", "state")
    writer = BundleWriter(
        job, module, None, wanted, "vocabulary", vocabulary, model.n_state,
        histories=some_histories(sequences_of(log, spec, window, model.n_items)),
    )  # fmt: skip
    bundle = writer.draft()
    evaluation = evaluate_bundle(bundle, material, period_ms=job.period_ms, report=report, measure=True)
    evaluation = beside_baskets(config, material, material.validate, evaluation)
    clock.lap("evaluate")
    distributions = distributions_of(bundle, job)
    manifest = writer.write({"n_rows": float(len(rows)), **evaluation.metrics()}, distributions)
    return job.came_to(manifest, evaluation)

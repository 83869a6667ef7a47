"""From a log to a fusion's bundle: the sequence model first, and a ranker of the later events, which hears it."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from stream.core.seam import Recommender
from training.bundle_writer import BundleWriter
from training.config import FusionTraining
from training.drift import reference_of
from training.evaluate import Baselines, evaluate
from training.export import served
from training.fusion import (
    MEMBER,
    RANKER,
    both,
    fusion_inputs,
    sequences_of,
    slices,
    train_member,
    untrained_fusion,
)
from training.indexing import some_histories
from training.job import Job, Trained
from training.listwise import fit_fusion, n_steps
from training.replay import RecordingScorer, Replay
from training.row_examples import example_rows
from training.rows import Sample, record
from training.sequences import pieces
from training.warm import Start, keep_weights

__all__ = ["train_fusion"]


def train_fusion(job: Job, model: FusionTraining, start: Start | None) -> Trained:
    """Train a sequence model and the ranker that hears it, and write their bundle.

    Args:
        start: weights to begin both with.
    """
    config, material, report, clock, policy = job.config, job.material, job.report, job.clock, job.policy
    spec, log = material.spec, material.log
    window, later = slices(log, material.train, material.from_ms, material.split_ms, model.member_share)
    split = log.between(0, material.split_ms).stop
    known = () if start is None else start.vocabulary
    sequences = sequences_of(log, spec, window, model.n_items, known)
    n_steps_of_member = model.epochs * math.ceil(len(pieces(sequences, model.length)) / model.batch)
    report.stage("training the sequence model", n_steps_of_member)
    member = train_member(
        sequences,
        spec,
        material.items,
        model,
        seed=config.seed,
        unseen=config.policy.seen == "history",
        on_step=report.at,
        start=None if start is None else start.below(MEMBER),
    )
    clock.lap("member")
    baselines = Baselines(spec, policy.seen)
    retriever = served(member.model, spec, len(member.vocabulary))
    inputs = fusion_inputs(spec)
    recorder = RecordingScorer(spec, inputs, member.retriever.n_query)
    recommender = Recommender(spec, recorder, member.vocabulary, policy, retriever=retriever)
    replay = Replay(log, recommender, items=material.items, period_ms=job.period_ms, watchers=[baselines])
    sample = Sample(log, log.between(material.from_ms, material.split_ms), seed=config.seed)
    with tempfile.TemporaryDirectory(prefix="polytempo-rows-") as folder:
        report.stage("replaying", split)
        rows = record(replay, later, Path(folder), until=split, on_progress=report.at, sample=sample)
        clock.lap("replay")
        report.stage("training the ranker", n_steps(len(rows), model.ranker))
        module = fit_fusion(
            rows,
            model.ranker,
            untrained_fusion(member, spec, model, config.seed),
            seed=config.seed,
            on_step=lambda step, loss: report.at(step, f"loss {loss:.3f}"),
            start=None if start is None else start.below(RANKER),
        )
        clock.lap("fit")
        example = example_rows(rows)
        metrics = {"n_rows": float(len(rows)), "train/candidate_recall": rows.recall}
        del rows
    writer = BundleWriter(
        job, module, example, inputs, "candidates", member.vocabulary, 0, member.model,
        histories=some_histories(sequences),
    )  # fmt: skip
    bundle = writer.draft()
    replay.exchange(Recommender(spec, bundle.scorer, member.vocabulary, policy, retriever=bundle.retriever))
    report.stage("evaluating", len(log) - split)
    evaluation = evaluate(
        replay,
        material.validate.where(material.validate.scored >= split),
        until=len(log),
        baselines=baselines,
        n=policy.n,
        on_progress=lambda at: report.at(at - split),
        measure=True,
    )
    clock.lap("evaluate")
    seen = sample.inputs()
    distributions = reference_of(spec, seen, bundle.scorer.score(seen)) if seen else None
    manifest = writer.write({**metrics, **evaluation.metrics()}, distributions)
    keep_weights(job.path, manifest, both(member, module), member.vocabulary)
    return job.came_to(manifest, evaluation)

"""From a log to a ranker's bundle: replay, record, fit, export, and replay on with the bundle that came out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from stream.core.seam import Recommender
from training.bundle_writer import BundleWriter
from training.config import RankerTraining
from training.drift import reference_of
from training.evaluate import Baselines, evaluate
from training.job import Job, Trained
from training.judging import beside_baskets
from training.listwise import fit_ranker, n_steps
from training.material import Material
from training.replay import RecordingScorer, Replay
from training.reporter import Reporter
from training.row_examples import example_rows
from training.rows import Rows, Sample, record, recorded
from training.shards import read_rows
from training.targets import Targets
from training.warm import Start, keep_weights

__all__ = ["train_ranker"]

_CANDIDATE_INPUTS = ("candidates", "candidate_features", "context_features")


def train_ranker(job: Job, model: RankerTraining, made_before: Path | None, start: Start | None) -> Trained:
    """Train a ranker and write its bundle.

    Args:
        made_before: rows to fit it to, instead of recording them.
        start: weights to begin with.
    """
    config, material, report, clock, policy = job.config, job.material, job.report, job.clock, job.policy
    spec, log = material.spec, material.log
    split = log.between(0, material.split_ms).stop
    baselines = Baselines(spec, policy.seen)
    recorder = Recommender(spec, RecordingScorer(spec), policy=policy)
    replay = Replay(log, recorder, items=material.items, period_ms=job.period_ms, watchers=[baselines])
    sample = Sample(log, log.between(material.from_ms, material.split_ms), seed=config.seed)
    with tempfile.TemporaryDirectory(prefix="polytempo-rows-") as folder:
        report.stage("replaying", split)
        if made_before is None:
            rows = record(replay, material.train, Path(folder), until=split, on_progress=report.at, sample=sample)
        else:  # the replay is still needed: what is judged goes on from its statistics
            rows = _read(made_before, replay, material, Path(folder), split, report, sample)
        clock.lap("replay")
        report.stage("training", n_steps(len(rows), model))
        module = fit_ranker(
            rows,
            model,
            seed=config.seed,
            on_step=lambda step, loss: report.at(step, f"loss {loss:.3f}"),
            start=start,
        )
        clock.lap("fit")
        example = example_rows(rows)
        metrics = {"n_rows": float(len(rows)), "train/candidate_recall": rows.recall}
        # The map must be let go of before its folder goes.
        del rows
    writer = BundleWriter(job, module, example, _CANDIDATE_INPUTS, "candidates")
    bundle = writer.draft()
    replay.exchange(Recommender(spec, bundle.scorer, policy=policy))
    report.stage("evaluating", len(log) - split)
    # Sessions under way when training ended were scored before there was a model.
    judged = material.validate.where(material.validate.scored >= split)
    evaluation = evaluate(
        replay,
        judged,
        until=len(log),
        baselines=baselines,
        n=policy.n,
        on_progress=lambda at: report.at(at - split),
        measure=True,
    )
    evaluation = beside_baskets(config, material, judged, evaluation)
    clock.lap("evaluate")
    seen = sample.inputs()
    distributions = reference_of(spec, seen, bundle.scorer.score(seen)) if seen else None
    manifest = writer.write({**metrics, **evaluation.metrics()}, distributions)
    keep_weights(job.path, manifest, module)
    return job.came_to(manifest, evaluation)


def _read(
    made_before: Path,
    replay: Replay,
    material: Material,
    folder: Path,
    split: int,
    report: Reporter,
    sample: Sample,
) -> Rows:
    """Replay the training range without recording it, and read the rows that were made of it."""
    nobody = Targets(np.zeros(0, np.int64), np.zeros(0, np.int64))
    for part in recorded(replay, nobody, until=split, also=sample.events):
        sample.add(part.sampled)
        report.at(part.n_events)
    inputs = replay.recommender.scorer.inputs
    return read_rows(made_before, folder, inputs=inputs, from_ms=material.from_ms, until_ms=material.split_ms)

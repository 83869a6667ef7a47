"""From a configuration to a bundle: replay, record, fit, export, and replay on with the bundle that came out.

What is evaluated is the exported bundle behind the worker's own composition, not the module in memory.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from stream.bundle.load import Bundle
from stream.bundle.manifest import Manifest
from stream.core.distributions import Binned
from stream.core.features import FeatureSpec
from stream.core.seam import Policy, Recommender
from stream.errors import PolytempoError
from training.baskets import basket_places
from training.bundle_writer import BundleWriter
from training.config import (
    Config,
    FusionTraining,
    RankerTraining,
    RecurrentTraining,
    SequenceTraining,
    span_ms,
)
from training.drift import reference_by_replay, reference_of
from training.evaluate import Baselines, Evaluation, evaluate
from training.export import served
from training.fit import Journal
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
from training.lessons import InMemory, Lesson
from training.listwise import fit_fusion, fit_ranker, n_steps
from training.material import Material, prepare
from training.nets.recurrent import RecurrentConfig, Sequences, train_recurrent
from training.processes import ALONE, Processes
from training.replay import RecordingScorer, Replay
from training.reporter import Quiet, Reporter, Steps
from training.rows import Rows, Sample, record, recorded
from training.sequence_models import inputs_of, n_state_of, parts_of
from training.sequences import UserSequences, pieces
from training.shards import read_rows
from training.targets import Targets
from training.train_sequences import learn, spec_for
from training.train_streamed import is_long, streamed
from training.warm import Start, keep_weights

__all__ = ["Trained", "assist", "evaluate_bundle", "train"]

_EXAMPLES = 12
_CANDIDATE_INPUTS = ("candidates", "candidate_features", "context_features")


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a run came to.

    Attributes:
        manifest: of the bundle, as it was written.
        path: of the bundle.
        evaluation: of the bundle, on the validation targets.
        seconds: by stage.
    """

    manifest: Manifest
    path: Path
    evaluation: Evaluation
    seconds: dict[str, float]


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
        checkpoint, processes, journal: of a sequence model, see `training.train_sequences.learn`. With several
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
    clock = _Clock()
    if isinstance(config.model, SequenceTraining) and (shards is not None or (tables is None and is_long(config))):
        if tables is not None or start is not None:
            raise PolytempoError("shards are cut from a file, and learnt from anew.", "Leave --shards out.")
        with streamed(config, config.model, shards, report=report, processes=processes) as found:
            if found.material is None:
                raise ValueError("the process that trains is the first one; the others assist")
            clock.lap("read")
            return _train_sequence(
                config, config.model, found.material, found.lesson, command, report, clock, replace, checkpoint,
                processes, journal, None,
            )  # fmt: skip
    report.stage("reading the log", 1)
    material = prepare(config, tables, rows)
    clock.lap("read")
    if isinstance(config.model, RankerTraining):
        return _train_ranker(config, config.model, material, command, report, clock, replace, rows, start)
    if isinstance(config.model, FusionTraining):
        return _train_fusion(config, config.model, material, command, report, clock, replace, start)
    if isinstance(config.model, SequenceTraining):
        spec, sequences = _sequences(config.model, material, () if start is None else start.vocabulary)
        return _train_sequence(
            config, config.model, with_fields(material, spec=spec), InMemory(sequences, config.model.hold_back),
            command, report, clock, replace, checkpoint, processes, journal, start,
        )  # fmt: skip
    return _train_recurrent(config, config.model, material, command, report, clock, replace)


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


def evaluate_bundle(
    bundle: Bundle, material: Material, *, period_ms: int, report: Reporter | None = None, measure: bool = False
) -> Evaluation:
    """Judge a bundle on the validation targets of a log, replayed from its beginning.

    The features are the bundle's own; of the material, log, items and targets are used.

    Args:
        measure: whether the cost of a served event is measured.
    """
    report = report or Quiet()
    spec = bundle.features
    policy = Policy(bundle.manifest.policy.n, bundle.manifest.policy.seen)
    recommender = Recommender(spec, bundle.scorer, bundle.vocabulary, policy, retriever=bundle.retriever)
    baselines = Baselines(spec, policy.seen)
    replay = Replay(material.log, recommender, items=material.items, period_ms=period_ms, watchers=[baselines])
    report.stage("evaluating", len(material.log))
    return evaluate(
        replay,
        material.validate,
        until=len(material.log),
        baselines=baselines,
        n=policy.n,
        on_progress=report.at,
        measure=measure,
    )


def _train_ranker(
    config: Config,
    model: RankerTraining,
    material: Material,
    command: str,
    report: Reporter,
    clock: _Clock,
    replace: bool,
    made_before: Path | None,
    start: Start | None,
) -> Trained:
    spec, log = material.spec, material.log
    split = log.between(0, material.split_ms).stop
    policy = Policy(config.policy.n, config.policy.seen)
    baselines = Baselines(spec, policy.seen)
    recorder = Recommender(spec, RecordingScorer(spec), policy=policy)
    replay = Replay(log, recorder, items=material.items, period_ms=span_ms(config.period), watchers=[baselines])
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
        example = _examples(rows)
        metrics = {"n_rows": float(len(rows)), "train/candidate_recall": rows.recall}
        # The map must be let go of before its folder goes.
        del rows
    writer = BundleWriter(config, material, module, command, replace, example, _CANDIDATE_INPUTS, "candidates")
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
    evaluation = _beside_baskets(config, material, judged, evaluation)
    clock.lap("evaluate")
    seen = sample.inputs()
    distributions = reference_of(spec, seen, bundle.scorer.score(seen)) if seen else None
    manifest = writer.write({**metrics, **evaluation.metrics()}, distributions)
    keep_weights(Path(config.bundle.path), manifest, module)
    return Trained(manifest, Path(config.bundle.path), evaluation, clock.seconds)


def _train_fusion(
    config: Config,
    model: FusionTraining,
    material: Material,
    command: str,
    report: Reporter,
    clock: _Clock,
    replace: bool,
    start: Start | None,
) -> Trained:
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
    policy = Policy(config.policy.n, config.policy.seen)
    baselines = Baselines(spec, policy.seen)
    retriever = served(member.model, spec, len(member.vocabulary))
    inputs = fusion_inputs(spec)
    recorder = RecordingScorer(spec, inputs, member.retriever.n_query)
    recommender = Recommender(spec, recorder, member.vocabulary, policy, retriever=retriever)
    replay = Replay(log, recommender, items=material.items, period_ms=span_ms(config.period), watchers=[baselines])
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
        example = _examples(rows)
        metrics = {"n_rows": float(len(rows)), "train/candidate_recall": rows.recall}
        del rows
    writer = BundleWriter(
        config, material, module, command, replace, example, inputs, "candidates", member.vocabulary, 0, member.model,
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
    keep_weights(Path(config.bundle.path), manifest, both(member, module), member.vocabulary)
    return Trained(manifest, Path(config.bundle.path), evaluation, clock.seconds)


def _train_recurrent(
    config: Config,
    model: RecurrentTraining,
    material: Material,
    command: str,
    report: Reporter,
    clock: _Clock,
    replace: bool,
) -> Trained:
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
        config, material, module, command, replace, None, wanted, "vocabulary", vocabulary, model.n_state,
        histories=some_histories(sequences_of(log, spec, window, model.n_items)),
    )  # fmt: skip
    bundle = writer.draft()
    evaluation = evaluate_bundle(bundle, material, period_ms=span_ms(config.period), report=report, measure=True)
    evaluation = _beside_baskets(config, material, material.validate, evaluation)
    clock.lap("evaluate")
    distributions = _distributions(config, material, bundle, report)
    manifest = writer.write({"n_rows": float(len(rows)), **evaluation.metrics()}, distributions)
    return Trained(manifest, Path(config.bundle.path), evaluation, clock.seconds)


def _train_sequence(
    config: Config,
    model: SequenceTraining,
    material: Material,
    lesson: Lesson,
    command: str,
    report: Reporter,
    clock: _Clock,
    replace: bool,
    checkpoint: Path | None,
    processes: Processes,
    journal: Journal | None,
    start: Start | None,
) -> Trained:
    learnt = learn(
        config,
        model,
        lesson,
        material.spec,
        window=material.window(command),
        checkpoint=checkpoint,
        on_step=Steps(report),
        processes=processes,
        journal=journal,
        start=start,
    )
    clock.lap("fit")
    module = learnt.module
    writer = BundleWriter(
        config,
        material,
        module,
        command,
        replace,
        None,
        inputs_of(model),
        "vocabulary",
        lesson.vocabulary,
        n_state_of(model, module),
        parts=parts_of(module),
        histories=some_histories(lesson.example()),
    )
    bundle = writer.draft()
    evaluation = evaluate_bundle(bundle, material, period_ms=span_ms(config.period), report=report, measure=True)
    clock.lap("evaluate")
    metrics = {"n_rows": float(lesson.n_events), **learnt.metrics(), **evaluation.metrics()}
    manifest = writer.write(metrics, _distributions(config, material, bundle, report))
    keep_weights(Path(config.bundle.path), manifest, module, lesson.vocabulary)
    return Trained(manifest, Path(config.bundle.path), evaluation, clock.seconds)


def _distributions(config: Config, material: Material, bundle: Bundle, report: Reporter) -> dict[str, Binned]:
    """How a bundle's scores are distributed over the training window; the features are the bundle's own."""
    log, window = material.log, material.log.between(material.from_ms, material.split_ms)
    report.stage("looking at scores", window.stop)
    return reference_by_replay(
        bundle,
        log,
        material.items,
        window,
        period_ms=span_ms(config.period),
        seed=config.seed,
        on_progress=report.at,
    )


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


def _beside_baskets(config: Config, material: Material, judged: Targets, evaluation: Evaluation) -> Evaluation:
    """The evaluation with the baselines of baskets over the same targets, if the configuration wants them."""
    if "basket" not in config.baselines:
        return evaluation
    spec = material.spec
    places = basket_places(material.log, judged, spec.types.weight_table(), spec.state.session_gap_ms, n=evaluation.n)
    return with_fields(evaluation, place=evaluation.place | places)


class _Clock:
    """How long each stage took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._at_s = time.monotonic()

    def lap(self, name: str) -> None:
        """The stage `name` is over."""
        now_s = time.monotonic()
        self.seconds[name] = round(now_s - self._at_s, 1)
        self._at_s = now_s


def _examples(rows: Rows) -> dict[str, NDArray[Any]]:
    """Real rows for the bundle's golden inputs, the candidates numbered by their place."""
    index = np.unique(np.linspace(0, len(rows) - 1, _EXAMPLES).astype(np.int64))
    index = np.resize(index, max(2, len(index)))  # tracing takes two
    place = np.arange(rows.candidate_features.shape[1])
    return {
        "candidates": np.where(place < rows.n_candidates[index, None], place, -1).astype(np.int64),
        "candidate_features": rows.candidate_features[index].astype(np.float32),
        "context_features": rows.context_features[index].astype(np.float32),
        **{name: column[index] for name, column in rows.heard.items()},
    }

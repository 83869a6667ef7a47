"""A sequence model of a log that does not fit into memory: cut into shards on disk, and learnt from one at a time.

    file     read three times, in batches: for its span, to count items, to deal events out
    shards   users' events from the training window's beginning to the end of validation
    time     |------- learnt from -------|- choose -|------ validation ------|

Memory is that of a batch of the file, a shard, the counts of items and the model. So the log is not replayed either:
the figures of the bundle are those of the next event's place in the whole catalogue, for every event of the validation
range that is not a user's first. What the user has had is not removed there, and no baseline stands beside them;
`polytempo train --evaluate` replays a log that fits.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from stream.bundle.manifest import Manifest, TrainingWindow
from stream.core.features import FeatureSpec
from stream.errors import PolytempoError
from stream.logs import EventLog, open_log
from training.compare.task import K
from training.config import Config, SequenceTraining, feature_spec
from training.evaluate import Evaluation
from training.export import write_bundle
from training.fit import Journal
from training.indexing import IndexSettings, some_histories
from training.lessons import InShards
from training.processes import ALONE, Processes
from training.reporter import Quiet, Reporter, Steps
from training.sequence_models import inputs_of, n_state_of, parts_of
from training.sequence_shards import Shards, cut_shards
from training.train_sequences import Learnt, learn, places_of, spec_for
from training.warm import keep_weights

__all__ = ["Streamed", "is_long", "learn_streamed", "train_streamed"]

_CUT: Final = b"cut"


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """A model, learnt.

    Attributes:
        spec: features of its bundle.
        window: what the bundle says of its training.
        lesson: the shards.
        learnt: the model.
        judged_ms: the validation range, its end excluded.
    """

    spec: FeatureSpec
    window: TrainingWindow
    lesson: InShards
    learnt: Learnt
    judged_ms: tuple[int, int]


def is_long(config: Config) -> bool:
    """Whether a configuration's file has more rows than its sequence model wants in memory."""
    model = config.model
    if not isinstance(model, SequenceTraining) or config.data.file is None or config.preprocess is not None:
        return False
    path = Path(config.data.file)
    return path.exists() and _opened(config, path).count_rows() > model.shard_above


def train_streamed(
    config: Config,
    model: SequenceTraining,
    folder: Path | None,
    *,
    command: str,
    report: Reporter | None = None,
    replace_other: bool = True,
    checkpoint: Path | None = None,
    processes: Processes = ALONE,
    journal: Journal | None = None,
) -> tuple[Manifest, Evaluation]:
    """Cut the log into shards, train on them, and write the bundle.

    Args:
        folder: see `learn_streamed`; a folder of its own is gone in the end.
        replace_other: whether another bundle in the way may be replaced.
        command, checkpoint, processes, journal: see `training.train_sequences.learn`.

    Raises:
        PolytempoError: see `learn_streamed`.
        BundleError: the bundle cannot be written.
    """
    report = report or Quiet()
    done = learn_streamed(
        config,
        model,
        folder,
        command=command,
        report=report,
        checkpoint=checkpoint,
        processes=processes,
        journal=journal,
    )
    module, vocabulary, output = done.learnt.module, done.lesson.vocabulary, config.bundle
    report.stage("evaluating", 1)
    places = done.lesson.places(lambda task: places_of(module, model, task), *done.judged_ms)
    if len(places) == 0:
        raise PolytempoError("there is no event to validate on, but users' first ones.")
    evaluation = Evaluation({"model": np.where(places <= K, places, 0)}, K)
    metrics = {"n_rows": float(done.lesson.n_taught), **done.learnt.metrics(), **evaluation.metrics()}
    manifest = write_bundle(
        Path(output.path),
        module=module,
        inputs=inputs_of(model),
        features=done.spec,
        space="vocabulary",
        name=output.name,
        version=output.version,
        training=done.window,
        vocabulary=vocabulary,
        n_state=n_state_of(model, module),
        parts=parts_of(module),
        policy=config.policy,
        metrics={name: round(value, 5) for name, value in metrics.items()},
        description=output.description,
        replace=replace_other,
        index=IndexSettings(output.index_above, output.index_recall),
        histories=some_histories(done.lesson.example()),
    )
    keep_weights(Path(output.path), manifest, module, vocabulary)
    if folder is None:
        shutil.rmtree(_own_folder(config))
    return manifest, evaluation


def learn_streamed(
    config: Config,
    model: SequenceTraining,
    folder: Path | None,
    *,
    command: str,
    report: Reporter | None = None,
    checkpoint: Path | None = None,
    processes: Processes = ALONE,
    journal: Journal | None = None,
) -> Streamed:
    """Cut the log into shards and train on them.

    Args:
        folder: of the shards, beside the bundle unless given; every process must see it. Shards that are there are
            replaced.
        command, checkpoint, processes, journal: see `training.train_sequences.learn`.

    Raises:
        PolytempoError: the log cannot be read so, does not cover the time ranges, or has nothing to learn from.
    """
    report = report or Quiet()
    folder = _own_folder(config) if folder is None else folder
    if config.data.file is None or config.preprocess is not None:
        raise PolytempoError(
            "shards are cut from a file, as it is.", "Leave preprocessing out (see `polytempo prepare`), or --shards."
        )
    log = _opened(config, Path(config.data.file))
    n_rows = log.count_rows()
    report.stage("reading the log", n_rows)
    from_ms, split_ms, until_ms = config.window.bounds_ms(*_span(log, report))
    window, values = _window(log, config, from_ms, split_ms, command)
    spec = spec_for(model, feature_spec(config.features, values))
    types = spec.types

    def events(since_ms: int, before_ms: int) -> Iterator[pl.DataFrame]:
        for frame in log.batches(since_ms=since_ms, until_ms=before_ms):
            happened = frame.filter(
                (pl.col("user_id").fill_null("") != "")
                & (pl.col("item_id").fill_null("") != "")
                & pl.col("event_type").is_in(list(types.names))
            )
            if len(happened) > 0:
                yield happened

    def cut() -> bytes:
        report.stage("cutting shards", 1)
        cut_shards(
            lambda: events(from_ms, until_ms),
            folder,
            types=types,
            n_items=model.n_items,
            n_events=model.shard_events,
            known_until_ms=split_ms,
        )
        return _CUT

    processes.content(cut)  # the others wait until the first is done
    shards = Shards.open(folder)
    lesson = InShards.of(shards, from_ms, split_ms, model.hold_back)
    learnt = learn(
        config,
        model,
        lesson,
        spec,
        window=window,
        checkpoint=checkpoint,
        on_step=Steps(report),
        processes=processes,
        journal=journal,
    )
    return Streamed(spec, window, lesson, learnt, (split_ms, until_ms))


def _own_folder(config: Config) -> Path:
    bundle = Path(config.bundle.path)
    return bundle.with_name(f".{bundle.name}.shards")


def _opened(config: Config, path: Path) -> EventLog:
    return open_log(path, config.data.columns.mapping(tuple(config.features.segments)))


def _span(log: EventLog, report: Reporter) -> tuple[int, int]:
    """Times of the first and of the last event."""
    first_ms, last_ms, n_read = None, None, 0
    for frame in log.batches():
        n_read += len(frame)
        report.at(n_read)
        times = frame["ts_ms"].drop_nulls()
        if len(times) > 0:
            low, high = int(times.min()), int(times.max())  # type: ignore[arg-type]  # it is not empty
            first_ms = low if first_ms is None else min(first_ms, low)
            last_ms = high if last_ms is None else max(last_ms, high)
    if first_ms is None or last_ms is None:
        raise PolytempoError("there is no event in the log.")
    return first_ms, last_ms


def _window(
    log: EventLog, config: Config, from_ms: int, split_ms: int, command: str
) -> tuple[TrainingWindow, dict[str, tuple[str, ...]]]:
    """What a bundle says of its training, and by context field its most common values there."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in config.features.segments}
    n_events = 0
    for frame in log.batches(since_ms=from_ms, until_ms=split_ms):
        n_events += len(frame)
        for name, counted in counts.items():
            found = frame[name].drop_nulls().value_counts(name="n")
            counted.update(dict(zip(found[name].to_list(), found["n"].to_list(), strict=True)))
    values = {}
    for name, n in config.features.segments.items():
        counts[name].pop("", None)
        values[name] = tuple(sorted(counts[name], key=lambda value, of=counts[name]: (-of[value], value))[:n])  # type: ignore[misc]
    return TrainingWindow(from_ms, split_ms, n_events, log.path.name, command), values

"""What a sequence model of a log that does not fit into memory is trained on and judged by.

    file      read in batches: for its span, for what a configuration asks of its fields, and twice for each of
    shards    the training window by user, see `training.sequence_shards`: learnt from one at a time
    log       all events by time, see `training.stored_log`: replayed as one in memory is

Memory is that of a batch of the file, a shard, the counts of items, the item statistics and the model. The rest is in
files, the users' records among it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl

from stream.bundle.manifest import TrainingWindow
from stream.core.features import FeatureSpec
from stream.errors import PolytempoError
from stream.logs import EventLog, open_log, read_items
from training.config import Config, SequenceTraining, feature_spec
from training.lessons import InShards
from training.log import item_updates
from training.material import Material, with_targets
from training.processes import ALONE, Processes
from training.reporter import Quiet, Reporter
from training.sequence_learning import spec_for
from training.sequence_shards import Shards, cut_shards
from training.stored_log import store_log

__all__ = ["Streamed", "is_long", "streamed"]


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """A log in files.

    Attributes:
        spec: features of the model's bundle.
        lesson: the training window, in shards.
        window: what the bundle says of its training, but for the command.
        material: the log; None but in the first of several processes, which judges alone.
    """

    spec: FeatureSpec
    lesson: InShards
    window: TrainingWindow
    material: Material | None


class _Found(msgspec.Struct, frozen=True):
    """What the first process tells the others, which need not see the file."""

    features: dict[str, object]
    window: TrainingWindow


def is_long(config: Config) -> bool:
    """Whether a configuration's file has more rows than its sequence model wants in memory."""
    model = config.model
    if not isinstance(model, SequenceTraining) or config.data.file is None or config.preprocess is not None:
        return False
    path = Path(config.data.file)
    return path.exists() and _opened(config, path).count_rows() > model.shard_above


@contextmanager
def streamed(
    config: Config,
    model: SequenceTraining,
    folder: Path | None = None,
    *,
    report: Reporter | None = None,
    processes: Processes = ALONE,
) -> Iterator[Streamed]:
    """Put a log into files.

    Args:
        folder: of the shards; every process must see it. Shards that are there are replaced. A folder beside the bundle
            unless given, which is gone in the end.
        processes: the first reads the log, the others wait for it.

    Raises:
        PolytempoError: the log cannot be read so, does not cover the time ranges, or has nothing to learn from or to
            judge.
    """
    if config.data.file is None or config.preprocess is not None:
        raise PolytempoError(
            "shards are cut from a file, as it is.", "Leave preprocessing out (see `polytempo prepare`), or --shards."
        )
    own = folder is None
    bundle = Path(config.bundle.path)
    folder = bundle.with_name(f".{bundle.name}.shards") if folder is None else folder
    material: Material | None = None

    def read() -> bytes:
        nonlocal material
        material = _read(config, model, folder, report or Quiet())
        return msgspec.json.encode(_Found(material.spec.to_json(), material.window("")))

    try:
        found = msgspec.json.decode(processes.content(read) or b"", type=_Found)
        lesson = InShards.of(Shards.open(folder), found.window.from_ms, found.window.to_ms, model.hold_back)
        yield Streamed(FeatureSpec.from_json(found.features), lesson, found.window, material)
    finally:
        if own and processes.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _read(config: Config, model: SequenceTraining, folder: Path, report: Reporter) -> Material:
    """Cut the shards and store the log."""
    path = Path(config.data.file or "")
    log = _opened(config, path)
    report.stage("reading the log", log.count_rows())
    first_ms, last_ms = _span(log, report)
    from_ms, split_ms, until_ms = config.window.bounds_ms(first_ms, last_ms)
    spec = spec_for(model, feature_spec(config.features, _common_values(log, config, from_ms, split_ms)))
    types = spec.types

    def taught() -> Iterator[pl.DataFrame]:
        for frame in log.batches(since_ms=from_ms, until_ms=split_ms):
            yield frame.filter(
                (pl.col("user_id").fill_null("") != "")
                & (pl.col("item_id").fill_null("") != "")
                & pl.col("event_type").is_in(list(types.names))
            )

    report.stage("cutting shards", 1)
    cut_shards(taught, folder, types=types, n_items=model.n_items, n_events=model.shard_events)
    report.stage("putting the log in order", 1)
    stored = store_log(
        lambda: log.batches(until_ms=until_ms),
        folder,
        types,
        spec.statistics.segment_fields,
        span_ms=(first_ms, until_ms),
        n_events=model.shard_events,
    )
    items = [] if config.data.items is None else item_updates(read_items(config.data.items))
    return with_targets(config, spec, stored, items, (from_ms, split_ms, until_ms), path.name)


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


def _common_values(log: EventLog, config: Config, from_ms: int, split_ms: int) -> dict[str, tuple[str, ...]]:
    """By context field, its most common values in the training window."""
    wanted = config.features.segments
    counts: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    for frame in log.batches(since_ms=from_ms, until_ms=split_ms) if wanted else ():
        for name, counted in counts.items():
            found = frame[name].drop_nulls().value_counts(name="n")
            counted.update(dict(zip(found[name].to_list(), found["n"].to_list(), strict=True)))
    values = {}
    for name, n in wanted.items():
        counted = counts[name]
        counted.pop("", None)
        values[name] = tuple(sorted(counted, key=lambda value, of=counted: (-of[value], value))[:n])  # type: ignore[misc]
    return values

"""A log with everything that a configuration says about it: what is trained on, and what is judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from stream.bundle.manifest import TrainingWindow
from stream.core.catalogue import ItemUpdate
from stream.core.features import FeatureSpec
from stream.errors import PolytempoError
from stream.logs import open_log, read_items
from training.config import Config, common_values, feature_spec
from training.log import Log, item_updates
from training.preprocess import preprocess
from training.preprocess.pipeline import read_events
from training.shards import read_description
from training.targets import Targets, find_targets, sampled

__all__ = ["Material", "prepare", "with_targets"]


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """A log with everything that a configuration says about it.

    Attributes:
        spec: features, their segments taken from the training window.
        log: all events until the end of validation.
        items: what is known of items.
        from_ms, split_ms, until_ms: training is `[from_ms, split_ms)`, validation `[split_ms, until_ms)`.
        train, validate: the targets of both.
        source: what the log is called in the bundle.
        preprocessing: what the log went through before, for the manifest.
    """

    spec: FeatureSpec
    log: Log
    items: list[ItemUpdate]
    from_ms: int
    split_ms: int
    until_ms: int
    train: Targets
    validate: Targets
    source: str
    preprocessing: dict[str, Any] | None = None

    def window(self, command: str) -> TrainingWindow:
        """What a bundle says of its training."""
        rows = self.log.between(self.from_ms, self.split_ms)
        return TrainingWindow(self.from_ms, self.split_ms, rows.stop - rows.start, self.source, command)


def prepare(
    config: Config, tables: tuple[pl.DataFrame, pl.DataFrame | None] | None = None, rows: Path | None = None
) -> Material:
    """Read the log and decide what is trained and judged.

    Args:
        tables: events and items in the normal form of `stream.logs`, where they do not come from files.
        rows: a folder of rows that were made before, see `training.shards`: the segments are theirs.

    Raises:
        PolytempoError: the log cannot be read, lacks a column, does not cover the time ranges, or the rows have other
            features.
    """
    frame, items, source = _tables(config) if tables is None else (*tables, _source(config))
    times = frame["ts_ms"].drop_nulls()
    if len(times) == 0:
        raise PolytempoError("there is no event in the log.")
    from_ms, split_ms, until_ms = config.window.bounds_ms(int(times.min()), int(times.max()))  # type: ignore[arg-type]
    prepared = None
    if config.preprocess is not None:
        types = feature_spec(config.features, dict.fromkeys(config.features.segments, ())).types
        prepared = preprocess(frame, config.preprocess, known_until_ms=split_ms, types=types)
        frame = prepared.events
    window = frame.filter((pl.col("ts_ms") >= from_ms) & (pl.col("ts_ms") < split_ms))
    missing = [name for name in config.features.segments if name not in frame.columns]
    if missing:
        raise PolytempoError(
            f"the log has no context field {', '.join(missing)}.", "Columns: " + ", ".join(frame.columns)
        )
    if rows is None:
        spec = feature_spec(config.features, common_values(config.features, window))
    else:
        spec = _spec_of(rows, config)
    if prepared is not None:
        spec = replace(spec, values=prepared.values)
    log = Log.of(frame.filter(pl.col("ts_ms") < until_ms), spec.types, spec.statistics.segment_fields)
    updates = [] if items is None else item_updates(items)
    record = None if prepared is None else prepared.record
    return with_targets(config, spec, log, updates, (from_ms, split_ms, until_ms), source, record)


def with_targets(
    config: Config,
    spec: FeatureSpec,
    log: Log,
    items: list[ItemUpdate],
    bounds_ms: tuple[int, int, int],
    source: str,
    preprocessing: dict[str, Any] | None = None,
) -> Material:
    """A log with its targets.

    Args:
        bounds_ms: see `Material`.

    Raises:
        PolytempoError: there is no event, nothing to train on or nothing to judge.
    """
    from_ms, split_ms, until_ms = bounds_ms
    if len(log) == 0:
        raise PolytempoError("no event of the log can be used.", f"Event types are {', '.join(spec.types.names)}.")
    targets = find_targets(log, spec.types.weight_table(), spec.state.session_gap_ms)
    train = targets.within(log.between(from_ms, split_ms))
    # A draw of its own: training may take every target while validation judges a sample of them.
    train = sampled(train, len(log), config.window.train_sample, seed=config.seed + 1)
    validate = sampled(targets, len(log), config.window.validate_sample).within(log.between(split_ms, until_ms))
    if len(train) == 0 or len(validate) == 0:
        raise PolytempoError(
            f"there are {len(train)} targets to train on and {len(validate)} to validate on: both are needed.",
            "A target is an event that continues a session, on an item that is new to it.",
        )
    return Material(spec, log, items, from_ms, split_ms, until_ms, train, validate, source, preprocessing)


def _tables(config: Config) -> tuple[pl.DataFrame, pl.DataFrame | None, str]:
    if config.data.file is None:
        raise PolytempoError("the configuration simulates its log: whoever calls must bring the tables.")
    mapping = config.data.columns.mapping(tuple(config.features.segments))
    if config.preprocess is None:
        frame = open_log(config.data.file, mapping).frame()
    else:
        frame = read_events(config.data.file, mapping, config.preprocess).events
    items = None if config.data.items is None else read_items(config.data.items)
    return frame, items, _source(config)


def _source(config: Config) -> str:
    if config.data.file is not None:
        return Path(config.data.file).name
    options = ", ".join(f"{name} {value:g}" for name, value in (config.data.simulate or {}).items())
    return f"simulated shop ({options})"


def _spec_of(rows: Path, config: Config) -> FeatureSpec:
    """The features of rows that were made before.

    Raises:
        PolytempoError: the configuration wants others.
    """
    spec = read_description(rows).spec
    values = {segment.field: segment.values for segment in spec.statistics.segments}
    if config.preprocess is not None or set(values) != set(config.features.segments) or (
        feature_spec(config.features, values) != spec
    ):  # fmt: skip
        raise PolytempoError(
            f"the rows in {rows} have other features than the configuration.",
            "Make them with `polytempo rows --config` and this configuration.",
        )
    return spec

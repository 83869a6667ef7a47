"""Retraining from topics: what happened lately becomes a bundle that takes the place of the one that serves.

    topic     ------[=============================|=======] now
                    since    trained on             latest: both bundles are judged here
    work      1 the range, as files      2 checkpoint      3 bundle
    channel   active: shop-1  -------------------------------------->  active: shop-20260102T0300

The range is copied to files first, so that a run that is killed goes on with what it began with, whatever arrives
meanwhile, unless it is a marker that somebody was forgotten: then the copy is thrown away. The channel changes in the
last step and in that one only.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import polars as pl
from msgspec.structs import replace

from stream.bundle.channel import activate, resolve
from stream.bundle.load import load_bundle, read_manifest
from stream.core.catalogue import ItemUpdate
from stream.core.scales import DAY_MS
from stream.errors import PolytempoError
from stream.replay.events import read_events, read_item_updates
from stream.replay.forgotten import Forgotten
from stream.replay.topics import TopicReader
from training.backtest.significance import Interval, gains, paired_difference
from training.config import (
    Config,
    Data,
    FusionTraining,
    RankerTraining,
    SequenceTraining,
    Window,
    feature_spec,
    span_ms,
)
from training.job import Trained
from training.judging import evaluate_bundle
from training.material import Material, prepare
from training.processes import ALONE, Processes
from training.reporter import Reporter
from training.train import train
from training.warm import Start, read_start

__all__ = ["Plan", "Retrained", "Slice", "retrain", "working"]

_PLAN, _EVENTS, _ITEMS, _CHECKPOINT = "plan.json", "events.parquet", "items.parquet", "run.pt"
_STALE_MS: Final = DAY_MS
"""What was cut off longer ago is begun anew: its range is no longer what happened lately."""
_ITEM_SCHEMA: Final = {
    "item_id": pl.String(),
    "category": pl.String(),
    "title": pl.String(),
    "available": pl.Boolean(),
    "published_ms": pl.Int64(),
}


@dataclass(frozen=True, slots=True)
class Slice:
    """What is read.

    Attributes:
        events, items: names of the topics.
        span_ms: how far back from now, in event time.
    """

    events: str
    items: str
    span_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted of the new bundle.

    Attributes:
        share: of the range, its first part, that is trained on; the rest judges.
        rate: the learning rate, as a share of the configuration's, where weights are taken over.
        tolerance: the new bundle may be worse than the one before by this share of its NDCG; 95 % of the draws of a
            paired test must lie above.
        force: promote it whatever the test says, and without one where the two cannot be compared.
    """

    share: float = 0.9
    rate: float = 0.3
    tolerance: float = 0.05
    force: bool = False


@dataclass(frozen=True, slots=True)
class Retrained:
    """What came of it.

    Attributes:
        trained: the new bundle.
        before: the reference of the bundle that served; None where there was none.
        promoted: whether the channel now names the new one.
        warm: whether weights were taken over.
        n_new_items: items of the vocabulary that the bundle before did not have; None without a vocabulary.
        difference: new less old, in NDCG a target of the latest slice; None where nothing was compared.
        n_events: in the range.
        n_forgotten: records left out because their user was forgotten after them.
        resumed: whether a run that had been cut off was gone on with.
    """

    trained: Trained
    before: str | None
    promoted: bool
    warm: bool
    n_new_items: int | None
    difference: Interval | None
    n_events: int
    n_forgotten: int
    resumed: bool


class _Begun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run has set out to do: written when the range is in its files."""

    fingerprint: str
    until_ms: int
    n_forgotten: int

    @property
    def version(self) -> str:
        return f"{datetime.fromtimestamp(self.until_ms / 1000, UTC):%Y%m%dT%H%M%S}"


@contextmanager
def working(channel: Path) -> Iterator[Path]:
    """The folder in which a channel's retraining works, for one process at a time.

    Raises:
        PolytempoError: another one is at it.
    """
    folder = channel.with_name(f".{channel.name}.retrain")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PolytempoError(f"{channel} is being retrained by another process.", "Wait for it.") from error
        yield folder


def retrain(
    config: Config,
    reader: TopicReader,
    wanted: Slice,
    *,
    channel: Path,
    folder: Path,
    now_ms: int,
    plan: Plan,
    command: str,
    report: Reporter,
    processes: Processes = ALONE,
    forgotten: Forgotten | None = None,
) -> Retrained:
    """Read, train, judge, and promote what is not worse.

    Args:
        config: its data, absolute times and path of the bundle are not used: the bundle lies beside the channel, its
            version is the time of the range's end.
        folder: see `working`; what an earlier run left there is gone on with if it set out to do the same.
        now_ms: end of the range.
        command: for the bundle's manifest.
        forgotten: whose events are left out. What an earlier run copied before one of these markers is read anew.

    Raises:
        PolytempoError: the range cannot be read or has too little in it, or the two bundles cannot be compared.
        BundleError: the bundle that serves cannot be read.
    """
    current = resolve(channel) if channel.exists() else None
    digest = "" if current is None else read_manifest(current).digest()
    forgotten = Forgotten() if forgotten is None else forgotten
    intention = msgspec.json.encode([config, wanted, plan, digest, forgotten.digest])
    fingerprint = hashlib.sha256(intention).hexdigest()
    begun = _begun(folder, fingerprint, now_ms)
    resumed = begun is not None
    if begun is None:
        begun = _snapshot(config, reader, wanted, forgotten, folder, now_ms, fingerprint, report)
    tables = pl.read_parquet(folder / _EVENTS), pl.read_parquet(folder / _ITEMS)
    start = None if current is None else _start(config, current)
    bundle = channel.parent / f"{config.bundle.name}-{begun.version}"
    settings = _settings(config, wanted, plan, bundle, begun.version, warm=start is not None)
    trained = train(
        settings,
        command=command,
        tables=tables,
        report=report,
        checkpoint=folder / _CHECKPOINT if isinstance(config.model, SequenceTraining) else None,
        processes=processes,
        start=start,
    )
    difference = None
    if current is not None:
        material = prepare(settings, tables)
        difference, served = _compare(current, bundle, material, settings, plan, report)
        worse = difference is not None and difference.low < -plan.tolerance * served
    promoted = current is None or plan.force or not worse
    if promoted:
        activate(channel, bundle)
    shutil.rmtree(folder, ignore_errors=True)
    return Retrained(
        trained=trained,
        before=None if current is None else read_manifest(current).reference,
        promoted=promoted,
        warm=start is not None,
        n_new_items=_n_new(bundle, current),
        difference=difference,
        n_events=len(tables[0]),
        n_forgotten=begun.n_forgotten,
        resumed=resumed,
    )


def _begun(folder: Path, fingerprint: str, now_ms: int) -> _Begun | None:
    """What an earlier run with the same intention has begun within a day."""
    try:
        begun = msgspec.json.decode((folder / _PLAN).read_bytes(), type=_Begun)
    except (OSError, msgspec.MsgspecError):
        return None
    return begun if begun.fingerprint == fingerprint and now_ms - begun.until_ms < _STALE_MS else None


def _snapshot(
    config: Config,
    reader: TopicReader,
    wanted: Slice,
    forgotten: Forgotten,
    folder: Path,
    now_ms: int,
    fingerprint: str,
    report: Reporter,
) -> _Begun:
    """Copy the range into files; the plan is written when they are whole."""
    for name in (_PLAN, _EVENTS, _ITEMS, _CHECKPOINT):
        (folder / name).unlink(missing_ok=True)
    types = feature_spec(config.features, dict.fromkeys(config.features.segments, ())).types
    report.stage(f"reading {wanted.events}", 1)

    def progress(n_read: int, n_all: int) -> None:
        report.stage(f"reading {wanted.events}", n_all)
        report.at(n_read)

    found = read_events(
        reader,
        wanted.events,
        known_types=types.codes(),
        since_ms=now_ms - wanted.span_ms,
        until_ms=now_ms + 1,
        forgotten=forgotten,
        on_progress=progress,
    )
    if len(found.table) == 0:
        raise PolytempoError(
            f"{wanted.events} has no event of this range.",
            f"{found.n_refused:,} were refused, {found.n_forgotten:,} were of forgotten users; --since reaches back.",
        )
    found.table.write_parquet(folder / _EVENTS)
    _table(read_item_updates(reader, wanted.items)).write_parquet(folder / _ITEMS)
    begun = _Begun(fingerprint, now_ms, found.n_forgotten)
    aside = folder / f"{_PLAN}.new"
    aside.write_bytes(msgspec.json.encode(begun))
    aside.replace(folder / _PLAN)
    return begun


def _table(updates: list[ItemUpdate]) -> pl.DataFrame:
    return pl.DataFrame(
        {name: [getattr(update, name) for update in updates] for name in _ITEM_SCHEMA}, schema=_ITEM_SCHEMA
    )


def _settings(config: Config, wanted: Slice, plan: Plan, bundle: Path, version: str, *, warm: bool) -> Config:
    """The configuration of this run."""
    model = config.model
    if warm and isinstance(model, RankerTraining | SequenceTraining):
        model = replace(model, learning_rate=model.learning_rate * plan.rate)
    if warm and isinstance(model, FusionTraining):
        ranker = replace(model.ranker, learning_rate=model.ranker.learning_rate * plan.rate)
        model = replace(model, learning_rate=model.learning_rate * plan.rate, ranker=ranker)
    window = config.window
    return replace(
        config,
        model=model,
        data=Data(file=f"topic {wanted.events}"),
        window=Window(train_share=plan.share, train_sample=window.train_sample, validate_sample=window.validate_sample),
        bundle=replace(config.bundle, path=str(bundle), version=version),
    )


def _start(config: Config, current: Path) -> Start | None:
    """Weights of the bundle that serves, for the models that can begin with them."""
    warm = isinstance(config.model, RankerTraining | SequenceTraining | FusionTraining)
    return read_start(current) if warm else None


def _compare(
    current: Path, bundle: Path, material: Material, config: Config, plan: Plan, report: Reporter
) -> tuple[Interval | None, float]:
    """New less old on the latest slice, paired by target, users drawn anew; and the old one's NDCG."""
    old, new = load_bundle(current), load_bundle(bundle)
    fields = [each.features.statistics.segment_fields for each in (old, new)]
    if fields[0] != fields[1] or old.features.types != new.features.types or old.manifest.policy != new.manifest.policy:
        if plan.force:
            return None, 0.0
        raise PolytempoError(
            f"{old.reference} and {new.reference} differ in event types, context fields or policy: they answer "
            "different questions.",
            "--force promotes the new one without a comparison.",
        )
    period_ms, n = span_ms(config.period), config.policy.n
    places = [evaluate_bundle(each, material, period_ms=period_ms, report=report).place["model"] for each in (old, new)]
    before, after = (gains(place, n)["ndcg"] for place in places)
    users = material.log.user[material.validate.row]
    return paired_difference(before, after, users), float(before.mean())


def _n_new(bundle: Path, current: Path | None) -> int | None:
    """Items of the new vocabulary that the old one had not."""
    new = load_bundle(bundle).vocabulary
    if not new:
        return None
    return len(set(new).difference([] if current is None else load_bundle(current).vocabulary))

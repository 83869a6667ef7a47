"""How fast a backtest is on one core, and what bounds it: `polytempo bench backtest`.

The part of a log that is measured is replayed with a recommendation at every event, as a worker makes them, after all
that lies before it was learned from. In turn, from the same checkpoint:

    ranker      the bundle: candidates, their features, the model, the best ten
    candidates  the same without the model: candidates are ranked by their first feature
    baselines   no bundle: the three lists of the baselines at every event
    learning    nothing is recommended: records and item statistics alone

Time is the processor's, of one thread; of a stage within a stage only the inner one counts it. What is paid once
however fast the replay is, reading and ordering the log before it and summing up behind it, is told beside.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import polars as pl
from numpy.typing import NDArray

import stream.core.seam as seam
import training.evaluate as evaluation
from stream.bundle.load import Bundle, load_bundle
from stream.core.seam import Recommender
from stream.core.statistics import ItemStatistics
from stream.demo.shop import ShopConfig, simulate
from stream.errors import PolytempoError
from stream.logs import open_log
from tests.bench.first_feature import FirstFeature
from tests.bench.path import a_bundle
from tests.bench.path_stages import Stages
from training.backtest.analysis import analyse
from training.backtest.judged import Judged, judged_targets
from training.backtest.material import Material, material_of
from training.backtest.report import report_html
from training.backtest.run import Conditions, Run, Share
from training.log import Log
from training.replay import StateTable
from training.targets import Targets

__all__ = ["STAGES", "BacktestOptions", "run"]

STAGES: Final = (
    "batches",
    "records",
    "fold",
    "item statistics",
    "view",
    "candidates, features",
    "model",
    "rank",
    "metrics",
    "the rest",
)
"""In the order of an event's way: cutting batches, loading and storing records, folding, counting what the events add,
bringing the view up to date, candidates with their features, ONNX Runtime, the best of them, looking for the target."""
_DAYS: Final = 0.35


@dataclass(frozen=True, slots=True)
class BacktestOptions:
    """What to measure.

    Attributes:
        bundle: None for models/shop-ranker, or an untrained ranker while there is none.
        log: None for one simulated week of a shop.
        n_events: how many are measured.
        n_before: how many a simulated shop has before them.
        n_users, n_items: size of the shop.
        since_ms: where in the log the measured events begin; None for the last ones.
        period_ms: age of the view at most.
        batch_size: events in a batch.
        n_rounds: how often each is measured, in turn.
    """

    bundle: Path | None = None
    log: Path | None = None
    n_events: int = 20_000
    n_before: int = 40_000
    n_users: int = 20_000
    n_items: int = 3_000
    since_ms: int | None = None
    period_ms: int = 10_000
    batch_size: int = 256
    n_rounds: int = 1


@dataclass(slots=True)
class _Way:
    """One thing that is measured.

    Attributes:
        bundle: what recommends; None for the baselines.
        targets: what is judged.
        every_event: whether a recommendation is made at every event.
        standing: the checkpoint at the first measured event.
    """

    bundle: Bundle | None
    targets: Targets
    every_event: bool
    standing: dict[str, NDArray[Any]]


def run(options: BacktestOptions, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and give the figures of `polytempo bench backtest --json`.

    Raises:
        PolytempoError: the log is too short, or the bundle scores no candidates.
    """
    with a_bundle(options.bundle) as folder:
        bundle = load_bundle(folder)
    if bundle.scorer.space != "candidates":
        raise PolytempoError(
            f"{bundle.reference} ranks its vocabulary, not candidates.", "Name a two-stage bundle with --bundle."
        )
    began_s = time.process_time()
    material = material_of(_events(options), bundle.features.types)
    reading_s = time.process_time() - began_s
    first, stop = _range(options, material)
    judged = Judged(from_ms=int(material.log.ts_ms[first]), until_ms=int(material.log.ts_ms[stop - 1]) + 1)
    targets = judged_targets(material.log, material.types, material.fields, judged)
    # All that is scored lies in the measured range, and the replay goes to its end.
    targets = targets.where(targets.scored >= first)
    if len(targets) == 0:
        raise PolytempoError("nothing in this range can be judged.", "Ask for more --events.")
    last = targets.where(targets.scored == targets.scored.max())
    ways = {
        "ranker": _Way(bundle, targets, True, {}),
        "candidates": _Way(_without_model(bundle), targets, True, {}),
        "baselines": _Way(None, targets, True, {}),
        "learning": _Way(bundle, last, False, {}),
    }
    took: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    n_measured = int(targets.scored.max()) + 1 - first
    ranked: Run | None = None
    for number in range(options.n_rounds + 1):  # the first one compiles and makes the checkpoints
        for name, way in ways.items():
            if number > 0:
                say(f"round {number} of {options.n_rounds}: {name}, {n_measured:,} events")
            else:
                say(f"{name}: learning from {first:,} events before")
            done, stages = _replayed(options, material, way, first)
            if number > 0:
                took[name].append(stages)
                ranked = done if name == "ranker" else ranked
    assert ranked is not None
    began_s = time.process_time()
    report_html(analyse(material, targets, judged, ranked.outcomes()), title="benchmark")
    report_s = time.process_time() - began_s
    runs = {name: _figures(rounds, n_measured) for name, rounds in took.items()}
    return {
        "events_per_s": runs["ranker"]["events_per_s"],
        "without_model_events_per_s": runs["candidates"]["events_per_s"],
        "us_per_event": runs["ranker"]["us_per_event"],
        "runs": runs,
        "bundle": bundle.reference,
        "candidates": bundle.features.candidates.n,
        "events": n_measured,
        "before": first,
        "targets": len(targets),
        "events_per_period": round(n_measured / _n_periods(material.log, first, first + n_measured, options), 1),
        "period_ms": options.period_ms,
        "reading_us_per_event": round(1e6 * reading_s / len(material.log), 2),
        "report_us_per_target": round(1e6 * report_s / len(targets), 1),
    }


def _events(options: BacktestOptions) -> pl.DataFrame:
    if options.log is not None:
        return open_log(options.log).frame()
    n = options.n_events + options.n_before
    shop = ShopConfig(
        n_users=options.n_users,
        n_items=options.n_items,
        n_categories=min(20, options.n_items),
        days=_DAYS,
        events_per_day=max(1, int(1.5 * n / _DAYS)),  # what a shop leaves behind is random: more than wanted
    )
    return simulate(shop, 0).events.head(n)


def _range(options: BacktestOptions, material: Material) -> tuple[int, int]:
    """First row of what is measured, and the row behind its end."""
    log = material.log
    if options.since_ms is None:
        return max(0, len(log) - options.n_events), len(log)
    first = log.between(options.since_ms, 2**62).start
    if first >= len(log):
        raise PolytempoError("the log ends before --since.", "Name a time within the log.")
    return first, min(len(log), first + options.n_events)


def _without_model(bundle: Bundle) -> Bundle:
    return replace(bundle, scorer=FirstFeature(bundle.features), retriever=None)  # type: ignore[arg-type]


def _replayed(options: BacktestOptions, material: Material, way: _Way, first: int) -> tuple[Run, dict[str, float]]:
    """Replay the measured events once; microseconds of processor time by stage. At first, what lies before them too."""
    conditions = Conditions(
        period_ms=options.period_ms, batch_size=options.batch_size, every_event=way.every_event, n_examples=0
    )
    run = Run(material, way.targets, way.bundle, conditions, Share())
    if way.standing:
        run.resume(way.standing)
    else:
        if first > 0:
            run.go(stopped=lambda: run.n_done >= first)
        way.standing = run.checkpoint()
    stages = Stages()
    with _watched(stages, way.bundle):
        stages.start()
        run.go()
        took = stages.us()
    took["the rest"] = took.pop("event loop")
    return run, took


@contextmanager
def _watched(stages: Stages, bundle: Bundle | None) -> Iterator[None]:
    """Time the functions that a replay consists of while it runs as it always does."""
    with ExitStack() as patches:
        for owner, name, stage in (
            (Log, "batch", "batches"),
            (StateTable, "get", "records"),
            (StateTable, "put", "records"),
            (seam, "fold", "fold"),
            (Recommender, "activity_of", "item statistics"),
            (ItemStatistics, "apply_all", "item statistics"),
            (ItemStatistics, "advance", "view"),
            (seam, "featurize", "candidates, features"),
            (seam, "sources_of", "rank"),
            (seam, "rank", "rank"),
            (evaluation, "rank", "rank"),
            (Run, "_judge", "metrics"),
        ):
            patches.enter_context(mock.patch.object(owner, name, stages.timed(getattr(owner, name), stage)))
        if bundle is not None:
            scorer = bundle.scorer
            patches.enter_context(mock.patch.object(scorer, "score", stages.timed(scorer.score, "model")))
        yield


def _figures(rounds: list[dict[str, float]], n_events: int) -> dict[str, Any]:
    """Of several rounds, the one with the median time."""
    median = statistics.median_low(sum(stages.values()) for stages in rounds)
    stages = next(stages for stages in rounds if sum(stages.values()) == median)
    return {
        "events_per_s": round(1e6 * n_events / median),
        "all_us_per_event": round(median / n_events, 2),
        "us_per_event": {name: round(stages.get(name, 0.0) / n_events, 2) for name in STAGES},
    }


def _n_periods(log: Log, first: int, stop: int, options: BacktestOptions) -> int:
    return len(np.unique(log.ts_ms[first:stop] // options.period_ms))

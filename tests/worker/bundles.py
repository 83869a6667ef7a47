"""Real bundles to serve with, untrained: each is exported once per test run, when a test first asks for it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from stream.core.distributions import Binned
from stream.core.events import EventTypes
from stream.core.features import FeatureSpec, menu
from stream.core.scales import DAY_MS, HOUR_MS
from stream.core.statistics import CoVisitationChannel, PopularityChannel, SegmentField, StatisticsSpec

__all__ = ["OTHER_STATISTICS", "bundle"]

OTHER_STATISTICS = StatisticsSpec(
    popularity=(
        PopularityChannel(HOUR_MS),
        PopularityChannel(HOUR_MS, "continuing"),
        PopularityChannel(DAY_MS, field="device"),
    ),
    co_visitation=(CoVisitationChannel(6 * HOUR_MS, "any"),),
    segments=(SegmentField("device", ("1", "3")),),
    n_slots=32,
)


@cache
def _home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="polytempo-test-bundles-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


@cache
def bundle(name: str) -> Path:
    """The folder of a bundle, not to be changed: `ranker`, `ranker-2` (other weights), `telling` (half of its scores in
    training were over a million, or so it tells), `recurrent`, `fused` (a sequence model and the ranker behind it),
    `indexed` and `fused-indexed` (many items, searched with an index), `other-statistics`, a ranker that wants
    others of items, or `returning`, one that wants to know what users come back to.
    """
    from tests.bundle import models  # it imports torch, which takes seconds

    folder = _home() / name
    if name == "ranker":
        models.write_ranker(folder)
    elif name == "ranker-2":
        models.write_ranker(folder, seed=1)
    elif name == "telling":
        known = {"score": Binned((1e6,), (0.5, 0.5)), "context:events": Binned((0.0,), (0.5, 0.5))}
        models.write_ranker(folder, name="telling", distributions=known)
    elif name == "recurrent":
        models.write_recurrent(folder)
    elif name == "fused":
        models.write_fused(folder)
    elif name == "indexed":
        models.write_indexed(folder)
    elif name == "fused-indexed":
        models.write_fused_indexed(folder)
    elif name == "other-statistics":
        lists = replace(models.FEATURES.candidates, lists=(("continuing:1h", 50),))
        spec = replace(models.FEATURES, types=EventTypes(), statistics=OTHER_STATISTICS, candidates=lists)
        models.write_ranker(folder, features=spec, module=_ranker(spec), name="other", version=1)
    elif name == "returning":
        spec = models.RETURNING
        models.write_ranker(folder, features=spec, module=_ranker(spec), name="returning", version=1)
    else:
        raise KeyError(name)
    return folder


def _ranker(spec: FeatureSpec) -> Any:
    """As wide as these features are."""
    from tests.bundle import models

    offered = menu(spec)
    widths = [offered[given].shape[-1] for given in ("candidate_features", "context_features")]
    return models.Ranker(int(widths[0]), int(widths[1]))

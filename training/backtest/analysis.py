"""What the lists of a backtest say: by part and over time, against each other, what they hold and what scores mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.backtest.judged import Judged
from training.backtest.material import Material
from training.backtest.run import BASELINES, Outcome
from training.backtest.significance import Interval, gains, paired_difference, share_interval
from training.backtest.slices import parts_of, windows_of
from training.targets import Targets

__all__ = ["Analysis", "Breadth", "Calibration", "Course", "Difference", "PartFigures", "analyse"]

_FEWEST = 20  # targets in a window that is drawn
_TENTHS = 10


@dataclass(frozen=True, slots=True)
class PartFigures:
    """A part of the targets: by run, the hit rate and its interval."""

    by: str
    label: str
    n_targets: int
    hit_rate: dict[str, Interval]


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """Hit rates over time, (W,) each; NaN for windows with too few targets."""

    ends_ms: NDArray[np.int64]
    width_ms: int
    n_targets: NDArray[np.int64]
    hit_rate: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better `two` is than `one`, by metric (hr, ndcg, mrr)."""

    one: str
    two: str
    by_metric: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class Breadth:
    """What a run recommends.

    Attributes:
        n_items: distinct items.
        coverage: of the items that users touched in the judged range, the share that was recommended at least once.
        top_share: share of all recommendations that go to the 1 % of items that users touched most.
        top_share_wanted: the same of the targets: what users do themselves.
        gini: 0 when all recommended items come equally often, 1 when it is always the same.
    """

    n_items: int
    coverage: float
    top_share: float
    top_share_wanted: float
    gini: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Hit rates by how sure the model was: targets in tenths of the best item's lead over the k-th.

    Scores have no unit of their own, so what is asked is only whether surer lists are better ones.
    """

    lead: list[float]
    hit_rate: list[float]
    n_targets: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """Everything that a report shows."""

    material: Material
    targets: Targets
    judged: Judged
    outcomes: list[Outcome]
    overall: dict[str, dict[str, Interval]]
    parts: list[PartFigures]
    course: Course
    differences: list[Difference]
    breadth: dict[str, Breadth]
    calibration: dict[str, Calibration]

    @property
    def k(self) -> int:
        """Length of the lists."""
        return self.outcomes[0].k

    def as_json(self) -> dict[str, Any]:
        """Per run the metrics of `Outcome.metrics`, split into `bundles` and `baselines`; then the differences."""
        return {
            "bundles": {o.name: self._figures(o) for o in self.outcomes if o.name not in BASELINES},
            "baselines": {o.name: self._figures(o) for o in self.outcomes if o.name in BASELINES},
            "differences": [
                {
                    "from": each.one,
                    "to": each.two,
                    **{
                        name: {"mean": i.mean, "low": i.low, "high": i.high, "p": i.p}
                        for name, i in each.by_metric.items()
                    },
                }
                for each in self.differences
            ],
        }

    def _figures(self, outcome: Outcome) -> dict[str, Any]:
        breadth = self.breadth[outcome.name]
        return {**outcome.metrics(), "coverage": breadth.coverage, "top_share": breadth.top_share}


def analyse(material: Material, targets: Targets, judged: Judged, outcomes: Sequence[Outcome]) -> Analysis:
    """All figures of a backtest; at least one outcome is needed, and each must be about all targets."""
    log = material.log
    user, ts_ms, k = log.user[targets.row], log.ts_ms[targets.row], outcomes[0].k
    gain = {outcome.name: gains(outcome.place, k) for outcome in outcomes}
    overall = {
        name: {metric: share_interval(values, user) for metric, values in by_metric.items()}
        for name, by_metric in gain.items()
    }
    parts = [
        PartFigures(
            part.by,
            part.label,
            int(part.mask.sum()),
            {name: share_interval(g["hr"][part.mask], user[part.mask], n_draws=100) for name, g in gain.items()},
        )
        for part in parts_of(material, targets, judged)
    ]
    return Analysis(
        material=material,
        targets=targets,
        judged=judged,
        outcomes=list(outcomes),
        overall=overall,
        parts=parts,
        course=_course(ts_ms, {name: g["hr"] for name, g in gain.items()}),
        differences=_differences(outcomes, gain, user),
        breadth={outcome.name: _breadth(material, targets, judged, outcome) for outcome in outcomes},
        calibration={o.name: _calibration(o) for o in outcomes if o.name not in BASELINES and len(o.place) >= _TENTHS},
    )


def _course(ts_ms: NDArray[np.int64], hits: dict[str, NDArray[np.float64]]) -> Course:
    ends, width_ms, _ = windows_of(ts_ms)
    order = np.argsort(ts_ms, kind="stable")
    last, first = np.searchsorted(ts_ms[order], ends), np.searchsorted(ts_ms[order], ends - width_ms)
    n = last - first
    rates: dict[str, NDArray[np.float64]] = {}
    for name, hit in hits.items():
        so_far = np.concatenate([[0.0], np.cumsum(hit[order])])
        rates[name] = np.where(n >= _FEWEST, (so_far[last] - so_far[first]) / np.maximum(n, 1), np.nan)
    return Course(ends, width_ms, n, rates)


def _differences(
    outcomes: Sequence[Outcome], gain: dict[str, dict[str, NDArray[np.float64]]], user: NDArray[np.int32]
) -> list[Difference]:
    """Every bundle against every other, and against each baseline."""
    bundles = [outcome.name for outcome in outcomes if outcome.name not in BASELINES]
    baselines = [outcome.name for outcome in outcomes if outcome.name in BASELINES]
    pairs = [*combinations(bundles, 2), *((baseline, bundle) for bundle in bundles for baseline in baselines)]
    return [
        Difference(
            one, two, {metric: paired_difference(gain[one][metric], gain[two][metric], user) for metric in gain[one]}
        )
        for one, two in pairs
    ]


def _breadth(material: Material, targets: Targets, judged: Judged, outcome: Outcome) -> Breadth:
    log = material.log
    n_items = len(log.item_ids)
    rows = log.between(judged.from_ms, judged.until_ms)
    touched = np.bincount(log.item[rows][log.happened()[rows]], minlength=n_items)
    listed = np.bincount(outcome.items[outcome.items >= 0], minlength=n_items)
    n_top = max(1, int((touched > 0).sum()) // 100)
    top = np.argsort(-touched, kind="stable")[:n_top]
    wanted = np.bincount(log.item[targets.row], minlength=n_items)
    counts = np.sort(listed[listed > 0]).astype(np.float64)
    n = len(counts)
    gini = float(((2 * np.arange(1, n + 1) - n - 1) * counts).sum() / (n * counts.sum())) if n > 0 else 0.0
    return Breadth(
        n_items=n,
        coverage=float(((listed > 0) & (touched > 0)).sum() / max(1, (touched > 0).sum())),
        top_share=float(listed[top].sum() / max(1, listed.sum())),
        top_share_wanted=float(wanted[top].sum() / max(1, wanted.sum())),
        gini=gini,
    )


def _calibration(outcome: Outcome) -> Calibration:
    lead = (outcome.scores[:, 0] - outcome.scores[:, -1]).astype(np.float64)
    hit = outcome.place > 0
    tenth = np.minimum(np.argsort(np.argsort(lead, kind="stable")) * _TENTHS // len(lead), _TENTHS - 1)
    masks = [tenth == number for number in range(_TENTHS)]
    return Calibration(
        [float(np.median(lead[mask])) for mask in masks],
        [float(hit[mask].mean()) for mask in masks],
        [int(mask.sum()) for mask in masks],
    )

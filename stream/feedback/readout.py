"""An experiment's state from the messages of `feedback`: rates by variant, differences look by look, and the split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np

from stream.feedback.inference import difference, rate, split_e_value
from stream.wire.messages import UserSpan

__all__ = ["METRICS", "Comparison", "Look", "Metric", "ReadOut", "VariantRate", "read_out"]

Metric = Literal["hit-rate", "click-through", "outcomes"]

METRICS: Final[dict[Metric, tuple[str, str]]] = {
    "hit-rate": ("n_hits", "n_recommendations"),
    "click-through": ("n_shown_hits", "n_shown"),
    "outcomes": ("n_outcomes", "n_recommendations"),
}
"""What is divided by what."""

_SPLIT_ALPHA: Final = 0.001


@dataclass(frozen=True, slots=True)
class VariantRate:
    """A variant so far; the interval holds at one look, not at many."""

    variant: str
    models: tuple[str, ...]
    n_users: int
    n: int
    rate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Look:
    """A difference as it stood when the spans up to `to_ms` were in."""

    to_ms: int
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against the first one. `p` and the interval hold however often one looks.

    Attributes:
        looks: one for each stretch of time with enough users.
        is_decided: whether some look's interval excluded zero.
    """

    variant: str
    against: str
    looks: tuple[Look, ...]
    is_decided: bool

    def as_json(self) -> dict[str, Any]:
        """For programs: the last look, and that there were others."""
        last = self.looks[-1] if self.looks else None
        return {
            "variant": self.variant,
            "against": self.against,
            "difference": None if last is None else last.difference,
            "low": None if last is None else last.low,
            "high": None if last is None else last.high,
            "p": 1.0 if last is None else last.p,
            "decided": self.is_decided,
            "n_looks": len(self.looks),
        }


@dataclass(frozen=True, slots=True)
class ReadOut:
    """All of it.

    Attributes:
        n_moved: users who were seen in several variants, and left out: who moves is decided by the hash of their id,
            so that leaving them out favours no variant.
        split_p: how likely so uneven a split would be at any look, if users had been split by the weights; None where
            weights are not known.
    """

    metric: Metric
    alpha: float
    variants: tuple[VariantRate, ...]
    comparisons: tuple[Comparison, ...]
    n_moved: int
    split_p: float | None

    @property
    def is_split_wrong(self) -> bool:
        """Whether the split is so unlikely that something else than chance must have decided who is counted."""
        return self.split_p is not None and self.split_p < _SPLIT_ALPHA

    def as_json(self) -> dict[str, Any]:
        """For one line of JSON."""
        return {
            "metric": self.metric,
            "alpha": self.alpha,
            "variants": [asdict(each) for each in self.variants],
            "differences": [each.as_json() for each in self.comparisons],
            "n_users_moved": self.n_moved,
            "split_p": self.split_p,
            "split_is_wrong": self.is_split_wrong,
        }


@dataclass(slots=True)
class _Sums:
    """(x, n) of each user of a variant."""

    users: dict[str, int] = field(default_factory=dict)
    hits: list[float] = field(default_factory=list)
    made: list[float] = field(default_factory=list)
    models: set[str] = field(default_factory=set)

    def add(self, user_id: str, hits: int, made: int) -> None:
        row = self.users.setdefault(user_id, len(self.hits))
        if row == len(self.hits):
            self.hits.append(0.0)
            self.made.append(0.0)
        self.hits[row] += hits
        self.made[row] += made


def read_out(
    spans: Iterable[UserSpan],
    *,
    weights: Mapping[str, float] | None = None,
    metric: Metric = "hit-rate",
    alpha: float = 0.05,
    effect: float = 0.01,
    look_ms: int = 24 * 60 * 60 * 1000,
) -> ReadOut:
    """Read an experiment out.

    Args:
        spans: users' counts; of those with the same `feedback_id` one counts.
        weights: variant -> weight as the experiment says; the first one is what others are compared with. Without it,
            variants in the order of their names, and no word on the split.
        metric: what is compared.
        alpha: error rate over all looks and comparisons together.
        effect: the size of differences that would matter, chosen before data are seen.
        look_ms: time between two looks.
    """
    by_id = {each.feedback_id: each for each in spans}
    told = sorted(by_id.values(), key=lambda each: each.to_ms)
    if weights is not None:
        told = [each for each in told if each.variant in weights]
    variants_of: dict[str, set[str]] = {}
    for each in told:
        variants_of.setdefault(each.user_id, set()).add(each.variant)
    moved = {user for user, variants in variants_of.items() if len(variants) > 1}
    names = sorted({each.variant for each in told}) if weights is None else list(weights)
    sums = {name: _Sums() for name in names}
    looks: dict[str, list[Look]] = {name: [] for name in names[1:]}
    smallest = dict.fromkeys(names[1:], 1.0)
    alpha_each = alpha / max(1, len(names) - 1)
    hits_field, made_field = METRICS[metric]
    for at, each in enumerate(told):
        if each.user_id not in moved:
            mine = sums[each.variant]
            mine.add(each.user_id, getattr(each, hits_field), getattr(each, made_field))
            mine.models.add(each.model)
        is_last = at + 1 == len(told)
        if is_last or told[at + 1].to_ms // look_ms != each.to_ms // look_ms:
            _look(each.to_ms, names, sums, looks, smallest, alpha_each, effect)
    comparisons = tuple(
        Comparison(name, names[0], tuple(found), any(look.p <= alpha_each for look in found))
        for name, found in looks.items()
    )
    split_p = None
    if weights is not None and any(mine.users for mine in sums.values()):
        evidence = split_e_value([len(sums[name].users) for name in names], list(weights.values()))
        split_p = min(1.0, 1.0 / evidence)
    return ReadOut(metric, alpha, tuple(_variant(name, sums[name]) for name in names), comparisons, len(moved), split_p)


def _look(
    to_ms: int,
    names: list[str],
    sums: Mapping[str, _Sums],
    looks: dict[str, list[Look]],
    smallest: dict[str, float],
    alpha: float,
    effect: float,
) -> None:
    base, *others = (rate(np.array(sums[name].hits), np.array(sums[name].made)) for name in names)
    for name, other in zip(names[1:], others, strict=True):
        found = difference(other, base, alpha=alpha, effect=effect)
        if found is not None:
            smallest[name] = min(smallest[name], 1.0 / found.e)
            looks[name].append(Look(to_ms, found.value, found.low, found.high, smallest[name]))


def _variant(name: str, sums: _Sums) -> VariantRate:
    found = rate(np.array(sums.hits), np.array(sums.made))
    models = tuple(sorted(sums.models))
    if math.isnan(found.value):
        return VariantRate(name, models, len(sums.users), int(sum(sums.made)), None, None, None)
    low, high = found.interval()
    return VariantRate(name, models, len(sums.users), int(sum(sums.made)), found.value, low, high)

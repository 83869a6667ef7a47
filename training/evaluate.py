"""Prequential evaluation: each target is looked for in what was recommended before it, in one pass over the log.

Beside the model stand baselines that anybody would have without training, from statistics of their own that are fed by
the same activity: popularity of all time, popularity of the last hour, and what others went on to from the last item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stream.core.activity import ActivityBatch
from stream.core.candidates import SEEN_POLICIES, CandidateSpec, Filters, Scratch
from stream.core.catalogue import ItemUpdate
from stream.core.features import SHRINK, FeatureSpec
from stream.core.ranking import rank
from stream.core.scales import DAY_MS, HOUR_MS
from stream.core.state import States
from stream.core.statistics import CoVisitationChannel, ItemStatistics, PopularityChannel, StatisticsSpec
from training.cost import Cost, served_cost
from training.metrics import hit_rate, ndcg, places, reciprocal_rank
from training.replay import Replay
from training.storage import stretches
from training.targets import Targets

__all__ = ["BASELINES", "Baselines", "Evaluation", "evaluate"]

BASELINES: Final = ("popularity", "popularity_1h", "co_visitation")
_ALL_TIME, _HOUR = 0, 1  # popularity channels
_LEAST = 1e-6
"""What a share of popularity weighs that only fills up: less than any share of transitions."""
_EVER_MS: Final = 3650 * DAY_MS


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of T targets.

    Attributes:
        place: by name ("model" and the baselines), (T,) the target's place in the list, 0 where it was not in it.
        n: length of the lists.
        cost: of a served event, measured where the replay ended; None where nobody asked.
    """

    place: dict[str, NDArray[np.int64]]
    n: int
    cost: Cost | None = None

    def metrics(self) -> dict[str, float]:
        """`hr@10`, `ndcg@10` and `mrr@10` of the model, and of baselines behind their name: `popularity_1h/hr@10`."""
        figures: dict[str, float] = {"n_targets": float(len(self.place["model"]))}
        for name, place in self.place.items():
            prefix = "" if name == "model" else f"{name}/"
            # There are few places: each is judged once, and counts as often as it occurs.
            share = np.bincount(place, minlength=self.n + 1) / max(1, len(place))
            each = np.arange(len(share))[:, None]
            for metric, of in (("hr", hit_rate), ("ndcg", ndcg), ("mrr", reciprocal_rank)):
                figures[f"{prefix}{metric}@{self.n}"] = math.fsum(
                    weight * of(one, self.n) for weight, one in zip(share.tolist(), each, strict=True)
                )
        return figures


class Baselines:
    """The baselines' own statistics, and their rankings."""

    def __init__(
        self,
        spec: FeatureSpec,
        seen: str = "session",
        fading: Literal["half-life", "e-fold"] = "half-life",
        mixing: Literal["sum", "fill"] = "sum",
    ) -> None:
        """Like `spec` in event types and records, with the seen policy `seen`.

        Args:
            fading: what is left of a count after its hour or day: half of it, or one e-th, which is how exponential
                averages are often published.
            mixing: whether co-visitation and popularity are added, or popularity only fills up what the other leaves.
        """
        share = 1.0 if fading == "half-life" else math.log(2)
        statistics = StatisticsSpec(
            popularity=(PopularityChannel(_EVER_MS), PopularityChannel(round(HOUR_MS * share))),
            co_visitation=(CoVisitationChannel(round(DAY_MS * share), "any"),),
        )
        lists = ((statistics.popularity[_HOUR].name, 1),)
        self.spec = FeatureSpec(spec.types, spec.state, statistics, CandidateSpec(lists=lists), spec.n_history)
        self.view = ItemStatistics(statistics)
        self._popular = np.float32(1.0 if mixing == "sum" else _LEAST)
        self._seen = SEEN_POLICIES.index(seen)
        self._weights = spec.types.weight_table()
        self._scratch = Scratch()

    def advance(self, activity: list[ActivityBatch], updates: list[ItemUpdate]) -> None:
        """Count what a period added, as the model's view does."""
        self.view.advance([(batch.last, batch) for batch in activity], updates)

    def rank(self, after: States, as_of_ms: NDArray[np.int64], n: int) -> dict[str, NDArray[np.int32]]:
        """By baseline, (R, n) numbers in the catalogue of `view`, for the users' records (R,) as of `as_of_ms` (R,)."""
        n_rows, view = len(after), self.view
        listed = np.broadcast_to(view.listed[:, None], (2, n_rows, view.listed.shape[1]))
        fading = np.broadcast_to(-np.arange(view.listed.shape[1], dtype=np.float32), listed.shape[1:])
        followed, scores = self._followed(after, as_of_ms, listed[_HOUR])
        return {
            "popularity": self._best(after, listed[_ALL_TIME], fading, n),
            "popularity_1h": self._best(after, listed[_HOUR], fading, n),
            "co_visitation": self._best(after, followed, scores, n),
        }

    def _followed(
        self, after: States, as_of_ms: NDArray[np.int64], popular: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items (R, k) and scores: share of the transitions from the user's last item, mixed with that of the hour."""
        view = self.view
        liked = (after["ring_item"] != 0) & (self._weights[after["ring_kind"]] > 0)
        newest = after["ring_item"].shape[1] - 1 - liked[:, ::-1].argmax(axis=1)
        last = view.catalogue.index.lookup(after["ring_item"][np.arange(len(after)), newest])
        row = np.maximum(last, 0)
        items = np.where((last >= 0)[:, None], view.slot_item[row], -1)  # (R, slots)
        age_ms = np.maximum(as_of_ms - view.row_ms[row], 0)
        decay = np.exp2(-age_ms / view.pair_half_life_ms[0])[:, None]
        share = view.slot_weight[row, :, 0] * decay / (view.row_sum[row, :1] * decay + SHRINK)
        everything = np.concatenate([items, popular], axis=1)
        hour = view.weight[np.maximum(everything, 0), _HOUR] / max(float(view.total[_HOUR]), 1e-9) * self._popular
        hour[:, : items.shape[1]] += np.where(items >= 0, share, 0)
        return everything.astype(np.int32), hour.astype(np.float32)

    def _best(self, after: States, items: NDArray[np.int32], scores: NDArray[np.float32], n: int) -> NDArray[np.int32]:
        n_rows = len(after)
        none, start = np.zeros(0, np.int32), np.zeros(n_rows + 1, np.int64)
        return rank(
            self.spec,
            after,
            np.ascontiguousarray(items),
            np.ascontiguousarray(scores),
            np.zeros((n_rows, 0), np.uint16),
            self.view,
            Filters(self._seen, none, start, none, start, np.zeros(n_rows, np.bool_)),
            np.full(n_rows, n, np.int64),
            self._scratch,
        ).items


def evaluate(
    replay: Replay,
    targets: Targets,
    *,
    until: int,
    baselines: Baselines | None = None,
    n: int = 10,
    on_progress: Callable[[int], None] | None = None,
    measure: bool = False,
) -> Evaluation:
    """Replay on to row `until` of the log and look for every target in the recommendation scored for it.

    Every target counts: one whose item was no candidate, or not even known yet, is a miss.

    Args:
        baselines: must be among the replay's watchers to learn anything.
        on_progress: called with the number of events replayed so far.
        measure: whether the cost of a served event is measured in the end.

    Raises:
        ValueError: there is no target, or the replay is past the event that is scored for one, or stops before it.
    """
    log = replay.log
    if len(targets) == 0 or targets.scored.min() < replay.at or targets.scored.max() >= until:
        raise ValueError(f"the {len(targets)} targets are not all scored between the events {replay.at} and {until}")
    number, select = log.storage((len(log),), np.int64), log.storage((len(log),), np.bool_)
    for some in stretches(0, len(targets)):
        number[targets.scored[some]] = np.arange(some.start, some.stop)
        select[targets.scored[some]] = True
    names: Sequence[str] = ("model", *(BASELINES if baselines is not None else ()))
    place = {name: log.storage((len(targets),), np.int64) for name in names}
    for batch in replay.run(until, select):
        if len(batch.rows) > 0:
            here = number[batch.rows]
            keys = log.key[log.item[targets.row[here]]]
            wanted = replay.view.catalogue.index.lookup(keys)
            place["model"][here] = places(batch.answers.ranked.items[:, :n], wanted)
            if baselines is not None:
                ranked = baselines.rank(batch.after, batch.answers.as_of_ms, n)
                wanted = baselines.view.catalogue.index.lookup(keys)
                for name, items in ranked.items():
                    place[name][here] = places(items, wanted)
        if on_progress is not None:
            on_progress(batch.stop)
    return Evaluation(place, n, served_cost(replay) if measure else None)

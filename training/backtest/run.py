"""One pass over the events for one bundle, or for the baselines: recommend, look at what came next, then learn.

What is kept of each target is its list, so that every figure of the report can be computed afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.bundle.load import Bundle
from stream.core.catalogue import ItemUpdate, KeyIndex
from stream.core.features import FeatureSpec, TensorSpec, menu
from stream.core.ranking import reasons_of
from stream.core.seam import Policy, Recommender
from stream.core.state import NEVER_MS
from stream.feed import partition_of
from training.backtest.material import Material
from training.evaluate import Baselines
from training.log import Log
from training.metrics import hit_rate, ndcg, reciprocal_rank
from training.replay import Replay, Replayed
from training.targets import Targets

__all__ = ["BASELINES", "Conditions", "Example", "Outcome", "Run", "Share", "merged"]

BASELINES: Final = {
    "popularity": "all-time popularity",
    "popularity_1h": "1 h popularity",
    "co_visitation": "co-visitation + 1 h popularity",
}
ELSEWHERE: Final = -2
"""In lists: an item that is not in the log."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which circumstances recommendations are made.

    Attributes:
        k: length of the lists.
        period_ms: age of the view of item statistics at most.
        delay_ms: what the view misses besides.
        batch_size: events in a batch; decides speed, never a result.
        every_event: recommend at every event of the judged range, as live, not only where a target follows.
        seen: replaces the bundles' own rule for what is not recommended again.
        fading: whether the baselines' spans of time are half-lives or e-folding times.
        mixing: whether co-visitation and popularity are added, or popularity only fills up.
        n_examples: targets that are kept with their user's past and the reasons.
        forget_after_ms: see `stream.core.seam.Policy`; as the workers have it.
    """

    k: int = 10
    period_ms: int = 10_000
    delay_ms: int = 0
    batch_size: int = 256
    every_event: bool = False
    seen: Literal["session", "history", "none"] | None = None
    fading: Literal["half-life", "e-fold"] = "half-life"
    mixing: Literal["sum", "fill"] = "sum"
    n_examples: int = 12
    forget_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the users, number `part` of `of`.

    Attributes:
        alone: the part is a partition, served by a worker of its own which knows nothing of the others' events; users
            are in it whose key Kafka puts there. Else all events count for the item statistics, and the part, users
            whose number is `part` modulo `of`, only says whose targets are judged.
    """

    part: int = 0
    of: int = 1
    alone: bool = False

    def has(self, users: NDArray[np.integer[Any]], user_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Whether users, by their numbers, that is their places in `user_ids`, belong to it."""
        if self.alone:
            inside: NDArray[np.bool_] = _partitions(tuple(user_ids), self.of)[users] == self.part
            return inside
        # Users are numbered by appearance, and those who come early come often: neighbours go to different parts.
        mine: NDArray[np.bool_] = users % self.of == self.part
        return mine


@lru_cache(maxsize=4)
def _partitions(user_ids: tuple[str, ...], n_partitions: int) -> NDArray[np.int32]:
    """(U,) the partition of each user's events."""
    found = (partition_of(user_id.encode(), n_partitions) for user_id in user_ids)
    return np.fromiter(found, np.int32, len(user_ids))


@dataclass(frozen=True, slots=True)
class Example:
    """One target, and what was recommended.

    Attributes:
        target: its number among the targets.
        past: the user's last items, newest last.
        items: the list, best first.
        scores: their scores.
        reasons: why each was there.
    """

    target: int
    past: tuple[str, ...]
    items: tuple[str, ...]
    scores: tuple[float, ...]
    reasons: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of T targets.

    Attributes:
        name: the bundle's reference, or a baseline's name.
        at: (T,) which of the backtest's targets these are, rising.
        place: (T,) the target's place in its list, 0 where it was not in it.
        items: (T, k) the lists, as indices into the log's `item_ids`, -1 beyond the end.
        scores: (T, k) float32.
        n_events: events that were replayed.
        n_scored: events that got a recommendation.
        seconds: what that took.
        examples: some of them in full.
    """

    name: str
    at: NDArray[np.int64]
    place: NDArray[np.int64]
    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    n_events: int
    n_scored: int
    seconds: float
    examples: tuple[Example, ...] = ()

    @property
    def k(self) -> int:
        """Length of the lists."""
        return int(self.items.shape[1])

    def metrics(self) -> dict[str, float]:
        """hr_at_K, ndcg_at_K, mrr_at_K, n_targets and events_per_s; 0 without targets."""
        there = len(self.place) > 0
        return {
            f"hr_at_{self.k}": hit_rate(self.place, self.k) if there else 0.0,
            f"ndcg_at_{self.k}": ndcg(self.place, self.k) if there else 0.0,
            f"mrr_at_{self.k}": reciprocal_rank(self.place, self.k) if there else 0.0,
            "n_targets": len(self.place),
            "n_events": self.n_events,
            "n_scored": self.n_scored,
            "seconds": round(self.seconds, 3),
            "events_per_s": round(self.n_events / self.seconds, 1) if self.seconds > 0 else 0.0,
        }


def merged(parts: list[Outcome]) -> Outcome:
    """The outcome of a run from those of its shares, which took place side by side."""
    at = np.concatenate([part.at for part in parts])
    order = np.argsort(at)
    return Outcome(
        name=parts[0].name,
        at=at[order],
        place=np.concatenate([part.place for part in parts])[order],
        items=np.concatenate([part.items for part in parts])[order],
        scores=np.concatenate([part.scores for part in parts])[order],
        n_events=max(part.n_events for part in parts),
        n_scored=sum(part.n_scored for part in parts),
        seconds=max(part.seconds for part in parts),
        examples=tuple(sorted((each for part in parts for each in part.examples), key=lambda each: each.target)),
    )


class _Silent:
    """A scorer with nothing to say: its lists are the recommender's own filling, which nobody looks at."""

    n_state = 0
    space: Literal["candidates", "vocabulary"] = "candidates"

    def __init__(self, spec: FeatureSpec) -> None:
        self.inputs: Mapping[str, TensorSpec] = {"kind": menu(spec)["kind"]}

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """No item."""
        n_rows = len(inputs["kind"])
        return {"items": np.full((n_rows, 1), -1, np.int64), "scores": np.zeros((n_rows, 1), np.float32)}


class Run:
    """A pass over the events, which can be stopped between two batches and resumed from a checkpoint.

    Args:
        material: the events.
        targets: what is judged.
        bundle: what recommends; None for the baselines.
        conditions: how.
        share: whose targets.
    """

    def __init__(
        self, material: Material, targets: Targets, bundle: Bundle | None, conditions: Conditions, share: Share
    ) -> None:
        self._conditions = conditions
        self._bundle = bundle
        self._at = np.flatnonzero(share.has(material.log.user[targets.row], material.log.user_ids))
        log, self._targets = _shared(material.log, targets, self._at, share)
        policy = Policy(conditions.k, _seen(bundle, conditions), forget_after_ms=conditions.forget_after_ms)
        self._baselines: Baselines | None = None
        if bundle is None:
            types_alone = FeatureSpec(types=material.types)
            self._baselines = Baselines(types_alone, policy.seen, conditions.fading, conditions.mixing)
            spec = self._baselines.spec
            recommender = Recommender(spec, _Silent(spec), policy=policy)
            names = tuple(BASELINES)
        else:
            recommender = Recommender(
                bundle.features, bundle.scorer, bundle.vocabulary, policy, bundle.tag, bundle.retriever
            )
            fields = bundle.features.statistics.segment_fields
            log = replace(log, segments=material.with_fields(fields).segments[_rows_of(material.log, share)])
            names = (bundle.reference,)
        if bundle is None:
            log = replace(log, segments=log.segments[:, :0])
        self._log = log
        self._items: list[ItemUpdate] = material.items
        self._replay = Replay(
            log,
            recommender,
            items=material.items,
            period_ms=conditions.period_ms,
            delay_ms=conditions.delay_ms,
            batch_size=conditions.batch_size,
        )
        self._index = KeyIndex(log.key)
        n = len(self._targets)
        self._number = np.full(len(log), -1, np.int64)
        self._number[self._targets.scored] = np.arange(n)
        self._place = {name: np.zeros(n, np.int64) for name in names}
        self._lists = {name: np.full((n, conditions.k), -1, np.int32) for name in names}
        self._scores = {name: np.zeros((n, conditions.k), np.float32) for name in names}
        self._shown = (
            set(np.linspace(0, n - 1, min(n, conditions.n_examples)).astype(int).tolist()) if bundle else set()
        )
        self._examples: list[Example] = []
        self._n_scored = 0
        self._seconds = 0.0

    @property
    def n_events(self) -> int:
        """Events of the pass: those after the last that is scored need no replay."""
        return 0 if len(self._targets) == 0 else int(self._targets.scored.max()) + 1

    @property
    def n_done(self) -> int:
        """Events that were replayed."""
        return min(self._replay.at, self.n_events)

    def go(self, on_progress: Callable[[int], None] | None = None, stopped: Callable[[], bool] | None = None) -> bool:
        """Replay on; whether it reached the end. False when `stopped` said so between two batches.

        Args:
            on_progress: called with the events replayed so far.
        """
        began_s = time.perf_counter()
        select = self._number >= 0
        if self._conditions.every_event and len(self._targets) > 0:
            select[self._targets.scored.min() :] = True
        try:
            for piece in self._replay.run(self.n_events, select):
                if len(piece.rows) > 0:
                    self._judge(piece)
                if on_progress is not None:
                    on_progress(piece.stop)
                if stopped is not None and stopped():
                    break
        finally:
            self._seconds += time.perf_counter() - began_s
        return self.n_done == self.n_events

    def outcomes(self) -> list[Outcome]:
        """What came of it: one for a bundle, one for each baseline."""
        return [
            Outcome(
                name,
                self._at,
                place,
                self._lists[name],
                self._scores[name],
                self.n_events,
                self._n_scored,
                self._seconds,
                tuple(self._examples),
            )
            for name, place in self._place.items()
        ]

    def checkpoint(self) -> dict[str, NDArray[Any]]:
        """Where the pass stands, for `resume`."""
        arrays = {f"replay/{name}": array for name, array in self._replay.checkpoint().items()}
        for name in self._place:
            arrays |= {f"place/{name}": self._place[name], f"lists/{name}": self._lists[name]}
            arrays[f"scores/{name}"] = self._scores[name]
        arrays["examples"] = np.frombuffer(msgspec.json.encode(self._examples), np.uint8)
        arrays["counts"] = np.array([self._n_scored, self._seconds], np.float64)
        return arrays

    def resume(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `checkpoint` was called.

        Raises ValueError when the arrays belong to another pass.
        """
        start = "replay/"
        self._replay.resume({name.removeprefix(start): arrays[name] for name in arrays if name.startswith(start)})
        for name in self._place:
            for kept, stored in ((self._place, "place"), (self._lists, "lists"), (self._scores, "scores")):
                column: NDArray[Any] = kept[name]
                if arrays[f"{stored}/{name}"].shape != column.shape:
                    raise ValueError("the checkpoint holds other targets")
                column[:] = arrays[f"{stored}/{name}"]
        self._examples = msgspec.json.decode(arrays["examples"].tobytes(), type=list[Example])
        self._n_scored, self._seconds = int(arrays["counts"][0]), float(arrays["counts"][1])

    def _judge(self, piece: Replayed) -> None:
        self._n_scored += len(piece.rows)
        number = self._number[piece.rows]
        mine = np.flatnonzero(number >= 0)
        if len(mine) == 0 or len(self._replay.view.catalogue) == 0:
            return  # before anything is known, the lists stay empty
        number = number[mine]
        wanted = self._log.item[self._targets.row[number]]
        if self._baselines is not None:
            # The baselines read the replay's own statistics: they are exactly those that they want.
            self._baselines.view = self._replay.view
            lists = self._baselines.rank(piece.after[mine], piece.answers.as_of_ms[mine], self._conditions.k)
            for name, items in lists.items():
                self._keep(name, number, self._in_log(items), None, wanted)
            return
        (name,) = self._place
        ranked = piece.answers.ranked
        items = self._in_log(ranked.items[mine])
        self._keep(name, number, items, ranked.scores[mine], wanted)
        for at, (row, which) in enumerate(zip(mine.tolist(), number.tolist(), strict=True)):
            if self._bundle is not None and which in self._shown:
                self._examples.append(self._example(self._bundle, which, row, items[at], piece))

    def _keep(
        self,
        name: str,
        number: NDArray[np.int64],
        items: NDArray[np.int32],
        scores: NDArray[np.float32] | None,
        wanted: NDArray[np.int32],
    ) -> None:
        width = min(items.shape[1], self._conditions.k)
        self._lists[name][number, :width] = items[:, :width]
        if scores is not None:
            self._scores[name][number, :width] = scores[:, :width]
        found = items[:, :width] == wanted[:, None]
        self._place[name][number] = np.where(found.any(1), found.argmax(1) + 1, 0)

    def _in_log(self, items: NDArray[np.int32]) -> NDArray[np.int32]:
        """Catalogue numbers -> indices into the log's `item_ids`."""
        known = self._index.lookup(self._replay.view.catalogue.key[np.maximum(items, 0)])
        return np.where(items < 0, -1, np.where(known < 0, ELSEWHERE, known)).astype(np.int32)

    def _example(self, bundle: Bundle, which: int, row: int, items: NDArray[np.int32], piece: Replayed) -> Example:
        log, ranked, state = self._log, piece.answers.ranked, piece.after[row]
        past = self._index.lookup(state["ring_item"][state["ring_ms"] != NEVER_MS])[-6:]
        there = items != -1
        return Example(
            int(self._at[which]),
            tuple(log.item_ids[item] for item in past.tolist() if item >= 0),
            tuple("?" if item < 0 else log.item_ids[item] for item in items[there].tolist()),
            tuple(ranked.scores[row][there].astype(float).tolist()),
            tuple(
                reasons_of(
                    bundle.features,
                    int(bits),
                    from_candidates=bundle.scorer.space == "candidates",
                    parts=bundle.parts,
                )
                for bits in ranked.sources[row][there]
            ),
        )


def _seen(bundle: Bundle | None, conditions: Conditions) -> str:
    if conditions.seen is not None:
        return conditions.seen
    return "session" if bundle is None else bundle.manifest.policy.seen


def _rows_of(log: Log, share: Share) -> NDArray[np.intp]:
    return np.flatnonzero(share.has(log.user, log.user_ids)) if share.alone else np.arange(len(log))


def _shared(log: Log, targets: Targets, at: NDArray[np.intp], share: Share) -> tuple[Log, Targets]:
    """The log as a share sees it, and the targets that it judges."""
    mine = Targets(targets.row[at], targets.scored[at])
    if not share.alone:
        return log, mine
    rows = _rows_of(log, share)
    users = np.flatnonzero(share.has(np.arange(len(log.user_ids)), log.user_ids))
    new_row = np.full(len(log), -1, np.int64)
    new_row[rows] = np.arange(len(rows))
    part = replace(
        log,
        user_ids=[log.user_ids[user] for user in users.tolist()],
        user=np.searchsorted(users, log.user[rows]).astype(np.int32),
        item=log.item[rows],
        kind=log.kind[rows],
        ts_ms=log.ts_ms[rows],
        value=log.value[rows],
        event_ids=None if log.event_ids is None else log.event_ids[rows],
        segments=log.segments[rows],
    )
    return part, Targets(new_row[mine.row], new_row[mine.scored])

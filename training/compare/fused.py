"""A fusion on the targets of a comparison: a sequence model, joined with live item statistics by a ranker.

Leave-one-out:

    a user's events      1 … n-4 | n-3  n-2  n-1 | n
    sequence model       learns  |               |            never sees more than the first part of anybody
    ranker's targets             |  *    *    *  |            candidates and scores from statistics of the first part
    judged                                       | *          statistics of all but everybody's last event

As always in leave-one-out, others' later events are among what is known; here they are in the statistics.

Global time:

    time                 |-- sequence model --|-- ranker's targets --| cut |-- judged --|
    statistics           from the beginning on, as they were up to a day before each event; they go on after the cut

All of it goes through the worker's own composition: fold, retrieve, candidates, features, rank.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from stream.bundle.scorer import OnnxScorer
from stream.core.candidates import CandidateSpec
from stream.core.catalogue import ItemUpdate
from stream.core.events import item_keys
from stream.core.features import FeatureSpec
from stream.core.scales import DAY_MS, DEFAULT_SCALES
from stream.core.seam import Policy, Recommender
from stream.core.state import StateSpec
from stream.core.statistics import CoVisitationChannel, ItemStatistics, PopularityChannel, StatisticsSpec
from training.compare.task import Found, Task, judge
from training.config import FusionTraining, RankerTraining
from training.export import served
from training.fusion import Member, fusion_inputs, sequences_of, train_member, untrained_fusion
from training.listwise import fit_fusion
from training.log import Log
from training.nets.fusion import Fusion
from training.replay import RecordingScorer, Replay
from training.rows import Rows, record
from training.sequences import UserSequences, pieces
from training.targets import Targets

__all__ = ["FUSION", "Fused", "fuse", "log_of", "spec_for"]

_TAUGHT: Final = 3
"""Leave-one-out: events of each user, before the last, that the ranker learns from."""
_TAUGHT_ROWS: Final = 4_000
"""Global time: targets that it learns from at most."""
_EVER_MS: Final = 365 * DAY_MS
FUSION: Final = FusionTraining(
    epochs=8,
    batch=8,
    length=100,
    ranker=RankerTraining(hidden=(32, 16), epochs=8, batch=32, learning_rate=2e-3, dropout=0.2),
)


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """What came of it.

    Attributes:
        found: by what the ranker was without ("nothing", "sequence", "statistics").
        models: the rankers, by the same names.
        member: the sequence model, the same for all.
        spec: the features of all.
        train_s: processor seconds of training both and of recording what the ranker learns from.
    """

    found: dict[str, Found]
    models: dict[str, Fusion]
    member: Member
    spec: FeatureSpec
    train_s: float


def spec_for(*, repeats: bool) -> FeatureSpec:
    """The features: statistics that fade over a week to a year, as slow catalogues want them.

    No silence ends a session: the last items are the last items, whenever they were. The ring is as long as records
    allow, for what it remembers is not recommended again, unless things may repeat.
    """
    return FeatureSpec(
        state=StateSpec(DEFAULT_SCALES, n_ring=255, session_gap_ms=_EVER_MS),
        statistics=StatisticsSpec(
            popularity=tuple(PopularityChannel(half_life) for half_life in (7 * DAY_MS, 30 * DAY_MS, _EVER_MS)),
            co_visitation=(
                CoVisitationChannel(_EVER_MS, "any"),
                CoVisitationChannel(_EVER_MS, "next"),
                CoVisitationChannel(_EVER_MS, "back"),
                CoVisitationChannel(30 * DAY_MS, "any"),
            ),
            n_slots=256,
        ),
        candidates=CandidateSpec(n=640, n_earlier=0, lists=(("all:365d", 60),), own=repeats, n_retrieved=560),
        n_content=1024,
    )


def log_of(sequences: UserSequences) -> tuple[Log, NDArray[np.int64]]:
    """The events on known items in the order of time, and (N,) the row there of each event, -1 for the others."""
    known = np.flatnonzero(sequences.item > 0)
    order = known[np.argsort(sequences.ts_ms[known], kind="stable")]
    codes, first, inverse = np.unique(sequences.user()[order], return_index=True, return_inverse=True)
    appeared = np.argsort(first)  # the log numbers users as they come
    number = np.empty(len(codes), np.int32)
    number[appeared] = np.arange(len(codes), dtype=np.int32)
    row_of = np.full(len(sequences), -1, np.int64)
    row_of[order] = np.arange(len(order))
    value = sequences.value[order]
    log = Log(
        user_ids=[sequences.user_ids[code] for code in codes[appeared].tolist()],
        item_ids=sequences.vocabulary,
        user=number[inverse],
        item=(sequences.item[order] - 1).astype(np.int32),
        key=item_keys(sequences.vocabulary),
        kind=sequences.kind[order].astype(np.uint8),
        ts_ms=sequences.ts_ms[order],
        value=np.where(value == 0, np.float32(np.nan), value),
        event_ids=None,
        segments=np.zeros((len(order), 0), np.uint32),
        n_dropped=len(sequences) - len(known),
    )
    return log, row_of


def fuse(
    task: Task,
    items: Sequence[ItemUpdate],
    training: FusionTraining = FUSION,
    *,
    withouts: Sequence[str] = ("nothing",),
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Fused:
    """Train on the task's training part and look for its targets.

    Args:
        items: what is known of items: their words speak for those that the sequence model was not trained on.
        withouts: what the ranker goes without, one ranker for each.
        on_step: called with the steps of the sequence model's training that are taken, and all that there will be.
    """
    started = time.process_time()
    stage = (_LeaveOneOut if task.protocol == "loo" else _GlobalTime)(task, items, training)
    sequences = sequences_of(stage.learnt, stage.spec, slice(0, len(stage.learnt)), training.n_items)
    n_steps = training.epochs * math.ceil(len(pieces(sequences, training.length)) / training.batch)
    member = train_member(
        sequences,
        stage.spec,
        items,
        training,
        seed=seed,
        unseen=not task.repeats,
        on_step=None if on_step is None else lambda done: on_step(done, n_steps),
    )
    with tempfile.TemporaryDirectory(prefix="polytempo-compare-") as folder:
        taught = stage.taught(member, Path(folder), seed)
        models = {
            without: fit_fusion(
                taught,
                training.ranker,
                untrained_fusion(member, stage.spec, changed(training, without=without), seed),
                seed=seed,
            )
            for without in withouts
        }
        train_s = time.process_time() - started
        del taught
    return Fused(_find(task, stage, member, models), models, member, stage.spec, train_s)


class _Stage:
    """What both protocols have in common: the whole log, and where its targets stand."""

    def __init__(self, task: Task, items: Sequence[ItemUpdate], training: FusionTraining) -> None:
        self.task, self.items, self.training = task, list(items), training
        self.spec = spec_for(repeats=task.repeats)
        self.policy = Policy(10, "none" if task.repeats else "history")
        self.log, self.row_of = log_of(task.whole)
        self._served: OnnxScorer | None = None

    def targets(self, rows: NDArray[np.int64]) -> tuple[Targets, NDArray[np.int64]]:
        """Events (R,) of the sequences as targets, and which of the R each is; without a known event before, none."""
        user, row = self.log.user, self.row_of[rows]
        order = np.argsort(user, kind="stable")
        before = np.full(len(self.log), -1, np.int64)
        same = user[order[1:]] == user[order[:-1]]
        before[order[1:][same]] = order[:-1][same]
        wanted = np.flatnonzero((row >= 0) & (before[row] >= 0))
        wanted = wanted[np.argsort(row[wanted])]
        return Targets(row[wanted], before[row[wanted]]), wanted

    def replay(self, member: Member, *, view: ItemStatistics | None = None) -> tuple[Replay, RecordingScorer]:
        """The whole log on its way past a scorer that records, and that."""
        scorer = RecordingScorer(self.spec, fusion_inputs(self.spec), member.retriever.n_query)
        if self._served is None:
            self._served = served(member.model, self.spec, len(member.vocabulary))
        recommender = Recommender(self.spec, scorer, member.vocabulary, self.policy, retriever=self._served)
        # The shorter the period, the smaller the batches; under a view that stays as it is, it says nothing.
        period_ms = DAY_MS if view is None else _EVER_MS
        return Replay(self.log, recommender, items=self.items, period_ms=period_ms, view=view), scorer


class _LeaveOneOut(_Stage):
    def __init__(self, task: Task, items: Sequence[ItemUpdate], training: FusionTraining) -> None:
        super().__init__(task, items, training)
        whole = task.whole
        self.from_end = np.repeat(whole.start[1:], np.diff(whole.start)) - np.arange(len(whole))
        """(N,) 1 for each user's last event, 2 for the one before, …"""
        self.learnt = self._before(_TAUGHT + 1)

    def taught(self, member: Member, folder: Path, seed: int) -> Rows:  # noqa: ARG002  nothing is drawn
        """What the ranker is told of each user's events before the last."""
        own = (self.from_end > 1) & (self.from_end <= _TAUGHT + 1) & self.task.whole.positive
        targets, _ = self.targets(np.flatnonzero(own))
        replay, _ = self.replay(member, view=self._statistics(_TAUGHT + 1, member))
        return record(replay, targets, folder, until=len(self.log))

    def judged(self, member: Member) -> tuple[Replay, RecordingScorer]:
        """The log at its beginning, under statistics without anybody's last event."""
        return self.replay(member, view=self._statistics(1, member))

    def _before(self, n_last: int) -> Log:
        """The events of which at least `n_last` of the same user follow."""
        return log_of(self.task.whole.where(self.from_end > n_last))[0]

    def _statistics(self, n_last: int, member: Member) -> ItemStatistics:
        scorer = RecordingScorer(self.spec, ("candidates",))
        recommender = Recommender(self.spec, scorer, member.vocabulary)
        part = self._before(n_last)
        replay = Replay(part, recommender, items=self.items, period_ms=DAY_MS)
        for _ in replay.run(select=np.zeros(len(part), np.bool_)):
            pass
        return replay.settled()


class _GlobalTime(_Stage):
    def __init__(self, task: Task, items: Sequence[ItemUpdate], training: FusionTraining) -> None:
        super().__init__(task, items, training)
        first = self.log.ts_ms.searchsorted(task.whole.ts_ms[task.rows].min(initial=np.iinfo(np.int64).max))
        self.cut = int(first)
        self.n_learnt = round(self.cut * training.member_share)
        self.learnt = self.log.head(self.n_learnt)

    def taught(self, member: Member, folder: Path, seed: int) -> Rows:
        """What the ranker is told of a draw of the targets between the sequence model's part and the cut."""
        rows = np.flatnonzero((self.row_of >= self.n_learnt) & (self.row_of < self.cut))
        rows = rows[self.task.predictable()[rows]]
        targets, _ = self.targets(rows)
        targets = targets.where(targets.scored >= self.n_learnt)
        drawn = np.random.default_rng(seed).random(len(targets)) < _TAUGHT_ROWS / max(1, len(targets))
        return record(self.replay(member)[0], targets.where(drawn), folder, until=self.cut)

    def judged(self, member: Member) -> tuple[Replay, RecordingScorer]:
        """The log at its beginning again: many users' last event before their first target lies before the cut."""
        return self.replay(member)


def _find(
    task: Task, stage: _LeaveOneOut | _GlobalTime, member: Member, models: Mapping[str, Fusion]
) -> dict[str, Found]:
    """Score every target's moment by each model; what is no candidate comes after all that are."""
    replay, scorer = stage.judged(member)
    found = {name: Found.nothing(len(task.rows)) for name in models}
    targets, which = stage.targets(task.rows)
    of_row = np.full(len(stage.log), -1, np.int64)
    of_row[targets.scored] = which
    n_items = len(task.whole.vocabulary)
    for batch in replay.run(select=of_row >= 0):
        if len(batch.rows) == 0:
            continue
        at, inputs = of_row[batch.rows], scorer.taken()
        numbers = replay.view.catalogue.index.lookup(stage.log.key)  # (V,) of each item, below 0 for one not seen yet
        item_of = np.full(int(max(numbers.max(initial=-1), inputs["candidates"].max(initial=-1))) + 1, -1, np.int64)
        item_of[numbers[numbers >= 0]] = np.flatnonzero(numbers >= 0)
        there = inputs["candidates"] >= 0
        item = np.where(there, item_of[inputs["candidates"]], -1)
        row, column = np.nonzero(item >= 0)
        for name, model in models.items():
            scores = np.full((len(at), n_items), -np.inf, np.float32)
            scores[row, item[row, column]] = _scores(model, inputs)[row, column]
            place, lists = judge(task, task.rows[at], scores)
            found[name].place[at], found[name].lists[at] = place, lists
    return found


@torch.no_grad()
def _scores(model: Fusion, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """(R, C) scores of the candidates."""
    given = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in inputs.items()}
    scores: NDArray[np.float32] = model(**given)[1].numpy()
    return scores

"""One step of the worker: records of one partition in, everything that must be delivered and stored out.

No clock, no Kafka, no await: the same object answers a batch in the worker, in tests and in benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.bundle.service import Arm
from stream.core.arms import Arms
from stream.core.assignment import Assignment
from stream.core.events import EventBatch
from stream.core.fold import DUPLICATE, REPLAYED
from stream.core.ranking import Ranked, reasons_of
from stream.core.seam import Answers, Recommender
from stream.core.state import StateSpec, decode_states
from stream.core.statistics import ItemStatistics
from stream.wire.activity import decode_activity, encode_activity
from stream.wire.decode import EventDecoder
from stream.wire.encode import dead_letter, encode_recommendations
from stream.wire.limits import Limits
from stream.wire.messages import Event
from stream.wire.reasons import Record, Rejected

__all__ = ["Counters", "Output", "Processor", "letter_key"]

_DECIMALS: Final = 6
"""Of a score in a message: float32 holds no more, and shorter messages are cheaper to everybody."""


@dataclass(frozen=True, slots=True)
class _MadeUp:
    """A record that no producer sent."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int | None = None

    @classmethod
    def of(cls, offset: int, user_id: str, item_id: str, event_type: str) -> _MadeUp:
        event = Event(
            user_id=user_id, item_id=item_id, event_type=event_type, ts_ms=1_500_000_000_000 + 60_000 * offset
        )
        return cls(offset, user_id.encode(), msgspec.json.encode(event))


def letter_key(topic: str, partition: int, rejected: Rejected) -> bytes:
    """The key of a dead letter: where its record was, so that repeated letters have the same key.

    The record's own key may be missing, or be what is wrong with it.
    """
    return f"{topic}/{partition}/{rejected.record.offset}".encode()


@dataclass(slots=True)
class Counters:
    """What a processor has done since it was made."""

    n_records: int = 0
    n_recommendations: int = 0
    n_replayed: int = 0
    n_duplicates: int = 0
    n_late: int = 0
    n_dead_letters: int = 0
    n_items_refused: int = 0
    """Of the dead letters, those that are descriptions of items instead of events."""
    dead_letters: dict[str, int] = field(default_factory=dict)
    """By reason."""

    def count_dead_letter(self, reason: str) -> None:
        """One more record was refused."""
        self.n_dead_letters += 1
        self.dead_letters[reason] = self.dead_letters.get(reason, 0) + 1


@dataclass(slots=True)
class Output:
    """What one batch leads to.

    Attributes:
        recommendations: (key, value) for the partition of the same number of `recommendations`.
        dead_letters: (key, value) for `dead-letters`.
        activity: the message for `item-activity`; None where there is nothing to count.
        writes: user key -> record to store, None to erase it.
    """

    recommendations: list[tuple[bytes | None, bytes | None]]
    dead_letters: list[tuple[bytes | None, bytes | None]]
    activity: bytes | None
    writes: dict[bytes, bytes | None]


class Processor:
    """Decode, load, fold, featurize, score, rank, encode.

    Args:
        arms: who scores under which rules, one for each variant; what they count must be the same.
        view: the item statistics to read; its owner moves it on between calls.
        assignment: users to the numbers of `arms`; needed where there are several.
        limits: what is refused as too large or too far off.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        view: ItemStatistics,
        *,
        assignment: Assignment | None = None,
        limits: Limits | None = None,
        counters: Counters | None = None,
    ) -> None:
        features = arms[0].bundle.features
        if view.spec != features.statistics:
            raise ValueError("the view keeps other item statistics than the bundle was trained with")
        if len(arms) > 1 and assignment is None:
            raise ValueError("several arms need an assignment of users")
        self.view = view
        self.counters = Counters() if counters is None else counters
        self._answering = [_Answering(arm) for arm in arms]
        self._arms = Arms([each.recommender for each in self._answering])
        self._assignment = assignment if len(arms) > 1 else None
        self._features = features
        self._know(view)
        self._decoder = EventDecoder(features.types, features.statistics.segment_fields, limits)

    @property
    def state_spec(self) -> StateSpec:
        """The layout of users' records."""
        return self._arms.state_spec

    def warm_up(self) -> None:
        """Answer made-up events against a made-up view, so that compiled code is there before the first real one.

        Compiling takes seconds the first time on a machine; afterwards it is loaded from a cache in well under one.
        """
        real, kept = self.view, self.counters
        self.view, self.counters = ItemStatistics(real.spec), Counters()
        self._know(self.view)
        event_type = self._features.types.names[0]
        n = 4 * len(self._answering)
        stored: dict[bytes, bytes | None] = {}
        try:
            for first in (0, n):  # the second time with stored records, and with items that are known
                records = [_MadeUp.of(first + row, f"user-{row}", f"item-{row}", event_type) for row in range(n)]
                output = self.process(
                    records,
                    lambda keys: list(map(stored.get, keys)),
                    topic="warm-up",
                    partition=0,
                    covers=(first, first + n - 1),
                )
                stored.update(output.writes)
                if output.activity is not None:
                    self.view.apply(decode_activity(output.activity))
                self.view.refresh()
        finally:
            self.view, self.counters = real, kept

    def process(
        self,
        records: Sequence[Record],
        load: Callable[[Sequence[bytes]], Sequence[bytes | None]],
        *,
        topic: str,
        partition: int,
        covers: tuple[int, int],
    ) -> Output:
        """Answer consecutive records of one partition.

        Args:
            records: with `key`, `value`, `offset` and `timestamp` (ms).
            load: stored records of users by key, None where there is none.
            topic: input topic.
            partition: its partition.
            covers: first and last offset that the records stand for.
        """
        counters = self.counters
        decoded = self._decoder.decode(records)
        batch = decoded.batch
        counters.n_records += len(records)
        letters: list[tuple[bytes | None, bytes | None]] = []
        for rejected in decoded.rejected:
            letters.append((letter_key(topic, partition, rejected), dead_letter(rejected, topic, partition)))
            counters.count_dead_letter(rejected.reason.value)
        if len(batch) == 0:
            return Output([], letters, None, {})
        keys = [user_id.encode() for user_id in batch.users]
        states = decode_states(self._arms.state_spec, list(load(keys)))
        stepped = self._arms.step(
            states, batch, self.view, self._arm_of(batch), source=f"{topic}/{partition}", covers=covers
        )
        folded = stepped.folded
        counters.n_replayed += int(np.count_nonzero(folded.outcome == REPLAYED))
        counters.n_duplicates += int(np.count_nonzero(folded.outcome == DUPLICATE))
        counters.n_late += int(np.count_nonzero(folded.late))
        writes: dict[bytes, bytes | None] = {}
        n_bytes, stored = self._arms.state_spec.n_bytes, folded.states.tobytes()
        for row in np.flatnonzero(folded.changed).tolist():
            erased = folded.erased[row]
            writes[keys[row]] = None if erased else stored[row * n_bytes : (row + 1) * n_bytes]
        said: list[tuple[int, bytes]] = []
        for each, answers in zip(self._answering, stepped.answers, strict=True):
            values = each.encode(batch, answers, self.view, topic, partition)
            said += zip(answers.rows.tolist(), values, strict=True)
        if len(stepped.answers) > 1:
            said.sort(key=itemgetter(0))
        counters.n_recommendations += len(said)
        users = batch.user.tolist()
        pairs: list[tuple[bytes | None, bytes | None]] = [(keys[users[row]], value) for row, value in said]
        activity = encode_activity(stepped.activity) if len(stepped.activity) > 0 else None
        return Output(pairs, letters, activity, writes)

    def _know(self, view: ItemStatistics) -> None:
        for each in self._answering:
            view.know(each.arm.bundle.vocabulary)

    def _arm_of(self, batch: EventBatch) -> NDArray[np.intp]:
        """(U,) the arm of each user."""
        if self._assignment is None:
            return np.zeros(len(batch.users), np.intp)
        return np.fromiter(map(self._assignment.number_of, batch.users), np.intp, len(batch.users))


class _Answering:
    """One arm at work."""

    def __init__(self, arm: Arm) -> None:
        bundle = arm.bundle
        self.arm = arm
        self.recommender = Recommender(
            bundle.features, bundle.scorer, bundle.vocabulary, arm.policy, bundle.tag, bundle.retriever
        )
        self._reasons: dict[int, list[str]] = {}

    def encode(
        self, batch: EventBatch, answers: Answers, view: ItemStatistics, topic: str, partition: int
    ) -> list[bytes]:
        """The messages for the events that were answered, in their order."""
        answered = batch if len(answers.rows) == len(batch) else batch.take(answers.rows)
        item_ids, scores, reasons = self._named(answers.ranked, view)
        return encode_recommendations(
            answered,
            item_ids,
            scores,
            reasons,
            _rounded(answers.ranked),
            topic=topic,
            partition=partition,
            model=self.arm.bundle.reference,
            variants=[self.arm.variant] * len(answered),
            activity_offset=view.offset,
            items_offset=view.items_offset,
        )

    def _named(
        self, ranked: Ranked, view: ItemStatistics
    ) -> tuple[list[list[str]], list[list[float]], list[list[list[str]]]]:
        """Items, scores and reasons of each recommendation, as messages want them."""
        ids, reason_of = view.catalogue.ids, self._reason_of
        numbers: list[list[int]] = ranked.items.tolist()
        scores: list[list[float]] = np.round(ranked.scores.astype(np.float64), _DECIMALS).tolist()
        sources: list[list[int]] = ranked.sources.tolist()
        reasons = [list(map(reason_of, row)) for row in sources]
        if ranked.items.size > 0 and int(ranked.items.min()) < 0:  # some have fewer items than others
            n_items: NDArray[np.int64] = (ranked.items >= 0).sum(1)
            for row, n in enumerate(n_items.tolist()):
                del numbers[row][n:], scores[row][n:], reasons[row][n:]
        return [[ids[number] for number in row] for row in numbers], scores, reasons

    def _reason_of(self, sources: int) -> list[str]:
        reasons = self._reasons.get(sources)
        if reasons is None:
            bundle = self.arm.bundle
            from_candidates = bundle.scorer.space == "candidates"
            named = reasons_of(bundle.features, sources, from_candidates=from_candidates, parts=bundle.parts)
            reasons = self._reasons[sources] = list(named)
        return reasons


def _rounded(ranked: Ranked) -> list[list[float]] | None:
    """Propensities with six digits that count, as many as items; None where nothing is left to chance."""
    if ranked.propensity is None:
        return None
    there = (ranked.items >= 0).sum(1).tolist()
    rows = ranked.propensity.tolist()
    return [[float(f"{likely:.6g}") for likely in row[:n]] for row, n in zip(rows, there, strict=True)]

"""One step of the worker: records of one partition in, everything that must be delivered and stored out.

No clock, no Kafka, no await: the same object answers a batch in the worker, in tests and in benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.features import FeatureSpec
from stream.core.fold import DUPLICATE, REPLAYED
from stream.core.ranking import Ranked, reasons_of
from stream.core.seam import Policy, Recommender, Scorer
from stream.core.state import decode_states
from stream.core.statistics import ItemStatistics
from stream.wire.activity import decode_activity, encode_activity
from stream.wire.decode import EventDecoder
from stream.wire.encode import dead_letter, encode_recommendations
from stream.wire.limits import Limits
from stream.wire.messages import Event
from stream.wire.reasons import Record, Rejected

__all__ = ["Counters", "Output", "Processor", "ServedBundle", "letter_key"]

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


class ServedBundle(Protocol):
    """What the processor needs of a bundle; `stream.bundle.load.Bundle` is one."""

    @property
    def features(self) -> FeatureSpec:
        """How features are computed."""
        ...

    @property
    def scorer(self) -> Scorer:
        """The model."""
        ...

    @property
    def vocabulary(self) -> list[str]:
        """The items that the model knows by number."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what a score is the sum of; empty for a model that does not say."""
        ...

    @property
    def reference(self) -> str:
        """name@version."""
        ...

    @property
    def tag(self) -> int:
        """Names the bundle in users' records."""
        ...


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
        bundle: what scores.
        view: the item statistics to read; its owner moves it on between calls.
        limits: what is refused as too large or too far off.
        policy: replaces the bundle's own rules.
        variant: the branch of an experiment that recommendations name.
    """

    def __init__(
        self,
        bundle: ServedBundle,
        view: ItemStatistics,
        *,
        policy: Policy,
        limits: Limits | None = None,
        variant: str = "default",
        counters: Counters | None = None,
    ) -> None:
        if view.spec != bundle.features.statistics:
            raise ValueError("the view keeps other item statistics than the bundle was trained with")
        self.bundle = bundle
        self.view = view
        self.variant = variant
        self.counters = Counters() if counters is None else counters
        self.recommender = Recommender(bundle.features, bundle.scorer, bundle.vocabulary, policy, bundle.tag)
        view.know(bundle.vocabulary)
        self._decoder = EventDecoder(bundle.features.types, bundle.features.statistics.segment_fields, limits)
        self._reasons: dict[int, list[str]] = {}

    def warm_up(self) -> None:
        """Answer made-up events against a made-up view, so that compiled code is there before the first real one.

        Compiling takes seconds the first time on a machine; afterwards it is loaded from a cache in well under one.
        """
        real, kept = self.view, self.counters
        self.view, self.counters = ItemStatistics(real.spec), Counters()
        self.view.know(self.bundle.vocabulary)
        event_type = self.bundle.features.types.names[0]
        stored: dict[bytes, bytes | None] = {}
        try:
            for first in (0, 4):  # the second time with stored records, and with items that are known
                records = [_MadeUp.of(first + row, f"user-{row}", f"item-{row}", event_type) for row in range(4)]
                output = self.process(
                    records,
                    lambda keys: list(map(stored.get, keys)),
                    topic="warm-up",
                    partition=0,
                    covers=(first, first + 3),
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
        states = decode_states(self.recommender.state_spec, list(load(keys)))
        stepped = self.recommender.step(states, batch, self.view, source=f"{topic}/{partition}", covers=covers)
        folded = stepped.folded
        counters.n_replayed += int(np.count_nonzero(folded.outcome == REPLAYED))
        counters.n_duplicates += int(np.count_nonzero(folded.outcome == DUPLICATE))
        counters.n_late += int(np.count_nonzero(folded.late))
        writes: dict[bytes, bytes | None] = {}
        n_bytes, stored = self.recommender.state_spec.n_bytes, folded.states.tobytes()
        for row in np.flatnonzero(folded.changed).tolist():
            erased = folded.erased[row]
            writes[keys[row]] = None if erased else stored[row * n_bytes : (row + 1) * n_bytes]
        answered = batch if len(stepped.rows) == len(batch) else batch.take(stepped.rows)
        item_ids, scores, reasons = self._named(stepped.ranked)
        values = encode_recommendations(
            answered,
            item_ids,
            scores,
            reasons,
            topic=topic,
            partition=partition,
            model=self.bundle.reference,
            variants=[self.variant] * len(answered),
            activity_offset=self.view.offset,
            items_offset=self.view.items_offset,
        )
        counters.n_recommendations += len(values)
        users = answered.user.tolist()
        key_of = keys if answered is batch else [user_id.encode() for user_id in answered.users]
        pairs: list[tuple[bytes | None, bytes | None]] = [
            (key_of[user], value) for user, value in zip(users, values, strict=True)
        ]
        activity = encode_activity(stepped.activity) if len(stepped.activity) > 0 else None
        return Output(pairs, letters, activity, writes)

    def _named(self, ranked: Ranked) -> tuple[list[list[str]], list[list[float]], list[list[list[str]]]]:
        """Items, scores and reasons of each recommendation, as messages want them."""
        ids, reason_of = self.view.catalogue.ids, self._reason_of
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
            bundle = self.bundle
            from_candidates = bundle.scorer.space == "candidates"
            named = reasons_of(bundle.features, sources, from_candidates=from_candidates, parts=bundle.parts)
            reasons = self._reasons[sources] = list(named)
        return reasons

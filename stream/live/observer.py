"""What is to be seen in the topics, as figures: fed with records, asked for a snapshot, without clock or Kafka."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from stream.core.events import FORGET, REQUEST, EventTypes
from stream.live.drifting import Drifted
from stream.live.hits import HitRates, Place
from stream.live.outcomes import Online, OnlineRates
from stream.live.timing import Latencies, Rate
from stream.wire.decode import EventDecoder
from stream.wire.items import decode_items
from stream.wire.messages import DeadLetter, FeedbackTotals, Outcome, Recommendation, RecommendedItem, UserSpan
from stream.wire.reasons import Record

__all__ = ["Figures", "ItemName", "Observer", "Shown", "StampedRecord"]

_MAX_OPEN: Final = 200_000
_MAX_ANSWERED: Final = 100_000
_MAX_NAMES: Final = 200_000
_N_LATEST: Final = 50


class StampedRecord(Record, Protocol):
    """A record with its partition; kafka-python's ConsumerRecord is one."""

    @property
    def partition(self) -> int:
        """Its partition."""
        ...


@dataclass(frozen=True, slots=True)
class ItemName:
    """What people call an item; empty where the topic `items` does not say."""

    title: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A recommendation to show, with what caused it."""

    user_id: str
    event_type: str
    item_id: str
    items: tuple[RecommendedItem, ...]
    latency_ms: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures at one moment. None where there is nothing to tell yet.

    Latencies run from the broker's receipt of an event to its receipt of the recommendation that the event caused
    (`p50_ms` and the like), or to the moment when this process had it in hands (`received_...`).
    """

    events_in: int
    recommendations_out: int
    repeated: int
    dead_letters: dict[str, int]
    n_open: int
    """Events that have neither recommendation nor dead letter yet."""
    events_per_s: float
    recommendations_per_s: float
    history: list[int]
    """Events of each of the last seconds, oldest first."""
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None
    received_p50_ms: int | None
    received_p99_ms: int | None
    n_targets: int
    hit_rate_at_10: float | None
    popularity_hit_rate_at_10: float | None
    online: tuple[Online, ...] = ()
    """By model and variant, over the last day, where `polytempo feedback` runs."""
    online_by_span: tuple[Online, ...] = ()
    """The same for each span of time that is counted, an hour unless told otherwise."""
    drifted: tuple[Drifted, ...] = ()
    """By variant, where workers were asked."""

    @property
    def n_dead_letters(self) -> int:
        """Dead letters of all reasons."""
        return sum(self.dead_letters.values())

    def as_json(self) -> dict[str, Any]:
        """For one line of JSON."""
        return {
            "events_in": self.events_in,
            "recommendations_out": self.recommendations_out,
            "dead_letters": self.n_dead_letters,
            "dead_letters_by_reason": dict(sorted(self.dead_letters.items())),
            "open": self.n_open,
            "events_per_s": round(self.events_per_s, 1),
            "recommendations_per_s": round(self.recommendations_per_s, 1),
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "p99_ms": self.p99_ms,
            "received_p50_ms": self.received_p50_ms,
            "received_p99_ms": self.received_p99_ms,
            "n_targets": self.n_targets,
            "hit_rate_at_10": _rounded(self.hit_rate_at_10),
            "popularity_hit_rate_at_10": _rounded(self.popularity_hit_rate_at_10),
            "online": [each.as_json() for each in self.online],
            "online_by_span": [each.as_json() for each in self.online_by_span],
            "drift": [each.as_json() for each in self.drifted],
        }


@dataclass(frozen=True, slots=True)
class _Open:
    """An event that waits for its recommendation."""

    stamp_ms: int
    counts: bool
    event_type: str
    item_id: str


class Observer:
    """Puts events, recommendations and dead letters together, in whatever order they arrive.

    Args:
        events_topic: its whole name, as recommendations and dead letters state it.
        types: the event types of this deployment.
        count_from: partition -> the first offset of `events` that counts. Events before it only teach what is popular
            and which sessions are under way, and nobody waits for their recommendations. None: see `count_from`.
    """

    def __init__(
        self, events_topic: str, *, types: EventTypes | None = None, count_from: Mapping[int, int] | None = None
    ) -> None:
        self.hits: Final = HitRates()
        self.online: Final = OnlineRates()
        self.names: Final[OrderedDict[str, ItemName]] = OrderedDict()
        self.latest: Final[deque[Shown]] = deque(maxlen=_N_LATEST)
        self.n_read = 0
        """Events told, those that do not count included."""
        self.n_events = 0
        self.n_recommendations = 0
        self.n_repeated = 0
        self.dead_letters: Final[Counter[str]] = Counter()
        self._events_topic: Final = events_topic
        self._types: Final = EventTypes() if types is None else types
        self._weights: Final = self._types.weight_table()
        self._decoder: Final = EventDecoder(self._types)
        self._count_from: dict[int, int] | None = None if count_from is None else dict(count_from)
        self._waits_for_all: Final = count_from is None
        self._open: OrderedDict[Place, _Open] = OrderedDict()
        self._early: OrderedDict[Place, tuple[Recommendation | None, int, int]] = OrderedDict()
        self._answered: OrderedDict[Place, None] = OrderedDict()
        self._event_rate: Final = Rate()
        self._answer_rate: Final = Rate()
        self._latency: Final = Latencies()
        self._received: Final = Latencies()

    @property
    def n_open(self) -> int:
        """Events that have neither recommendation nor dead letter yet."""
        return len(self._open)

    def count_from(self, offsets: Mapping[int, int]) -> None:
        """From now on count: events from these offsets on, partition -> offset; a partition left out from its start.

        Until then nothing counts, though recommendations are waited for.
        """
        self._count_from = dict(offsets)

    def events(self, records: Sequence[StampedRecord], now_s: float) -> None:
        """Records of `events`, of one partition in its order.

        Args:
            records: they may be malformed.
            now_s: a clock that does not go back, in seconds.
        """
        if not records:
            return
        partition = records[0].partition
        n_counted = sum(self._counts((partition, record.offset)) for record in records)
        self.n_read += len(records)
        self.n_events += n_counted
        if n_counted > 0:
            self._event_rate.add(n_counted, now_s)
        batch = self._decoder.decode(records).batch
        row_of = {offset: row for row, offset in enumerate(batch.offset.tolist())}
        for record in records:
            place = (partition, record.offset)
            counts = self._counts(place)
            row = row_of.get(record.offset)
            event_type, item_id = "", ""
            if row is not None:
                kind, item_id = int(batch.kind[row]), batch.item_ids[row]
                event_type = self._types.name_of(kind)
                user_id = batch.users[int(batch.user[row])]
                if kind == FORGET:
                    self.hits.forget(user_id)
                elif kind != REQUEST:
                    weight = float(self._weights[kind])
                    ts_ms = int(batch.ts_ms[row])
                    self.hits.event(place, user_id, item_id, ts_ms, weight=weight, counts=counts)
            if counts or self._waits_for_all:
                stamp_ms = -1 if record.timestamp is None else record.timestamp
                _remember(self._open, place, _Open(stamp_ms, counts, event_type, item_id), _MAX_OPEN)
                early = self._early.pop(place, None)
                if early is not None:
                    self._close(place, *early, now_s)

    def recommendations(self, records: Sequence[StampedRecord], now_s: float, now_ms: int) -> None:
        """Records of `recommendations`; those of other sources than `events` are passed over.

        Args:
            records: of any partitions.
            now_s: a clock that does not go back, in seconds.
            now_ms: the wall clock when they were received, UTC epoch milliseconds.
        """
        for record in records:
            try:
                answer = _read_recommendation(record.value or b"")
            except msgspec.MsgspecError:
                continue  # some other program's message; what it answers stays open, and is seen as such
            if answer.source.topic != self._events_topic:
                continue
            place = (answer.source.partition, answer.source.offset)
            stamp_ms = -1 if record.timestamp is None else record.timestamp
            self.hits.recommendation(place, answer.user_id, [item.item_id for item in answer.items])
            self._arrived(place, answer, stamp_ms, now_ms, now_s)

    def letters(self, records: Sequence[StampedRecord], now_s: float) -> None:
        """Records of `dead-letters`: those of events that count, and those of items."""
        for record in records:
            try:
                letter = _read_letter(record.value or b"")
            except msgspec.MsgspecError:
                continue
            if letter.topic != self._events_topic:
                if self._count_from is not None:
                    self.dead_letters[letter.reason] += 1
                continue
            place = (letter.partition, letter.offset)
            if place in self._answered:
                continue
            if self._counts(place):
                self.dead_letters[letter.reason] += 1
            self.hits.refused(place)
            self._arrived(place, None, -1, -1, now_s)

    def items(self, records: Sequence[StampedRecord]) -> None:
        """Records of `items`: what to call them."""
        for item_id, item in decode_items(records).items:
            self.names.pop(item_id, None)
            if item is not None:
                _remember(self.names, item_id, ItemName(item.title or "", item.category or ""), _MAX_NAMES)

    def feedback(self, records: Sequence[StampedRecord]) -> None:
        """Records of `feedback`: of its messages, the totals."""
        for record in records:
            try:
                message = _read_feedback(record.value or b"")
            except msgspec.MsgspecError:
                continue
            if isinstance(message, FeedbackTotals):
                self.online.add(message)

    def figures(self, now_s: float) -> Figures:
        """All figures as of a time of the same clock."""
        return Figures(
            events_in=self.n_events,
            recommendations_out=self.n_recommendations,
            repeated=self.n_repeated,
            dead_letters=dict(self.dead_letters),
            n_open=len(self._open),
            events_per_s=self._event_rate.per_s(now_s),
            recommendations_per_s=self._answer_rate.per_s(now_s),
            history=self._event_rate.history(now_s),
            p50_ms=self._latency.percentile(0.5),
            p95_ms=self._latency.percentile(0.95),
            p99_ms=self._latency.percentile(0.99),
            received_p50_ms=self._received.percentile(0.5),
            received_p99_ms=self._received.percentile(0.99),
            n_targets=self.hits.n_targets,
            hit_rate_at_10=self.hits.hit_rate,
            popularity_hit_rate_at_10=self.hits.popular_hit_rate,
            online=tuple(self.online.overall()),
            online_by_span=tuple(self.online.by_span()),
        )

    def _counts(self, place: Place) -> bool:
        return self._count_from is not None and place[1] >= self._count_from.get(place[0], 0)

    def _arrived(self, place: Place, answer: Recommendation | None, stamp_ms: int, now_ms: int, now_s: float) -> None:
        """Close the event at `place`, or remember that it is answered already."""
        if place in self._answered:
            self.n_repeated += self._counts(place)
        elif place in self._open:
            self._close(place, answer, stamp_ms, now_ms, now_s)
        elif self._counts(place) or self._waits_for_all:
            _remember(self._early, place, (answer, stamp_ms, now_ms), _MAX_OPEN)

    def _close(self, place: Place, answer: Recommendation | None, stamp_ms: int, now_ms: int, now_s: float) -> None:
        event = self._open.pop(place)
        _remember(self._answered, place, None, _MAX_ANSWERED)
        if answer is None or not event.counts:
            return
        self.n_recommendations += 1
        self._answer_rate.add(1, now_s)
        latency_ms = max(stamp_ms - event.stamp_ms, 0)
        if stamp_ms >= 0 and event.stamp_ms >= 0:
            self._latency.add(latency_ms)
            self._received.add(now_ms - event.stamp_ms)
        self.latest.appendleft(
            Shown(answer.user_id, event.event_type, event.item_id, tuple(answer.items[:5]), latency_ms)
        )


_read_recommendation: Final = msgspec.json.Decoder(Recommendation).decode
_read_letter: Final = msgspec.json.Decoder(DeadLetter).decode
_read_feedback: Final = msgspec.json.Decoder(Outcome | UserSpan | FeedbackTotals).decode


def _remember(memory: OrderedDict[Any, Any], key: Any, value: Any, n_most: int) -> None:
    memory[key] = value
    if len(memory) > n_most:
        memory.popitem(last=False)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)

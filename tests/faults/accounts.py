"""Holding what workers wrote against an offline rebuild of the events topic.

events        -> decode and fold, partition by partition in the order of offsets -> states, activity and a view
changelog     -> the last record of each user  -> must be those states, byte for byte
item-activity -> accepted as views accept it   -> must count each event exactly once
recommendations by rec_id, dead-letters by place  -> at least one for each event, all copies for the same event
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.core.activity import ActivityBatch
from stream.core.events import FORGET, EventBatch
from stream.core.features import FeatureSpec
from stream.core.seam import Recommender
from stream.core.state import States, StateSpec, decode_states
from stream.core.statistics import ItemStatistics
from stream.wire.activity import decode_activity
from stream.wire.decode import EventDecoder
from stream.wire.encode import rec_id
from stream.wire.reasons import Reason
from tests.worker.cluster import Cluster
from tests.worker.plain import PlainRanker

__all__ = ["Account", "Rebuilt", "audit", "differing_fields", "rebuild", "same_statistics"]

_CHUNK = 500
_TOLERANCE = 1e-3
"""Of decayed weights: they are summed in float32, and each view rebases at moments of its own."""


@dataclass(slots=True)
class Rebuilt:
    """What the events topic alone says.

    Attributes:
        states: user key -> record.
        expected: rec_id -> (user_id, event_id, ts_ms) of each event that must be answered.
        refused: (partition, offset) -> reason of each event that cannot be used.
        counted: (source, offset) of each event that must be counted.
        view: the item statistics.
    """

    states: dict[bytes, bytes]
    expected: dict[str, tuple[str, str | None, int]]
    refused: dict[tuple[int, int], str]
    counted: set[tuple[str, int]]
    view: ItemStatistics


def rebuild(spec: FeatureSpec, topic: str, partitions: Sequence[Sequence[Any]]) -> Rebuilt:
    """Fold a topic's records, each partition in the order of its offsets, without a worker.

    Args:
        spec: how the bundle keeps states and statistics; a recurrent model's state is not rebuilt.
        topic: its name, which is part of ids.
        partitions: all of its records.
    """
    decoder = EventDecoder(spec.types, spec.statistics.segment_fields)
    recommender = Recommender(spec, PlainRanker(spec))
    rebuilt = Rebuilt({}, {}, {}, set(), ItemStatistics(spec.statistics))
    for partition, records in enumerate(partitions):
        source = f"{topic}/{partition}"
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            decoded = decoder.decode(chunk)
            for rejected in decoded.rejected:
                rebuilt.refused[partition, rejected.record.offset] = rejected.reason.value
            batch = decoded.batch
            if len(batch) == 0:
                continue
            keys = [user_id.encode() for user_id in batch.users]
            states = decode_states(recommender.state_spec, [rebuilt.states.get(key) for key in keys])
            nobody = np.zeros(len(batch), np.bool_)
            stepped = recommender.step(states, batch, rebuilt.view, source=source, select=nobody)
            _store(rebuilt.states, keys, stepped.folded.states, stepped.folded.erased)
            rebuilt.view.apply(stepped.activity)
            rebuilt.counted.update((source, offset) for offset in stepped.activity.offset.tolist())
            rebuilt.expected.update(_answers(topic, partition, batch))
    return rebuilt


def _store(stored: dict[bytes, bytes], keys: list[bytes], states: States, erased: NDArray[np.bool_]) -> None:
    for row, key in enumerate(keys):
        if erased[row]:
            stored.pop(key, None)
        elif states["n_events"][row] > 0:  # a request alone stores nothing
            stored[key] = states[row].tobytes()


def _answers(topic: str, partition: int, batch: EventBatch) -> Iterable[tuple[str, tuple[str, str | None, int]]]:
    for row, user_id in enumerate(batch.user_ids()):
        if batch.kind[row] != FORGET:
            answer = (user_id, batch.event_ids[row], int(batch.ts_ms[row]))
            yield rec_id(topic, partition, int(batch.offset[row])), answer


@dataclass(frozen=True, slots=True)
class Account:
    """The verdict. All but the first four and the repeats must be zero.

    Attributes:
        n_valid: events that must be answered.
        n_recommendations: records on `recommendations`, and dead letters of events on which the model failed.
        n_bad: events that cannot be used.
        n_users: users that have a state.
        n_unanswered: valid events without a recommendation.
        n_strange: recommendations for no event, or for another user, event or time than the event's.
        n_repeated: recommendations beyond the first of each rec_id: what "at least once" costs.
        n_unexplained: events that cannot be used without a dead letter, or with another reason.
        n_strange_letters: dead letters of events that are good.
        n_repeated_letters: dead letters beyond the first of each event.
        n_wrong_states: users whose last changelog record is not what the events lead to.
        n_uncounted: events that no accepted activity message counts.
        n_counted_wrongly: events counted twice, or counted though they add nothing.
        n_wrong_items: items whose popularity or co-visitation differs from the offline view.
    """

    n_valid: int
    n_recommendations: int
    n_bad: int
    n_users: int
    n_unanswered: int
    n_strange: int
    n_repeated: int
    n_unexplained: int
    n_strange_letters: int
    n_repeated_letters: int
    n_wrong_states: int
    n_uncounted: int
    n_counted_wrongly: int
    n_wrong_items: int

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, invented, mixed up or counted otherwise than once."""
        return not any(
            (
                self.n_unanswered,
                self.n_strange,
                self.n_unexplained,
                self.n_strange_letters,
                self.n_wrong_states,
                self.n_uncounted,
                self.n_counted_wrongly,
                self.n_wrong_items,
            )
        )

    def as_json(self) -> dict[str, int]:
        """All figures by name."""
        return asdict(self)


async def audit(cluster: Cluster, spec: FeatureSpec, events: Sequence[Sequence[Any]] | None = None) -> Account:
    """Read all topics of a deployment whose workers have caught up, and account for every event.

    Args:
        cluster: what to read.
        spec: how its bundle keeps states and statistics.
        events: by partition, where the topic does not hold all that workers have seen any more.
    """
    names, n_partitions = cluster.names, cluster.n_partitions
    partitions = await cluster.partitions(names.events, n_partitions) if events is None else events
    rebuilt = rebuild(spec, names.events, partitions)

    answered: Counter[str] = Counter()
    n_strange = 0
    for recommendation in await cluster.recommendations():
        answered[recommendation["rec_id"]] += 1
        found = (recommendation["user_id"], recommendation["event_id"], recommendation["ts_ms"])
        n_strange += rebuilt.expected.get(recommendation["rec_id"]) != found

    explained: Counter[tuple[int, int]] = Counter()
    n_strange_letters = 0
    for letter in await cluster.dead_letters():
        where = (letter["partition"], letter["offset"])
        if letter["reason"] == Reason.UNANSWERED.value:  # the model failed on it: this is its answer
            answered[rec_id(letter["topic"], *where)] += 1
            n_strange_letters += rec_id(letter["topic"], *where) not in rebuilt.expected
            continue
        explained[where] += 1
        n_strange_letters += letter["topic"] != names.events or rebuilt.refused.get(where) != letter["reason"]

    stored: dict[bytes, bytes] = {}
    for record in await cluster.records(names.changelog, n_partitions):
        if record.value is None:
            stored.pop(record.key, None)
        else:
            stored[record.key] = record.value

    view = ItemStatistics(spec.statistics)
    ledger = _Ledger()
    for record in await cluster.records(names.item_activity):
        message = decode_activity(record.value)
        view.apply(message)
        ledger.accept(message)
    return Account(
        n_valid=len(rebuilt.expected),
        n_recommendations=sum(answered.values()),
        n_bad=len(rebuilt.refused),
        n_users=len(rebuilt.states),
        n_unanswered=len(rebuilt.expected.keys() - answered.keys()),
        n_strange=n_strange,
        n_repeated=sum(answered.values()) - len(answered),
        n_unexplained=len(rebuilt.refused.keys() - explained.keys()),
        n_strange_letters=n_strange_letters,
        n_repeated_letters=sum(explained.values()) - len(explained),
        n_wrong_states=sum(
            stored.get(user) != rebuilt.states.get(user) for user in stored.keys() | rebuilt.states.keys()
        ),
        n_uncounted=len(rebuilt.counted - ledger.counted.keys()),
        n_counted_wrongly=sum(n - (each in rebuilt.counted) for each, n in ledger.counted.items()),
        n_wrong_items=len(same_statistics(view, rebuilt.view)),
    )


class _Ledger:
    """The rule by which activity is accepted, written down a second time, event by event."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, int]] = Counter()
        self._due: dict[str, int] = {}

    def accept(self, message: ActivityBatch) -> None:
        due = self._due.get(message.source, 0)
        for offset in message.offset.tolist():
            if offset >= due:
                self.counted[message.source, offset] += 1
        self._due[message.source] = max(due, message.last + 1)


def differing_fields(spec: StateSpec, one: bytes | None, other: bytes | None) -> dict[str, tuple[Any, Any]]:
    """Name -> both values of each field in which two records differ, for reports."""
    states = decode_states(spec, [one, other])
    fields = {name: states[name] for name in spec.dtype.names or ()}
    return {
        name: (column[0].tolist(), column[1].tolist())
        for name, column in fields.items()
        if column[:1].tobytes() != column[1:].tobytes()
    }


def same_statistics(view: ItemStatistics, other: ItemStatistics) -> set[str]:
    """The items whose statistics differ by more than rounding, all read as of one time."""
    now_ms = int(max(view.landmark_ms.max(), other.landmark_ms.max(), view.row_ms.max(), other.row_ms.max()))
    one, two = _by_item(view, now_ms), _by_item(other, now_ms)
    return {item for item in one.keys() | two.keys() if not _alike(one.get(item, {}), two.get(item, {}))}


def _by_item(view: ItemStatistics, now_ms: int) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Item id -> name of a figure -> its values as of a time; figures of zero are left out."""
    ids = view.catalogue.ids
    columns = np.diff(view.spec.first_column)
    half_life_ms = np.repeat([channel.half_life_ms for channel in view.spec.popularity], columns)
    used = view.total > 0
    age = np.where(used, now_ms - np.where(used, view.landmark_ms, now_ms), 0) / half_life_ms
    popularity = view.weight[: len(ids)] * 2.0**-age
    figures: dict[str, dict[str, NDArray[np.float64]]] = {}
    for number, item_id in enumerate(ids):
        mine: dict[str, NDArray[np.float64]] = {}
        if popularity[number].any():
            mine["popularity"] = popularity[number]
        if view.row_sum[number].any():
            fading = 2.0 ** (-(now_ms - view.row_ms[number]) / view.pair_half_life_ms)
            mine["sum"] = view.row_sum[number] * fading
            for slot, neighbour in enumerate(view.slot_item[number].tolist()):
                if neighbour >= 0:
                    mine[ids[neighbour]] = view.slot_weight[number, slot] * fading
        if mine:
            figures[item_id] = mine
    return figures


def _alike(one: Mapping[str, NDArray[np.float64]], two: Mapping[str, NDArray[np.float64]]) -> bool:
    if one.keys() != two.keys():
        return False
    return all(np.allclose(one[name], two[name], rtol=_TOLERANCE, atol=1e-6) for name in one)

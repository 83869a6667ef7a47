"""One step of the worker: records in, everything that must be delivered and stored out.

No clock, no Kafka, no await: the same object answers a batch in the worker, in tests and in benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.bundle.service import Arm
from stream.core.activity import ActivityBatch
from stream.core.arms import Arms, ArmsStepped
from stream.core.assignment import Assignment
from stream.core.fold import APPLIED, DUPLICATE, ERASED, REPLAYED, Folded
from stream.core.parts import Part, starts
from stream.core.state import States, StateSpec, decode_states
from stream.core.statistics import ItemStatistics
from stream.core.tally import Moved, Tally
from stream.wire.decode import EventDecoder
from stream.wire.encode import dead_letter, receipt
from stream.wire.limits import Limits
from stream.wire.messages import Event, Source
from stream.wire.reasons import Reason, Record, Rejected
from stream.wire.userkeys import UserKeys
from stream.worker.answering import Answering
from stream.worker.around import Around
from stream.worker.retention import Records, Retention
from stream.worker.shadow import Shadows

__all__ = ["Counters", "Fetched", "Output", "Processor", "letter_key"]


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
    n_impressions: int = 0
    n_dead_letters: int = 0
    n_forgotten: int = 0
    n_returned: int = 0
    """Users who came back after so long that they began anew."""
    n_removed: int = 0
    """Users who were removed after a long silence."""
    n_items_refused: int = 0
    """Of the dead letters, those that are descriptions of items instead of events."""
    dead_letters: dict[str, int] = field(default_factory=dict)
    """By reason."""

    def count_dead_letter(self, reason: str) -> None:
        """One more record was refused."""
        self.n_dead_letters += 1
        self.dead_letters[reason] = self.dead_letters.get(reason, 0) + 1


def _tally_of(arm: Arm) -> Tally | None:
    known = arm.bundle.distributions
    return Tally(arm.bundle.features, known) if known else None


Load = Callable[[Sequence[bytes]], Sequence[bytes | None]]
"""Stored records of users by key, None where there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """Consecutive records of one partition, see `Processor.process`."""

    records: Sequence[Record]
    load: Load
    topic: str
    partition: int
    covers: tuple[int, int]
    records_of_store: Records | None = None
    committed: int = -1
    """Events below this offset are not read again; with `records_of_store`, silent users may be removed."""


@dataclass(slots=True)
class Output:
    """What one batch leads to.

    Attributes:
        recommendations: (key, value) for the partition of the same number of `recommendations`.
        dead_letters: (key, value) for `dead-letters`.
        activity: what is counted, for `item-activity`; None where there is nothing.
        writes: user key -> record to store, None to erase it.
        receipts: (key, value) for `forgotten`.
    """

    recommendations: list[tuple[bytes | None, bytes | None]]
    dead_letters: list[tuple[bytes | None, bytes | None]]
    activity: ActivityBatch | None
    writes: dict[bytes, bytes | None]
    receipts: list[tuple[bytes | None, bytes | None]] = field(default_factory=list)


class Processor:
    """Decode, load, fold, featurize, score, rank, encode.

    Args:
        arms: who scores under which rules, one for each variant; what they count must be the same.
        view: the item statistics to read; its owner moves it on between calls.
        assignment: users to the numbers of `arms`; needed where there are several.
        limits: what is refused as too large or too far off.
        shadows: who is offered what was answered; asked for nothing here.
        user_keys: secrets of the pseudonyms.
        retention: removes who is silent for too long; the arms' policies say the same span.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        view: ItemStatistics,
        *,
        assignment: Assignment | None = None,
        limits: Limits | None = None,
        counters: Counters | None = None,
        shadows: Shadows | None = None,
        user_keys: UserKeys | None = None,
        retention: Retention | None = None,
    ) -> None:
        features = arms[0].bundle.features
        if view.spec != features.statistics:
            raise ValueError("the view keeps other item statistics than the bundle was trained with")
        if len(arms) > 1 and assignment is None:
            raise ValueError("several arms need an assignment of users")
        self.view = view
        self.counters = Counters() if counters is None else counters
        self._answering = [Answering(arm, _tally_of(arm)) for arm in arms]
        self._arms = Arms([each.recommender for each in self._answering])
        self._assignment = assignment if len(arms) > 1 else None
        self._around: Around | None = Around()
        self._features = features
        self.shadows = shadows
        self._know(view)
        self._user_keys = UserKeys() if user_keys is None else user_keys
        self._retention = retention
        self._decoder = EventDecoder(features.types, features.statistics.segment_fields, limits)

    @property
    def state_spec(self) -> StateSpec:
        """The layout of users' records."""
        return self._arms.state_spec

    def warm_up(self) -> None:
        """Answer made-up events against a made-up view, so that compiled code is there before the first real one.

        Compiling takes seconds the first time on a machine; afterwards it is loaded from a cache in well under one.
        """
        real, kept, around = self.view, self.counters, self._around
        self.view, self.counters, self._around = ItemStatistics(real.spec), Counters(), None  # here it must not fail
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
                    self.view.apply(output.activity)
                self.view.refresh()
            if self.shadows is not None:
                self.shadows.warm_up(self.view)
        finally:
            self.view, self.counters, self._around = real, kept, around
            for each in self._answering:
                if each.tally is not None:
                    each.tally.clear()

    def moved(self) -> dict[str, Moved | None]:
        """By variant, how far what is served has moved from the bundle's training; None where that is not known."""
        return {each.arm.variant: None if each.tally is None else each.tally.moved() for each in self._answering}

    def roll(self) -> None:
        """A step of the window that `moved` looks at is over."""
        for each in self._answering:
            if each.tally is not None:
                each.tally.roll()

    def process(
        self, records: Sequence[Record], load: Load, *, topic: str, partition: int, covers: tuple[int, int]
    ) -> Output:
        """Answer consecutive records of one partition: `process_all` with one batch.

        Args:
            records: with `key`, `value`, `offset` and `timestamp` (ms).
            load: stored records of users by key, None where there is none.
            topic: input topic.
            partition: its partition.
            covers: first and last offset that the records stand for.
        """
        (output,) = self.process_all([Fetched(records, load, topic, partition, covers)])
        return output

    def process_all(self, batches: Sequence[Fetched]) -> list[Output]:
        """Answer batches of distinct partitions in one step; what each leads to."""
        counters = self.counters
        outputs = [Output([], [], None, {}) for _ in batches]
        parts: list[Part] = []
        places: list[int] = []  # of the parts among the batches
        decoded_all = self._decoder.decode_all([fetched.records for fetched in batches])
        for place, (fetched, decoded) in enumerate(zip(batches, decoded_all, strict=True)):
            counters.n_records += len(fetched.records)
            counters.n_impressions += decoded.n_impressions
            for rejected in decoded.rejected:
                letter = dead_letter(rejected, fetched.topic, fetched.partition)
                outputs[place].dead_letters.append((letter_key(fetched.topic, fetched.partition, rejected), letter))
                counters.count_dead_letter(rejected.reason.value)
            if len(decoded.batch) > 0:
                parts.append(Part(decoded.batch, f"{fetched.topic}/{fetched.partition}", fetched.covers))
                places.append(place)
        if not parts:
            return outputs
        keys = [[user_id.encode() for user_id in part.batch.users] for part in parts]
        at, stored = keys, [raw for place, of in zip(places, keys, strict=True) for raw in batches[place].load(of)]
        if self._user_keys.current:
            at, stored = self._load(keys, places, batches, outputs)
        states = decode_states(self._arms.state_spec, stored)
        stepped, failing = self._step(states, parts)
        folded = stepped.folded
        counters.n_replayed += int(np.count_nonzero(folded.outcome == REPLAYED))
        counters.n_duplicates += int(np.count_nonzero(folded.outcome == DUPLICATE))
        counters.n_late += int(np.count_nonzero(folded.late))
        n_bytes, raw = self._arms.state_spec.n_bytes, folded.states.tobytes()
        changed, erased = folded.changed.tolist(), folded.erased.tolist()
        user = 0
        for number, place in enumerate(places):
            output = outputs[place]
            for key in at[number]:
                if changed[user]:
                    output.writes[key] = None if erased[user] else raw[user * n_bytes : (user + 1) * n_bytes]
                user += 1
            if len(stepped.activities[number]) > 0:
                output.activity = stepped.activities[number]
        for row, error in sorted(failing.items()):
            self._say_unanswered(row, error, parts, [(batches[place], outputs[place]) for place in places])
        for place, pair in self._receipts(parts, places, folded, batches):
            outputs[place].receipts.append(pair)
        counters.n_returned += int(np.count_nonzero(folded.anew & (folded.outcome == APPLIED)))
        self._remove_silent(parts, [(batches[place], outputs[place]) for place in places])
        counters.n_forgotten += int(np.count_nonzero(folded.outcome == ERASED))
        said: list[list[tuple[int, bytes]]] = [[] for _ in parts]  # (row of the part, message)
        for each, answers in zip(self._answering, stepped.answers, strict=True):
            for number, encoded in enumerate(each.encode(parts, answers, self.view)):
                said[number] += encoded
        if self.shadows is not None:
            self.shadows.offer(parts, states, folded)
        for number, messages in enumerate(said):
            if len(stepped.answers) > 1:
                messages.sort(key=itemgetter(0))
            users = parts[number].batch.user.tolist()
            outputs[places[number]].recommendations += [(keys[number][users[row]], value) for row, value in messages]
            counters.n_recommendations += len(messages)
        return outputs

    def _step(self, states: States, parts: Sequence[Part]) -> tuple[ArmsStepped, dict[int, Exception]]:
        """Step all parts; the rows on which the model fails, and why, are left without an answer."""
        arm_of = self._arm_of(parts)

        def selected(select: NDArray[np.bool_] | None) -> ArmsStepped:
            return self._arms.step(states, parts, self.view, arm_of, select=select)

        try:
            return selected(None), {}
        except Exception as error:
            if self._around is None:
                raise
            return self._around.step(selected, sum(len(part.batch) for part in parts), error)

    def _say_unanswered(
        self, row: int, error: Exception, parts: Sequence[Part], sides: Sequence[tuple[Fetched, Output]]
    ) -> None:
        """A dead letter for a row of all parts."""
        first = starts([len(part.batch) for part in parts])
        number = int(np.searchsorted(first, row, "right")) - 1
        offset = int(parts[number].batch.offset[row - first[number]])
        fetched, output = sides[number]
        (record,) = [each for each in fetched.records if each.offset == offset]
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        rejected = Rejected(record, Reason.UNANSWERED, detail)
        letter = dead_letter(rejected, fetched.topic, fetched.partition)
        output.dead_letters.append((letter_key(fetched.topic, fetched.partition, rejected), letter))
        self.counters.count_dead_letter(rejected.reason.value)

    def _load(
        self,
        users: Sequence[Sequence[bytes]],
        places: Sequence[int],
        batches: Sequence[Fetched],
        outputs: Sequence[Output],
    ) -> tuple[list[list[bytes]], list[bytes | None]]:
        """The keys of users' states, by part, and the states: under earlier keys where the newest has none.

        What is found under an earlier key moves: it is written under the newest, and erased where it was.
        """
        keys, at, stored = self._user_keys, [], []
        for place, of in zip(places, users, strict=True):
            load, now = batches[place].load, list(map(keys.stored, of))
            found = list(load(now))
            for row, raw in enumerate(found):
                if raw is not None:
                    continue
                earlier = keys.earlier(of[row])
                for key, old in zip(earlier, load(earlier), strict=True):
                    if old is not None:
                        found[row] = outputs[place].writes[now[row]] = old
                        outputs[place].writes[key] = None
                        break
            at.append(now)
            stored += found
        return at, stored

    def _remove_silent(self, parts: Sequence[Part], sides: Sequence[tuple[Fetched, Output]]) -> None:
        if self._retention is None:
            return
        for part, (fetched, output) in zip(parts, sides, strict=True):
            if fetched.records_of_store is None:
                continue
            gone = self._retention.step(
                part.source, part.batch.ts_ms, fetched.records_of_store, fetched.load, fetched.committed
            )
            for key in gone:
                if key not in output.writes:  # whoever is there again stays
                    output.writes[key] = None
                    self.counters.n_removed += 1

    def _receipts(
        self, parts: Sequence[Part], places: Sequence[int], folded: Folded, batches: Sequence[Fetched]
    ) -> list[tuple[int, tuple[bytes, bytes]]]:
        """(place of the batch, record on `forgotten`) for each user who was erased."""
        rows = np.flatnonzero(folded.outcome == ERASED)
        if len(rows) == 0:
            return []
        first = starts([len(part.batch) for part in parts])
        answers = []
        for row, number in zip(rows.tolist(), (np.searchsorted(first, rows, side="right") - 1).tolist(), strict=True):
            batch, at, fetched = parts[number].batch, row - int(first[number]), batches[places[number]]
            source = Source(fetched.topic, fetched.partition, int(batch.offset[at]))
            user_id = batch.users[int(batch.user[at])]
            answers.append((places[number], receipt(user_id, int(batch.ts_ms[at]), source, self._user_keys)))
        return answers

    def _know(self, view: ItemStatistics) -> None:
        for each in self._answering:
            view.know(each.arm.bundle.vocabulary)
        if self.shadows is not None:
            self.shadows.know(view)

    def _arm_of(self, parts: Sequence[Part]) -> NDArray[np.intp]:
        """(U,) the arm of each user of all parts."""
        n_users = sum(len(part.batch.users) for part in parts)
        if self._assignment is None:
            return np.zeros(n_users, np.intp)
        users = (user for part in parts for user in part.batch.users)
        return np.fromiter(map(self._assignment.number_of, users), np.intp, n_users)

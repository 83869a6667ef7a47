"""One partition of the events topic, folded again: who asks for an event gets its recommendation, as of any view.

    events      |  a  b  a  c  a ...          folded in the order of offsets, each once
    scored      1: a  b     2: c    3: a      by the views that recommendations name, which may jump back a little

An event that is folded before its turn to be scored leaves its user's record, as it was before the event, behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from stream.core.arms import Arms
from stream.core.events import EventBatch
from stream.core.parts import Part
from stream.core.seam import Answers, Recommender
from stream.core.state import decode_states
from stream.core.statistics import ItemStatistics
from stream.replay.views import ForwardReading
from stream.wire.decode import EventDecoder
from stream.wire.limits import Limits
from stream.wire.reasons import Record

__all__ = ["PartitionReplay", "Replayed", "as_replayed"]

_DECIMALS: Final = 6  # of a score in a message, as workers round it
_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class Replayed:
    """The recommendation of one event, made again: items best first, and their scores."""

    items: tuple[str, ...]
    scores: tuple[float, ...]


def as_replayed(answers: Answers, view: ItemStatistics) -> list[Replayed]:
    """Each recommendation as a message has it."""
    ids = view.catalogue.ids
    scores = np.round(answers.ranked.scores.astype(np.float64), _DECIMALS).tolist()
    found = []
    for numbers, of in zip(answers.ranked.items.tolist(), scores, strict=True):
        n = sum(number >= 0 for number in numbers)
        found.append(Replayed(tuple(ids[number] for number in numbers[:n]), tuple(of[:n])))
    return found


class PartitionReplay:
    """The users' records of one partition, as of the events folded so far.

    Args:
        topic: of the events.
        partition: its number.
        events: its records.
        recommender_of: the recommender that answered the event at an offset; for events that nobody answered, any.
        limits: the workers'.
        families: recommenders that served side by side; each other one served alone.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        events: ForwardReading,
        recommender_of: Callable[[int], Recommender],
        limits: Limits | None = None,
        families: Sequence[Arms] = (),
    ) -> None:
        self._source = f"{topic}/{partition}"
        self._events = events
        self._recommender_of = recommender_of
        self._place_of: dict[Recommender, tuple[Arms, int]] = {
            recommender: (arms, number) for arms in families for number, recommender in enumerate(arms.recommenders)
        }
        self._decoders: dict[Recommender, EventDecoder] = {}
        self._limits = limits
        self._states: dict[str, bytes] = {}
        self._before: dict[int, tuple[Record, bytes | None]] = {}
        """Events folded before their turn: the record, and the user's state before it."""
        self._folded_to = -1

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the partition has been deleted, without which states cannot be rebuilt."""
        return self._events.begin == 0

    def answer(
        self, offsets: Sequence[int], later: Callable[[int], bool], view: ItemStatistics
    ) -> dict[int, Replayed | None]:
        """The recommendations of the events at these offsets, which rise, as of a view; None where there is none.

        Args:
            later: whether the event at an offset will be asked for (again) after this call.
        """
        answers = {offset: self.again(offset, view) for offset in offsets if offset <= self._folded_to}
        ahead = {offset for offset in offsets if offset > self._folded_to}
        if ahead:
            records = self._events.up_to(max(ahead))
            self._folded_to = max(ahead)
            for run in self._runs(records, later):
                answers |= self._fold(run, ahead, view)
        return {offset: answers.get(offset) for offset in offsets}

    def again(self, offset: int, view: ItemStatistics, recommender: Recommender | None = None) -> Replayed | None:
        """The recommendation of an event that was folded before, as of another view or by another recommender.

        None if its state is not kept, or if it is no event to be answered.
        """
        kept = self._before.get(offset)
        if kept is None:
            return None
        recommender = self._recommender_of(offset) if recommender is None else recommender
        batch = self._decode(recommender, [kept[0]])
        if len(batch) == 0:
            return None
        states = decode_states(recommender.state_spec, [kept[1]])
        stepped = recommender.step(states, batch, view, source=self._source)
        return as_replayed(stepped, view)[0] if len(stepped.rows) > 0 else None

    def without_history(self, offset: int, view: ItemStatistics) -> Replayed | None:
        """What would come out if nothing were known of the user before the event; None if the event is not kept."""
        kept = self._before.get(offset)
        if kept is None:
            return None
        self._before[offset] = (kept[0], None)
        try:
            return self.again(offset, view)
        finally:
            self._before[offset] = kept

    def drop(self, offset: int) -> None:
        """Forget the state that was kept for an event."""
        self._before.pop(offset, None)

    def close(self) -> None:
        """Leave the topic."""
        self._events.close()

    def _runs(self, records: Sequence[Record], later: Callable[[int], bool]) -> Iterator[list[Record]]:
        """Records that are folded together: for one recommender, and none after an event whose state must be kept.

        What a user's record holds between two events of a batch is not known where a model has a state of its own, so
        an event that is asked for later begins a batch, before which all records are known.
        """
        run: list[Record] = []
        answering: dict[bytes | None, Recommender] = {}  # by key, which is the user
        for record in records:
            recommender = self._recommender_of(record.offset)
            keep = later(record.offset)
            if run and (
                keep
                or len(run) == _CHUNK
                or self._place(recommender)[0] is not self._place(next(iter(answering.values())))[0]
                or answering.get(record.key, recommender) is not recommender
            ):
                yield run
                run, answering = [], {}
            if keep:
                self._keep(record)
            run.append(record)
            answering[record.key] = recommender
        if run:
            yield run

    def _keep(self, record: Record) -> None:
        batch = self._decode(self._recommender_of(record.offset), [record])
        if len(batch) > 0:
            self._before[record.offset] = (record, self._states.get(batch.users[0]))

    def _fold(self, records: list[Record], wanted: set[int], view: ItemStatistics) -> dict[int, Replayed]:
        arms = self._place(self._recommender_of(records[0].offset))[0]
        batch = self._decode(arms.recommenders[0], records)
        if len(batch) == 0:
            return {}
        record_at = {record.offset: record for record in records}
        stored = [self._states.get(user) for user in batch.users]
        offsets = batch.offset.tolist()
        select = np.fromiter([offset in wanted for offset in offsets], np.bool_, len(batch))
        arm = np.zeros(len(batch.users), np.intp)
        arm[batch.user] = [self._place(self._recommender_of(offset))[1] for offset in offsets]
        states = decode_states(arms.state_spec, stored)
        part = Part(batch, self._source, (offsets[0], offsets[-1]))
        stepped = arms.step(states, [part], view, arm, select=select)
        folded = stepped.folded
        # What is wanted now is kept as far as that costs nothing, for explanations.
        for row in np.flatnonzero(select).tolist():
            earlier = int(folded.earlier[row])
            if earlier < 0:
                self._before[offsets[row]] = (record_at[offsets[row]], stored[batch.user[row]])
            elif arms.recommenders[arm[batch.user[row]]].n_state == 0:
                self._before[offsets[row]] = (record_at[offsets[row]], folded.after[earlier].tobytes())
        for row in np.flatnonzero(folded.changed).tolist():
            if folded.erased[row]:
                self._states.pop(batch.users[row], None)
            else:
                self._states[batch.users[row]] = folded.states[row].tobytes()
        found: dict[int, Replayed] = {}
        for answers in stepped.answers:
            rows = answers.rows.tolist()
            found |= zip([offsets[row] for row in rows], as_replayed(answers, view), strict=True)
        return found

    def _place(self, recommender: Recommender) -> tuple[Arms, int]:
        """The recommenders that share its records, and its number among them."""
        place = self._place_of.get(recommender)
        if place is None:
            place = self._place_of[recommender] = (Arms([recommender]), 0)
        return place

    def _decode(self, recommender: Recommender, records: Sequence[Record]) -> EventBatch:
        decoder = self._decoders.get(recommender)
        if decoder is None:
            spec = recommender.spec
            decoder = EventDecoder(spec.types, spec.statistics.segment_fields, self._limits)
            self._decoders[recommender] = decoder
        return decoder.decode(records).batch

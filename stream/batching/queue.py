"""What waits in one partition, and how much of it goes into the next step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.structs import ConsumerRecord
from faust.types import TP, EventT

from stream.batching.batches import FetchedBatch, RecordBatch

__all__ = ["Progress", "Queue", "Waiting"]


@dataclass(slots=True, eq=False)
class Progress:
    """A fetch that Faust waits for: acknowledged to it when the last slice of its last batch has left.

    `n_pending` counts the batches of which something waits, and the slices under way.
    """

    event: EventT[Any]
    n_pending: int


@dataclass(slots=True, eq=False)
class Waiting:
    """What is left of a batch that waits for its turn; `first` is the next offset to be covered."""

    progress: Progress
    records: Sequence[ConsumerRecord]
    first: int
    fetched_ns: int


class Queue:
    """Batches of one partition in one generation, in the order of their offsets."""

    def __init__(self, tp: TP, generation: int) -> None:
        self.waiting: deque[Waiting] = deque()
        self._tp = tp
        self._generation = generation

    def add(self, batch: FetchedBatch, progress: Progress) -> None:
        """A batch waits from now on."""
        self.waiting.append(Waiting(progress, batch.records, batch.first, batch.fetched_ns))

    def slice(self, max_events: int) -> tuple[RecordBatch, list[Progress], list[Waiting], int]:
        """The next slice, the fetches that have a part in it, the batches of which nothing is left, and when the first
        of its records was fetched.

        Something must be waiting. One slice costs little more than another, so the longer the queue, the larger the
        slices.
        """
        waiting = self.waiting
        first, fetched_ns, records = waiting[0].first, waiting[0].fetched_ns, list[ConsumerRecord]()
        progresses, emptied = list[Progress](), list[Waiting]()
        while waiting and len(records) < max_events:
            each, room = waiting[0], max_events - len(records)
            progresses.append(each.progress)
            if len(each.records) <= room:
                records.extend(each.records)
                emptied.append(waiting.popleft())
            else:
                records.extend(each.records[:room])
                each.records = each.records[room:]
                each.first = records[-1].offset + 1
        batch = RecordBatch(self._tp, first, records[-1].offset, records, self._generation)
        return batch, progresses, emptied, fetched_ns

"""What waits in one partition, and how much of it goes into the next step."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.structs import ConsumerRecord
from faust.types import TP, EventT

from stream.batching.batches import RecordBatch

__all__ = ["Progress", "Queue", "Waiting"]


@dataclass(slots=True, eq=False)
class Progress:
    """A batch that Faust waits for: acknowledged to it when its last slice has left."""

    event: EventT[Any]
    n_pending: int = 1


@dataclass(slots=True, eq=False)
class Waiting:
    """What is left of a batch that waits for its turn; `first` is the next offset to be covered."""

    progress: Progress
    records: Sequence[ConsumerRecord]
    first: int


class Queue:
    """Batches of one partition in one generation: `inbox` as they arrive, None when the partition is given back."""

    def __init__(self, tp: TP, generation: int) -> None:
        self.inbox: asyncio.Queue[EventT[Any] | None] = asyncio.Queue()
        self.waiting: deque[Waiting] = deque()
        self._tp = tp
        self._generation = generation

    def add(self, event: EventT[Any]) -> None:
        """A batch waits from now on."""
        self.waiting.append(Waiting(Progress(event), event.value.records, event.value.first))

    def slice(self, max_events: int) -> tuple[RecordBatch, list[Progress], list[Waiting]]:
        """The next slice, the batches that have a part in it, and those of them of which nothing is left.

        Something must be waiting. What came while the slice waited for its turn goes along: one slice costs little more
        than another, so the longer the queue, the larger the slices.
        """
        inbox, waiting = self.inbox, self.waiting
        n_waiting = sum(len(each.records) for each in waiting)
        while n_waiting < max_events and not inbox.empty():
            event = inbox.get_nowait()
            if event is None:  # given back: whoever reads the inbox is to see that
                inbox.put_nowait(None)
                break
            self.add(event)
            n_waiting += len(event.value.records)
        first, records = waiting[0].first, list[ConsumerRecord]()
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
        return batch, progresses, emptied

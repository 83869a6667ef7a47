"""What goes into a step and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.structs import ConsumerRecord
from faust.types import TP

__all__ = ["Applied", "FetchedBatch", "Later", "Load", "RecordBatch", "Send", "Step", "Timings", "one_by_one"]


@dataclass(slots=True, eq=False)
class FetchedBatch:
    """What one fetch brought of one partition: offsets first..last, see `RecordBatch`.

    `epoch` is its ledger's when it was handed out, `fetched_ns` when that was, on the performance counter.
    """

    tp: TP
    first: int
    last: int
    records: Sequence[ConsumerRecord]
    generation: int
    epoch: int
    fetched_ns: int


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of one partition.

    It covers the offsets first..last, both included; the next batch of the partition starts at last + 1. Offsets that
    no record has were removed by compaction or retention, or were transaction markers.
    """

    tp: TP
    first: int
    last: int
    records: Sequence[ConsumerRecord]
    generation: int


@dataclass(slots=True)
class Send:
    """(key, value) pairs for one partition of one topic, delivered in order."""

    topic: str
    partition: int
    pairs: list[tuple[bytes | None, bytes | None]]


@dataclass(slots=True)
class Applied:
    """What a step made of a batch.

    `writes` are new values per key (None deletes), `sends` what is to be delivered before them, at once. Of `note`
    something is made that is to be delivered before them too, but that nobody waits for, see `Later`.
    """

    writes: dict[bytes, bytes | None] = field(default_factory=dict)
    sends: list[Send] = field(default_factory=list)
    note: Any = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a slice went, in microseconds; what several slices did together counts for each.

    `queue_us`: from the fetch of its first record to the step. `step_us`: in `step`. `sends_us`: from its end until all
    sends were delivered; who waits for an answer has it then. `changelog_us`: from there until the changelog was,
    lingering and waiting for the slices before included.
    """

    step_us: int
    sends_us: int
    changelog_us: int
    queue_us: int = 0

    @property
    def total_us(self) -> int:
        """From the fetch of its first record to its end."""
        return self.queue_us + self.step_us + self.sends_us + self.changelog_us


Load = Callable[[Sequence[bytes]], list[bytes | None]]
Step = Callable[[Sequence[RecordBatch], Sequence[Load]], Sequence[Applied]]
"""Batches of distinct partitions, and how to load the states of each, to what each leads to."""


Later = Callable[[TP, Sequence[Any]], Sequence[Send]]
"""A partition and the notes of some of its slices, one after the other, to what is to be delivered for all of them."""


def one_by_one(step: Callable[[RecordBatch, Load], Applied]) -> Step:
    """The step that calls `step` for each batch by itself."""

    def all_of(batches: Sequence[RecordBatch], loads: Sequence[Load]) -> list[Applied]:
        return [step(batch, load) for batch, load in zip(batches, loads, strict=True)]

    return all_of

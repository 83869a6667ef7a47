"""From delivered outputs to changelog, store and commit: what nobody waits for.

A worker that writes its changelog after each group pays for a round of produce requests each time; at a thousand events
a second that is a third of all it does. So groups linger after their outputs were delivered, some hundredths of a
second, and go through together: one batch of each partition, in which a user stands once, however often he came.

    outputs      a ..|  b ..|  c ..|  d ..|
    changelog         a lingers     abcd ....|  settled, committable

What it costs: a crash falls into that time more often, and repeats the outputs of a few more groups.

Groups of a partition settle in the order of their steps. One whose outputs are still under way holds up those that
share a partition with it, and no others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import faust
from aiokafka.errors import ProducerFenced
from faust.types import TP

from stream.batching.batches import Applied, Later, RecordBatch, Send, Timings
from stream.batching.fencing import FencedError
from stream.batching.ledger import Ledger, Span
from stream.batching.producing import Delivery, delivered, put
from stream.batching.queue import Progress
from stream.batching.sending import Lane
from stream.batching.table import BatchTable

__all__ = ["Group", "Owner", "Settler", "Slice", "queued"]


@dataclass(slots=True, eq=False)
class Slice:
    """One partition's part in a group that is under way; `number` is the newest that its writes are staged under."""

    batch: RecordBatch
    ledger: Ledger
    progresses: Sequence[Progress]
    applied: Applied
    number: int
    span: Span
    fetched_ns: int

    @property
    def tp(self) -> TP:
        return self.batch.tp


@dataclass(slots=True, eq=False)
class Group:
    """Slices of distinct partitions that went through the step together.

    `began_ns` and `stepped_ns` are the step's begin and end on the performance counter, `sent_ns` is when all outputs
    were delivered, 0 before.
    """

    slices: Sequence[Slice]
    began_ns: int
    stepped_ns: int
    sent_ns: int = 0


class Owner(Protocol):
    """Who knows what is still to be done, and hears what became of it."""

    def has_failed(self) -> bool:
        """Whether nothing may go on."""
        ...

    def is_current(self, ledger: Ledger) -> bool:
        """Whether what this ledger stands for may still be written."""
        ...

    def lose(self, slice_: Slice) -> None:
        """Somebody else writes the changelog of this partition now."""
        ...

    def settled(self, slice_: Slice, timings: Timings) -> None:
        """A slice is done."""
        ...

    async def leave(self, group: Group) -> None:
        """A group is over, done or not."""
        ...

    async def fail(self, exc: BaseException) -> None:
        """Nothing goes on from here."""
        ...


def queued(app: faust.App, sends: Sequence[Send], lane: Lane = Lane.FIRST) -> list[list[Delivery]]:
    """Send what is to be delivered; what goes to one partition of a topic goes in one batch."""
    pairs: dict[tuple[str, int], list[tuple[bytes | None, bytes | None]]] = {}
    for send in sends:
        known = pairs.setdefault((send.topic, send.partition), send.pairs)
        if known is not send.pairs:
            pairs[send.topic, send.partition] = known + send.pairs
    deliveries = [put(app, *where, those, lane=lane) for where, those in pairs.items()]
    app.producer.sender.flush()
    return deliveries


class Settler:
    """Takes groups in the order of their steps, and settles them some at a time.

    Args:
        linger_s: how long a group waits at most for others, from the delivery of its outputs on.
        most: so many groups do not wait for more.
        later: what is to be delivered before the changelog, made of notes.
    """

    def __init__(
        self, app: faust.App, table: BatchTable, owner: Owner, *, linger_s: float, most: int, later: Later | None
    ) -> None:
        self._app = app
        self._table = table
        self._owner = owner
        self._linger_s = linger_s
        self._most = most
        self._later = later
        self._groups: list[Group] = []
        self._n_answered = 0
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, group: Group) -> None:
        """A group was stepped, and its outputs are under way."""
        self._groups.append(group)

    def answered(self, group: Group) -> None:
        """All outputs of a group were delivered."""
        group.sent_ns = time.perf_counter_ns()
        self._n_answered += 1
        if (
            self._linger_s <= 0
            or self._n_answered >= self._most
            or self._owner.has_failed()
            or any(slice_.ledger.closed for slice_ in group.slices)
        ):
            self._due.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger_s, self._due.set)

    def hurry(self) -> None:
        """Somebody waits for what is under way: a partition is given back."""
        self._due.set()

    async def run(self) -> None:
        """Settle what is due, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if groups := self._take():
                await self._settle(groups)

    def _take(self) -> list[Group]:
        taken: list[Group] = []
        kept: list[Group] = []
        held_up: set[TP] = set()
        for group in self._groups:
            tps = {slice_.tp for slice_ in group.slices}
            if group.sent_ns > 0 and held_up.isdisjoint(tps):
                taken.append(group)
            else:
                kept.append(group)
                held_up |= tps
        self._groups = kept
        self._n_answered -= len(taken)
        return taken

    async def _settle(self, groups: Sequence[Group]) -> None:
        owner = self._owner
        try:
            of_ledger: dict[Ledger, list[Slice]] = {}
            for group in groups:
                for slice_ in group.slices:
                    of_ledger.setdefault(slice_.ledger, []).append(slice_)
            # What is somebody else's now is left: they read it again.
            current = [slices for ledger, slices in of_ledger.items() if owner.is_current(ledger)]
            if owner.has_failed():
                return
            if self._later is not None:
                noted = [
                    send for slices in current if (notes := _notes(slices)) for send in self._later(slices[0].tp, notes)
                ]
                for deliveries in queued(self._app, noted, Lane.BEHIND):
                    await delivered(deliveries)
                current = [slices for slices in current if owner.is_current(slices[0].ledger)]
                if owner.has_failed():
                    return
            logged = [(slices, *await self._log(slices)) for slices in current]
            self._app.producer.sender.flush()
            finished = {
                id(slice_)
                for slices, writes, deliveries in logged
                if await self._written(slices, writes, deliveries)
                for slice_ in slices
            }
            done_ns = time.perf_counter_ns()
            for group in groups:
                for slice_ in group.slices:
                    if id(slice_) in finished:
                        owner.settled(slice_, _timings(group, slice_, done_ns))
        except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
            await owner.fail(exc)
        finally:
            for group in groups:
                await owner.leave(group)

    async def _log(self, slices: Sequence[Slice]) -> tuple[dict[bytes, bytes | None], list[Delivery] | None]:
        """Queue what slices of one ledger write for the changelog; no deliveries if somebody else writes there."""
        writes = slices[0].applied.writes
        if len(slices) > 1:
            writes = {key: value for slice_ in slices for key, value in slice_.applied.writes.items()}
        if not writes:
            return writes, []
        partition = slices[0].tp.partition
        try:
            writer = await self._table.writer(partition, slices[0].ledger.generation)
        except FencedError:
            return writes, None
        topic = self._table.changelog_topic_name
        return writes, put(self._app, topic, partition, writes.items(), writer, Lane.BEHIND)

    async def _written(
        self, slices: Sequence[Slice], writes: dict[bytes, bytes | None], deliveries: list[Delivery] | None
    ) -> bool:
        """Wait until the changelog has it; False if it was refused because somebody else writes there now."""
        if writes:
            try:
                offsets = None if deliveries is None else await delivered(deliveries)
            except ProducerFenced:
                offsets = None
            if offsets is None:
                self._owner.lose(slices[0])
                return False
            self._table.settle(slices[0].tp.partition, slices[-1].number, writes, *offsets)
        for slice_ in slices:
            slice_.span.done = True
        return True


def _notes(slices: Sequence[Slice]) -> list[Any]:
    return [slice_.applied.note for slice_ in slices if slice_.applied.note is not None]


def _timings(group: Group, slice_: Slice, done_ns: int) -> Timings:
    marks = (slice_.fetched_ns, group.began_ns, group.stepped_ns, group.sent_ns, done_ns)
    queue_us, step_us, sends_us, changelog_us = ((later - earlier) // 1000 for earlier, later in pairwise(marks))
    return Timings(step_us, sends_us, changelog_us, queue_us)

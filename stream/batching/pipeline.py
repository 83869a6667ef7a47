"""From batches of input to delivered output, changelog and commit.

For each slice of a batch: step -> sends delivered -> changelog delivered -> table updated -> acknowledged. What waits
in several partitions at once goes through as one group: one call of the step, one produce request, one task. Several
groups are in flight, and the slices of one partition finish in order:

    partition 0   step a | step b |           step c |
    sends               a ........|b ..........       |c ...
    changelog                      a ....|     b ....|      c ....
    committable                           a          b           c

Why this order, by where a crash may fall. Outputs leave at once: nothing but their own delivery is between a step and
its recommendations.

    before the outputs are delivered         the batch is read again and gives the same outputs, with the same ids
    between outputs and changelog            the same; what was delivered comes twice, and consumers drop it by its id
    between changelog and commit             read again, and skipped: the state holds the offset; its outputs were there

So the changelog has to wait for what must not be missing once the state says "applied" - recommendations, dead letters,
and the activity, whose offsets count once however often they come. It need not wait for other groups' outputs, and the
next step reads the state from the overlay meanwhile.

A changelog record of somebody who no longer owns the partition is refused, see `fencing`. An exception of `step`, or a
delivery that failed for good, crashes the app: nothing behind it is acknowledged, so nothing is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import faust
from aiokafka.errors import ProducerFenced
from faust.types import TP, EventT, StreamT

from stream.batching.batches import Applied, RecordBatch, Step, Timings
from stream.batching.consumer import BatchConsumer, BatchMessage
from stream.batching.fencing import FencedError
from stream.batching.ledger import Ledger, Span
from stream.batching.producing import Delivery, delivered, produce
from stream.batching.queue import Progress, Queue, Waiting
from stream.batching.table import BatchTable

__all__ = ["Prepare", "run_batches"]

Prepare = Callable[[TP, int], Awaitable[None]]
OnDone = Callable[[RecordBatch, Timings], None]

_TURNS: Final = 16
"""Turns of the event loop that a group waits at most for what the same fetch has brought for other partitions."""


async def run_batches(
    app: faust.App,
    stream: StreamT[Any],
    table: BatchTable,
    step: Step,
    *,
    prepare: Prepare | None = None,
    max_events: int = 256,
    inflight: int = 8,
    on_done: OnDone | None = None,
) -> None:
    """Apply `step` to every batch of `stream`, a stream over a `batch_topic`; the whole body of an agent.

    `step` gets at most one batch of each partition, `max_events` records in all, those of a partition in offset order,
    and must not keep what it loads with; `one_by_one` makes one of a function that knows single batches.
    `prepare(tp, next_offset)` is awaited before the first batch of each partition in each generation, without holding
    up other partitions; it is cancelled when the partition is given back meanwhile. `inflight` bounds the groups
    between step and acknowledgement. `on_done` is called for each acknowledged slice.

    Crashes the app with ValueError if the changelog of `table` has another number of partitions than the input.
    """
    run = _Run(app, stream, table, step, prepare, max_events, asyncio.Semaphore(inflight), on_done)
    run.spawn(run.step_on())
    try:
        async for event in stream.noack().events():
            await run.dispatch(event)
    except Exception as exc:
        await run.fail(exc)
        raise
    finally:
        run.cancel()


@dataclass(slots=True, eq=False)
class _Slice:
    """One partition's part in a group that is under way."""

    partition: _Partition
    batch: RecordBatch
    progresses: Sequence[Progress]
    applied: Applied
    number: int
    span: Span


@dataclass(slots=True, eq=False)
class _Run:
    app: faust.App
    stream: StreamT[Any]
    table: BatchTable
    step: Step
    prepare: Prepare | None
    max_events: int
    slots: asyncio.Semaphore
    on_done: OnDone | None
    failed: bool = False
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    partitions: dict[TP, _Partition] = field(default_factory=dict)
    ready: dict[_Partition, None] = field(default_factory=dict)
    """Partitions in which something waits, in the order of their turns."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def consumer(self) -> BatchConsumer:
        consumer: BatchConsumer = self.app.consumer
        return consumer

    async def dispatch(self, event: EventT[Any]) -> None:
        """Hand a batch to its partition, or drop it if it is not the one expected (it is then read again)."""
        message: BatchMessage = event.value
        tp = message.tp
        ledger = self.consumer.ledger(tp)
        if ledger is None or ledger.generation != message.generation_id or self.failed:
            await self.stream.ack(event)
            return
        if not ledger.take(message.first, message.offset, message.epoch):
            if not ledger.closed and message.epoch == ledger.epoch:
                self.consumer.log.info("%s: batch before offset %s was dropped: reading again", tp, message.first)
                self.consumer.rewind(tp, ledger)
            await self.stream.ack(event)
            return
        partition = self.partitions.get(tp)
        if partition is None or partition.ledger is not ledger:
            self.check_partition_counts(tp.topic)
            partition = self.partitions[tp] = _Partition(self, tp, ledger)
            self.spawn(partition.run())
        partition.queue.inbox.put_nowait(event)

    def check_partition_counts(self, topic: str) -> None:
        """Refuse a changelog whose partitions do not match the input's: Faust would assign them apart."""
        changelog = self.table.changelog_topic_name
        n_input, n_changelog = (self.consumer.topic_partitions(name) for name in (topic, changelog))
        if None not in (n_input, n_changelog) and n_input != n_changelog:
            raise ValueError(
                f"topic {topic!r} has {n_input} partitions and changelog {changelog!r} has {n_changelog}: they must "
                "have the same number, since the state of a partition comes from that partition only"
            )

    def spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def fail(self, exc: BaseException) -> None:
        if not self.failed:
            self.failed = True
            self.wake.set()
            await self.app.crash(exc)

    def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()

    async def step_on(self) -> None:
        """Take what waits in all partitions through the step, group by group."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self.ready:
                await self._gather()
                await self.slots.acquire()
                try:
                    await self._step_group()
                except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
                    await self.fail(exc)

    async def _gather(self) -> None:
        """Let the other partitions' part of a fetch arrive: one group costs little more than a single batch."""
        for _ in range(_TURNS):
            if not self.consumer.is_handing_out:
                break
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # from the inbox of a partition to its turn

    async def _step_group(self) -> None:
        """Step once and start delivering; gives the slot back where nothing is to be delivered."""
        group: list[tuple[_Partition, RecordBatch, list[Progress]]] = []
        left: list[tuple[_Partition, Waiting]] = []
        try:
            sends, slices, began_ns, stepped_ns = await self._stepped(group, left)
        except BaseException:
            self.slots.release()
            raise
        finally:
            for partition, waiting in left:
                await partition.taken(waiting)
                partition.go_on()
        if not slices:
            self.slots.release()
            return
        before = {slice_.partition.tail for slice_ in slices if slice_.partition.tail is not None}
        tail = self.spawn(self._deliver(slices, sends, before, began_ns, stepped_ns))
        for slice_ in slices:
            slice_.partition.tail = tail
        await asyncio.sleep(0)  # deliveries are due in between

    async def _stepped(
        self, group: list[tuple[_Partition, RecordBatch, list[Progress]]], left: list[tuple[_Partition, Waiting]]
    ) -> tuple[list[list[Delivery]], list[_Slice], int, int]:
        room = self.max_events
        for partition in list(self.ready):
            if partition.ledger.closed or self.failed:
                partition.go_on()
            elif room > 0:
                batch, progresses, emptied = partition.queue.slice(room)
                room -= len(batch.records)
                group.append((partition, batch, progresses))
                left += [(partition, waiting) for waiting in emptied]
                del self.ready[partition]
                self.ready[partition] = None  # behind the others, should something be left
        if not group:
            return [], [], 0, 0
        began_ns = time.perf_counter_ns()
        applied = self.step(
            [batch for _, batch, _ in group],
            [partial(self.table.load, partition.tp.partition) for partition, _, _ in group],
        )
        stepped_ns = time.perf_counter_ns()
        slices = [
            _Slice(
                partition,
                batch,
                progresses,
                each,
                self.table.stage(partition.tp.partition, each.writes),
                partition.ledger.begin(batch.first, batch.last),
            )
            for (partition, batch, progresses), each in zip(group, applied, strict=True)
        ]
        for slice_ in slices:
            for progress in slice_.progresses:
                progress.n_pending += 1
        try:
            # To one partition of a topic in one batch: aiokafka sends one at a time.
            pairs: dict[tuple[str, int], list[tuple[bytes | None, bytes | None]]] = {}
            for each in applied:
                for send in each.sends:
                    pairs.setdefault((send.topic, send.partition), []).extend(send.pairs)
            sends = [await produce(self.app, *where, those) for where, those in pairs.items()]
        except BaseException:
            await self._leave(slices)
            raise
        return sends, slices, began_ns, stepped_ns

    async def _deliver(
        self,
        slices: Sequence[_Slice],
        sends: Sequence[Sequence[Delivery]],
        before: set[asyncio.Task[None]],
        began_ns: int,
        stepped_ns: int,
    ) -> None:
        try:
            for deliveries in sends:
                await delivered(deliveries)
            sent_ns = time.perf_counter_ns()
            if before := {task for task in before if not task.done()}:
                await asyncio.wait(before)
            if self.failed:
                return
            # What is somebody else's now is left: they read it again.
            current = [slice_ for slice_ in slices if self.consumer.is_current(slice_.partition.ledger)]
            logged = [await self._log(slice_) for slice_ in current]
            finished = [
                slice_
                for slice_, deliveries in zip(current, logged, strict=True)
                if await self._settle(slice_, deliveries)
            ]
            done_ns = time.perf_counter_ns()
            if (on_done := self.on_done) is not None:
                times_us = (stepped_ns - began_ns) // 1000, (sent_ns - stepped_ns) // 1000, (done_ns - sent_ns) // 1000
                for slice_ in finished:
                    queue_us = (began_ns - slice_.progresses[0].event.value.fetched_ns) // 1000
                    on_done(slice_.batch, Timings(*times_us, queue_us))
        except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
            await self.fail(exc)
        finally:
            self.slots.release()
            await self._leave(slices)

    async def _log(self, slice_: _Slice) -> list[Delivery] | None:
        """Queue what a slice writes for the changelog; None if somebody else writes there now."""
        writes, partition = slice_.applied.writes, slice_.batch.tp.partition
        if not writes:
            return []
        try:
            writer = await self.table.writer(partition, slice_.partition.ledger.generation)
        except FencedError:
            return None
        return await produce(self.app, self.table.changelog_topic_name, partition, writes.items(), writer)

    async def _settle(self, slice_: _Slice, deliveries: list[Delivery] | None) -> bool:
        """Wait until the changelog has it; False if it was refused because somebody else writes there now."""
        writes = slice_.applied.writes
        if writes:
            try:
                written = None if deliveries is None else await delivered(deliveries)
            except ProducerFenced:
                written = None
            if written is None:
                self._lose(slice_.partition)
                return False
            self.table.settle(slice_.batch.tp.partition, slice_.number, writes, *written)
        slice_.span.done = True
        return True

    def _lose(self, partition: _Partition) -> None:
        """The group has given a partition to somebody else, and will tell us so: nothing more is done to it."""
        ledger = partition.ledger
        if not ledger.closed:
            self.consumer.log.warning("%s: somebody else has taken it over: waiting for a rebalance", partition.tp)
            ledger.close()
            self.spawn(self._expect_rebalance(partition))

    async def _expect_rebalance(self, partition: _Partition) -> None:
        await asyncio.sleep(2 * self.app.conf.broker_session_timeout)
        if self.consumer.is_current(partition.ledger):
            await self.fail(
                FencedError(f"{partition.tp}: a process that is not in this group writes its changelog as well")
            )

    async def _leave(self, slices: Sequence[_Slice]) -> None:
        for slice_ in slices:
            for progress in slice_.progresses:
                await self.left(progress)

    async def left(self, progress: Progress) -> None:
        """One slice of a batch, or what waited of it, is over."""
        progress.n_pending -= 1
        if progress.n_pending == 0:
            await self.stream.ack(progress.event)


class _Partition:
    """Brings the batches of one partition to their turns in one generation, one after the other."""

    def __init__(self, run: _Run, tp: TP, ledger: Ledger) -> None:
        self._run = run
        self.tp = tp
        self.ledger = ledger
        self.queue = Queue(tp, ledger.generation)
        self.tail: asyncio.Task[None] | None = None
        """The delivery of the newest slice."""
        self._over: asyncio.Future[None] | None = None

    async def run(self) -> None:
        run, ledger, queue = self._run, self.ledger, self.queue
        ledger.on_close(self._on_close)
        prepare = run.prepare
        prepared = prepare is None
        try:
            while (event := await queue.inbox.get()) is not None:
                queue.add(event)
                try:
                    if prepare is not None and not prepared:
                        prepared = await self._prepare(prepare, event.value.first)
                    if prepared:
                        await self._turns()
                finally:
                    while queue.waiting:
                        await self.taken(queue.waiting.popleft())
            while not queue.inbox.empty():  # given back: the next owner starts at the commit
                if (event := queue.inbox.get_nowait()) is not None:
                    await run.left(Progress(event))
        except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
            await run.fail(exc)

    def _on_close(self) -> None:
        self.queue.inbox.put_nowait(None)
        self._run.wake.set()

    async def _prepare(self, prepare: Prepare, next_offset: int) -> bool:
        """Whether it ran to its end; False if the partition was given back meanwhile."""
        preparing = asyncio.ensure_future(prepare(self.tp, next_offset))

        def cancel() -> None:
            preparing.cancel()

        self.ledger.on_close(cancel)
        try:
            await preparing
        except asyncio.CancelledError:
            if not self.ledger.closed:
                preparing.cancel()
                raise
        return not self.ledger.closed

    async def _turns(self) -> None:
        """Until nothing waits any more, or what waits is to be dropped."""
        self._over = asyncio.get_running_loop().create_future()
        self._run.ready[self] = None
        self._run.wake.set()
        try:
            await self._over
        finally:
            self._run.ready.pop(self, None)

    def go_on(self) -> None:
        """Stay in turn while something waits and may be applied."""
        if not self.queue.waiting or self.ledger.closed or self._run.failed:
            self._run.ready.pop(self, None)
            if self._over is not None and not self._over.done():
                self._over.set_result(None)

    async def taken(self, waiting: Waiting) -> None:
        """Nothing of a batch waits any more: there is room for another."""
        await self._run.left(waiting.progress)
        self._run.consumer.on_applied(self.ledger)

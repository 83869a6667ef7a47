"""From batches of input to delivered output, changelog and commit.

For each slice of a batch: step -> sends delivered -> changelog delivered -> table updated -> acknowledged. Several
slices are in flight, and those of one partition finish in order:

    partition 0   step a | step b |           step c |
    sends               a ........|b ..........       |c ...
    changelog                      a ....|     b ....|      c ....
    committable                           a          b           c

An exception of `step`, or a delivery that failed for good, crashes the app: nothing behind it is acknowledged, so
nothing is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import faust
from aiokafka.structs import ConsumerRecord
from faust.types import TP, EventT, StreamT

from stream.batching.consumer import BatchConsumer, BatchMessage
from stream.batching.ledger import Ledger, Span
from stream.batching.producing import Delivery, delivered, produce
from stream.batching.table import BatchTable

__all__ = ["Applied", "Load", "Prepare", "RecordBatch", "Send", "Step", "Timings", "run_batches"]


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
    """What a step made of a batch: new values per key (None deletes), and what is to be delivered before them."""

    writes: dict[bytes, bytes | None] = field(default_factory=dict)
    sends: list[Send] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a slice went, in microseconds.

    `step_us`: in `step`. `sends_us`: from its end until all sends were delivered. `changelog_us`: from there until
    the changelog was, waiting for the slices before included. `queue_us`: before it, from the fetch of its first record
    to the step.
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
Step = Callable[[RecordBatch, Load], Applied]
Prepare = Callable[[TP, int], Awaitable[None]]
OnDone = Callable[[RecordBatch, Timings], None]


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

    `step` is called in offset order per partition, with at most `max_events` records, and must not keep `load`.
    `prepare(tp, next_offset)` is awaited before the first batch of each partition in each generation, without holding
    up other partitions; it is cancelled when the partition is given back meanwhile. `inflight` bounds the slices
    between step and acknowledgement, over all partitions. `on_done` is called for each acknowledged slice.

    Crashes the app with ValueError if the changelog of `table` has another number of partitions than the input.
    """
    run = _Run(app, stream, table, step, prepare, max_events, asyncio.Semaphore(inflight), on_done)
    try:
        async for event in stream.noack().events():
            await run.dispatch(event)
    except Exception as exc:
        await run.fail(exc)
        raise
    finally:
        run.cancel()


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
        partition.inbox.put_nowait(event)

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
            await self.app.crash(exc)

    def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()


@dataclass(slots=True, eq=False)
class _Progress:
    """A batch that Faust waits for: acknowledged to it when its last slice has left."""

    event: EventT[Any]
    n_pending: int = 1


@dataclass(slots=True, eq=False)
class _Waiting:
    """What is left of a batch that waits for its turn; `first` is the next offset to be covered."""

    progress: _Progress
    records: Sequence[ConsumerRecord]
    first: int


class _Partition:
    """Applies the batches of one partition in one generation, one after the other."""

    def __init__(self, run: _Run, tp: TP, ledger: Ledger) -> None:
        self._run = run
        self._tp = tp
        self.ledger = ledger
        self.inbox: asyncio.Queue[EventT[Any] | None] = asyncio.Queue()
        self._tail: asyncio.Task[None] | None = None
        self._waiting: deque[_Waiting] = deque()

    async def run(self) -> None:
        run, ledger = self._run, self.ledger
        ledger.on_close(lambda: self.inbox.put_nowait(None))
        prepare = run.prepare
        prepared = prepare is None
        try:
            while (event := await self.inbox.get()) is not None:
                self._waiting.append(_Waiting(_Progress(event), event.value.records, event.value.first))
                try:
                    if prepare is not None and not prepared:
                        prepared = await self._prepare(prepare, event.value.first)
                    if prepared:
                        await self._apply()
                finally:
                    while self._waiting:
                        await self._taken(self._waiting.popleft())
            while not self.inbox.empty():  # given back: the next owner starts at the commit
                if (event := self.inbox.get_nowait()) is not None:
                    await self._left(_Progress(event))
        except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
            await run.fail(exc)

    async def _prepare(self, prepare: Prepare, next_offset: int) -> bool:
        """Whether it ran to its end; False if the partition was given back meanwhile."""
        preparing = asyncio.ensure_future(prepare(self._tp, next_offset))

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

    async def _apply(self) -> None:
        """Apply what waits, and what comes meanwhile, in slices as large as the load makes them."""
        run, ledger, partition = self._run, self.ledger, self._tp.partition

        def load(keys: Sequence[bytes]) -> list[bytes | None]:
            return run.table.load(partition, keys)

        while self._waiting:
            await run.slots.acquire()
            if ledger.closed or run.failed:
                run.slots.release()
                return
            batch, progresses, left = self._slice()
            fetched_ns = progresses[0].event.value.fetched_ns
            began_ns = time.perf_counter_ns()
            try:
                applied = run.step(batch, load)
                stepped_ns = time.perf_counter_ns()
                number = run.table.stage(partition, applied.writes)
                span = ledger.begin(batch.first, batch.last)
                sends = [await produce(run.app, send.topic, send.partition, send.pairs) for send in applied.sends]
            except BaseException:
                run.slots.release()
                for waiting in left:
                    await self._taken(waiting)
                raise
            for progress in progresses:
                progress.n_pending += 1
            self._tail = run.spawn(
                self._deliver(
                    progresses, batch, applied, sends, number, span, self._tail, fetched_ns, began_ns, stepped_ns
                )
            )
            for waiting in left:
                await self._taken(waiting)
            await asyncio.sleep(0)  # other partitions' slices, and the deliveries, are due in between

    def _slice(self) -> tuple[RecordBatch, list[_Progress], list[_Waiting]]:
        """The next slice, the batches that have a part in it, and those of them of which nothing is left.

        What came while the slice waited for its turn goes along: one slice costs little more than another, so the
        longer the queue, the larger the slices.
        """
        max_events, inbox, waiting = self._run.max_events, self.inbox, self._waiting
        n_waiting = sum(len(each.records) for each in waiting)
        while n_waiting < max_events and not inbox.empty():
            event = inbox.get_nowait()
            if event is None:  # given back: `run` is to see that
                inbox.put_nowait(None)
                break
            waiting.append(_Waiting(_Progress(event), event.value.records, event.value.first))
            n_waiting += len(event.value.records)
        first, records = waiting[0].first, list[ConsumerRecord]()
        progresses, left = list[_Progress](), list[_Waiting]()
        while waiting and len(records) < max_events:
            each, room = waiting[0], max_events - len(records)
            progresses.append(each.progress)
            if len(each.records) <= room:
                records.extend(each.records)
                left.append(waiting.popleft())
            else:
                records.extend(each.records[:room])
                each.records = each.records[room:]
                each.first = records[-1].offset + 1
        batch = RecordBatch(self._tp, first, records[-1].offset, records, self.ledger.generation)
        return batch, progresses, left

    async def _taken(self, waiting: _Waiting) -> None:
        """Nothing of a batch waits any more: there is room for another."""
        await self._left(waiting.progress)
        self._run.consumer.on_applied(self.ledger)

    async def _deliver(
        self,
        progresses: Sequence[_Progress],
        batch: RecordBatch,
        applied: Applied,
        sends: list[list[Delivery]],
        number: int,
        span: Span,
        before: asyncio.Task[None] | None,
        fetched_ns: int,
        began_ns: int,
        stepped_ns: int,
    ) -> None:
        run, ledger, partition = self._run, self.ledger, self._tp.partition
        try:
            for deliveries in sends:
                await delivered(deliveries)
            sent_ns = time.perf_counter_ns()
            if before is not None and not before.done():
                await asyncio.wait({before})
            if run.failed or not run.consumer.is_current(ledger):
                return  # somebody else's now: it reads this batch again
            if applied.writes:
                changelog = run.table.changelog_topic_name
                first, last = await delivered(await produce(run.app, changelog, partition, applied.writes.items()))
                run.table.settle(partition, number, applied.writes, first, last)
            span.done = True
            if run.on_done is not None:
                done_ns = time.perf_counter_ns()
                run.on_done(
                    batch,
                    Timings(
                        (stepped_ns - began_ns) // 1000,
                        (sent_ns - stepped_ns) // 1000,
                        (done_ns - sent_ns) // 1000,
                        (began_ns - fetched_ns) // 1000,
                    ),
                )
        except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
            await run.fail(exc)
        finally:
            run.slots.release()
            for progress in progresses:
                await self._left(progress)

    async def _left(self, progress: _Progress) -> None:
        progress.n_pending -= 1
        if progress.n_pending == 0:
            await self._run.stream.ack(progress.event)

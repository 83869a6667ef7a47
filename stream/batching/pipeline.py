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
    the changelog was, waiting for the slices before included.
    """

    step_us: int
    sends_us: int
    changelog_us: int


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


class _Partition:
    """Applies the batches of one partition in one generation, one after the other."""

    def __init__(self, run: _Run, tp: TP, ledger: Ledger) -> None:
        self._run = run
        self._tp = tp
        self.ledger = ledger
        self.inbox: asyncio.Queue[EventT[Any] | None] = asyncio.Queue()
        self._tail: asyncio.Task[None] | None = None

    async def run(self) -> None:
        run, ledger = self._run, self.ledger
        ledger.on_close(lambda: self.inbox.put_nowait(None))
        prepare = run.prepare
        prepared = prepare is None
        try:
            while (event := await self.inbox.get()) is not None:
                progress = _Progress(event)
                try:
                    if prepare is not None and not prepared:
                        prepared = await self._prepare(prepare, event.value.first)
                    if prepared:
                        await self._apply(progress, event.value)
                finally:
                    await self._left(progress)
                    run.consumer.on_applied(ledger)
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

    async def _apply(self, progress: _Progress, message: BatchMessage) -> None:
        run, ledger, partition = self._run, self.ledger, self._tp.partition
        records, first, n = message.records, message.first, run.max_events

        def load(keys: Sequence[bytes]) -> list[bytes | None]:
            return run.table.load(partition, keys)

        for start in range(0, len(records), n):
            await run.slots.acquire()
            if ledger.closed or run.failed:
                run.slots.release()
                return
            chunk = records if len(records) <= n else records[start : start + n]
            batch = RecordBatch(self._tp, first, chunk[-1].offset, chunk, ledger.generation)
            first = batch.last + 1
            began_ns = time.perf_counter_ns()
            try:
                applied = run.step(batch, load)
                stepped_ns = time.perf_counter_ns()
                number = run.table.stage(partition, applied.writes)
                span = ledger.begin(batch.first, batch.last)
                sends = [await produce(run.app, send.topic, send.partition, send.pairs) for send in applied.sends]
            except BaseException:
                run.slots.release()
                raise
            progress.n_pending += 1
            self._tail = run.spawn(
                self._deliver(progress, batch, applied, sends, number, span, self._tail, began_ns, stepped_ns)
            )
            await asyncio.sleep(0)  # other partitions' slices, and the deliveries, are due in between

    async def _deliver(
        self,
        progress: _Progress,
        batch: RecordBatch,
        applied: Applied,
        sends: list[list[Delivery]],
        number: int,
        span: Span,
        before: asyncio.Task[None] | None,
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
                        (stepped_ns - began_ns) // 1000, (sent_ns - stepped_ns) // 1000, (done_ns - sent_ns) // 1000
                    ),
                )
        except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
            await run.fail(exc)
        finally:
            run.slots.release()
            await self._left(progress)

    async def _left(self, progress: _Progress) -> None:
        progress.n_pending -= 1
        if progress.n_pending == 0:
            await self._run.stream.ack(progress.event)

"""From batches of input to delivered output, changelog and commit.

For each slice of a batch: step -> sends delivered -> changelog delivered -> table updated -> acknowledged. What waits
in several partitions at once goes through as one group: one call of the step, one produce request, one task. Several
groups are in flight, and the slices of one partition finish in order:

    partition 0   step a | step b |           step c |
    sends               a ........|b ..........       |c ...
    changelog                      lingers      ab ....|  lingers      c ....
    committable                                        ab                  c

Why this order, by where a crash may fall. Outputs leave at once: nothing but their own delivery is between a step and
its recommendations.

    before the outputs are delivered         the batch is read again and gives the same outputs, with the same ids
    between outputs and changelog            the same; what was delivered comes twice, and consumers drop it by its id
    between changelog and commit             read again, and skipped: the state holds the offset; its outputs were there

So the changelog has to wait for what must not be missing once the state says "applied" - recommendations, dead letters,
and the activity, whose offsets count once however often they come. It need not wait for other groups' outputs, and the
next step reads the state from the overlay meanwhile. Since nobody waits for it, it goes out less often, see `settling`.

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
from faust.types import TP, EventT, StreamT

from stream.batching.batches import Applied, FetchedBatch, Later, RecordBatch, Step, Timings
from stream.batching.consumer import BatchConsumer, BatchMessage
from stream.batching.fencing import FencedError
from stream.batching.ledger import Ledger
from stream.batching.producing import Delivery, delivered
from stream.batching.queue import Progress, Queue, Waiting
from stream.batching.settling import Group, Settler, Slice, queued
from stream.batching.table import BatchTable

__all__ = ["Prepare", "run_batches"]

Prepare = Callable[[TP, int], Awaitable[None]]
OnDone = Callable[[RecordBatch, Timings], None]

_INFLIGHT: Final = 16
_LINGER_S: Final = 0.02


async def run_batches(
    app: faust.App,
    stream: StreamT[Any],
    table: BatchTable,
    step: Step,
    *,
    prepare: Prepare | None = None,
    max_events: int = 256,
    inflight: int = _INFLIGHT,
    linger_s: float = _LINGER_S,
    later: Later | None = None,
    on_done: OnDone | None = None,
) -> None:
    """Apply `step` to every batch of `stream`, a stream over a `batch_topic`; the whole body of an agent.

    `step` gets at most one batch of each partition, `max_events` records in all, those of a partition in offset order,
    and must not keep what it loads with; `one_by_one` makes one of a function that knows single batches.
    `prepare(tp, next_offset)` is awaited before the first batch of each partition in each generation, without holding
    up other partitions; it is cancelled when the partition is given back meanwhile. `inflight` bounds the groups
    between step and acknowledgement. `linger_s` is how long a group whose outputs were delivered waits for others
    before its changelog is written; `later` makes what has to be delivered just before that. `on_done` is called for
    each acknowledged slice.

    Crashes the app with ValueError if the changelog of `table` has another number of partitions than the input.
    """
    run = _Run(app, stream, table, step, prepare, max_events, asyncio.Semaphore(inflight), on_done)
    run.settler = Settler(app, table, run, linger_s=linger_s, most=max(inflight // 2, 1), later=later)
    run.spawn(run.step_on())
    run.spawn(run.settler.run())
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
    settler: Settler = field(init=False)
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

    # -- arriving ----------------------------------------------------------------------------------------------------

    async def dispatch(self, event: EventT[Any]) -> None:
        """Hand each batch of a fetch to its partition, or drop it if it is not the one expected: it is read again."""
        message: BatchMessage = event.value
        progress = Progress(event, len(message.batches))
        for batch in message.batches:
            if not self._take(batch, progress):
                await self.left(progress)

    def _take(self, batch: FetchedBatch, progress: Progress) -> bool:
        tp, ledger = batch.tp, self.consumer.ledger(batch.tp)
        if ledger is None or ledger.generation != batch.generation or self.failed:
            return False
        if not ledger.take(batch.first, batch.last, batch.epoch):
            if not ledger.closed and batch.epoch == ledger.epoch:
                self.consumer.log.info("%s: batch before offset %s was dropped: reading again", tp, batch.first)
                self.consumer.rewind(tp, ledger)
            return False
        self.consumer.on_taken(tp)
        partition = self.partitions.get(tp)
        if partition is None or partition.ledger is not ledger:
            self.check_partition_counts(tp.topic)
            partition = self.partitions[tp] = _Partition(self, tp, ledger)
        partition.add(batch, progress)
        return True

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
        """Run a coroutine until it ends or everything does."""
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def cancel(self) -> None:
        """End all that was spawned."""
        for task in self.tasks:
            task.cancel()

    # -- stepping ----------------------------------------------------------------------------------------------------

    async def step_on(self) -> None:
        """Take what waits in all partitions through the step, group by group."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self.ready:
                await self.slots.acquire()
                try:
                    await self._step_group()
                except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
                    await self.fail(exc)

    async def _step_group(self) -> None:
        """Step once and start delivering; gives the slot back where nothing is to be delivered."""
        left: list[tuple[_Partition, Waiting]] = []
        try:
            stepped = await self._stepped(left)
        except BaseException:
            self.slots.release()
            raise
        finally:
            for partition, waiting in left:
                await partition.taken(waiting)
        if stepped is None:
            self.slots.release()
            return
        self.spawn(self._answer(*stepped))
        await asyncio.sleep(0)  # deliveries are due in between

    async def _stepped(self, left: list[tuple[_Partition, Waiting]]) -> tuple[Group, list[list[Delivery]]] | None:
        room = self.max_events
        parts: list[tuple[_Partition, RecordBatch, list[Progress], int]] = []
        for partition in list(self.ready):
            if room == 0:
                break
            del self.ready[partition]
            batch, progresses, emptied, fetched_ns = partition.queue.slice(room)
            room -= len(batch.records)
            parts.append((partition, batch, progresses, fetched_ns))
            left += [(partition, waiting) for waiting in emptied]
            if partition.queue.waiting:
                self.ready[partition] = None  # behind the others
        if not parts:
            return None
        began_ns = time.perf_counter_ns()
        applied = self.step(
            [batch for _, batch, *_ in parts],
            [partial(self.table.load, partition.tp.partition) for partition, *_ in parts],
        )
        stepped_ns = time.perf_counter_ns()
        slices = [self._staged(*part, each) for part, each in zip(parts, applied, strict=True)]
        group = Group(slices, began_ns, stepped_ns)
        try:
            sends = queued(self.app, [send for each in applied for send in each.sends])
        except BaseException:
            await self._leave(group)
            raise
        self.settler.begin(group)
        return group, sends

    def _staged(
        self,
        partition: _Partition,
        batch: RecordBatch,
        progresses: Sequence[Progress],
        fetched_ns: int,
        applied: Applied,
    ) -> Slice:
        for progress in progresses:
            progress.n_pending += 1
        number = self.table.stage(batch.tp.partition, applied.writes)
        span = partition.ledger.begin(batch.first, batch.last)
        return Slice(batch, partition.ledger, progresses, applied, number, span, fetched_ns)

    async def _answer(self, group: Group, sends: Sequence[Sequence[Delivery]]) -> None:
        try:
            for deliveries in sends:
                await delivered(deliveries)
        except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
            await self.fail(exc)
        self.settler.answered(group)  # which does nothing for it once something has failed but leave it

    # -- what becomes of it, see `settling.Owner` --------------------------------------------------------------------

    def has_failed(self) -> bool:
        return self.failed

    def is_current(self, ledger: Ledger) -> bool:
        return self.consumer.is_current(ledger)

    def settled(self, slice_: Slice, timings: Timings) -> None:
        if self.on_done is not None:
            self.on_done(slice_.batch, timings)

    async def leave(self, group: Group) -> None:
        self.slots.release()
        await self._leave(group)

    async def fail(self, exc: BaseException) -> None:
        if self.failed:
            return
        self.failed = True
        self.ready.clear()
        for partition in list(self.partitions.values()):
            await partition.let_go()
        self.settler.hurry()
        await self.app.crash(exc)

    def lose(self, slice_: Slice) -> None:
        """The group has given a partition to somebody else, and will tell us so: nothing more is done to it."""
        ledger = slice_.ledger
        if not ledger.closed:
            self.consumer.log.warning("%s: somebody else has taken it over: waiting for a rebalance", slice_.tp)
            ledger.close()
            self.spawn(self._expect_rebalance(slice_.tp, ledger))

    async def _expect_rebalance(self, tp: TP, ledger: Ledger) -> None:
        await asyncio.sleep(2 * self.app.conf.broker_session_timeout)
        if self.consumer.is_current(ledger):
            await self.fail(FencedError(f"{tp}: a process that is not in this group writes its changelog as well"))

    async def _leave(self, group: Group) -> None:
        for slice_ in group.slices:
            for progress in slice_.progresses:
                await self.left(progress)

    async def left(self, progress: Progress) -> None:
        """One batch of a fetch waits no more, or one slice is over."""
        progress.n_pending -= 1
        if progress.n_pending == 0:
            await self.stream.ack(progress.event)


class _Partition:
    """What waits in one partition in one generation."""

    def __init__(self, run: _Run, tp: TP, ledger: Ledger) -> None:
        self._run = run
        self.tp = tp
        self.ledger = ledger
        self.queue = Queue(tp, ledger.generation)
        self._prepared = run.prepare is None
        self._preparing: asyncio.Task[None] | None = None
        ledger.on_close(self._on_close)

    def add(self, batch: FetchedBatch, progress: Progress) -> None:
        """A batch arrived."""
        self.queue.add(batch, progress)
        if self._prepared:
            self._run.ready[self] = None
            self._run.wake.set()
        elif self._preparing is None and self._run.prepare is not None:
            self._preparing = self._run.spawn(self._prepare(self._run.prepare, batch.first))

    async def _prepare(self, prepare: Prepare, next_offset: int) -> None:
        try:
            await prepare(self.tp, next_offset)
        except Exception as exc:  # noqa: BLE001  (whatever it is, it crashes the app)
            await self._run.fail(exc)
            return
        self._prepared = True
        if self.queue.waiting:
            self._run.ready[self] = None
            self._run.wake.set()

    def _on_close(self) -> None:
        """The partition is being given back: the next owner starts at the commit."""
        run = self._run
        if self._preparing is not None:
            self._preparing.cancel()
        run.ready.pop(self, None)
        run.spawn(self.let_go())
        run.settler.hurry()

    async def let_go(self) -> None:
        """What waits is not applied any more."""
        while self.queue.waiting:
            await self.taken(self.queue.waiting.popleft())

    async def taken(self, waiting: Waiting) -> None:
        """Nothing of a batch waits any more: there is room for another."""
        await self._run.left(waiting.progress)
        self._run.consumer.on_applied(self.ledger)

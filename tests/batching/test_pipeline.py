"""The order of delivery, with a broker whose answers the test gives by hand."""

# ruff: noqa: ARG001, ARG002, ARG005  (fakes take what the real ones take)

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream.batching import Applied, RecordBatch, Send, one_by_one, run_batches, settling
from stream.batching.batches import FetchedBatch
from stream.batching.ledger import Admission, Ledger

INPUT = TP("in", 0)


@dataclass(eq=False)
class Message:
    """A fetch; for short, named by the last offset of its first batch."""

    batches: list[FetchedBatch]

    @property
    def offset(self) -> int:
        return self.batches[0].last


class FakeConsumer:
    """Ledgers, and whether this generation is still the current one."""

    def __init__(self) -> None:
        self.ledgers: dict[TP, Ledger] = {}
        self.current = True
        self.lost: set[Ledger] = set()
        self.rewound: list[int | None] = []
        self.log = SimpleNamespace(info=lambda *_: None)

    def open(self, tp: TP, generation: int = 1) -> Ledger:
        self.ledgers[tp] = ledger = Ledger(generation, 0)
        ledger.open = True
        return ledger

    def ledger(self, tp: TP) -> Ledger | None:
        return self.ledgers.get(tp)

    def is_current(self, ledger: Ledger) -> bool:
        return self.current and ledger not in self.lost

    def rewind(self, tp: TP, ledger: Ledger) -> None:
        self.rewound.append(ledger.rewind())

    n_partitions: int = 4

    def topic_partitions(self, topic: str) -> int:
        return self.n_partitions if topic == "changelog" else 4

    def on_applied(self, ledger: Ledger) -> None:
        ledger.n_waiting -= 1

    def on_taken(self, tp: TP) -> None:
        pass


class FakeTable:
    """Notes what is staged and settled."""

    changelog_topic_name = "changelog"

    def __init__(self) -> None:
        self.settled: list[dict[bytes, bytes | None]] = []

    def load(self, partition: int, keys: Any) -> list[bytes | None]:
        return [None] * len(keys)

    def stage(self, partition: int, writes: Any) -> int:
        return 0

    async def writer(self, partition: int, generation: int) -> Any:
        return None

    def settle(self, partition: int, number: int, writes: Any, first: int, last: int) -> None:
        self.settled.append(writes)


@dataclass
class World:
    """An app, its stream, and a broker that answers when told to."""

    queue: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    consumer: FakeConsumer = field(default_factory=FakeConsumer)
    table: FakeTable = field(default_factory=FakeTable)
    produced: list[tuple[str, int, list[Any], asyncio.Future[Any]]] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)
    crashes: list[BaseException] = field(default_factory=list)

    async def crash(self, exc: BaseException) -> None:
        self.crashes.append(exc)

    # the stream
    def noack(self) -> World:
        return self

    async def events(self) -> AsyncIterator[Any]:
        while True:
            yield await self.queue.get()

    async def ack(self, event: Any) -> None:
        self.acked.append(event.value.offset)

    # the broker
    producer = SimpleNamespace(sender=SimpleNamespace(flush=lambda: None))

    def produce(
        self, app: Any, topic: str, partition: int, pairs: Any, writer: Any = None, lane: Any = None
    ) -> list[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.produced.append((topic, partition, list(pairs), future))
        return [SimpleNamespace(future=future, n_records=len(self.produced[-1][2]))]

    def pending(self, topic: str) -> list[asyncio.Future[Any]]:
        return [future for name, *_, future in self.produced if name == topic and not future.done()]

    async def answer(self, topic: str, which: int = 0) -> None:
        self.pending(topic)[which].set_result(0)
        await settle_down()

    # the input
    async def arrive(self, first: int, n: int, tp: TP = INPUT) -> None:
        ledger = self.consumer.ledgers[tp]
        admission, offset = ledger.admit(first, first + n - 1)
        assert admission is Admission.DELIVER
        await self.put(offset, n, ledger, tp)

    async def put(self, first: int, n: int, ledger: Ledger, tp: TP = INPUT) -> None:
        await self.put_all([fetched(tp, first, n, ledger)])

    async def put_all(self, batches: list[FetchedBatch]) -> None:
        """What one fetch brings."""
        self.queue.put_nowait(SimpleNamespace(value=Message(batches)))
        await settle_down()


def fetched(tp: TP, first: int, n: int, ledger: Ledger) -> FetchedBatch:
    records: list[Any] = [SimpleNamespace(offset=offset, key=b"k") for offset in range(first, first + n)]
    now_ns = time.perf_counter_ns()
    return FetchedBatch(tp, first, first + n - 1, records, ledger.generation, ledger.epoch, now_ns)


def admitted(ledger: Ledger, first: int, n: int = 10) -> Ledger:
    """The ledger, which knows of n more."""
    assert ledger.admit(first, first + n - 1) == (Admission.DELIVER, first)
    return ledger


async def settle_down() -> None:
    """Let everything that can run, run."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(settling, "put", world.produce)
    return world


Start = Callable[..., Any]


@pytest.fixture
async def start(world: World) -> AsyncIterator[Start]:
    """Run the pipeline in the background; the batches that the step saw."""
    running: list[asyncio.Task[None]] = []

    def go(step: Any = None, *, together: bool = False, linger_s: float = 0.0, **options: Any) -> list[RecordBatch]:
        seen: list[RecordBatch] = []

        def default(batch: RecordBatch, load: Any) -> Applied:
            seen.append(batch)
            return Applied({b"k": b"%d" % batch.last}, [Send("out", batch.tp.partition, [(b"k", b"o")])])

        called = step if together else one_by_one(default if step is None else step)
        running.append(
            asyncio.ensure_future(
                run_batches(world, world, world.table, called, linger_s=linger_s, **options)  # type: ignore[arg-type]
            )
        )
        return seen

    yield go
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_changelog_follows_outputs_and_acknowledgement_follows_the_changelog(world: World, start: Start) -> None:
    """out queued | out delivered -> changelog queued | changelog delivered -> settled, committable."""
    ledger = world.consumer.open(INPUT)
    start()
    await world.arrive(0, 10)
    assert [topic for topic, *_ in world.produced] == ["out"]
    await world.answer("out")
    assert [topic for topic, *_ in world.produced] == ["out", "changelog"]
    assert (world.table.settled, ledger.committable(), world.acked) == ([], None, [])
    await world.answer("changelog")
    assert (world.table.settled, ledger.committable(), world.acked) == ([{b"k": b"9"}], 10, [9])


async def test_slices_of_a_partition_finish_in_order_though_answers_come_out_of_order(
    world: World, start: Start
) -> None:
    """b's output is delivered before a's: b waits for a, and then they go together, with the newer value."""
    ledger = world.consumer.open(INPUT)
    start()
    await world.arrive(0, 10)
    await world.arrive(10, 10)
    await world.answer("out", 1)
    assert world.pending("changelog") == []
    await world.answer("out")
    assert [pairs for topic, _, pairs, _ in world.produced if topic == "changelog"] == [[(b"k", b"19")]]
    assert ledger.committable() is None
    await world.answer("changelog")
    assert ledger.committable() == 20


async def test_groups_linger_and_settle_together(world: World, start: Start) -> None:
    """a and b are answered: nothing is written before the linger is over, which here a third group ends."""
    ledger = world.consumer.open(INPUT)
    start(linger_s=3600.0, inflight=6)
    for first in (0, 10):
        await world.arrive(first, 10)
        await world.answer("out")
    assert (world.pending("changelog"), ledger.committable()) == ([], None)
    await world.arrive(20, 10)
    await world.answer("out")
    assert [pairs for topic, _, pairs, _ in world.produced if topic == "changelog"] == [[(b"k", b"29")]]
    await world.answer("changelog")
    assert (world.table.settled, ledger.committable()) == ([{b"k": b"29"}], 30)


async def test_the_linger_ends_by_itself(world: World, start: Start) -> None:
    """Nothing follows."""
    ledger = world.consumer.open(INPUT)
    start(linger_s=0.001)
    await world.arrive(0, 10)
    await world.answer("out")
    while not world.pending("changelog"):
        await asyncio.sleep(0.001)
    await world.answer("changelog")
    assert ledger.committable() == 10


async def test_what_lingers_is_written_at_once_when_the_partition_is_given_back(world: World, start: Start) -> None:
    """The group waits for it; a group that is answered afterwards does not linger either."""
    ledger = world.consumer.open(INPUT)
    start(linger_s=3600.0)
    await world.arrive(0, 10)
    await world.answer("out")
    await world.arrive(10, 10)
    ledger.close()
    await settle_down()
    await world.answer("changelog")
    assert ledger.committable() == 10
    await world.answer("out")
    await world.answer("changelog")
    assert (ledger.committable(), sorted(world.acked)) == (20, [9, 19])


async def test_what_lingers_of_an_old_generation_does_not_keep_back_the_new_one(world: World, start: Start) -> None:
    """Both settle at once: the old one is left, the new one written."""
    old = world.consumer.open(INPUT)
    start(linger_s=3600.0, inflight=4)
    await world.arrive(0, 10)
    new = world.consumer.open(INPUT, generation=2)
    world.consumer.lost.add(old)
    await world.arrive(0, 20)
    await world.answer("out")
    await world.answer("out")
    assert [pairs for topic, _, pairs, _ in world.produced if topic == "changelog"] == [[(b"k", b"19")]]
    await world.answer("changelog")
    assert (old.committable(), new.committable(), sorted(world.acked)) == (None, 20, [9, 19])


async def test_notes_of_slices_that_settle_together_are_delivered_before_their_changelog(
    world: World, start: Start
) -> None:
    """Of each partition in one call, in order; those of nothing are left out."""
    other = TP("in", 1)
    first, second = world.consumer.open(INPUT), world.consumer.open(other)

    def step(batch: RecordBatch, load: Any) -> Applied:
        note = None if batch.last == 9 and batch.tp == other else batch.last
        return Applied({b"k": b"v"}, [Send("out", batch.tp.partition, [(b"k", b"o")])], note)

    def later(tp: TP, notes: Sequence[Any]) -> list[Send]:
        return [Send("notes", 0, [(b"%d" % tp.partition, b"%d" % note) for note in notes])] if notes else []

    start(step, linger_s=3600.0, inflight=4, later=later)
    for offset in (0, 10):
        await world.put_all(
            [fetched(INPUT, offset, 10, admitted(first, offset)), fetched(other, offset, 10, admitted(second, offset))]
        )
        await world.answer("out")
        await world.answer("out")
    notes = [pairs for topic, _, pairs, _ in world.produced if topic == "notes"]
    assert (notes, world.pending("changelog")) == ([[(b"0", b"9"), (b"0", b"19"), (b"1", b"19")]], [])
    await world.answer("notes")
    assert len(world.pending("changelog")) == 2


async def test_partitions_do_not_wait_for_each_other(world: World, start: Start) -> None:
    """Partition 1 is delivered while partition 0 is not."""
    other = TP("in", 1)
    first, second = world.consumer.open(INPUT), world.consumer.open(other)
    start()
    await world.arrive(0, 10)
    await world.arrive(0, 10, other)
    await world.answer("out", 1)
    await world.answer("changelog")
    assert (first.committable(), second.committable()) == (None, 10)


async def test_what_waits_in_several_partitions_goes_through_as_one(world: World, start: Start) -> None:
    """One step and one message for 0 and 1, in the order of their arrival; what goes to one partition goes together."""
    other = TP("in", 1)
    first, second = world.consumer.open(INPUT), world.consumer.open(other)
    groups: list[list[tuple[int, int, int]]] = []

    def step(batches: Sequence[RecordBatch], loads: Sequence[Any]) -> list[Applied]:
        groups.append([(batch.tp.partition, batch.first, batch.last) for batch in batches])
        return [
            Applied(
                {b"k": b"%d" % batch.last},
                [Send("out", batch.tp.partition, [(b"k", b"o")]), Send("all", 0, [(b"k", b"%d" % batch.tp.partition)])],
            )
            for batch in batches
        ]

    start(step, together=True)
    for ledger in (first, second):
        ledger.admit(0, 9)  # handed out before either arrives
    await world.put_all([fetched(INPUT, 0, 10, first), fetched(other, 0, 10, second)])
    assert groups == [[(0, 0, 9), (1, 0, 9)]]
    assert [(topic, partition) for topic, partition, *_ in world.produced] == [("out", 0), ("all", 0), ("out", 1)]
    assert world.produced[1][2] == [(b"k", b"0"), (b"k", b"1")]
    for topic in ("out", "all", "out"):
        assert world.pending("changelog") == []
        await world.answer(topic)
    assert [partition for topic, partition, *_ in world.produced if topic == "changelog"] == [0, 1]
    await world.answer("changelog", 1)
    await world.answer("changelog")
    assert (first.committable(), second.committable(), world.acked) == (10, 10, [9])


async def test_a_group_has_room_for_so_many_events(world: World, start: Start) -> None:
    """200 and 200 with 256 at most: the second partition's rest comes first in the next group."""
    other = TP("in", 1)
    first, second = world.consumer.open(INPUT), world.consumer.open(other)
    seen = start()
    for ledger in (first, second):
        ledger.admit(0, 199)
    await world.put_all([fetched(INPUT, 0, 200, first), fetched(other, 0, 200, second)])
    assert [(b.tp.partition, b.first, b.last) for b in seen] == [(0, 0, 199), (1, 0, 55), (1, 56, 199)]


async def test_of_a_group_only_what_is_still_ours_goes_into_the_changelog(world: World, start: Start) -> None:
    """Partition 0 has a new owner when the outputs are delivered."""
    other = TP("in", 1)
    first, second = world.consumer.open(INPUT), world.consumer.open(other)
    start()
    for ledger in (first, second):
        ledger.admit(0, 9)
    await world.put_all([fetched(INPUT, 0, 10, first), fetched(other, 0, 10, second)])
    world.consumer.lost.add(first)
    await world.answer("out")
    await world.answer("out")
    assert [partition for topic, partition, *_ in world.produced if topic == "changelog"] == [1]
    await world.answer("changelog")
    assert (first.committable(), second.committable(), len(world.acked)) == (None, 10, 1)


async def test_a_large_batch_is_applied_in_contiguous_slices(world: World, start: Start) -> None:
    """600 events, 256 at most: 0..255, 256..511, 512..599."""
    world.consumer.open(INPUT)
    seen = start()
    await world.arrive(0, 600)
    assert [(b.first, b.last, len(b.records)) for b in seen] == [(0, 255, 256), (256, 511, 256), (512, 599, 88)]


async def test_the_offsets_of_a_hole_belong_to_the_batch_behind_it(world: World, start: Start) -> None:
    """0..9, then 15..19 accepted after a second reading: the ranges stay contiguous."""
    ledger = world.consumer.open(INPUT)
    seen = start()
    await world.arrive(0, 10)
    ledger.admit(15, 19)
    assert ledger.admit(15, 19) == (Admission.DELIVER, 10)
    batch = fetched(INPUT, 10, 10, ledger)
    batch.records = batch.records[5:]
    await world.put_all([batch])
    assert [(b.first, b.last) for b in seen] == [(0, 9), (10, 19)]


async def test_slices_in_flight_are_bounded(world: World, start: Start) -> None:
    """Two at a time: the third waits for the first to be acknowledged."""
    world.consumer.open(INPUT)
    seen = start(inflight=2)
    for first in (0, 10, 20):
        await world.arrive(first, 10)
    assert len(seen) == 2
    await world.answer("out")
    await world.answer("changelog")
    assert len(seen) == 3


async def test_an_old_generation_neither_writes_the_changelog_nor_acknowledges(world: World, start: Start) -> None:
    """The group moved on while the output was under way."""
    ledger = world.consumer.open(INPUT)
    start()
    await world.arrive(0, 10)
    world.consumer.current = False
    await world.answer("out")
    assert (world.pending("changelog"), ledger.committable(), world.table.settled) == ([], None, [])
    assert world.acked == [9]  # so that Faust does not wait for it; it commits nothing


async def test_what_is_in_flight_finishes_while_the_partition_is_given_back(world: World, start: Start) -> None:
    """Applied before the revocation: delivered and committed. Waiting: left to the next owner."""
    ledger = world.consumer.open(INPUT)
    seen = start(inflight=1)
    await world.arrive(0, 10)
    await world.arrive(10, 10)
    ledger.close()
    await world.answer("out")
    await world.answer("changelog")
    assert (len(seen), ledger.committable(), sorted(world.acked)) == (1, 10, [9, 19])


async def test_a_batch_dropped_from_the_queue_is_read_again(world: World, start: Start) -> None:
    """10..19 was handed out and never arrived; 20..29 is not applied."""
    ledger = world.consumer.open(INPUT)
    seen = start()
    await world.arrive(0, 10)
    ledger.admit(10, 19)
    await world.arrive(20, 10)
    assert (world.consumer.rewound, [b.last for b in seen]) == ([10], [9])
    await world.arrive(10, 20)
    assert [(b.first, b.last) for b in seen] == [(0, 9), (10, 29)]


async def test_prepare_runs_once_per_partition_and_generation_before_its_first_batch(
    world: World, start: Start
) -> None:
    """Two batches in generation 1, one in generation 2."""
    prepared: list[tuple[TP, int]] = []

    async def prepare(tp: TP, next_offset: int) -> None:
        assert seen == [] or world.consumer.ledgers[tp].generation == 2
        prepared.append((tp, next_offset))

    world.consumer.open(INPUT)
    seen = start(prepare=prepare)
    await world.arrive(0, 10)
    await world.arrive(10, 10)
    assert (prepared, len(seen)) == ([(INPUT, 0)], 2)
    world.consumer.ledgers[INPUT].close()
    world.consumer.open(INPUT, generation=2)
    await world.arrive(0, 10)
    assert (prepared, len(seen)) == ([(INPUT, 0), (INPUT, 0)], 3)


async def test_prepare_holds_up_its_own_partition_only(world: World, start: Start) -> None:
    """Partition 0 waits, partition 1 goes on."""
    other, gate = TP("in", 1), asyncio.Event()

    async def prepare(tp: TP, next_offset: int) -> None:
        if tp == INPUT:
            await gate.wait()

    world.consumer.open(INPUT)
    world.consumer.open(other)
    seen = start(prepare=prepare)
    await world.arrive(0, 10)
    await world.arrive(0, 10, other)
    assert [b.tp for b in seen] == [other]
    gate.set()
    await settle_down()
    assert [b.tp for b in seen] == [other, INPUT]


async def test_prepare_is_cancelled_by_a_rebalance_and_repeated_in_the_next_generation(
    world: World, start: Start
) -> None:
    """Its batch is let go at once, so that the rebalance need not wait."""
    calls: list[str] = []
    gate = asyncio.Event()

    async def prepare(tp: TP, next_offset: int) -> None:
        calls.append("began")
        try:
            await gate.wait()
        except asyncio.CancelledError:
            calls.append("cancelled")
            raise

    world.consumer.open(INPUT)
    seen = start(prepare=prepare)
    await world.arrive(0, 10)
    world.consumer.ledgers[INPUT].close()
    await settle_down()
    assert (calls, seen, world.acked) == (["began", "cancelled"], [], [9])
    gate.set()
    world.consumer.open(INPUT, generation=2)
    await world.arrive(0, 10)
    assert (calls[2:], len(seen), world.crashes) == (["began"], 1, [])


async def test_an_exception_of_step_crashes_the_app_and_acknowledges_nothing(world: World, start: Start) -> None:
    """0..9 is in flight, 10..19 fails, 20..29 never starts; even 0..9 is not committed by the crash."""
    ledger = world.consumer.open(INPUT)
    steps: list[int] = []

    def step(batch: RecordBatch, load: Any) -> Applied:
        steps.append(batch.first)
        if batch.first == 10:
            raise ValueError("bad batch")
        return Applied({b"k": b"v"}, [Send("out", 0, [(b"k", b"o")])])

    start(step)
    for first in (0, 10, 20):
        await world.arrive(first, 10)
    await world.answer("out")
    assert (steps, [str(c) for c in world.crashes]) == ([0, 10], ["bad batch"])
    assert (ledger.committable(), world.pending("changelog")) == (None, [])


@pytest.mark.parametrize("topic", ["out", "changelog"])
async def test_a_delivery_that_fails_for_good_crashes_the_app(world: World, start: Start, topic: str) -> None:
    """Nothing is acknowledged, so nothing is lost."""
    ledger = world.consumer.open(INPUT)
    start()
    await world.arrive(0, 10)
    if topic == "changelog":
        await world.answer("out")
    world.pending(topic)[0].set_exception(ConnectionError("gone"))
    await settle_down()
    assert ([str(c) for c in world.crashes], ledger.committable()) == (["gone"], None)


async def test_a_changelog_with_other_partitions_than_the_input_is_refused(world: World, start: Start) -> None:
    """Faust would give state and input to different workers."""
    ledger = world.consumer.open(INPUT)
    world.consumer.n_partitions = 8
    seen = start()
    await world.arrive(0, 10)
    assert "must have the same number" in str(world.crashes[0])
    assert (seen, ledger.committable()) == ([], None)


async def test_a_batch_without_effects_is_acknowledged(world: World, start: Start) -> None:
    """All of it had been applied before."""
    ledger = world.consumer.open(INPUT)
    start(lambda batch, load: Applied())
    await world.arrive(0, 10)
    assert (ledger.committable(), world.produced) == (10, [])


async def test_stage_times_are_reported_for_each_acknowledged_slice(world: World, start: Start) -> None:
    """Metrics want them per slice."""
    done: list[tuple[int, Any]] = []
    world.consumer.open(INPUT)
    start(on_done=lambda batch, timings: done.append((batch.last, timings)))
    await world.arrive(0, 10)
    await world.answer("out")
    assert done == []
    await world.answer("changelog")
    (last, timings), *more = done
    assert (last, more) == (9, [])
    assert min(timings.step_us, timings.sends_us, timings.changelog_us) >= 0

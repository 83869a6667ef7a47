"""The consumer's side of a rebalance, without a broker."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from faust.types import TP

from stream.batching.consumer import BatchConsumer, BatchMessage, LoopConsumer, Standing
from stream.batching.ledger import Ledger
from stream.batching.transport import FetchSettings

INPUT = TP("in", 0)
OTHER = TP("other", 0)


class Thread:
    """Notes seeks and wake-ups, and says which generation the group coordinator client is in."""

    def __init__(self) -> None:
        self.seeks: list[tuple[TP, int]] = []
        self.member_generation = 1
        self.unassigned = False
        self.n_woken = 0
        self.fetch: tuple[int, int, float] | None = None
        self.states: dict[TP, Any] = {}

    def state(self, tp: TP) -> Any | None:
        return self.states.get(tp)

    def seek(self, tp: TP, offset: int) -> None:
        if self.unassigned:
            raise IllegalStateError("not assigned")
        self.seeks.append((tp, offset))

    def wake(self) -> None:
        self.n_woken += 1

    def set_fetch(self, max_wait_ms: int, min_bytes: int, pace_s: float) -> None:
        self.fetch = (max_wait_ms, min_bytes, pace_s)


def test_a_partition_whose_position_is_being_found_out_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust asks aiokafka for a position that it does not have, which would end the worker: retention has passed it."""
    looked: list[TP] = []
    base = LoopConsumer.__mro__[1]
    monkeypatch.setattr(base, "verify_event_path", lambda _self, _now, tp: looked.append(tp))
    states = {INPUT: SimpleNamespace(has_valid_position=True), OTHER: SimpleNamespace(has_valid_position=False)}
    monkeypatch.setattr(LoopConsumer, "state", lambda _self, tp: states.get(tp))
    consumer: Any = LoopConsumer.__new__(LoopConsumer)
    for tp in (INPUT, OTHER, TP("not assigned", 0)):
        consumer.verify_event_path(0.0, tp)
    assert looked == [INPUT]


@pytest.fixture
def consumer() -> Any:
    """A BatchConsumer in generation 1 with one open partition, and nothing of Faust around it."""
    consumer: Any = BatchConsumer.__new__(BatchConsumer)
    consumer.app = SimpleNamespace(
        consumer_generation_id=1,
        topics=SimpleNamespace(acks_enabled_for=lambda _: True),
        monitor=SimpleNamespace(track_tp_end_offset=lambda _tp, _end: None, stream_inbound_time={}),
    )
    consumer.highwater = lambda _tp: None
    consumer.messages = []
    consumer.transport = SimpleNamespace(buffer_of={"in": 2}, fetch=FetchSettings())
    consumer.log = SimpleNamespace(info=lambda *_: None)
    consumer._thread = Thread()
    consumer._asked_for = None
    consumer._ledgers = {INPUT: Ledger(1, 0)}
    consumer._ledgers[INPUT].open = True
    consumer._wanted = set()
    consumer._active_partitions = {INPUT, OTHER}
    consumer._read_offset = defaultdict(lambda: None)
    consumer._committed_offset = defaultdict(lambda: None)
    consumer._acked = defaultdict(list)
    consumer._unacked_messages = set()
    consumer._waiting_for_ack = None
    consumer.flow_active = True
    consumer.handed = []

    async def callback(message: BatchMessage) -> None:
        consumer.messages.append(message)
        consumer.handed += message.batches

    consumer.callback = callback
    return consumer


async def hand_out(consumer: Any, fetched: list[Any], tp: TP = INPUT) -> None:
    await consumer._hand_out_all({tp: fetched})


def records(first: int, n: int) -> list[Any]:
    return [SimpleNamespace(offset=offset, timestamp=0, timestamp_type=0) for offset in range(first, first + n)]


@pytest.mark.parametrize(
    ("flow_active", "in_recovery", "found"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_a_recovery_is_left_to_aiokafkas_routine(
    consumer: Any, *, flow_active: bool, in_recovery: bool, found: bool
) -> None:
    consumer.app.tables = SimpleNamespace(recovery=SimpleNamespace(in_recovery=in_recovery))
    consumer.flow_active = flow_active
    consumer._wanted = {INPUT}
    assert (consumer.wanted_now() == {INPUT}) == found


async def test_a_fetch_becomes_one_message_with_a_batch_of_each_partition(consumer: Any) -> None:
    """It passes for the last record of the first."""
    second = TP("in", 1)
    consumer._ledgers[second] = Ledger(1, 0, open=True)
    await consumer._hand_out_all({INPUT: records(0, 100), second: records(0, 10)})
    (message,) = consumer.messages
    assert (message.tp, message.offset) == (INPUT, 99)
    assert [(b.tp, b.first, b.last, len(b.records)) for b in message.batches] == [
        (INPUT, 0, 99, 100),
        (second, 0, 9, 10),
    ]


async def test_of_a_fetch_each_partition_is_judged_by_itself(consumer: Any) -> None:
    """One has a hole, and is read again; the other is handed out."""
    second = TP("in", 1)
    consumer._ledgers[second] = Ledger(1, 0, open=True)
    await consumer._hand_out_all({INPUT: records(5, 10), second: records(0, 10)})
    assert ([b.tp for b in consumer.handed], consumer._thread.seeks) == ([second], [(INPUT, 0)])


async def test_a_hole_makes_the_consumer_read_again_once(consumer: Any) -> None:
    """0..9 | 15..19: seek to 10 | 15..19 again: accepted, covering 10..19."""
    await hand_out(consumer, records(0, 10))
    await hand_out(consumer, records(15, 5))
    assert (consumer._thread.seeks, len(consumer.handed)) == ([(INPUT, 10)], 1)
    await hand_out(consumer, records(15, 5))
    assert (consumer.handed[-1].first, consumer.handed[-1].last) == (10, 19)


async def test_records_that_overlap_what_was_handed_out_are_trimmed(consumer: Any) -> None:
    """A seek back after a rebalance reads some of them again."""
    await hand_out(consumer, records(0, 10))
    await hand_out(consumer, records(5, 10))
    assert [record.offset for record in consumer.handed[-1].records] == list(range(10, 15))


async def test_what_faust_acknowledges_without_applying_is_not_committed(consumer: Any) -> None:
    """Its streams acknowledge messages that they skip during a rebalance."""
    await hand_out(consumer, records(0, 10))
    consumer.ack(consumer.messages[0])
    assert consumer._new_offset(INPUT) is None


async def test_only_finished_spans_are_committed_and_nothing_of_an_old_generation(consumer: Any) -> None:
    """The second of two spans is done: nothing. Both: 20. Both, but the group moved on: nothing."""
    ledger = consumer.ledger(INPUT)
    a, b = ledger.begin(0, 9), ledger.begin(10, 19)
    b.done = True
    assert consumer._new_offset(INPUT) is None
    a.done = True
    consumer._thread.member_generation = -1  # thrown out of the group
    assert consumer._new_offset(INPUT) is None
    consumer._thread.member_generation = 1
    assert set(consumer._filter_tps_with_pending_acks()) == {INPUT}
    assert consumer._new_offset(INPUT) == 20


async def test_resuming_goes_back_to_what_faust_cleared_from_the_queues(consumer: Any) -> None:
    """Even if nothing follows that could reveal the hole."""
    consumer.can_resume_flow = consumer.suspend_flow = SimpleNamespace(set=lambda: None, clear=lambda: None)
    await hand_out(consumer, records(0, 10))
    consumer.resume_flow()
    assert consumer._thread.seeks == [(INPUT, 0)]
    await hand_out(consumer, records(0, 10))
    ledger = consumer.ledger(INPUT)
    assert [ledger.take(b.first, b.last, b.epoch) for b in consumer.handed] == [False, True]


async def test_stopping_the_flow_gives_everything_back(consumer: Any) -> None:
    """No batch is handed out or taken between a revocation and the next assignment."""
    consumer.can_resume_flow = consumer.suspend_flow = SimpleNamespace(set=lambda: None, clear=lambda: None)
    await hand_out(consumer, records(0, 10))
    consumer.stop_flow()
    await hand_out(consumer, records(10, 10))
    (batch,) = consumer.handed
    assert not consumer.ledger(INPUT).take(batch.first, batch.last, batch.epoch)


async def test_a_full_partition_is_not_fetched_and_the_others_are(consumer: Any) -> None:
    """Two batches is the buffer; room wakes the fetch that waits."""
    for first in (0, 10):
        await hand_out(consumer, records(first, 10))
    consumer._refresh()
    assert INPUT not in consumer._wanted
    assert OTHER in consumer._wanted
    ledger, woken = consumer.ledger(INPUT), consumer._thread.n_woken
    ledger.take(0, 9, ledger.epoch)
    consumer.on_applied(ledger)
    assert INPUT in consumer._wanted
    assert consumer._thread.n_woken == woken + 1


async def test_partitions_are_read_only_after_their_offsets_were_sought(consumer: Any) -> None:
    """Active for Faust, but no books yet: fetching them would be thrown away."""
    consumer._ledgers.clear()
    consumer._refresh()
    assert INPUT not in consumer._wanted
    assert consumer._wanted  # an empty set would mean all to aiokafka


async def test_a_seek_on_a_partition_that_is_gone_is_harmless(consumer: Any) -> None:
    """The next owner starts at the commit."""
    await hand_out(consumer, records(0, 10))
    consumer._thread.unassigned = True
    consumer.rewind(INPUT, consumer.ledger(INPUT))


async def test_fetches_are_paced_while_events_come_fast(consumer: Any) -> None:
    """And answered at once again when they do not."""
    from stream.batching.pace import Pace

    consumer._pace, consumer._asked_for = Pace(), None
    consumer._set_pace(1000)
    assert consumer._thread.fetch == (20, 1, consumer.transport.fetch.pace_ms / 1000)
    consumer._pace.rate = 0.0
    consumer._set_pace(1)
    assert consumer._thread.fetch == (20, 1, 0.0)


async def test_fetches_of_a_topic_at_rest_wait_long_at_the_broker(consumer: Any) -> None:
    """Until an event comes, or there are other partitions to read."""
    from stream.batching.pace import Pace

    consumer._pace, consumer._asked_for = Pace(), None
    consumer._set_pace(0)
    assert consumer._thread.fetch == (500, 1, 0.0)
    consumer._set_pace(1)
    assert consumer._thread.fetch == (20, 1, 0.0)
    consumer._set_pace(0)
    consumer._wanted.clear()
    consumer._refresh()
    assert consumer._thread.fetch == (20, 1, 0.0)


# -- standings -----------------------------------------------------------------------------------------------------


def reads(consumer: Any, position: int, end: int | None, answered_ms: int = 5) -> None:
    """aiokafka's view of the partition."""
    state = SimpleNamespace(has_valid_position=True, position=position, highwater=end, timestamp=answered_ms)
    consumer._thread.states[INPUT] = state


async def test_what_is_handed_out_is_not_finished_before_it_is_committed(consumer: Any) -> None:
    """
    committed 0 |--- handed out, applied ---| 10 | end 12
    """
    reads(consumer, position=10, end=12)
    ledger = consumer._ledgers[INPUT]
    await hand_out(consumer, records(0, 10))
    assert consumer.standings() == [Standing(0, 0, 12, 5, waiting=False)]
    ledger.take(0, 9, ledger.epoch)
    span = ledger.begin(0, 9)
    consumer.on_applied(ledger)
    assert consumer.standings()[0].lag == 12
    span.done = True
    consumer._committed_offset[INPUT] = consumer._new_offset(INPUT)
    assert consumer.standings() == [Standing(0, 10, 12, 5, waiting=False)]
    assert consumer.standings()[0].lag == 2


async def test_the_end_without_records_is_no_lag(consumer: Any) -> None:
    """A transaction ends with a marker that nobody can finish: offset 10 of 11."""
    consumer._committed_offset[INPUT] = 10
    reads(consumer, position=11, end=11)
    assert consumer.standings() == [Standing(0, 11, 11, 5, waiting=True)]


async def test_a_partition_nothing_is_known_of_has_no_lag(consumer: Any) -> None:
    """Nothing was ever committed, and no fetch was answered yet."""
    consumer._ledgers[INPUT] = Ledger(1, None, open=True)
    reads(consumer, position=0, end=None)
    assert consumer.standings() == [Standing(0, None, None, 5, waiting=False)]
    assert consumer.standings()[0].lag == 0


async def test_a_partition_that_was_never_committed_counts_from_its_first_record(consumer: Any) -> None:
    """Retention has taken what was before."""
    consumer._ledgers[INPUT] = Ledger(1, None, open=True)
    await hand_out(consumer, records(100, 10))
    reads(consumer, position=110, end=130)
    assert consumer.standings() == [Standing(0, 100, 130, 5, waiting=False)]


async def test_partitions_that_are_given_back_have_no_standing(consumer: Any) -> None:
    """They are others' now."""
    reads(consumer, position=10, end=12)
    consumer._ledgers[INPUT].close()
    assert consumer.standings() == []

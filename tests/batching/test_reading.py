"""Fetches, with aiokafka's own fetcher behind them, brokers that the test plays, and a time that only it moves on."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.conn import CloseReason
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState
from aiokafka.protocol import fetch
from aiokafka.protocol.fetch import FetchRequest, FetchResponse_v11
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import ConsumerRecord, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.batching import reading
from stream.batching.reading import Reader, ask_for
from tests.batching.lines import Clock, Line, Received

A0, A1, B0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)
PLACES = (A0, A1, B0)
TIMEOUT_S = 40.0
MAX_WAIT_MS = 20
NOT_LEADER, OUT_OF_RANGE, UNKNOWN = 6, 1, -1


def batch_of(
    first: int,
    values: list[bytes],
    *,
    next_offset: int | None = None,
    control: bool = False,
    producer: int = -1,
    key: bytes = b"key",
) -> bytes:
    """A record batch as a producer and a broker make it.

    With `next_offset`, compaction took what was behind; a `producer` has a transaction, and `control` is its marker.
    """
    builder = DefaultRecordBatchBuilder(2, 0, producer >= 0, producer, 0, 0, 1 << 20)
    for n, value in enumerate(values):
        assert builder.append(n, 1_000, key, value, []) is not None
    data = builder.build()
    data[:8] = struct.pack(">q", first)  # not part of the checksum, so that brokers can set it
    if next_offset is not None or control:
        data[22] |= 0x20 if control else 0
        data[23:27] = struct.pack(">i", (next_offset or first + len(values)) - first - 1)
        data[17:21] = struct.pack(">I", crc32c(bytes(data[21:])))
    return bytes(data)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@dataclass(eq=False)
class Asked:
    """A fetch request that a broker has."""

    line: Line
    number: int
    terms: tuple[int, int, int, int]  # the longest wait, the least and the most bytes, isolation
    positions: dict[TopicPartition, int]
    answered: bool = False


@dataclass(eq=False)
class World:
    """Brokers that keep logs, aiokafka's fetcher, and the reader in front of it."""

    clock: Clock = field(default_factory=Clock)
    logs: dict[TopicPartition, list[tuple[int, bytes]]] = field(default_factory=lambda: {tp: [] for tp in PLACES})
    """Of each partition the batches: the offset behind the batch, and its bytes."""
    leaders: dict[TopicPartition, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 1))
    versions: tuple[int, int] = (0, 11)
    down: set[int] = field(default_factory=set)
    lines: list[Line] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    by_aiokafka: list[int] = field(default_factory=list)
    """Brokers that it has asked itself."""
    n_metadata: int = 0
    wanted: set[TopicPartition] = field(default_factory=lambda: set(PLACES))
    parsed: set[TopicPartition] = field(default_factory=set)
    _n_seen: int = 0
    _next: dict[TopicPartition, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self._conns: dict[tuple[int, int], Any] = {}
        self._loop = asyncio.get_running_loop()
        self._metadata_max_age_ms = 1_000
        self.cluster = SimpleNamespace(
            leader_for_partition=lambda tp: self.leaders.get(tp, -1), broker_metadata=lambda node: node
        )
        self.subscriptions = SubscriptionState()
        self.fetcher = Fetcher(
            self,
            self.subscriptions,
            fetch_min_bytes=1,
            fetch_max_bytes=5_000_000,
            fetch_max_wait_ms=MAX_WAIT_MS,
            max_partition_fetch_bytes=1_000_000,
            auto_offset_reset="earliest",
        )
        self.reader = Reader(SimpleNamespace(_fetcher=self.fetcher), lambda: self.wanted, lambda: self.parsed)

    # what the fetcher asks of its client

    def force_metadata_update(self) -> asyncio.Future[None]:
        self.n_metadata += 1
        done = self._loop.create_future()
        done.set_result(None)
        return done

    async def send(self, node: int, request: Any) -> Any:
        if not isinstance(request, FetchRequest):  # where a log begins
            topics = [(topic, [(p, 0, -1, 0) for p, _ in those]) for topic, those in request._topics]
            return SimpleNamespace(API_VERSION=1, topics=topics)
        self.by_aiokafka.append(node)
        connection = self._conns.get((node, 0))
        if connection is None or not connection.connected():
            if node in self.down:
                raise errors.NodeNotReadyError(str(node))
            connection = self.connect(node).connection
        try:
            return await connection.send(request)
        except TimeoutError:
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise errors.RequestTimedOutError from None

    # what the test does

    def connect(self, node: int = 1) -> Line:
        line = Line(node, 0, {1: self.versions}, self._received, self.force_metadata_update)
        line.connection._request_timeout = TIMEOUT_S
        self.lines.append(line)
        self._conns[node, 0] = line.connection
        return line

    def _received(self, line: Line, request: Received) -> None:
        asked = getattr(fetch, f"FetchRequest_v{request.version}").decode(request.body)
        assert (request.api, request.client_id, request.body.read()) == (1, "client", b"")
        positions = {TopicPartition(topic, part[0]): part[-3] for topic, those in asked.topics for part in those}
        terms = asked.max_wait_time, asked.min_bytes, asked.max_bytes, asked.isolation_level
        self.asked.append(Asked(line, request.number, terms, positions))

    def assign(self, *tps: TopicPartition, positions: dict[TopicPartition, int] | None = None) -> Any:
        self.subscriptions.assign_from_user(set(tps))
        assignment = self.subscriptions.subscription.assignment
        for tp in tps:
            assignment.state_value(tp).seek((positions or {}).get(tp, 0))
        return assignment

    def append(self, tp: TopicPartition, n: int, *, n_bytes: int = 0) -> list[bytes]:
        """Append a batch; each value says where it stands."""
        first = self._next[tp]
        values = [f"{tp.topic}{tp.partition}:{first + k}:".encode() + bytes(n_bytes) for k in range(n)]
        self.put(tp, batch_of(first, values), first + n)
        return values

    def put(self, tp: TopicPartition, data: bytes, next_offset: int) -> None:
        self._next[tp] = next_offset
        self.logs[tp].append((next_offset, data))

    def end(self, tp: TopicPartition) -> int:
        return self._next[tp]

    def answer(
        self,
        asked: Asked | None = None,
        codes: dict[TopicPartition, int] | None = None,
        *,
        code: int = 0,
        aborted: list[tuple[int, int]] | None = None,
    ) -> None:
        """Give the oldest request what there is; a partition's error is what `codes` says, or what a broker finds."""
        asked = asked or next(each for each in self.asked if not each.answered)
        asked.answered = True
        topics = defaultdict(list)
        for tp, position in asked.positions.items():
            wrong = (codes or {}).get(tp, 0)
            if not wrong and self.leaders[tp] != asked.line.node:
                wrong = NOT_LEADER
            if not wrong and position > self.end(tp):
                wrong = OUT_OF_RANGE
            found = b"" if wrong else b"".join(data for end, data in self.logs[tp] if end > position)
            known = (self.end(tp), self.end(tp), 0) if not wrong else (-1, -1, -1)
            topics[tp.topic].append((tp.partition, wrong, *known, aborted, -1, found))
        asked.line.answer(asked.number, FetchResponse_v11(0, code, 0, list(topics.items())).encode())

    def arrived(self) -> list[dict[TopicPartition, int]]:
        """What brokers were asked for since this was last asked."""
        new = self.asked[self._n_seen :]
        self._n_seen = len(self.asked)
        return [each.positions for each in new]

    @property
    def under_way(self) -> list[Asked]:
        return [each for each in self.asked if not each.answered and each.line.connection.connected()]

    async def records(self) -> dict[TopicPartition, list[Any]]:
        """What the batch consumer gets when it asks now: from the reader, or from aiokafka."""
        await self.clock.settle()
        if self.reader.waiting:
            return self.reader.take(self.wanted)
        found: dict[TopicPartition, list[Any]] = await self.fetcher.fetched_records(self.wanted or {None}, timeout=0)
        return found

    async def values(self) -> dict[TopicPartition, list[bytes]]:
        return {tp: [record.value for record in records] for tp, records in (await self.records()).items()}

    async def close(self) -> None:
        await self.fetcher.close()
        for line in self.lines:
            line.connection.close()
        await self.clock.settle()
        self.clock.stop()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """With the connection to broker 1 open."""
    world = World()
    world.connect(1)
    yield world
    await world.close()


# -- while nothing is out of the ordinary ------------------------------------------------------------------------------


async def test_a_fetch_follows_a_fetch_and_aiokafka_is_not_asked(world: World) -> None:
    assignment = world.assign(*PLACES)
    await world.clock.settle()
    assert world.arrived() == [{A0: 0, A1: 0, B0: 0}]
    first, second = world.append(A0, 2), world.append(B0, 1)
    world.answer()
    assert await world.values() == {A0: first, B0: second}
    assert world.arrived() == [{A0: 2, A1: 0, B0: 1}]
    third = world.append(A1, 3)
    world.answer()
    assert await world.values() == {A1: third}
    assert world.arrived() == [{A0: 2, A1: 3, B0: 1}]
    state = assignment.state_value(A1)
    assert (state.position, state.highwater, state.lso) == (3, 3, 3)
    assert world.by_aiokafka == []


async def test_records_are_what_aiokafka_makes_of_them(world: World) -> None:
    world.assign(A0)
    world.append(A0, 1)
    await world.clock.settle()
    world.answer()
    ((record,),) = (await world.records()).values()
    assert (record.topic, record.partition, record.offset, record.timestamp, record.key) == ("a", 0, 0, 1_000, b"key")
    assert (record.value, record.headers) == (b"a0:0:", ())


async def test_records_may_be_had_as_they_were_parsed(world: World) -> None:
    """Of a changelog, say; the others are as always."""
    world.parsed = {A0}
    assignment = world.assign(A0, B0)
    await world.clock.settle()
    for tp in (A0, B0):
        world.append(tp, 2)
    world.answer()
    found = await world.records()
    assert [isinstance(record, ConsumerRecord) for record in found[A0] + found[B0]] == [False, False, True, True]
    assert [(record.offset, record.value) for record in found[A0]] == [(0, b"a0:0:"), (1, b"a0:1:")]
    assert assignment.state_value(A0).position == 2


async def test_requests_ask_for_what_the_fetcher_is_told_to_ask_for(world: World) -> None:
    ask_for(SimpleNamespace(_fetcher=world.fetcher), max_wait_ms=500, min_bytes=7)
    world.assign(A0)
    await world.clock.settle()
    (asked,) = world.asked
    assert asked.terms == (500, 7, 5_000_000, 0)
    ask_for(SimpleNamespace(_fetcher=world.fetcher), max_wait_ms=MAX_WAIT_MS, min_bytes=1)
    world.answer()
    assert world.asked[1].terms == (MAX_WAIT_MS, 1, 5_000_000, 0)


@settings(max_examples=60, deadline=None)
@given(
    positions=st.dictionaries(
        st.builds(TopicPartition, st.text(min_size=1, max_size=8), st.integers(0, 2**31 - 1)),
        st.integers(0, 2**63 - 1),
        min_size=1,
        max_size=6,
    ),
    terms=st.tuples(*[st.integers(0, 2**31 - 1)] * 4, st.integers(0, 1)),
)
def test_a_request_is_what_aiokafka_writes(
    positions: dict[TopicPartition, int], terms: tuple[int, int, int, int, int]
) -> None:
    wait, least, most, each, isolation = terms
    fetcher = SimpleNamespace(
        _fetch_max_wait_ms=wait,
        _fetch_min_bytes=least,
        _fetch_max_bytes=most,
        _max_partition_fetch_bytes=each,
        _isolation_level=isolation,
    )
    topics: dict[str, list[tuple[int, int, int]]] = {}
    for tp, position in positions.items():
        topics.setdefault(tp.topic, []).append((tp.partition, position, each))
    request = FetchRequest(wait, least, most, isolation, list(topics.items())).prepare({1: (0, 11)})
    assert b"".join(reading._encoded(fetcher, list(positions.items()))) == request.encode()


@settings(max_examples=60, deadline=None)
@given(
    found=st.dictionaries(
        st.builds(TopicPartition, st.text(min_size=1, max_size=8), st.integers(0, 2**31 - 1)),
        st.tuples(
            st.integers(-1, 100),
            st.integers(-1, 2**63 - 1),
            st.integers(-1, 2**63 - 1),
            st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)), max_size=3) | st.none(),
            st.binary(max_size=30) | st.none(),
        ),
        max_size=6,
    ),
    code=st.integers(-1, 100),
)
def test_an_answer_says_what_aiokafka_reads_in_it(found: dict[TopicPartition, Any], code: int) -> None:
    topics = defaultdict(list)
    for tp, (wrong, highwater, lso, aborted, records) in found.items():
        topics[tp.topic].append((tp.partition, wrong, highwater, lso, 3, aborted, 5, records))
    answer = FetchResponse_v11(9, code, 4, list(topics.items())).encode()
    read = FetchResponse_v11.decode(answer)
    expected = {
        TopicPartition(topic, p): (wrong, highwater, lso, aborted or [], records or b"")
        for topic, those in read.topics
        for p, wrong, highwater, lso, _, aborted, _, records in those
    }
    said, parts = reading._decoded(answer)
    assert (said, {part.tp: tuple(part[1:]) for part in parts}) == (code, expected)


async def test_what_was_asked_for_first_is_asked_for_last_the_next_time(world: World) -> None:
    """A broker fills an answer in the order of the request; none must starve behind one that is always full."""
    third = TopicPartition("a", 2)
    world.leaders[third], world.logs[third] = 1, []
    world.wanted.add(third)
    world.assign(A0, A1, third)
    firsts = set()
    for _ in range(3):
        await world.clock.settle()
        (positions,) = world.arrived()
        firsts.add(next(iter(positions)))
        world.answer()
    assert len(firsts) == 3


async def test_an_empty_answer_is_followed_by_a_request(world: World) -> None:
    assignment = world.assign(A0)
    for _ in range(3):
        await world.clock.settle()
        assert world.arrived() == [{A0: 0}]
        world.answer()
    assert (world.by_aiokafka, assignment.state_value(A0).highwater) == ([], 0)


async def test_nothing_is_asked_for_until_the_records_are_taken(world: World) -> None:
    """Their positions have not moved yet."""
    world.assign(A0)
    await world.clock.settle()
    world.append(A0, 1)
    world.answer()
    await world.clock.wait(TIMEOUT_S + 10)
    assert (world.arrived(), world.lines[0].closed_for) == ([{A0: 0}], [])
    await world.records()
    assert world.arrived() == [{A0: 1}]


async def test_brokers_do_not_wait_for_each_other(world: World) -> None:
    world.leaders[B0] = 2
    world.connect(2)
    world.assign(A0, B0)
    await world.clock.settle()
    assert sorted(world.arrived(), key=str) == [{A0: 0}, {B0: 0}]
    values = world.append(B0, 2)
    world.answer(next(asked for asked in world.asked if B0 in asked.positions))
    assert await world.values() == {B0: values}
    assert world.arrived() == [{B0: 2}]


async def test_only_what_is_wanted_is_asked_for(world: World) -> None:
    world.wanted = {A0}
    world.assign(A0, A1)
    await world.clock.settle()
    world.answer()
    world.wanted = {A0, A1}
    await world.clock.settle()
    world.answer()
    assert world.arrived() == [{A0: 0}, {A0: 0}, {A0: 0, A1: 0}]


async def test_what_is_not_wanted_any_more_is_read_again_later(world: World) -> None:
    world.assign(A0, A1)
    await world.clock.settle()
    values, others = world.append(A0, 1), world.append(A1, 1)
    world.answer()
    world.wanted = {A1}
    assert await world.values() == {A1: others}
    world.wanted = {A0, A1}
    world.answer()
    world.answer()
    assert await world.values() == {A0: values}


async def test_what_is_paused_is_not_asked_for(world: World) -> None:
    assignment = world.assign(A0, A1)
    assignment.state_value(A1).pause()
    await world.clock.settle()
    assert world.arrived() == [{A0: 0}]
    assignment.state_value(A1).resume()
    world.answer()
    assert world.arrived() == [{A0: 0, A1: 0}]


async def test_records_that_were_removed_by_compaction_are_passed(world: World) -> None:
    assignment = world.assign(A0)
    await world.clock.settle()
    world.put(A0, batch_of(0, [b"first"], next_offset=5), 5)
    world.put(A0, batch_of(5, [b"second"]), 6)
    world.answer()
    assert await world.values() == {A0: [b"first", b"second"]}
    assert assignment.state_value(A0).position == 6


async def test_markers_of_transactions_are_passed(world: World) -> None:
    """A batch without a record for anybody moves the position all the same, and the next fetch is behind it."""
    assignment = world.assign(A0)
    await world.clock.settle()
    world.put(A0, batch_of(0, [b"marker"], control=True), 1)
    world.answer()
    assert await world.values() == {}
    assert assignment.state_value(A0).position == 1
    assert world.arrived() == [{A0: 0}, {A0: 1}]


async def test_records_of_an_aborted_transaction_are_passed(world: World) -> None:
    world.fetcher._isolation_level = 1
    assignment = world.assign(A0)
    await world.clock.settle()
    world.put(A0, batch_of(0, [b"taken back"], producer=7), 1)
    world.put(A0, batch_of(1, [b"kept"], producer=8), 2)
    world.put(A0, batch_of(2, [b""], producer=7, control=True, key=bytes(4)), 3)
    world.answer(aborted=[(7, 0)])
    assert await world.values() == {A0: [b"kept"]}
    assert (world.asked[0].terms[3], assignment.state_value(A0).position) == (1, 3)


# -- the pace ----------------------------------------------------------------------------------------------------------


async def test_a_fetch_follows_the_last_one_to_the_same_broker_after_the_pace(world: World) -> None:
    """
    first at 0, taken 1 ms later | second at 3 ms, taken 9 ms later | third at once
    """
    world.reader.pace_s = 0.003
    world.assign(A0)
    await world.clock.settle()
    world.append(A0, 1)
    world.answer()
    await world.clock.wait(0.001, 0.0005)
    await world.records()
    await world.clock.wait(0.0019, 0.0001)
    assert world.arrived() == [{A0: 0}]
    await world.clock.wait(0.0002, 0.0001)
    assert world.arrived() == [{A0: 1}]
    world.append(A0, 1)
    world.answer()
    await world.clock.wait(0.009, 0.001)
    await world.records()
    assert world.arrived() == [{A0: 2}]


async def test_aiokafkas_own_fetches_are_held_back_as_well(world: World) -> None:
    world.reader.pace_s = 0.003
    world.versions = (0, 10)  # none that the reader writes
    world.connect(1)
    world.assign(A0)
    await world.clock.settle()
    assert (world.by_aiokafka, len(world.under_way)) == ([1], 1)
    world.append(A0, 1)
    (asked,) = world.asked
    answer = [("a", [(0, 0, 1, 1, 0, None, world.logs[A0][0][1])])]
    asked.answered = True
    asked.line.answer(asked.number, fetch.FetchResponse_v10(0, 0, 0, answer).encode())
    await world.clock.wait(0.001, 0.0005)
    assert await world.values() == {A0: [b"a0:0:"]}
    await world.clock.wait(0.0015, 0.0005)
    assert world.by_aiokafka == [1]
    await world.clock.wait(0.001, 0.0005)
    assert world.by_aiokafka == [1, 1]


async def test_a_fetch_that_is_held_back_ends_when_its_partitions_are_given_back(world: World) -> None:
    """As one that is under way: nothing new, and no error."""
    world.reader.pace_s = 10.0
    world.assign(A0)
    await world.clock.settle()
    world.answer()
    await world.clock.settle()
    assert world.arrived() == [{A0: 0}]
    world.reader.pace_s = 0.0
    world.assign(A1)
    await world.clock.settle()
    assert world.arrived() == [{A1: 0}]
    await world.clock.wait(15)
    assert world.arrived() == []


# -- what is out of the ordinary ---------------------------------------------------------------------------------------


async def test_an_error_is_met_by_aiokafka(world: World) -> None:
    """What the other partitions had is read again, and afterwards the reader reads on."""
    world.assign(A0, A1)
    await world.clock.settle()
    values = world.append(A0, 1)
    world.answer(codes={A1: NOT_LEADER})
    assert (await world.values(), world.n_metadata) == ({}, 0)
    assert world.by_aiokafka == [1]
    world.answer(codes={A1: NOT_LEADER})
    assert await world.values() == {A0: values}
    assert world.n_metadata == 1
    await world.clock.settle()
    assert world.under_way[0].positions == {A0: 1, A1: 0}
    assert world.by_aiokafka == [1]


async def test_an_error_of_the_whole_answer_is_met_by_aiokafka(world: World) -> None:
    world.assign(A0)
    await world.clock.settle()
    world.append(A0, 1)
    world.answer(code=70)
    await world.clock.settle()
    assert (world.reader.waiting, world.by_aiokafka) == ({}, [1])


async def test_an_offset_that_is_gone_is_found_anew_by_aiokafka(world: World) -> None:
    """Its rule for it is `earliest`."""
    values = world.append(A0, 2)
    world.assign(A0, positions={A0: 7})
    await world.clock.settle()
    world.answer()
    await world.clock.settle()
    world.answer()
    await world.clock.settle()
    assert world.by_aiokafka == [1]
    world.answer()
    assert await world.values() == {A0: values}


async def test_much_is_given_out_by_aiokafka_some_records_at_a_time(world: World) -> None:
    assignment = world.assign(A0)
    await world.clock.settle()
    values = world.append(A0, 300, n_bytes=1_000)
    world.answer()
    await world.clock.settle()
    assert not world.reader.waiting
    found = await world.fetcher.fetched_records({A0}, timeout=0, max_records=200)
    assert [record.value for record in found[A0]] == values[:200]
    assert assignment.state_value(A0).position == 200
    assert await world.values() == {A0: values[200:]}
    await world.clock.settle()
    assert world.arrived() == [{A0: 0}, {A0: 300}]


async def test_what_is_much_is_counted_over_all_partitions(world: World) -> None:
    world.assign(A0, B0)
    await world.clock.settle()
    values = {tp: world.append(tp, 3, n_bytes=50_000) for tp in (A0, B0)}
    world.answer()
    await world.clock.settle()
    assert not world.reader.waiting
    assert await world.values() == values


async def test_a_record_that_is_too_large_is_an_error_of_aiokafkas(world: World) -> None:
    world.assign(A0)
    await world.clock.settle()
    world.put(A0, batch_of(0, [b"large" * 100])[:100], 1)
    world.answer()
    await world.clock.settle()
    world.answer()
    await world.clock.settle()
    with pytest.raises(errors.RecordTooLargeError):
        await world.records()


async def test_a_record_that_is_broken_is_an_error_and_reading_goes_on(world: World) -> None:
    world.assign(A0)
    await world.clock.settle()
    data = bytearray(batch_of(0, [b"value"]))
    data[-3] ^= 1
    world.put(A0, bytes(data), 1)
    world.answer()
    with pytest.raises(errors.CorruptRecordException):
        await world.records()
    assert world.arrived() == [{A0: 0}, {A0: 0}]


async def test_a_partition_without_a_position_is_left_to_aiokafka(world: World) -> None:
    assignment = world.assign(A0, A1)
    await world.clock.settle()
    assignment.state_value(A1).await_reset(-2)
    values = world.append(A1, 1)
    world.answer()
    await world.clock.settle()
    world.answer()
    assert await world.values() == {A1: values}


async def test_a_position_that_was_moved_is_not_moved_back(world: World) -> None:
    """
    sought while the request is under way     its answer is of other records
    sought while records wait to be taken     so are they
    """
    assignment = world.assign(A0)
    state = assignment.state_value(A0)
    values = world.append(A0, 3)
    await world.clock.settle()
    world.fetcher.seek_to(A0, 1)
    world.answer()
    assert await world.values() == {}
    world.answer()
    await world.clock.settle()
    assert world.reader.waiting
    world.fetcher.seek_to(A0, 2)
    assert (await world.values(), state.position) == ({}, 2)
    world.answer()
    found = await world.values()
    assert (found, state.position) == ({A0: values}, 3) or found == {A0: values[2:]}
    assert [each[A0] for each in world.arrived()] == [0, 1, 2, 3]


async def test_what_is_given_back_is_not_read(world: World) -> None:
    """
    given back while the request is under way     its answer is nobody's
    given back while records wait to be taken     so are they
    """
    world.assign(A0)
    await world.clock.settle()
    world.append(A0, 1)
    under_way = world.asked[0]
    world.assign(A1)
    await world.clock.settle()
    world.answer(under_way)
    assert await world.values() == {}
    values = world.append(A1, 1)
    world.answer()
    await world.clock.settle()
    assert world.reader.waiting
    world.assign(A0, positions={A0: 1})
    await world.clock.settle()
    assert (world.reader.waiting, await world.values()) == ({}, {})
    world.assign(A1)
    await world.clock.settle()
    for asked in world.under_way:
        world.answer(asked)
    assert await world.values() == {A1: values}


async def test_a_connection_that_breaks_is_opened_anew(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.assign(A0)
    await world.clock.settle()
    world.down.add(1)
    with caplog.at_level(logging.WARNING):
        world.lines[0].reset()
        await world.clock.wait(1, 0.05)
    assert "a fetch request to broker 1 was not answered" in caplog.text
    world.down.clear()
    values = world.append(A0, 1)
    await world.clock.wait(1, 0.05)
    (asked,) = world.under_way
    assert asked.line is not world.lines[0]
    world.answer(asked)
    assert await world.values() == {A0: values}
    await world.clock.settle()
    n_asked = len(world.by_aiokafka)
    world.answer(world.under_way[0])
    await world.clock.settle()
    assert len(world.by_aiokafka) == n_asked, "the reader reads again"


async def test_a_broker_that_does_not_answer_is_given_up(world: World) -> None:
    world.assign(A0)
    await world.clock.settle()
    await world.clock.wait(TIMEOUT_S - 1)
    assert world.lines[0].closed_for == []
    await world.clock.wait(3)
    assert world.lines[0].closed_for == [CloseReason.CONNECTION_TIMEOUT]
    values = world.append(A0, 1)
    world.answer(world.under_way[0])
    assert await world.values() == {A0: values}


async def test_an_answer_that_cannot_be_read_ends_the_connection(world: World) -> None:
    world.assign(A0)
    await world.clock.settle()
    (asked,) = world.asked
    asked.line.answer(asked.number, b"short")
    await world.clock.settle()
    assert world.lines[0].closed_for == [CloseReason.CONNECTION_BROKEN]
    assert world.by_aiokafka == [1]


async def test_a_partition_nobody_asked_for_is_no_answer(world: World) -> None:
    world.assign(A0)
    await world.clock.settle()
    (asked,) = world.asked
    asked.positions[B0] = 0
    world.append(A0, 1)
    world.answer()
    await world.clock.settle()
    assert (world.reader.waiting, world.by_aiokafka) == ({}, [1])


@pytest.mark.parametrize(("versions", "own"), [((0, 10), False), ((12, 17), False), ((4, 11), True), ((11, 17), True)])
async def test_brokers_of_other_versions_are_left_to_aiokafka(
    world: World, versions: tuple[int, int], *, own: bool
) -> None:
    world.versions = versions
    world.connect(1)
    assignment = Assignment([A0])
    assignment.state_value(A0).seek(0)
    assert (world.reader._reading(assignment, 1) is not None) == own


UNUSUAL = ["given back", "no position", "records", "rack", "closed", "never connected", "unwanted", "paused"]


@pytest.mark.parametrize("what", ["usual", *UNUSUAL])
async def test_what_is_out_of_the_ordinary_is_left_to_aiokafka_from_the_beginning(world: World, what: str) -> None:
    assignment = Assignment([A0, A1])
    for tp in (A0, A1):
        assignment.state_value(tp).seek(0)
    match what:
        case "given back":
            assignment._unassign()
        case "no position":
            assignment.state_value(A1).await_reset(-2)
        case "records":
            world.fetcher._records[A0] = object()
        case "rack":
            world.fetcher._client_rack = "near"
        case "closed":
            world.lines[0].connection.close()
        case "never connected":
            world._conns.clear()
        case "unwanted":
            world.wanted.clear()
        case "paused":
            for tp in (A0, A1):
                assignment.state_value(tp).pause()
    assert (world.reader._reading(assignment, 1) is not None) == (what == "usual")
    world.fetcher._records.clear()


async def test_nothing_wanted_leaves_everything_to_aiokafka(world: World) -> None:
    """A table is being recovered, say."""
    world.wanted = set()
    world.assign(A0)
    await world.clock.settle()
    assert world.by_aiokafka == [1]


async def test_a_closed_fetcher_reads_nothing(world: World) -> None:
    world.assign(A0)
    await world.clock.settle()
    await world.fetcher.close()
    world.append(A0, 1)
    world.answer()
    await world.clock.wait(5)
    assert (world.reader.waiting, len(world.asked)) == ({}, 1)


# -- waiting for records -----------------------------------------------------------------------------------------------


async def test_who_waits_hears_of_records_here(world: World) -> None:
    world.assign(A0)
    arrival = asyncio.ensure_future(world.reader.arrival({A0}, 1.0))
    await world.clock.settle()
    assert not arrival.done()
    world.append(A0, 1)
    world.answer()
    assert await arrival is True


async def test_who_waits_hears_of_records_that_aiokafka_has(world: World) -> None:
    world.assign(A0)
    arrival = asyncio.ensure_future(world.reader.arrival({A0}, 1.0))
    await world.clock.settle()
    world.append(A0, 300, n_bytes=1_000)
    world.answer()
    assert await arrival is False
    assert await world.reader.arrival({A0}, 1.0) is False, "they are still there"


async def test_who_waits_waits_no_longer_than_told(world: World) -> None:
    world.assign(A0)
    arrival = asyncio.ensure_future(world.reader.arrival({A0}, 1.0))
    await world.clock.wait(0.5)
    for waiter in list(world.fetcher._fetch_waiters):
        world.fetcher._notify(waiter)  # somebody wants it to look again
    await world.clock.wait(0.4, 0.1)
    assert not arrival.done()
    await world.clock.wait(0.2, 0.1)
    assert await arrival is False
    assert not world.fetcher._fetch_waiters


# -- all of it ---------------------------------------------------------------------------------------------------------

PLACE = st.sampled_from(PLACES)
ACTIONS = st.one_of(
    st.tuples(st.just("append"), PLACE, st.integers(1, 4)),
    st.tuples(st.just("append much"), PLACE),
    st.tuples(st.just("compacted"), PLACE, st.integers(2, 5)),
    st.tuples(st.just("answer"), st.integers(0, 3)),
    st.tuples(st.just("refuse"), st.integers(0, 3), PLACE, st.sampled_from([NOT_LEADER, UNKNOWN, 3, 56])),
    st.tuples(st.just("move"), PLACE, st.sampled_from([1, 2])),
    st.tuples(st.just("break"), st.sampled_from([1, 2])),
    st.tuples(st.just("end"), st.sampled_from([1, 2])),
    st.tuples(st.just("pause"), PLACE),
    st.tuples(st.just("resume"), PLACE),
    st.tuples(st.just("unwant"), PLACE),
    st.tuples(st.just("want"), PLACE),
    st.tuples(st.just("back"), PLACE, st.floats(0, 1)),
    st.tuples(st.just("take")),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.05, 0.3, 50.0])),
    st.tuples(st.just("assign")),
)


@settings(max_examples=150, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=40), pace_s=st.sampled_from([0.0, 0.003]))
def test_whatever_happens_records_come_in_order_and_none_is_missing(
    actions: list[tuple[Any, ...]], pace_s: float
) -> None:
    """The oracle: from each position that was set, the offsets of the log, one after the other."""

    async def play() -> None:
        world = World()
        world.reader.pace_s = pace_s
        next_offset = dict.fromkeys(PLACES, 0)
        offsets: dict[TopicPartition, list[int]] = {tp: [] for tp in PLACES}
        state = world.assign(*PLACES)

        def check(found: dict[TopicPartition, list[Any]]) -> None:
            for tp, records in found.items():
                assert tp in world.wanted
                for record in records:
                    expected = next(offset for offset in offsets[tp] if offset >= next_offset[tp])
                    assert record.offset == expected, tp
                    assert record.value.startswith(f"{tp.topic}{tp.partition}:{record.offset}:".encode())
                    next_offset[tp] = record.offset + 1

        def append(tp: TopicPartition, n: int, n_bytes: int = 0) -> None:
            offsets[tp] += range(world.end(tp), world.end(tp) + n)
            world.append(tp, n, n_bytes=n_bytes)

        async def do(kind: str, *given: Any) -> None:
            nonlocal state
            match kind, *given:
                case "append", tp, n:
                    append(tp, n)
                case "append much", tp:
                    append(tp, 3, 100_000)
                case "compacted", tp, n:
                    first = world.end(tp)
                    offsets[tp].append(first)
                    value = f"{tp.topic}{tp.partition}:{first}:".encode()
                    world.put(tp, batch_of(first, [value], next_offset=first + n), first + n)
                case "answer", n:
                    if world.under_way:
                        world.answer(_oldest(world, n))
                case "refuse", n, tp, code:
                    if world.under_way:
                        world.answer(_oldest(world, n), {tp: code})
                case "move", tp, node:
                    world.leaders[tp] = node
                case (("break" | "end"), node):
                    connection = world._conns.get((node, 0))
                    line = next((each for each in world.lines if each.connection is connection), None)
                    if line is not None and connection.connected():
                        line.reset() if kind == "break" else line.end()
                case "pause", tp:
                    state.state_value(tp).pause()
                case "resume", tp:
                    state.state_value(tp).resume()
                case "unwant", tp:
                    world.wanted.discard(tp)
                case "want", tp:
                    world.wanted.add(tp)
                case "back", tp, share:
                    next_offset[tp] = int(share * next_offset[tp])
                    world.fetcher.seek_to(tp, next_offset[tp])
                case ("take",):
                    check(await world.records())
                case "wait", seconds:
                    await world.clock.wait(seconds, seconds / 5)
                case ("assign",):
                    state = world.assign(*PLACES, positions=next_offset)

        for action in actions:
            await do(*action)
            await world.clock.settle(3)
        world.wanted.update(PLACES)
        for tp in PLACES:
            if state.state_value(tp).paused:
                state.state_value(tp).resume()
        for _ in range(200):
            await world.clock.wait(0.2, 0.1)
            for asked in world.under_way:
                world.answer(asked)
                await world.clock.settle()
            check(await world.records())
            if all(next_offset[tp] > (offsets[tp] or [-1])[-1] for tp in PLACES):
                break
        else:
            raise AssertionError(f"{next_offset} of {dict(world._next)}")
        await world.close()

    with asyncio.Runner() as runner:
        runner.run(play())


def _oldest(world: World, n: int) -> Asked:
    """The oldest request under way of one of the lines."""
    lines = list(dict.fromkeys(asked.line for asked in world.under_way))
    line = lines[n % len(lines)]
    return next(asked for asked in world.under_way if asked.line is line)


def test_what_fetches_ask_for_can_be_changed() -> None:
    some = SimpleNamespace(_fetcher=SimpleNamespace())
    ask_for(some, max_wait_ms=20, min_bytes=7)
    assert vars(some._fetcher) == {"_fetch_max_wait_ms": 20, "_fetch_min_bytes": 7}

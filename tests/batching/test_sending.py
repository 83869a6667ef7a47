"""Produce requests, with brokers whose answers the test gives by hand and a time that only the test moves on."""

from __future__ import annotations

import asyncio
import gc
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.conn import CloseReason
from aiokafka.protocol.admin import ApiVersionRequest, ApiVersionResponse_v0
from aiokafka.protocol.produce import (
    ProduceRequest,
    ProduceResponse_v3,
    ProduceResponse_v4,
    ProduceResponse_v5,
    ProduceResponse_v6,
    ProduceResponse_v7,
)
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.batching import sending
from stream.batching.frames import Frames
from stream.batching.sending import Lane, Sender
from tests.batching.lines import Clock, Line, Received

A0, A1, B0, B1 = (TopicPartition(topic, partition) for topic in "ab" for partition in (0, 1))
TIMEOUT_S = 30.0
BACKOFF_S = 0.1
MAX_BYTES = 1_000
ANSWERS = {
    3: ProduceResponse_v3,
    4: ProduceResponse_v4,
    5: ProduceResponse_v5,
    6: ProduceResponse_v6,
    7: ProduceResponse_v7,
}


@dataclass(eq=False)
class Asked:
    """A produce request that a broker has."""

    line: Line
    number: int
    version: int
    client_id: str
    timeout_ms: int
    batches: dict[TopicPartition, bytes]
    answered: bool = False

    def answer(
        self,
        codes: Mapping[TopicPartition, int] | None = None,
        offsets: Mapping[TopicPartition, int] | None = None,
        but: Iterable[TopicPartition] = (),
    ) -> None:
        """Error codes are 0 and offsets 7 where nothing else is said; `but` are left out."""
        topics = defaultdict(list)
        for place in self.batches:
            if place not in but:
                result = place.partition, (codes or {}).get(place, 0), (offsets or {}).get(place, 7), -1
                topics[place.topic].append(result if self.version < 5 else (*result, 0))
        self.answered = True
        self.line.answer(self.number, ANSWERS[self.version](list(topics.items()), 0).encode())


class FakeClient:
    """Knows leaders, learns of others when it asks, and opens lines."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._conns: dict[tuple[int, int], Any] = {}
        self.leaders: dict[TopicPartition, int | None] = defaultdict(lambda: 1)
        self.news: dict[TopicPartition, int | None] = {}
        self.cluster = SimpleNamespace(leader_for_partition=self.leaders.__getitem__)
        self.versions: tuple[int, int] | None = (0, 9)
        self.n_asked = 0
        self.waited_for: list[str] = []
        self.no_metadata: BaseException | None = None
        self.opened: list[tuple[int, int]] = []
        self.refusals: list[BaseException | str] = []
        """What becomes of the next lines: an exception, "refused", or "gone" as soon as open."""

    def force_metadata_update(self) -> None:
        self.n_asked += 1
        self.leaders.update(self.news)

    async def _wait_on_metadata(self, topic: str) -> None:
        self.waited_for.append(topic)
        await asyncio.sleep(0)
        if self.no_metadata is not None:
            raise self.no_metadata
        if any(leader is None for place, leader in self.leaders.items() if place.topic == topic):
            self.force_metadata_update()

    async def ready(self, node: int, *, group: int) -> bool:
        await asyncio.sleep(0)
        if self.refusals:
            refusal = self.refusals.pop(0)
            if isinstance(refusal, BaseException):
                raise refusal
            if refusal == "gone":
                self._world.connect(node, group).connection.close()
                return True
            self.force_metadata_update()
            return False
        known = self._conns.get((node, group))
        if known is None or not known.connected():
            self.opened.append((node, group))
            self._world.connect(node, group)
        return True


class World:
    """A sender, its client, and brokers that answer when told to; it has the time of its event loop."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.others: list[int] = []
        self.client = FakeClient(self)
        self.lines: list[Line] = []
        self.asked: list[Asked] = []
        self.written: list[bytes] = []
        self._n_seen = 0
        self.sender = Sender(self.client, timeout_s=TIMEOUT_S, max_request_bytes=MAX_BYTES)

    def connect(self, node: int = 1, lane: int = Lane.FIRST) -> Line:
        versions = {18: (0, 0)} | ({} if self.client.versions is None else {0: self.client.versions})
        line = Line(node, lane, versions, self._received, self.client.force_metadata_update)
        self.lines.append(line)
        self.client._conns[node, lane] = line.connection
        return line

    def _received(self, line: Line, request: Received) -> None:
        if request.api != 0:
            self.others.append(request.number)
            return
        asked = ProduceRequest._CLASSES[request.version].decode(request.body)
        assert (asked.transactional_id, asked.required_acks, request.body.read()) == (None, -1, b"")
        batches = {TopicPartition(topic, p): batch for topic, those in asked.topics for p, batch in those}
        assert len(batches) == sum(len(those) for _, those in asked.topics)
        self.written.append(request.data)
        self.asked.append(Asked(line, request.number, request.version, request.client_id, asked.timeout, batches))

    def put(self, place: TopicPartition, data: bytes | bytearray, lane: Lane = Lane.FIRST) -> asyncio.Future[int]:
        return self.sender.put(place.topic, place.partition, data, lane)

    def send(self, *batches: tuple[TopicPartition, bytes], lane: Lane = Lane.FIRST) -> list[asyncio.Future[int]]:
        delivered = [self.put(place, data, lane) for place, data in batches]
        self.sender.flush()
        return delivered

    def arrived(self) -> list[Asked]:
        """Requests that brokers got since this was last asked."""
        new = self.asked[self._n_seen :]
        self._n_seen = len(self.asked)
        return new

    def what_arrived(self) -> list[dict[TopicPartition, bytes]]:
        return [request.batches for request in self.arrived()]

    async def settle(self) -> None:
        """Let everything that can run, run."""
        await self.clock.settle()

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        await self.clock.wait(seconds)

    async def close(self) -> None:
        self.sender.close()
        for line in self.lines:
            line.connection.close()
        await self.settle()
        self.clock.stop()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """With both connections to broker 1 open."""
    world = World()
    world.connect(1, Lane.FIRST)
    world.connect(1, Lane.BEHIND)
    yield world
    await world.close()


def failure(delivered: asyncio.Future[int]) -> tuple[type[BaseException], str]:
    error = delivered.exception()
    return type(error), str(error)


def in_a_world(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Play one example of a property."""

    async def play() -> None:
        world = World()
        try:
            await scenario(world)
        finally:
            await world.close()

    with asyncio.Runner() as runner:
        runner.run(play())


# -- the words ---------------------------------------------------------------------------------------------------------

TOPICS = st.text(min_size=1, max_size=8)
PLACES = st.builds(TopicPartition, TOPICS, st.integers(0, 2**31 - 1))
BATCHES = st.dictionaries(PLACES, st.binary(max_size=40), min_size=1, max_size=8)


@settings(max_examples=60)
@given(batches=BATCHES, version=st.sampled_from(sorted(ANSWERS)), client_id=st.text(max_size=12), mutable=st.booleans())
def test_a_request_is_what_aiokafka_writes(
    batches: dict[TopicPartition, bytes], version: int, client_id: str, *, mutable: bool
) -> None:
    async def scenario(world: World) -> None:
        world.client.versions = (0, version)
        sender = Sender(world.client, timeout_s=12.5, max_request_bytes=MAX_BYTES)
        line = world.connect()
        line.connection._client_id = client_id
        for place, data in batches.items():
            sender.put(place.topic, place.partition, bytearray(data) if mutable else data)
        sender.flush()
        sender.close()

        topics: dict[str, list[tuple[int, bytes]]] = {}
        for place, data in batches.items():
            topics.setdefault(place.topic, []).append((place.partition, data))
        request = ProduceRequest(None, -1, 12_500, list(topics.items())).prepare(line.connection._versions)
        assert version == request.API_VERSION
        header = request.build_request_header(correlation_id=line.connection._correlation_id, client_id=client_id)
        message = header.encode() + request.encode()
        assert world.written == [struct.pack(">i", len(message)) + message]

    in_a_world(scenario)


@given(
    version=st.sampled_from(sorted(ANSWERS)),
    results=st.dictionaries(PLACES, st.tuples(st.integers(-1, 100), st.integers(-1, 2**63 - 1)), max_size=8),
    others=st.tuples(*[st.integers(-1, 2**63 - 1)] * 2),
    throttle_ms=st.integers(0, 2**31 - 1),
)
def test_an_answer_says_what_aiokafka_reads_in_it(
    version: int, results: dict[TopicPartition, tuple[int, int]], others: tuple[int, int], throttle_ms: int
) -> None:
    topics = defaultdict(list)
    for place, result in results.items():
        topics[place.topic].append((place.partition, *result, *others[: 1 if version < 5 else 2]))
    answer = ANSWERS[version](list(topics.items()), throttle_ms).encode()
    read = ANSWERS[version].decode(answer)
    expected = {
        TopicPartition(topic, partition): (code, offset)
        for topic, those in read.topics
        for partition, code, offset, *_ in those
    }
    assert expected == results
    assert sending._decoded(answer, version) == expected


@pytest.mark.parametrize(("taken", "spoken"), [((0, 3), 3), ((3, 5), 5), ((0, 7), 7), ((3, 12), 7), ((7, 9), 7)])
async def test_the_newest_version_is_spoken_that_both_know(world: World, taken: tuple[int, int], spoken: int) -> None:
    world.lines[0].connection._versions[0] = taken
    (delivered,) = world.send((A0, b"1"))
    (request,) = world.arrived()
    assert request.version == spoken
    request.answer(offsets={A0: 2**40})
    assert delivered.result() == 2**40


@pytest.mark.parametrize("taken", [(0, 2), (8, 12), None])
async def test_a_broker_that_knows_none_of_the_versions_is_told_apart(
    world: World, taken: tuple[int, int] | None
) -> None:
    world.client.versions = taken
    world.connect(1, Lane.FIRST)
    for _ in range(2):
        delivered = world.send((A0, b"1"), (B0, b"2"))
        assert [failure(each)[0] for each in delivered] == [errors.UnsupportedVersionError] * 2
    assert world.arrived() == []
    await world.sender.drained()


async def test_a_broker_that_knows_none_of_the_versions_fails_all_batches_of_a_partition(world: World) -> None:
    world.client.versions = (0, 2)
    world.connect(1, Lane.FIRST)
    delivered = world.send((A0, b"1"), (A0, b"2"), (A0, b"3"))
    await world.wait(1.0)
    assert [each.done() and failure(each)[0] for each in delivered] == [errors.UnsupportedVersionError] * 3


# -- which request, and when -------------------------------------------------------------------------------------------


async def test_a_flush_writes_one_request_for_each_broker_and_lane(world: World) -> None:
    """
    first     a/0 a/1 ──► broker 1    b/0 ──► broker 2
    behind    b/1 ──► broker 1
    """
    world.connect(2)
    world.client.leaders[B0] = 2
    delivered = [world.put(A0, b"1"), world.put(B1, b"2", Lane.BEHIND), world.put(B0, b"3"), world.put(A1, b"4")]
    assert world.arrived() == []
    world.sender.flush()
    requests = world.arrived()
    assert {(request.line.node, request.line.lane): request.batches for request in requests} == {
        (1, Lane.FIRST): {A0: b"1", A1: b"4"},
        (2, Lane.FIRST): {B0: b"3"},
        (1, Lane.BEHIND): {B1: b"2"},
    }
    assert {(request.client_id, request.timeout_ms) for request in requests} == {("client", 30_000)}
    for request in requests:
        request.answer(offsets={A0: 10, A1: 11, B0: 12, B1: 13})
    assert [each.result() for each in delivered] == [10, 13, 12, 11]
    assert world.client.opened == []
    assert world.sender.n_failed == 0


async def test_what_was_flushed_is_not_written_again(world: World) -> None:
    world.send((A0, b"1"))
    world.sender.flush()
    assert world.what_arrived() == [{A0: b"1"}]
    world.asked[0].answer()
    world.sender.flush()
    assert world.arrived() == []


async def test_a_batch_waits_while_the_one_before_it_is_under_way(world: World) -> None:
    """
    a/0   1 ──────► answered, 2 ──────► answered, 3
    """
    delivered = [*world.send((A0, b"1")), *world.send((A0, b"2")), *world.send((A0, b"3"))]
    for i, data in enumerate([b"1", b"2", b"3"]):
        (request,) = world.arrived()
        assert request.batches == {A0: data}
        assert [each.done() for each in delivered] == [j < i for j in range(3)]
        request.answer(offsets={A0: i})
    assert [each.result() for each in delivered] == [0, 1, 2]


async def test_what_waits_in_several_partitions_leaves_together(world: World) -> None:
    world.send((A0, b"1"), (A1, b"1"))
    world.send((A0, b"2"), (A1, b"2"))
    (request,) = world.arrived()
    request.answer()
    assert world.what_arrived() == [{A0: b"2", A1: b"2"}]


async def test_neither_the_other_lane_nor_another_partition_holds_a_batch_up(world: World) -> None:
    """
    behind    b/0  1 ────────────────────
    first     a/0     2 ─────────────────
              a/1        3 ──► answered
    """
    world.send((B0, b"1"), lane=Lane.BEHIND)
    world.send((A0, b"2"))
    (waited,) = world.send((A1, b"3"))
    requests = world.arrived()
    assert [request.batches for request in requests] == [{B0: b"1"}, {A0: b"2"}, {A1: b"3"}]
    assert [request.line.lane for request in requests] == [Lane.BEHIND, Lane.FIRST, Lane.FIRST]
    requests[1].answer()
    requests[2].answer(offsets={A1: 5})
    assert waited.result() == 5


@pytest.mark.parametrize(
    ("sizes", "requests"),
    [
        ([500, 500, 1], [[500, 500], [1]]),
        ([999, 1, 1], [[999, 1], [1]]),
        ([1, 5_000, 2, 3], [[1], [5_000], [2, 3]]),
        ([5_000, 5_000], [[5_000], [5_000]]),
    ],
)
async def test_requests_are_split_by_size_but_a_batch_too_large_goes_alone(
    world: World, sizes: list[int], requests: list[list[int]]
) -> None:
    delivered = world.send(*((TopicPartition("a", i), b"x" * size) for i, size in enumerate(sizes)))
    asked = world.arrived()
    assert [[len(data) for data in request.batches.values()] for request in asked] == requests
    for request in asked:
        request.answer()
    assert [each.result() for each in delivered] == [7] * len(sizes)


async def test_answers_count_as_well_while_aiokafka_still_reads_the_connection(world: World) -> None:
    """The client has asked something, so its reader cannot be replaced yet."""
    line = world.lines[0]
    versions = asyncio.ensure_future(line.connection.send(ApiVersionRequest()))
    await world.settle()
    (first,) = world.send((A0, b"1"))
    line.bring(struct.pack(">i", *world.others) + ApiVersionResponse_v0(0, []).encode())
    await world.settle()
    world.arrived()[0].answer()
    await world.settle()
    assert (first.result(), (await versions).error_code) == (7, 0)
    assert not isinstance(line.protocol, Frames)
    (second,) = world.send((A0, b"2"))
    world.arrived()[0].answer()
    assert second.result() == 7
    assert isinstance(line.protocol, Frames)


async def test_a_batch_for_which_nobody_waits_any_more_is_sent_and_holds_up_nothing(world: World) -> None:
    delivered = [*world.send((A0, b"1")), *world.send((A0, b"2")), *world.send((A0, b"3"))]
    delivered[0].cancel()
    delivered[1].cancel()
    world.arrived()[0].answer()
    world.arrived()[0].answer({A0: 10})
    world.arrived()[0].answer()
    assert delivered[2].result() == 7


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [e for e in errors.kafka_errors.values() if e.retriable], ids=lambda e: e.__name__)
async def test_what_may_pass_is_tried_again_while_others_go_on(
    world: World, error: type[errors.BrokerResponseError]
) -> None:
    """
    a/0   1 refused                    0.1 s   1 ──► answered, 2
    a/1   1 answered, 2 ──► answered, 3 ──► answered
    """
    first, other = world.send((A0, b"1"), (A1, b"1"))
    world.send((A0, b"2"), (A1, b"2"))
    (request,) = world.arrived()
    request.answer({A0: error.errno}, {A0: -1, A1: 4})
    assert (first.done(), other.result()) == (False, 4)
    world.send((A0, b"3"), (A1, b"3"))
    (request,) = world.arrived()
    assert request.batches == {A1: b"2"}
    request.answer()
    (request,) = world.arrived()
    assert request.batches == {A1: b"3"}
    request.answer()
    await world.wait(0.9 * BACKOFF_S)
    assert world.arrived() == []
    await world.wait(0.1 * BACKOFF_S)
    (request,) = world.arrived()
    assert request.batches == {A0: b"1"}
    request.answer(offsets={A0: 9})
    assert first.result() == 9
    assert world.what_arrived() == [{A0: b"2"}]
    assert world.client.n_asked == int(error.invalid_metadata)
    assert world.sender.n_failed == 1


async def test_a_new_leader_gets_what_the_former_one_refused(world: World) -> None:
    second = world.connect(2)
    world.client.news = {A0: 2}
    (delivered,) = world.send((A0, b"1"))
    world.arrived()[0].answer({A0: errors.NotLeaderForPartitionError.errno})
    await world.wait(BACKOFF_S)
    (request,) = world.arrived()
    assert request.line is second
    request.answer()
    assert delivered.result() == 7


async def test_what_may_pass_is_tried_again_until_the_batch_is_too_old(world: World) -> None:
    """Counted from `put`; the next one still has its time."""
    (first,) = world.send((A0, b"1"))
    await world.wait(TIMEOUT_S / 2)
    (second,) = world.send((A0, b"2"))
    n_tried = 0
    while not first.done():
        for request in world.arrived():
            assert request.batches == {A0: b"1"}
            n_tried += 1
            request.answer({A0: 5 if n_tried % 2 else 6})
        await world.wait(0.5)
        assert n_tried < 100
    assert failure(first)[0] in {errors.LeaderNotAvailableError, errors.NotLeaderForPartitionError}
    assert TIMEOUT_S / 2 / 0.5 <= n_tried <= TIMEOUT_S / 2 / 0.5 + 4
    await world.wait(BACKOFF_S)
    (request,) = world.arrived()
    assert request.batches == {A0: b"2"}
    request.answer()
    assert second.result() == 7


async def test_a_batch_that_is_too_old_is_not_tried_again(world: World) -> None:
    delivered = world.send((A0, b"1"))
    world.clock.now_s += TIMEOUT_S + 0.1  # the answer is there before anybody looks
    world.arrived()[0].answer({A0: 7})
    assert failure(delivered[0])[0] is errors.RequestTimedOutError
    await world.wait(1.0)
    assert world.arrived() == []


@pytest.mark.parametrize("code", [-1, 1, 2, 10, 17, 18, 29, 45, 87, 90])
async def test_what_does_not_pass_fails_at_once_and_the_next_goes_on(world: World, code: int) -> None:
    first, other = world.send((A0, b"1"), (A1, b"1"))
    (second,) = world.send((A0, b"2"))
    world.arrived()[0].answer({A0: code})
    assert failure(first)[0] is errors.for_code(code)
    assert "a/0" in failure(first)[1]
    assert other.result() == 7
    assert world.what_arrived() == [{A0: b"2"}]
    world.asked[-1].answer()
    assert second.result() == 7
    assert (world.sender.n_failed, world.client.n_asked) == (1, 0)


async def test_an_older_epoch_is_a_fenced_producer(world: World) -> None:
    (delivered,) = world.send((A0, b"1"))
    world.arrived()[0].answer({A0: 47})
    assert failure(delivered)[0] is errors.ProducerFenced


async def test_a_batch_that_the_broker_had_already_is_delivered(world: World) -> None:
    first, second = world.send((A0, b"1"), (A0, b"2"))
    world.arrived()[0].answer({A0: 46}, {A0: -1})
    assert first.result() == -1
    world.arrived()[0].answer()
    assert second.result() == 7
    assert world.sender.n_failed == 0


async def test_a_partition_of_which_the_answer_says_nothing_fails(world: World) -> None:
    first, other = world.send((A0, b"1"), (B0, b"1"))
    (second,) = world.send((A0, b"2"))
    world.arrived()[0].answer(but=[A0])
    assert failure(first)[0] is errors.UnknownError
    assert other.result() == 7
    world.arrived()[0].answer()
    assert second.result() == 7


async def test_a_failure_that_nobody_looks_at_is_not_reported_as_forgotten(world: World) -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    world.send((A0, b"1"))
    world.arrived()[0].answer({A0: 10})
    gc.collect()
    assert reported == []


# -- connections -------------------------------------------------------------------------------------------------------


def broken_off(line: Line) -> None:
    line.bring(b"\0")


def out_of_turn(line: Line) -> None:
    line.bring(struct.pack(">i", 999))


def unreadable(line: Line) -> None:
    line.bring(struct.pack(">ii", line.connection._requests[0][0], 5))


@pytest.mark.parametrize("end", [Line.end, Line.reset, broken_off, out_of_turn, unreadable])
async def test_all_batches_of_a_broken_connection_are_sent_again_on_another(
    world: World, end: Callable[[Line], None]
) -> None:
    """
    line 1    a/0 1, a/1 1    b/0 1    broken
    line 2                                   0.1 s   a/0 1, a/1 1, b/0 1    ──► answered, a/0 2
    """
    delivered = [*world.send((A0, b"1"), (A1, b"1")), *world.send((B0, b"1")), *world.send((A0, b"2"))]
    first, second = world.arrived()
    end(first.line)
    assert not any(each.done() for each in delivered)
    assert world.client.n_asked > 0
    await world.wait(BACKOFF_S)
    again = world.arrived()
    assert [place for request in again for place in request.batches] == [A0, A1, B0]
    assert {data for request in again for data in request.batches.values()} == {b"1"}
    assert first.line.closed_for
    assert world.client.opened == [(1, Lane.FIRST)]
    assert {request.line for request in again}.isdisjoint({first.line, second.line})
    for request in again:
        request.answer()
    world.arrived()[0].answer(offsets={A0: 8})
    assert [each.result() for each in delivered] == [7, 7, 7, 8]


async def test_a_connection_that_broke_a_moment_ago_is_not_taken_for_a_good_one(world: World) -> None:
    """aiokafka still reads it, and its reader gets to know in the next turn of the loop.

    socket    reset
    reader          │ would hear of it
    sender         flush                ──► on another connection
    """
    world.lines[0].reset()
    world.send((A0, b"1"))
    await world.wait(BACKOFF_S)
    assert [request.line.is_closing() for request in world.arrived()] == [False]


async def test_the_other_lane_does_not_break_with_it(world: World) -> None:
    world.send((A0, b"1"))
    (behind,) = world.send((B0, b"1"), lane=Lane.BEHIND)
    first, other = world.arrived()
    first.line.reset()
    other.answer()
    assert behind.result() == 7


async def test_what_was_answered_before_the_break_is_not_sent_again(world: World) -> None:
    (first,), (second,) = world.send((A0, b"1")), world.send((A1, b"1"))
    requests = world.arrived()
    requests[0].answer()
    requests[0].line.end()
    await world.wait(BACKOFF_S)
    assert first.result() == 7
    assert world.what_arrived() == [{A1: b"1"}]
    assert not second.done()
    assert world.sender.n_failed == 1


async def test_a_break_fails_what_is_too_old(world: World) -> None:
    (delivered,) = world.send((A0, b"1"))
    world.clock.now_s += TIMEOUT_S + 0.1
    world.arrived()[0].line.reset()
    assert failure(delivered)[0] is errors.KafkaConnectionError
    await world.wait(BACKOFF_S)
    assert world.arrived() == []


async def test_a_connection_is_opened_once_for_all_that_wait_for_it(world: World) -> None:
    world.client.leaders.update({A0: 2, A1: 2})
    delivered = [*world.send((A0, b"1"), (A0, b"2")), *world.send((A1, b"1")), *world.send((A1, b"2"))]
    assert world.arrived() == []
    await world.settle()
    assert world.client.opened == [(2, Lane.FIRST)]
    while not all(each.done() for each in delivered):
        for request in world.arrived():
            assert request.line.node == 2
            request.answer()
    assert next(request.batches[A0] for request in world.asked if A0 in request.batches) == b"1"
    assert world.sender.n_failed == 0


@pytest.mark.parametrize("refusal", ["refused", "gone"])
async def test_a_connection_that_cannot_be_opened_is_tried_again(world: World, refusal: str) -> None:
    world.client.leaders[A0] = 2
    world.client.refusals = [refusal] * 2
    (delivered,) = world.send((A0, b"1"))
    await world.settle()
    assert (world.client.opened, len(world.client.refusals)) == ([], 1)
    world.send((A0, b"2"))
    await world.wait(2 * BACKOFF_S + 0.5)
    assert world.client.opened == [(2, Lane.FIRST)]
    assert world.what_arrived() == [{A0: b"1"}]
    world.asked[-1].answer()
    assert delivered.result() == 7
    assert world.what_arrived() == [{A0: b"2"}]
    assert world.sender.n_failed == 2


async def test_what_waits_for_a_connection_goes_to_the_leader_there_is_by_then(world: World) -> None:
    world.client.leaders[A0] = 2
    world.client.news = {A0: 1}
    world.client.refusals = ["refused"]
    world.send((A0, b"1"))
    await world.wait(BACKOFF_S)
    assert [(request.line.node, request.batches) for request in world.arrived()] == [(1, {A0: b"1"})]


async def test_an_error_that_the_client_does_not_know_holds_nothing_up_for_ever(world: World) -> None:
    """aiokafka lets through what is no OSError, time-out or KafkaError: an answer that SCRAM cannot prove, say."""
    world.client.leaders[A0] = 2
    world.client.refusals = [ValueError("Invalid server signature")]
    for _ in range(2):
        (delivered,) = world.send((A0, b"1"))
        await world.wait(1.0)
        for request in world.arrived():
            request.answer()
    assert delivered.done()
    assert delivered.result() == 7


# -- leaders -----------------------------------------------------------------------------------------------------------


async def test_a_topic_that_the_client_does_not_know_is_asked_for(world: World) -> None:
    """Nothing else waits for it, and what comes meanwhile keeps behind."""
    world.client.leaders[A0] = None
    world.client.news = {A0: 1}
    delivered = world.send((A0, b"1"), (B0, b"1"))
    (request,) = world.arrived()
    assert request.batches == {B0: b"1"}
    request.answer()
    world.send((A0, b"2"))
    await world.settle()
    assert world.client.waited_for == ["a"]
    assert world.what_arrived() == [{A0: b"1"}]
    world.asked[-1].answer()
    assert delivered[0].result() == 7
    assert world.what_arrived() == [{A0: b"2"}]


async def test_an_unknown_error_in_looking_for_a_leader_holds_nothing_up_for_ever(world: World) -> None:
    world.client.leaders[A0] = None
    world.client.no_metadata = ValueError("nobody knows why")
    (delivered,) = world.send((A0, b"1"))
    await world.wait(BACKOFF_S)
    assert world.arrived() == []
    world.client.no_metadata = None
    world.client.leaders[A0] = 1
    await world.wait(BACKOFF_S)
    (request,) = world.arrived()
    request.answer()
    assert delivered.result() == 7


@pytest.mark.parametrize("unknown", [None, -1])
async def test_a_partition_without_a_leader_is_asked_for_until_it_has_one(world: World, unknown: int | None) -> None:
    world.client.leaders[A0] = unknown
    (delivered,) = world.send((A0, b"1"))
    for _ in range(3):
        await world.wait(BACKOFF_S)
    assert world.arrived() == []
    assert len(world.client.waited_for) == 4
    assert world.client.n_asked >= 3
    world.client.news = {A0: 1}
    world.client.force_metadata_update()
    await world.wait(BACKOFF_S)
    world.arrived()[0].answer()
    assert delivered.result() == 7


async def test_a_topic_that_may_not_be_seen_fails_all_its_batches(world: World) -> None:
    world.client.leaders[A0] = None
    world.client.no_metadata = errors.TopicAuthorizationFailedError("a")
    delivered = [*world.send((A0, b"1"), (A0, b"2")), *world.send((A0, b"3"))]
    (other,) = world.send((B0, b"1"))
    await world.settle()
    assert [failure(each)[0] for each in delivered] == [errors.TopicAuthorizationFailedError] * 3
    world.arrived()[0].answer()
    assert other.result() == 7
    world.client.no_metadata, world.client.news = None, {A0: 1}
    (later,) = world.send((A0, b"4"))
    await world.settle()
    world.arrived()[0].answer()
    assert later.result() == 7


# -- time --------------------------------------------------------------------------------------------------------------


async def test_a_request_that_is_not_answered_in_time_ends_its_connection(world: World) -> None:
    """
    a/0   1 ─────────────────── 30 s, failed
    b/0           2 ────────────────┘ too young: once more on another connection
    """
    (old,) = world.send((A0, b"1"))
    await world.wait(TIMEOUT_S / 2)
    (young,) = world.send((B0, b"2"))
    world.arrived()
    line = world.lines[0]
    await world.wait(TIMEOUT_S / 2 - 0.5)
    assert line.closed_for == []
    await world.wait(2.5)
    assert line.closed_for == [CloseReason.CONNECTION_TIMEOUT]
    assert failure(old)[0] is errors.RequestTimedOutError
    (request,) = world.arrived()
    assert (request.batches, request.line.node) == ({B0: b"2"}, 1)
    assert request.line is not line
    request.answer()
    assert young.result() == 7


async def test_no_answer_on_one_lane_leaves_the_other_alone(world: World) -> None:
    world.send((A0, b"1"))
    await world.wait(TIMEOUT_S - 1)
    (behind,) = world.send((B0, b"1"), lane=Lane.BEHIND)
    await world.wait(3.0)
    assert [line.closed_for for line in world.lines[:2]] == [[CloseReason.CONNECTION_TIMEOUT], []]
    world.arrived()[-1].answer()
    assert behind.result() == 7


async def test_a_partition_that_never_has_a_leader_fails_with_that(world: World) -> None:
    world.client.leaders[A0] = -1
    (delivered,) = world.send((A0, b"1"))
    await world.wait(TIMEOUT_S - 0.5)
    assert not delivered.done()
    await world.wait(2.5)
    assert failure(delivered)[0] is errors.LeaderNotAvailableError
    assert "a" in failure(delivered)[1]
    await world.sender.drained()


async def test_a_broker_that_is_never_there_fails_what_it_should_get(world: World) -> None:
    """Each batch in its own time."""
    world.client.leaders[A0] = 2
    world.client.refusals = ["refused"] * 1_000
    (first,) = world.send((A0, b"1"))
    await world.wait(TIMEOUT_S / 2)
    (second,) = world.send((A0, b"2"))
    await world.wait(TIMEOUT_S / 2 + 2)
    assert failure(first)[0] is errors.KafkaTimeoutError
    assert not second.done()
    world.client.refusals = []
    await world.wait(1.0)
    assert world.what_arrived() == [{A0: b"2"}]


def refused(request: Asked) -> None:
    request.answer({A0: 6})


def reset(request: Asked) -> None:
    request.line.reset()


@pytest.mark.parametrize(
    ("problem", "error"),
    [(refused, errors.NotLeaderForPartitionError), (reset, errors.KafkaConnectionError)],
)
async def test_a_batch_that_cannot_be_sent_again_fails_with_why_it_had_to_be(
    world: World, problem: Callable[[Asked], None], error: type[errors.KafkaError]
) -> None:
    """What was queued behind it was never sent, and does not fail with that."""
    world.client.news = {A0: 2}
    world.client.refusals = ["refused"] * 1_000
    first, second = world.send((A0, b"1"), (A0, b"2"))
    problem(world.arrived()[0])
    await world.wait(TIMEOUT_S + 2)
    assert [failure(each)[0] for each in (first, second)] == [error, errors.KafkaTimeoutError]
    assert world.arrived() == []


async def test_a_batch_that_nobody_flushes_expires_and_is_not_sent_later(world: World) -> None:
    delivered = world.put(A0, b"1")
    await world.wait(TIMEOUT_S + 2)
    assert failure(delivered)[0] is errors.KafkaTimeoutError
    world.sender.flush()
    assert world.arrived() == []
    world.send((A0, b"2"))
    assert world.what_arrived() == [{A0: b"2"}]


async def test_a_batch_under_way_does_not_expire_while_its_request_has_time(world: World) -> None:
    """Whoever failed it then could not know that it is not in the log."""
    (delivered,) = world.send((A0, b"1"))
    await world.wait(TIMEOUT_S - 1)
    world.arrived()[0].answer({A0: 6})
    await world.wait(BACKOFF_S)
    (request,) = world.arrived()
    await world.wait(TIMEOUT_S - 2)
    assert not delivered.done()
    request.answer()
    assert delivered.result() == 7


async def test_time_is_looked_at_again_after_a_quiet_while(world: World) -> None:
    world.send((A0, b"1"))
    world.arrived()[0].answer()
    await world.wait(10 * TIMEOUT_S)
    (delivered,) = world.send((A0, b"2"))
    assert world.what_arrived() == [{A0: b"2"}]
    await world.wait(TIMEOUT_S + 2)
    assert failure(delivered)[0] is errors.RequestTimedOutError


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_drained_waits_for_all_that_is_on_its_way(world: World) -> None:
    await world.sender.drained()
    world.send((A0, b"1"), (A0, b"2"), (A1, b"1"))
    drained = asyncio.ensure_future(world.sender.drained())
    world.asked[0].answer({A1: 10})
    await world.settle()
    assert not drained.done()
    world.asked[1].answer({A0: 6})
    await world.settle()
    assert not drained.done()
    await world.wait(BACKOFF_S)
    world.asked[2].answer()
    await world.settle()
    assert drained.done()
    world.send((A0, b"3"))
    drained = asyncio.ensure_future(world.sender.drained())
    await world.settle()
    assert not drained.done()
    world.asked[3].answer()
    await drained


async def test_close_fails_all_that_is_on_its_way_and_a_late_answer_is_harmless(world: World) -> None:
    """Under way, behind that, to be sent again, without a connection, without a leader, not flushed."""
    world.client.leaders.update({B0: 2, B1: -1})
    c0, c1 = TopicPartition("c", 0), TopicPartition("c", 1)
    delivered = world.send((c0, b"1"))
    world.arrived()[0].answer({c0: 6})
    delivered += world.send((A0, b"1"), (A0, b"2"), (B0, b"1"), (B1, b"1"))
    delivered += world.send((A1, b"1"))
    delivered.append(world.put(c1, b"1"))
    late, lost = world.arrived()
    tasks = set(world.sender._tasks)
    assert len(tasks) == 3
    world.sender.close()
    assert [failure(each)[0] for each in delivered] == [errors.ProducerClosed] * 7
    await world.sender.drained()
    late.answer()
    world.sender.flush()
    assert late.line.closed_for == []
    lost.line.end()
    await world.wait(2 * TIMEOUT_S)
    assert world.arrived() == []
    assert world.client.opened == []
    assert all(task.cancelled() for task in tasks)
    assert not world.sender._tasks


async def test_nothing_is_put_after_close(world: World) -> None:
    world.sender.close()
    with pytest.raises(errors.ProducerClosed):
        world.put(A0, b"1")
    world.sender.close()
    await world.sender.drained()


# -- everything at once ------------------------------------------------------------------------------------------------

RETRIED = [3, 5, 6, 7, 19, 56]
RETRIED_APPENDED = 20
"""Appended, but not by enough replicas."""
REFUSED = 10
PARTITIONS = [TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)]
LANES = {"a": Lane.FIRST, "b": Lane.BEHIND}


@dataclass
class Brokers:
    """Logs of all partitions, and what becomes of requests; each line's are taken in their order, as by a broker."""

    world: World
    logs: dict[TopicPartition, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: dict[bytes, int] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)

    def under_way(self) -> list[Asked]:
        return [each for each in self.world.asked if not each.answered and not each.line.is_closing()]

    def check(self) -> None:
        """Of each partition one batch at most is under way, and at its leader's only."""
        places = [place for request in self.under_way() for place in request.batches]
        assert len(places) == len(set(places))

    def append(self, place: TopicPartition, data: bytes) -> int:
        self.logs[place].append(data)
        return len(self.logs[place]) - 1

    def answer(self, request: Asked, codes: Mapping[TopicPartition, int]) -> None:
        offsets = {}
        for place, data in request.batches.items():
            code = codes.get(place, 0)
            if code in {0, RETRIED_APPENDED}:
                offsets[place] = self.append(place, data)
            if code == 0:
                self.acknowledged[data.strip()] = offsets[place]
            if code == REFUSED:
                self.refused.add(data.strip())
        request.answer(codes, offsets)

    def break_off(self, line: Line, n_appended: int, *, reset: bool) -> None:
        """The first batches that the line has brought are in the log, and nobody hears of it."""
        batches = [item for request in self.under_way() if request.line is line for item in request.batches.items()]
        for place, data in batches[:n_appended]:
            self.append(place, data)
        (line.reset if reset else line.end)()


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_brokers_do_batches_arrive_and_none_overtakes_another(data: st.DataObject) -> None:
    """Refusals, breaks before and after appending, answers that take their time, leaders that move or are lost.

    What was not refused for good was acknowledged; what is repeated in a log is repeated before anything newer.
    """

    async def scenario(world: World) -> None:
        brokers = Brokers(world)
        put: dict[TopicPartition, list[bytes]] = defaultdict(list)
        delivered: dict[bytes, asyncio.Future[int]] = {}

        def put_one() -> None:
            place = data.draw(st.sampled_from(PARTITIONS))
            batch = f"{place.topic}{place.partition}:{len(put[place])}".encode()
            put[place].append(batch)
            delivered[batch] = world.put(place, batch.ljust(data.draw(st.sampled_from([0, 600]))), LANES[place.topic])

        def answer_one() -> None:
            waiting = brokers.under_way()
            if waiting:
                line = data.draw(st.sampled_from(waiting)).line
                request = next(each for each in waiting if each.line is line)
                codes = st.sampled_from([0, 0, 0, REFUSED, RETRIED_APPENDED, *RETRIED])
                brokers.answer(request, {place: data.draw(codes) for place in request.batches})

        async def break_one() -> None:
            open_lines = [line for line in world.lines if not line.is_closing()]
            if open_lines:
                line = data.draw(st.sampled_from(open_lines))
                brokers.break_off(line, data.draw(st.integers(0, 3)), reset=data.draw(st.booleans()))
                if not isinstance(line.protocol, Frames):
                    await world.settle()  # aiokafka's reader hears of it a turn later, which has a test of its own

        def move_one() -> None:
            world.client.news[data.draw(st.sampled_from(PARTITIONS))] = data.draw(st.sampled_from([1, 2, -1, None]))
            if data.draw(st.booleans()):
                world.client.force_metadata_update()

        def refuse_one() -> None:
            world.client.refusals.append(data.draw(st.sampled_from(["refused", "gone"])))

        async def wait() -> None:
            await world.wait(data.draw(st.sampled_from([0.0, BACKOFF_S, 0.5])))

        deeds: list[Callable[[], Awaitable[None] | None]] = [put_one, world.sender.flush, answer_one] * 2
        deeds += [put_one, break_one, move_one, refuse_one, wait]
        for _ in range(data.draw(st.integers(1, 50))):
            done = data.draw(st.sampled_from(deeds))()
            if done is not None:
                await done
            brokers.check()

        world.client.news = dict.fromkeys(PARTITIONS, 1)
        world.client.refusals.clear()
        world.client.force_metadata_update()
        world.sender.flush()
        for _ in range(10 + 2 * len(delivered)):
            for request in brokers.under_way():
                brokers.answer(request, {})
            await world.wait(BACKOFF_S)
            brokers.check()
        assert all(future.done() for future in delivered.values())
        await world.sender.drained()
        for place in PARTITIONS:
            log = [batch.strip() for batch in brokers.logs[place]]
            assert list(dict.fromkeys(log)) == [batch for batch in put[place] if batch in set(log)]
            assert log == sorted(log, key=put[place].index)
        answered = {batch: future for batch, future in delivered.items() if batch not in brokers.refused}
        assert {batch: future.result() for batch, future in answered.items()} == brokers.acknowledged
        assert {type(delivered[batch].exception()) for batch in brokers.refused} <= {errors.MessageSizeTooLargeError}

    in_a_world(scenario)

"""Fetch requests of our own, answered by a call.

aiokafka reads in a routine: it makes a request and a task for it, is woken by the answer and again when the records
were taken, and each time looks at what every partition needs. That is for whatever may happen to a partition. While
nothing does, a fetch of the same partitions follows a fetch, and a request for it can be written by whoever took the
records of the last one:

    socket ──► answer ──► waiting records ──► `take` ──► (pace) ──► next request
                  │
                  └─ an error, much to read, a partition without a position, nothing wanted: back to the routine

The routine sees one of its requests under way meanwhile, and so leaves the broker alone. After it got the broker back
it fetches once itself, whereby it meets what was out of the ordinary, and whatever it does about errors, leaders that
moved, and offsets that are gone, is done by it alone.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiokafka import errors
from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.record import MemoryRecords
from aiokafka.structs import TopicPartition

from stream.batching import private as _private  # noqa: F401  (refuses other releases)
from stream.batching.frames import INT32, Request, string_at, string_of, take_frames

__all__ = ["Reader", "ask_for", "keep_parsed"]

logger = logging.getLogger(__name__)

_FETCH: Final = 1
_VERSION: Final = 11
"""The last before the flexible ones; brokers of 2019 know it."""
_LITTLE: Final = 256 << 10
"""Bytes. Where an answer has more, somebody is behind: aiokafka gives out so many records at a time, and fetches what
is next meanwhile."""
_LOOK_S: Final = 1.0


def ask_for(consumer: Any, *, max_wait_ms: int, min_bytes: int) -> None:
    """Fetches of `consumer` from now on are answered when `min_bytes` are there, after `max_wait_ms` at the latest."""
    fetcher = consumer._fetcher
    fetcher._fetch_max_wait_ms = max_wait_ms
    fetcher._fetch_min_bytes = min_bytes


def keep_parsed(result: FetchResult) -> None:
    """Let records be given out as aiokafka's parser made them.

    Another object for each, with more about it than the recovery of a table reads, is a third of its time.
    """
    if result.has_more():
        vars(result._partition_records)["_consumer_record"] = _as_parsed


def _as_parsed(_tp: TopicPartition, record: Any) -> Any:
    return record


class Reader:
    """Reads what a consumer of aiokafka's is assigned.

    Fetches are held back until `pace_s` after the last one to the same broker; 0 holds back nothing. The broker could
    wait as well, with `min_bytes` that never come. But then each record that arrives makes it look at the fetches that
    wait, and its clock adds a millisecond or two; and the time that a batch takes comes on top of the wait instead of
    into it.

    Args:
        consumer: aiokafka's, started.
        wanted: the partitions to read, of those assigned; what it gives is looked at before each request.
        parsed: those of them whose records are given out as they were parsed.

    Attributes:
        pace_s: see above.
        fetcher: aiokafka's, whose routine it stands in for.
        waiting: records that have arrived and were not taken.
    """

    def __init__(
        self, consumer: Any, wanted: Callable[[], Collection[Any]], parsed: Callable[[], Collection[Any]]
    ) -> None:
        self.pace_s = 0.0
        self.fetcher = consumer._fetcher
        self.wanted = wanted
        self._parsed = parsed
        self.waiting: dict[TopicPartition, FetchResult] = {}
        self._sent_s: dict[int, float] = {}
        self._fetch = self.fetcher._proc_fetch_request
        self._odd: set[int] = set()
        self._untaken: list[_Reading] = []
        self.fetcher._proc_fetch_request = self._process

    # -- for who takes the records -----------------------------------------------------------------------------------

    async def arrival(self, tps: Collection[Any], timeout_s: float) -> bool:
        """Wait until there is something to be had of `tps`, here or from aiokafka: whether something is here."""
        fetcher, loop = self.fetcher, asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while not self.waiting and fetcher._records.keys().isdisjoint(tps) and (now_s := loop.time()) < until_s:
            waiter = fetcher._create_fetch_waiter()
            timer = loop.call_later(until_s - now_s, fetcher._notify, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
        return bool(self.waiting)

    def take(self, tps: Collection[Any]) -> dict[TopicPartition, list[Any]]:
        """The records of `tps` that are here, whose positions move; others are read again later.

        Raises what aiokafka's parser does.
        """
        waiting, self.waiting = self.waiting, {}
        untaken, self._untaken = self._untaken, []
        found = {}
        parsed = self._parsed()
        try:
            for tp, result in waiting.items():
                if tp in parsed:
                    keep_parsed(result)
                if tp in tps and (records := result.getall()):
                    found[tp] = records
        finally:
            for reading in untaken:
                reading.go_on()
        return found

    # -- for aiokafka's routine --------------------------------------------------------------------------------------

    async def _process(self, assignment: Any, node: int, request: Any) -> bool:
        """Whether there are records for aiokafka to give out."""
        reading = None if node in self._odd else self._reading(assignment, node)
        self._odd.discard(node)
        try:
            if reading is not None:
                reading.go_on()
                some = await reading.over
                self._odd.add(node)
                return some
            ahead_s = self.ahead_s(node)
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
        except asyncio.CancelledError:  # given back, or closed: as while it waits for an answer
            return False
        finally:
            if reading is not None:
                reading.end()
        self.sent(node, asyncio.get_running_loop().time())
        found: bool = await self._fetch(assignment, node, request)
        return found

    def _reading(self, assignment: Any, node: int) -> _Reading | None:
        """What reads from a broker by itself, if that can be done now."""
        connection = self.fetcher._client._conns.get((node, ConnectionGroup.DEFAULT))
        if connection is None or self.fetcher._client_rack:
            return None
        low, high = connection._versions.get(_FETCH, (0, -1))
        reading = _Reading(self, assignment, node, connection)
        return reading if low <= _VERSION <= high and reading.askable() else None

    # -- for its readings --------------------------------------------------------------------------------------------

    def ahead_s(self, node: int) -> float:
        """How long until the next fetch from a broker is due."""
        last_s = self._sent_s.get(node)
        return 0.0 if last_s is None else last_s + self.pace_s - asyncio.get_running_loop().time()

    def sent(self, node: int, now_s: float) -> None:
        """A request has left."""
        self._sent_s[node] = now_s

    def arrived(self, reading: _Reading, results: Mapping[TopicPartition, FetchResult]) -> None:
        """There are records; the reading goes on when they are taken."""
        self.waiting.update(results)
        self._untaken.append(reading)
        for waiter in list(self.fetcher._fetch_waiters):
            self.fetcher._notify(waiter)

    def forget(self, reading: _Reading, tps: Collection[TopicPartition]) -> None:
        """A reading has ended, with all that was not taken of it."""
        if reading in self._untaken:
            self._untaken.remove(reading)
            for tp in tps:
                self.waiting.pop(tp, None)


@dataclass(slots=True, eq=False)
class _Reading:
    """Fetches from one broker, one after the other, as long as the assignment holds and nothing is out of the ordinary.

    `over` becomes whether there is something for aiokafka to give out.
    """

    reader: Reader
    assignment: Any
    node: int
    connection: Any
    over: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _request: _Request | None = None
    _n_sent: int = 0
    _timer: asyncio.TimerHandle | None = None
    _look_at: asyncio.TimerHandle | None = None
    _asked: dict[TopicPartition, int] = field(default_factory=dict)
    """The offsets from which partitions were asked for the last time."""

    def go_on(self) -> None:
        """Send the next request when it is due."""
        if self._look_at is None:
            self._look()
        ahead_s = self.reader.ahead_s(self.node)
        if ahead_s > 0:
            self._timer = asyncio.get_running_loop().call_later(ahead_s, self._send)
        else:
            self._send()

    def end(self, some: bool = False) -> None:
        """Leave it to aiokafka."""
        if not self.over.done():
            self.over.set_result(some)
        for timer in (self._timer, self._look_at):
            if timer is not None:
                timer.cancel()
        self.reader.forget(self, self._asked)

    def _send(self) -> None:
        asked = self.askable()
        if not asked:
            self.end()
            return
        take_frames(self.connection)
        turn = self._n_sent % len(asked)  # what is asked for first is answered first, where not all fits
        asked = asked[turn:] + asked[:turn]
        self._asked = dict(asked)
        self._n_sent += 1
        request = self._request = _Request(self, self.connection)
        self.reader.sent(self.node, request.since_s)
        request.write(_FETCH, _VERSION, _encoded(self.reader.fetcher, asked))

    def askable(self) -> list[tuple[TopicPartition, int]]:
        """Partitions and their positions; none where aiokafka has something to do, or nothing is wanted."""
        fetcher, assignment = self.reader.fetcher, self.assignment
        if not assignment.active or fetcher._records or not self.connection.connected():
            return []
        wanted = self.reader.wanted()
        leader = fetcher._client.cluster.leader_for_partition
        found = []
        for tp in assignment.tps:
            state = assignment.state_value(tp)
            if state.paused or leader(tp) != self.node:
                continue
            if not state.has_valid_position:
                return []
            if tp in wanted:
                found.append((tp, state.position))
        return found

    def answered(self, answer: bytes) -> None:
        self._request = None
        if self.over.done():
            return
        assignment, asked = self.assignment, self._asked
        code, parts = _decoded(answer)
        if code or any(part.code for part in parts):
            self.end()
            return
        results, n_bytes = {}, 0
        now_ms = int(1000 * time.time())
        for part in parts:
            tp, state = part.tp, assignment.state_value(part.tp)
            if not state.has_valid_position or state.position != asked[tp]:
                continue
            state.highwater, state.lso, state.timestamp = part.highwater, part.lso, now_ms
            if part.records:
                records = MemoryRecords(part.records)
                if not records.has_next():  # a record that is larger than what may be fetched
                    self.end()
                    return
                results[tp] = self._result(part, records, asked[tp])
                n_bytes += len(part.records)
        if n_bytes > _LITTLE:
            self.reader.fetcher._records.update(results)
            self.end(some=True)
        elif results:
            self.reader.arrived(self, results)
        else:
            self.go_on()

    def _result(self, part: _Part, records: Any, position: int) -> FetchResult:
        fetcher = self.reader.fetcher
        parser = PartitionRecords(
            part.tp,
            records,
            part.aborted,
            position,
            fetcher._key_deserializer,
            fetcher._value_deserializer,
            fetcher._check_crcs,
            fetcher._isolation_level,
        )
        return FetchResult(
            part.tp, partition_records=parser, assignment=self.assignment, backoff=fetcher._prefetch_backoff
        )

    def broken(self, error: errors.KafkaError) -> None:
        if not self.over.done():
            logger.warning("a fetch request to broker %s was not answered: %s", self.node, error)
            self.end()

    def _look(self) -> None:
        """End a connection that does not answer."""
        loop, request = asyncio.get_running_loop(), self._request
        self._look_at = loop.call_later(_LOOK_S, self._look)
        if request is not None and request.since_s + self.connection._request_timeout < loop.time():
            request.late()


class _Request(Request):
    __slots__ = ("_reading",)

    def __init__(self, reading: _Reading, connection: Any) -> None:
        super().__init__(connection)
        self._reading = reading

    def answered(self, answer: bytes) -> None:
        self._reading.answered(answer)

    def broken(self, error: errors.KafkaError) -> None:
        self._reading.broken(error)


# -- the words of the protocol: https://kafka.apache.org/protocol, Fetch, version 11 -----------------------------------

_TERMS: Final = struct.Struct(">iiiibii")
_WANTED: Final = struct.Struct(">iiqqi")
_FOUND: Final = struct.Struct(">ihi")
_PART: Final = struct.Struct(">ihqqq")
_ABORTED: Final = struct.Struct(">qq")


class _Part(NamedTuple):
    """What an answer says of one partition. `aborted` are transactions: producer, first offset."""

    tp: TopicPartition
    code: int
    highwater: int
    lso: int
    aborted: list[tuple[int, int]]
    records: bytes


def _encoded(fetcher: Any, asked: Sequence[tuple[TopicPartition, int]]) -> list[bytes | bytearray]:
    of_topic: dict[str, list[bytes]] = {}
    for tp, position in asked:
        wanted = _WANTED.pack(tp.partition, -1, position, -1, fetcher._max_partition_fetch_bytes)
        of_topic.setdefault(tp.topic, []).append(wanted)
    wait, least, most = fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes, fetcher._fetch_max_bytes
    terms = _TERMS.pack(-1, wait, least, most, fetcher._isolation_level, 0, -1)  # no replica, no session
    parts: list[bytes | bytearray] = [terms, INT32.pack(len(of_topic))]
    for topic, those in of_topic.items():
        parts += (string_of(topic), INT32.pack(len(those)), *those)
    parts += (INT32.pack(0), string_of(""))  # nothing that a session forgets; no rack
    return parts


def _decoded(answer: bytes) -> tuple[int, list[_Part]]:
    """The error's code of the whole, and the partitions."""
    _, code, _ = _FOUND.unpack_from(answer)
    (n_topics,) = INT32.unpack_from(answer, _FOUND.size)
    at = _FOUND.size + INT32.size
    found = []
    for _ in range(n_topics):
        topic, at = string_at(answer, at)
        (n_partitions,) = INT32.unpack_from(answer, at)
        at += INT32.size
        for _ in range(n_partitions):
            partition, wrong, highwater, lso, _ = _PART.unpack_from(answer, at)
            at += _PART.size
            (n_aborted,) = INT32.unpack_from(answer, at)
            at += INT32.size
            aborted = [_ABORTED.unpack_from(answer, at + _ABORTED.size * n) for n in range(n_aborted)]
            at += _ABORTED.size * len(aborted) + INT32.size  # behind the replica to be preferred
            (size,) = INT32.unpack_from(answer, at)
            begin = at + INT32.size
            at = begin + max(size, 0)
            found.append(_Part(TopicPartition(topic, partition), wrong, highwater, lso, aborted, answer[begin:at]))
    return code, found

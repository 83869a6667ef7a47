"""Produce requests, written in the moment in which a step is over.

aiokafka's own sender is a task: what is queued wakes it, it makes another task for each request, and has one request
under way to each broker, so that outputs for which somebody waits stand behind a changelog for which nobody does. Here
the caller writes to the socket itself, and the two go on connections of their own.

    put a/0, put a/1, put b/0 ──► flush ──► one request for each broker and lane, answered by one callback

What stays as it is there: one batch of a partition is under way at a time, so that batches keep their order whatever
has to be sent again; errors that may pass are tried again until a batch is as old as the request timeout; connections,
with what secures them, are aiokafka's.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from aiokafka import errors
from aiokafka.structs import TopicPartition

from stream.batching import private as _private  # noqa: F401  (refuses other releases)
from stream.batching.frames import INT32, Request, string_at, string_of, take_frames

__all__ = ["Lane", "Sender"]

logger = logging.getLogger(__name__)

_BACKOFF_S: Final = 0.1
_LOOK_S: Final = 1.0
_PRODUCE: Final = 0
_VERSIONS: Final = range(3, 8)
"""From the first with today's record batches to the last before the flexible ones, which say the same otherwise."""
_DUPLICATE: Final = errors.DuplicateSequenceNumber.errno
_NOWHERE: Final = (None, -1)


class Lane(IntEnum):
    """Which connection to a broker, in the numbers by which aiokafka's client tells them apart; it has 0 and 1 itself.

    FIRST is for what somebody waits for, and has the client's own questions as well, which are few. BEHIND is for what
    follows.
    """

    FIRST = 0
    BEHIND = 2


@dataclass(slots=True, eq=False)
class _Parcel:
    """A batch on its way; `delivered` becomes the offset of its first record."""

    data: bytes | bytearray
    delivered: asyncio.Future[int]
    since_s: float


@dataclass(slots=True, eq=False)
class _Queue:
    """What is on its way to one partition; the first is under way, or waits to be sent (again), while `held`."""

    place: TopicPartition
    lane: Lane
    parcels: deque[_Parcel] = field(default_factory=deque)
    held: bool = False
    under_way: bool = False
    problem: errors.KafkaError | None = None
    """Why the first one was not delivered the last time."""


class Sender:
    """Sends batches by the connections of a client of aiokafka's.

    Args:
        client: the client, which knows the brokers.
        timeout_s: how long a broker may take to answer, and how long a batch is tried again.
        max_request_bytes: no request has more than this of batches, unless a single one has.

    Attributes:
        n_failed: batches that were refused or not answered, and connections that could not be opened, be they tried
            again or not.
    """

    def __init__(self, client: Any, *, timeout_s: float, max_request_bytes: int) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._max_request_bytes = max_request_bytes
        self._loop = asyncio.get_running_loop()
        self._queues: dict[TopicPartition, _Queue] = {}
        self._ready: dict[_Queue, None] = {}
        self._under_way: dict[_Request, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._look_at: asyncio.TimerHandle | None = None
        self._n_parcels = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self.n_failed = 0

    # -- for those who send ------------------------------------------------------------------------------------------

    def put(self, topic: str, partition: int, data: bytes | bytearray, lane: Lane = Lane.FIRST) -> asyncio.Future[int]:
        """Queue a record batch for a partition, behind what was put before; it leaves with the next `flush`.

        A partition keeps the lane of the first batch that was put for it, since lanes may pass each other.
        The future becomes the offset of its first record, or an error of aiokafka's when it has failed for good.
        Raises ProducerClosed after `close`.
        """
        if self._closed:
            raise errors.ProducerClosed
        place = TopicPartition(topic, partition)
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = _Queue(place, lane)
        parcel = _Parcel(data, self._loop.create_future(), self._loop.time())
        queue.parcels.append(parcel)
        self._n_parcels += 1
        self._idle.clear()
        if not queue.held:
            self._ready[queue] = None
        if self._look_at is None:
            self._look_at = self._loop.call_later(_LOOK_S, self._look)
        return parcel.delivered

    def flush(self) -> None:
        """Write requests for all that may leave."""
        if not self._ready:
            return
        queues = list(self._ready)
        self._ready.clear()
        of_node: dict[tuple[Any, Lane], list[_Queue]] = {}
        leader = self._client.cluster.leader_for_partition
        for queue in queues:
            node = leader(queue.place)
            if node in _NOWHERE:
                self._hold([queue])
                self._spawn(self._find(queue))
            else:
                of_node.setdefault((node, queue.lane), []).append(queue)
        for (node, lane), those in of_node.items():
            self._write(node, lane, those)

    async def drained(self) -> None:
        """Wait until nothing is on its way any more: delivered, or failed for good."""
        await self._idle.wait()

    def close(self) -> None:
        """Give up all that is on its way."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._look_at is not None:
            self._look_at.cancel()
        for queue in self._queues.values():
            self._fail_all(queue, errors.ProducerClosed())
        self._ready.clear()
        self._under_way.clear()

    # -- writing -----------------------------------------------------------------------------------------------------

    def _write(self, node: Any, lane: Lane, queues: list[_Queue]) -> None:
        self._hold(queues)
        connection = self._client._conns.get((node, lane))
        if connection is None or not connection.connected():
            self._spawn(self._connect(node, lane, queues))
            return
        take_frames(connection)
        low, high = connection._versions.get(_PRODUCE, (0, -1))
        version = min(high, _VERSIONS[-1])
        if version < max(low, _VERSIONS[0]):
            for queue in queues:
                self._fail_all(queue, errors.UnsupportedVersionError(f"{node} takes produce requests {low} to {high}"))
            self._release(queues)
            return
        for some in self._by_size(queues):
            request = _Request(self, connection, version, some)
            self._under_way[request] = None
            for queue in some:
                queue.under_way = True
            request.write(_PRODUCE, version, _encoded(int(self._timeout_s * 1000), some))

    def _by_size(self, queues: list[_Queue]) -> Iterable[list[_Queue]]:
        some: list[_Queue] = []
        n_bytes = 0
        for queue in queues:
            size = len(queue.parcels[0].data)
            if some and n_bytes + size > self._max_request_bytes:
                yield some
                some, n_bytes = [], 0
            some.append(queue)
            n_bytes += size
        yield some

    async def _connect(self, node: Any, lane: Lane, queues: list[_Queue]) -> None:
        """Open the connection; where that fails, the client has logged it and asks for the brokers anew."""
        try:
            opened = await self._client.ready(node, group=lane)
        except Exception as error:  # noqa: BLE001 - what it lets through may be anything: an answer SCRAM cannot prove, say
            logger.warning("no connection to broker %s: %r", node, error)
            opened = False
        if not opened or not self._client._conns[node, lane].connected():
            self.n_failed += 1
            await asyncio.sleep(_BACKOFF_S)
        self._release(queues)
        self.flush()

    async def _find(self, queue: _Queue) -> None:
        """Find out who leads a partition."""
        try:
            await self._client._wait_on_metadata(queue.place.topic)
            if self._client.cluster.leader_for_partition(queue.place) in _NOWHERE:
                queue.problem = errors.LeaderNotAvailableError(str(queue.place))
                self._client.force_metadata_update()
                await asyncio.sleep(_BACKOFF_S)
        except errors.KafkaError as error:
            self._fail_all(queue, error)
        except Exception as error:  # noqa: BLE001 - as in `_connect`
            logger.warning("nobody says who leads %s: %r", queue.place, error)
            await asyncio.sleep(_BACKOFF_S)
        self._release([queue])
        self.flush()

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answered(self, request: _Request, found: dict[TopicPartition, tuple[int, int]]) -> None:
        if self._under_way.pop(request, self) is self:
            return
        retried: list[_Queue] = []
        for queue in request.queues:
            queue.under_way = False
            code, offset = found.get(queue.place, (errors.UnknownError.errno, -1))
            if code in (0, _DUPLICATE):  # a duplicate so old that the broker forgot where it is: it is there
                parcel = self._taken(queue)
                if not parcel.delivered.done():
                    parcel.delivered.set_result(offset)
                continue
            error = errors.for_code(code)(f"{queue.place.topic}/{queue.place.partition}")
            logger.warning("a batch for %s was not taken: %r", queue.place, error)
            if self._refused(queue, error):
                retried.append(queue)
        self._go_on(request, retried)

    def _broken(self, request: _Request, error: errors.KafkaError) -> None:
        """The connection ended before the answer came; nobody knows whether the broker has the batches."""
        if self._under_way.pop(request, self) is self:
            return
        logger.warning("a produce request was not answered: %s", error)
        retried = []
        for queue in request.queues:
            queue.under_way = False
            if self._refused(queue, error):
                retried.append(queue)
        self._go_on(request, retried)

    def _refused(self, queue: _Queue, error: errors.KafkaError) -> bool:
        """Whether the first batch is to be tried again; it has failed otherwise."""
        self.n_failed += 1
        if error.invalid_metadata:
            self._client.force_metadata_update()
        if error.retriable and self._loop.time() - queue.parcels[0].since_s <= self._timeout_s:
            queue.problem = error
            return True
        if isinstance(error, errors.InvalidProducerEpoch):
            error = errors.ProducerFenced()
        self._failed(queue, error)
        return False

    def _go_on(self, request: _Request, retried: Sequence[_Queue]) -> None:
        self._release(queue for queue in request.queues if queue not in retried)
        if retried:
            self._spawn(self._again(retried))
        self.flush()

    async def _again(self, queues: Sequence[_Queue]) -> None:
        await asyncio.sleep(_BACKOFF_S)
        self._release(queues)
        self.flush()

    # -- books -------------------------------------------------------------------------------------------------------

    def _hold(self, queues: Iterable[_Queue]) -> None:
        for queue in queues:
            queue.held = True

    def _release(self, queues: Iterable[_Queue]) -> None:
        for queue in queues:
            queue.held = False
            if queue.parcels:
                self._ready[queue] = None

    def _failed(self, queue: _Queue, error: errors.KafkaError) -> None:
        """The first batch has failed for good."""
        parcel = self._taken(queue)
        if not parcel.delivered.done():
            parcel.delivered.set_exception(error)
            parcel.delivered.exception()  # who waits hears of it; that somebody does not is no news

    def _fail_all(self, queue: _Queue, error: errors.KafkaError) -> None:
        while queue.parcels:
            self._failed(queue, error)

    def _taken(self, queue: _Queue) -> _Parcel:
        self._n_parcels -= 1
        if self._n_parcels == 0:
            self._idle.set()
        queue.problem = None
        return queue.parcels.popleft()

    def _look(self) -> None:
        """End connections that do not answer, and batches that could not be sent in all their time."""
        self._look_at = None
        too_old_s = self._loop.time() - self._timeout_s
        for request in list(self._under_way):
            if request.since_s < too_old_s:
                request.late()
        for queue in self._queues.values():
            while queue.parcels and not queue.under_way and queue.parcels[0].since_s < too_old_s:
                self.n_failed += 1
                self._failed(queue, queue.problem or errors.KafkaTimeoutError(f"{queue.place}: nobody took it"))
            if not queue.parcels:
                self._ready.pop(queue, None)
        if self._n_parcels > 0:
            self._look_at = self._loop.call_later(_LOOK_S, self._look)

    def _spawn(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Request(Request):
    """A produce request under way."""

    __slots__ = ("_sender", "_version", "queues")

    def __init__(self, sender: Sender, connection: Any, version: int, queues: list[_Queue]) -> None:
        super().__init__(connection)
        self._sender = sender
        self._version = version
        self.queues = queues

    def answered(self, answer: bytes) -> None:
        self._sender._answered(self, _decoded(answer, self._version))

    def broken(self, error: errors.KafkaError) -> None:
        self._sender._broken(self, error)


# -- the words of the protocol: https://kafka.apache.org/protocol, Produce, versions 3 to 7 ----------------------------

_TERMS: Final = struct.Struct(">hhi")
_BATCH: Final = struct.Struct(">ii")
_RESULT: Final = struct.Struct(">ihq")


def _encoded(timeout_ms: int, queues: Sequence[_Queue]) -> list[bytes | bytearray]:
    """A request with the first batch of each queue, acknowledged by all replicas in sync."""
    of_topic: dict[str, list[_Queue]] = {}
    for queue in queues:
        of_topic.setdefault(queue.place.topic, []).append(queue)
    terms = _TERMS.pack(-1, -1, timeout_ms)  # no transaction; all replicas
    parts: list[bytes | bytearray] = [terms, INT32.pack(len(of_topic))]
    for topic, those in of_topic.items():
        parts += (string_of(topic), INT32.pack(len(those)))
        for queue in those:
            data = queue.parcels[0].data
            parts += (_BATCH.pack(queue.place.partition, len(data)), data)
    return parts


def _decoded(answer: bytes, version: int) -> dict[TopicPartition, tuple[int, int]]:
    """Of each partition, the error's code and the offset of the first record."""
    skipped = 8 if version < 5 else 16  # when it was appended; where the log begins
    found: dict[TopicPartition, tuple[int, int]] = {}
    (n_topics,) = INT32.unpack_from(answer)
    at = INT32.size
    for _ in range(n_topics):
        topic, at = string_at(answer, at)
        (n_partitions,) = INT32.unpack_from(answer, at)
        at += INT32.size
        for _ in range(n_partitions):
            partition, code, offset = _RESULT.unpack_from(answer, at)
            found[TopicPartition(topic, partition)] = code, offset
            at += _RESULT.size + skipped
    return found

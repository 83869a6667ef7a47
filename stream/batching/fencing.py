"""One writer for each partition of a changelog, enforced by the brokers.

A member that the group has expelled does not know it yet. Stopped past its session and continued (a paused virtual
machine, a long swap), it has batches computed, queued or half sent from before, and what it then writes to the
changelog lies *behind* the records of the partition's new owner. Its records are right, but older: whoever recovers
next would read the older state last, while the offsets of the events in between are committed. Checking membership
before a write cannot help: the pause may fall between check and write, or between write and network.

    owner a       s1 s2 │ stopped ············ continued  s3: refused, its epoch is older
    owner b             │ epoch+1, barrier, reads to the end, s3' s4'
    changelog     s1 s2 · barrier · s3' s4'

So every partition has a transactional id, and a new owner asks the transaction coordinator for its epoch
(InitProducerId) before it reads the changelog, which makes its own epoch the newest. Every batch of changelog records
carries (producer id, epoch, sequence); a broker refuses one with an older epoch than it has seen in that partition.
The owner first writes a barrier, a deletion of a key that nobody has, and only then looks where the changelog ends.
No transaction is ever begun, so a write costs what it cost before, and repeated produce requests are recognised.

Why that is enough. Let e1 < e2 < ... be the epochs of one partition.

1. In the log all records of an epoch lie before the first one of a newer epoch, which is its barrier: brokers refuse
   anything older behind it. What an owner reads up to its barrier is therefore all that former owners will ever have
   written.
2. An offset is committed after the changelog has what it led to, and the group refuses commits of former generations.
   The owner fetches the committed offset after it has read the changelog: its states hold all that was committed.
3. From there it applies an unbroken run of events (see `ledger`), and states skip what they hold. So its records, which
   come last, are at least as new as any before.

It does not matter who is right about owning the partition. A zombie that comes back between its assignment and its
InitProducerId takes the newest epoch, but then reads all that the rightful owner wrote; that one is refused from the
barrier on, and stops until the rebalance that the zombie's next heartbeat brings.

What brokers forget bounds it: a transactional id after seven days without a request (`transactional.id.expiration.ms`),
an epoch in a partition after a day without a record (`producer.id.expiration.ms`). An owner therefore asks for its next
epoch every half day, naming the one it has: the coordinator refuses if that is not the newest any more. What a zombie
had queued before never arrives a day later: its connections were closed, and a batch that must be sent again has
expired by then.

Recommendations are not fenced: a zombie's carry the same `rec_id`. Nor is item activity, which is counted by offset.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import faust
from aiokafka import errors
from aiokafka.client import CoordinationType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.struct import Struct
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, Schema, TaggedFields

from stream.batching import private as _private  # noqa: F401  (refuses other releases)
from stream.batching.producing import delivered, produce
from stream.batching.sending import Lane
from stream.errors import PolytempoError

__all__ = ["BARRIER_KEY", "FencedError", "Fences", "Writer"]

BARRIER_KEY: Final = b"\x00barrier"
"""Key of the deletion that a new owner writes first. Nothing else has it, so that every reader may take it as it is."""
_RENEW_S: Final = 12 * 3600.0
_BACKOFF_S: Final = 0.1
_TRANSACTION_TIMEOUT_MS: Final = 60_000
"""The coordinator wants one, though no transaction is ever begun."""
_NONE: Final = -1
_RETRIED: Final = (
    errors.CoordinatorNotAvailableError,
    errors.CoordinatorLoadInProgressError,
    errors.NotCoordinatorError,
    errors.ConcurrentTransactions,
    errors.NodeNotReadyError,
    errors.RequestTimedOutError,
    errors.KafkaConnectionError,
)
_PRODUCER_FENCED_CODE: Final = 90  # aiokafka has no error of its own for it


class FencedError(Exception):
    """Another worker writes to this partition of the changelog now."""


class _InitProducerIdResponse(Response):  # type: ignore[misc]
    API_KEY: ClassVar[int] = 22
    API_VERSION: ClassVar[int] = 4
    SCHEMA: ClassVar[Any] = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _InitProducerIdStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION: ClassVar[bool] = True
    API_KEY: ClassVar[int] = 22
    API_VERSION: ClassVar[int] = 4
    RESPONSE_TYPE: ClassVar[Any] = _InitProducerIdResponse
    SCHEMA: ClassVar[Any] = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _InitProducerId(Request[_InitProducerIdStruct]):  # type: ignore[misc]
    """KIP-360's form, which aiokafka lacks: it can name the epoch that it believes to be the newest."""

    API_KEY: ClassVar[int] = 22

    def __init__(self, transactional_id: str, producer_id: int, epoch: int) -> None:
        self._fields: tuple[Any, ...] = (transactional_id, _TRANSACTION_TIMEOUT_MS, producer_id, epoch, {})

    def build(self, request_struct_class: type[Struct]) -> Any:
        return request_struct_class(*self._fields)


@dataclass(slots=True, eq=False)
class Writer:
    """The right to write to one partition, as of one generation of the group."""

    generation: int
    producer_id: int
    epoch: int
    since_s: float
    """On the monotonic clock, when the coordinator last confirmed it."""
    sequence: int = 0
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def stamp(self, batch: Any) -> None:
        """Sign a complete batch of aiokafka's, right before it is queued: batches go out in the order of stamps."""
        batch._set_producer_state(self.producer_id, self.epoch, self.sequence)
        self.sequence = (self.sequence + batch.record_count()) & 0x7FFF_FFFF


class Fences:
    """The writers of one changelog that this process has, by partition.

    Args:
        app: whose producer sends.
        topic: the changelog.
    """

    def __init__(self, app: faust.App, topic: str) -> None:
        self._app = app
        self._topic = topic
        self._writers: dict[int, Writer] = {}

    async def take_over(self, partitions: Iterable[int], generation: int) -> None:
        """Become the only writer of these partitions, and of no others: after this, nothing older is ever appended.

        Raises PolytempoError if the cluster does not allow it, or does not answer.
        """
        self._writers = {}
        wanted = sorted(partitions)
        writers = await asyncio.gather(*(self._begin(partition, generation) for partition in wanted))
        self._writers = dict(zip(wanted, writers, strict=True))

    async def writer(self, partition: int, generation: int) -> Writer:
        """What batches of this generation are to be stamped by; FencedError if the partition is not ours in it."""
        writer = self._writers.get(partition)
        if writer is None or writer.generation != generation:
            raise FencedError(f"{self._topic}/{partition} is not ours in generation {generation}")
        if time.monotonic() - writer.since_s > _RENEW_S:
            async with writer.renewing:
                await self._renew(partition, writer)
        return writer

    async def _begin(self, partition: int, generation: int) -> Writer:
        producer_id, epoch = await self._init(partition, _NONE, _NONE)
        writer = Writer(generation, producer_id, epoch, time.monotonic())
        await delivered(produce(self._app, self._topic, partition, [(BARRIER_KEY, None)], writer, Lane.BEHIND))
        return writer

    async def _renew(self, partition: int, writer: Writer) -> None:
        if time.monotonic() - writer.since_s <= _RENEW_S:
            return  # somebody else was faster
        producer_id, epoch = await self._init(partition, writer.producer_id, writer.epoch)
        writer.producer_id, writer.epoch, writer.sequence = producer_id, epoch, 0
        writer.since_s = time.monotonic()

    async def _init(self, partition: int, producer_id: int, epoch: int) -> tuple[int, int]:
        """A newer producer id and epoch than anybody has; FencedError unless `epoch`, where given, is the newest."""
        client = self._app.producer._ensure_producer().client
        transactional_id = f"{self._topic}-{partition}"
        request = _InitProducerId(transactional_id, producer_id, epoch)
        deadline_s = time.monotonic() + self._app.conf.producer_request_timeout
        while True:
            try:
                node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
                answer = await client.send(node, request)
                if answer.error_code == _PRODUCER_FENCED_CODE:
                    raise FencedError(f"{self._topic}/{partition} has a newer writer")
                if answer.error_code == 0:
                    return answer.producer_id, answer.producer_epoch
                raise errors.for_code(answer.error_code)()
            except errors.InvalidProducerEpoch as error:
                raise FencedError(f"{self._topic}/{partition} has a newer writer") from error
            except _RETRIED as error:
                if time.monotonic() > deadline_s:
                    raise PolytempoError(
                        f"the cluster gives no producer epoch for {transactional_id}: {error}.",
                        "Its transaction coordinator must be reachable: see the brokers' logs, and whether "
                        "__transaction_state has as many replicas as it wants.",
                    ) from error
                await asyncio.sleep(_BACKOFF_S)
            except errors.TransactionalIdAuthorizationFailed as error:
                raise PolytempoError(
                    f"the cluster refuses the transactional id {transactional_id}.",
                    f"Allow this user DESCRIBE and WRITE on transactional ids that begin with {self._topic}.",
                ) from error

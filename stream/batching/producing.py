"""Producing whole batches: one future per produce batch instead of one per record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import faust

__all__ = ["Delivery", "RecordTooLargeError", "delivered", "produce"]

#: producer -> (topic, partition) -> whose turn it is to queue a batch. aiokafka holds one unsent batch per partition.
#: Of several that wait for its place, newcomers may pass the others again and again, and each pass costs a waiter all
#: the time since it came out of its timeout. Where many partitions' batches lead to one partition, that crashed a
#: worker with a KafkaTimeoutError within seconds. In a queue of our own everybody waits for one batch at most.
_turns: WeakKeyDictionary[Any, dict[tuple[str, int], asyncio.Lock]] = WeakKeyDictionary()

#: Upper bound of what a record takes beside key and value: batch header 61, record header at most 34.
_OVERHEAD_BYTES = 96


class RecordTooLargeError(ValueError):
    """A record does not fit into a produce batch. The caller keeps records small, so this is an error of its own."""

    def __init__(self, topic: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"a record for topic {topic!r} has {size_bytes} bytes, the limit is {limit_bytes} (producer_max_batch_size)"
        )
        self.topic = topic
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """A produce batch under way: `future` resolves to the metadata of its first record."""

    future: asyncio.Future[Any]
    n_records: int


class Stamps(Protocol):
    """Who signs batches, see `fencing`."""

    def stamp(self, batch: Any) -> None:
        """Sign a batch right before it is queued."""


async def produce(
    app: faust.App,
    topic: str,
    partition: int,
    pairs: Iterable[tuple[bytes | None, bytes | None]],
    writer: Stamps | None = None,
) -> list[Delivery]:
    """Queue (key, value) pairs for one partition, in order, as few batches as their size allows; `writer` signs them.

    Returns once all of them are queued, which may wait for the batch before to leave. Raises RecordTooLargeError before
    anything is queued that would stand behind the record.
    """
    producer = app.producer._ensure_producer()
    limit_bytes = app.conf.producer_max_batch_size
    now_ms = int(time.time() * 1000)
    deliveries: list[Delivery] = []
    batch = producer.create_batch()
    turn = _turns.setdefault(producer, {}).setdefault((topic, partition), asyncio.Lock())

    async def flush() -> None:
        batch.close()  # complete: nothing may be added to it, and it does not linger
        async with turn:
            if writer is not None:
                writer.stamp(batch)
            future = await producer.send_batch(batch, topic, partition=partition)
        deliveries.append(Delivery(future, batch.record_count()))

    for key, value in pairs:
        size_bytes = len(key or b"") + len(value or b"")
        if size_bytes + _OVERHEAD_BYTES > limit_bytes:
            raise RecordTooLargeError(topic, size_bytes, limit_bytes)
        if batch.append(key=key, value=value, timestamp=now_ms) is None:
            await flush()
            batch = producer.create_batch()
            if batch.append(key=key, value=value, timestamp=now_ms) is None:
                raise RecordTooLargeError(topic, size_bytes, limit_bytes)
    if batch.record_count():
        await flush()
    return deliveries


async def delivered(deliveries: Sequence[Delivery]) -> tuple[int, int]:
    """Wait until the brokers have all of them; the first and the last offset written (0, -1 for none).

    Raises what the producer raises when it has given up.
    """
    first, last = 0, -1
    for i, delivery in enumerate(deliveries):
        metadata = await delivery.future
        if i == 0:
            first = metadata.offset
        last = metadata.offset + delivery.n_records - 1
    return first, last

"""Producing whole batches: one future per produce batch instead of one per record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import faust
from faust.exceptions import NotReady
from faust.transport.drivers import aiokafka as driver

from stream.batching import private as _private  # noqa: F401  (refuses other releases)
from stream.batching.sending import Lane, Sender

__all__ = ["BatchProducer", "Delivery", "RecordTooLargeError", "delivered", "produce", "put"]

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


class BatchProducer(driver.Producer):  # type: ignore[misc]
    """Faust's producer, with a sender of whole batches beside it on the connections of the same client."""

    _sender: Sender | None = None

    @property
    def sender(self) -> Sender:
        """Raises NotReady before the start."""
        if self._sender is None:
            raise NotReady("the producer has not started")
        return self._sender

    @property
    def n_failed(self) -> int:
        """Batches that a broker refused or did not answer; most were tried again."""
        return 0 if self._sender is None else self._sender.n_failed

    async def on_start(self) -> None:
        """Connect."""
        await super().on_start()
        self._sender = Sender(
            self._ensure_producer().client, timeout_s=self.request_timeout, max_request_bytes=self.max_request_size
        )

    async def on_stop(self) -> None:
        """Deliver what is under way, and close the connections."""
        if self._sender is not None:
            await self._sender.drained()
            self._sender.close()
        await super().on_stop()


@dataclass(frozen=True, slots=True)
class Delivery:
    """A produce batch under way: `future` resolves to the offset of its first record."""

    future: asyncio.Future[int]
    n_records: int


class Stamps(Protocol):
    """Who signs batches, see `fencing`."""

    def stamp(self, batch: Any) -> None:
        """Sign a batch right before it is queued."""


def put(
    app: faust.App,
    topic: str,
    partition: int,
    pairs: Iterable[tuple[bytes | None, bytes | None]],
    writer: Stamps | None = None,
    lane: Lane = Lane.FIRST,
) -> list[Delivery]:
    """Queue (key, value) pairs for one partition, in order, as few batches as their size allows; `writer` signs them.

    They leave with the next `flush` of the producer's sender, which whoever puts several calls once. Raises
    RecordTooLargeError before anything is queued that would stand behind the record.
    """
    producer: BatchProducer = app.producer
    sender, create = producer.sender, producer._ensure_producer().create_batch
    limit_bytes = app.conf.producer_max_batch_size
    now_ms = int(time.time() * 1000)
    deliveries: list[Delivery] = []
    batch = create()

    def queue() -> None:
        if writer is not None:
            writer.stamp(batch)
        n_records = batch.record_count()
        deliveries.append(Delivery(sender.put(topic, partition, batch._build(), lane), n_records))

    for key, value in pairs:
        size_bytes = len(key or b"") + len(value or b"")
        if size_bytes + _OVERHEAD_BYTES > limit_bytes:
            raise RecordTooLargeError(topic, size_bytes, limit_bytes)
        if batch.append(key=key, value=value, timestamp=now_ms) is None:
            queue()
            batch = create()
            if batch.append(key=key, value=value, timestamp=now_ms) is None:
                raise RecordTooLargeError(topic, size_bytes, limit_bytes)
    if batch.record_count():
        queue()
    return deliveries


def produce(
    app: faust.App,
    topic: str,
    partition: int,
    pairs: Iterable[tuple[bytes | None, bytes | None]],
    writer: Stamps | None = None,
    lane: Lane = Lane.FIRST,
) -> list[Delivery]:
    """As `put`, and let them leave at once."""
    deliveries = put(app, topic, partition, pairs, writer, lane)
    app.producer.sender.flush()
    return deliveries


async def delivered(deliveries: Sequence[Delivery]) -> tuple[int, int]:
    """Wait until the brokers have all of them; the first and the last offset written (0, -1 for none).

    Raises what the sender raises when it has given up.
    """
    first, last = 0, -1
    for i, delivery in enumerate(deliveries):
        offset = await delivery.future
        if i == 0:
            first = offset
        last = offset + delivery.n_records - 1
    return first, last

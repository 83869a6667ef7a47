"""What the benchmarks of the path are fed with: a simulated shop, or the user's own log, as Kafka records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import polars as pl
from aiokafka import AIOKafkaProducer

from stream.demo.shop import ShopConfig, simulate
from stream.feed import encode_events, partition_of
from stream.kafka.settings import KafkaSettings
from stream.logs import open_log

__all__ = ["Pair", "load_events", "produce_all", "with_ids"]

Pair = tuple[bytes | None, bytes]
"""Key and value of one record."""

_DAYS = 7.0
_REQUEST_BYTES = 256 << 10


def load_events(n_events: int, *, n_users: int, n_items: int, log: Path | None = None) -> list[Pair]:
    """The first `n_events` events of `log`, or of one simulated week of a shop: at most so many, in the order of time.

    Args:
        n_users, n_items: size of the shop; a log brings its own.
    """
    frames: Iterable[pl.DataFrame]
    if log is not None:
        frames = open_log(log).batches()
    else:
        # More events than wanted, since what a shop leaves behind is random; the seed makes it the same every time.
        per_day = max(1, int(1.5 * n_events / _DAYS))
        shop = ShopConfig(
            n_users=n_users,
            n_items=n_items,
            n_categories=min(20, n_items),
            days=_DAYS,
            events_per_day=per_day,
        )
        frames = [simulate(shop, 0).events]
    return list(islice(_pairs(frames), n_events))


def with_ids(pairs: list[Pair], first: int = 0) -> list[Pair]:
    """The same events with ids that number them, by which a recommendation tells which event it answers."""
    return [(key, b'{"event_id":"%d",%s' % (first + n, _without_id(value)[1:])) for n, (key, value) in enumerate(pairs)]


async def produce_all(settings: KafkaSettings, topic: str, n_partitions: int, pairs: list[Pair]) -> None:
    """Send all records, each to the partition of its key, and wait until all are acknowledged."""
    producer = AIOKafkaProducer(**settings.aiokafka(), acks="all", max_batch_size=_REQUEST_BYTES)
    await producer.start()
    try:
        partitions: dict[bytes, int] = {}
        batches = {partition: producer.create_batch() for partition in range(n_partitions)}
        futures = []
        for key, value in pairs:
            name = b"" if key is None else key
            partition = partitions.get(name)
            if partition is None:
                partition = partitions[name] = partition_of(name, n_partitions)
            batch = batches[partition]
            if batch.append(key=key, value=value, timestamp=None) is None:
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                batch = batches[partition] = producer.create_batch()
                batch.append(key=key, value=value, timestamp=None)
        for partition, batch in batches.items():
            if batch.record_count() > 0:
                futures.append(await producer.send_batch(batch, topic, partition=partition))
        for future in futures:
            await future
    finally:
        await producer.stop()


def _pairs(frames: Iterable[pl.DataFrame]) -> Iterator[Pair]:
    for key, value, _ in encode_events(frames):
        yield None if key is None else key.encode(), value


def _without_id(value: bytes) -> bytes:
    start = value.find(b',"event_id":"')
    if start < 0:
        return value
    end = value.index(b'"', start + len(b',"event_id":"')) + 1
    return value[:start] + value[end:]

"""What a worker recovers from, made quickly: a changelog of so many users, and a topic of item activity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaProducer

from stream.kafka.settings import KafkaSettings
from tests.bench.history import history_of
from tests.bench.path_events import Pair, load_events

__all__ = ["activity_messages", "fill", "made_up_states", "users_of"]

_REQUEST_BYTES = 1 << 20
_N_SAMPLE = 4_000


def made_up_states(bundle: Path) -> list[bytes]:
    """Records of some hundred users of a simulated shop, as if they came from elsewhere: no offset is applied yet."""
    left = history_of(bundle, load_events(_N_SAMPLE, n_users=2_000, n_items=500))
    joined = bytearray(b"".join(raw for raw in left.states.values() if raw is not None))
    states = np.frombuffer(joined, left.spec.dtype)
    states["source"], states["source_offset"] = 0, -1
    return [row.tobytes() for row in states]


def activity_messages(bundle: Path, n_messages: int, n_each: int = 8) -> list[bytes]:
    """Messages of item activity, each of a batch of `n_each` events."""
    return history_of(bundle, load_events(n_messages * n_each, n_users=20_000, n_items=3_000), n_each).activity


def users_of(states: list[bytes], n_users: int, n_partitions: int, partition: int) -> Iterable[Pair]:
    """The users of one partition: every `n_partitions`-th."""
    n_states = len(states)
    return ((b"user-%d" % number, states[number % n_states]) for number in range(partition, n_users, n_partitions))


async def fill(
    settings: KafkaSettings,
    topic: str,
    partition: int,
    pairs: Iterable[Pair],
    on_bytes: Callable[[int], object] = lambda _: None,
) -> int:
    """Send records in batches of a MiB and wait until all are acknowledged; how many bytes of values they had."""
    producer = AIOKafkaProducer(
        **settings.aiokafka(), acks="all", max_batch_size=_REQUEST_BYTES, max_request_size=2 * _REQUEST_BYTES
    )
    await producer.start()
    n_bytes = 0
    futures = []
    try:
        batch = producer.create_batch()
        for key, value in pairs:
            n_bytes += len(value)
            if batch.append(key=key, value=value, timestamp=None) is None:
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                on_bytes(n_bytes)
                batch = producer.create_batch()
                batch.append(key=key, value=value, timestamp=None)
        if batch.record_count() > 0:
            futures.append(await producer.send_batch(batch, topic, partition=partition))
        for future in futures:
            await future
    finally:
        await producer.stop()
    return n_bytes

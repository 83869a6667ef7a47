"""What is put for a partition becomes batches, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.exceptions import NotReady

from stream.batching.producing import BatchProducer, RecordTooLargeError, delivered, produce, put
from stream.batching.sending import Lane

LIMIT = 1000


class Sender:
    """Takes what is put, and notes when it is told to let it leave."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.futures: list[asyncio.Future[int]] = []

    def put(self, topic: str, partition: int, data: bytearray, lane: Lane) -> asyncio.Future[int]:
        records = MemoryRecords(bytes(data)).next_batch()
        self.sent.append((topic, partition, [(record.key, record.value) for record in records], lane))
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    def flush(self) -> None:
        self.sent.append("flush")


@pytest.fixture
def sender() -> Sender:
    return Sender()


@pytest.fixture
def app(sender: Sender) -> Any:
    """What is read of a Faust app."""
    create: Callable[[], BatchBuilder] = lambda: BatchBuilder(LIMIT, 0)  # noqa: E731
    aiokafka = SimpleNamespace(create_batch=create)
    producer = SimpleNamespace(sender=sender, _ensure_producer=lambda: aiokafka)
    return SimpleNamespace(producer=producer, conf=SimpleNamespace(producer_max_batch_size=LIMIT))


async def test_pairs_become_as_few_batches_as_fit_in_order(app: Any, sender: Sender) -> None:
    pairs: list[tuple[bytes | None, bytes | None]] = [(b"%d" % i, bytes(400)) for i in range(5)]
    deliveries = put(app, "out", 2, pairs, lane=Lane.BEHIND)
    assert [each.n_records for each in deliveries] == [2, 2, 1]
    assert [where[:2] + where[3:] for where in sender.sent] == [("out", 2, Lane.BEHIND)] * 3
    assert [pair for _, _, those, _ in sender.sent for pair in those] == pairs
    for offset, future in zip((10, 12, 14), sender.futures, strict=True):
        future.set_result(offset)
    assert await delivered(deliveries) == (10, 14)


async def test_a_writer_signs_each_batch_before_it_is_built(app: Any) -> None:
    signed: list[int] = []

    class Writer:
        def stamp(self, batch: Any) -> None:
            signed.append(batch.record_count())
            batch._set_producer_state(7, 1, 0)

    put(app, "log", 0, [(b"k", bytes(600)), (b"l", None)], Writer())
    put(app, "log", 0, [(b"k", bytes(600)), (b"l", bytes(600))], Writer())
    assert signed == [2, 1, 1]


async def test_producing_lets_leave_what_was_put_and_nothing_makes_no_batch(app: Any, sender: Sender) -> None:
    assert len(produce(app, "out", 0, [(b"k", b"v")])) == 1
    assert sender.sent == [("out", 0, [(b"k", b"v")], Lane.FIRST), "flush"]
    assert put(app, "out", 0, []) == []
    assert await delivered([]) == (0, -1)


async def test_a_record_too_large_is_refused(app: Any, sender: Sender) -> None:
    """What stood before it in full batches may have left, nothing behind it has."""
    with pytest.raises(RecordTooLargeError, match=r"'out' has 1001 bytes, the limit is 1000"):
        put(app, "out", 0, [(b"k", bytes(700)), (b"l", bytes(700)), (b"m", bytes(1000)), (b"n", b"")])
    assert [[key for key, _ in those] for _, _, those, _ in sender.sent] == [[b"k"]]


def test_before_its_start_and_after_its_end_a_producer_is_not_ready() -> None:
    producer = object.__new__(BatchProducer)
    with pytest.raises(NotReady):
        _ = producer.sender
    assert producer.n_failed == 0

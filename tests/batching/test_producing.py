"""Batches queue for a partition in the order of their coming, without a broker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from stream.batching.producing import delivered, produce


class Batch:
    """One batch of aiokafka's, as far as producing uses it."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []

    def append(self, *, key: bytes, value: bytes, timestamp: int) -> object:  # noqa: ARG002 - aiokafka's names
        self.keys.append(key)
        return object()

    def close(self) -> None:
        pass

    def record_count(self) -> int:
        return len(self.keys)


class Producer:
    """Has room for one batch per partition, which leaves after a few turns of the loop; newcomers may take it first."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.n_waiting: dict[tuple[str, int], int] = {}
        self.most_waiting = 0
        self._full: dict[tuple[str, int], bool] = {}

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[Any]:
        place = (topic, partition)
        self.n_waiting[place] = self.n_waiting.get(place, 0) + 1
        self.most_waiting = max(self.most_waiting, self.n_waiting[place])
        while self._full.get(place):
            await asyncio.sleep(0)
        self.n_waiting[place] -= 1
        self._full[place] = True
        self.sent += batch.keys
        delivery: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def leave() -> None:
            self._full[place] = False
            delivery.set_result(SimpleNamespace(offset=0))

        asyncio.get_running_loop().call_later(0.001, leave)
        return delivery


def app_with(producer: Producer) -> Any:
    """What `produce` reads of a Faust app."""
    return SimpleNamespace(
        producer=SimpleNamespace(_ensure_producer=lambda: producer),
        conf=SimpleNamespace(producer_max_batch_size=1 << 20),
    )


async def test_batches_for_one_partition_never_contend_for_its_place() -> None:
    """Nobody is passed: what is asked first leaves first, and only one at a time asks the producer."""
    producer = Producer()
    app = app_with(producer)
    asked = [b"%d" % number for number in range(40)]
    deliveries = await asyncio.gather(*(produce(app, "activity", 0, [(key, b"")]) for key in asked))
    await delivered([each for some in deliveries for each in some])
    assert producer.sent == asked
    assert producer.most_waiting == 1


async def test_partitions_do_not_wait_for_each_other() -> None:
    """While one place is taken, the batches of other partitions go."""
    producer = Producer()
    app = app_with(producer)
    first = await produce(app, "out", 0, [(b"a", b"")])
    waiting = asyncio.ensure_future(produce(app, "out", 0, [(b"b", b"")]))
    await asyncio.sleep(0)
    other = await produce(app, "out", 1, [(b"c", b"")])
    assert producer.sent == [b"a", b"c"]
    await delivered([*first, *other, *await waiting])
    assert producer.sent == [b"a", b"c", b"b"]

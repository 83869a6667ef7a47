"""Several workers over the partitions of one topic: what they answer together, and what an event costs them in all.

Each is a process of its own, as it is started in earnest: it shares the partitions with the others, holds a copy of
what they keep as their standby, and follows all item statistics by itself. Processor time tells what the sharing costs,
wherever they run; events per second grow with the cores that there are for workers, broker and benchmark together.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from tests.bench.path import a_bundle, a_kafka
from tests.bench.path_events import Pair, load_events, produce_all
from tests.bench.path_options import Options
from tests.bench.path_process import Process

__all__ = ["workers"]

_N_PARTITIONS: Final = 4
_WARM_SHARE: Final = 0.2
_N_USERS, _N_ITEMS = 20_000, 3_000
_POLL_S: Final = 0.05
_PATIENCE_S: Final = 60.0


def workers(counts: Sequence[int], n_events: int) -> list[dict[str, float]]:
    """A row for each number of workers: events per second, and microseconds of processor an event, of all together.

    A fifth of the events goes before what is measured, so that everybody has found his place.

    Raises:
        PolytempoError: no broker, or not everything was answered.
    """
    return asyncio.run(_workers(counts, load_events(n_events, n_users=_N_USERS, n_items=_N_ITEMS)))


async def _workers(counts: Sequence[int], pairs: list[Pair]) -> list[dict[str, float]]:
    with (
        a_bundle(None) as bundle,
        a_kafka(None) as settings,
        tempfile.TemporaryDirectory(prefix="polytempo-bench-") as folder,
    ):
        return [await _measure(n, settings, pairs, bundle, Path(folder)) for n in counts]


async def _measure(
    n_workers: int, settings: KafkaSettings, pairs: list[Pair], bundle: Path, folder: Path
) -> dict[str, float]:
    prefix = f"bench-{uuid.uuid4().hex[:8]}-"
    names, n_warm = TopicNames(prefix), int(_WARM_SHARE * len(pairs))
    layout = topic_layout(prefix=prefix, n_partitions=_N_PARTITIONS)
    await asyncio.get_running_loop().run_in_executor(None, ensure_topics, settings, layout)
    wanted = Options(str(bundle), settings.servers, prefix, _N_PARTITIONS, core=None, max_events=256)
    processes = [
        Process("tests.bench.path_worker", [wanted.written()], folder, label=f"{prefix}{number}")
        for number in range(n_workers)
    ]
    consumer = AIOKafkaConsumer(**settings.aiokafka())
    await consumer.start()
    try:
        for process in processes:
            await process.start()
        await produce_all(settings, names.events, _N_PARTITIONS, pairs[:n_warm])
        await _answered(consumer, names, n_warm, processes)
        for process in processes:
            process.begin()
        began_s = time.perf_counter()
        await produce_all(settings, names.events, _N_PARTITIONS, pairs[n_warm:])
        await _answered(consumer, names, len(pairs), processes)
        took_s = time.perf_counter() - began_s
        results = [await process.stop() for process in processes]
    finally:
        for process in processes:
            process.kill()
        await consumer.stop()
    spent_us = sum(sum(result["stages_us"].values()) for result in results)
    return {
        "n": n_workers,
        "events_per_s": (len(pairs) - n_warm) / took_s,
        "us_per_event": spent_us / (len(pairs) - n_warm),
        "working": sum(result["n_batches"] > 0 for result in results),
    }


async def _answered(consumer: AIOKafkaConsumer, names: TopicNames, n_events: int, processes: list[Process]) -> None:
    """Wait until so many recommendations are there."""
    outputs = [TopicPartition(names.recommendations, partition) for partition in range(_N_PARTITIONS)]
    n_done, changed_s = -1, time.monotonic()
    while n_done < n_events:
        await asyncio.sleep(_POLL_S)
        n_now = sum((await consumer.end_offsets(outputs)).values())
        if n_now != n_done:
            n_done, changed_s = n_now, time.monotonic()
        elif time.monotonic() - changed_s > _PATIENCE_S:
            raise PolytempoError(f"{n_done:,} of {n_events:,} events were answered, then nothing.")
        for process in processes:
            process.check()

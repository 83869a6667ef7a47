"""From an event's send until its recommendation can be read: `polytempo bench latency`.

Open loop: event n is due n / rate seconds after the start, and its time counts from then, also where this process, the
broker or the worker was late, so that a pause makes every event slower that it holds up. Recommendations are matched by
`event_id`, read by a consumer in this process. Before, the same events are sent and read back from a topic without a
worker: the floor that Kafka, this process and the machine set. Nothing is pinned, and no stopwatch runs in the worker:
it costs a tenth of the time of a small batch.

A history of events is answered before the measurement starts, so that there are item statistics; then the same load
runs for some seconds that do not count, since a broker of a few seconds of age still compiles itself while it answers;
then come idle seconds, then one second of running in that does not count. `batch_ms` says what the time goes into: the
step, then until its messages were delivered, then until its changelog was, which nobody waits for.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream.errors import PolytempoError
from stream.feed import partition_of
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from stream.timers import precise_loop
from tests.bench.path import a_bundle, a_kafka, committed
from tests.bench.path_events import Pair, load_events, produce_all, with_ids
from tests.bench.path_options import Options
from tests.bench.path_process import Process

__all__ = ["LatencyOptions", "run"]

_RUN_IN_S = 1
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class LatencyOptions:
    """What to measure.

    Attributes:
        rate: events per second.
        seconds: how long, after a second of running in.
        idle_s: seconds without events before.
        warm_s: seconds of the same load before those.
        n_history: events that the worker has answered before.
        bundle, n_users, n_items, log, n_partitions, kafka: as for the path.
    """

    rate: int = 1000
    seconds: int = 20
    idle_s: float = 5.0
    warm_s: int = 10
    n_history: int = 5_000
    bundle: Path | None = None
    n_users: int = 20_000
    n_items: int = 3_000
    log: Path | None = None
    n_partitions: int = 4
    kafka: str | None = None


class _Answer(msgspec.Struct):
    """Of an event or a recommendation, the id."""

    event_id: str


def run(options: LatencyOptions, say: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Measure, and give the figures; `say` is told what is going on.

    Raises:
        PolytempoError: no broker, or the worker did not answer everything.
    """
    with asyncio.Runner(loop_factory=precise_loop) as runner:  # an event is sent when it is due, not up to 1 ms later
        return runner.run(_run(options, say))


async def _run(options: LatencyOptions, say: Callable[[str], object]) -> dict[str, Any]:
    n_live, n_warm = options.rate * (options.seconds + _RUN_IN_S), options.rate * options.warm_s
    n_all = options.n_history + n_warm + n_live
    pairs = load_events(n_all, n_users=options.n_users, n_items=options.n_items, log=options.log)
    if len(pairs) <= n_warm + n_live:
        raise PolytempoError(f"{len(pairs):,} events are too few for {options.seconds} s.", "Ask for less.")
    history, named = pairs[: -n_live - n_warm], with_ids(pairs[-n_live - n_warm :])
    warm, live = named[:n_warm], named[n_warm:]
    with (
        a_bundle(options.bundle) as bundle,
        a_kafka(options.kafka) as settings,
        tempfile.TemporaryDirectory(prefix="polytempo-bench-") as folder,
    ):
        prefix = f"bench-{uuid.uuid4().hex[:8]}-"
        names, n_partitions = TopicNames(prefix), options.n_partitions
        for each in (prefix, f"{prefix}floor-"):
            layout = topic_layout(prefix=each, n_partitions=n_partitions)
            await asyncio.get_running_loop().run_in_executor(None, ensure_topics, settings, layout)
        say(f"without a worker: {options.rate:,} events/s for {options.seconds} s")
        floor_topic = TopicNames(f"{prefix}floor-").events
        floor = await _drive(settings, floor_topic, floor_topic, live, options, n_warm)
        await produce_all(settings, names.events, n_partitions, history)
        wanted = Options(str(bundle), settings.servers, prefix, n_partitions, core=None, max_events=256, stages=False)
        worker = Process("tests.bench.path_worker", [wanted.written()], Path(folder))
        try:
            await worker.start()
            deadline_s = time.monotonic() + _PATIENCE_S
            while await committed(settings, names, n_partitions) < len(history):
                worker.check()
                if time.monotonic() > deadline_s:
                    raise PolytempoError("the worker did not come to the end of the history.")
                await asyncio.sleep(0.1)
            if warm:
                say(f"with a worker: {options.warm_s} s of load that do not count")
                await _drive(settings, names.events, names.recommendations, warm, options, 0)
            say(f"with a worker: {options.idle_s:g} s idle, then the same")
            await asyncio.sleep(options.idle_s)
            worker.begin()
            with_worker = await _drive(settings, names.events, names.recommendations, live, options, n_warm)
            spent = await worker.stop()
        finally:
            worker.kill()
    n_batches, n_slices = max(1, spent["n_batches"]), max(1, spent["n_slices"])
    all_us = sum(spent["stages_us"].values())
    return {
        **with_worker,
        "rate": options.rate,
        "bundle": bundle.name,
        "events_per_batch": round(n_live / n_batches, 2),
        "batch_ms": {name: round(spent[f"{name}_us"] / 1000 / n_slices, 2) for name in ("step", "sends", "changelog")},
        "cpu_us_per_event": round(all_us / n_live, 1),
        "floor": floor,
    }


async def _drive(
    settings: KafkaSettings,
    topic: str,
    answers: str,
    pairs: list[Pair],
    options: LatencyOptions,
    first: int,
) -> dict[str, Any]:
    """Send events to `topic` when they are due, and see when each is answered on `answers`; `first` is the id of the
    first."""
    n_partitions, rate, n_events = options.n_partitions, options.rate, len(pairs)
    where = [partition_of(key or b"", n_partitions) for key, _ in pairs]
    read = msgspec.json.Decoder(_Answer).decode
    answered_s = [0.0] * n_events
    n_missing = n_events
    everything = asyncio.Event()
    producer = AIOKafkaProducer(**settings.aiokafka(), acks="all")
    consumer = AIOKafkaConsumer(**settings.aiokafka(), fetch_max_wait_ms=100)
    await producer.start()
    await consumer.start()
    tps = [TopicPartition(answers, partition) for partition in range(n_partitions)]
    consumer.assign(tps)
    await consumer.seek_to_end(*tps)
    for tp in tps:
        await consumer.position(tp)

    async def reading() -> None:
        nonlocal n_missing
        while n_missing > 0:
            fetched = await consumer.getmany(timeout_ms=1000)
            now_s = time.perf_counter()
            for records in fetched.values():
                for record in records:
                    number = int(read(record.value).event_id) - first
                    if answered_s[number] == 0.0:
                        answered_s[number] = now_s
                        n_missing -= 1
        everything.set()

    reader = asyncio.ensure_future(reading())
    try:
        start_s = time.perf_counter() + 0.1
        for number, (key, value) in enumerate(pairs):
            ahead_s = start_s + number / rate - time.perf_counter()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            await producer.send(topic, value, key=key, partition=where[number])
        await asyncio.wait(
            {reader, asyncio.ensure_future(everything.wait())}, timeout=_PATIENCE_S, return_when="FIRST_COMPLETED"
        )
        if reader.done():
            reader.result()
        if n_missing > 0:
            raise PolytempoError(f"{n_missing:,} of {n_events:,} events were not answered within {_PATIENCE_S:.0f} s.")
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await producer.stop()
        await consumer.stop()
    took_ms = [(answered_s[number] - start_s - number / rate) * 1000 for number in range(n_events)]
    judged = took_ms[_RUN_IN_S * rate :]
    seconds = [judged[first : first + rate] for first in range(0, len(judged), rate)]
    return {
        **{f"p{name}_ms": round(_quantile(judged, q), 2) for name, q in (("50", 0.5), ("99", 0.99), ("999", 0.999))},
        "median_second_p99_ms": round(statistics.median(_quantile(second, 0.99) for second in seconds), 2),
        "events": len(judged),
        "seconds": [[round(_quantile(second, q), 2) for q in (0.5, 0.99, 1.0)] for second in seconds],
    }


def _quantile(values: list[float], q: float) -> float:
    """The smallest value that at least the share `q` of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-q * len(ordered) // 1) - 1))]

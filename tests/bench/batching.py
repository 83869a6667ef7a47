"""The batch path against plain Faust: `python -m tests.bench.batching --broker HOST:PORT`.

Throughput: a backlog of events with 50,000 users; events/s from the first output record to the last one readable,
where states, changelog and outputs are delivered. Latency: events sent at a steady rate; from before the send until
the output was read by a consumer in this process, per second since the worker said it was ready. The line "no worker"
is the same path without one: sent and read back. Runs vary with what else the machine does, so compare ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.batching.app import OUTPUT
from tests.batching.audit import Setup, caught_up, feed

FILLER = ("--filler-bytes", "300")


async def throughput(broker: str, n_events: int, module: str, directory: Path) -> float:
    """Events per second of one worker over a backlog."""
    setup = Setup(broker, f"bench-{uuid.uuid4().hex[:8]}", workdir=directory, module=module)
    await setup.create()
    await feed(setup, n_events, n_users=50_000)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, fetch_max_wait_ms=50, max_poll_records=20_000)
    await consumer.start()
    tps = [TopicPartition(setup.output, p) for p in range(setup.partitions)]
    consumer.assign(tps)
    await consumer.seek_to_beginning(*tps)
    worker = setup.worker("w", *FILLER)
    try:
        await worker.ready()
        # End offsets instead of reading: the reader would take the core that the worker needs.
        first_s: float | None = None
        n_first = n = 0
        while n < n_events:
            n = sum((await consumer.end_offsets(tps)).values())
            if first_s is None and n > 0:
                first_s, n_first = time.perf_counter(), n
            await asyncio.sleep(0.05)
        assert first_s is not None
        return (n_events - n_first) / (time.perf_counter() - first_s)
    finally:
        await worker.stop()
        await consumer.stop()


async def recovery(broker: str, n_users: int, directory: Path) -> tuple[float, float]:
    """Seconds until a worker is ready: with nothing to recover, and with `n_users` states in the changelog."""
    setup = Setup(broker, f"bench-{uuid.uuid4().hex[:8]}", workdir=directory)
    await setup.create()
    took_s = []
    for first in (True, False):
        began_s = time.perf_counter()
        worker = setup.worker("w", *FILLER)
        await worker.ready(timeout_s=300)
        took_s.append(time.perf_counter() - began_s)
        if first:
            await feed(setup, n_users, n_users=n_users)
            await caught_up(setup)
        await worker.stop()
    return took_s[0], took_s[1]


async def latency(
    broker: str, rate: int, seconds: int, extra: tuple[str, ...], directory: Path, no_worker: bool = False
) -> list[tuple[float, float]]:
    """(p50, p99) in milliseconds for each second since readiness."""
    setup = Setup(broker, f"bench-{uuid.uuid4().hex[:8]}", workdir=directory)
    await setup.create()
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all")
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, fetch_max_wait_ms=20)
    await producer.start()
    await consumer.start()
    tps = [TopicPartition(setup.input if no_worker else setup.output, p) for p in range(setup.partitions)]
    consumer.assign(tps)
    await consumer.seek_to_beginning(*tps)
    for tp in tps:
        await consumer.position(tp)
    worker = None if no_worker else setup.worker("w", *extra)
    sent: dict[tuple[int, int], float] = {}
    read: dict[tuple[int, int], float] = {}

    async def reading() -> None:
        while True:
            fetched = await consumer.getmany(timeout_ms=500)
            now_s = time.perf_counter()
            for tp, records in fetched.items():
                for record in records:
                    key = (tp.partition, record.offset) if no_worker else OUTPUT.unpack_from(record.value)[:2]
                    read.setdefault(key, now_s)

    def on_sent(began_s: float) -> Any:
        def note(future: Any) -> None:
            metadata = future.result()
            sent[metadata.partition, metadata.offset] = began_s

        return note

    reader = asyncio.ensure_future(reading())
    try:
        if worker is not None:
            await worker.ready()
        start_s = time.perf_counter()
        for i in range(rate * seconds):
            ahead_s = start_s + i / rate - time.perf_counter()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            user = (i * 7919) % 5000
            began_s = time.perf_counter()
            future = await producer.send(setup.input, bytes(150), key=b"u%d" % user, partition=user % setup.partitions)
            future.add_done_callback(on_sent(began_s))
        await producer.flush()
        deadline_s = time.perf_counter() + 10
        while len(read) < rate * seconds and time.perf_counter() < deadline_s:
            await asyncio.sleep(0.05)
        by_second: dict[int, list[float]] = defaultdict(list)
        for key, began_s in sent.items():
            by_second[int(began_s - start_s)].append((read[key] - began_s) * 1000)
        return [_percentiles(by_second[second]) for second in sorted(by_second)]
    finally:
        reader.cancel()
        if worker is not None:
            await worker.stop()
        await producer.stop()
        await consumer.stop()


def _percentiles(values_ms: list[float]) -> tuple[float, float]:
    ordered = sorted(values_ms)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def _show(name: str, seconds: list[tuple[float, float]]) -> None:
    print(f"{name}: " + "  ".join(f"{p50:.0f}/{p99:.0f}" for p50, p99 in seconds) + "  (p50/p99 ms per second)")
    settled = seconds[len(seconds) // 3 :]
    p50s, p99s = sorted(p50 for p50, _ in settled), sorted(p99 for _, p99 in settled)
    print(f"{name}: median over seconds after the first third: p50 {p50s[len(p50s) // 2]:.1f} ms,", end=" ")
    print(f"p99 {p99s[len(p99s) // 2]:.1f} ms, worst second's p99 {p99s[-1]:.1f} ms", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="*", default=["throughput", "recovery", "latency"], help="throughput, recovery, latency"
    )
    parser.add_argument("--broker", default=os.environ.get("POLYTEMPO_KAFKA", "127.0.0.1:9092"))
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--plain-events", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--fetch-wait-ms", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if "throughput" in args.what:
            batch = await throughput(args.broker, args.events, "tests.batching.app", directory)
            print(f"batch path: {batch:,.0f} events/s", flush=True)
            plain = await throughput(args.broker, args.plain_events, "tests.bench.plain_faust", directory / "plain")
            print(f"plain Faust: {plain:,.0f} events/s; ratio {batch / plain:.0f}", flush=True)
        if "recovery" in args.what:
            empty_s, full_s = await recovery(args.broker, args.users, directory / "r")
            print(f"ready after {empty_s:.1f} s without states, {full_s:.1f} s with {args.users:,}", flush=True)
        if "latency" in args.what:
            extra = ("--fetch-wait-ms", str(args.fetch_wait_ms), *FILLER)
            _show("no worker", await latency(args.broker, args.rate, args.seconds, extra, directory, no_worker=True))
            _show("batch path", await latency(args.broker, args.rate, args.seconds, extra, directory / "l"))


if __name__ == "__main__":
    asyncio.run(main())

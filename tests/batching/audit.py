"""Starting workers, feeding them, and holding what they wrote against an offline rebuild."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.batching.app import OUTPUT, STATE, fold

ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Setup:
    """One app with topics of its own."""

    broker: str
    name: str
    partitions: int = 4
    extra: tuple[str, ...] = ()
    workdir: Path = field(default_factory=Path)
    module: str = "tests.batching.app"
    workers: list[Worker] = field(default_factory=list)

    @property
    def input(self) -> str:
        return f"{self.name}-in"

    @property
    def output(self) -> str:
        return f"{self.name}-out"

    @property
    def changelog(self) -> str:
        return f"{self.name}-users-changelog"

    async def create(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker)
        await admin.start()
        try:
            compacted = {"cleanup.policy": "compact"}
            response = await admin.create_topics(
                [
                    NewTopic(self.input, self.partitions, 1),
                    NewTopic(self.output, self.partitions, 1),
                    NewTopic(self.changelog, self.partitions, 1, topic_configs=compacted),
                ]
            )
            assert all(error[1] in (0, 36) for error in response.topic_errors), response
        finally:
            await admin.close()

    def worker(self, label: str, *extra: str) -> Worker:
        """Start a worker process; its streams go to files named after `label`."""
        directory = self.workdir / label
        directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", self.module, "--broker", self.broker, "--group", self.name]
        command += ["--input", self.input, "--output", self.output, "--partitions", str(self.partitions)]
        command += ["--datadir", str(directory), *self.extra, *extra]
        out, err = directory / "stdout", directory / "stderr"
        began_bytes = out.stat().st_size if out.exists() else 0
        with out.open("ab") as stdout, err.open("ab") as stderr:
            worker = Worker(subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stderr), out, err, began_bytes)
        self.workers.append(worker)
        return worker

    async def kill_all(self) -> None:
        """End every worker that still runs."""
        for worker in self.workers:
            if worker.process.poll() is None:
                await worker.kill()


@dataclass(slots=True)
class Worker:
    """A worker process and where it writes."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path
    began_bytes: int

    def said(self) -> str:
        """What this process has printed; the file also holds what processes before it did."""
        return self.stdout.read_bytes()[self.began_bytes :].decode()

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Until its tables are recovered. It may have no partition yet."""
        await self.says("ready", timeout_s)

    async def applying(self, timeout_s: float = 90.0) -> None:
        """Until it has begun to apply batches."""
        await self.says("prepared", timeout_s)

    async def says(self, word: str, timeout_s: float = 60.0) -> None:
        """Until it has printed this."""
        await until(lambda: word in self.said() or self.process.poll() is not None, timeout_s)
        assert self.process.poll() is None, self.stderr.read_text()[-3000:]

    async def ended(self, timeout_s: float = 60.0) -> int:
        """Its exit status."""
        await until(lambda: self.process.poll() is not None, timeout_s)
        assert self.process.returncode is not None
        return self.process.returncode

    async def stop(self) -> int:
        self.process.terminate()
        return await self.ended()

    async def kill(self) -> None:
        self.process.kill()
        await self.ended()


async def until(condition: Any, timeout_s: float) -> None:
    """Wait for something in another process; TimeoutError says that it never came."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def producer_to(broker: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all", linger_ms=5)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def feed(setup: Setup, n_events: int, n_users: int = 500, rate: float | None = None, start: int = 0) -> None:
    """Produce numbered events; `rate` is events per second, None as fast as possible."""
    async with producer_to(setup.broker) as producer:
        futures = []
        began_s = time.monotonic()
        for i in range(start, start + n_events):
            user = (i * 2654435761 >> 7) % n_users
            futures.append(
                await producer.send(setup.input, b"%d" % i, key=b"u%d" % user, partition=user % setup.partitions)
            )
            if rate is not None and i % 50 == 0:
                ahead_s = (i - start) / rate - (time.monotonic() - began_s)
                await asyncio.sleep(max(ahead_s, 0))
        await asyncio.gather(*futures)


async def read_all(broker: str, topic: str, partitions: int) -> list[list[Any]]:
    """All records of a topic, per partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False, fetch_max_wait_ms=50)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, p) for p in range(partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        ends = await consumer.end_offsets(tps)
        records: list[list[Any]] = [[] for _ in tps]
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for tp, fetched in (await consumer.getmany(timeout_ms=200)).items():
                records[tp.partition].extend(fetched)
        return records
    finally:
        await consumer.stop()


async def caught_up(setup: Setup, timeout_s: float = 90.0) -> None:
    """Until the group has committed the end of the input."""
    consumer = AIOKafkaConsumer(bootstrap_servers=setup.broker, enable_auto_commit=False)
    admin = AIOKafkaAdminClient(bootstrap_servers=setup.broker)
    await consumer.start()
    await admin.start()
    try:
        tps = [TopicPartition(setup.input, p) for p in range(setup.partitions)]
        deadline = time.monotonic() + timeout_s
        while True:
            ends = await consumer.end_offsets(tps)
            committed = await admin.list_consumer_group_offsets(setup.name)
            lag = {tp: end - max(committed[tp].offset if tp in committed else 0, 0) for tp, end in ends.items()}
            if not any(lag.values()):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"still behind: {lag}")
            await asyncio.sleep(0.2)
    finally:
        await admin.close()
        await consumer.stop()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the ledger says: inputs, inputs without output, users with a wrong state, outputs beyond the first."""

    n_inputs: int
    n_lost: int
    n_wrong_states: int
    n_wrong_outputs: int
    n_repeated: int

    @property
    def sound(self) -> bool:
        return self.n_lost == self.n_wrong_states == self.n_wrong_outputs == 0


async def audit(setup: Setup) -> Verdict:
    """Rebuild every state from the input and compare it with the changelog; account for every output."""
    inputs = await read_all(setup.broker, setup.input, setup.partitions)
    outputs = await read_all(setup.broker, setup.output, setup.partitions)
    changelog = await read_all(setup.broker, setup.changelog, setup.partitions)
    states: dict[bytes, tuple[int, int, int]] = {}
    expected: dict[tuple[int, int], int] = {}
    for partition, records in enumerate(inputs):
        for record in records:
            states[record.key] = fold(states.get(record.key, (-1, 0, 0)), record.offset, record.value)
            expected[partition, record.offset] = states[record.key][2]
    seen: Counter[tuple[int, int]] = Counter()
    n_wrong_outputs = 0
    for records in outputs:
        for record in records:
            partition, offset, checksum = OUTPUT.unpack_from(record.value)
            seen[partition, offset] += 1
            n_wrong_outputs += expected.get((partition, offset)) != checksum
    stored: dict[bytes, tuple[int, int, int]] = {}
    for records in changelog:
        for record in records:
            if record.value is not None:  # a barrier
                stored[record.key] = STATE.unpack_from(record.value)
    return Verdict(
        n_inputs=len(expected),
        n_lost=len(expected.keys() - seen.keys()),
        n_wrong_states=sum(stored.get(key) != state for key, state in states.items()),
        n_wrong_outputs=n_wrong_outputs,
        n_repeated=sum(seen.values()) - len(seen),
    )

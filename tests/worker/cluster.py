"""Worker processes on topics of their own, what is fed to them, and all that they wrote."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from stream.feed import partition_of
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout

__all__ = ["Cluster", "Running", "keyed", "until"]

ROOT = Path(__file__).resolve().parents[2]

KeyAndValue = tuple[bytes | None, bytes | None]


def keyed(event: dict[str, Any]) -> KeyAndValue:
    """An event as a good producer sends it."""
    return str(event["user_id"]).encode(), json.dumps(event).encode()


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for something in another process; TimeoutError says that it never came."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("what was waited for did not happen")
        await asyncio.sleep(0.05)


@dataclass(slots=True)
class Running:
    """A worker process that was started with `--json`, and where it writes."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path
    began_bytes: int
    """Of standard output that earlier workers of the same label have written."""

    def said(self) -> str:
        """Its standard output so far."""
        return self.stdout.read_bytes()[self.began_bytes :].decode()

    async def ready(self, timeout_s: float = 200.0) -> None:
        """Until it answers events; what it said of itself is the message if it does not."""
        try:
            await until(lambda: '"ready"' in self.said() or self.process.poll() is not None, timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"not ready in {timeout_s:.0f} s: {self.stderr.read_text()[-3000:]}") from error
        assert self.process.poll() is None, self.stderr.read_text()[-3000:]

    async def ended(self, timeout_s: float = 60.0) -> int:
        """Its exit status."""
        await until(lambda: self.process.poll() is not None, timeout_s)
        assert self.process.returncode is not None
        return self.process.returncode

    async def kill(self) -> None:
        """End it as a crash of the machine would."""
        self.process.kill()
        await self.ended()

    def summary(self) -> dict[str, Any]:
        """What it said when it stopped."""
        document: dict[str, Any] = json.loads(self.said().splitlines()[-1])
        assert document.get("stopped"), document
        return document

    async def stopped(self) -> dict[str, Any]:
        """Stop it gracefully; what it said then."""
        self.process.terminate()
        status = await self.ended()
        assert status == 0, f"exit {status}: {self.stderr.read_text()[-3000:]}"
        return self.summary()


@dataclass(slots=True)
class Cluster:
    """One deployment: topics under a prefix, and the workers that serve them."""

    settings: KafkaSettings
    prefix: str
    workdir: Path
    n_partitions: int = 4
    workers: list[Running] = field(default_factory=list)

    @property
    def names(self) -> TopicNames:
        """What the topics are called."""
        return TopicNames(self.prefix)

    @property
    def broker(self) -> str:
        """HOST:PORT."""
        return self.settings.servers

    def create(self) -> None:
        """Make the topics."""
        ensure_topics(self.settings, topic_layout(self.prefix, n_partitions=self.n_partitions))

    def worker(self, bundle: Path, *options: str, label: str = "worker", module: str = "stream.cli.main") -> Running:
        """Start a worker; its output goes to files named after `label`, behind what is there."""
        directory = self.workdir / label
        directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", module, "worker", "--bundle", str(bundle), "--json"]
        command += ["--kafka", self.broker, "--prefix", self.prefix, *options]
        command += [] if "--log-level" in options else ["--log-level", "info"]
        out, err = directory / "stdout", directory / "stderr"
        stdout_bytes = out.stat().st_size if out.exists() else 0
        with out.open("ab") as stdout, err.open("ab") as stderr:
            process = subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stderr)
        worker = Running(process, out, err, stdout_bytes)
        self.workers.append(worker)
        return worker

    async def kill_all(self) -> None:
        """End every worker that still runs."""
        for worker in self.workers:
            if worker.process.poll() is None:
                await worker.kill()

    async def send(
        self, pairs: Iterable[KeyAndValue], topic: str | None = None, *, rate: float | None = None
    ) -> list[tuple[int, int]]:
        """Send records to `events` (or another topic) in order, by key; those without one go to partition 0.

        Args:
            rate: records a second; as fast as possible unless given.

        Returns:
            Partition and offset of each.
        """
        topic = self.names.events if topic is None else topic
        by_user = (self.names.events, self.names.recommendations)
        n_partitions = self.n_partitions if topic in by_user else 1
        began_s, futures = time.monotonic(), []
        async with AIOKafkaProducer(
            bootstrap_servers=self.broker, acks="all", linger_ms=5, max_request_size=4 << 20
        ) as producer:
            for key, value in pairs:
                partition = 0 if key is None else partition_of(key, n_partitions)
                futures.append(await producer.send(topic, value, key=key, partition=partition))
                if rate is not None and len(futures) % 50 == 0:
                    await asyncio.sleep(max(len(futures) / rate - (time.monotonic() - began_s), 0))
            return [(sent.partition, sent.offset) for sent in await asyncio.gather(*futures)]

    async def ends(self) -> list[int]:
        """The next offset of each partition of `events`."""
        tps = [TopicPartition(self.names.events, partition) for partition in range(self.n_partitions)]
        consumer = AIOKafkaConsumer(bootstrap_servers=self.broker, enable_auto_commit=False)
        await consumer.start()
        try:
            ends = await consumer.end_offsets(tps)
            return [ends[tp] for tp in tps]
        finally:
            await consumer.stop()

    async def lag(self) -> int:
        """Events that are not committed yet."""
        ends = await self.ends()
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker)
        await admin.start()
        try:
            committed = await admin.list_consumer_group_offsets(self.names.app_id)
        finally:
            await admin.close()
        done = {tp.partition: found.offset for tp, found in committed.items() if tp.topic == self.names.events}
        return sum(end - max(done.get(partition, 0), 0) for partition, end in enumerate(ends))

    async def caught_up(self, timeout_s: float = 120.0) -> None:
        """Until everything on `events` is committed."""
        deadline_s = time.monotonic() + timeout_s
        while (n_left := await self.lag()) > 0:
            ended = [worker for worker in self.workers if worker.process.poll() not in (None, 0, -9)]
            assert not ended, ended[0].stderr.read_text()[-3000:]
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{n_left} events are still not committed")
            await asyncio.sleep(0.2)

    async def each(self, topic: str, n_partitions: int = 1) -> AsyncIterator[Any]:
        """The records of a topic as of now, those of a partition in order; for topics larger than memory."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.broker, enable_auto_commit=False, fetch_max_wait_ms=50)
        await consumer.start()
        try:
            tps = [TopicPartition(topic, partition) for partition in range(n_partitions)]
            consumer.assign(tps)
            await consumer.seek_to_beginning(*tps)
            ends = await consumer.end_offsets(tps)
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for fetched in (await consumer.getmany(timeout_ms=200)).values():
                    for record in fetched:
                        yield record
        finally:
            await consumer.stop()

    async def partitions(self, topic: str, n_partitions: int = 1) -> list[list[Any]]:
        """All records of a topic, by partition."""
        records: list[list[Any]] = [[] for _ in range(n_partitions)]
        async for record in self.each(topic, n_partitions):
            records[record.partition].append(record)
        return records

    async def records(self, topic: str, n_partitions: int = 1) -> list[Any]:
        """All records of a topic, partition after partition."""
        return [record for part in await self.partitions(topic, n_partitions) for record in part]

    async def recommendations(self) -> list[dict[str, Any]]:
        """What was recommended, partition after partition in the order of offsets."""
        return _values(await self.records(self.names.recommendations, self.n_partitions))

    async def dead_letters(self) -> list[dict[str, Any]]:
        """What was refused."""
        return _values(await self.records(self.names.dead_letters))


def _values(records: Sequence[Any]) -> list[dict[str, Any]]:
    return [json.loads(record.value) for record in records]

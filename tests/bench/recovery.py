"""How soon a worker is there again: `polytempo bench recovery`.

`starts`: a worker that owns all users is started on their changelog, with states in memory and in RocksDB, and with
RocksDB once more on its own files. Recovery lasts from when the partitions are assigned until the worker is ready;
users/s are all users by that time. `ready_s` counts from the start of the process: imports, the bundle, item statistics
and joining the group (whose first members Kafka lets wait for others) come on top.

`take_over`: of two workers one is killed with -9, while each partition gets an event every 50 ms. Counted is the time
from the kill until an event sent after it has been answered in every partition, with standbys and without. Most of it
is the session timeout, the time that the group takes to see that somebody is missing.

`views`: a follower of `item-activity` with all messages to read, and one with a snapshot and a few messages behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream.bundle.load import load_bundle
from stream.errors import PolytempoError
from stream.feed import partition_of
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from stream.wire.messages import Event
from stream.worker.follower import Follower
from tests.bench.path import a_bundle, a_kafka
from tests.bench.path_process import Process
from tests.bench.recovery_fill import activity_messages, fill, made_up_states, users_of
from tests.bench.recovery_worker import RecoveryOptions

__all__ = ["RecoveryBench", "RecoveryConfig", "run"]

_EVERY_S: Final = 0.05
_PATIENCE_S: Final = 120.0
_N_BEHIND: Final = 100
_MODULE: Final = "tests.bench.recovery_worker"


@dataclass(frozen=True, slots=True)
class RecoveryConfig:
    """What to measure.

    Attributes:
        n_users: users in the changelog.
        n_activity: messages of item activity; 0 leaves the views out.
        n_partitions: partitions of the changelog.
        take_over: whether to kill workers.
        session_s: the session timeout of the workers that are killed.
        bundle, kafka: as for the path.
    """

    n_users: int = 1_000_000
    n_activity: int = 20_000
    n_partitions: int = 4
    take_over: bool = True
    session_s: float = 6.0
    bundle: Path | None = None
    kafka: str | None = None


def run(config: RecoveryConfig, say: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Measure, and give the figures; `say` is told what is going on.

    Raises:
        PolytempoError: no broker, or a worker that did not do its work.
    """
    return asyncio.run(_run(config, say))


async def _run(config: RecoveryConfig, say: Callable[[str], object]) -> dict[str, Any]:
    with (
        a_bundle(config.bundle) as bundle,
        a_kafka(config.kafka) as settings,
        tempfile.TemporaryDirectory(prefix="polytempo-bench-") as name,
    ):
        bench = RecoveryBench(config, settings, bundle, Path(name), f"bench-{uuid.uuid4().hex[:8]}-", say)
        figures = {"users": config.n_users, "bundle": bundle.name, **await bench.fill()}
        figures["starts"] = starts = {
            "changelog to memory": await bench.start("memory://", None),
            "changelog to rocksdb": await bench.start("rocksdb://", bench.folder / "data"),
            "rocksdb, own files": await bench.start("rocksdb://", bench.folder / "data"),
        }
        figures["users_per_s"] = starts["changelog to memory"]["users_per_s"]
        if config.take_over:
            figures["take_over"] = {
                "with standbys": await bench.take_over(standbys=1),
                "without": await bench.take_over(standbys=0),
            }
        if config.n_activity > 0:
            figures["views"] = await bench.views()
    return figures


@dataclass(slots=True)
class RecoveryBench:
    """One changelog, and the workers that are started on it."""

    config: RecoveryConfig
    settings: KafkaSettings
    bundle: Path
    folder: Path
    prefix: str
    say: Callable[[str], object]
    n_started: int = 0
    n_state_bytes: int = 0

    @property
    def names(self) -> TopicNames:
        """The topics."""
        return TopicNames(self.prefix)

    async def fill(self) -> dict[str, Any]:
        """Make the topics and the changelog."""
        config, n_partitions = self.config, self.config.n_partitions
        layout = topic_layout(prefix=self.prefix, n_partitions=n_partitions)
        await asyncio.get_running_loop().run_in_executor(None, ensure_topics, self.settings, layout)
        states = made_up_states(self.bundle)
        self.n_state_bytes = len(states[0])
        self.say(f"a changelog of {config.n_users:,} users, {len(states[0]):,} bytes each")
        began_s = time.perf_counter()
        n_bytes = 0
        for partition in range(n_partitions):
            users = users_of(states, config.n_users, n_partitions, partition)
            n_bytes += await fill(self.settings, self.names.changelog, partition, users)
        took_s = time.perf_counter() - began_s
        self.say(f"{n_bytes / 1e6:,.0f} MB in {took_s:.1f} s")
        return {"bytes": n_bytes, "state_bytes": len(states[0]), "fill_s": round(took_s, 2)}

    def worker(self, store: str, data: Path | None, standbys: int, session_s: float = 10.0) -> Process:
        """A worker that is not started yet."""
        self.n_started += 1
        options = RecoveryOptions(
            str(self.bundle),
            self.settings.servers,
            self.prefix,
            store,
            None if data is None else str(data),
            standbys,
            session_s,
            time.time(),
        )
        return Process(_MODULE, [options.written()], self.folder, label=f"worker-{self.n_started}")

    async def start(self, store: str, data: Path | None) -> dict[str, Any]:
        """Start a worker that owns all users, and stop it."""
        worker = self.worker(store, data, standbys=0)
        try:
            await worker.start(timeout_s=600)
            said = next(line for line in worker.said() if "ready" in line)
            await worker.stop(timeout_s=120)
        finally:
            worker.kill()
        result = {
            "ready_s": round(said["ready_s"], 2),
            "recovery_s": round(said["recovery_s"], 3),
            "cpu_s": round(said["cpu_s"], 3),
            "users_per_s": round(self.config.n_users / said["recovery_s"]),
            "users_per_cpu_s": round(self.config.n_users / said["cpu_s"]),
            "read": said["n_records"],
            "read_bytes_per_s": round(said["n_records"] * self.n_state_bytes / said["recovery_s"]),
            "peak_bytes": said["peak_bytes"],
        }
        self.say(
            f"{store} {'own files' if said['n_records'] == 0 else 'changelog'}: {result['users_per_s']:,} users/s, "
            f"recovered in {result['recovery_s']:.1f} s, ready after {result['ready_s']:.1f} s, "
            f"at most {result['peak_bytes'] / 1e6:,.0f} MB"
        )
        return result

    async def take_over(self, *, standbys: int) -> dict[str, Any]:
        """Kill one of two workers, and see when every partition is answered again."""
        n_users, session_s = self.config.n_users, self.config.session_s
        workers = [self.worker("memory://", None, standbys, session_s) for _ in range(2)]
        try:
            for worker in workers:
                await worker.start(timeout_s=600)
            n_wanted = n_users * (1 + standbys)
            await self._until(lambda: sum(each.last("n_held", 0) for each in workers) >= n_wanted, workers)
            async with self._live() as answered_after:
                await answered_after(time.time())  # both are at work
                killed_s = time.time()
                workers[0].kill()
                took_s = await answered_after(killed_s)
            await workers[1].stop(timeout_s=120)
        finally:
            for worker in workers:
                worker.kill()
        self.say(f"take-over with {standbys} standbys: every partition answers after {took_s:.1f} s")
        return {
            "answered_s": round(took_s, 2),
            "session_s": session_s,
            "beyond_session_s": round(took_s - session_s, 2),
        }

    async def _until(self, condition: Callable[[], bool], workers: list[Process]) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S + self.config.n_users / 5_000
        while not condition():
            for worker in workers:
                worker.check()
            if time.monotonic() > deadline_s:
                raise PolytempoError("the workers do not hold all users.", "Is there memory for all of them, twice?")
            await asyncio.sleep(_EVERY_S)

    @contextlib.asynccontextmanager
    async def _live(self) -> AsyncIterator[Callable[[float], Any]]:
        """Send events to every partition all the time. Gives a coroutine function: seconds from a time (of the epoch)
        until an event that was sent after it has been answered in every partition."""
        n_partitions = self.config.n_partitions
        user_of: dict[int, str] = {}
        for number in range(1000):
            user_of.setdefault(partition_of(f"live-{number}".encode(), n_partitions), f"live-{number}")
        answered: dict[int, tuple[float, float]] = {}
        producer = AIOKafkaProducer(**self.settings.aiokafka(), acks="all")
        consumer = AIOKafkaConsumer(**self.settings.aiokafka(), fetch_max_wait_ms=20)
        await producer.start()
        await consumer.start()
        outputs = [TopicPartition(self.names.recommendations, partition) for partition in range(n_partitions)]
        consumer.assign(outputs)
        await consumer.seek_to_end(*outputs)
        for tp in outputs:
            await consumer.position(tp)

        async def send() -> None:
            while True:
                for partition, user_id in user_of.items():
                    event = Event(user_id=user_id, item_id="i1", event_type="view", ts_ms=int(time.time() * 1000))
                    value = msgspec.json.encode(event)
                    await producer.send(self.names.events, value, key=user_id.encode(), partition=partition)
                await asyncio.sleep(_EVERY_S)

        async def read() -> None:
            sent_ms = msgspec.json.Decoder(_Sent).decode
            while True:
                for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                    answered[tp.partition] = (sent_ms(records[-1].value).ts_ms / 1000, time.time())

        async def answered_after(since_s: float) -> float:
            first: dict[int, float] = {}
            deadline_s = time.monotonic() + _PATIENCE_S + self.config.n_users / 5_000
            while len(first) < n_partitions:
                for task in tasks:
                    if task.done():
                        task.result()
                for partition, (sent_s, answered_s) in answered.items():
                    if sent_s > since_s:
                        first.setdefault(partition, answered_s)
                if time.monotonic() > deadline_s:
                    raise PolytempoError(f"{n_partitions - len(first)} of {n_partitions} partitions are not answered.")
                await asyncio.sleep(0.01)
            return max(first.values()) - since_s

        tasks = [asyncio.ensure_future(send()), asyncio.ensure_future(read())]
        try:
            yield answered_after
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await producer.stop()
            await consumer.stop()

    async def views(self) -> dict[str, Any]:
        """Follow the topic of item activity from its beginning, and from a snapshot."""
        n_messages = self.config.n_activity
        names = TopicNames(f"{self.prefix}views-")
        layout = topic_layout(prefix=names.prefix, n_partitions=1)
        await asyncio.get_running_loop().run_in_executor(None, ensure_topics, self.settings, layout)
        self.say(f"{n_messages:,} messages of item activity")
        messages = activity_messages(self.bundle, n_messages + _N_BEHIND)
        spec = load_bundle(self.bundle).features.statistics
        snapshot = self.folder / "views.npz"
        result: dict[str, Any] = {"messages": len(messages) - _N_BEHIND, "behind_snapshot": _N_BEHIND}
        for name, chunk in (("topic_s", messages[:-_N_BEHIND]), ("snapshot_s", messages[-_N_BEHIND:])):
            await fill(self.settings, names.item_activity, 0, [(b"history", message) for message in chunk])
            follower = Follower(self.settings, names, spec, snapshot=snapshot)
            began_s = time.perf_counter()
            await follower.start()
            result[name] = round(time.perf_counter() - began_s, 3)
            await follower.stop()
            if name == "topic_s":
                follower.save()
        result["snapshot_bytes"] = snapshot.stat().st_size
        result["messages_per_s"] = round(result["messages"] / result["topic_s"])
        self.say(f"a view from the topic in {result['topic_s']:.2f} s, from a snapshot in {result['snapshot_s']:.2f} s")
        return result


class _Sent(msgspec.Struct):
    """Of a recommendation, the time of its event."""

    ts_ms: int

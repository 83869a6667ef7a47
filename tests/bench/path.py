"""The whole path, one worker on one core, beside plain Faust: `polytempo bench path`.

Real Kafka: events lie ready in the input topic, a worker starts, and the end offsets of the output topic say how many
recommendations have been acknowledged. From when a fifth of them is there until the last: events/s. Each recommendation
by then was scored by the bundle in ONNX Runtime, its state is in the table and in the changelog, and within seconds its
input offset is committed, which is checked. The worker has one core to itself, with all its threads; broker and
benchmark have the others. The peer (see `peer_faust`) does the same on the same core right after, with fewer events,
and its warm-up left out in the same way. With several rounds the medians count.

On a machine that others use as well, compare ratios and the CPU time an event took, which is measured beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from stream.errors import PolytempoError
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from tests.bench.path_events import Pair, load_events, produce_all
from tests.bench.path_worker import Options

__all__ = ["STAGES", "Measured", "PathOptions", "Process", "a_bundle", "a_kafka", "committed", "run"]

ROOT: Final = Path(__file__).resolve().parents[2]
DEFAULT_BUNDLE: Final = ROOT / "models" / "shop-ranker"
STAGES: Final = (
    "decode",
    "load",
    "fold",
    "featurize",
    "score",
    "rank",
    "encode",
    "step, rest",
    "process, rest",
    "produce",
    "consume",
    "item statistics",
    "batches",
    "commit",
    "faust",
    "network",
    "event loop",
)
"""In the order of an event's way."""
_WARM_SHARE = 0.2
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class PathOptions:
    """What to measure.

    Attributes:
        bundle: the bundle to score with; None for models/shop-ranker, or an untrained ranker while there is none.
        n_events, n_plain_events: backlog of the worker, and of the peer, whose events are the first of the same.
        n_users, n_items: size of the simulated shop.
        log: a log to use instead of the shop.
        n_rounds: how often both are measured, in turn.
        n_partitions: partitions of the input topic.
        max_events: events that the worker scores together at most.
        kafka: a cluster to use instead of a broker of the benchmark's own.
    """

    bundle: Path | None = None
    n_events: int = 60_000
    n_plain_events: int = 3_000
    n_users: int = 20_000
    n_items: int = 3_000
    log: Path | None = None
    n_rounds: int = 1
    n_partitions: int = 4
    max_events: int = 256
    kafka: str | None = None


@dataclass(slots=True)
class Measured:
    """One process over one backlog."""

    events_per_s: float
    us_per_event: dict[str, float]
    """CPU time by stage."""
    n_per_batch: float

    @property
    def cpu_us(self) -> float:
        """CPU time an event, all stages."""
        return sum(self.us_per_event.values())


@dataclass(slots=True)
class Process:
    """A Python process of the benchmark, and what it says: JSON lines."""

    module: str
    arguments: Sequence[str]
    workdir: Path
    label: str = "worker"
    lines: list[dict[str, Any]] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    async def start(self, timeout_s: float = 120.0) -> None:
        """Start it, and wait until it is ready.

        Raises:
            PolytempoError: it ended, or was not ready in time.
        """
        command = [sys.executable, "-m", self.module, *self.arguments]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)
        deadline_s = time.monotonic() + timeout_s
        while b'"ready"' not in self._out.read_bytes():
            self.check()
            if time.monotonic() > deadline_s:
                raise PolytempoError(f"{self.module} was not ready within {timeout_s:.0f} s.", self._said())
            await asyncio.sleep(_POLL_S)

    def check(self) -> None:
        """Raise PolytempoError if it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise PolytempoError(f"{self.module} ended by itself.", self._said())

    async def stop(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """End it with SIGTERM; its last line."""
        process = self._process
        if process is None:
            return {}
        process.terminate()
        try:
            await asyncio.get_running_loop().run_in_executor(None, process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise PolytempoError(f"{self.module} did not stop within {timeout_s:.0f} s.", self._said()) from None
        if process.returncode != 0:
            raise PolytempoError(f"{self.module} ended with {process.returncode}.", self._said())
        last: dict[str, Any] = json.loads(self._out.read_bytes().splitlines()[-1])
        return last

    def begin(self) -> None:
        """What it measures counts from now on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def _out(self) -> Path:
        return self.workdir / f"{self.label}.out"

    @property
    def _err(self) -> Path:
        return self.workdir / f"{self.label}.err"

    def _said(self) -> str:
        return self._err.read_text(errors="replace")[-2000:]


def run(options: PathOptions, say: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Measure, and give the figures; `say` is told what is going on.

    Raises:
        PolytempoError: no broker, or a process that was measured did not do its work.
    """
    return asyncio.run(_run(options, say))


@contextlib.contextmanager
def a_kafka(servers: str | None) -> Iterator[KafkaSettings]:
    """The cluster that was named, or a broker of our own for as long as this lasts."""
    if servers is not None:
        yield KafkaSettings.read(servers)
        return
    with EmbeddedBroker() as broker:
        yield broker.settings


@contextlib.contextmanager
def a_bundle(path: Path | None) -> Iterator[Path]:
    """The bundle that was named, else the shop's, else an untrained two-stage ranker, which costs as much to run."""
    if path is not None or DEFAULT_BUNDLE.exists():
        yield DEFAULT_BUNDLE if path is None else path.absolute()
        return
    from tests.bundle.models import write_ranker

    with tempfile.TemporaryDirectory(prefix="polytempo-bench-") as folder:
        write_ranker(Path(folder) / "ranker")
        yield Path(folder) / "ranker"


async def committed(settings: KafkaSettings, names: TopicNames, n_partitions: int) -> int:
    """Input events that the group has committed."""
    admin = AIOKafkaAdminClient(**settings.aiokafka())
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(names.app_id)
    finally:
        await admin.close()
    return sum(
        max(offsets[tp].offset, 0)
        for partition in range(n_partitions)
        if (tp := TopicPartition(names.events, partition)) in offsets
    )


@contextlib.contextmanager
def _cores() -> Iterator[int | None]:
    """The core for what is measured; this process and what it starts keep to the others meanwhile."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(cores) < 2:
        yield None
        return
    core = min(cores)
    os.sched_setaffinity(0, cores - {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, cores)


async def _run(options: PathOptions, say: Callable[[str], object]) -> dict[str, Any]:
    say("making events")
    pairs = load_events(options.n_events, n_users=options.n_users, n_items=options.n_items, log=options.log)
    plain_pairs = pairs[: options.n_plain_events]
    ours: list[Measured] = []
    plain: list[Measured] = []
    with (
        a_bundle(options.bundle) as bundle,
        _cores() as core,
        a_kafka(options.kafka) as settings,
        tempfile.TemporaryDirectory(prefix="polytempo-bench-") as folder,
    ):
        for number in range(options.n_rounds):
            for module, backlog, results, name in (
                ("tests.bench.path_worker", pairs, ours, "worker"),
                ("tests.bench.peer_faust", plain_pairs, plain, "plain Faust"),
            ):
                say(f"round {number + 1} of {options.n_rounds}: {name}, {len(backlog):,} events")
                measured = await _measure(options, settings, module, backlog, bundle, core, Path(folder))
                say(f"{name}: {measured.events_per_s:,.0f} events/s, {measured.cpu_us:.0f} us of CPU an event")
                results.append(measured)
    return {
        "events_per_s": round(statistics.median(each.events_per_s for each in ours), 1),
        "plain_faust_events_per_s": round(statistics.median(each.events_per_s for each in plain), 1),
        "ratio": round(statistics.median(a.events_per_s / b.events_per_s for a, b in zip(ours, plain, strict=True)), 2),
        "us_per_event": _median_stages(ours),
        "cpu_us_per_event": round(statistics.median(each.cpu_us for each in ours), 1),
        "plain_faust_cpu_us_per_event": round(statistics.median(each.cpu_us for each in plain), 1),
        "cpu_ratio": round(statistics.median(b.cpu_us / a.cpu_us for a, b in zip(ours, plain, strict=True)), 2),
        "plain_faust_us_per_event": _median_stages(plain),
        "events_per_batch": round(statistics.median(each.n_per_batch for each in ours), 1),
        "events": len(pairs),
        "plain_faust_events": len(plain_pairs),
        "rounds": options.n_rounds,
        "bundle": bundle.name,
        "pinned": core is not None,
    }


def _median_stages(rounds: list[Measured]) -> dict[str, float]:
    found = {stage for each in rounds for stage in each.us_per_event}
    order = [*(stage for stage in STAGES if stage in found), *sorted(found - set(STAGES))]
    return {stage: round(statistics.median(each.us_per_event.get(stage, 0.0) for each in rounds), 2) for stage in order}


async def _measure(
    options: PathOptions,
    settings: KafkaSettings,
    module: str,
    pairs: list[Pair],
    bundle: Path,
    core: int | None,
    folder: Path,
) -> Measured:
    """Start `python -m module` over a backlog in topics of its own, and watch its output grow to the end."""
    prefix = f"bench-{uuid.uuid4().hex[:8]}-"
    names, n_partitions = TopicNames(prefix), options.n_partitions
    layout = topic_layout(prefix=prefix, n_partitions=n_partitions)
    await asyncio.get_running_loop().run_in_executor(None, ensure_topics, settings, layout)
    await produce_all(settings, names.events, n_partitions, pairs)
    wanted = Options(str(bundle), settings.servers, prefix, n_partitions, core, options.max_events)
    process = Process(module, [wanted.written()], folder, label=prefix)
    consumer = AIOKafkaConsumer(**settings.aiokafka())
    await consumer.start()
    outputs = [TopicPartition(names.recommendations, partition) for partition in range(n_partitions)]
    letters = [TopicPartition(names.dead_letters, 0)]
    try:
        await process.start()
        window: list[tuple[float, int]] = []
        n_done = 0
        changed_s = time.monotonic()
        before = (time.perf_counter(), 0)  # where the window begins if one look sees everything done
        while n_done < len(pairs):
            await asyncio.sleep(_POLL_S)
            # End offsets instead of reading: a reader would take time from the broker that serves the worker.
            n_now = sum((await consumer.end_offsets(outputs)).values())
            now_s = time.perf_counter()
            if n_now > n_done:
                n_done, changed_s = n_now, time.monotonic()
                if n_done >= _WARM_SHARE * len(pairs):
                    window.append((now_s, n_done))
                else:
                    before = (now_s, n_done)
            elif time.monotonic() - changed_s > 30:
                n_letters = sum((await consumer.end_offsets(letters)).values())
                raise PolytempoError(
                    f"{n_done:,} of {len(pairs):,} events were answered, then nothing for 30 s.",
                    f"{n_letters:,} were dead letters." if n_letters else "The worker stands still.",
                )
            process.check()
        deadline_s = time.monotonic() + 30
        while await committed(settings, names, n_partitions) < len(pairs):
            if time.monotonic() > deadline_s:
                raise PolytempoError(f"{module} has answered everything and committed less.")
            await asyncio.sleep(0.1)
        result = await process.stop()
    finally:
        process.kill()
        await consumer.stop()
    (first_s, n_first), (last_s, n_last) = before if len(window) == 1 else window[0], window[-1]
    return Measured(
        (n_last - n_first) / (last_s - first_s),
        {stage: us / len(pairs) for stage, us in result["stages_us"].items()},
        len(pairs) / max(1, result["n_batches"]),
    )

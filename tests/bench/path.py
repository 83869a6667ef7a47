"""The whole path, one worker on one core, beside plain Faust: `polytempo bench path`.

Real Kafka: events lie ready in the input topic, a worker starts, and the end offsets of the output topic say how many
recommendations have been acknowledged. From when a fifth of them is there until the last: events/s. Each recommendation
by then was scored by the bundle in ONNX Runtime, its state is in the table and in the changelog, and within seconds its
input offset is committed, which is checked. The worker has one core to itself, with all its threads; broker and
benchmark have the others. The peer (see `peer_faust`) does the same on the same core right after, with fewer events,
and its warm-up left out in the same way. With several rounds the medians count. `path_peers` has more peers.

On a machine that others use as well, compare ratios and the CPU time an event took, which is measured beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError

from stream.errors import PolytempoError
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from stream.wire.messages import Recommendation
from tests.bench.path_events import Pair, load_events, produce_all
from tests.bench.path_options import Options
from tests.bench.path_process import ROOT, Process

__all__ = [
    "STAGES",
    "Answers",
    "Measured",
    "PathOptions",
    "Subject",
    "a_bundle",
    "a_core",
    "a_kafka",
    "committed",
    "figures",
    "measure",
    "median_stages",
    "run",
]

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
_PATIENCE_S = 60.0

Answers = dict[tuple[int, int], list[tuple[str, float]]]
"""Partition and offset of an event -> what was recommended, best first, with scores."""


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
        recurrent: score with an untrained recurrent model over `n_items` items, which costs what a trained one costs.
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
    recurrent: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: the worker, or a peer.

    Attributes:
        module: what runs.
        label: for people.
        python: in which environment.
        formulation, fixed_view: see `tests.bench.path_options.Options`.
        stored: gives, from the folder of its states, how many input events it has committed; None for one that
            commits to Kafka.
    """

    module: str
    label: str
    python: Path = Path(sys.executable)
    formulation: str = ""
    fixed_view: bool = False
    stored: Callable[[Path], int] | None = None


@dataclass(slots=True)
class Measured:
    """One process over one backlog."""

    events_per_s: float
    us_per_event: dict[str, float]
    """CPU time by stage."""
    n_per_batch: float
    answers: Answers = field(default_factory=dict)
    """What was recommended, if that was asked for."""

    @property
    def cpu_us(self) -> float:
        """CPU time an event, all stages."""
        return sum(self.us_per_event.values())


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
def a_bundle(path: Path | None, n_recurrent: int | None = None) -> Iterator[Path]:
    """The bundle that was named, else the shop's, else an untrained two-stage ranker, which costs as much to run.

    `n_recurrent` asks for an untrained recurrent model over so many items of the shop instead.
    """
    if path is not None or (n_recurrent is None and DEFAULT_BUNDLE.exists()):
        yield DEFAULT_BUNDLE if path is None else path.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="polytempo-bench-") as folder:
        if n_recurrent is None:
            from tests.bundle.models import write_ranker

            write_ranker(Path(folder) / "ranker")
            yield Path(folder) / "ranker"
        else:
            from tests.bench.recurrent import write_shop_recurrent

            name = f"recurrent-{n_recurrent}"
            write_shop_recurrent(Path(folder) / name, n_recurrent)
            yield Path(folder) / name


async def committed(settings: KafkaSettings, names: TopicNames, n_partitions: int) -> int:
    """Input events that the group has committed; 0 while no broker coordinates the group, which passes."""
    admin = AIOKafkaAdminClient(**settings.aiokafka())
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(names.app_id)
    except (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError, GroupLoadInProgressError):
        return 0
    finally:
        await admin.close()
    return sum(
        max(offsets[tp].offset, 0)
        for partition in range(n_partitions)
        if (tp := TopicPartition(names.events, partition)) in offsets
    )


@contextlib.contextmanager
def a_core() -> Iterator[int | None]:
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
        a_bundle(options.bundle, options.n_items if options.recurrent else None) as bundle,
        a_core() as core,
        a_kafka(options.kafka) as settings,
        tempfile.TemporaryDirectory(prefix="polytempo-bench-") as folder,
    ):
        for number in range(options.n_rounds):
            for subject, backlog, results in (
                (Subject("tests.bench.path_worker", "worker"), pairs, ours),
                (Subject("tests.bench.peer_faust", "plain Faust"), plain_pairs, plain),
            ):
                say(f"round {number + 1} of {options.n_rounds}: {subject.label}, {len(backlog):,} events")
                measured = await measure(options, settings, subject, backlog, bundle, core, Path(folder))
                say(f"{subject.label}: {measured.events_per_s:,.0f} events/s, {measured.cpu_us:.0f} us of CPU an event")
                results.append(measured)
    return figures(options, ours, plain) | {
        "events": len(pairs),
        "plain_faust_events": len(plain_pairs),
        "bundle": bundle.name,
        "pinned": core is not None,
    }


def figures(options: PathOptions, ours: list[Measured], plain: list[Measured]) -> dict[str, Any]:
    """What the rounds of the worker and of plain Faust say: medians, and medians of each round's ratio."""
    return {
        "events_per_s": round(statistics.median(each.events_per_s for each in ours), 1),
        "plain_faust_events_per_s": round(statistics.median(each.events_per_s for each in plain), 1),
        "ratio": round(statistics.median(a.events_per_s / b.events_per_s for a, b in zip(ours, plain, strict=True)), 2),
        "us_per_event": median_stages(ours),
        "cpu_us_per_event": round(statistics.median(each.cpu_us for each in ours), 1),
        "plain_faust_cpu_us_per_event": round(statistics.median(each.cpu_us for each in plain), 1),
        "cpu_ratio": round(statistics.median(b.cpu_us / a.cpu_us for a, b in zip(ours, plain, strict=True)), 2),
        "plain_faust_us_per_event": median_stages(plain),
        "events_per_batch": round(statistics.median(each.n_per_batch for each in ours), 1),
        "rounds": options.n_rounds,
    }


def median_stages(rounds: list[Measured]) -> dict[str, float]:
    """CPU time an event by stage, in the order of an event's way."""
    found = {stage for each in rounds for stage in each.us_per_event}
    order = [*(stage for stage in STAGES if stage in found), *sorted(found - set(STAGES))]
    return {stage: round(statistics.median(each.us_per_event.get(stage, 0.0) for each in rounds), 2) for stage in order}


async def measure(
    options: PathOptions,
    settings: KafkaSettings,
    subject: Subject,
    pairs: list[Pair],
    bundle: Path,
    core: int | None,
    folder: Path,
    *,
    history: Sequence[bytes] = (),
    read_answers: bool = False,
) -> Measured:
    """Start the subject over a backlog in topics of its own, and watch its output grow to the end.

    Args:
        options: partitions, and events scored together.
        settings: the cluster.
        subject: what runs.
        pairs: the backlog.
        bundle: what it scores with.
        core: where it stays.
        folder: for its files.
        history: messages of item activity that are there from the start.
        read_answers: give back what was recommended.

    Raises:
        PolytempoError: it ended, stood still, or did not commit all that it had answered.
    """
    prefix = f"bench-{uuid.uuid4().hex[:8]}-"
    names, n_partitions = TopicNames(prefix), options.n_partitions
    layout = topic_layout(prefix=prefix, n_partitions=n_partitions)
    await asyncio.get_running_loop().run_in_executor(None, ensure_topics, settings, layout)
    await produce_all(settings, names.events, n_partitions, pairs)
    if history:
        await produce_all(settings, names.item_activity, 1, [(b"history", message) for message in history])
    wanted = Options(
        str(bundle),
        settings.servers,
        prefix,
        n_partitions,
        core,
        options.max_events,
        subject.fixed_view,
        subject.formulation,
        str(folder),
    )
    process = Process(subject.module, [wanted.written()], folder, label=prefix, python=subject.python)
    consumer = AIOKafkaConsumer(**settings.aiokafka(), max_partition_fetch_bytes=8 << 20)
    await consumer.start()
    outputs = [TopicPartition(names.recommendations, partition) for partition in range(n_partitions)]
    letters = [TopicPartition(names.dead_letters, 0)]
    answers: Answers = {}
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
            elif time.monotonic() - changed_s > _PATIENCE_S:
                n_letters = sum((await consumer.end_offsets(letters)).values())
                raise PolytempoError(
                    f"{n_done:,} of {len(pairs):,} events were answered, then nothing for {_PATIENCE_S:.0f} s.",
                    f"{n_letters:,} were dead letters." if n_letters else f"{subject.label} stands still.",
                )
            process.check()
        deadline_s = time.monotonic() + _PATIENCE_S
        while await _n_committed(settings, subject, wanted) < len(pairs):
            if time.monotonic() > deadline_s:
                raise PolytempoError(f"{subject.label} has answered everything and committed less.")
            await asyncio.sleep(0.1)
        if read_answers:
            answers = await _read_answers(consumer, outputs)
        result = await process.stop()
    finally:
        process.kill()
        await consumer.stop()
        shutil.rmtree(wanted.states, ignore_errors=True)
    (first_s, n_first), (last_s, n_last) = before if len(window) == 1 else window[0], window[-1]
    return Measured(
        (n_last - n_first) / (last_s - first_s),
        {stage: us / len(pairs) for stage, us in result["stages_us"].items()},
        len(pairs) / max(1, result["n_batches"]),
        answers,
    )


async def _n_committed(settings: KafkaSettings, subject: Subject, options: Options) -> int:
    if subject.stored is not None:
        return subject.stored(options.states)
    return await committed(settings, options.names, options.n_partitions)


async def _read_answers(consumer: AIOKafkaConsumer, outputs: list[TopicPartition]) -> Answers:
    """All recommendations by the event that each answers.

    Raises:
        PolytempoError: an event was answered twice.
    """
    read = msgspec.json.Decoder(Recommendation).decode
    answers: Answers = {}
    consumer.assign(outputs)
    await consumer.seek_to_beginning(*outputs)
    n_left = sum((await consumer.end_offsets(outputs)).values())
    while n_left > 0:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            n_left -= len(records)
            for record in records:
                each = read(record.value)
                place = (each.source.partition, each.source.offset)
                if place in answers:
                    raise PolytempoError(f"the event at {place} was answered twice.")
                answers[place] = [(item.item_id, item.score) for item in each.items]
    return answers

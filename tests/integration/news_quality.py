"""How good are the recommendations that the worker publishes, on real news clicks?

    python -m tests.integration.news_quality --bundle models/news-ranker --day 4

    days 0-3   as fast as the worker goes: states and statistics do not depend on how old a view is
    --day      an event is sent when the view that answers is at most `--lag` behind it, in event time

Targets: clicks of the day that are not the first of their session and not yet in it, a 15 % sample drawn over all
events with seed 0. What counts is the recommendation published for the user's event right before the target. Live, a
view that is refreshed each second is a second old; when a day passes in minutes it would be many minutes old, which
is why the sender waits. How old the views really were is reported. `--replay` scores the same events offline, through
the training's replay, to compare.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from numpy.typing import NDArray
from rich.console import Console

from stream.bundle.load import Bundle, load_bundle
from stream.core.scales import DAY_MS
from stream.core.seam import Policy, Recommender
from stream.feed import encode_events, partition_of
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from stream.logs import EventLog, open_log
from stream.wire.activity import decode_activity
from tests.conftest import SHARED_DATA
from tests.worker.cluster import Cluster
from training.log import Log
from training.metrics import hit_rate, ndcg, reciprocal_rank
from training.replay import Replay
from training.targets import Targets, find_targets, sampled

__all__ = ["Quality", "published_quality", "replayed_quality"]

FIRST_DAY_MS = 1_506_816_000_000
"""2017-10-01, where the log begins."""
SAMPLE = 0.15
REFRESH = "50ms"
_TWO_REFRESHES_S = 0.1
FILE = "news_clicks.parquet"


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures over the targets of a day; lags are event time, from the newest click in the view to the event.

    Attributes:
        n_targets: clicks that were to be foreseen.
        n_missing: of them, those whose event before got no recommendation; they count as misses.
        n_repeated: recommendations beyond the first of an event.
        lag_median_s, lag_p95_s: how old the views were that these recommendations were made with.
        events_per_s: of the day itself.
        seconds: everything, worker's start included.
    """

    n_targets: int
    n_missing: int
    n_repeated: int
    hr10: float
    ndcg10: float
    mrr10: float
    lag_median_s: float = 0.0
    lag_p95_s: float = 0.0
    events_per_s: float = 0.0
    seconds: float = 0.0


class _Item(msgspec.Struct):
    item_id: str


class _Recommended(msgspec.Struct):
    event_id: str
    activity_offset: int
    items: list[_Item]


def the_day(log: Log, bundle: Bundle, day: int) -> tuple[slice, Targets]:
    """Rows of a day, and its targets."""
    start_ms = FIRST_DAY_MS + day * DAY_MS
    rows = log.between(start_ms, start_ms + DAY_MS)
    targets = find_targets(log, bundle.features.types.weight_table())
    return rows, sampled(targets, len(log), SAMPLE).within(rows)


class _Stream:
    """Sends the log in order, at most so far ahead of the worker, and keeps what comes back for the scored events."""

    def __init__(self, cluster: Cluster, producer: AIOKafkaProducer, scored: set[int], n_events: int) -> None:
        self._cluster = cluster
        self._producer = producer
        self._scored = scored
        self._partition: dict[str, int] = {}
        self._came_back = asyncio.Event()
        self._back = np.zeros(n_events, np.bool_)
        self._newest_ms: list[int] = []  # by offset of item-activity: the newest event counted up to there
        self._unknown_offset = -1
        self.view_ms = -1
        """Time of the newest event in the newest view that is known to have answered."""
        self.n_sent = 0
        self.n_back = 0
        self.n_repeated = 0
        self.kept: dict[int, _Recommended] = {}

    async def collect(self) -> None:
        """Read recommendations until cancelled."""
        names, n_partitions = self._cluster.names, self._cluster.n_partitions
        read = msgspec.json.Decoder(_Recommended).decode
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._cluster.broker,
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
            max_partition_fetch_bytes=4 << 20,
        )
        await consumer.start()
        try:
            activity = TopicPartition(names.item_activity, 0)
            answers = [TopicPartition(names.recommendations, number) for number in range(n_partitions)]
            consumer.assign([activity, *answers])
            await consumer.seek_to_beginning()
            while True:
                for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                    for record in records:
                        if tp == activity:
                            self._count(int(decode_activity(record.value).ts_ms.max()))
                        else:
                            self._take(read(record.value))
                self._came_back.set()
        finally:
            await consumer.stop()

    def _count(self, newest_ms: int) -> None:
        self._newest_ms.append(max(newest_ms, self._newest_ms[-1]) if self._newest_ms else newest_ms)
        self._see(self._unknown_offset)

    def _take(self, found: _Recommended) -> None:
        row = int(found.event_id)
        if self._back[row]:
            self.n_repeated += 1
            return
        self._back[row] = True
        self.n_back += 1
        if row in self._scored:
            self.kept[row] = found
        self._see(found.activity_offset)

    def _see(self, offset: int) -> None:
        if 0 <= offset < len(self._newest_ms):
            self.view_ms = max(self.view_ms, self._newest_ms[offset])
        else:  # its message is still to be read
            self._unknown_offset = max(self._unknown_offset, offset)

    async def send(
        self, records: Iterator[tuple[str | None, bytes, int | None]], *, ahead: int, lag_ms: int | None = None
    ) -> None:
        """Send what `records` yield, never more than `ahead` events before what came back.

        With `lag_ms`, also not before a view has answered that is at most so far behind in event time. When all came
        back, the next one goes after two refreshes, so that there is an answer that tells how far the view is.
        """
        topic = self._cluster.names.events
        for key, value, ts_ms in records:
            assert key is not None
            assert ts_ms is not None
            await self.wait(ahead)
            if lag_ms is not None:
                deadline_s = time.monotonic() + _TWO_REFRESHES_S
                while ts_ms > self.view_ms + lag_ms:
                    if self.n_back < self.n_sent:
                        await self.wait(self.n_sent - self.n_back - 1)
                        deadline_s = time.monotonic() + _TWO_REFRESHES_S
                    elif time.monotonic() < deadline_s:
                        await asyncio.sleep(0.01)
                    else:
                        break
            partition = self._partition.get(key)
            if partition is None:
                partition = self._partition[key] = partition_of(key.encode(), self._cluster.n_partitions)
            await self._producer.send(topic, value, key=key.encode(), partition=partition)
            self.n_sent += 1

    async def wait(self, ahead: int) -> None:
        """Until at most so many events have not come back; TimeoutError after a minute without any."""
        while self.n_sent - self.n_back > ahead:
            self._came_back.clear()
            async with asyncio.timeout(60):
                await self._came_back.wait()


async def published_quality(
    cluster: Cluster, path: Path, log: EventLog, day: int, *, lag_s: float, ahead: int = 2_000, since: int = 0
) -> Quality:
    """Stream the log up to the end of a day through a worker with the bundle at `path`, and judge what it publishes.

    Args:
        lag_s: how far the view may be behind on that day, in seconds of event time.
        ahead: events that may be on their way on that day.
        since: first day to stream.
    """
    began_s = time.monotonic()
    bundle = load_bundle(path)
    frame = log.frame(since_ms=FIRST_DAY_MS + since * DAY_MS if since > 0 else None).sort("ts_ms", maintain_order=True)
    whole = Log.of(log.frame(), bundle.features.types)
    before = len(whole) - len(frame)
    rows, targets = the_day(whole, bundle, day)
    worker = cluster.worker(path, "--refresh", REFRESH)
    await worker.ready()
    numbers = pl.Series("event_id", range(before, len(whole))).cast(pl.String)  # an event's row names it
    records = encode_events(frame.with_columns(numbers).iter_slices(50_000))
    async with AIOKafkaProducer(bootstrap_servers=cluster.broker, acks="all", linger_ms=2) as producer:
        stream = _Stream(cluster, producer, set(targets.scored.tolist()), len(whole))
        collecting = asyncio.ensure_future(stream.collect())
        try:
            await stream.send(islice(records, rows.start - before), ahead=20_000)
            await stream.wait(0)
            day_began_s = time.monotonic()
            await stream.send(islice(records, rows.stop - rows.start), ahead=ahead, lag_ms=round(1000 * lag_s))
            await stream.wait(0)
            day_s = time.monotonic() - day_began_s
        finally:
            collecting.cancel()
    await worker.stopped()
    place, n_missing = _places(whole, targets, stream.kept)
    lags_s = await _lags(cluster, whole, stream.kept)
    return Quality(
        n_targets=len(targets),
        n_missing=n_missing,
        n_repeated=stream.n_repeated,
        hr10=round(hit_rate(place), 4),
        ndcg10=round(ndcg(place), 4),
        mrr10=round(reciprocal_rank(place), 4),
        lag_median_s=round(float(np.median(lags_s)), 1),
        lag_p95_s=round(float(np.quantile(lags_s, 0.95)), 1),
        events_per_s=round((rows.stop - rows.start) / day_s, 1),
        seconds=round(time.monotonic() - began_s, 1),
    )


def _places(log: Log, targets: Targets, kept: dict[int, _Recommended]) -> tuple[NDArray[np.int64], int]:
    """(T,) place of each target's item in the recommendation for the event before, 0 for none; targets without one."""
    place = np.zeros(len(targets), np.int64)
    n_missing = 0
    for number, (row, scored) in enumerate(zip(targets.row.tolist(), targets.scored.tolist(), strict=True)):
        found = kept.get(scored)
        if found is None:
            n_missing += 1
            continue
        wanted = log.item_ids[log.item[row]]
        place[number] = next((at for at, item in enumerate(found.items[:10], 1) if item.item_id == wanted), 0)
    return place, n_missing


async def _lags(cluster: Cluster, log: Log, kept: dict[int, _Recommended]) -> NDArray[np.float64]:
    """Seconds of event time between each kept recommendation's event and the newest one in its view."""
    newest_ms: list[int] = []
    async for record in cluster.each(cluster.names.item_activity):
        newest = int(decode_activity(record.value).ts_ms.max())
        newest_ms.append(max(newest, newest_ms[-1]) if newest_ms else newest)
    lags = [
        int(log.ts_ms[row]) - newest_ms[found.activity_offset]
        for row, found in kept.items()
        if found.activity_offset >= 0
    ]
    return np.maximum(np.array(lags or [0], np.float64), 0) / 1000


def replayed_quality(path: Path, log: EventLog, day: int, since: int = 0) -> Quality:
    """The same figures from an offline replay whose views are 10 s old at most."""
    began_s = time.monotonic()
    bundle = load_bundle(path)
    whole = Log.of(log.frame(), bundle.features.types, bundle.features.statistics.segment_fields)
    rows, targets = the_day(whole, bundle, day)
    policy = Policy(bundle.manifest.policy.n, bundle.manifest.policy.seen)
    recommender = Recommender(bundle.features, bundle.scorer, bundle.vocabulary, policy, bundle.tag, bundle.retriever)
    replay = Replay(whole, recommender)
    replay.at = whole.between(FIRST_DAY_MS + since * DAY_MS, FIRST_DAY_MS + (since + 1) * DAY_MS).start
    select = np.zeros(len(whole), np.bool_)
    select[targets.scored] = True
    kept: dict[int, _Recommended] = {}
    for part in replay.run(rows.stop, select):
        ids = replay.view.catalogue.ids
        for row, items in zip(part.rows.tolist(), part.answers.ranked.items.tolist(), strict=True):
            kept[row] = _Recommended("", -1, [_Item(ids[item]) for item in items if item >= 0])
    place, n_missing = _places(whole, targets, kept)
    return Quality(
        n_targets=len(targets),
        n_missing=n_missing,
        n_repeated=0,
        hr10=round(hit_rate(place), 4),
        ndcg10=round(ndcg(place), 4),
        mrr10=round(reciprocal_rank(place), 4),
        seconds=round(time.monotonic() - began_s, 1),
    )


async def _run(settings: KafkaSettings, args: argparse.Namespace) -> Quality:
    with tempfile.TemporaryDirectory(prefix="polytempo-news-") as directory:
        cluster = Cluster(settings, f"news-{uuid.uuid4().hex[:8]}-", Path(directory))
        cluster.create()
        try:
            return await published_quality(
                cluster,
                args.bundle,
                open_log(args.data / FILE),
                args.day,
                lag_s=args.lag,
                since=args.since,
            )
        finally:
            await cluster.kill_all()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--day", type=int, default=4, help="counted from 0; the bundle was trained on days up to 3")
    parser.add_argument("--since", type=int, default=0, help="first day to stream; 0 for the whole history")
    parser.add_argument("--lag", type=float, default=60.0, help="seconds of event time that a view may be behind")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the log")
    parser.add_argument("--kafka", help="HOST:PORT; a broker of its own unless given")
    parser.add_argument("--replay", action="store_true", help="replay the same events offline, to compare")
    parser.add_argument("--json", action="store_true", help="print one line at the end, the rest to standard error")
    args = parser.parse_args(argv)
    if not (args.data / FILE).exists():
        print(f"{args.data / FILE} is not there; name its folder with --data", file=sys.stderr)
        return 2
    people = Console(stderr=args.json)
    if args.kafka is not None:
        published = asyncio.run(_run(KafkaSettings.read(args.kafka), args))
    else:
        with EmbeddedBroker() as broker:
            published = asyncio.run(_run(broker.settings, args))
    people.print("published:", published)
    answer = {"day": args.day, "published": asdict(published)}
    if args.replay:
        replayed = replayed_quality(args.bundle, open_log(args.data / FILE), args.day, args.since)
        people.print("replayed: ", replayed)
        answer["replayed"] = asdict(replayed)
    if args.json:
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

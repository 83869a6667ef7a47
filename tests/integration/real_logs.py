"""Real logs through a real broker and worker: `python -m tests.integration.real_logs news --n 200000` (or `retail`).

Every row of the file must come out again: a usable one as exactly one recommendation, matched by rec_id, any other as a
dead letter with its reason.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from stream.bundle.load import load_bundle
from stream.core.features import FeatureSpec
from stream.core.statistics import ItemStatistics
from stream.feed import produce_frame
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from stream.logs import EventLog, open_log
from stream.operations.probe import ask
from stream.wire.activity import decode_activity
from stream.wire.encode import rec_id
from tests.conftest import SHARED_DATA
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, Running, until

__all__ = ["FILES", "N_FIRST", "Report", "through_worker"]

FILES = {"news": "news_clicks.parquet", "retail": "online_retail.parquet"}
N_FIRST = 500


class _Sent(msgspec.Struct):
    user_id: str | None = None
    item_id: str | None = None
    event_type: str | None = None
    ts_ms: int | None = None


class _Item(msgspec.Struct):
    item_id: str


class _Recommended(msgspec.Struct):
    rec_id: str
    user_id: str
    ts_ms: int
    items: list[_Item]


class _Letter(msgspec.Struct):
    partition: int
    offset: int
    reason: str


@dataclass(slots=True)
class Report:
    """What became of a log.

    Attributes:
        mapping: how its columns were read.
        n_rows: rows of the file that were sent.
        n_valid: events that must be answered.
        n_recommendations: records on `recommendations`.
        n_unanswered: valid events without one.
        n_repeated: recommendations beyond the first of an event.
        n_strange: recommendations for another user or time than the event's, or for no event.
        dead_letters: reason -> how many.
        n_unexplained: rows that cannot be used and have no dead letter.
        kinds: event type -> valid events.
        n_negative: events of a negative weight in the activity.
        n_returned_then_recommended: returns whose own recommendation names the item that came back.
        n_beyond_ring: those among them that share their millisecond with more events of the user than a record
            remembers, as the lines of a long order do: of these it remembers the last by item, whichever came last.
        n_only_returned: items of which there is nothing but returns.
        n_only_returned_popular: those of them that are popular nevertheless.
        n_full: recommendations of ten items.
        n_short: those of fewer, not counting the first events, before which nothing is known of any item.
        seconds: from the first event sent to the last one committed.
    """

    mapping: str
    n_rows: int = 0
    n_valid: int = 0
    n_recommendations: int = 0
    n_unanswered: int = 0
    n_repeated: int = 0
    n_strange: int = 0
    dead_letters: dict[str, int] = field(default_factory=dict)
    n_unexplained: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    n_negative: int = 0
    n_returned_then_recommended: int = 0
    n_beyond_ring: int = 0
    n_only_returned: int = 0
    n_only_returned_popular: int = 0
    n_full: int = 0
    n_short: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether every row is accounted for, once."""
        return not any(
            (
                self.n_unanswered,
                self.n_repeated,
                self.n_strange,
                self.n_unexplained,
                self.n_returned_then_recommended - self.n_beyond_ring,
                self.n_only_returned_popular,
                self.n_rows - self.n_valid - sum(self.dead_letters.values()),
            )
        )


async def through_worker(cluster: Cluster, folder: Path, log: EventLog, limit: int | None = None) -> Report:
    """Send the first rows of a log through one worker and account for each of them.

    The rows after the first `N_FIRST` follow when the worker has counted those: how many it answers before it knows any
    item is a question of how fast it is.
    """
    worker = cluster.worker(folder, "--http", "127.0.0.1:0")
    await worker.ready()
    began_s = time.monotonic()
    rows = log.batches(limit=limit)
    beginning = next(rows, None)
    assert beginning is not None, f"{log.path} has no rows"
    n_rows = await _send(cluster, [beginning.head(N_FIRST)])
    first = await cluster.ends()
    await _counted(cluster, worker)
    n_rows += await _send(cluster, itertools.chain([beginning.slice(N_FIRST)], rows))
    await cluster.caught_up(timeout_s=1200)
    report = Report(log.mapping.describe(), n_rows=n_rows, seconds=round(time.monotonic() - began_s, 1))
    await worker.stopped()
    spec = load_bundle(folder).features
    await _account(cluster, report, spec, first)
    await _weigh(cluster, report, spec)
    return report


async def _send(cluster: Cluster, rows: Iterable[pl.DataFrame]) -> int:
    produced = await asyncio.to_thread(produce_frame, cluster.settings, cluster.names.events, rows)
    assert produced.failed == 0, produced.first_error
    return produced.produced


async def _counted(cluster: Cluster, worker: Running) -> None:
    """Until the worker's lists are made from all that was sent."""
    await cluster.caught_up()
    n_messages = sum([1 async for _ in cluster.each(cluster.names.item_activity)])
    url = json.loads(worker.said().splitlines()[0])["http"]
    await until(lambda: json.loads(ask(f"{url}/status")[1])["view"]["offset"] == n_messages - 1)


async def _account(cluster: Cluster, report: Report, spec: FeatureSpec, first: Sequence[int]) -> None:
    """Match what came out with what went in, by rec_id and by place; offsets before `first` are the first rows."""
    names = cluster.names
    read_event, read_letter = msgspec.json.Decoder(_Sent), msgspec.json.Decoder(_Letter)
    read_recommendation = msgspec.json.Decoder(_Recommended)
    valid: dict[str, _Sent] = {}
    later: set[str] = set()
    invalid: set[tuple[int, int]] = set()
    async for record in cluster.each(names.events, cluster.n_partitions):
        event = read_event.decode(record.value)
        if None in (event.user_id, event.item_id, event.event_type, event.ts_ms):
            invalid.add((record.partition, record.offset))
        else:
            name = rec_id(names.events, record.partition, record.offset)
            valid[name] = event
            if record.offset >= first[record.partition]:
                later.add(name)
    at_once = Counter((event.user_id, event.ts_ms) for event in valid.values())
    answered: set[str] = set()
    async for record in cluster.each(names.recommendations, cluster.n_partitions):
        found = read_recommendation.decode(record.value)
        report.n_recommendations += 1
        report.n_repeated += found.rec_id in answered
        answered.add(found.rec_id)
        cause = valid.get(found.rec_id)
        if cause is None or (cause.user_id, cause.ts_ms) != (found.user_id, found.ts_ms):
            report.n_strange += 1
            continue
        report.n_full += len(found.items) == 10
        report.n_short += len(found.items) < 10 and found.rec_id in later
        if cause.event_type == "return" and cause.item_id in {item.item_id for item in found.items}:
            report.n_returned_then_recommended += 1
            report.n_beyond_ring += at_once[cause.user_id, cause.ts_ms] > spec.state.n_ring
    explained: set[tuple[int, int]] = set()
    reasons: Counter[str] = Counter()
    async for record in cluster.each(names.dead_letters):
        letter = read_letter.decode(record.value)
        reasons[letter.reason] += 1
        explained.add((letter.partition, letter.offset))
    report.n_valid, report.dead_letters = len(valid), dict(reasons)
    report.n_unanswered = len(valid.keys() - answered)
    report.n_unexplained = len(invalid ^ explained)
    report.kinds = dict(Counter(event.event_type or "" for event in valid.values()))


async def _weigh(cluster: Cluster, report: Report, spec: FeatureSpec) -> None:
    """What negative events did to the statistics of items."""
    view = ItemStatistics(spec.statistics)
    liked: set[str] = set()
    async for record in cluster.each(cluster.names.item_activity):
        batch = decode_activity(record.value)
        view.apply(batch)
        report.n_negative += int(np.count_nonzero(batch.weight < 0))
        liked.update(batch.item_ids[item] for item in batch.item[batch.weight > 0].tolist())
    for number, item_id in enumerate(view.catalogue.ids):
        if item_id not in liked:
            report.n_only_returned += 1
            report.n_only_returned_popular += bool(view.weight[number].any())


async def _run(settings: KafkaSettings, args: argparse.Namespace) -> Report:
    with tempfile.TemporaryDirectory(prefix="polytempo-real-") as directory:
        cluster = Cluster(settings, f"real-{uuid.uuid4().hex[:8]}-", Path(directory))
        cluster.create()
        try:
            folder = bundle("ranker") if args.bundle is None else args.bundle
            return await through_worker(cluster, folder, open_log(args.data / FILES[args.log]), args.n)
        finally:
            await cluster.kill_all()


def _show(name: str, report: Report, out: Console) -> None:
    table = Table(title=f"{name}: {report.mapping}", title_justify="left", show_header=False)
    for key, value in asdict(report).items():
        if key != "mapping":
            table.add_row(
                key.removeprefix("n_").replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value}"
            )
    table.add_row("every row accounted for", "yes" if report.sound else "NO")
    out.print(table)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", choices=sorted(FILES))
    parser.add_argument("--n", type=int, default=None, help="rows; all unless given")
    parser.add_argument("--bundle", type=Path, help="an untrained ranker unless given")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the logs")
    parser.add_argument("--kafka", help="HOST:PORT; a broker of its own unless given")
    parser.add_argument("--json", action="store_true", help="print one line at the end, the table to standard error")
    args = parser.parse_args(argv)
    if not (args.data / FILES[args.log]).exists():
        print(f"{args.data / FILES[args.log]} is not there; name its folder with --data", file=sys.stderr)
        return 2
    if args.kafka is not None:
        report = asyncio.run(_run(KafkaSettings.read(args.kafka), args))
    else:
        with EmbeddedBroker() as broker:
            report = asyncio.run(_run(broker.settings, args))
    _show(args.log, report, Console(stderr=args.json))
    if args.json:
        print(json.dumps({"log": args.log, "sound": report.sound, **asdict(report)}), flush=True)
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

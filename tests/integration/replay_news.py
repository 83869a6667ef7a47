"""The news log backtested from a file and from real topics, in every way that must not matter: the same figures.

    python -m tests.integration.replay_news --data news_clicks.parquet [--events N] [--bundle models/news-ranker] --json

    file     ----------------------------> events in one order --\
    file --> topic with 1 partition -----> events in one order ----> by 1 and by 2 processes, in small and large batches
    file --> topic with 4 partitions ----> events in one order --/

A topic with several partitions has no order of its own. So events are put into one that all sources share: by time;
where times are equal by user; and the events of a user at one moment as they were written, the order of offsets there,
since all of a user's events are in one partition (`training.backtest.material`).

Baselines see the whole log; a bundle a range of it, which the topics are asked for by time. What must be equal: the
events themselves, every target's list, and with that all metrics, to the last digit. Scores of a bundle may differ by
the last bits of a float between batches of different size; by how much is reported.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.progress import Progress

from stream.bundle.load import load_bundle
from stream.cli.console import people, progress
from stream.core.events import EventTypes
from stream.feed import produce_frame
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from stream.logs import open_log
from stream.replay.events import read_events
from stream.replay.topics import TopicReader
from tests.conftest import SHARED_DATA
from training.backtest.execute import Backtest, Task
from training.backtest.judged import Judged, judged_targets
from training.backtest.material import Material, material_of
from training.backtest.run import Conditions, Outcome, Share

__all__ = ["Way", "Ways", "compare"]

FILE = "news_clicks.parquet"
SAMPLE = 0.15
SCORE_TOLERANCE = 1e-5
_BUNDLE_FROM = 0.8  # of the log; before it nothing is read, so that the topics are asked for a range
_BUNDLE_EVENTS = 50_000

Show = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to backtest the same events: from the file or a topic with so many partitions."""

    n_partitions: int | None
    n_processes: int
    batch_size: int

    def __str__(self) -> str:
        source = "file" if self.n_partitions is None else f"topic, {self.n_partitions} partition(s)"
        return f"{source}, {self.n_processes} process(es), batches of {self.batch_size}"


WAYS = (
    Way(None, 1, 256),
    Way(None, 2, 64),
    Way(1, 1, 1000),
    Way(1, 2, 256),
    Way(4, 1, 4000),
    Way(4, 2, 17),
)
"""Each source by one and by two processes, and no batch size but one twice; the first is the one to compare with."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What came of all ways.

    Attributes:
        events: by source, the fingerprint of its events.
        metrics: by way, the metrics of each run.
        lists: by way and run, a hash over every target's list and place.
        max_score_difference: of a bundle's scores between any way and the first; relative, where a score is above 1.
        seconds: by way.
    """

    events: dict[str, str]
    metrics: dict[str, dict[str, dict[str, float]]]
    lists: dict[str, dict[str, str]]
    max_score_difference: float
    seconds: dict[str, float]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        kinds: tuple[dict[str, Any], ...] = (self.events, self.metrics, self.lists)
        alike = all(each == next(iter(kind.values())) for kind in kinds for each in kind.values())
        return alike and self.max_score_difference <= SCORE_TOLERANCE


def compare(
    frame: pl.DataFrame,
    settings: KafkaSettings,
    prefixes: dict[int, str],
    *,
    bundle: Path | None = None,
    judged: Judged | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    ways: Sequence[Way] = WAYS,
    bar: Callable[[str], Any] | None = None,
) -> Ways:
    """Backtest `[since_ms, until_ms)` of a log in all ways: of a bundle, or of the baselines where there is none.

    Args:
        frame: the log, in the normal form of `stream.logs`.
        prefixes: by number of partitions, the prefix of the set-up whose topic `events` holds the log.
        bar: gives a context with a function that shows what is done, of how much.
    """
    shown = bar or _no_bar
    types = EventTypes() if bundle is None else load_bundle(bundle).features.types
    judged = Judged(sample=SAMPLE) if judged is None else judged
    found = Ways({}, {}, {}, 0.0, {})
    first: list[Outcome] = []
    worst = 0.0
    for n_partitions in dict.fromkeys(way.n_partitions for way in ways):
        if n_partitions is None:
            source = "file"
            from_ms, to_ms = since_ms or 0, 2**62 if until_ms is None else until_ms
            table = frame.filter((pl.col("ts_ms") >= from_ms) & (pl.col("ts_ms") < to_ms))
        else:
            source = f"topic, {n_partitions} partition(s)"
            with TopicReader(settings) as reader, shown(f"reading the {source}") as show:
                topic = TopicNames(prefixes[n_partitions]).events
                table = read_events(
                    reader,
                    topic,
                    known_types=types.codes(),
                    since_ms=since_ms,
                    until_ms=until_ms,
                    on_progress=show,
                ).table
        material = material_of(table, types)
        del table
        found.events[source] = material.fingerprint()
        targets = judged_targets(material.log, types, material.fields, judged)
        for way in (way for way in ways if way.n_partitions == n_partitions):
            began_s = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="polytempo-replay-") as folder, shown(str(way)) as show:
                testing = Backtest(material, targets, Conditions(batch_size=way.batch_size), Path(folder), keep=False)
                tasks = [Task(0, bundle, Share(part, way.n_processes)) for part in range(way.n_processes)]
                outcomes = testing.go(tasks, n_processes=way.n_processes, on_progress=show) or []
            found.seconds[str(way)] = round(time.monotonic() - began_s, 1)
            found.metrics[str(way)] = {each.name: _metrics(each) for each in outcomes}
            found.lists[str(way)] = {each.name: _digest(material, each) for each in outcomes}
            if bar is not None:
                people.print(f"{way}: {found.seconds[str(way)]} s, {found.lists[str(way)]}, {found.metrics[str(way)]}")
            first = first or outcomes
            for one, two in zip(first, outcomes, strict=True):
                alike = one.scores.shape == two.scores.shape
                worst = max(worst, _difference(one.scores, two.scores) if alike else math.inf)
    return Ways(found.events, found.metrics, found.lists, worst, found.seconds)


def fill(settings: KafkaSettings, frame: pl.DataFrame, n_partitions: int, show: Show | None = None) -> str:
    """Put a log into the topic `events` of a set-up of its own; the set-up's prefix.

    Raises RuntimeError when not every event arrived.
    """
    prefix = f"news-{uuid.uuid4().hex[:8]}-"
    ensure_topics(settings, topic_layout(prefix, n_partitions=n_partitions))
    on_progress = None if show is None else lambda n: show(n, len(frame))
    sent = produce_frame(settings, TopicNames(prefix).events, frame.iter_slices(50_000), on_progress=on_progress)
    if sent.failed > 0 or sent.produced != len(frame):
        raise RuntimeError(f"{sent.produced} of {len(frame)} events arrived: {sent.first_error}")
    return prefix


def _metrics(outcome: Outcome) -> dict[str, float]:
    # How many events were replayed is no metric: users without a target are not waited for at the log's end.
    clock = ("seconds", "events_per_s", "n_events", "n_scored")
    return {name: figure for name, figure in outcome.metrics().items() if name not in clock}


def _difference(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    return float((np.abs(one - two) / np.maximum(np.abs(one), 1)).max(initial=0.0))


def _digest(material: Material, outcome: Outcome) -> str:
    digest = blake2b(digest_size=16)
    keys = material.log.key[np.maximum(outcome.items, 0)]
    for column in (outcome.at, outcome.place, np.where(outcome.items < 0, outcome.items, 0), keys):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


@contextmanager
def _no_bar(title: str) -> Iterator[None]:
    del title
    yield None


def _range_of(frame: pl.DataFrame) -> tuple[int, int]:
    """The range that a bundle is judged in."""
    times = frame["ts_ms"].sort()
    first = int(len(times) * _BUNDLE_FROM)
    return int(times[first]), int(times[min(first + _BUNDLE_EVENTS, len(times) - 1)])


def _go(settings: KafkaSettings, frame: pl.DataFrame, bundle: Path | None, bars: Progress) -> dict[str, Ways]:
    @contextmanager
    def bar(title: str) -> Iterator[Show]:
        task = bars.add_task(title, total=None)
        yield lambda done, n_all: bars.update(task, completed=done, total=n_all)
        bars.update(task, total=bars.tasks[task].completed)

    prefixes = {}
    for n_partitions in (1, 4):
        with bar(f"filling a topic with {n_partitions} partition(s)") as show:
            prefixes[n_partitions] = fill(settings, frame, n_partitions, show)
    answers = {"baselines": compare(frame, settings, prefixes, bar=bar)}
    if bundle is not None:
        since_ms, until_ms = _range_of(frame)
        answers["bundle"] = compare(
            frame,
            settings,
            prefixes,
            bundle=bundle,
            judged=Judged(from_ms=since_ms, until_ms=until_ms),
            since_ms=since_ms,
            until_ms=until_ms,
            bar=bar,
        )
    return answers


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED_DATA / FILE, help="the log")
    parser.add_argument("--events", type=int, help="only the first so many")
    parser.add_argument("--bundle", type=Path, help="judged too, on a range of the log")
    parser.add_argument("--kafka", help="HOST:PORT; a broker of its own unless given")
    parser.add_argument("--json", action="store_true", help="print one line at the end, the rest to standard error")
    args = parser.parse_args(argv)
    if not args.data.exists():
        print(f"{args.data} is not there; name the log with --data", file=sys.stderr)
        return 2
    frame = open_log(args.data).frame()
    frame = frame if args.events is None else frame.head(args.events)
    with progress(unit="events") as bars:
        if args.kafka is not None:
            answers = _go(KafkaSettings.read(args.kafka), frame, args.bundle, bars)
        else:
            with EmbeddedBroker() as broker:
                answers = _go(broker.settings, frame, args.bundle, bars)
    equal = all(each.equal for each in answers.values())
    print("all equal" if equal else "NOT EQUAL", file=sys.stderr)
    if args.json:
        runs = {name: {**asdict(ways), "equal": ways.equal} for name, ways in answers.items()}
        print(json.dumps({"n_events": len(frame), "equal": equal, **runs}), flush=True)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

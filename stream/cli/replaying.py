"""What commands that replay events share: where the events come from, a bar that counts them, and Ctrl-C."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.progress import Progress

from stream.cli.columns import FileColumns
from stream.cli.console import people, progress
from stream.cli.options import KafkaOptions
from stream.cli.produce import parse_time
from stream.core.catalogue import ItemUpdate
from stream.errors import PolytempoError
from stream.kafka.topics import TopicNames
from stream.logs import open_log, read_items

if TYPE_CHECKING:
    import polars as pl

    from stream.replay.topics import TopicReader
    from stream.replay.verify import Answers

__all__ = ["Source", "events_bar", "interruptible", "read_answers", "read_source"]

_SHOWN_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Events to replay.

    Attributes:
        frame: in the normal form of `stream.logs`.
        items: what is known of items.
        name: of the file or topic.
    """

    frame: pl.DataFrame
    items: list[ItemUpdate]
    name: str


def read_source(
    log: Path | None,
    topic: str | None,
    *,
    items: Path | None,
    columns: FileColumns | None,
    connection: KafkaOptions | None,
    known_types: Collection[str],
    from_ms: int | None,
    until_ms: int | None,
) -> Source:
    """The events of `[from_ms, until_ms)` from a file or from a topic, and their items.

    Raises:
        PolytempoError: neither or both are named, or what is named cannot be read.
    """
    if (log is None) == (topic is None):
        raise PolytempoError("events come from one place.", "Name --log FILE or --topic NAME.")
    if log is None:
        return _from_topic(connection or KafkaOptions(), str(topic), known_types, from_ms, until_ms)
    if not log.exists():
        raise PolytempoError(f"there is no file {log}.")
    opened = open_log(log, (columns or FileColumns()).mapping())
    people.print(opened.mapping.describe(), style="dim", markup=False, soft_wrap=True)
    with people.status("reading events …"):
        frame = opened.frame(since_ms=from_ms, until_ms=until_ms)
    return Source(frame, [] if items is None else _updates(items), log.name)


def _updates(file: Path) -> list[ItemUpdate]:
    from training.log import item_updates

    return item_updates(read_items(file))


def _from_topic(
    options: KafkaOptions, topic: str, known_types: Collection[str], since_ms: int | None, until_ms: int | None
) -> Source:
    from stream.kafka.topics import TopicNames
    from stream.replay.events import read_events, read_item_updates
    from stream.replay.forgotten import read_forgotten
    from stream.replay.topics import TopicReader

    name = options.prefix + topic
    with TopicReader(options.settings()) as reader, events_bar(f"reading {name}") as show:
        found = read_events(
            reader,
            name,
            known_types=known_types,
            since_ms=since_ms,
            until_ms=until_ms,
            forgotten=read_forgotten(reader, TopicNames(options.prefix)),
            on_progress=show,
        )
        updates = read_item_updates(reader, TopicNames(options.prefix).items)
    where = ", ".join(f"{number}: {first}-{end}" for number, (first, end) in found.ranges.items())
    people.print(
        f"{len(found.table):,} events, {found.n_refused:,} refused, "
        f"{found.n_forgotten:,} of forgotten users left out, from {name} (partition: offsets {where})",
        style="dim",
        markup=False,
        soft_wrap=True,
    )
    return Source(found.table, updates, topic)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C say that the next good moment is the last; a second one ends at once."""
    asked: list[bool] = []

    def ask(number: int, frame: Any) -> None:
        del number, frame
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: len(asked) > 0
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def events_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of events done, of how many, with their rate."""
    bar: Progress
    with progress(unit="events", transient=True) as bar:
        task = bar.add_task(title, total=None)
        due_s = 0.0

        def show(n_done: int, n_all: int) -> None:
            nonlocal due_s
            # A rate is the sum of a thousand samples: told after every batch, it took a quarter of a replay's time.
            now_s = time.monotonic()
            if now_s < due_s and n_done < n_all:
                return
            due_s = now_s + _SHOWN_EVERY_S
            speed = bar.tasks[0].speed
            described = title if speed is None else f"{title} {speed:,.0f}/s"
            bar.update(task, completed=n_done, total=n_all, description=described)

        yield show


def read_answers(
    reader: TopicReader, names: TopicNames, bar: Progress, *, since: str | None, until: str | None, sample: float
) -> Answers:
    """The published recommendations for a range of events, without those of forgotten users; `bar` shows how far it is.

    Raises:
        PolytempoError: a time or the share cannot be.
    """
    from stream.replay.forgotten import read_forgotten
    from stream.replay.verify import read_published

    if not 0 < sample <= 1:
        raise PolytempoError(f"{sample:g} is no share of the recommendations.", "Ask for 0.1, or 1 for all.")
    reading = bar.add_task("reading", total=None)
    return read_published(
        reader,
        names.recommendations,
        since_ms=None if since is None else parse_time(since),
        until_ms=None if until is None else parse_time(until),
        sample=sample,
        forgotten=read_forgotten(reader, names),
        on_progress=lambda done, n_all: bar.update(reading, completed=done, total=n_all),
    )

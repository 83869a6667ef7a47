"""A range of the events topic as a table in the normal form of `stream.logs`.

    partition 0   a b   c d          read from where records can hold events of the range
    partition 1     e f   g     ->   what the worker would refuse is left out and counted
    table         a b c d e f g      partition after partition, in the order of offsets

A user's events lie in one partition, so each user's order is the topic's, however many partitions there are.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import polars as pl

from stream.core.catalogue import ItemUpdate
from stream.core.events import segment_text
from stream.logs import EVENT_COLUMNS
from stream.replay.forgotten import Forgotten
from stream.replay.topics import TopicReader
from stream.wire.careful import check_event, read_event, usable_value
from stream.wire.items import decode_items
from stream.wire.limits import Limits
from stream.wire.messages import Event
from stream.wire.reasons import Malformed, Record

__all__ = ["TopicEvents", "events_table", "read_events", "read_item_updates"]

_EVENTS_AT_ONCE: Final = 100_000
_read: Final = msgspec.json.Decoder(Event).decode
_SCHEMA: Final = dict(
    zip(
        EVENT_COLUMNS,
        (pl.String, pl.String, pl.String, pl.Int64, pl.Float64, pl.String, pl.String),
        strict=True,
    )
)


@dataclass(frozen=True, slots=True)
class TopicEvents:
    """What a range of a topic held.

    Attributes:
        table: the columns of `EVENT_COLUMNS`, then one text column for each context field.
        n_refused: records that the worker answers with a dead letter.
        ranges: by partition, the first offset that was read and the one behind the last.
        n_forgotten: records left out because their user was forgotten after them.
    """

    table: pl.DataFrame
    n_refused: int
    ranges: dict[int, tuple[int, int]]
    n_forgotten: int = 0


def read_events(
    reader: TopicReader,
    topic: str,
    *,
    known_types: Container[str],
    since_ms: int | None = None,
    until_ms: int | None = None,
    limits: Limits | None = None,
    forgotten: Forgotten | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TopicEvents:
    """The events of a topic whose time lies in `[since_ms, until_ms)`.

    Time is the events' own. A record's timestamp is never more than `limits.max_ahead_ms` before its event's time, so
    reading starts at the first record that could hold one of the range. An event may arrive any time after it
    happened, so reading goes on to the topic's end.

    Args:
        known_types: event types that are accepted, besides `request` and `forget`.
        forgotten: whose events are left out.
        on_progress: called with the records read so far, and the records to read.

    Raises:
        PolytempoError: Kafka does not answer, or there is no such topic.
    """
    limits = Limits() if limits is None else limits
    forgotten = Forgotten() if forgotten is None else forgotten
    n_forgotten = 0
    ranges = reader.bounds(topic)
    if since_ms is not None and since_ms > limits.max_ahead_ms:
        starts = reader.offsets_from(topic, since_ms - limits.max_ahead_ms)
        ranges = {number: (max(first, starts[number]), end) for number, (first, end) in ranges.items()}
    n_all = sum(end - first for first, end in ranges.values())

    def progress(n_read: int) -> None:
        if on_progress is not None:
            on_progress(n_read, n_all)

    columns: dict[int, _Columns] = {number: _Columns() for number in sorted(ranges)}
    for partition, records in reader.read(topic, ranges, progress):
        kept = forgotten.kept(topic, partition, records)
        n_forgotten += len(records) - len(kept)
        columns[partition].add(kept, known_types, limits, since_ms, until_ms)
    tables = [column.table() for column in columns.values()]
    table = pl.concat(tables, how="diagonal") if tables else events_table([])
    return TopicEvents(table, sum(column.n_refused for column in columns.values()), ranges, n_forgotten)


def events_table(events: Iterable[Event]) -> pl.DataFrame:
    """Events as a table in the normal form of `stream.logs`, in their order."""
    columns = _Columns()
    columns.events.extend(events)
    return columns.table()


def read_item_updates(
    reader: TopicReader, topic: str, on_progress: Callable[[int, int], None] | None = None
) -> list[ItemUpdate]:
    """What the items topic says of each item, the last word of each; what cannot be used is left out."""
    ranges = reader.bounds(topic)
    n_all = sum(end - first for first, end in ranges.values())
    latest: dict[str, ItemUpdate] = {}
    for _, records in reader.read(topic, ranges, None if on_progress is None else lambda n: on_progress(n, n_all)):
        for item_id, item in decode_items(records).items:
            latest.pop(item_id, None)
            latest[item_id] = (
                ItemUpdate(item_id, available=False)
                if item is None
                else ItemUpdate(item_id, item.category, item.title, item.available, item.published_ms)
            )
    return list(latest.values())


class _Columns:
    """The usable events of one partition so far."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.n_refused = 0
        self._tables: list[pl.DataFrame] = []

    def add(
        self,
        records: Sequence[Record],
        known_types: Container[str],
        limits: Limits,
        since_ms: int | None,
        until_ms: int | None,
    ) -> None:
        for record in records:
            try:
                event = _event(record, known_types, limits)
            except Malformed:
                self.n_refused += 1
                continue
            if (since_ms is None or event.ts_ms >= since_ms) and (until_ms is None or event.ts_ms < until_ms):
                self.events.append(event)
        if len(self.events) >= _EVENTS_AT_ONCE:
            self._tables.append(self._taken())

    def table(self) -> pl.DataFrame:
        tables = [*self._tables, self._taken()]
        return tables[0] if len(tables) == 1 else pl.concat(tables, how="diagonal")

    def _taken(self) -> pl.DataFrame:
        """The events as a table: as objects they take ten times the memory, so few are objects at a time."""
        columns: dict[str, list[Any]] = {
            name: [getattr(event, name) for event in self.events] for name in EVENT_COLUMNS
        }
        frame = pl.DataFrame(columns, schema=_SCHEMA)
        fields = dict.fromkeys(name for event in self.events if event.context for name in event.context)
        texts = [
            pl.Series(name, [segment_text(event.context.get(name)) if event.context else "" for event in self.events])
            for name in fields
            if name not in EVENT_COLUMNS  # such a field has no place in the normal form
        ]
        self.events = []
        return frame.with_columns(texts)


def _event(record: Record, known_types: Container[str], limits: Limits) -> Event:
    """The event of a record; Malformed where the worker would refuse it."""
    value = usable_value(record.value, limits)
    try:
        event = _read(value)
    except Exception:  # noqa: BLE001 - whatever the parser says, the careful reading decides
        event = read_event(value)
    check_event(event, record, known_types, limits)
    return event

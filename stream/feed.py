"""Send tables to Kafka: events keyed by user, items keyed by item, at a pace, with every delivery accounted for.

kafka-python's producer does the sending. All events of a user go to one partition, in the order of the table and once
each, also when a request has to be repeated.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import polars as pl
from kafka import KafkaProducer
from kafka.codec import has_lz4
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings
from stream.logs import EVENT_COLUMNS

__all__ = ["Pace", "Produced", "encode_events", "encode_items", "partition_of", "produce_frame", "produce_items"]

_MAX_IN_FLIGHT: Final = 20_000  # records handed to the producer and not yet acknowledged: it has no bound of its own
_MAX_REMEMBERED: Final = 100_000  # users whose partition is not computed again
_REPORT_EVERY: Final = 500
_BOOTSTRAP_TIMEOUT_MS: Final = 15_000
_TOPIC_TIMEOUT_MS: Final = 5_000  # a topic that exists is known in milliseconds
_ITEM_COLUMNS: Final = ("item_id", "category", "title", "available", "published_ms")

Record = tuple[str | None, bytes, int | None]
"""Key, value, and the event's time in epoch milliseconds where there is one."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a table is sent: evenly, by event time, or, when neither is set, as fast as possible.

    Raises ValueError when both are set or one is negative.
    """

    rate: float = 0.0
    """Events per second."""
    speedup: float = 0.0
    """How many times faster than the events happened. Events that go back in time are sent at once."""

    def __post_init__(self) -> None:
        if self.rate < 0.0 or self.speedup < 0.0:
            raise ValueError("a pace cannot be negative")
        if self.rate > 0.0 and self.speedup > 0.0:
            raise ValueError("a pace is either a rate or a speedup")

    @property
    def waits(self) -> bool:
        """Whether there is anything to wait for."""
        return self.rate > 0.0 or self.speedup > 0.0

    def due_s(self, n_before: int, ts_ms: int | None, first_ts_ms: int | None) -> float:
        """Seconds after the start at which an event is due.

        Args:
            n_before: events sent before it.
            ts_ms: its time; None is due at once.
            first_ts_ms: time of the first event that had one.
        """
        if self.rate > 0.0:
            return n_before / self.rate
        if self.speedup > 0.0 and ts_ms is not None and first_ts_ms is not None:
            return (ts_ms - first_ts_ms) / 1000.0 / self.speedup
        return 0.0


@dataclass(frozen=True, slots=True)
class Produced:
    """What became of a table."""

    produced: int
    """Records acknowledged by all replicas in sync."""
    failed: int
    """Records that were given up."""
    duration_s: float
    first_error: str = ""
    interrupted: bool = False
    """Whether Ctrl-C ended it early; what had been sent until then is flushed and counted."""

    @property
    def events_per_s(self) -> float:
        """Acknowledged records per second, from the first send to the last acknowledgement."""
        return self.produced / self.duration_s if self.duration_s > 0 else 0.0


class _EventRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """An event as it is in the log, which may lack what events must have: that is for the worker to refuse."""

    user_id: str | None
    item_id: str | None
    event_type: str | None
    ts_ms: int | None
    value: float | None = None
    session_id: str | None = None
    event_id: str | None = None
    context: dict[str, str] | None = None


def encode_events(batches: Iterable[pl.DataFrame]) -> Iterator[Record]:
    """Events as JSON, keyed by user (None without one). Columns as in `EVENT_COLUMNS`, the others are context.

    The columns may be in any order; those behind `ts_ms` in `EVENT_COLUMNS` may be missing.
    """
    encode = msgspec.json.Encoder().encode
    for frame in batches:
        missing = [pl.lit(None).alias(name) for name in EVENT_COLUMNS if name not in frame.columns]
        fields = frame.with_columns(missing).select(EVENT_COLUMNS) if len(missing) > 0 else frame.select(EVENT_COLUMNS)
        names = [name for name in frame.columns if name not in EVENT_COLUMNS]
        contexts = frame.select(names).iter_rows() if len(names) > 0 else iter([()] * len(frame))
        for row, cells in zip(fields.iter_rows(), contexts, strict=True):
            user_id, item_id, event_type, ts_ms, value, session_id, event_id = row
            context = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None} or None
            record = _EventRecord(user_id, item_id, event_type, ts_ms, value, session_id, event_id, context)
            yield user_id, encode(record), ts_ms


def encode_items(items: pl.DataFrame) -> Iterator[Record]:
    """Items as JSON, keyed by item; columns that items do not have become `attributes`. Nulls are left out."""
    encode = msgspec.json.Encoder().encode
    attributes = [name for name in items.columns if name not in _ITEM_COLUMNS]
    for row in items.iter_rows(named=True):
        item = {name: row[name] for name in _ITEM_COLUMNS if row.get(name) is not None}
        rest = {name: _scalar(row[name]) for name in attributes if row[name] is not None}
        yield row["item_id"], encode(item | ({"attributes": rest} if len(rest) > 0 else {})), None


def produce_frame(
    settings: KafkaSettings,
    topic: str,
    batches: Iterable[pl.DataFrame],
    *,
    pace: Pace | None = None,
    on_progress: Callable[[int], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Produced:
    """Send frames of events (`EVENT_COLUMNS` and context) and wait until each is acknowledged or given up.

    Records carry the time of sending as their timestamp, not the event's: brokers delete by it.

    Args:
        settings: the cluster.
        topic: full name of an existing topic.
        batches: what to send, in this order; one frame is a list of one.
        pace: as fast as possible by default.
        on_progress: called now and then with the number of events sent so far.
        stop: asked now and then; True ends the sending early.

    Raises:
        PolytempoError: the cluster cannot be reached or has no such topic.
    """
    return _produce(settings, topic, encode_events(batches), pace or Pace(), on_progress, stop)


def produce_items(
    settings: KafkaSettings, topic: str, items: pl.DataFrame, *, on_progress: Callable[[int], object] | None = None
) -> Produced:
    """Send a table of items, one row an item, and wait until each is acknowledged or given up.

    Raises:
        PolytempoError: the cluster cannot be reached or has no such topic.
    """
    return _produce(settings, topic, encode_items(items), Pace(), on_progress, None)


def partition_of(key: bytes, n_partitions: int) -> int:
    """The partition of a key, the same as that of Kafka's own clients."""
    return int(murmur2(key) & 0x7FFFFFFF) % n_partitions


def _produce(
    settings: KafkaSettings,
    topic: str,
    records: Iterator[Record],
    pace: Pace,
    on_progress: Callable[[int], object] | None,
    stop: Callable[[], bool] | None,
) -> Produced:
    producer = _connect(settings, paced=pace.waits)
    try:
        n_partitions = _count_partitions(producer, topic, settings)
        deliveries = _Deliveries()
        sender = _Sender(producer, topic, n_partitions, deliveries)
        started_s = time.monotonic()
        interrupted = False
        try:
            sender.send_all(records, pace, on_progress, stop)
        except KeyboardInterrupt:
            interrupted = True
        deliveries.settle(0)
        return Produced(
            produced=deliveries.n_delivered,
            failed=deliveries.n_failed,
            duration_s=time.monotonic() - started_s,
            first_error=deliveries.first_error,
            interrupted=interrupted,
        )
    finally:
        producer.close(timeout=10)


class _Deliveries:
    """Counts what was acknowledged and what was given up; holds the futures that are still open."""

    def __init__(self) -> None:
        self.open: deque[Any] = deque()
        self.n_delivered = 0
        self.n_failed = 0
        self.first_error = ""

    def settle(self, n_open: int) -> None:
        """Count what is done, and wait until at most `n_open` are not."""
        waiting = self.open
        while len(waiting) > 0 and (waiting[0].is_done or len(waiting) > n_open):
            if not waiting[0].is_done:
                with suppress(KafkaError):  # counted below, with its reason
                    waiting[0].get()
            future = waiting.popleft()
            if future.failed():
                self.fail(future.exception)
            else:
                self.n_delivered += 1

    def fail(self, error: BaseException) -> None:
        """Count one record that was given up."""
        self.n_failed += 1
        self.first_error = self.first_error or f"{type(error).__name__}: {error}"


@dataclass(slots=True)
class _Sender:
    producer: Any
    topic: str
    n_partitions: int
    deliveries: _Deliveries

    def send_all(
        self,
        records: Iterator[Record],
        pace: Pace,
        on_progress: Callable[[int], object] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        """Send records at a pace; returns when all are sent or `stop` says so, some still unacknowledged."""
        partitions: dict[str, int] = {}
        first_ts_ms: int | None = None
        started_s = time.monotonic()
        reported_s = started_s
        for n_before, (key, value, ts_ms) in enumerate(records):
            if pace.waits:
                first_ts_ms = ts_ms if first_ts_ms is None else first_ts_ms
                due_s = started_s + pace.due_s(n_before, ts_ms, first_ts_ms)
                if not _wait_until(due_s, stop):
                    return
            partition, key_bytes = None, None
            if key is not None:
                key_bytes = key.encode()
                partition = partitions.get(key)
                if partition is None:
                    if len(partitions) >= _MAX_REMEMBERED:
                        partitions.clear()
                    partition = partitions[key] = partition_of(key_bytes, self.n_partitions)
            try:
                future = self.producer.send(self.topic, value=value, key=key_bytes, partition=partition)
                self.deliveries.open.append(future)
            except KafkaError as error:  # too large, for instance
                self.deliveries.fail(error)
            if n_before % _REPORT_EVERY == 0 or pace.waits:
                self.deliveries.settle(_MAX_IN_FLIGHT)
                now_s = time.monotonic()
                if now_s - reported_s >= 0.1:
                    reported_s = now_s
                    if on_progress is not None:
                        on_progress(n_before + 1)
                    if stop is not None and stop():
                        return
        if on_progress is not None:
            on_progress(self.deliveries.n_delivered + self.deliveries.n_failed + len(self.deliveries.open))


def _wait_until(due_s: float, stop: Callable[[], bool] | None) -> bool:
    """Sleep until a time of the monotonic clock; False when `stop` ends it."""
    while True:
        left_s = due_s - time.monotonic()
        if left_s <= 0.001:
            return True
        if stop is not None and stop():
            return False
        time.sleep(min(left_s, 0.2))


def _connect(settings: KafkaSettings, *, paced: bool) -> Any:
    """A producer whose acknowledged records survive the leader, in order and once each, however often it repeats.

    Compression is worth its time even on one machine: kafka-python sums every byte it sends in Python.
    """
    try:
        return KafkaProducer(
            **settings.kafka_python(),
            acks="all",
            enable_idempotence=True,
            compression_type="lz4" if has_lz4() else "gzip",
            # A live stream is sent as it comes; a bulk load in large batches.
            linger_ms=2 if paced else 25,
            batch_size=256 * 1024,
            allow_auto_create_topics=False,
            max_block_ms=_TOPIC_TIMEOUT_MS,
            bootstrap_timeout_ms=_BOOTSTRAP_TIMEOUT_MS,
        )
    except KafkaError as error:
        raise PolytempoError(
            f"Kafka at {settings.servers} cannot be reached: {error}", "Is it running? `polytempo broker` starts one."
        ) from error


def _count_partitions(producer: Any, topic: str, settings: KafkaSettings) -> int:
    try:
        partitions = producer.partitions_for(topic)
    except KafkaError:
        partitions = None
    if not partitions:
        raise PolytempoError(f"{settings.servers} has no topic {topic!r}.", "`polytempo topics` creates it.")
    return len(partitions)


def _scalar(value: object) -> str | int | float | bool:
    if isinstance(value, str | int | bool):
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):  # JSON has no NaN and no infinity
        return value
    return str(value)

"""Following the global topics: every worker folds all of `item-activity` and `items` into a view of its own.

Every worker reads both topics whole, so no group shares them out. Messages wait until the view moves on in one go
between two batches: scoring always reads the statistics as of exactly one offset.

Items that cannot be used are dead letters, to be reported once by whichever worker it falls to. How far that has been
done is a committed offset of the group `<app>-items`, which nobody joins: what came while no worker ran is reported by
the next one, and a restart reports nothing again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import operator
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.batching.reading import ask_for
from stream.core.activity import ActivityBatch
from stream.core.catalogue import ItemUpdate
from stream.core.statistics import ItemStatistics, StatisticsSpec
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.wire.activity import decode_activity
from stream.wire.errors import WireError
from stream.wire.items import decode_items
from stream.wire.messages import Item
from stream.wire.reasons import Rejected

__all__ = ["Follower", "Refresh", "read_snapshot"]

logger = logging.getLogger(__name__)

_FETCH_MS: Final = 50
"""While it catches up."""
_FOLLOW_MS: Final = 100
_FOLLOW_BYTES: Final = 256 << 10
"""Afterwards the broker collects: every batch of every worker is a message, and a view moves on once a second."""
_QUIET_MS: Final = 1000
_REST_MS: Final = 500
_CHUNK_ENTRIES: Final = 20_000
"""Entries folded at once while catching up: some tens of milliseconds, so that the loop stays alive."""


class Refresh:
    """When a view moves on: after `longest_s` if anything waits, earlier if much does, never twice within `shortest_s`.

    A view that is a second old costs nothing in quality; a large step at once costs latency: five milliseconds for a
    thousand entries, in which nobody is answered.
    """

    def __init__(self, longest_s: float = 1.0, shortest_s: float = 0.1, n_entries: int = 100) -> None:
        self.longest_s = longest_s
        self.shortest_s = min(shortest_s, longest_s)
        self.n_entries = n_entries

    def due(self, waited_s: float, n_waiting: int) -> bool:
        """Whether to move on, `waited_s` after the last time, with so many entries waiting."""
        return waited_s >= self.longest_s or (waited_s >= self.shortest_s and n_waiting >= self.n_entries)


class Follower:
    """One view and what feeds it.

    Args:
        settings: the cluster.
        names: the topics.
        spec: the statistics to keep.
        snapshot: file that the view is kept in between starts, so that a start reads only what came since.
        refresh: when the view moves on.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        names: TopicNames,
        spec: StatisticsSpec,
        *,
        snapshot: Path | None = None,
        refresh: Refresh | None = None,
    ) -> None:
        self.view = ItemStatistics(spec)
        self.caught_up = False
        self.n_corrupt = 0
        self._settings = settings
        self._activity = TopicPartition(names.item_activity, 0)
        self._items = TopicPartition(names.items, 0)
        self._snapshot = snapshot
        self._refresh = Refresh() if refresh is None else refresh
        self._group = f"{names.app_id}-items"
        self._rejected: list[Rejected] = []
        self._consumer: AIOKafkaConsumer | None = None
        self._batches: list[tuple[int, ActivityBatch]] = []
        self._updates: list[ItemUpdate] = []
        self._n_waiting = 0
        self._items_offset = -1
        self._last_digest = b""
        self._advanced_s = 0.0
        self._listed_s = 0.0
        self._complete_s: float | None = None
        self._answered_ms: tuple[int, ...] = ()
        self._writing: Final = threading.Lock()

    async def start(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Connect, and catch up with what both topics hold now; `progress` gets (messages read, messages to read)."""
        consumer = AIOKafkaConsumer(
            **self._settings.aiokafka(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_FETCH_MS,
            max_partition_fetch_bytes=8 << 20,
        )
        self._consumer = consumer  # before it starts, so that `stop` also ends one that could not connect
        await consumer.start()
        both = [self._activity, self._items]
        consumer.assign(both)
        ends = await consumer.end_offsets(both)
        begins = await consumer.beginning_offsets(both)
        await self._restore(ends[self._activity], begins[self._activity])
        to_read = {tp: ends[tp] for tp in both}
        first = {tp: await consumer.position(tp) for tp in both}
        n_all = sum(max(0, to_read[tp] - first[tp]) for tp in both)
        while any([await consumer.position(tp) < end for tp, end in to_read.items()]):
            await self._read()
            if self._n_waiting >= _CHUNK_ENTRIES:
                self._apply(refresh=False)
                await asyncio.sleep(0)
            if progress is not None:
                n_left = sum([max(0, end - await consumer.position(tp)) for tp, end in to_read.items()])
                progress(n_all - n_left, n_all)
        self._apply(refresh=True)
        self.caught_up = True
        self._complete_s = time.monotonic()

    async def run(self) -> None:
        """Read until cancelled, and move the view on when it is due."""
        waiting, quiet = False, False
        ask_for(self._connected, max_wait_ms=_FOLLOW_MS, min_bytes=_FOLLOW_BYTES)
        while True:
            found = await self._read(_FOLLOW_MS if waiting else _QUIET_MS)
            now_s = time.monotonic()
            waiting = len(self._batches) + len(self._updates) > 0
            if quiet is (found or waiting):
                quiet = not quiet
                if quiet:  # the broker answers the first message at once
                    ask_for(self._connected, max_wait_ms=_REST_MS, min_bytes=1)
                else:
                    ask_for(self._connected, max_wait_ms=_FOLLOW_MS, min_bytes=_FOLLOW_BYTES)
            if waiting and self._refresh.due(now_s - self._advanced_s, self._n_waiting):
                self._apply(refresh=True, items=now_s - self._listed_s >= self._refresh.longest_s)
                self._advanced_s = now_s
            await self._note_whether_complete(now_s)

    def age_s(self, now_s: float) -> float:
        """Since when the view may lack something that is on the topics, as of `now_s` on the monotonic clock.

        It grows while messages wait to be applied, while they are not read, and while the broker does not answer.
        """
        return 0.0 if self._complete_s is None else max(now_s - self._complete_s, 0.0)

    async def _note_whether_complete(self, now_s: float) -> None:
        if self._batches or self._updates:
            return
        consumer, both = self._connected, (self._activity, self._items)
        answered_ms = tuple(consumer.last_poll_timestamp(tp) or 0 for tp in both)
        if len(self._answered_ms) > 0 and any(map(operator.eq, answered_ms, self._answered_ms)):
            return  # not everything was heard of again
        for tp in both:
            end = consumer.highwater(tp)
            if end is None or await consumer.position(tp) < end:
                return
        self._complete_s, self._answered_ms = now_s, answered_ms

    @property
    def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("the follower is not connected: start() comes first")
        return self._consumer

    async def not_counted_here(self, topic: str, n_partitions: int) -> list[int]:
        """The partitions of `topic` of which more was counted than they have ever held.

        Such a topic was deleted and made anew, while what was derived from the old one was kept.
        """
        partitions = [TopicPartition(topic, number) for number in range(n_partitions)]
        ends = await self._connected.end_offsets(partitions)
        counted = self.view.counted
        return [tp.partition for tp in partitions if counted.get(f"{topic}/{tp.partition}", 0) > ends[tp]]

    async def stop(self) -> None:
        """Disconnect; the view stays as it is."""
        if self._consumer is not None:
            with contextlib.suppress(Exception):
                await self._consumer.stop()
            self._consumer = None

    def save(self) -> None:
        """Write the snapshot, if there is to be one: aside first, then renamed."""
        self._write(self._frozen())

    async def save_beside(self) -> None:
        """The same without holding up the loop for longer than it takes to copy the statistics."""
        await asyncio.get_running_loop().run_in_executor(None, self._write, self._frozen())

    def _frozen(self) -> dict[str, Any] | None:
        """What a snapshot holds; None where there is none to be written."""
        if self._snapshot is None or self.view.offset < 0:
            return None
        return self.view.snapshot() | {"last_digest": np.frombuffer(self._last_digest, np.uint8)}

    def _write(self, arrays: dict[str, Any] | None) -> None:
        if self._snapshot is None or arrays is None:
            return
        with self._writing:  # one that was begun beside may not have ended when a worker stops
            self._snapshot.parent.mkdir(parents=True, exist_ok=True)
            aside = self._snapshot.with_name(f".{self._snapshot.name}.tmp")
            with aside.open("wb") as file:
                np.savez(file, **arrays)
            aside.replace(self._snapshot)

    @property
    def has_rejected(self) -> bool:
        """Whether items were refused that may not have been reported yet."""
        return len(self._rejected) > 0

    async def unreported(self) -> list[Rejected]:
        """The items that were refused and that no worker has reported yet, in the order of their offsets."""
        done = await self._connected.committed(self._items)
        self._rejected = [each for each in self._rejected if done is None or each.record.offset >= done]
        return list(self._rejected)

    async def mark_reported(self, reported: list[Rejected]) -> None:
        """Remember on the cluster that these items, and all before them, need no reporting any more."""
        await self._connected.commit({self._items: reported[-1].record.offset + 1})
        self._rejected = [each for each in self._rejected if each.record.offset > reported[-1].record.offset]

    async def _read(self, wait_ms: int = _FETCH_MS) -> bool:
        """Whether there was anything within so long."""
        fetched = await self._connected.getmany(timeout_ms=wait_ms, max_records=2000)
        for record in fetched.get(self._activity, ()):
            try:
                batch = decode_activity(record.value or b"")
            except WireError as error:
                self.n_corrupt += 1
                place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
                logger.warning("a message of the item statistics is left out: %s", error, extra=place)
                continue
            self._batches.append((record.offset, batch))
            self._n_waiting += len(batch)
            self._last_digest = _digest(record.value)
        records = fetched.get(self._items, ())
        if records:
            decoded = decode_items(records)
            self._updates += [_update(item_id, item) for item_id, item in decoded.items]
            self._n_waiting += len(decoded.items)
            self._items_offset = records[-1].offset
            self._rejected += decoded.rejected
        return len(fetched) > 0

    def _apply(self, *, refresh: bool, items: bool = True) -> None:
        """Fold what waits; of `items`, what they are costs a look at all of them."""
        view = self.view
        if self._batches:
            view.apply_all([batch for _, batch in self._batches])
            view.offset = self._batches[-1][0]
        if self._updates and items:
            view.update_items(self._updates)
            view.items_offset = self._items_offset
            self._updates, self._listed_s = [], time.monotonic()
        self._batches, self._n_waiting = [], len(self._updates)
        if refresh:
            view.renew()

    async def _restore(self, end: int, begin: int) -> None:
        """Begin with the snapshot if it belongs to this topic: the message that it ended with must still be there."""
        consumer = self._connected
        await consumer.seek_to_beginning(self._activity, self._items)
        if self._snapshot is None or not self._snapshot.exists():
            return
        try:
            view, last_digest = read_snapshot(self._snapshot, self.view.spec)
        except ValueError as error:
            logger.warning("the snapshot %s is not used: %s", self._snapshot, error)
            return
        if not begin <= view.offset < end:
            logger.warning("the snapshot %s is not used: its topic was shortened or made anew", self._snapshot)
            return
        consumer.pause(self._items)
        consumer.seek(self._activity, view.offset)
        record = await consumer.getone(self._activity)
        consumer.resume(self._items)
        if record.offset != view.offset or _digest(record.value) != last_digest:
            logger.warning("the snapshot %s is not used: it belongs to another topic", self._snapshot)
            await consumer.seek_to_beginning(self._activity, self._items)
            return
        self._last_digest = last_digest
        self.view = view
        consumer.seek(self._activity, view.offset + 1)


def read_snapshot(source: Path | BinaryIO, spec: StatisticsSpec) -> tuple[ItemStatistics, bytes]:
    """The statistics of a snapshot, and the digest of the message that they end with.

    Raises:
        ValueError: it is damaged, or holds other statistics.
    """
    try:
        with np.load(source, allow_pickle=False) as stored:
            arrays: dict[str, Any] = dict(stored)
        return ItemStatistics.restore(spec, arrays), bytes(arrays["last_digest"])
    except Exception as error:  # of what damage makes zipfile, zlib, tokenize and NumPy raise there is no list
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _digest(value: bytes | None) -> bytes:
    return hashlib.blake2b(value or b"", digest_size=16).digest()


def _update(item_id: str, item: Item | None) -> ItemUpdate:
    if item is None:
        return ItemUpdate(item_id, available=False)
    return ItemUpdate(item_id, item.category, item.title, item.available, item.published_ms)

"""Reading topics as a guest: partitions are assigned, no group is joined and nothing is committed.

What there is to read is fixed when reading begins, so that a topic that grows meanwhile gives the same answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings

__all__ = ["Cursor", "TopicReader"]

_ANSWER_TIMEOUT_MS: Final = 15_000
_POLL_MS: Final = 500
_MAX_RECORDS: Final = 20_000


class TopicReader:
    """A connection for questions about topics, and for reading ranges of them.

    Raises:
        PolytempoError: no Kafka answers.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings: Final = settings
        self._consumer: Any = _consumer(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self._consumer.close()

    def has(self, topic: str) -> bool:
        """Whether there is such a topic."""
        with _explained(self._settings):
            return topic in self._consumer.topics()

    def partitions(self, topic: str) -> list[int]:
        """The numbers of its partitions.

        Raises:
            PolytempoError: there is no such topic.
        """
        with _explained(self._settings):
            found = self._consumer.partitions_for_topic(topic)
        if not found:
            raise PolytempoError(
                f"{self._settings.servers} has no topic {topic!r}.", "--prefix names another set-up's topics."
            )
        return sorted(found)

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """By partition, the first offset that is still there and the one behind the last."""
        parts = [TopicPartition(topic, number) for number in self.partitions(topic)]
        with _explained(self._settings):
            begins, ends = self._consumer.beginning_offsets(parts), self._consumer.end_offsets(parts)
        return {part.partition: (int(begins[part]), int(ends[part])) for part in parts}

    def offsets_from(self, topic: str, ms: int) -> dict[int, int]:
        """By partition, the first offset whose record carries a timestamp (epoch milliseconds) of `ms` or later.

        Where there is none, the offset behind the last.
        """
        bounds = self.bounds(topic)
        with _explained(self._settings):
            found = self._consumer.offsets_for_times({TopicPartition(topic, number): ms for number in bounds})
        return {
            part.partition: bounds[part.partition][1] if each is None or each.offset < 0 else int(each.offset)
            for part, each in found.items()
        }

    def read(
        self,
        topic: str,
        ranges: dict[int, tuple[int, int]],
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, list[Any]]]:
        """Yield (partition, records), each partition in the order of its offsets.

        Args:
            ranges: by partition, the first offset and the one behind the last.
            on_progress: called with the number of records read so far.
        """
        consumer = self._consumer
        parts = {number: TopicPartition(topic, number) for number, (first, end) in ranges.items() if first < end}
        if not parts:
            return
        n_read = 0
        with _explained(self._settings):
            consumer.assign(list(parts.values()))
            for number, part in parts.items():
                consumer.seek(part, ranges[number][0])
            while parts:
                polled = consumer.poll(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
                for part, records in polled.items():
                    end = ranges[part.partition][1]
                    taken = records if records[-1].offset < end else [each for each in records if each.offset < end]
                    n_read += len(taken)
                    if taken:
                        yield part.partition, taken
                # The position also passes what is no record: markers of transactions, and holes after compaction.
                over = [number for number, part in parts.items() if consumer.position(part) >= ranges[number][1]]
                for number in over:
                    consumer.pause(parts.pop(number))
                if on_progress is not None:
                    on_progress(n_read)


class Cursor:
    """One partition, read forwards on demand, up to the end that it had when the cursor was made.

    Args:
        settings: the cluster.
        topic: the topic.
        partition: its partition.
    """

    def __init__(self, settings: KafkaSettings, topic: str, partition: int) -> None:
        self._settings: Final = settings
        self._part: Final = TopicPartition(topic, partition)
        self._consumer: Any = _consumer(settings)
        self._waiting: deque[Any] = deque()
        with _explained(settings):
            self._consumer.assign([self._part])
            self._consumer.seek_to_beginning(self._part)
            self.begin: Final = int(self._consumer.beginning_offsets([self._part])[self._part])
            self.end: Final = int(self._consumer.end_offsets([self._part])[self._part])
        self._read_to = self.begin

    def up_to(self, offset: int) -> list[Any]:
        """The records that were not given yet with offsets up to `offset`, itself included."""
        records: list[Any] = []
        while True:
            while self._waiting and self._waiting[0].offset <= offset:
                records.append(self._waiting.popleft())
            if self._waiting or self._read_to > offset or self._read_to >= self.end:
                return records
            self._fetch()

    def close(self) -> None:
        """Leave."""
        self._consumer.close()

    def _fetch(self) -> None:
        with _explained(self._settings):
            polled = self._consumer.poll(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
            for records in polled.values():
                self._waiting.extend(record for record in records if record.offset < self.end)
            self._read_to = int(self._consumer.position(self._part))


def _consumer(settings: KafkaSettings) -> Any:
    with _explained(settings):
        return KafkaConsumer(
            **settings.kafka_python(),
            group_id=None,
            enable_auto_commit=False,
            bootstrap_timeout_ms=_ANSWER_TIMEOUT_MS,
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=8 << 20,
        )


@contextmanager
def _explained(settings: KafkaSettings) -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise PolytempoError(
            f"Kafka at {settings.servers} cannot be read: {error}.",
            "Is it running? --kafka names another one.",
        ) from error

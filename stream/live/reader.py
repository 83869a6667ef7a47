"""Reads a set-up's topics for an `Observer`, as a guest: without a group, and without a trace."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from stream.core.events import EventTypes
from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.live.observer import Observer

__all__ = ["Reader"]

_WARM_UP_EVENTS: Final = 50_000
_WARM_UP_FEEDBACK: Final = 100_000
_TIMEOUT_MS: Final = 15_000
_LAG_EVERY_S: Final = 2.0


class Reader:
    """Follows `events`, `recommendations`, `dead-letters` and `items` from now on, or from their beginning.

    Of `feedback`, where there is such a topic, the last 100,000 messages are read as well.

    Args:
        settings: the cluster.
        names: the set-up's topics.
        types: its event types.
        from_beginning: count everything the topics hold. Else events that are there already are read only to learn
            what is popular, the last 50,000 of them, and nothing before this moment counts.
        hold: count nothing until `count_from_now`, though everything is read from the beginning.

    Raises:
        PolytempoError: Kafka cannot be reached, or topics are missing.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        names: TopicNames,
        *,
        types: EventTypes | None = None,
        from_beginning: bool = False,
        hold: bool = False,
    ) -> None:
        self._settings: Final = settings
        self._names: Final = names
        self._admin: Any = None
        self._lag: int | None = None
        self._lag_due_s = 0.0
        try:
            self._consumer: Any = KafkaConsumer(
                **settings.kafka_python(),
                group_id=None,
                enable_auto_commit=False,
                bootstrap_timeout_ms=_TIMEOUT_MS,
                fetch_max_wait_ms=100,
                max_poll_records=5000,
            )
        except KafkaError as error:
            raise PolytempoError(
                f"Kafka at {settings.servers} cannot be reached: {error}",
                "Is it running? `polytempo broker` starts one.",
            ) from error
        try:
            self._events = self._partitions(names.events)
            answers = [*self._partitions(names.recommendations), *self._partitions(names.dead_letters)]
            items = self._partitions(names.items)
            told = self._partitions(names.feedback, needed=False)
            self._consumer.assign([*self._events, *answers, *items, *told])
            self._seek_back(told, _WARM_UP_FEEDBACK)
            from_start = from_beginning or hold
            self._consumer.seek_to_beginning(*items)
            if from_start:
                self._consumer.seek_to_beginning(*answers, *self._events)
            else:
                # Answers first: an event that comes between the two looks counts, and its answer must not be missed.
                for partition, offset in self._consumer.end_offsets(answers).items():
                    self._consumer.seek(partition, offset)
            count_from = None if hold else {} if from_beginning else self._start_now()
            self.observer: Final = Observer(names.events, types=types, count_from=count_from)
        except KafkaError as error:
            self._consumer.close()
            raise PolytempoError(f"Kafka at {settings.servers} refused: {error}.") from error
        except BaseException:
            self._consumer.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def poll(self, timeout_s: float = 0.1) -> int:
        """Tell the observer what has come, waiting for the first record up to `timeout_s`; give how many came."""
        polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        now_s, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        observer, names = self.observer, self._names
        by_topic: dict[str, list[list[Any]]] = {}
        for partition, records in polled.items():
            by_topic.setdefault(partition.topic, []).append(records)
        # Causes before effects: fewer answers have to be kept for events that are not known yet.
        for records in by_topic.get(names.items, []):
            observer.items(records)
        for records in by_topic.get(names.events, []):
            observer.events(records, now_s)
        for records in by_topic.get(names.recommendations, []):
            observer.recommendations(records, now_s, now_ms)
        for records in by_topic.get(names.dead_letters, []):
            observer.letters(records, now_s)
        for records in by_topic.get(names.feedback, []):
            observer.feedback(records)
        return sum(len(records) for records in polled.values())

    def count_from_now(self) -> None:
        """Let the observer count what is appended to `events` from now on."""
        ends = self._consumer.end_offsets(self._events)
        self.observer.count_from({partition.partition: offset for partition, offset in ends.items()})

    def lag(self) -> int | None:
        """Events that the workers have not committed yet; None where they have committed nothing. At most 2 s old."""
        now_s = time.monotonic()
        if now_s >= self._lag_due_s:
            self._lag_due_s = now_s + _LAG_EVERY_S
            with contextlib.suppress(KafkaError):
                self._lag = self._read_lag()
        return self._lag

    def close(self) -> None:
        """Leave."""
        self._consumer.close()
        if self._admin is not None:
            self._admin.close()

    def _read_lag(self) -> int | None:
        if self._admin is None:
            self._admin = KafkaAdminClient(**self._settings.kafka_python())
        group = self._names.app_id
        committed = self._admin.list_group_offsets({group: self._events}).get(group, {})
        known: dict[TopicPartition, int] = {
            partition: each.offset for partition, each in committed.items() if each.offset >= 0
        }
        if not known:
            return None
        ends = self._consumer.end_offsets(self._events)
        starts = self._consumer.beginning_offsets(self._events)
        return sum(max(int(end) - known.get(each, int(starts[each])), 0) for each, end in ends.items())

    def _partitions(self, topic: str, *, needed: bool = True) -> list[TopicPartition]:
        partitions = self._consumer.partitions_for_topic(topic)
        if not partitions:
            if not needed:
                return []
            raise PolytempoError(
                f"{self._settings.servers} has no topic {topic!r}.",
                "`polytempo topics` creates it; --prefix names another set-up.",
            )
        return [TopicPartition(topic, number) for number in sorted(partitions)]

    def _start_now(self) -> dict[int, int]:
        """Go back from the end of `events` as far as a warm-up needs; give where counting starts."""
        ends = self._seek_back(self._events, _WARM_UP_EVENTS)
        return {partition.partition: end for partition, end in ends.items()}

    def _seek_back(self, partitions: list[TopicPartition], n_records: int) -> dict[TopicPartition, int]:
        """Go so many records back from the ends of a topic; give the ends."""
        if not partitions:
            return {}
        ends: dict[TopicPartition, int] = self._consumer.end_offsets(partitions)
        starts = self._consumer.beginning_offsets(partitions)
        for partition, end in ends.items():
            self._consumer.seek(partition, max(end - n_records // len(partitions), starts[partition]))
        return ends

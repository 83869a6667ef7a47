"""The process that joins: a consumer group over `events` and `recommendations`, outcomes and totals to `feedback`.

A partition of `events` and the one of the same number of `recommendations` belong to one member (range assignment over
topics with the same number of partitions), so that a joiner has all that it needs.

What was told is acknowledged before offsets are committed. The committed offsets are not the ends of what was read, but
where a restart must begin to have the same state again: memory is rebuilt from the topics, and nothing else is stored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import OffsetAndMetadata

from stream.errors import PolytempoError
from stream.feedback.codec import FeedbackCodec, decode_resume, encode_resume
from stream.feedback.joiner import Joiner, JoinRules, Resume
from stream.feedback.presence import Presence, connections_of
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames

__all__ = ["FeedbackCounters", "FeedbackProcess"]

logger = logging.getLogger(__name__)

_TIMEOUT_MS: Final = 15_000
_POLL_MS: Final = 100
_MAX_RECORDS: Final = 5_000
_MAX_WAITING: Final = 20_000
_TOTALS_S: Final = 1.0
_COMMIT_S: Final = 5.0
_SESSION_MS: Final = 10_000
"""After so long without a sign of life the others take over; the library's own 45 s hold up whoever joins meanwhile."""
_REBALANCE_MS: Final = 60_000
"""So long a rebalance waits for a member that lives and does not come: far longer than a turn takes."""


@dataclass(slots=True)
class FeedbackCounters:
    """What a process has done."""

    n_events: int = 0
    n_recommendations: int = 0
    n_told: int = 0
    n_late: int = 0
    n_repeated: int = 0
    n_forgotten: int = 0
    n_open: int = 0


@dataclass(slots=True)
class _Owned:
    joiner: Joiner
    codec: FeedbackCodec
    tps: tuple[TopicPartition, TopicPartition]


class FeedbackProcess:
    """One member of the group; `run` returns after a graceful stop.

    Args:
        settings: the cluster.
        names: the set-up's topics.
        rules: what counts as caused by a recommendation; the same for all members.
        patience_s: for how long no broker may be there, before it gives up.

    Raises:
        PolytempoError: Kafka cannot be reached, or topics are missing or do not fit together.
    """

    def __init__(
        self, settings: KafkaSettings, names: TopicNames, rules: JoinRules, *, patience_s: float = 300.0
    ) -> None:
        self.counters: Final = FeedbackCounters()
        self._names: Final = names
        self._rules: Final = rules
        self._owned: dict[int, _Owned] = {}
        self._sent: list[Any] = []
        self._has_owned = False
        self._servers: Final = settings.servers
        self._turnover: Final = _Turnover()
        try:
            self._consumer: Any = KafkaConsumer(
                **settings.kafka_python(),
                group_id=names.feedback_group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy=[RangePartitionAssignor],
                bootstrap_timeout_ms=_TIMEOUT_MS,
                session_timeout_ms=_SESSION_MS,
                heartbeat_interval_ms=_SESSION_MS // 4,
                max_poll_interval_ms=_REBALANCE_MS,
                fetch_max_wait_ms=50,
                max_poll_records=_MAX_RECORDS,
            )
        except KafkaError as error:
            raise PolytempoError(
                f"Kafka at {settings.servers} cannot be reached: {error}",
                "Is it running? `polytempo broker` starts one.",
            ) from error
        try:
            self._check_topics()
            self._producer: Any = KafkaProducer(
                **settings.kafka_python(),
                acks="all",
                enable_idempotence=True,
                linger_ms=20,
                # With several, the library's sender spins as long as a batch waits behind one that is not answered.
                max_in_flight_requests_per_connection=1,
                allow_auto_create_topics=False,
                bootstrap_timeout_ms=_TIMEOUT_MS,
            )
            self._producer.partitions_for(names.feedback)  # else the first message would wait for it, broker or not
        except BaseException:
            self._consumer.close()
            raise
        self._presence: Final = Presence(
            lambda: connections_of(self._consumer), patience_s=patience_s, servers=settings.servers
        )

    def run(
        self,
        stop: Callable[[], bool],
        *,
        ready: Callable[[], None] | None = None,
        on_turn: Callable[[FeedbackCounters], None] | None = None,
        until_end: bool = False,
    ) -> None:
        """Join until `stop`.

        Args:
            stop: asked several times a second.
            ready: called when it is a member of the group for the first time, with partitions or without.
            on_turn: called after each look at the topics.
            until_end: stop where the topics end, too.

        Raises:
            PolytempoError: Kafka is gone for too long, or refuses what it is told.
        """
        try:
            self._run(stop, ready, on_turn, until_end)
        except KafkaError as error:
            raise PolytempoError(
                f"Kafka at {self._servers} does not take part any more: {error!r}.",
                "Start it again: it goes on where it has committed, and nothing is lost.",
            ) from error

    def _run(
        self,
        stop: Callable[[], bool],
        ready: Callable[[], None] | None,
        on_turn: Callable[[FeedbackCounters], None] | None,
        until_end: bool,
    ) -> None:
        consumer, names = self._consumer, self._names
        consumer.subscribe([names.events, names.recommendations], listener=self._turnover)
        totals_s = commit_s = time.monotonic()
        try:
            while not stop():
                polled = consumer.poll(timeout_ms=_POLL_MS)
                if polled:
                    self._presence.heard()
                else:
                    self._presence.look()
                if self._presence.is_gone:  # nothing that waits for an answer
                    continue
                new = self._take_over()
                if self._turnover.is_member and ready is not None:
                    ready()
                    ready = None
                for tp, records in polled.items():
                    if tp.partition not in new:
                        self._read(tp, records)
                self._make_room()
                self._count()
                if on_turn is not None:
                    on_turn(self.counters)
                now_s = time.monotonic()
                is_commit_due = now_s - commit_s >= _COMMIT_S
                # Final totals stand before the commit that says that their span has been told about.
                with_totals = is_commit_due or now_s - totals_s >= _TOTALS_S
                self._tell(with_totals=with_totals)
                if with_totals:
                    totals_s = now_s
                if is_commit_due:
                    self._commit()
                    commit_s = now_s
                if until_end and not polled and self._has_owned and self._at_end():
                    return
        finally:
            self._finish()

    def _check_topics(self) -> None:
        names = self._names
        found = {
            name: self._consumer.partitions_for_topic(name)
            for name in (names.events, names.recommendations, names.feedback)
        }
        missing = [name for name, numbers in found.items() if not numbers]
        if missing:
            prefix = f" --prefix {names.prefix}" if names.prefix else ""
            raise PolytempoError(
                f"topics are missing: {', '.join(missing)}.", f"Create them with `polytempo topics{prefix}`."
            )
        if len({len(numbers) for numbers in found.values()}) > 1:
            raise PolytempoError(
                f"{' and '.join(found)} differ in their number of partitions.",
                "They must agree, so that a user's events, recommendations and outcomes share a partition.",
            )

    def _take_over(self) -> set[int]:
        """Begin anew with every partition that was assigned, where its last owner said; what was fetched of it is void.

        The consumer itself would read on where it was with a partition that it gave back and got again.
        """
        gone, new = self._turnover.take()
        for number in gone:
            self._owned.pop(number, None)
        for number in sorted(new):
            try:
                self._begin(number)
            except KafkaError as error:  # until it is found out where to begin, what comes of it is passed over
                logger.warning("partition %d is not taken over yet: %r", number, error)
                self._turnover.again(number)
        return new

    def _begin(self, number: int) -> None:
        names = self._names
        tps = (TopicPartition(names.events, number), TopicPartition(names.recommendations, number))
        committed = self._consumer.committed(tps[0], metadata=True, timeout_ms=_TIMEOUT_MS)
        resume = None if committed is None else decode_resume(committed.metadata)
        resume = Resume() if resume is None else resume
        begins = self._consumer.beginning_offsets(list(tps))
        for tp, offset in zip(tps, (resume.start.events, resume.start.recommendations), strict=True):
            self._consumer.seek(tp, max(offset, int(begins[tp])))
        codec = FeedbackCodec(names.events, number, self._rules)
        self._owned[number] = _Owned(Joiner(self._rules, resume), codec, tps)
        self._has_owned = True

    def _read(self, tp: TopicPartition, records: list[Any]) -> None:
        owned = self._owned.get(tp.partition)
        if owned is None:
            return
        if tp.topic == self._names.events:
            self.counters.n_events += len(records)
            owned.joiner.events(owned.codec.events(records))
        else:
            self.counters.n_recommendations += len(records)
            owned.joiner.recommendations(owned.codec.recommendations(records))

    def _make_room(self) -> None:
        """Whichever topic is too far ahead of the other waits."""
        for owned in self._owned.values():
            joiner = owned.joiner
            for tp, n_waiting in zip(
                owned.tps, (joiner.n_waiting_events, joiner.n_waiting_recommendations), strict=True
            ):
                is_paused = tp in self._consumer.paused()
                if n_waiting > _MAX_WAITING and not is_paused:
                    self._consumer.pause(tp)
                elif n_waiting < _MAX_WAITING // 2 and is_paused:
                    self._consumer.resume(tp)

    def _count(self) -> None:
        joiners = [owned.joiner for owned in self._owned.values()]
        self.counters.n_late = sum(joiner.n_late for joiner in joiners)
        self.counters.n_repeated = sum(joiner.n_repeated for joiner in joiners)
        self.counters.n_forgotten = sum(joiner.n_forgotten for joiner in joiners)
        self.counters.n_open = sum(joiner.n_open for joiner in joiners)

    def _tell(self, *, with_totals: bool) -> None:
        for number, owned in self._owned.items():
            pairs = owned.codec.told(owned.joiner.told())
            self.counters.n_told += len(pairs)
            if with_totals:
                pairs += owned.codec.totals(owned.joiner.totals())
            for key, value in pairs:
                self._sent.append(self._producer.send(self._names.feedback, value, key=key, partition=number))

    def _commit(self) -> None:
        """Wait until all that was told is acknowledged, then commit where a restart must begin."""
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        for owned in self._owned.values():
            resume = owned.joiner.resume()
            metadata = encode_resume(resume)
            begins = (resume.start.events, resume.start.recommendations)
            offsets |= {
                tp: OffsetAndMetadata(offset, metadata, -1) for tp, offset in zip(owned.tps, begins, strict=True)
            }
        try:
            self._producer.flush(timeout=_TIMEOUT_MS / 1000)
        except KafkaTimeoutError as error:
            logger.warning("what was told is not acknowledged yet, so nothing is committed: %s", error)
            return
        sent, self._sent = self._sent, []
        for each in sent:
            each.get(timeout=0)  # raises what went wrong; nothing is committed then
        if offsets:
            try:
                self._consumer.commit(offsets, timeout_ms=_TIMEOUT_MS)
            except KafkaError as error:  # another member has the partitions: it begins where the last commit says
                logger.warning("offsets are not committed: %s", error)

    def _at_end(self) -> bool:
        tps = [tp for owned in self._owned.values() for tp in owned.tps]
        if any(owned.joiner.n_waiting_recommendations > 0 for owned in self._owned.values()):
            return False
        ends = self._consumer.end_offsets(tps)
        return all(self._consumer.position(tp) >= ends[tp] for tp in tps)

    def _finish(self) -> None:
        timeout_ms = _TIMEOUT_MS
        try:
            if connections_of(self._consumer) == 0:  # nobody is there to be told
                timeout_ms = 0
                self._producer._sender.force_close()  # `close` alone waits for what was sent, or raises
            else:
                self._tell(with_totals=True)
                self._commit()
        finally:
            self._owned.clear()
            with suppress(KafkaTimeoutError):
                self._producer.close(timeout=timeout_ms / 1000)
            self._consumer.close(autocommit=False, timeout_ms=timeout_ms)


class _Turnover(ConsumerRebalanceListener):  # type: ignore[misc]
    """Which partitions came and went; in the middle of a rebalance the consumer cannot be asked anything."""

    def __init__(self) -> None:
        self._gone: set[int] = set()
        self._new: set[int] = set()
        self.is_member = False
        """Whether it has been told what is its own, be it nothing."""

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        numbers = {tp.partition for tp in revoked}
        self._gone |= numbers
        self._new -= numbers

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.is_member = True
        self._new |= {tp.partition for tp in assigned}

    def again(self, number: int) -> None:
        """One that came could not be taken over: it comes with the next call, unless it goes before."""
        self._new.add(number)

    def take(self) -> tuple[set[int], set[int]]:
        """Those that went and those that came since the last call."""
        found = (self._gone, self._new)
        self._gone, self._new = set(), set()
        return found

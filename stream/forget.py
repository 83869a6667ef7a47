"""Asking the workers to forget a user, and knowing when they have, and what is left where until when.

    forget event ──► worker ──► receipt on `forgotten` ──► tombstone in the changelog ──► offset committed

What was erased can be relied on only when the offset is committed: that happens after the changelog has the tombstone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from stream.errors import PolytempoError
from stream.feed import partition_of
from stream.kafka.lookup import ANSWER_TIMEOUT_MS, administration
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import FOREVER_MS, TopicNames
from stream.replay.topics import TopicReader
from stream.wire.limits import Limits
from stream.wire.messages import Event, Receipt

__all__ = ["Done", "Remains", "forget", "remains"]

_POLL_S: Final = 0.1
_read: Final = msgspec.json.Decoder(Receipt).decode


@dataclass(frozen=True, slots=True)
class Remains:
    """Bytes of a user that a topic may still hold.

    Attributes:
        topic: its whole name.
        cleanup: "compact", or "delete" where only retention takes them.
        until_ms: by when they are gone (UTC epoch milliseconds), None for never.
    """

    topic: str
    cleanup: str
    until_ms: int | None


@dataclass(frozen=True, slots=True)
class Done:
    """A user was forgotten: the receipt, and what remains where."""

    receipt: Receipt
    remains: tuple[Remains, ...]


def forget(
    settings: KafkaSettings,
    names: TopicNames,
    user_id: str,
    *,
    timeout_s: float = 60.0,
    on_wait: Callable[[str], object] | None = None,
) -> Done:
    """Post the event, wait for the receipt and until the worker has committed.

    Args:
        user_id: who.
        timeout_s: how long to wait for the workers.
        on_wait: called with what is waited for.

    Raises:
        PolytempoError: the id is none, topics are missing, Kafka does not answer, or no worker does.
    """
    if not user_id or "\0" in user_id or len(user_id) > Limits().max_id_chars:
        raise PolytempoError("that is no user's id.", f"Ids have 1 to {Limits().max_id_chars} characters, no NUL.")
    say = on_wait or (lambda _: None)
    deadline_s = time.monotonic() + timeout_s
    with TopicReader(settings) as reader:
        n_partitions = len(reader.partitions(names.events))
        began_at = reader.bounds(names.forgotten)[0][1]
        place = TopicPartition(names.events, partition_of(user_id.encode(), n_partitions))
        offset = _post(settings, place, user_id)
        say("the receipt")
        receipt = _receipt(reader, names, place, offset, began_at, deadline_s)
        say("the commit")
        with administration(settings) as admin:
            while (committed := _committed(admin, names, place)) <= offset:
                _wait(deadline_s, f"offset {offset} of partition {place.partition} is not committed ({committed} is)")
    return Done(receipt, remains(settings, names))


def remains(settings: KafkaSettings, names: TopicNames, now_ms: int | None = None) -> tuple[Remains, ...]:
    """What each topic that names users may still hold of one who is forgotten now, and until when.

    Retention takes a whole segment of the log when its newest record is old enough, so a record may stay for the
    segment's time longer; compaction leaves the segment alone that is being written.

    Args:
        now_ms: UTC epoch milliseconds; the clock's unless given.
    """
    from kafka.admin import ConfigResource, ConfigResourceType

    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    with administration(settings) as admin:
        wanted = [
            *(names.events, names.recommendations, names.shadow, names.feedback, names.dead_letters),
            names.changelog,
        ]
        there = set(admin.list_topics())
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted if name in there]
        found = admin.describe_configs(resources, config_filter="all")["topic"]
    return tuple(
        _remains(name, {each: str(entry["value"]) for each, entry in found[name].items()}, now_ms)
        for name in wanted
        if name in found
    )


def _remains(topic: str, config: Mapping[str, str], now_ms: int) -> Remains:
    if "compact" in config["cleanup.policy"]:
        lag_ms = int(config["max.compaction.lag.ms"])
        return Remains(topic, "compact", None if lag_ms >= 2**62 else now_ms + lag_ms)
    retention_ms = int(config["retention.ms"])
    if retention_ms == FOREVER_MS:
        return Remains(topic, "delete", None)
    return Remains(topic, "delete", now_ms + retention_ms + int(config["segment.ms"]))


def _post(settings: KafkaSettings, place: TopicPartition, user_id: str) -> int:
    """The offset of the event that asks for it."""
    event = Event(user_id=user_id, event_type="forget", ts_ms=time.time_ns() // 1_000_000)
    try:
        producer = KafkaProducer(**settings.kafka_python(), acks="all", bootstrap_timeout_ms=ANSWER_TIMEOUT_MS)
        try:
            sent = producer.send(
                place.topic, msgspec.json.encode(event), key=user_id.encode(), partition=place.partition
            )
            return int(sent.get(timeout=ANSWER_TIMEOUT_MS / 1000).offset)
        finally:
            producer.close(timeout=10)
    except KafkaError as error:
        raise PolytempoError(f"Kafka at {settings.servers} does not take the event: {error}.") from error


def _receipt(
    reader: TopicReader, names: TopicNames, place: TopicPartition, offset: int, began_at: int, deadline_s: float
) -> Receipt:
    while True:
        end = reader.bounds(names.forgotten)[0][1]
        for _, records in reader.read(names.forgotten, {0: (began_at, end)}):
            for record in records:
                receipt = _read(record.value) if record.value is not None else None
                if receipt is not None and (receipt.source.partition, receipt.source.offset) == (
                    place.partition,
                    offset,
                ):
                    return receipt
        began_at = end
        _wait(deadline_s, "no receipt has come")


def _committed(admin: Any, names: TopicNames, place: TopicPartition) -> int:
    found = admin.list_group_offsets({names.app_id: [place]}).get(names.app_id, {}).get(place)
    return -1 if found is None else int(found.offset)


def _wait(deadline_s: float, what: str) -> None:
    if time.monotonic() > deadline_s:
        raise PolytempoError(
            f"{what} within the time.",
            "The request stays on the topic: workers do it when they run. `polytempo doctor` says what they do.",
        )
    time.sleep(_POLL_S)

"""Carrying the users' states over to a new secret, in the changelog, while no worker runs.

    changelog   key under a: state   ─►   key under a, b: the same state    and a tombstone for the old key

A key is hashed on, not made anew, so nobody needs to know the users' ids. Ids that are stored as they are become
pseudonyms the same way. Whatever breaks in between can be run again: a state that has a new key already keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError

from stream.errors import PolytempoError
from stream.kafka.lookup import ANSWER_TIMEOUT_MS, administration
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.replay.topics import TopicReader
from stream.wire.userkeys import UserKeys

__all__ = ["Rekeyed", "rekey", "rekeyed"]

_FLUSH_EVERY: Final = 5000


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """What was done: states that were carried over, and those that had the newest key before."""

    n_carried: int
    n_current: int


def rekey(
    settings: KafkaSettings,
    names: TopicNames,
    keys: UserKeys,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Rekeyed:
    """Give all states of a deployment the newest key.

    Args:
        on_progress: called with the records read, and all records to be read.

    Raises:
        PolytempoError: workers run, there is no key, one that is stored is unknown, or Kafka does not answer.
    """
    if not keys.current:
        raise PolytempoError("there is no user key to carry states over to.", "Set POLYTEMPO_USER_KEYS.")
    with administration(settings) as admin:
        _refuse_workers(admin, names)
    n_carried, n_current, n_before = 0, 0, 0
    topic = names.changelog
    try:
        producer = KafkaProducer(
            **settings.kafka_python(), acks="all", enable_idempotence=True, bootstrap_timeout_ms=ANSWER_TIMEOUT_MS
        )
    except KafkaError as error:
        raise PolytempoError(f"Kafka at {settings.servers} cannot be reached: {error}.") from error
    try:
        with TopicReader(settings) as reader:
            bounds = reader.bounds(topic)
            n_all = sum(end - first for first, end in bounds.values())
            for partition, (first, end) in sorted(bounds.items()):
                states: dict[bytes, bytes] = {}
                for _, records in reader.read(topic, {partition: (first, end)}):
                    for record in records:
                        states.pop(record.key, None)
                        if record.value is not None:
                            states[record.key] = record.value
                    if on_progress is not None:
                        on_progress(n_before + records[-1].offset + 1 - first, n_all)
                n_before += end - first
                n_moved = 0
                for key, value in rekeyed(states, keys):
                    producer.send(topic, value, key=key, partition=partition)
                    n_moved += value is not None
                    if n_moved % _FLUSH_EVERY == 0:
                        producer.flush()
                producer.flush()
                n_carried += n_moved
                n_current += len(states) - n_moved
    except KafkaError as error:
        raise PolytempoError(f"Kafka at {settings.servers} failed: {error}.", "Run it again; it goes on.") from error
    finally:
        producer.close(timeout=10)
    return Rekeyed(n_carried, n_current)


def rekeyed(states: dict[bytes, bytes], keys: UserKeys) -> Iterator[tuple[bytes, bytes | None]]:
    """Records to write: each state under its newest key before the tombstone of its old one.

    Raises:
        PolytempoError: a state's key was made with a secret that is not there.
    """
    for key, value in states.items():
        new = keys.carried(key)
        if new == key:
            continue
        if new not in states:  # else a worker has carried it over, and the newer state is that one
            yield new, value
        yield key, None


def _refuse_workers(admin: Any, names: TopicNames) -> None:
    members = admin.describe_groups([names.app_id])[names.app_id]["members"]
    if members:
        raise PolytempoError(
            f"{len(members)} workers of {names.app_id} are running.",
            "Stop them first: they would not see what is written to the changelog behind their backs.",
        )

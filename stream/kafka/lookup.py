"""Asking a cluster: the connection for it, and looking without changing anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings

__all__ = ["ANSWER_TIMEOUT_MS", "administration", "topic_partitions"]

ANSWER_TIMEOUT_MS: Final = 10_000
"""After so long a cluster that says nothing does not answer."""


@contextmanager
def administration(settings: KafkaSettings) -> Iterator[Any]:
    """kafka-python's admin client, closed afterwards.

    Raises:
        PolytempoError: no Kafka answers, or it refuses what is asked within.
    """
    # Imported here: it is dear, and commands import this module for their help pages.
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(**settings.kafka_python(), bootstrap_timeout_ms=ANSWER_TIMEOUT_MS)
    except KafkaError as error:
        raise PolytempoError(
            f"no Kafka answers at {settings.servers}: {error}.",
            "Start one with `polytempo broker`, or name it with --kafka.",
        ) from error
    try:
        yield admin
    except KafkaError as error:
        raise PolytempoError(f"Kafka at {settings.servers} refused: {error}.") from error
    finally:
        admin.close()


def topic_partitions(settings: KafkaSettings, names: Sequence[str]) -> dict[str, int | None]:
    """The number of partitions of each topic, None for one that does not exist.

    Raises:
        PolytempoError: no Kafka answers.
    """
    with administration(settings) as admin:
        there = set(admin.list_topics())
        known = [name for name in names if name in there]
        described = {each["name"]: len(each["partitions"]) for each in admin.describe_topics(known)} if known else {}
    return {name: described.get(name) for name in names}

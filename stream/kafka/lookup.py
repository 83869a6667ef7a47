"""Looking at a cluster without changing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings

__all__ = ["topic_partitions"]

_ANSWER_TIMEOUT_MS: Final = 10_000


def topic_partitions(settings: KafkaSettings, names: Sequence[str]) -> dict[str, int | None]:
    """The number of partitions of each topic, None for one that does not exist.

    Raises:
        PolytempoError: no Kafka answers.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(**settings.kafka_python(), bootstrap_timeout_ms=_ANSWER_TIMEOUT_MS)
    except KafkaError as error:
        raise PolytempoError(
            f"no Kafka answers at {settings.servers}: {error}.",
            "Start one with `polytempo broker`, or name it with --kafka.",
        ) from error
    try:
        there = set(admin.list_topics())
        known = [name for name in names if name in there]
        described = {each["name"]: len(each["partitions"]) for each in admin.describe_topics(known)} if known else {}
    except KafkaError as error:
        raise PolytempoError(f"Kafka at {settings.servers} refused: {error}.") from error
    finally:
        admin.close()
    return {name: described.get(name) for name in names}

"""Options that several commands share."""

import re
from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Group, Parameter

from stream.errors import PolytempoError
from stream.kafka.access import check_access
from stream.kafka.settings import KafkaSettings

__all__ = ["KafkaOptions", "parse_duration_ms"]

KAFKA_GROUP = Group("Kafka", sort_key=10)


@Parameter(name="*", group=KAFKA_GROUP)
@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """Which cluster to talk to. The password comes from POLYTEMPO_KAFKA_PASSWORD alone: others see a command line.

    Args:
        kafka: servers, HOST:PORT with commas between (POLYTEMPO_KAFKA, else localhost:9092).
        security: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL (POLYTEMPO_KAFKA_SECURITY).
        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 (POLYTEMPO_KAFKA_SASL_MECHANISM).
        user: SASL user (POLYTEMPO_KAFKA_USER; the password only as POLYTEMPO_KAFKA_PASSWORD).
        ca: PEM file of the authorities to trust (POLYTEMPO_KAFKA_CA).
        cert: PEM file of the client's certificate (POLYTEMPO_KAFKA_CERT).
        key: PEM file of the certificate's key (POLYTEMPO_KAFKA_KEY).
        prefix: put before each topic's name, so that several set-ups share a cluster.
    """

    kafka: str | None = None
    security: Annotated[str | None, Parameter(name="--kafka-security")] = None
    sasl_mechanism: Annotated[str | None, Parameter(name="--kafka-sasl-mechanism")] = None
    user: Annotated[str | None, Parameter(name="--kafka-user")] = None
    ca: Annotated[str | None, Parameter(name="--kafka-ca")] = None
    cert: Annotated[str | None, Parameter(name="--kafka-cert")] = None
    key: Annotated[str | None, Parameter(name="--kafka-key")] = None
    prefix: str = ""

    def settings(self) -> KafkaSettings:
        """The cluster that these options and the environment name, which lets us in or does not answer yet.

        Raises:
            PolytempoError: they contradict each other or name what does not exist, or the cluster refuses.
        """
        settings = KafkaSettings.read(
            self.kafka,
            security=self.security,
            sasl_mechanism=self.sasl_mechanism,
            user=self.user,
            ca=self.ca,
            cert=self.cert,
            key=self.key,
        )
        check_access(settings)
        return settings


_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def parse_duration_ms(text: str) -> int:
    """Milliseconds of a duration as people write it.

    >>> parse_duration_ms("90s"), parse_duration_ms("1.5h"), parse_duration_ms("30d")
    (90000, 5400000, 2592000000)

    Raises:
        PolytempoError: it is no duration.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)", text.strip())
    if match is None:
        raise PolytempoError(f"{text!r} is no duration.", "Write a number and a unit: 500ms, 90s, 15m, 12h, 30d or 2w.")
    return round(float(match[1]) * _UNIT_MS[match[2]])

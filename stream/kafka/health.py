"""Whether this machine's worker takes part: what a container's health check asks.

    python -m stream.kafka.health [PREFIX]

exits with 0 if the workers' group is stable and has a member at this machine's address, else with 1 and the reason.
The cluster is that of POLYTEMPO_KAFKA and its companions.
"""

import socket
import sys
from typing import Any

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames

__all__ = ["group_trouble"]


def group_trouble(settings: KafkaSettings, group: str) -> str:
    """Say why this machine takes no part in the consumer group `group`; "" if it does."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(**settings.kafka_python(), bootstrap_timeout_ms=5000)
    except KafkaError as error:
        return f"no Kafka answers at {settings.servers}: {error}"
    try:
        description: dict[str, Any] = admin.describe_groups([group])[group]
    except KafkaError as error:
        return f"Kafka at {settings.servers} tells nothing of the group {group}: {error}"
    finally:
        admin.close()
    if description["group_state"] != "Stable":
        return f"the group {group} is {description['group_state']}"
    hosts = {member["client_host"].lstrip("/") for member in description["members"]}
    own = _own_address(settings)
    return "" if own in hosts else f"no member of the group {group} is at {own}"


def _own_address(settings: KafkaSettings) -> str:
    """The address under which the first server sees this machine. Connecting a datagram socket sends nothing."""
    host, _, port = settings.bootstrap[0].rpartition(":")
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def main(arguments: list[str]) -> int:
    """Print the trouble, if there is any; give the exit code."""
    try:
        trouble = group_trouble(KafkaSettings.read(), TopicNames(*arguments).app_id)
    except (PolytempoError, OSError) as error:
        trouble = str(error)
    print(trouble or "healthy")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

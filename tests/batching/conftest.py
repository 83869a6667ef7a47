"""The broker that these tests talk to."""

from __future__ import annotations

import pytest

from stream.kafka.settings import KafkaSettings


@pytest.fixture(scope="session")
def broker(kafka: KafkaSettings) -> str:
    """HOST:PORT of one server of the cluster under test."""
    return kafka.bootstrap[0]

"""A deployment of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stream.kafka.settings import KafkaSettings
from tests.worker.cluster import Cluster


@pytest.fixture
async def cluster(kafka: KafkaSettings, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Topics that exist, and no worker yet; those that the test starts end with it."""
    cluster = Cluster(kafka, topic_prefix, tmp_path)
    cluster.create()
    yield cluster
    await cluster.kill_all()

"""A deployment of its own for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from stream.kafka.settings import KafkaSettings
from tests.worker.cluster import Cluster


@pytest_asyncio.fixture
async def cluster(kafka: KafkaSettings, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Topics with four partitions; workers that a test leaves behind are ended."""
    cluster = Cluster(kafka, topic_prefix, tmp_path)
    cluster.create()
    yield cluster
    await cluster.kill_all()

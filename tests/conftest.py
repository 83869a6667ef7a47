"""What tests of several packages share: a Kafka, names of their own on it, and the real data."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from stream.errors import PolytempoError
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# No test is held to the clock: a machine that is busy with something else takes ten times as long.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[EmbeddedBroker]:
    """One Kafka of this test run's own; skipped where neither Java nor the jars can be had, which CI must not hide."""
    broker = EmbeddedBroker()
    try:
        broker.start()
    except PolytempoError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Kafka: {error}")
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> KafkaSettings:
    """The cluster under test: POLYTEMPO_KAFKA if it is set, else one broker for the whole run."""
    if os.environ.get("POLYTEMPO_KAFKA"):
        return KafkaSettings.read()
    broker: EmbeddedBroker = request.getfixturevalue("kafka_broker")
    return broker.settings


@pytest.fixture
def topic_prefix() -> str:
    """A prefix that no other test uses, for topics and groups."""
    return f"test-{uuid.uuid4().hex[:10]}-"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Finds a file of the real data beside the repository; the test is skipped where it is not."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"real data not present: {name}")
        return path

    return find

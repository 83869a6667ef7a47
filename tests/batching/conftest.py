"""The broker that these tests talk to."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> str:
    """HOST:PORT of a Kafka broker: POLYTEMPO_TEST_BROKER, else the project's embedded one."""
    named = os.environ.get("POLYTEMPO_TEST_BROKER")
    return named if named is not None else str(request.getfixturevalue("kafka").bootstrap)

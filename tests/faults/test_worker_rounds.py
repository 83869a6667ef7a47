"""One of the rounds that `python -m tests.faults.worker_rounds` runs twenty of."""

from __future__ import annotations

import pytest

from stream.kafka.settings import KafkaSettings
from tests.faults.worker_rounds import one_round
from tests.worker.bundles import bundle


@pytest.mark.timeout(600)
async def test_a_killed_an_added_and_a_removed_worker_lose_nothing_and_count_nothing_twice(
    kafka: KafkaSettings,
) -> None:
    """Every event accounted for, states equal byte for byte to an offline rebuild, statistics within rounding."""
    account, remarks = await one_round(kafka, bundle("ranker"), n_events=8_000, seed=100)
    assert account.sound, (account, remarks)
    assert account.n_valid > 7_000
    assert account.n_bad > 100

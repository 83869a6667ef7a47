"""One short round of the scenarios that cost little; `python -m tests.faults --help` lists all of them."""

from __future__ import annotations

import pytest

from stream.kafka.settings import KafkaSettings
from tests.faults.__main__ import SCENARIOS
from tests.faults.round import Load, play


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["kill", "clocks", "model-raises"])
async def test_every_event_is_accounted_for(kafka: KafkaSettings, name: str) -> None:
    """Answered or a dead letter, states equal byte for byte to an offline rebuild, statistics within rounding."""
    account, remarks = await play(SCENARIOS[name], kafka, None, seed=100, load=Load(3_000, 1_000))
    assert account.sound, (account, remarks)
    assert account.n_valid > 2_500
    assert account.n_bad > 30

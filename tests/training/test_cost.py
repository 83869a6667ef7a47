"""The cost of a served event: every event is answered, and the replay stays where it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream.core.features import FeatureSpec
from stream.core.seam import Policy, Recommender
from tests.training.small_shop import shop
from training.cost import served_cost
from training.log import Log, item_updates
from training.replay import RecordingScorer, Replay


class Counting(RecordingScorer):
    """Counts the events that it scores."""

    n_scored = 0

    def score(self, inputs: Any) -> dict[str, Any]:
        self.n_scored += len(inputs["candidates"])
        return super().score(inputs)


def test_the_last_events_are_all_answered_as_if_new_and_nothing_of_the_replay_changes() -> None:
    """
    replayed    0 ................ 500 |
    measured         | 100 | 100 | ... |      five rounds
    """
    spec = FeatureSpec()
    scorer = Counting(spec)
    log = Log.of(shop().events, spec.types)
    replay = Replay(log, Recommender(spec, scorer, policy=Policy(10)), items=item_updates(shop().items))
    for _ in replay.run(500, np.zeros(len(log), np.bool_)):
        pass
    states = replay.states.made.copy()
    cost = served_cost(replay, n_batch=100)
    assert scorer.n_scored == 5 * 500
    assert cost.us_per_event > 0
    assert cost.n_batch == 100
    assert replay.at == 500
    np.testing.assert_array_equal(replay.states.made, states)


def test_without_statistics_there_is_nothing_to_measure() -> None:
    spec = FeatureSpec()
    replay = Replay(Log.of(shop().events, spec.types), Recommender(spec, RecordingScorer(spec)))
    with pytest.raises(ValueError, match="nothing has been replayed"):
        served_cost(replay)

"""What a served event costs: the worker's own composition over the last events of a replay, in processor time.

    fold -> (ask the sequence model) -> candidates and features -> score -> rank

Everything but reading and writing topics and states. The statistics are those that the replay has built up, so rows are
as full as they are live. Processor time, and the fastest round: what else the machine does is not the model's doing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from training.replay import Replay

__all__ = ["N_BATCH", "Cost", "served_cost"]

N_BATCH: Final = 256
"""Events in a batch."""
_N_BATCHES: Final = 8
_N_ROUNDS: Final = 5
_SOURCE: Final = "cost/0"
"""None that the records know: there, these events have been applied already."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an event costs that is answered.

    Attributes:
        us_per_event: microseconds of processor.
        n_batch: events in a batch.
    """

    us_per_event: float
    n_batch: int


def served_cost(replay: Replay, n_batch: int = N_BATCH) -> Cost:
    """Measure the recommender of a replay where it stands; nothing of the replay changes.

    Raises ValueError when nothing has been replayed yet.
    """
    if replay.at == 0:
        raise ValueError("nothing has been replayed: there are no statistics to measure with")
    first = max(0, replay.at - n_batch * _N_BATCHES)
    batches = [
        (replay.log.batch(start, min(start + n_batch, replay.at)), replay.users(start, min(start + n_batch, replay.at)))
        for start in range(first, replay.at, n_batch)
    ]
    best_s = float("inf")
    for _ in range(_N_ROUNDS):
        spent_s = 0.0
        for batch, users in batches:
            states = replay.states.get(users)
            began_s = time.process_time()
            replay.recommender.step(states, batch, replay.view, source=_SOURCE)
            spent_s += time.process_time() - began_s
        best_s = min(best_s, spent_s)
    return Cost(best_s / (replay.at - first) * 1e6, n_batch)

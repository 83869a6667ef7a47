"""What variants, exploration and shadows cost: processor time of the worker's step, without a broker.

    python -m tests.bench.experiments models/shop-ranker

Rounds of all settings take turns, and the median of each setting's rounds counts, in microseconds of processor time an
event: other work on the machine delays a round, but is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stream.bundle.load import load_bundle
from stream.bundle.service import Arm, ShadowArm
from stream.core.assignment import Assignment
from stream.core.exploration import Exploration
from stream.core.seam import Policy
from stream.core.statistics import ItemStatistics
from stream.worker.processor import Processor
from stream.worker.shadow import ShadowCounters, Shadows
from tests.wire.records import FakeRecord

__all__ = ["main"]

N_EVENTS, BATCH = 8_192, 256
START_MS = 1_700_000_000_000


def records(event_type: str) -> list[FakeRecord]:
    """Views of 2,000 users over 1,000 items of uneven popularity."""
    rng = np.random.default_rng(0)
    items = np.minimum(rng.pareto(0.8, N_EVENTS) * 10, 999).astype(int)
    return [
        FakeRecord(
            f"u{user}".encode(),
            json.dumps(
                {
                    "user_id": f"u{user}",
                    "item_id": f"i{item}",
                    "event_type": event_type,
                    "ts_ms": START_MS + 500 * offset,
                }
            ).encode(),
            offset,
            START_MS + 10**9,
        )
        for offset, (user, item) in enumerate(
            zip(rng.integers(0, 2_000, N_EVENTS).tolist(), items.tolist(), strict=True)
        )
    ]


def main() -> None:
    """Prints microseconds an event by setting, as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each setting (%(default)s)")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    policy = Policy(bundle.manifest.policy.n, bundle.manifest.policy.seen)
    drawn = Policy(policy.n, policy.seen, Exploration(first=4, pool=30))
    log = records(bundle.features.types.names[0])
    even = Assignment("bench", {"a": 1, "b": 1})

    def two(second: Policy) -> Callable[[ItemStatistics], Processor]:
        arms = [Arm("a", bundle, policy), Arm("b", bundle, second)]
        return lambda view: Processor(arms, view, assignment=even)

    def shadowed(sample: float) -> Callable[[ItemStatistics], Processor]:
        one = [Arm("default", bundle, policy)]
        return lambda view: Processor(one, view, shadows=Shadows([ShadowArm(bundle, policy, sample)], ShadowCounters()))

    settings: dict[str, Callable[[ItemStatistics], Processor]] = {
        "one bundle": lambda view: Processor([Arm("default", bundle, policy)], view),
        "two variants": two(policy),
        "two variants, one drawn": two(drawn),
        "all drawn": lambda view: Processor([Arm("default", bundle, drawn)], view),
        "one bundle, shadow of 10 %": shadowed(0.1),
    }
    took: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(options.rounds):
        for name, make in settings.items():
            took[name].append(_round(make, bundle.features.statistics, log))
    print(json.dumps({name: round(statistics.median(rounds), 2) for name, rounds in took.items()}))


def _round(make: Callable[[ItemStatistics], Processor], spec: object, log: list[FakeRecord]) -> float:
    view = ItemStatistics(spec)  # type: ignore[arg-type]
    processor = make(view)
    processor.warm_up()
    stored: dict[bytes, bytes | None] = {}
    spent_s = 0.0
    for first in range(0, len(log), BATCH):
        began_s = time.process_time()
        output = processor.process(
            log[first : first + BATCH],
            lambda keys: list(map(stored.get, keys)),
            topic="events",
            partition=0,
            covers=(first, first + BATCH - 1),
        )
        while processor.shadows is not None and processor.shadows.n_waiting > 0:
            processor.shadows.score(view)
        spent_s += time.process_time() - began_s
        stored.update(output.writes)
        if output.activity is not None:
            view.advance([(first, output.activity)])
    return 1e6 * spent_s / len(log)


if __name__ == "__main__":
    main()

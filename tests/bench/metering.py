"""What a batch pays for being metered.

    python -m tests.bench.metering

One finished batch is counted a hundred thousand times, as the worker does on its event loop, for several sizes.
"""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

from stream.batching import Timings
from stream.worker.vitals import Meter

__all__ = ["us_per_batch"]


def us_per_batch(n_events: int, n_batches: int = 100_000) -> float:
    """Microseconds that one call of `Meter.add` takes for a batch of so many events; the best of five runs."""
    now_s = time.time()
    batch: Any = SimpleNamespace(records=[SimpleNamespace(timestamp=int(now_s * 1000) - 7)] * n_events)
    timings, meter, best_s = Timings(900, 1500, 1200, 300), Meter(), float("inf")
    for _ in range(5):
        began_s = time.perf_counter()
        for _ in range(n_batches // 5):
            meter.add(batch, timings, time.time())
        best_s = min(best_s, time.perf_counter() - began_s)
    return best_s / (n_batches // 5) * 1e6


if __name__ == "__main__":
    print(json.dumps({str(n): round(us_per_batch(n), 2) for n in (1, 32, 256, 512)}))

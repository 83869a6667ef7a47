"""Histograms that cost a third of a microsecond to feed, for one thread that writes and others that read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

__all__ = ["BATCH_EVENTS", "SECONDS", "Histogram"]

SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds for durations, from what a step takes to what nobody waits for."""
BATCH_EVENTS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Upper bounds for the number of events in a batch."""


class Histogram:
    """Counts of values by upper bound, and their sum.

    The library's own histograms take a lock for each value. Here one thread writes without any; a reader in another
    thread may see a value counted and not yet summed, which a rate over seconds does not notice.

    Args:
        bounds: upper bounds, included, ascending; what is above the last one is counted too.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        if list(bounds) != sorted(set(bounds)):
            raise ValueError("bounds must ascend")
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, n: int = 1) -> None:
        """Count `value`, `n` times."""
        self._counts[bisect_left(self._bounds, value)] += n
        self._sum += value * n

    @property
    def n(self) -> int:
        """How many values were counted."""
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """Their sum."""
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, values up to it) as Prometheus wants them, "+Inf" last."""
        counts, found, total = list(self._counts), [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found

    def quantile(self, share: float) -> float | None:
        """The value that `share` of them do not exceed, interpolated within its bucket; None without values.

        What lies above the last bound counts as the last bound.
        """
        buckets = self.buckets()
        wanted = share * buckets[-1][1]
        if wanted == 0:
            return None
        below, lower = 0.0, 0.0
        for (_, total), bound in zip(buckets, self._bounds, strict=False):
            if total >= wanted:
                return lower + (bound - lower) * (wanted - below) / (total - below)
            below, lower = total, bound
        return self._bounds[-1]

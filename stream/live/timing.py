"""Latencies and rates in bounded memory."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

__all__ = ["Latencies", "Rate"]

_LONGEST_MS: Final = 60_000


class Latencies:
    """Latencies as counts by millisecond, which is as fine as Kafka's timestamps are; a minute and more is a minute."""

    def __init__(self) -> None:
        self._counts: Final = np.zeros(_LONGEST_MS + 1, np.int64)

    def add(self, ms: int) -> None:
        """Count one. Below 0, where two brokers' clocks differ, counts as 0."""
        self._counts[min(max(ms, 0), _LONGEST_MS)] += 1

    def percentile(self, share: float) -> int | None:
        """The least latency in ms that at least `share` (0 to 1) of all do not exceed; None without any."""
        running = np.cumsum(self._counts)
        if running[-1] == 0:
            return None
        return int(np.searchsorted(running, max(share * running[-1], 1)))


class Rate:
    """Counts by second of a clock, over the last minute.

    Args:
        n_seconds: how far back it remembers.
    """

    def __init__(self, n_seconds: int = 60) -> None:
        self._n_seconds: Final = n_seconds
        self._seconds: Final[deque[tuple[int, int]]] = deque()

    def add(self, n: int, now_s: float) -> None:
        """Count `n` at a time of a clock that does not go back."""
        second = int(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            n += self._seconds.pop()[1]
        self._seconds.append((second, n))
        while self._seconds[0][0] <= second - self._n_seconds - 1:
            self._seconds.popleft()

    def history(self, now_s: float) -> list[int]:
        """Counts of the whole seconds before this one, oldest first; as many as are remembered."""
        second = int(now_s)
        known = dict(self._seconds)
        return [known.get(each, 0) for each in range(second - self._n_seconds, second)]

    def per_s(self, now_s: float, over_s: int = 5) -> float:
        """Mean over the last `over_s` whole seconds; over fewer while it has just begun to count."""
        if not self._seconds:
            return 0.0
        second = int(now_s)
        first = max(second - over_s, self._seconds[0][0])
        n_whole = second - first
        if n_whole <= 0:
            return float(sum(n for _, n in self._seconds))
        return sum(n for when, n in self._seconds if first <= when < second) / n_whole

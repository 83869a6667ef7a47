"""What is popular now, as events tell: the opponent that recommendations are measured against."""

from __future__ import annotations

import heapq
from collections.abc import Container
from typing import Final

__all__ = ["RecentPopularity"]

_MAX_EXPONENT: Final = 512.0  # of two: doubles hold 1023


class RecentPopularity:
    """Counts of items that halve every `half_life_ms` of event time, with the most popular ones at hand.

        w(item) = sum over its events of 2 ** ((ts_ms - origin) / half_life)

    All counts fade alike, so only an event moves an item, and only upwards: the list of the best is exact after every
    event without sorting anything.

    Args:
        half_life_ms: the time in which a count halves.
        n_best: length of the list, which bounds what `best` can leave out.
        max_items: items that are remembered; beyond, the lighter half is forgotten.
    """

    def __init__(self, half_life_ms: int = 3_600_000, *, n_best: int = 200, max_items: int = 200_000) -> None:
        self._half_life_ms: Final = half_life_ms
        self._n_best: Final = n_best
        self._max_items: Final = max_items
        self._origin_ms: int | None = None
        self._weight: dict[str, float] = {}
        self._best: list[str] = []

    def __len__(self) -> int:
        """Items remembered."""
        return len(self._weight)

    def add(self, item_id: str, ts_ms: int) -> None:
        """Count one event. A late one counts with the weight that is left of it."""
        if self._origin_ms is None:
            self._origin_ms = ts_ms
        exponent = (ts_ms - self._origin_ms) / self._half_life_ms
        if exponent > _MAX_EXPONENT:
            self._rebase(self._origin_ms, ts_ms)
            exponent = 0.0
        self._weight[item_id] = self._weight.get(item_id, 0.0) + 2.0 ** max(exponent, -1000.0)
        self._raise(item_id)
        if len(self._weight) > self._max_items:
            self._weight = dict(heapq.nlargest(self._max_items // 2, self._weight.items(), key=lambda pair: pair[1]))

    def best(self, n: int, without: Container[str] = ()) -> tuple[str, ...]:
        """The `n` most popular items that are not in `without`; of two alike the one that came up first."""
        found = []
        for item_id in self._best:
            if item_id not in without:
                found.append(item_id)
                if len(found) == n:
                    break
        return tuple(found)

    def _raise(self, item_id: str) -> None:
        best, weight = self._best, self._weight
        own = weight[item_id]
        try:
            at = best.index(item_id)
        except ValueError:
            if len(best) == self._n_best:
                if weight.get(best[-1], 0.0) >= own:
                    return
                best.pop()
            best.append(item_id)
            at = len(best) - 1
        while at > 0 and weight.get(best[at - 1], 0.0) < own:
            best[at] = best[at - 1]
            at -= 1
        best[at] = item_id

    def _rebase(self, origin_ms: int, ts_ms: int) -> None:
        """Count from `ts_ms` instead of `origin_ms`, so that weights stay within what a double holds."""
        shrink = 2.0 ** max((origin_ms - ts_ms) / self._half_life_ms, -1000.0)
        self._weight = {item_id: weight * shrink for item_id, weight in self._weight.items()}
        self._origin_ms = ts_ms

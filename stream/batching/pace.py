"""Whether records come so fast that fetching each by itself is a waste."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Pace"]

#: Time constant of the average. Long enough not to flap, short enough that a quiet topic is answered at once again.
_MEMORY_S = 0.25


@dataclass(slots=True)
class Pace:
    """An exponentially decaying average of the rate of records, in records per second."""

    rate: float = 0.0
    _at_s: float | None = None

    def busy(self, n_records: int, now_s: float, window_s: float) -> bool:
        """Take note of `n_records` that arrived at `now_s`: whether more than one is to be expected in `window_s`.

        `now_s` must not go backwards. A window of 0 is never busy.
        """
        if self._at_s is not None:
            self.rate *= math.exp((self._at_s - now_s) / _MEMORY_S)
        self._at_s = now_s
        self.rate += n_records / _MEMORY_S
        return self.rate * window_s > 1.0

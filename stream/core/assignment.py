"""Which variant of an experiment a user is in: an exponential race, one hash a variant, nothing to be stored.

For each variant v of weight w[v] > 0:

    digest   = SHA-256 of the UTF-8 text  SALT "\\n" VARIANT "\\n" USER
    u        = (its first eight bytes, big-endian, without their last 11 bits, plus 1/2) / 2**53      in (0, 1)
    time     = -ln(u) / w[v]

The variant with the smallest time has the user; of equal times, the one that is listed first. So user and salt alone
decide, in any language, process or order, and shares are as the weights.

When weights change, a user goes from v to w only if w's weight relative to v's grew; so of two variants, or where one
weight changes, exactly as many users move as must. No rule without a memory does better for all changes at once
(Moulton and Jiang: Maximally Consistent Sampling and the Jaccard Index of Probability Distributions, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

__all__ = ["Assignment"]

_CACHED: Final = 1 << 16


class Assignment:
    """Users to variants.

    Args:
        salt: another one assigns anew, independently of this one.
        weights: variant -> its share, up to a common factor; 0 gets nobody.

    Raises:
        ValueError: no weight is positive, or one is negative or not finite.

    >>> Assignment("2024", {"control": 1, "new": 1}).of("u1")
    'new'
    """

    def __init__(self, salt: str, weights: Mapping[str, float]) -> None:
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name!r} is {weight}, not a number from 0 on")
            if "\n" in name or "\n" in salt:
                raise ValueError("neither salt nor variants hold line breaks")
        self.names: Final = tuple(weights)
        self._races: Final = [
            (number, f"{salt}\n{name}\n".encode(), float(weight))
            for number, (name, weight) in enumerate(weights.items())
            if weight > 0
        ]
        if not self._races:
            raise ValueError("no variant has a positive weight")
        self._known: dict[str, int] = {}

    def number_of(self, user_id: str) -> int:
        """Which of `names` the user is in."""
        if len(self._races) == 1:
            return self._races[0][0]
        number = self._known.get(user_id)
        if number is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            number = self._known[user_id] = self._race(user_id.encode())
        return number

    def of(self, user_id: str) -> str:
        """The variant that the user is in."""
        return self.names[self.number_of(user_id)]

    def _race(self, user: bytes) -> int:
        best, best_time = -1, math.inf
        for number, text, weight in self._races:
            drawn = int.from_bytes(sha256(text + user).digest()[:8], "big") >> 11
            time = -math.log((drawn + 0.5) / 2**53) / weight
            if time < best_time:
                best, best_time = number, time
        return best

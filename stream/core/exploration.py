"""Lists that are drawn instead of sorted, with the probability of each draw, so that other policies can be judged.

    pool      a b c d e f g        the best allowed items, best first
    head      a b                  places before `first` stay as they are
    tail          d c              each place is drawn from what is left of the pool

Of the items left at a place, with scores s and the best of them b, item i is drawn with probability

    "softmax"   exp(s[i] / temperature) / sum over j of exp(s[j] / temperature)        Plackett-Luce
    "epsilon"   (1 - epsilon) * (i == b) + epsilon / (number of items left)

What is kept is this probability, given what stands above. The product over a list's places is that of the whole list.

Randomness is a hash: of the recommendation's id and a salt. The same event gives the same list, in any replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Exploration", "draw", "list_probabilities", "seed_of"]

_SOFTMAX: Final = 0
_EPSILON: Final = 1
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Exploration:
    """How lists are drawn.

    Attributes:
        kind: "softmax" or "epsilon", see above.
        first: the first place that is drawn, counted from 1; those before it are the best ones.
        pool: items that have a chance; a longer list needs more and gets them.
        temperature: of "softmax", in units of scores: the higher, the more even.
        epsilon: of "epsilon", the share of draws among all.
        salt: another one draws anew.

    Raises:
        ValueError: a figure is out of range.
    """

    kind: Literal["softmax", "epsilon"] = "softmax"
    first: int = 1
    pool: int = 30
    temperature: float = 1.0
    epsilon: float = 0.1
    salt: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("softmax", "epsilon"):
            raise ValueError(f"exploration is softmax or epsilon, not {self.kind!r}")
        if self.first < 1 or self.pool < 2:
            raise ValueError(f"places are counted from 1 and a pool has two items, not {self.first} and {self.pool}")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"the temperature is above 0, not {self.temperature}")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon is above 0 and at most 1, not {self.epsilon}")


def seed_of(salt: str, rec_id: str) -> int:
    """64 bits that decide all draws of one recommendation."""
    return int.from_bytes(blake2b(f"{salt}\n{rec_id}".encode(), digest_size=8).digest(), "little")


def draw(
    how: Exploration, items: NDArray[np.int32], scores: NDArray[np.float32], n: NDArray[np.int64], seeds: NDArray[Any]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Draw n[r] items of each row's pool.

    Args:
        how: the distribution.
        items: (R, p) best first, -1 beyond the last.
        scores: (R, p), falling.
        n: (R,) how many are wanted; fewer where the pool is smaller.
        seeds: (R,) uint64, see `seed_of`.

    Returns:
        (R, n.max()) columns of the pool in the order of the list, -1 beyond the last, and (R, n.max()) the probability
        of each at its place, 1 in the head and 0 beyond the last.
    """
    width = int(n.max(initial=0))
    chosen = np.full((len(items), width), -1, np.int32)
    probability = np.zeros((len(items), width))
    kind = _SOFTMAX if how.kind == "softmax" else _EPSILON
    amount = how.temperature if how.kind == "softmax" else how.epsilon
    _draw(kind, amount, how.first - 1, items, scores, n, seeds.astype(np.uint64), chosen, probability)
    return chosen, probability


def list_probabilities(
    how: Exploration | None, scores: NDArray[np.float32], columns: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """How likely a policy shows each item of a list at its place, given what stands above: (n,).

    Args:
        how: the policy's distribution; None for the best items in their order.
        scores: (p,) of the policy's own pool, falling.
        columns: (n,) which of the pool each item of the list is, -1 for none of them: probability 0. What follows an
            item that the policy would not show has probability 0 as well.
    """
    probability = np.zeros(len(columns))
    left = np.ones(len(scores), np.bool_)
    for place, column in enumerate(columns.tolist()):
        if column < 0 or not left[column]:
            break
        if how is None or place < how.first - 1:
            if column != int(np.argmax(left)):
                break
            probability[place] = 1.0
        else:
            kind = _SOFTMAX if how.kind == "softmax" else _EPSILON
            amount = how.temperature if how.kind == "softmax" else how.epsilon
            weights = np.zeros(len(scores))
            _weigh(kind, amount, scores.astype(np.float64), left, weights)
            probability[place] = weights[column] / weights.sum()
        left[column] = False
    return probability


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _weigh(kind: Any, amount: Any, scores: Any, left: Any, weights: Any) -> None:
    # The weight of each item that is left, up to a common factor.
    best, n_left = -1, 0
    for i in range(len(scores)):
        weights[i] = 0.0
        if left[i]:
            n_left += 1
            if best < 0:
                best = i
    for i in range(len(scores)):
        if not left[i]:
            continue
        if kind == 1:
            weights[i] = amount / n_left + (1.0 - amount if i == best else 0.0)
        elif scores[i] == scores[best]:  # also where both are infinite
            weights[i] = 1.0
        else:
            weights[i] = np.exp((scores[i] - scores[best]) / amount)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _draw(
    kind: Any, amount: Any, head: Any, items: Any, scores: Any, n: Any, seeds: Any, chosen: Any, probability: Any
) -> None:
    width = items.shape[1]
    weights, row = np.zeros(width), np.zeros(width)
    left = np.zeros(width, np.bool_)
    for r in range(len(items)):
        n_pool = 0
        while n_pool < width and items[r, n_pool] >= 0:
            n_pool += 1
        for i in range(width):
            left[i] = i < n_pool
            row[i] = scores[r, i]
        for place in range(min(n[r], n_pool)):
            if place < head:
                pick, likely = place, 1.0
            else:
                _weigh(kind, amount, row, left, weights)
                total = 0.0
                for i in range(n_pool):
                    total += weights[i]
                # SplitMix64 (Steele, Lea and Flood: Fast Splittable Pseudorandom Number Generators, 2014)
                z = seeds[r] + np.uint64(place + 1) * _GOLDEN
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                z = z ^ (z >> np.uint64(31))
                target = (np.float64(z >> np.uint64(11)) + 0.5) * 2.0**-53 * total
                pick, upto = -1, 0.0
                for i in range(n_pool):
                    if weights[i] > 0.0:
                        pick = i
                        upto += weights[i]
                        if upto > target:
                            break
                likely = weights[pick] / total
            chosen[r, place] = pick
            probability[r, place] = likely
            left[pick] = False

"""Baselines for baskets (orders, carts): what is bought together, over all baskets before.

A basket is a session: positive events of one user without a longer silence than the session's gap. All is counted
prequentially, a basket when the user's next one begins, so that nothing that came with a target or later is known.
Nothing fades but popularity: n_i baskets had item i, n_ij had both, and d is how many lines apart they stood.

    popularity_7d          purchases of an item, each fading with a half-life of 7 days
    own_repeats            what this user bought most often before, of equals the latest
    basket_co_visitation   n_ij / (n_i + 5) for the newest item i of the basket
    basket_all_items       sum over all items i of the basket of n_ij / sqrt(n_i n_j): the cosine of Deshpande and
                           Karypis (Item-based top-n recommendation algorithms, ACM TOIS 22, 2004)
    basket_neighbours      sum over all items i of the basket, l lines back, of (sum over baskets of 1 / d) / (n_i + 5)
                           / l: lines that stand together in orders do so again

Lists are over the whole catalogue, the basket's own items removed; ties go to the item first seen in the log.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.scales import DAY_MS
from training.log import Log
from training.targets import Targets

__all__ = ["BASKET_BASELINES", "MAX_ITEMS", "basket_places"]

BASKET_BASELINES: Final = (
    "popularity_7d",
    "own_repeats",
    "basket_co_visitation",
    "basket_all_items",
    "basket_neighbours",
)
MAX_ITEMS: Final = 10_000
"""Pairs are counted in two full matrices of float32, 800 MB at this size."""
_SHRINK: Final = 5.0  # rare items speak quietly
_HALF_LIFE_MS: Final = 7 * DAY_MS


def basket_places(
    log: Log, targets: Targets, weights: NDArray[np.float32], session_gap_ms: int, n: int = 10
) -> dict[str, NDArray[np.int64]]:
    """By baseline, (T,) place of each target among the n best of its list, 0 where it is not among them.

    Args:
        weights: (256,) weight by kind; only events of kinds above 0 are put into baskets.

    Raises:
        ValueError: the log has more items than full matrices of pairs hold, or is longer than 1,000 half-lives.
    """
    n_items = len(log.item_ids)
    if n_items > MAX_ITEMS:
        raise ValueError(f"{n_items} items: baselines of baskets count pairs of at most {MAX_ITEMS}")
    if len(log) > 0 and log.ts_ms[-1] - log.ts_ms[0] > 1000 * _HALF_LIFE_MS:
        raise ValueError("the log is too long for a popularity in units that grow instead of fading")
    target_at = np.full(len(log), -1, np.int64)
    target_at[targets.row] = np.arange(len(targets))
    place = np.zeros((len(BASKET_BASELINES), len(targets)), np.int64)
    happened = log.happened() & (weights[log.kind] > 0)
    _run(
        log.user.astype(np.int64),
        log.item.astype(np.int64),
        log.ts_ms,
        happened,
        target_at,
        session_gap_ms,
        len(log.user_ids),
        n_items,
        n,
        float(_HALF_LIFE_MS),
        place,
    )
    return dict(zip(BASKET_BASELINES, place, strict=True))


@njit(cache=True)  # type: ignore[untyped-decorator]
def _run(
    user: Any,
    item: Any,
    ts_ms: Any,
    happened: Any,
    target_at: Any,
    gap_ms: Any,
    n_users: Any,
    n_items: Any,
    n: Any,
    half_life_ms: Any,
    place: Any,
) -> None:
    pairs = np.zeros((n_items, n_items), np.float32)
    near = np.zeros((n_items, n_items), np.float32)
    root = np.zeros(n_items, np.float32)  # 1 / sqrt(baskets of the item)
    n_baskets = np.zeros(n_items, np.int64)
    popularity = np.zeros(n_items, np.float64)
    newest = np.full(n_users, -1, np.int64)  # the open basket's newest row; older ones follow by `before`
    before = np.full(len(item), -1, np.int64)
    last = np.full(n_users, -1, np.int64)  # the user's newest row of all; older ones follow by `earlier`
    earlier = np.full(len(item), -1, np.int64)
    inside = np.zeros(n_items, np.bool_)
    for row in range(len(item)):
        if not happened[row]:
            continue
        u, wanted, now = user[row], item[row], ts_ms[row]
        if newest[u] >= 0 and now - ts_ms[last[u]] > gap_ms:
            _close(newest[u], before, item, pairs, near, n_baskets, root)
            newest[u] = -1
        target = target_at[row]
        if target >= 0:
            own, first = np.zeros(n_items), np.zeros(n_items)
            everything, neighbours = np.zeros(n_items, np.float32), np.zeros(n_items, np.float32)
            at, line = newest[u], 0
            while at >= 0:
                i = item[at]
                inside[i] = True
                line += 1
                if n_baskets[i] > 0:
                    share = 1.0 / (n_baskets[i] + _SHRINK)
                    everything += pairs[i] * (root * root[i])
                    neighbours += near[i] * np.float32(share / line)
                    if line == 1:
                        first = pairs[i] * share
                at = before[at]
            at, age = last[u], 0
            while at >= 0:
                # Of equals the latest: what it adds for that stays far below one purchase.
                own[item[at]] += 1.0 if own[item[at]] > 0 else 1.0 + 0.5 / (1.0 + age)
                age += 1
                at = earlier[at]
            place[0, target] = _place(popularity, inside, wanted, n)
            place[1, target] = _place(own, inside, wanted, n)
            place[2, target] = _place(first, inside, wanted, n)
            place[3, target] = _place(everything, inside, wanted, n)
            place[4, target] = _place(neighbours, inside, wanted, n)
            at = newest[u]
            while at >= 0:
                inside[item[at]] = False
                at = before[at]
        before[row], newest[u] = newest[u], row
        earlier[row], last[u] = last[u], row
        # In units that grow, nothing has to fade.
        popularity[wanted] += 2.0 ** ((now - ts_ms[0]) / half_life_ms)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _close(row: Any, before: Any, item: Any, pairs: Any, near: Any, n_baskets: Any, root: Any) -> None:
    """Count the basket that ends in `row`; where an item stands in it twice, its last line counts."""
    n, at = 0, row
    while at >= 0:
        n += 1
        at = before[at]
    kept, line = np.empty(n, np.int64), np.empty(n, np.int64)
    n, at, number = 0, row, 0
    while at >= 0:
        known = False
        for a in range(n):
            if kept[a] == item[at]:
                known = True
        if not known:
            kept[n], line[n] = item[at], number
            n += 1
        number += 1
        at = before[at]
    for a in range(n):
        n_baskets[kept[a]] += 1
        root[kept[a]] = 1.0 / np.sqrt(n_baskets[kept[a]])
        for b in range(n):
            if a != b:
                pairs[kept[a], kept[b]] += 1
                near[kept[a], kept[b]] += 1.0 / abs(line[a] - line[b])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _place(scores: Any, inside: Any, wanted: Any, n: Any) -> int:
    """The wanted item's place from 1, 0 beyond n or where nothing speaks for it."""
    own = scores[wanted]
    if own <= 0 or inside[wanted]:
        return 0
    place = 1
    for k in range(len(scores)):
        if not inside[k] and (scores[k] > own or (scores[k] == own and k < wanted)):
            place += 1
            if place > n:
                return 0
    return place

"""What is derived from the counts: shares of popularity, and lists of the most popular items."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from stream.core.statistics.counting import REBASED

__all__ = ["NO_GENERATION", "N_LISTED", "SHARE_FLOOR", "bring_up", "derive", "log_share_of", "relist"]

SHARE_FLOOR: Final = 1e-6
"""Added to a share before its logarithm: the popularity of what nobody touches."""
N_LISTED: Final = 128
"""Items in each popularity list."""
NO_GENERATION: Final = -1
"""Of a row of shares that is as of no view."""
_TOUCHED: Final = -2
"""No generation either, of what is being put in its new place."""


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def log_share_of(weight: Any, total: Any) -> Any:
    """Log of a share; those below a thousandth of the floor are not told from none."""
    log = np.log(SHARE_FLOOR)
    if weight > 0:
        share = weight / total
        if share > 1e-9:
            log = np.log(share + SHARE_FLOOR)
    return np.float32(log)


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def bring_up(item: Any, weight: Any, total: Any, log_share: Any, current: Any, generation: Any) -> None:
    """Make an item's row of `log_share` that of this generation, if it is not."""
    if current[item] != generation:
        for p in range(len(total)):
            log_share[item, p] = log_share_of(weight[item, p], total[p])
        current[item] = generation


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def derive(n_items: Any, weight: Any, total: Any, key: Any, available: Any, log_share: Any, listed: Any) -> None:
    """Make shares and lists anew from all items."""
    n_columns = listed.shape[0]
    for p in range(n_columns):
        listed[p] = -1
    n_used = np.zeros(n_columns, np.int64)
    best = np.zeros(listed.shape, np.float32)
    for i in range(n_items):
        for p in range(n_columns):
            w = weight[i, p]
            log_share[i, p] = log_share_of(w, total[p])
            if w > 0 and available[i]:
                n_used[p] = _insert(i, w, p, n_used[p], best, key, listed)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def relist(
    touched: Any,
    changed: Any,
    n_items: Any,
    weight: Any,
    key: Any,
    available: Any,
    current: Any,
    listed: Any,
) -> None:
    """Bring the lists up to the counts, where items at `touched` grew and nothing else happened.

    The best of all are then among the best so far and what was touched.
    """
    best = np.zeros(listed.shape, np.float32)
    for i in touched:
        current[i] = _TOUCHED
    for p in range(len(changed)):
        if changed[p] == 0:
            continue
        n = 0
        if changed[p] & REBASED:
            listed[p] = -1
            for i in range(n_items):
                if weight[i, p] > 0 and available[i]:
                    n = _insert(i, weight[i, p], p, n, best, key, listed)
            continue
        for place in range(listed.shape[1]):
            i = listed[p, place]
            if i < 0:
                break
            listed[p, place] = -1
            if current[i] != _TOUCHED:
                listed[p, n] = i
                best[p, n] = weight[i, p]
                n += 1
        for i in touched:
            if weight[i, p] > 0 and available[i]:
                n = _insert(i, weight[i, p], p, n, best, key, listed)
    for i in touched:
        current[i] = NO_GENERATION


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _insert(item: Any, w: Any, p: Any, n: Any, best: Any, key: Any, listed: Any) -> Any:
    """Put an item of weight w in its place among the n of list p, if it has one: by weight, then by key. The new n."""
    full = n == listed.shape[1]
    if full and (w < best[p, n - 1] or (w == best[p, n - 1] and key[item] > key[listed[p, n - 1]])):
        return n
    at = n - 1 if full else n
    while at > 0 and (best[p, at - 1] < w or (best[p, at - 1] == w and key[listed[p, at - 1]] > key[item])):
        best[p, at] = best[p, at - 1]
        listed[p, at] = listed[p, at - 1]
        at -= 1
    best[p, at] = w
    listed[p, at] = item
    return n if full else n + 1

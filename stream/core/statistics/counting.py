"""How activity is counted: decayed popularity in its columns, transitions between items in bounded rows."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from stream.core.state import NEVER_MS

__all__ = ["COUNTED", "REBASED", "count", "credit"]

COUNTED: Final = 1
"""Items of a column weigh more than before."""
REBASED: Final = 2
"""All of a column were scaled, and rounded with that."""
_REBASE_HALF_LIVES: Final = 40.0
"""A landmark moves when newer events weigh 2^40 times its own: far from float32's 2^127."""
_NEGLIGIBLE: Final = 1e-30
"""Weights below are zero: denormal numbers would slow every pass over a row."""


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count(
    item: Any,
    ts_ms: Any,
    event_weight: Any,
    continues: Any,
    previous: Any,
    channel_of: Any,
    code_of: Any,
    pair_column: Any,
    first_column: Any,
    half_life_ms: Any,
    landmark_ms: Any,
    weight: Any,
    total: Any,
    changed: Any,
    first_ms: Any,
    pair_of: Any,
    pair_half_life_ms: Any,
    slot_item: Any,
    slot_weight: Any,
    row_sum: Any,
    row_ms: Any,
) -> None:
    """Count N entries of activity, in place; the arrays are those of `ItemStatistics`.

    Args:
        item, ts_ms, event_weight, continues: (N,) of each entry.
        previous: (N, 3) the items before it, the nearest first, -1 for none.
        channel_of: (n_channels,) 1 where only events that continue a session count.
        code_of: (N, n_channels) which of a channel's columns the entry counts in.
        pair_column: (N, n_pairs) the column of each co-visitation channel.
        first_column: (n_channels,) where each channel's columns begin.
        pair_of: (n_pairs,) 0 for "next", 1 for "any", 2 for "back".
        changed: (n_columns,) `COUNTED` and `REBASED` are noted here.
    """
    n_pairs = len(pair_of)
    add = np.zeros(slot_weight.shape[2], np.float32)
    for row in range(len(item)):
        i, t, w = item[row], ts_ms[row], event_weight[row]
        if first_ms[i] == NEVER_MS or t < first_ms[i]:
            first_ms[i] = t
        if w <= 0:
            continue
        for channel in range(len(channel_of)):
            if channel_of[channel] == 1 and not continues[row]:
                continue
            p = first_column[channel] + code_of[row, channel]
            if landmark_ms[p] == NEVER_MS:
                landmark_ms[p] = t
            age = (t - landmark_ms[p]) / half_life_ms[p]
            if age > _REBASE_HALF_LIVES:
                factor = np.float32(2.0**-age)
                for j in range(len(weight)):
                    weight[j, p] *= factor
                    if weight[j, p] < _NEGLIGIBLE:
                        weight[j, p] = 0.0
                total[p] *= 2.0**-age
                landmark_ms[p] = t
                age = 0.0
                changed[p] |= REBASED
            changed[p] |= COUNTED
            grown = w * 2.0**age
            weight[i, p] += np.float32(grown)
            total[p] += grown
        for lag in range(previous.shape[1]):
            before = previous[row, lag]
            if before < 0:
                continue
            # A neighbour that no channel counts takes no slot.
            any_forth, any_back = False, False
            for c in range(n_pairs):
                forth = pair_of[c] == 1 or (pair_of[c] == 0 and lag == 0)
                add[pair_column[row, c]] = w if forth else 0.0
                any_forth = any_forth or forth
            if any_forth:
                credit(before, i, t, add, pair_half_life_ms, slot_item, slot_weight, row_sum, row_ms)
            for c in range(n_pairs):
                add[pair_column[row, c]] = w if pair_of[c] == 2 else 0.0
                any_back = any_back or pair_of[c] == 2
            if any_back:
                credit(i, before, t, add, pair_half_life_ms, slot_item, slot_weight, row_sum, row_ms)
            for c in range(n_pairs):
                add[pair_column[row, c]] = 0.0


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def credit(
    row: Any,
    neighbour: Any,
    t: Any,
    add: Any,
    pair_half_life_ms: Any,
    slot_item: Any,
    slot_weight: Any,
    row_sum: Any,
    row_ms: Any,
) -> None:
    """Add weights to a neighbour of an item's row, the row brought to the event's time first."""
    n_slots, n_pairs = slot_weight.shape[1], slot_weight.shape[2]
    slots = slot_item[row]
    weights = slot_weight[row]
    if row_ms[row] == NEVER_MS:
        row_ms[row] = t
    if t > row_ms[row]:
        factor = np.empty(n_pairs, np.float32)
        for c in range(n_pairs):
            if c > 0 and pair_half_life_ms[c] == pair_half_life_ms[c - 1]:  # columns of one channel lie together
                factor[c] = factor[c - 1]
            else:
                factor[c] = np.float32(2.0 ** (-(t - row_ms[row]) / pair_half_life_ms[c]))
            row_sum[row, c] *= factor[c]
        for s in range(n_slots):
            if slots[s] < 0:
                break
            for c in range(n_pairs):
                weights[s, c] *= factor[c]
                if weights[s, c] < _NEGLIGIBLE:
                    weights[s, c] = 0.0
        row_ms[row] = t
    place, weakest = -1, np.float32(np.inf)
    for s in range(n_slots):
        if slots[s] == neighbour:
            place = s
            break
        if slots[s] < 0:
            place = s
            slots[s] = neighbour
            break
    if place < 0:  # full: the weakest neighbour makes room
        for s in range(n_slots):
            strength = np.float32(0.0)
            for c in range(n_pairs):
                strength += weights[s, c]
            if strength < weakest:
                weakest = strength
                place = s
        slots[place] = neighbour
        for c in range(n_pairs):
            weights[place, c] = 0.0
    for c in range(n_pairs):
        if add[c] > 0:
            late = np.float32(1.0)
            if t < row_ms[row]:
                late = np.float32(2.0 ** (-(row_ms[row] - t) / pair_half_life_ms[c]))
            weights[place, c] += add[c] * late
            row_sum[row, c] += add[c] * late

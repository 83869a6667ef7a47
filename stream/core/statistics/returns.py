"""What users come back to: items of later sessions, by items of earlier ones.

Co-visitation within a session says what stands beside what. Across sessions it says who cares about what: an article
of an hour ago is clicked by those who read about the same team yesterday, though nobody reads both at once.

    one user     a  b  c    |  d         |  e  f              sessions
    credited                   a b c→d      a b c d→e, f      an event, from the last items of all earlier sessions

Rows are bounded and decay as those of co-visitation do, see `stream.core.statistics`, but stand apart from them: what
people come back to is spread more widely than what they go on to, and would crowd it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.activity import N_EARLIER
from stream.core.state import NEVER_MS, States
from stream.core.statistics.counting import credit

__all__ = ["Returns", "earlier_items", "return_columns"]


class Returns:
    """Rows of items that users came back to.

    Args:
        half_life_ms: after which a return counts half, one column each.
        n_slots: neighbours kept of an item.

    Attributes:
        item: (capacity, n_slots) neighbours, -1 for a free slot; used slots come first.
        weight: (capacity, n_slots, W) decayed returns as of row_ms.
        total: (capacity, W) all returns of the row, evicted ones included, as of row_ms.
        row_ms: (capacity,) time that the row's weights are valued at.
    """

    def __init__(self, half_life_ms: tuple[int, ...], n_slots: int) -> None:
        self.half_life_ms = np.array(half_life_ms, np.float64)
        n_columns = len(half_life_ms)
        self.item = np.zeros((0, n_slots), np.int32)
        self.weight = np.zeros((0, n_slots, n_columns), np.float32)
        self.total = np.zeros((0, n_columns), np.float32)
        self.row_ms = np.zeros(0, np.int64)

    def __bool__(self) -> bool:
        """Whether anything is counted."""
        return len(self.half_life_ms) > 0

    @property
    def n_bytes_per_item(self) -> int:
        """Memory that one item takes."""
        return sum(array[:1].nbytes for array in (self.item, self.weight, self.total, self.row_ms)) if self else 0

    def grow(self, capacity: int) -> None:
        """Make room for so many items, if anything is counted."""
        n_old = len(self.row_ms)
        if not self or capacity <= n_old:
            return
        fills: dict[str, int] = {"item": -1, "weight": 0, "total": 0, "row_ms": NEVER_MS}
        for name, fill in fills.items():
            column = getattr(self, name)
            wider = np.full((capacity, *column.shape[1:]), fill, column.dtype)
            wider[:n_old] = column
            setattr(self, name, wider)

    def count(
        self,
        item: NDArray[np.int32],
        ts_ms: NDArray[np.int64],
        weight: NDArray[np.float32],
        earlier: NDArray[np.int32],
    ) -> None:
        """Credit N events to the items of earlier sessions, all as catalogue numbers; earlier (N, 8), -1 for none."""
        _count(item, ts_ms, weight, earlier, self.half_life_ms, self.item, self.weight, self.total, self.row_ms)

    def snapshot(self, n_items: int) -> dict[str, NDArray[Any]]:
        """The rows of the first `n_items`, by name; nothing where nothing is counted."""
        names = ("item", "weight", "total", "row_ms") if self else ()
        return {f"returns/{name}": getattr(self, name)[:n_items].copy() for name in names}

    def restore(self, arrays: Mapping[str, NDArray[Any]], n_items: int) -> None:
        """Take over what `snapshot` gave; there must be room.

        Raises:
            ValueError: the arrays do not fit, or name an item that there is not.
            KeyError: one is missing.
        """
        for name in ("item", "weight", "total", "row_ms") if self else ():
            given, column = arrays[f"returns/{name}"], getattr(self, name)
            if given.shape != (n_items, *column.shape[1:]) or given.dtype != column.dtype:
                raise ValueError(f"returns/{name} of the snapshot is {given.dtype} of shape {given.shape}")
            column[:n_items] = given
        slots = self.item[:n_items]
        if slots.size > 0 and not -1 <= slots.min() <= slots.max() < n_items:
            raise ValueError(f"what users came back to is none of the snapshot's {n_items} items")


def earlier_items(
    after: States, ts_ms: NDArray[np.int64], session_gap_ms: int, weights: NDArray[np.float32]
) -> NDArray[np.uint64]:
    """Keys (R, N_EARLIER) of the last distinct items of sessions before the one at `ts_ms`, newest first; 0 for none.

    Args:
        after: at least R records, in the form that `stream.core.state.compiled_form` gives.
        ts_ms: (R,) a time of the session: that of one of its events, or any after the newest.
        session_gap_ms: silence that ends a session.
        weights: (256,) weight by kind; kinds at or below 0 lead to no item.
    """
    keys = np.zeros((len(ts_ms), N_EARLIER), np.uint64)
    _earlier(after["ring_item"], after["ring_ms"], after["ring_kind"], np.ascontiguousarray(ts_ms),
             session_gap_ms, weights, keys)  # fmt: skip
    return keys


def return_columns(
    returns: Returns,
    earlier: NDArray[np.int32],
    as_of_ms: NDArray[np.int64],
    candidates: NDArray[np.int64],
    shrink: np.float32,
    place: NDArray[np.int32],
    features: NDArray[np.float32],
    first: int,
) -> None:
    """Fill the columns of `features` (R, C, F) from `first` on; see `stream.core.features.candidate_feature_names`.

    Args:
        earlier: (R, N_EARLIER) catalogue numbers, -1 for none.
        as_of_ms: (R,) read as of then.
        candidates: (R, C) catalogue numbers, -1 for padding; distinct in each row.
        shrink: returns added to a row's total before a weight is divided by it.
        place: working memory, one entry per item, all -1.
    """
    _fill(
        earlier, as_of_ms, candidates, shrink, returns.half_life_ms, returns.item, returns.weight, returns.total,
        returns.row_ms, place, features, first,
    )  # fmt: skip


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _earlier(
    ring_item: Any, ring_ms: Any, ring_kind: Any, ts_ms: Any, session_gap_ms: Any, weights: Any, keys: Any
) -> None:
    for b in range(len(ts_ms)):
        at_ms, found, over = ts_ms[b], 0, False
        for i in range(ring_item.shape[1] - 1, -1, -1):
            if ring_ms[b, i] == NEVER_MS or found == keys.shape[1]:
                break
            if ring_ms[b, i] > ts_ms[b]:  # later than a late event
                continue
            over = over or at_ms - ring_ms[b, i] > session_gap_ms
            at_ms = ring_ms[b, i]
            key = ring_item[b, i]
            if not over or key == 0 or weights[ring_kind[b, i]] <= 0:
                continue
            new = True
            for j in range(found):
                new = new and keys[b, j] != key
            if new:
                keys[b, found] = key
                found += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(
    item: Any,
    ts_ms: Any,
    event_weight: Any,
    earlier: Any,
    half_life_ms: Any,
    slot_item: Any,
    slot_weight: Any,
    total: Any,
    row_ms: Any,
) -> None:
    add = np.empty(slot_weight.shape[2], np.float32)
    for e in range(len(item)):
        if event_weight[e] <= 0:
            continue
        add[:] = event_weight[e]
        for j in range(earlier.shape[1]):
            if earlier[e, j] >= 0 and earlier[e, j] != item[e]:
                credit(earlier[e, j], item[e], ts_ms[e], add, half_life_ms, slot_item, slot_weight, total, row_ms)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fill(
    earlier: Any,
    as_of_ms: Any,
    candidates: Any,
    shrink: Any,
    half_life_ms: Any,
    slot_item: Any,
    slot_weight: Any,
    total: Any,
    row_ms: Any,
    place: Any,
    features: Any,
    first: Any,
) -> None:
    n_columns = len(half_life_ms)
    n_candidates = candidates.shape[1]
    factor = np.empty(n_columns, np.float32)
    ratio = np.zeros((n_candidates, n_columns), np.float32)
    floor = np.float32(np.log(np.float32(1e-3)))
    for b in range(len(candidates)):
        n = 0
        while n < n_candidates and candidates[b, n] >= 0:
            place[candidates[b, n]] = n
            n += 1
        ratio[:n] = 0.0
        for j in range(earlier.shape[1]):
            row = earlier[b, j]
            if row < 0 or row_ms[row] == NEVER_MS:
                continue
            for c in range(n_columns):
                decay = np.float32(2.0 ** (-max(as_of_ms[b] - row_ms[row], 0) / half_life_ms[c]))
                factor[c] = decay / (total[row, c] * decay + shrink)
            for s in range(slot_item.shape[1]):
                if slot_item[row, s] < 0:
                    break
                at = place[slot_item[row, s]]
                if at < 0:
                    continue
                for c in range(n_columns):
                    ratio[at, c] += slot_weight[row, s, c] * factor[c]
        for i in range(n):
            place[candidates[b, i]] = -1
            for c in range(n_columns):
                r = ratio[i, c]
                features[b, i, first + c] = floor if r == 0.0 else np.log(r + np.float32(1e-3))
        for i in range(n, n_candidates):
            for c in range(n_columns):
                features[b, i, first + c] = 0.0

"""From scored items to recommendations: filters, order, ties, and what fills up when a model has too little to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.candidates import (
    FROM_EARLIER,
    FROM_LAST,
    FROM_NEWEST,
    FROM_OWN,
    FROM_SEQUENCE,
    FROM_SESSION,
    Filters,
    Scratch,
    first_list_bit,
    mark_blocked,
    unmark_blocked,
)
from stream.core.features import FeatureSpec
from stream.core.state import States, compiled_form
from stream.core.statistics import ItemStatistics, log_share_of

__all__ = ["FILLED", "Ranked", "Sources", "rank", "reasons_of", "sources_of", "with_strongest"]

FILLED: Final = 1 << 15
"""Source bit: the model had nothing more to say, the item is popular."""

PART_SHIFT: Final = 16
"""From this bit on: 1 + the number of the part that carries most of the score, 0 where the model has none."""

Sources: TypeAlias = NDArray[np.uint16] | NDArray[np.uint32]
"""Source bits; the wider form has parts in its upper half."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Recommendations for R events, best first.

    Attributes:
        items: (R, n) catalogue numbers, -1 beyond the last.
        scores: (R, n).
        sources: (R, n) source bits, see `reasons_of`.
        propensity: (R, n) how likely each item was at its place, given what stands above; None where nothing is left
            to chance. Lists that were drawn need not have falling scores.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    sources: Sources
    propensity: NDArray[np.float64] | None = None

    def of(self, rows: NDArray[np.bool_]) -> Ranked:
        """Some of the recommendations."""
        likely = None if self.propensity is None else self.propensity[rows]
        return Ranked(self.items[rows], self.scores[rows], self.sources[rows], likely)


def rank(
    spec: FeatureSpec,
    after: States,
    items: NDArray[np.int32],
    scores: NDArray[np.float32],
    sources: Sources,
    view: ItemStatistics,
    filters: Filters,
    n: NDArray[np.int64],
    scratch: Scratch,
) -> Ranked:
    """The best n[r] allowed items of each row; equal scores are ordered by item key, so ties are the same everywhere.

    Args:
        after: (R,) the user's record.
        items: (R, k) catalogue numbers in any order, -1 for none; a repeated item counts once, with its best score.
        scores: (R, k).
        sources: (R, k) source bits of `items`, or (R, 0).
        n: (R,) how many are asked for.

    Where fewer than n[r] are left, the broadest popularity channel fills up (or the request's `only`, in its order),
    scored no higher than what precedes.
    """
    width = int(n.max(initial=0))
    ranked = Ranked(
        np.full((len(items), width), -1, np.int32),
        np.zeros((len(items), width), np.float32),
        np.zeros((len(items), width), sources.dtype),
    )
    catalogue = view.catalogue
    kernel = spec._kernel
    column = spec.statistics.first_column[spec.statistics.broadest]
    after = compiled_form(after)
    _rank(
        items,
        scores,
        sources if sources.shape[1] > 0 else np.zeros(items.shape, np.uint16),
        n,
        after["ring_ms"],
        after["ring_kind"],
        after["session_start_ms"],
        kernel.weights,
        catalogue.index.lookup(after["ring_item"]),
        catalogue.key,
        catalogue.available,
        view.listed[column],
        view.weight[:, column],
        view.total[column],
        filters.seen,
        filters.exclude,
        filters.exclude_start,
        filters.only,
        filters.only_start,
        filters.has_only,
        scratch.sized(catalogue.capacity),
        ranked.items,
        ranked.scores,
        ranked.sources,
    )
    return ranked


def reasons_of(spec: FeatureSpec, sources: int, *, from_candidates: bool, parts: Sequence[str] = ()) -> tuple[str, ...]:
    """What a recommendation's source bits say, strongest evidence first, at most three and a part.

    `own` the user had it before; `sequence` it is among the sequence model's best; `co-visited:last`,
    `co-visited:session`, `co-visited:earlier` others went on to it from the user's last item, from the session's items,
    from earlier sessions; `popular:CHANNEL`; `new`; `model` for items of a model without candidates; `fill:CHANNEL`
    where the model had nothing more to say. A model of named `parts` adds the one that carries most of the score, such
    as `scale:minutes`, in place of `model`.
    """
    if sources & FILLED:
        return (f"fill:{spec.statistics.popularity[spec.statistics.broadest].name}",)
    strongest = (sources >> PART_SHIFT) - 1
    part = (parts[strongest],) if 0 <= strongest < len(parts) else ()
    if not from_candidates:
        return part or ("model",)
    reasons = [
        name
        for bit, name in (
            (FROM_OWN, "own"),
            (FROM_SEQUENCE, "sequence"),
            (FROM_LAST, "co-visited:last"),
            (FROM_SESSION, "co-visited:session"),
            (FROM_EARLIER, "co-visited:earlier"),
        )
        if sources & bit
    ]
    reasons += [
        f"popular:{name}"
        for number, (name, _) in enumerate(spec.candidates.lists)
        if sources & (1 << (first_list_bit + number))
    ]
    if sources & FROM_NEWEST:
        reasons.append("new")
    return (*reasons[:3], *part) or ("model",)


def sources_of(
    items: NDArray[np.int32],
    candidates: NDArray[np.int64],
    sources: NDArray[np.uint16],
    scratch: Scratch,
    n_items: int,
) -> NDArray[np.uint16]:
    """(R, k) source bits of a model's `items` (R, k), which come in its own order, 0 for what was no candidate.

    Args:
        candidates, sources: (R, C) what was scored and its source bits.
        n_items: the catalogue's capacity.
    """
    found = np.zeros(items.shape, np.uint16)
    _sources_of(items, candidates, sources, scratch.sized(n_items), n_items, found)
    return found


def with_strongest(sources: Sources, parts: NDArray[np.float32]) -> NDArray[np.uint32]:
    """(R, k) source bits with the largest of each item's `parts` (R, k, G) in them, the first of equal ones.

    Args:
        sources: (R, k), or (R, 0) for none.
    """
    found = np.zeros(parts.shape[:2], np.uint32)
    _strongest(parts, found)
    if sources.shape[1] > 0:
        found |= sources
    return found


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _strongest(parts: Any, found: Any) -> None:
    for b in range(parts.shape[0]):
        for i in range(parts.shape[1]):
            best = 0
            for g in range(1, parts.shape[2]):
                if parts[b, i, g] > parts[b, i, best]:
                    best = g
            found[b, i] = np.uint32((best + 1) << PART_SHIFT)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sources_of(items: Any, candidates: Any, sources: Any, place: Any, n_items: Any, found: Any) -> None:
    for b in range(len(items)):
        for c in range(candidates.shape[1]):
            if candidates[b, c] >= 0:
                place[candidates[b, c]] = c
        for i in range(items.shape[1]):
            item = items[b, i]
            if 0 <= item < n_items and place[item] >= 0:
                found[b, i] = sources[b, place[item]]
        for c in range(candidates.shape[1]):
            if candidates[b, c] >= 0:
                place[candidates[b, c]] = -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _rank(
    items: Any,
    scores: Any,
    sources: Any,
    n: Any,
    ring_ms: Any,
    ring_kind: Any,
    session_start_ms: Any,
    weights: Any,
    numbers: Any,
    item_key: Any,
    available: Any,
    popular: Any,
    weight: Any,
    total: Any,
    seen: Any,
    exclude: Any,
    exclude_start: Any,
    only: Any,
    only_start: Any,
    has_only: Any,
    place: Any,
    out_items: Any,
    out_scores: Any,
    out_sources: Any,
) -> None:
    # place: -2 blocked, -1 free, -3 free and among `only`, 0 already ranked
    for b in range(len(items)):
        mark_blocked(b, numbers[b], ring_ms, ring_kind, session_start_ms, weights, seen, exclude, exclude_start, place)
        free = -1
        if has_only[b]:
            free = -3
            for i in range(only_start[b], only_start[b + 1]):
                if only[i] >= 0 and place[only[i]] == -1:
                    place[only[i]] = -3
        found = 0
        for i in range(items.shape[1]):
            item = items[b, i]
            # A model's items are not trusted to be candidates: what is no item would be written outside the arrays.
            if item < 0 or item >= len(item_key) or not available[item] or np.isnan(scores[b, i]):
                continue
            score, key = scores[b, i], item_key[item]
            if place[item] == 0:  # repeated
                at = 0
                while out_items[b, at] != item:
                    at += 1
                if out_scores[b, at] >= score:
                    continue
                for j in range(at, found - 1):
                    out_items[b, j] = out_items[b, j + 1]
                    out_scores[b, j] = out_scores[b, j + 1]
                    out_sources[b, j] = out_sources[b, j + 1]
                found -= 1
                place[item] = free
            if place[item] != free:
                continue
            at = found
            while at > 0 and (
                out_scores[b, at - 1] < score
                or (out_scores[b, at - 1] == score and item_key[out_items[b, at - 1]] > key)
            ):
                at -= 1
            if at >= n[b]:
                continue
            if found == n[b]:
                place[out_items[b, found - 1]] = free
                found -= 1
            for j in range(found, at, -1):
                out_items[b, j] = out_items[b, j - 1]
                out_scores[b, j] = out_scores[b, j - 1]
                out_sources[b, j] = out_sources[b, j - 1]
            out_items[b, at] = item
            out_scores[b, at] = score
            out_sources[b, at] = sources[b, i]
            place[item] = 0
            found += 1
        n_fill = only_start[b + 1] - only_start[b] if has_only[b] else len(popular)
        for i in range(n_fill):
            if found >= n[b]:
                break
            item = only[only_start[b] + i] if has_only[b] else popular[i]
            if item < 0:
                if has_only[b]:
                    continue
                break
            if place[item] != free or not available[item]:
                continue
            score = log_share_of(weight[item], total)
            if found > 0 and out_scores[b, found - 1] < score:
                score = out_scores[b, found - 1]
            out_items[b, found] = item
            out_scores[b, found] = score
            out_sources[b, found] = FILLED
            place[item] = 0
            found += 1
        for i in range(found):
            place[out_items[b, i]] = -1
        for i in range(only_start[b], only_start[b + 1]):
            if only[i] >= 0:
                place[only[i]] = -1
        unmark_blocked(b, numbers[b], exclude, exclude_start, place)

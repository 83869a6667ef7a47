"""Candidates and what is known of each: one pass over an event's sources yields both.

A candidate comes from co-visitation of the user's last items, from popularity lists, from the newest items, from the
user's own past, or from a sequence model's best. The pass that finds it in a co-visitation row has its weight in hand,
so features are filled in at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.catalogue import find_key
from stream.core.statistics import N_LISTED, StatisticsSpec, bring_up

__all__ = [
    "FROM_EARLIER",
    "FROM_LAST",
    "FROM_NEWEST",
    "FROM_OWN",
    "FROM_SEQUENCE",
    "FROM_SESSION",
    "SEEN_POLICIES",
    "CandidateSpec",
    "Filters",
    "Scratch",
    "first_list_bit",
]

FROM_LAST: Final = 1
"""Source bit: people went on to it from the user's last item."""
FROM_SESSION: Final = 2
"""Source bit: … from another of the session's last items."""
FROM_EARLIER: Final = 4
"""Source bit: … from an item of an earlier session."""
FROM_OWN: Final = 8
"""Source bit: the user had it before."""
FROM_NEWEST: Final = 16
"""Source bit: it has just been published."""
first_list_bit: Final = 5
"""Bit number of the first popularity list; the lists follow in the order of the spec."""
MAX_LISTS: Final = 9
FROM_SEQUENCE: Final = 1 << (first_list_bit + MAX_LISTS)
"""Source bit: it is among the sequence model's best."""

SEEN_POLICIES: Final = ("none", "session", "history")
"""What of the user's past is not recommended again: nothing, the current session, or all that the ring remembers."""


@dataclass(frozen=True, slots=True)
class CandidateSpec:
    """Where candidates come from, and how many there are.

    Attributes:
        n: candidates per event; the strongest by co-visitation are kept beside those of lists.
        n_last: items of the session whose co-visitation rows are read, at most 3.
        n_earlier: items of earlier sessions whose rows are read.
        lists: (popularity channel's name, how many of its list).
        n_newest: of the items published last.
        own: whether the user's own past items are candidates, where the seen policy leaves any.
        n_retrieved: of the sequence model's best, where a bundle has one.
    """

    n: int = 128
    n_last: int = 3
    n_earlier: int = 3
    lists: tuple[tuple[str, int], ...] = (("continuing:30m", 50),)
    n_newest: int = 0
    own: bool = True
    n_retrieved: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.n_retrieved <= self.n:
            raise ValueError(f"of {self.n} candidates, {self.n_retrieved} cannot be a sequence model's")
        if not 1 <= self.n <= 4096:
            raise ValueError(f"the number of candidates must be between 1 and 4096, not {self.n}")
        if not (1 <= self.n_last <= 3 and 0 <= self.n_earlier <= 16 and 0 <= self.n_newest <= N_LISTED):
            raise ValueError("n_last must be 1 to 3, n_earlier 0 to 16, n_newest 0 to 128")
        if len(self.lists) > MAX_LISTS:
            raise ValueError(f"at most {MAX_LISTS} popularity lists are possible, not {len(self.lists)}")
        for name, n in self.lists:
            if not 1 <= n <= N_LISTED:
                raise ValueError(f"{name}: a list gives 1 to {N_LISTED} items, not {n}")

    def check(self, statistics: StatisticsSpec) -> None:
        """Raise ValueError where a list names no popularity channel."""
        known = [channel.name for channel in statistics.popularity]
        for name, _ in self.lists:
            if name not in known:
                raise ValueError(f"no popularity channel is called {name!r}; there are {', '.join(known)}")


@dataclass(frozen=True, slots=True, eq=False)
class Filters:
    """What may be recommended for each event of a batch, as catalogue numbers.

    Attributes:
        seen: index into SEEN_POLICIES.
        exclude, exclude_start: event b excludes exclude[exclude_start[b]:exclude_start[b + 1]].
        only, only_start, has_only: the same for the items that alone may be recommended, where has_only[b].
    """

    seen: int
    exclude: NDArray[np.int32]
    exclude_start: NDArray[np.int64]
    only: NDArray[np.int32]
    only_start: NDArray[np.int64]
    has_only: NDArray[np.bool_]


class Scratch:
    """Working memory of the kernels, one entry per item: kept between calls, as clearing it costs more than using it.

    `place` is all -1 between calls.
    """

    __slots__ = ("place",)

    def __init__(self) -> None:
        self.place = np.full(0, -1, np.int32)

    def sized(self, n_items: int) -> NDArray[np.int32]:
        """(>= n_items,) int32, all -1."""
        if len(self.place) < n_items:
            self.place = np.full(n_items, -1, np.int32)
        return self.place


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def mark_blocked(
    b: Any,
    numbers: Any,
    ring_ms: Any,
    ring_kind: Any,
    session_start_ms: Any,
    weights: Any,
    seen: Any,
    exclude: Any,
    exclude_start: Any,
    place: Any,
) -> None:
    """Set place[item] = -2 for what event b must not get: seen items by policy, items last disliked, excluded ones."""
    n_ring = len(numbers)
    for i in range(n_ring):
        item = numbers[i]
        if item < 0:
            continue
        block = seen == 2 or (seen == 1 and ring_ms[b, i] >= session_start_ms[b]) or weights[ring_kind[b, i]] < 0
        # Later events follow, so a like after a dislike lets the item in again.
        place[item] = -2 if block else -1
    for i in range(exclude_start[b], exclude_start[b + 1]):
        if exclude[i] >= 0:
            place[exclude[i]] = -2


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def unmark_blocked(b: Any, numbers: Any, exclude: Any, exclude_start: Any, place: Any) -> None:
    """Undo `mark_blocked`."""
    for i in range(len(numbers)):
        if numbers[i] >= 0:
            place[numbers[i]] = -1
    for i in range(exclude_start[b], exclude_start[b + 1]):
        if exclude[i] >= 0:
            place[exclude[i]] = -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def keep_strongest(strength: Any, key: Any, chosen: Any, n: Any) -> None:
    """Reorder `chosen` so that its first n entries index the strongest, ties by the smaller key (quickselect)."""
    low, high = 0, len(chosen) - 1
    while low < high:
        pivot = chosen[(low + high) // 2]
        s, k = strength[pivot], key[pivot]
        i, j = low, high
        while i <= j:
            while strength[chosen[i]] > s or (strength[chosen[i]] == s and key[chosen[i]] < k):
                i += 1
            while strength[chosen[j]] < s or (strength[chosen[j]] == s and key[chosen[j]] > k):
                j -= 1
            if i <= j:
                chosen[i], chosen[j] = chosen[j], chosen[i]
                i += 1
                j -= 1
        if n - 1 <= j:
            high = j
        elif n - 1 >= i:
            low = i
        else:
            return


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def assemble(
    as_of_ms: Any,
    codes: Any,
    ring_item: Any,
    ring_ms: Any,
    ring_kind: Any,
    session_start_ms: Any,
    weights: Any,
    # item statistics
    table_key: Any,
    table_number: Any,
    item_key: Any,
    available: Any,
    category: Any,
    published_ms: Any,
    first_ms: Any,
    weight: Any,
    total: Any,
    log_share: Any,
    current: Any,
    generation: Any,
    listed: Any,
    newest: Any,
    slot_item: Any,
    slot_weight: Any,
    row_sum: Any,
    row_ms: Any,
    pair_half_life_ms: Any,
    any_pair: Any,
    # specification
    channel_column: Any,
    channel_field: Any,
    pair_column: Any,
    pair_field: Any,
    list_channel: Any,
    list_n: Any,
    n_last: Any,
    n_earlier: Any,
    n_newest: Any,
    own: Any,
    scale_ms: Any,
    shrink: Any,
    # filters
    seen: Any,
    exclude: Any,
    exclude_start: Any,
    only: Any,
    only_start: Any,
    has_only: Any,
    # a sequence model's best
    retrieved: Any,
    place: Any,
    # results
    candidates: Any,
    sources: Any,
    features: Any,
    out_weight: Any,
) -> None:
    """Fill candidates (B, C), sources (B, C), features (B, C, F) and out_weight (B,): see `stream.core.features`."""
    n_events, n_candidates = candidates.shape
    n_ring, n_slots, n_pairs = ring_item.shape[1], slot_item.shape[1], len(pair_column)
    n_channels, n_scales = len(channel_column), len(scale_ms)
    n_ratios = n_last * n_pairs + 1
    n_longest_only = 0
    for b in range(n_events):
        n_longest_only = max(n_longest_only, only_start[b + 1] - only_start[b])
    room = listed.shape[1] * len(list_channel) + n_newest + n_ring + n_longest_only + (n_last + n_earlier) * n_slots
    room += retrieved.shape[1]
    item_of = np.empty(room, np.int32)
    source_of = np.empty(room, np.int64)
    ratio = np.empty((room, n_ratios), np.float32)
    strength = np.empty(room, np.float32)
    key_of = np.empty(room, np.uint64)
    numbers = np.empty(n_ring, np.int32)
    last = np.empty(n_last, np.int32)
    earlier = np.empty(max(n_earlier, 1), np.int32)
    columns = np.empty(n_channels, np.int64)
    pairs = np.empty(n_pairs, np.int64)
    decay = np.empty(n_pairs, np.float32)
    shrunk = np.empty(n_pairs, np.float32)
    n_own_of = np.zeros(room, np.int64)
    own_ms_of = np.empty(room, np.int64)
    affinity = np.zeros((n_ring, n_scales), np.float32)
    affinity_of = np.empty(n_ring, np.int32)
    affinity_sum = np.empty(n_scales, np.float32)
    ratio_floor = np.float32(np.log(1e-3))
    affinity_floor = np.float32(np.log(1e-2))

    for b in range(n_events):
        now = as_of_ms[b]
        n_found_last, n_found_earlier = 0, 0
        for i in range(n_ring - 1, -1, -1):
            number = np.int32(-1)
            if ring_item[b, i] != 0:
                number = find_key(table_key, table_number, ring_item[b, i])
            numbers[i] = number
            if number < 0 or weights[ring_kind[b, i]] <= 0:
                continue
            if ring_ms[b, i] >= session_start_ms[b]:
                new = n_found_last < n_last
                for j in range(n_found_last):
                    new = new and last[j] != number
                if new:
                    last[n_found_last] = number
                    n_found_last += 1
            elif n_found_earlier < n_earlier:
                new = True
                for j in range(n_found_last):
                    new = new and last[j] != number
                for j in range(n_found_earlier):
                    new = new and earlier[j] != number
                if new:
                    earlier[n_found_earlier] = number
                    n_found_earlier += 1
        for c in range(n_channels):
            columns[c] = channel_column[c]
            if channel_field[c] >= 0:
                columns[c] += codes[b, channel_field[c]]
        for c in range(n_pairs):
            pairs[c] = pair_column[c]
            if pair_field[c] >= 0:
                pairs[c] += codes[b, pair_field[c]]
        mark_blocked(b, numbers, ring_ms, ring_kind, session_start_ms, weights, seen, exclude, exclude_start, place)

        n_found = 0
        if has_only[b]:
            for i in range(only_start[b], only_start[b + 1]):
                item = only[i]
                if item >= 0 and place[item] == -1 and available[item]:
                    place[item] = n_found
                    item_of[n_found] = item
                    source_of[n_found] = 0
                    n_found += 1
        else:
            for k in range(len(list_channel)):
                p = columns[list_channel[k]]
                for i in range(list_n[k]):
                    item = listed[p, i]
                    if item < 0:
                        break
                    if place[item] >= 0:
                        source_of[place[item]] |= 1 << (first_list_bit + k)
                    elif place[item] == -1 and available[item]:
                        place[item] = n_found
                        item_of[n_found] = item
                        source_of[n_found] = 1 << (first_list_bit + k)
                        n_found += 1
            for i in range(n_newest):
                item = newest[i]
                if item < 0:
                    break
                if place[item] >= 0:
                    source_of[place[item]] |= FROM_NEWEST
                elif place[item] == -1 and available[item]:
                    place[item] = n_found
                    item_of[n_found] = item
                    source_of[n_found] = FROM_NEWEST
                    n_found += 1
            if own:
                for i in range(n_ring - 1, -1, -1):
                    item = numbers[i]
                    if item < 0 or weights[ring_kind[b, i]] <= 0:
                        continue
                    if place[item] >= 0:
                        source_of[place[item]] |= FROM_OWN
                    elif place[item] == -1 and available[item]:
                        place[item] = n_found
                        item_of[n_found] = item
                        source_of[n_found] = FROM_OWN
                        n_found += 1
            for i in range(retrieved.shape[1]):
                item = retrieved[b, i]
                if item < 0:
                    continue
                if place[item] >= 0:
                    source_of[place[item]] |= FROM_SEQUENCE
                elif place[item] == -1 and available[item]:
                    place[item] = n_found
                    item_of[n_found] = item
                    source_of[n_found] = FROM_SEQUENCE
                    n_found += 1
        # What the lists hold is certain of a place, what co-visitation adds competes for the rest.
        n_certain = 0 if has_only[b] else min(n_found, n_candidates)
        for i in range(n_found):
            ratio[i] = 0.0
            strength[i] = 0.0
        out_weight[b] = 0.0
        for position in range(n_found_last + n_found_earlier):
            is_last = position < n_found_last
            row = last[position] if is_last else earlier[position - n_found_last]
            if row_ms[row] < 0:
                continue
            for c in range(n_pairs):
                decay[c] = 1.0
                if now > row_ms[row]:
                    decay[c] = np.float32(2.0 ** (-(now - row_ms[row]) / pair_half_life_ms[pairs[c]]))
            if position == 0 and is_last:
                out_weight[b] = row_sum[row, pairs[any_pair]] * decay[any_pair]
            bit = FROM_EARLIER
            if is_last:
                bit = FROM_LAST if position == 0 else FROM_SESSION
            lean = np.float32(1.0 / (1 + position)) if is_last else np.float32(0.25)
            for c in range(n_pairs):
                shrunk[c] = row_sum[row, pairs[c]] * decay[c] + shrink
            neighbours, transitions = slot_item[row], slot_weight[row]
            for s in range(n_slots):
                item = neighbours[s]
                if item < 0:
                    break
                at = place[item]
                if at == -2:
                    continue
                if at == -1:
                    if has_only[b] or not available[item]:
                        continue
                    at = n_found
                    place[item] = at
                    item_of[at] = item
                    source_of[at] = 0
                    ratio[at] = 0.0
                    strength[at] = 0.0
                    n_found += 1
                source_of[at] |= bit
                if is_last:
                    for c in range(n_pairs):
                        r = transitions[s, pairs[c]] * decay[c] / shrunk[c]
                        ratio[at, position * n_pairs + c] = r
                        strength[at] += lean * r
                else:
                    r = transitions[s, pairs[any_pair]] * decay[any_pair] / shrunk[any_pair]
                    ratio[at, n_ratios - 1] += r
                    strength[at] += lean * r

        chosen = np.arange(n_found)
        if n_found > n_candidates:
            for i in range(n_found):
                key_of[i] = item_key[item_of[i]]
            if has_only[b]:
                for i in range(n_found):  # among equals the more popular ones
                    bring_up(item_of[i], weight, total, log_share, current, generation)
                    strength[i] += 1e-6 * (log_share[item_of[i], columns[0]] + 14.0)
            keep_strongest(strength, key_of, chosen[n_certain:], n_candidates - n_certain)

        # The user's taste by category: share of the recent events at each scale. Nothing to compute without categories.
        n_categories = 0
        affinity_sum[:] = 1e-6
        any_category = False
        for i in range(n_ring):
            if numbers[i] < 0 or weights[ring_kind[b, i]] <= 0:
                continue
            any_category = any_category or category[numbers[i]] >= 0
            at = place[numbers[i]]
            if at >= 0:
                n_own_of[at] += 1
                own_ms_of[at] = ring_ms[b, i]
        for i in range(n_ring if any_category else 0):
            if numbers[i] < 0 or weights[ring_kind[b, i]] <= 0:
                continue
            group = category[numbers[i]]
            at = -1
            if group >= 0:
                for j in range(n_categories):
                    if affinity_of[j] == group:
                        at = j
                if at < 0:
                    at = n_categories
                    affinity_of[at] = group
                    affinity[at] = 0.0
                    n_categories += 1
            for scale in range(n_scales):
                w = weights[ring_kind[b, i]] * np.float32(2.0 ** (-max(now - ring_ms[b, i], 0) / scale_ms[scale]))
                affinity_sum[scale] += w
                if at >= 0:
                    affinity[at, scale] += w
        for at in range(n_categories):
            for scale in range(n_scales):
                affinity[at, scale] = np.log(affinity[at, scale] / affinity_sum[scale] + np.float32(1e-2))

        for c in range(n_candidates):
            if c >= n_found:
                candidates[b, c] = -1
                sources[b, c] = 0
                features[b, c] = 0.0
                continue
            found = chosen[c]
            item = item_of[found]
            candidates[b, c] = item
            sources[b, c] = source_of[found]
            bring_up(item, weight, total, log_share, current, generation)
            row_features, ratios, popularity = features[b, c], ratio[found], log_share[item]
            for channel in range(n_channels):
                row_features[channel] = popularity[columns[channel]]
            f = n_channels
            near = np.float32(0.0)
            for j in range(n_ratios):
                r = ratios[j]
                row_features[f + j] = ratio_floor if r == 0.0 else np.log(r + np.float32(1e-3))
            for j in range(any_pair, n_ratios - 1, n_pairs):
                near += ratios[j]
            f += n_ratios
            row_features[f] = ratio_floor if near == 0.0 else np.log(near + np.float32(1e-3))
            n_own = n_own_of[found]
            if n_own > 0:
                row_features[f + 1] = 1.0
                row_features[f + 2] = np.log1p(np.float32(n_own))
                row_features[f + 3] = np.log1p(np.float32(max(now - own_ms_of[found], 0) / 3.6e6))
            else:
                row_features[f + 1] = 0.0
                row_features[f + 2] = 0.0
                row_features[f + 3] = 0.0
            f += 4
            at = -1
            if category[item] >= 0:
                for j in range(n_categories):
                    if affinity_of[j] == category[item]:
                        at = j
                        break
            for scale in range(n_scales):
                row_features[f + scale] = affinity[at, scale] if at >= 0 else affinity_floor
            f += n_scales
            born_ms = published_ms[item] if published_ms[item] >= 0 else first_ms[item]
            age_h = max(now - born_ms, 0) / 3.6e6 if born_ms >= 0 else 0.0
            row_features[f] = np.log1p(np.float32(age_h))
        for i in range(n_ring):
            if numbers[i] >= 0 and place[numbers[i]] >= 0:
                n_own_of[place[numbers[i]]] = 0
        for i in range(n_found):
            place[item_of[i]] = -1
        unmark_blocked(b, numbers, exclude, exclude_start, place)

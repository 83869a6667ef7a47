"""Activity as plain entries, and what statistics should say of it, recomputed in float64 from all entries."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from stream.core.activity import ActivityBatch, checked
from stream.core.events import item_keys, segment_keys
from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS
from stream.core.statistics import (
    CoVisitationChannel,
    ItemStatistics,
    PopularityChannel,
    SegmentField,
    StatisticsSpec,
)
from tests.core.histories import ITEMS, T0_MS

SPEC = StatisticsSpec(
    popularity=(
        PopularityChannel(5 * MINUTE_MS),
        PopularityChannel(DAY_MS),
        PopularityChannel(HOUR_MS, "continuing"),
        PopularityChannel(HOUR_MS, "all", "device"),
        PopularityChannel(30 * MINUTE_MS, "previous", "page"),
    ),
    co_visitation=(
        CoVisitationChannel(DAY_MS, "next"),
        CoVisitationChannel(HOUR_MS, "any"),
        CoVisitationChannel(DAY_MS, "any"),
        CoVisitationChannel(DAY_MS, "back"),
        CoVisitationChannel(HOUR_MS, "next", "device"),
    ),
    segments=(SegmentField("device", ("phone", "desk")), SegmentField("page", ("home",))),
    n_slots=32,
)
DEVICES = ("", "phone", "desk", "tv")
PAGES = ("", "home", "search")


@dataclass(frozen=True, slots=True)
class Entry:
    """One counted event."""

    item: str
    weight: float
    ts_ms: int
    continues: bool = False
    previous: tuple[str, ...] = ()
    segments: tuple[str, str] = ("", "")
    previous_segments: tuple[str, str] = ("", "")


def activity(
    entries: Sequence[Entry],
    first: int = 0,
    *,
    source: str = "events/0",
    last: int | None = None,
    fields: tuple[str, ...] = ("device", "page"),
) -> ActivityBatch:
    """Entries at the offsets from `first` on; the range may reach beyond them."""
    item_ids = list(dict.fromkeys(entry.item for entry in entries))
    place = [SPEC.segment_fields.index(name) for name in fields]

    def keys(texts: Iterable[tuple[str, str]]) -> np.ndarray:
        return np.array([[segment_keys([text[at]])[0] for at in place] for text in texts], np.uint32).reshape(
            len(entries), len(fields)
        )

    return checked(
        ActivityBatch(
            source=source,
            first=first,
            last=first + len(entries) - 1 if last is None else last,
            segment_fields=fields,
            item_ids=item_ids,
            offset=np.arange(first, first + len(entries), dtype=np.int64),
            item=np.array([item_ids.index(entry.item) for entry in entries], np.int32),
            kind=np.zeros(len(entries), np.uint8),
            weight=np.array([entry.weight for entry in entries], np.float32),
            ts_ms=np.array([entry.ts_ms for entry in entries], np.int64),
            continues=np.array([entry.continues for entry in entries], np.bool_),
            previous=np.array([item_keys((*entry.previous, "", "", "")[:3]) for entry in entries], np.uint64).reshape(
                len(entries), 3
            ),
            segments=keys(entry.segments for entry in entries),
            previous_segments=keys(entry.previous_segments for entry in entries),
        )
    )


def fading(entry: Entry, as_of_ms: int, half_life_ms: int) -> float:
    """What is left of an entry's weight at a time; more than all where the time is before it."""
    return entry.weight * 2.0 ** (-(as_of_ms - entry.ts_ms) / half_life_ms)


def counts_in(channel: PopularityChannel, entry: Entry) -> bool:
    return entry.weight > 0 and (channel.of == "all" or entry.continues)


def code_in(spec: StatisticsSpec, channel: PopularityChannel, entry: Entry) -> int:
    if channel.field is None:
        return 0
    at = spec.segment_fields.index(channel.field)
    text = (entry.previous_segments if channel.of == "previous" else entry.segments)[at]
    values = spec.segments[at].values
    return 1 + values.index(text) if text in values else 0


def shares(spec: StatisticsSpec, entries: Sequence[Entry]) -> list[dict[str, float]]:
    """Per column, item -> its share of the decayed weight."""
    columns: list[dict[str, float]] = []
    for channel in spec.popularity:
        n_codes = 1 if channel.field is None else spec.n_values(channel.field)
        for code in range(n_codes):
            weight: dict[str, float] = defaultdict(float)
            counted = [e for e in entries if counts_in(channel, e) and code_in(spec, channel, e) == code]
            # Any time would do, if floats were exact.
            newest_ms = max((entry.ts_ms for entry in counted), default=T0_MS)
            for entry in counted:
                weight[entry.item] += fading(entry, newest_ms, channel.half_life_ms)
            total = math.fsum(weight.values())
            columns.append({item: w / total for item, w in weight.items()} if total > 0 else {})
    return columns


def transitions(spec: StatisticsSpec, entries: Sequence[Entry], as_of_ms: int) -> dict[tuple[str, str], list[float]]:
    """(item, neighbour) -> decayed weight per column of co-visitation."""
    pairs: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * spec.first_pair_column[-1])
    for entry in entries:
        if entry.weight <= 0:
            continue
        for lag, before in enumerate(entry.previous):
            for c, channel in enumerate(spec.co_visitation):
                left = fading(entry, as_of_ms, channel.half_life_ms)
                column = spec.first_pair_column[c]
                if channel.field is not None:
                    at = spec.segment_fields.index(channel.field)
                    text, values = entry.previous_segments[at], spec.segments[at].values
                    column += 1 + values.index(text) if text in values else 0
                if channel.of == "back":
                    pairs[entry.item, before][column] += left
                elif channel.of == "any" or lag == 0:
                    pairs[before, entry.item][column] += left
    return pairs


def row_of(view: ItemStatistics, item: str, as_of_ms: int) -> dict[str, np.ndarray]:
    """Neighbour -> weights of an item's row as of a time that is not before the row's own."""
    number = view.catalogue.number(item)
    assert number is not None
    decay = 2.0 ** (-(as_of_ms - int(view.row_ms[number])) / view.pair_half_life_ms)
    used = [int(slot) for slot in view.slot_item[number] if slot >= 0]
    assert len(used) == len(set(used)), "a neighbour has one slot"
    assert all(slot < 0 for slot in view.slot_item[number][len(used) :]), "used slots come first"
    return {view.catalogue.ids[slot]: view.slot_weight[number, s] * decay for s, slot in enumerate(used)}


def sums_of(view: ItemStatistics, item: str, as_of_ms: int) -> np.ndarray:
    number = view.catalogue.number(item)
    assert number is not None
    sums: np.ndarray = view.row_sum[number] * 2.0 ** (-(as_of_ms - int(view.row_ms[number])) / view.pair_half_life_ms)
    return sums


_times = st.one_of(
    st.integers(0, 3 * HOUR_MS),
    st.integers(0, 5 * DAY_MS),
    st.integers(0, 12).map(lambda n: n * 10 * MINUTE_MS),  # equal times
    st.sampled_from((0, 60 * DAY_MS)),  # many half-lives apart
).map(lambda after_ms: T0_MS + after_ms)


@st.composite
def an_entry(draw: st.DrawFn, items: Sequence[str] = ITEMS) -> Entry:
    item = draw(st.sampled_from(items))
    previous = draw(st.lists(st.sampled_from([other for other in items if other != item]), max_size=3, unique=True))
    return Entry(
        item,
        draw(st.sampled_from((1.0, 1.0, 2.0, 3.0, 0.0, -2.0))),
        draw(_times),
        bool(previous) or draw(st.booleans()),
        tuple(previous),
        (draw(st.sampled_from(DEVICES)), draw(st.sampled_from(PAGES))),
        (draw(st.sampled_from(DEVICES)), draw(st.sampled_from(PAGES))),
    )


def entry_logs(max_size: int = 25, items: Sequence[str] = ITEMS) -> st.SearchStrategy[list[Entry]]:
    return st.lists(an_entry(items), min_size=1, max_size=max_size)

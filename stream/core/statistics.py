"""Live statistics of items: decayed popularity and co-visitation at several scales, global and by segment.

All of it is folded from `ActivityBatch`es in event time. Decay is exact and costs no timer:

* Popularity uses forward decay (Cormode, Shkapenyuk, Srivastava, Xu: Forward Decay, ICDE 2009): an event at time t adds
  2^((t - L) / h) to its item and to the total, L being a landmark that moves on before numbers grow large. A share,
  item over total, needs no time at all, since both decay alike. What nobody touches keeps its place among the others,
  so a list changes by what was counted since, and logarithms of shares are taken where somebody looks.
* Co-visitation keeps for each item a bounded row of slots, one per neighbour, valued as of the row's own time. Adding
  to a row first brings the whole row to the event's time; reading it as of a later time is one factor per half-life.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.activity import ActivityBatch
from stream.core.catalogue import Catalogue, ItemUpdate
from stream.core.events import segment_keys
from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS, scale_name
from stream.core.state import NEVER_MS

__all__ = [
    "CoVisitationChannel",
    "ItemStatistics",
    "PopularityChannel",
    "SegmentField",
    "StatisticsSpec",
    "bring_up",
    "log_share_of",
]

SHARE_FLOOR: Final = 1e-6
"""Added to a share before its logarithm: the popularity of what nobody touches."""
_REBASE_HALF_LIVES: Final = 40.0
"""A landmark moves when newer events weigh 2^40 times its own: far from float32's 2^127."""
_NEGLIGIBLE: Final = 1e-30
"""Weights below are zero: denormal numbers would slow every pass over a row."""
_MAX_MISSING: Final = 64
"""Ranges remembered per source; more than a few at once are retention's doing and never come."""
N_LISTED: Final = 128
"""Items in each popularity list."""
_COUNTED: Final = 1
"""Items of a column weigh more than before."""
_REBASED: Final = 2
"""All of a column were scaled, and rounded with that."""
_FEW: Final = 1_000
"""Counts that are always taken note of between two views, however few items there are."""
_NEVER: Final = -1
"""No generation."""
_TOUCHED: Final = -2
"""No generation either, of what is being put in its new place."""


@dataclass(frozen=True, slots=True)
class PopularityChannel:
    """One decayed count per item.

    Attributes:
        half_life_ms: after this long an event counts half.
        of: which events count: all, those that continue a session, or those that do so after an event whose segment
            field had a given value ("previous").
        field: count per value of this context field (of the event, or of the one before it when `of` is "previous").
    """

    half_life_ms: int
    of: Literal["all", "continuing", "previous"] = "all"
    field: str | None = None

    def __post_init__(self) -> None:
        if self.half_life_ms <= 0:
            raise ValueError(f"a half-life must be positive, not {self.half_life_ms} ms")
        if self.of == "previous" and self.field is None:
            raise ValueError("popularity after an event of a segment needs the segment's field")

    @property
    def name(self) -> str:
        """For reasons, reports and feature names: `all:5m`, `continuing:1h`, `all:1h:device`."""
        name = f"{self.of}:{scale_name(self.half_life_ms)}"
        return name if self.field is None else f"{name}:{self.field}"


@dataclass(frozen=True, slots=True)
class CoVisitationChannel:
    """One decayed weight per pair of items.

    Attributes:
        half_life_ms: after this long a transition counts half.
        of: "next": an item and the one right after it in a session; "any": and any of the next three; "back": an item
            and any of the three before it.
        field: count apart by value of this context field, of the event that the transition left from: pages differ by
            device, and so does what stands on them to be clicked next.
    """

    half_life_ms: int
    of: Literal["next", "any", "back"] = "any"
    field: str | None = None

    @property
    def name(self) -> str:
        """For feature names: `next:1d`, `next:1d:device`."""
        name = f"{self.of}:{scale_name(self.half_life_ms)}"
        return name if self.field is None else f"{name}:{self.field}"


@dataclass(frozen=True, slots=True)
class SegmentField:
    """A context field with the values that are counted apart; every other value counts as one more."""

    field: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) != len(self.values) or "" in self.values:
            raise ValueError(f"the values of segment field {self.field!r} repeat, or one is empty: {self.values}")


@dataclass(frozen=True, slots=False)
class StatisticsSpec:
    """Which statistics are kept. The defaults are those that won on news clicks, see the README's table of quality."""

    popularity: tuple[PopularityChannel, ...] = (
        *(PopularityChannel(h) for h in (5 * MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)),
        *(PopularityChannel(h, "continuing") for h in (5 * MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)),
    )
    co_visitation: tuple[CoVisitationChannel, ...] = (
        CoVisitationChannel(DAY_MS, "next"),
        CoVisitationChannel(DAY_MS, "any"),
        CoVisitationChannel(HOUR_MS, "any"),
        CoVisitationChannel(DAY_MS, "back"),
    )
    segments: tuple[SegmentField, ...] = ()
    n_slots: int = 128

    def __post_init__(self) -> None:
        declared = [segment.field for segment in self.segments]
        if len(set(declared)) != len(declared):
            raise ValueError(f"segment fields repeat: {declared}")
        for channel in self.popularity:
            if channel.field is not None and channel.field not in declared:
                raise ValueError(f"popularity by {channel.field!r} needs that field among the segments {declared}")
        for pair in self.co_visitation:
            if pair.field is not None and pair.field not in declared:
                raise ValueError(f"co-visitation by {pair.field!r} needs that field among the segments {declared}")
        if not self.popularity or not self.co_visitation:
            raise ValueError("at least one popularity and one co-visitation channel are needed")
        if not 1 <= self.n_slots <= 1024:
            raise ValueError(f"n_slots must be between 1 and 1024, not {self.n_slots}")

    @property
    def segment_fields(self) -> tuple[str, ...]:
        """Context fields that events must carry over into batches."""
        return tuple(segment.field for segment in self.segments)

    def n_values(self, field: str) -> int:
        """Codes of a segment field: its values and one for all others."""
        return 1 + next(len(segment.values) for segment in self.segments if segment.field == field)

    @cached_property
    def broadest(self) -> int:
        """Number of the channel that knows most: of all events rather than some, with the longest half-life.

        What fills up a list comes from it: a young shop has events, but few sessions that go on.
        """
        return max(
            range(len(self.popularity)),
            key=lambda n: (
                self.popularity[n].field is None,
                self.popularity[n].of == "all",
                self.popularity[n].half_life_ms,
            ),
        )

    @cached_property
    def first_column(self) -> tuple[int, ...]:
        """Where each popularity channel's columns begin; the last entry is the number of columns."""
        return self._starts([channel.field for channel in self.popularity])

    @cached_property
    def first_pair_column(self) -> tuple[int, ...]:
        """The same for co-visitation channels."""
        return self._starts([pair.field for pair in self.co_visitation])

    def _starts(self, fields: Sequence[str | None]) -> tuple[int, ...]:
        starts = [0]
        for name in fields:
            starts.append(starts[-1] + (1 if name is None else self.n_values(name)))
        return tuple(starts)


@dataclass(slots=True)
class _Segments:
    """Sorted keys of a field's values, for turning keys into codes."""

    keys: NDArray[np.uint32]
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, segment: SegmentField) -> _Segments:
        keys = segment_keys(segment.values)
        order = np.argsort(keys)
        return cls(keys[order], (order + 1).astype(np.int32))

    def encode(self, keys: NDArray[np.uint32]) -> NDArray[np.int32]:
        if len(self.keys) == 0:
            return np.zeros(keys.shape, np.int32)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.codes[at], 0).astype(np.int32)


@dataclass(slots=True)
class ItemStatistics:
    """The arrays, and the view that scoring reads: `apply` adds activity, `refresh` or `renew` makes what is derived.

    Scoring reads the arrays directly, so `apply` belongs between batches, followed by one of the two; what is read in
    between is one consistent view, the one as of `offset` in the activity topic.

    Attributes:
        spec: what is kept.
        catalogue: the numbers of items.
        offset: offset in the activity topic of the last message of the view, -1 before the first.
        items_offset: the same in the items topic.
        counted: input partition ("topic/partition") -> the next of its offsets to be counted.
        n_gaps: messages that began after the next offset that was due.
        missing: the ranges that such messages left out, first to last offset; they count when they come after all.
        weight: (capacity, n_columns) forward-decayed counts; column p relative to landmark_ms[p].
        log_share: (capacity, n_columns) log(share + 1e-6) as of the view, of rows that are current: see `bring_up`.
        current: (capacity,) the generation that a row of log_share belongs to; a negative one to none.
        generation: number of the view: one more with each.
        listed: (n_columns, N_LISTED) the most popular available items per column, best first, -1 beyond the last.
        newest: (N_LISTED,) the available items that were published last, newest first, -1 beyond the last.
        first_ms: (capacity,) event time of an item's first appearance.
        slot_item: (capacity, n_slots) neighbours, -1 for a free slot; used slots come first.
        slot_weight: (capacity, n_slots, W) decayed transitions as of row_ms; a channel has a column, or one for each
            value of its field, see `StatisticsSpec.first_pair_column`.
        row_sum: (capacity, W) all transitions of the row, evicted ones included, as of row_ms.
        row_ms: (capacity,) time that the row's weights are valued at.
    """

    spec: StatisticsSpec
    catalogue: Catalogue = field(default_factory=Catalogue)
    offset: int = -1
    items_offset: int = -1
    counted: dict[str, int] = field(default_factory=dict)
    n_gaps: int = 0
    missing: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    weight: NDArray[np.float32] = field(init=False)
    total: NDArray[np.float64] = field(init=False)
    landmark_ms: NDArray[np.int64] = field(init=False)
    log_share: NDArray[np.float32] = field(init=False)
    current: NDArray[np.int32] = field(init=False)
    generation: int = field(init=False, default=0)
    listed: NDArray[np.int32] = field(init=False)
    newest: NDArray[np.int32] = field(init=False)
    first_ms: NDArray[np.int64] = field(init=False)
    slot_item: NDArray[np.int32] = field(init=False)
    slot_weight: NDArray[np.float32] = field(init=False)
    row_sum: NDArray[np.float32] = field(init=False)
    row_ms: NDArray[np.int64] = field(init=False)
    _half_life_ms: NDArray[np.float64] = field(init=False)
    _pair_half_life_ms: NDArray[np.float64] = field(init=False)
    _pair_of: NDArray[np.uint8] = field(init=False)
    _first_pair_column: NDArray[np.int64] = field(init=False)
    _channel_of: NDArray[np.uint8] = field(init=False)
    """(n_channels,) 1 where only events that continue a session count."""
    _first_column: NDArray[np.int64] = field(init=False)
    _segments: list[_Segments] = field(init=False)
    _changed: NDArray[np.uint8] = field(init=False)
    """(n_columns,) what happened to each column since the lists were made: see `_COUNTED` and `_REBASED`."""
    _touched: list[NDArray[np.int32]] = field(init=False, default_factory=list)
    """Items that were counted since, some more than once."""
    _n_touched: int = field(init=False, default=0)
    _is_listed: bool = field(init=False, default=False)
    """Whether the lists differ from the counts by nothing else."""

    def __post_init__(self) -> None:
        spec, n_columns, n_pairs = self.spec, self.spec.first_column[-1], self.spec.first_pair_column[-1]
        self.weight = np.zeros((0, n_columns), np.float32)
        self.total = np.zeros(n_columns, np.float64)
        self.landmark_ms = np.full(n_columns, NEVER_MS, np.int64)
        self.log_share = np.zeros((0, n_columns), np.float32)
        self.current = np.zeros(0, np.int32)
        self._changed = np.zeros(n_columns, np.uint8)
        self.listed = np.full((n_columns, N_LISTED), -1, np.int32)
        self.newest = np.full(N_LISTED, -1, np.int32)
        self.first_ms = np.zeros(0, np.int64)
        self.slot_item = np.zeros((0, spec.n_slots), np.int32)
        self.slot_weight = np.zeros((0, spec.n_slots, n_pairs), np.float32)
        self.row_sum = np.zeros((0, n_pairs), np.float32)
        self.row_ms = np.zeros(0, np.int64)
        columns = np.diff(spec.first_column)
        self._half_life_ms = np.repeat([float(channel.half_life_ms) for channel in spec.popularity], columns)
        self._pair_half_life_ms = np.repeat(
            [float(pair.half_life_ms) for pair in spec.co_visitation], np.diff(spec.first_pair_column)
        )
        self._first_pair_column = np.array(spec.first_pair_column[:-1], np.int64)
        self._pair_of = np.array([("next", "any", "back").index(c.of) for c in spec.co_visitation], np.uint8)
        self._channel_of = np.array([channel.of != "all" for channel in spec.popularity], np.uint8)
        self._first_column = np.array(spec.first_column[:-1], np.int64)
        self._segments = [_Segments.of(segment) for segment in spec.segments]
        self._grow()
        self.refresh()

    @property
    def pair_half_life_ms(self) -> NDArray[np.float64]:
        """(W,) half-life of each column of co-visitation."""
        return self._pair_half_life_ms

    @property
    def n_bytes_per_item(self) -> int:
        """Memory that one item takes in the arrays, without its id."""
        arrays = (
            self.weight,
            self.log_share,
            self.current,
            self.first_ms,
            self.slot_item,
            self.slot_weight,
            self.row_sum,
            self.row_ms,
        )
        return sum(array[:1].nbytes for array in arrays)

    def segment_codes(self, segments: NDArray[np.uint32]) -> NDArray[np.int32]:
        """(B, S) context keys in the order of the spec's fields -> (B, S) codes; 0 for missing and for other values."""
        codes = np.zeros(segments.shape, np.int32)
        for column, encoder in enumerate(self._segments):
            codes[:, column] = encoder.encode(segments[:, column])
        return codes

    def apply(self, batch: ActivityBatch) -> None:
        """Count what a batch of activity adds; offsets of its source that were counted before are left out."""
        self.apply_all([batch])

    def apply_all(self, batches: Sequence[ActivityBatch]) -> None:
        """Count batches in this order, as if each were applied by itself: many small ones cost little more than one."""
        each = [(batch, self._uncounted(batch)) for batch in batches]
        counted = [(batch, rows) for batch, rows in each if (len(batch) > 0 if rows is None else rows.any())]
        if not counted:
            return
        n_known = len(self.catalogue)
        numbers = self.catalogue.add([item_id for batch, _ in counted for item_id in batch.item_ids])
        self._grow()
        first = 0
        items, n_known_of = [], []
        for batch, rows in counted:
            own = numbers[first : first + len(batch.item_ids)]
            first += len(batch.item_ids)
            n_known = max(n_known, int(own.max(initial=-1)) + 1)
            items.append(own[_only(batch.item, rows)])
            n_known_of.append(n_known)

        def column(name: str) -> NDArray[Any]:
            return np.concatenate([_only(getattr(batch, name), rows) for batch, rows in counted])

        previous = self.catalogue.index.lookup(column("previous"))
        if n_known_of[0] < n_known:  # an item that only a later batch makes known is no neighbour yet
            previous[previous >= np.repeat(n_known_of, [len(item) for item in items])[:, None]] = -1
        item = np.concatenate(items)
        self._touch(item)
        _count(
            item,
            column("ts_ms"),
            column("weight"),
            column("continues"),
            previous,
            self._channel_of,
            np.concatenate([self._columns(batch, rows) for batch, rows in counted]),
            np.concatenate([self._pair_columns(batch, rows) for batch, rows in counted]),
            self._first_column,
            self._half_life_ms,
            self.landmark_ms,
            self.weight,
            self.total,
            self._changed,
            self.first_ms,
            self._pair_of,
            self._pair_half_life_ms,
            self.slot_item,
            self.slot_weight,
            self.row_sum,
            self.row_ms,
        )

    def update_items(self, updates: Sequence[ItemUpdate]) -> None:
        """Take over what the `items` topic says; seen by scoring after `refresh`."""
        self._is_listed = False
        self.catalogue.update(updates)
        self._grow()

    def know(self, item_ids: Sequence[str]) -> None:
        """Number items of which nothing has happened yet, such as a bundle's vocabulary."""
        self.catalogue.add(item_ids)
        self._grow()

    def refresh(self) -> None:
        """Rebuild all that is derived from the counts: shares and popularity lists. Once per view, never per event."""
        self._grow()
        n_items = len(self.catalogue)
        self.generation += 1
        self.current[:n_items] = self.generation
        _derive(
            n_items,
            self.weight,
            self.total,
            self.catalogue.key,
            self.catalogue.available,
            self.log_share,
            self.listed,
        )
        self._changed.fill(0)
        self._touched.clear()
        self._n_touched = 0
        self._is_listed = True
        self.newest.fill(-1)
        published = self.catalogue.published_ms[:n_items]
        dated = np.flatnonzero((published != NEVER_MS) & self.catalogue.available[:n_items])
        if len(dated) > N_LISTED:
            # All that share the last place stay in, so that the key, not the number, decides among them.
            bound = np.partition(published[dated], -N_LISTED)[-N_LISTED]
            dated = dated[published[dated] >= bound]
        order = np.lexsort((self.catalogue.key[dated], -published[dated]))[:N_LISTED]
        self.newest[: len(order)] = dated[order]

    def advance(self, batches: Sequence[tuple[int, ActivityBatch]], updates: Sequence[ItemUpdate] = ()) -> None:
        """Move the view on: count (offset, batch) pairs of the activity topic in order, take updates over, refresh."""
        if batches:
            self.apply_all([batch for _, batch in batches])
            self.offset = batches[-1][0]
        if updates:
            self.update_items(updates)
        self.renew()

    def renew(self) -> None:
        """As `refresh`: where nothing but counting happened since the last, at the cost of what was counted."""
        if not self._is_listed:
            self.refresh()
            return
        if not self._touched:
            return
        self._grow()
        touched = np.unique(np.concatenate(self._touched))
        self.generation += 1
        _relist(
            touched,
            self._changed,
            len(self.catalogue),
            self.weight,
            self.catalogue.key,
            self.catalogue.available,
            self.current,
            self.listed,
        )
        self._changed.fill(0)
        self._touched.clear()
        self._n_touched = 0

    def _touch(self, items: NDArray[np.int32]) -> None:
        """Take note of what was counted, unless to look at everything has become the cheaper way."""
        if not self._is_listed:
            return
        self._touched.append(items)
        self._n_touched += len(items)
        if self._n_touched > max(len(self.catalogue), _FEW):
            self._touched.clear()
            self._is_listed = False

    def _uncounted(self, batch: ActivityBatch) -> NDArray[np.bool_] | None:
        """(N,) the entries that count now, None for all; takes note of what the batch covers.

        A message that begins too late counts at once: what lies between may be lost to retention, and to wait for it
        would stop the statistics. If it was only delivered late, it counts when it comes.
        """
        source, first, last = batch.source, batch.first, batch.last
        due = self.counted.get(source)
        missing = self.missing.get(source, [])
        if due is None or (first == due and not missing):
            self.counted[source] = last + 1
            return None
        fresh = batch.offset >= due
        for begin, end in missing:
            fresh |= (batch.offset >= begin) & (batch.offset <= end)
        left = [
            piece
            for begin, end in missing
            for piece in ((begin, min(end, first - 1)), (max(begin, last + 1), end))
            if piece[0] <= piece[1]
        ]
        if first > due:
            self.n_gaps += 1
            left.append((due, first - 1))
        if left:
            self.missing[source] = left[-_MAX_MISSING:]
        else:
            self.missing.pop(source, None)
        self.counted[source] = max(due, last + 1)
        return fresh

    def _columns(self, batch: ActivityBatch, rows: NDArray[np.bool_] | None) -> NDArray[np.int32]:
        """(N, n_channels) which of a channel's columns counts each entry, by segment."""
        wanted = [(channel.of == "previous", channel.field) for channel in self.spec.popularity]
        return self._codes(batch, rows, wanted)

    def _pair_columns(self, batch: ActivityBatch, rows: NDArray[np.bool_] | None) -> NDArray[np.int32]:
        """(N, n_pairs) the column of each co-visitation channel."""
        codes = self._codes(batch, rows, [(True, pair.field) for pair in self.spec.co_visitation])
        return codes + self._first_pair_column.astype(np.int32)

    def _codes(
        self, batch: ActivityBatch, rows: NDArray[np.bool_] | None, wanted: Sequence[tuple[bool, str | None]]
    ) -> NDArray[np.int32]:
        """(N, n) code of each entry for each of n (whether of the event before it, field or None)."""
        fields = self.spec.segment_fields
        place = {name: column for column, name in enumerate(batch.segment_fields)}
        codes: dict[tuple[bool, str], NDArray[np.int32]] = {}
        code_of = np.zeros((len(_only(batch.item, rows)), len(wanted)), np.int32)
        for number, (before, name) in enumerate(wanted if place else ()):
            if name is None or name not in place:
                continue
            key = (before, name)
            if key not in codes:
                keys = _only(batch.previous_segments if before else batch.segments, rows)[:, place[name]]
                codes[key] = self._segments[fields.index(name)].encode(keys)
            code_of[:, number] = codes[key]
        return code_of

    def _grow(self) -> None:
        n_old, capacity = len(self.row_ms), self.catalogue.capacity
        if capacity <= n_old:
            return

        def grown(column: NDArray[Any], fill: object) -> NDArray[Any]:
            wider = np.full((capacity, *column.shape[1:]), fill, column.dtype)
            wider[:n_old] = column
            return wider

        self.weight = grown(self.weight, 0)
        self.log_share = grown(self.log_share, np.log(SHARE_FLOOR))
        self.current = grown(self.current, _NEVER)
        self.first_ms = grown(self.first_ms, NEVER_MS)
        self.slot_item = grown(self.slot_item, -1)
        self.slot_weight = grown(self.slot_weight, 0)
        self.row_sum = grown(self.row_sum, 0)
        self.row_ms = grown(self.row_ms, NEVER_MS)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """All that `restore` needs, as arrays that `numpy.savez` stores without pickling."""
        n_items = len(self.catalogue)
        words = {
            "ids": self.catalogue.ids,
            "categories": self.catalogue.categories,
            "titles": [[number, title] for number, title in self.catalogue.titles.items()],
            "counted": self.counted,
            "offset": self.offset,
            "items_offset": self.items_offset,
            "n_gaps": self.n_gaps,
            "missing": self.missing,
            "spec": repr(self.spec),
        }
        arrays: dict[str, NDArray[Any]] = {
            name: getattr(self, name)[:n_items].copy()
            for name in ("weight", "first_ms", "slot_item", "slot_weight", "row_sum", "row_ms")
        }
        for name in ("available", "category", "published_ms"):
            arrays[name] = getattr(self.catalogue, name)[:n_items].copy()
        arrays |= {"total": self.total.copy(), "landmark_ms": self.landmark_ms.copy()}
        arrays["words"] = np.frombuffer(json.dumps(words).encode(), np.uint8)
        return arrays

    @classmethod
    def restore(cls, spec: StatisticsSpec, arrays: Mapping[str, NDArray[Any]]) -> ItemStatistics:
        """What `snapshot` was taken of.

        Raises:
            ValueError: the snapshot belongs to other statistics, or its arrays do not fit together.
        """
        try:
            words = json.loads(bytes(arrays["words"].astype(np.uint8)))
            if words["spec"] != repr(spec):
                raise ValueError("the snapshot holds other statistics than this bundle asks for")
            view = cls(spec, Catalogue(words["ids"]))
            n_items = len(view.catalogue)
            _fill(view, arrays, ("weight", "first_ms", "slot_item", "slot_weight", "row_sum", "row_ms"), n_items)
            _fill(view, arrays, ("total", "landmark_ms"), len(view.total))
            _fill(view.catalogue, arrays, ("available", "category", "published_ms"), n_items)
            slots = view.slot_item[:n_items]
            if slots.size > 0 and not -1 <= slots.min() <= slots.max() < n_items:
                raise ValueError(f"a neighbour in the snapshot is none of its {n_items} items")
            titles = {int(number): str(title) for number, title in words["titles"]}
            view.catalogue.read_words(words["categories"], titles)
            view.counted = {str(source): int(due) for source, due in words["counted"].items()}
            view.offset, view.items_offset = int(words["offset"]), int(words["items_offset"])
            view.n_gaps = int(words["n_gaps"])
            view.missing = {
                str(source): [(int(begin), int(end)) for begin, end in ranges]
                for source, ranges in words["missing"].items()
            }
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a snapshot of item statistics: {error!r}") from error
        view.refresh()
        return view


def _only(column: NDArray[Any], rows: NDArray[np.bool_] | None) -> NDArray[Any]:
    return column if rows is None else column[rows]


def _fill(target: object, arrays: Mapping[str, NDArray[Any]], names: Sequence[str], n: int) -> None:
    """Copy arrays over the first n entries of the columns of the same names; ValueError where one does not fit."""
    for name in names:
        column: NDArray[Any] = getattr(target, name)
        if arrays[name].shape != (n, *column.shape[1:]) or arrays[name].dtype != column.dtype:
            raise ValueError(f"{name} of the snapshot is {arrays[name].dtype} of shape {arrays[name].shape}")
        column[:n] = arrays[name]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(
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
                changed[p] |= _REBASED
            changed[p] |= _COUNTED
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
                _credit(before, i, t, add, pair_half_life_ms, slot_item, slot_weight, row_sum, row_ms)
            for c in range(n_pairs):
                add[pair_column[row, c]] = w if pair_of[c] == 2 else 0.0
                any_back = any_back or pair_of[c] == 2
            if any_back:
                _credit(i, before, t, add, pair_half_life_ms, slot_item, slot_weight, row_sum, row_ms)
            for c in range(n_pairs):
                add[pair_column[row, c]] = 0.0


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _credit(
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
def _derive(n_items: Any, weight: Any, total: Any, key: Any, available: Any, log_share: Any, listed: Any) -> None:
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
def _relist(
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
        if changed[p] & _REBASED:
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
        current[i] = _NEVER


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

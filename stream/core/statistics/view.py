"""The view of all items that scoring reads, how it moves on, and how it is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.core.activity import ActivityBatch, earlier_of
from stream.core.catalogue import Catalogue, ItemUpdate
from stream.core.state import NEVER_MS
from stream.core.statistics.counting import count
from stream.core.statistics.listing import N_LISTED, NO_GENERATION, SHARE_FLOOR, derive, relist
from stream.core.statistics.returns import Returns
from stream.core.statistics.segments import SegmentCodes
from stream.core.statistics.spec import StatisticsSpec

__all__ = ["ItemStatistics"]

_MAX_MISSING: Final = 64
"""Ranges remembered per source; more than a few at once are retention's doing and never come."""
_FEW: Final = 1_000
"""Counts that are always taken note of between two views, however few items there are."""


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
    returns: Returns = field(init=False)
    """What users come back to."""
    _half_life_ms: NDArray[np.float64] = field(init=False)
    _pair_half_life_ms: NDArray[np.float64] = field(init=False)
    _pair_of: NDArray[np.uint8] = field(init=False)
    _first_pair_column: NDArray[np.int64] = field(init=False)
    _channel_of: NDArray[np.uint8] = field(init=False)
    """(n_channels,) 1 where only events that continue a session count."""
    _first_column: NDArray[np.int64] = field(init=False)
    _segments: list[SegmentCodes] = field(init=False)
    _changed: NDArray[np.uint8] = field(init=False)
    """(n_columns,) what happened to each column since the lists were made, see `counting.COUNTED` and `REBASED`."""
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
        self.returns = Returns(spec.returns, spec.n_slots)
        columns = np.diff(spec.first_column)
        self._half_life_ms = np.repeat([float(channel.half_life_ms) for channel in spec.popularity], columns)
        self._pair_half_life_ms = np.repeat(
            [float(pair.half_life_ms) for pair in spec.co_visitation], np.diff(spec.first_pair_column)
        )
        self._first_pair_column = np.array(spec.first_pair_column[:-1], np.int64)
        self._pair_of = np.array([("next", "any", "back").index(c.of) for c in spec.co_visitation], np.uint8)
        self._channel_of = np.array([channel.of != "all" for channel in spec.popularity], np.uint8)
        self._first_column = np.array(spec.first_column[:-1], np.int64)
        self._segments = [SegmentCodes.of(segment) for segment in spec.segments]
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
        return sum(array[:1].nbytes for array in arrays) + self.returns.n_bytes_per_item

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

        def known(keys: NDArray[np.uint64]) -> NDArray[np.int32]:
            numbers = self.catalogue.index.lookup(keys)
            if n_known_of[0] < n_known:  # an item that only a later batch makes known is no neighbour yet
                numbers[numbers >= np.repeat(n_known_of, [len(item) for item in items])[:, None]] = -1
            return numbers

        previous = known(column("previous"))
        item = np.concatenate(items)
        if self.returns:
            earlier = known(np.concatenate([_only(earlier_of(batch), rows) for batch, rows in counted]))
            self.returns.count(item, column("ts_ms"), column("weight"), earlier)
        self._touch(item)
        count(
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
        derive(
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
        relist(
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
        self.current = grown(self.current, NO_GENERATION)
        self.first_ms = grown(self.first_ms, NEVER_MS)
        self.slot_item = grown(self.slot_item, -1)
        self.slot_weight = grown(self.slot_weight, 0)
        self.row_sum = grown(self.row_sum, 0)
        self.row_ms = grown(self.row_ms, NEVER_MS)
        self.returns.grow(capacity)

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
            "spec": _shown(self.spec),
        }
        arrays: dict[str, NDArray[Any]] = {
            name: getattr(self, name)[:n_items].copy()
            for name in ("weight", "first_ms", "slot_item", "slot_weight", "row_sum", "row_ms")
        }
        for name in ("available", "category", "published_ms"):
            arrays[name] = getattr(self.catalogue, name)[:n_items].copy()
        arrays |= {"total": self.total.copy(), "landmark_ms": self.landmark_ms.copy()}
        arrays |= self.returns.snapshot(n_items)
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
            if words["spec"] != _shown(spec):
                raise ValueError("the snapshot holds other statistics than this bundle asks for")
            view = cls(spec, Catalogue(words["ids"]))
            n_items = len(view.catalogue)
            _fill(view, arrays, ("weight", "first_ms", "slot_item", "slot_weight", "row_sum", "row_ms"), n_items)
            _fill(view, arrays, ("total", "landmark_ms"), len(view.total))
            _fill(view.catalogue, arrays, ("available", "category", "published_ms"), n_items)
            slots = view.slot_item[:n_items]
            if slots.size > 0 and not -1 <= slots.min() <= slots.max() < n_items:
                raise ValueError(f"a neighbour in the snapshot is none of its {n_items} items")
            view.returns.restore(arrays, n_items)
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


def _shown(spec: StatisticsSpec) -> str:
    """A specification as snapshots name theirs: as before there were returns, where there are none."""
    return repr(spec) + (f" and returns {spec.returns}" if spec.returns else "")


def _only(column: NDArray[Any], rows: NDArray[np.bool_] | None) -> NDArray[Any]:
    return column if rows is None else column[rows]


def _fill(target: object, arrays: Mapping[str, NDArray[Any]], names: Sequence[str], n: int) -> None:
    """Copy arrays over the first n entries of the columns of the same names; ValueError where one does not fit."""
    for name in names:
        column: NDArray[Any] = getattr(target, name)
        if arrays[name].shape != (n, *column.shape[1:]) or arrays[name].dtype != column.dtype:
            raise ValueError(f"{name} of the snapshot is {arrays[name].dtype} of shape {arrays[name].shape}")
        column[:n] = arrays[name]

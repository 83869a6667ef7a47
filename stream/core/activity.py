"""What one batch of events adds to the statistics of items, as columns: the content of an `item-activity` message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.core.events import MAX_KINDS

__all__ = ["N_EARLIER", "N_PREVIOUS", "ActivityBatch", "checked", "concatenated", "earlier_of"]

N_PREVIOUS: Final = 3
"""How many of the session's last items an event is credited to."""
N_EARLIER: Final = 8
"""How many items of the user's earlier sessions it is credited to, where that is counted."""


@dataclass(frozen=True, slots=True, eq=False)
class ActivityBatch:
    """N entries, one per counted event, of one range of offsets of one input partition.

    Its arrays are not to be written to.
    """

    source: str
    """Input partition, "topic/partition"."""
    first: int
    last: int
    """Offsets `first` to `last`, both included, are covered: whatever is not among the entries there counts nothing."""
    segment_fields: tuple[str, ...]
    """Names of the S context fields behind `segments`."""
    item_ids: list[str]
    """(M,) distinct item ids, which `item` and `previous` index."""
    offset: npt.NDArray[np.int64]
    """(N,) offset of the event, rising."""
    item: npt.NDArray[np.int32]
    """(N,) index into `item_ids`."""
    kind: npt.NDArray[np.uint8]
    """(N,) code of the event's type."""
    weight: npt.NDArray[np.float32]
    """(N,) how much the event speaks for its item."""
    ts_ms: npt.NDArray[np.int64]
    """(N,) event time, UTC epoch milliseconds."""
    continues: npt.NDArray[np.bool_]
    """(N,) whether the event continues a session."""
    previous: npt.NDArray[np.uint64]
    """(N, 3) `item_key` of the session's last items before this event, most recent first; 0 for none.

    Keys, not indices: a user's record holds only keys, and these items were named by an earlier message of this source.
    """
    segments: npt.NDArray[np.uint32]
    """(N, S) `segment_key` of the event's own context fields, 0 for missing."""
    previous_segments: npt.NDArray[np.uint32]
    """(N, S) the same of the event before it in the session."""
    earlier: npt.NDArray[np.uint64] | None = None
    """(N, 8) `item_key` of the last items of the user's earlier sessions, most recent first, 0 for none; None where
    nobody counts what users come back to."""

    def __len__(self) -> int:
        return len(self.offset)


def checked(batch: ActivityBatch) -> ActivityBatch:
    """The batch itself if every column has its type and shape and every index leads somewhere.

    Raises ValueError with the first thing that is not so.
    """
    n_entries = len(batch.offset)
    n_segments = len(batch.segment_fields)
    shapes: dict[str, tuple[npt.NDArray[Any], Any, tuple[int, ...]]] = {
        "offset": (batch.offset, np.int64, (n_entries,)),
        "item": (batch.item, np.int32, (n_entries,)),
        "kind": (batch.kind, np.uint8, (n_entries,)),
        "weight": (batch.weight, np.float32, (n_entries,)),
        "ts_ms": (batch.ts_ms, np.int64, (n_entries,)),
        "continues": (batch.continues, np.bool_, (n_entries,)),
        "previous": (batch.previous, np.uint64, (n_entries, N_PREVIOUS)),
        "segments": (batch.segments, np.uint32, (n_entries, n_segments)),
        "previous_segments": (batch.previous_segments, np.uint32, (n_entries, n_segments)),
    }
    if batch.earlier is not None:
        shapes["earlier"] = (batch.earlier, np.uint64, (n_entries, N_EARLIER))
    for name, (column, dtype, shape) in shapes.items():
        if column.dtype != dtype or column.shape != shape:
            raise ValueError(
                f"{name} is {column.dtype} of shape {column.shape}, expected {np.dtype(dtype)} of shape {shape}"
            )
    if not 0 <= batch.first <= batch.last:
        raise ValueError(f"the range of offsets {batch.first}..{batch.last} is empty or negative")
    if len(set(batch.item_ids)) != len(batch.item_ids) or "" in batch.item_ids:
        raise ValueError("item ids repeat, or one is empty")
    if n_entries == 0:
        return batch
    # Ufuncs are asked directly: for the few entries of a quiet topic, `min`, `max`, `any` and `all` take three times as
    # long.
    offset = batch.offset
    if offset[0] < batch.first or offset[-1] > batch.last or np.count_nonzero(offset[1:] <= offset[:-1]) > 0:
        raise ValueError(f"offsets of entries do not rise within {batch.first}..{batch.last}")
    if np.maximum.reduce(batch.item.view(np.uint32)) >= len(batch.item_ids):  # a negative one becomes a huge one
        raise ValueError(f"an index leads outside the {len(batch.item_ids)} item ids")
    if np.maximum.reduce(batch.kind) >= MAX_KINDS:
        raise ValueError(f"the event type {batch.kind.max()} is not one of the {MAX_KINDS} that are counted")
    if np.count_nonzero(np.isfinite(batch.weight)) < n_entries:
        raise ValueError("a weight is not finite")
    return batch


def concatenated(batches: Sequence[ActivityBatch]) -> ActivityBatch:
    """One batch that covers the ranges of all: of one source, each starting where the one before it ended.

    Raises ValueError for no batches, several sources or sets of segment fields, and holes or overlaps between ranges.
    """
    if not batches:
        raise ValueError("no activity to concatenate")
    head = batches[0]
    for before, after in pairwise(batches):
        if (after.source, after.segment_fields) != (head.source, head.segment_fields):
            raise ValueError(f"activity of {after.source} cannot follow activity of {head.source}")
        if after.first != before.last + 1:
            raise ValueError(f"{head.source}: {after.first} does not follow {before.last}")
    if len(batches) == 1:
        return head
    number_of: dict[str, int] = {}
    item = []
    earlier = None
    if any(batch.earlier is not None for batch in batches):
        earlier = np.concatenate([earlier_of(batch) for batch in batches])
    for batch in batches:
        lookup = np.array([number_of.setdefault(item_id, len(number_of)) for item_id in batch.item_ids], np.int32)
        item.append(lookup[batch.item])
    return ActivityBatch(
        source=head.source,
        first=head.first,
        last=batches[-1].last,
        segment_fields=head.segment_fields,
        item_ids=list(number_of),
        offset=np.concatenate([batch.offset for batch in batches]),
        item=np.concatenate(item),
        kind=np.concatenate([batch.kind for batch in batches]),
        weight=np.concatenate([batch.weight for batch in batches]),
        ts_ms=np.concatenate([batch.ts_ms for batch in batches]),
        continues=np.concatenate([batch.continues for batch in batches]),
        previous=np.concatenate([batch.previous for batch in batches]),
        segments=np.concatenate([batch.segments for batch in batches]),
        previous_segments=np.concatenate([batch.previous_segments for batch in batches]),
        earlier=earlier,
    )


def earlier_of(batch: ActivityBatch) -> npt.NDArray[np.uint64]:
    """(N, 8) `earlier`, none where the batch says nothing of it."""
    return np.zeros((len(batch), N_EARLIER), np.uint64) if batch.earlier is None else batch.earlier

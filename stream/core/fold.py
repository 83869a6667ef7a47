"""Folding events into users' records, in event time.

One pass over a batch in the order of its offsets, whatever users it holds, so that no result depends on how events fell
into batches. The order in which a user's events arrive does not matter either: the ring is kept sorted by
(time, item, kind, value), windows count into the bucket of the event's own time, and the session is read off the ring.

    arrival   a(10:00)  c(10:07)  b(10:03)            ring   a  b  c
                                  ^ late, but within the ring and the windows: takes its true place
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.activity import N_PREVIOUS
from stream.core.events import FORGET, REQUEST, EventBatch
from stream.core.state import N_SEGMENTS, NEVER_MS, States, StateSpec, blank_bytes, compiled_form, copied

__all__ = ["APPLIED", "DUPLICATE", "ERASED", "REPLAYED", "REQUESTED", "Folded", "fold", "source_key"]

APPLIED: Final = 0
"""The event changed its user's record."""
DUPLICATE: Final = 1
"""A producer sent an event of this id before: the record stays as it is."""
REPLAYED: Final = 2
"""The record already holds this offset: it was applied, counted and answered before."""
REQUESTED: Final = 3
"""A control event that asks for a recommendation and changes nothing."""
ERASED: Final = 4
"""A control event that erased the record."""


def source_key(source: str) -> int:
    """32 bits that stand for an input partition ("topic/partition") in records; never 0."""
    return zlib.crc32(source.encode()) or 1


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """What a batch of B events did to the records of its U users."""

    states: States
    """(U,) each user's record after the batch."""
    after: States
    """(B,) the record of each event's user right after it."""
    outcome: NDArray[np.uint8]
    """(B,) APPLIED, DUPLICATE, REPLAYED, REQUESTED or ERASED."""
    changed: NDArray[np.bool_]
    """(U,) whether the record must be stored."""
    erased: NDArray[np.bool_]
    """(U,) whether nothing is left to store."""
    late: NDArray[np.bool_]
    """(B,) applied events that were too old for every window."""
    continues: NDArray[np.bool_]
    """(B,) whether the event continues a session."""
    previous: NDArray[np.uint64]
    """(B, 3) keys of the session's last distinct items before the event, most recent first; 0 for none."""
    previous_segments: NDArray[np.uint32]
    """(B, S) context values of the event before it in the session; 0 for none and for late events."""
    gap_s: NDArray[np.float32]
    """(B,) seconds since the user's newest event before this one; 0 for the first and for late ones."""
    anew: NDArray[np.bool_]
    """(B,) whether the event found a record that was too old: for it and after it the user is a new one."""
    earlier: NDArray[np.int32]
    """(B,) the row of the same user's last event before this one in the batch that changed the record, -1 for none."""


def fold(
    spec: StateSpec,
    states: States,
    batch: EventBatch,
    *,
    source: int | NDArray[np.uint32],
    weights: NDArray[np.float32],
    forget_after_ms: int = 0,
) -> Folded:
    """Apply a batch to its users' records.

    With `forget_after_ms`, a user who comes back more than that after the newest event of the record begins as a new
    one. Only the user's own times decide, so it does not matter who else there is, nor whether the record was removed
    meanwhile:

        record's newest event   |---- forget_after_ms ----|
        event                                      same ^ | ^ anew, and what was known goes

    Args:
        spec: the layout of the records.
        states: (U,) record of each of `batch.users`, not changed.
        batch: B events; those of a user come from one partition, in offset order.
        source: `source_key` of the partition, or (U,) of each user's.
        weights: (256,) weight by kind, see `EventTypes.weight_table`; kinds at or below 0 lead to no item.
        forget_after_ms: the silence after which nothing of a user is known any more; 0 for never.

    Raises:
        ValueError: records and users differ in number, or an event's kind or context fields have no place in a record.
    """
    n_events, n_users, n_segments = len(batch), len(batch.users), batch.segments.shape[1]
    if len(states) != n_users:
        raise ValueError(f"{len(states)} records for {n_users} users")
    if n_segments > N_SEGMENTS:
        raise ValueError(f"{n_segments} context fields are declared, a record remembers at most {N_SEGMENTS}")
    new = compiled_form(states) if n_users == 1 else copied(states)  # both are copies
    after = np.empty(n_events, spec.dtype)
    folded = Folded(
        states=new[:n_users],
        after=after,
        outcome=np.zeros(n_events, np.uint8),
        changed=np.zeros(n_users, np.bool_),
        erased=np.zeros(n_users, np.bool_),
        late=np.zeros(n_events, np.bool_),
        continues=np.zeros(n_events, np.bool_),
        previous=np.zeros((n_events, N_PREVIOUS), np.uint64),
        previous_segments=np.zeros((n_events, n_segments), np.uint32),
        gap_s=np.zeros(n_events, np.float32),
        anew=np.zeros(n_events, np.bool_),
        earlier=np.full(n_events, -1, np.int32),
    )
    if n_events == 0:
        return folded
    unknown = _fold(
        batch.offset,
        batch.user,
        batch.item,
        batch.kind,
        batch.ts_ms,
        batch.value,
        batch.event_id,
        batch.segments,
        np.full(n_users, source, np.uint32) if isinstance(source, int) else source,
        weights,
        spec.session_gap_ms,
        forget_after_ms,
        spec.bucket_ms,
        spec.n_buckets,
        _bytes_of(new),
        _bytes_of(after),
        blank_bytes(spec),
        np.full(n_users, -1, np.int32),
        new["source"],
        new["source_offset"],
        new["event_id"],
        new["ring_item"],
        new["ring_ms"],
        new["ring_value"],
        new["ring_kind"],
        new["segment"],
        new["head"],
        new["count"],
        new["sum"],
        new["first_ms"],
        new["last_ms"],
        new["session_start_ms"],
        new["session_length"],
        new["n_events"],
        new["n_late"],
        folded.outcome,
        folded.changed,
        folded.erased,
        folded.late,
        folded.continues,
        folded.previous,
        folded.previous_segments,
        folded.gap_s,
        folded.anew,
        folded.earlier,
    )
    if unknown >= 0:
        raise ValueError(f"the event type {unknown} is not one of the {spec.n_kinds} that records count")
    return folded


def _bytes_of(states: States) -> NDArray[np.uint8]:
    return states.view(np.uint8).reshape(len(states), states.dtype.itemsize)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fold(
    offset: Any,
    user: Any,
    item: Any,
    kind: Any,
    ts_ms: Any,
    value: Any,
    event_id: Any,
    segments: Any,
    source: Any,
    weights: Any,
    session_gap_ms: Any,
    forget_after_ms: Any,
    bucket_ms: Any,
    n_buckets: Any,
    raw: Any,
    raw_after: Any,
    raw_blank: Any,
    last_row: Any,
    s_source: Any,
    s_source_offset: Any,
    s_event_id: Any,
    ring_item: Any,
    ring_ms: Any,
    ring_value: Any,
    ring_kind: Any,
    s_segment: Any,
    head: Any,
    count: Any,
    total: Any,
    first_ms: Any,
    last_ms: Any,
    session_start_ms: Any,
    session_length: Any,
    n_events: Any,
    n_late: Any,
    outcome: Any,
    changed: Any,
    erased: Any,
    late: Any,
    continues: Any,
    previous: Any,
    previous_segments: Any,
    gap_s: Any,
    anew: Any,
    earlier: Any,
) -> Any:
    """Returns the first kind that the windows have no counter for, with nothing done; -1 if there is none."""
    n_ring, n_ids, n_sources = ring_item.shape[1], s_event_id.shape[1], s_source.shape[1]
    n_segments, n_scales = segments.shape[1], head.shape[1]
    for row in range(len(kind)):
        if kind[row] >= count.shape[3] and kind[row] != REQUEST and kind[row] != FORGET:
            return np.int64(kind[row])
    for row in range(len(offset)):
        u, ts = user[row], ts_ms[row]
        slot = -1
        for i in range(n_sources):
            if s_source[u, i] == source[u]:
                slot = i
                break
        if slot >= 0 and offset[row] <= s_source_offset[u, slot]:
            outcome[row] = REPLAYED
            raw_after[row] = raw[u]
            continue
        if forget_after_ms > 0 and last_ms[u] != NEVER_MS and ts - last_ms[u] > forget_after_ms and kind[row] != FORGET:
            anew[row] = True
            if kind[row] == REQUEST:  # it changes nothing: an event that is late may still find the record
                outcome[row] = REQUESTED
                raw_after[row] = raw_blank
                earlier[row] = last_row[u]
                continue
            applied, offsets = s_source[u].copy(), s_source_offset[u].copy()
            raw[u] = raw_blank
            s_source[u], s_source_offset[u] = applied, offsets  # so that what is read again stays a replay
        if last_ms[u] != NEVER_MS and ts > last_ms[u] and kind[row] != FORGET:
            gap_s[row] = (ts - last_ms[u]) / 1000.0
        if kind[row] == REQUEST:
            outcome[row] = REQUESTED
            raw_after[row] = raw[u]
            earlier[row] = last_row[u]
            continue
        if kind[row] == FORGET:
            outcome[row] = ERASED
            raw[u] = raw_blank
            raw_after[row] = raw_blank
            changed[u] = True
            erased[u] = True
            earlier[row] = last_row[u]
            last_row[u] = row
            continue
        if event_id[row] != 0:
            known = False
            for i in range(n_ids):
                if s_event_id[u, i] == event_id[row]:
                    known = True
                    break
            if known:
                outcome[row] = DUPLICATE
                raw_after[row] = raw[u]
                earlier[row] = last_row[u]
                continue
            for i in range(n_ids - 1, 0, -1):
                s_event_id[u, i] = s_event_id[u, i - 1]
            s_event_id[u, 0] = event_id[row]
        changed[u] = True
        erased[u] = False
        earlier[row] = last_row[u]
        last_row[u] = row

        if slot < 0:  # a source that the record does not know: the least recently added one makes room
            for i in range(n_sources - 1, 0, -1):
                s_source[u, i] = s_source[u, i - 1]
                s_source_offset[u, i] = s_source_offset[u, i - 1]
            slot = 0
            s_source[u, 0] = source[u]
        s_source_offset[u, slot] = offset[row]

        # Where the event belongs in the ring; ties in time are broken by content, so that arrival does not matter.
        place = n_ring - 1
        while place >= 0 and (
            ring_ms[u, place] > ts
            or (
                ring_ms[u, place] == ts
                and (
                    ring_item[u, place] > item[row]
                    or (
                        ring_item[u, place] == item[row]
                        and (
                            ring_kind[u, place] > kind[row]
                            or (
                                ring_kind[u, place] == kind[row]
                                # No value goes before any value: NaN compares with nothing, so it needs its own rule.
                                and not np.isnan(ring_value[u, place])
                                and (np.isnan(value[row]) or ring_value[u, place] > value[row])
                            )
                        )
                    )
                )
            )
        ):
            place -= 1

        # What led here: the events before it in event time, back to the first gap that ends a session.
        at_ms, found = ts, 0
        for i in range(place, -1, -1):
            if ring_ms[u, i] == NEVER_MS or at_ms - ring_ms[u, i] > session_gap_ms:
                break
            at_ms = ring_ms[u, i]
            continues[row] = True
            key = ring_item[u, i]
            if found == N_PREVIOUS or key == 0 or key == item[row] or weights[ring_kind[u, i]] <= 0:
                continue
            new_key = True
            for j in range(found):
                if previous[row, j] == key:
                    new_key = False
            if new_key:
                previous[row, found] = key
                found += 1

        if ts >= last_ms[u]:
            if continues[row]:
                for i in range(n_segments):
                    previous_segments[row, i] = s_segment[u, i]
            for i in range(n_segments):
                s_segment[u, i] = segments[row, i]
            last_ms[u] = ts
        if first_ms[u] == NEVER_MS or ts < first_ms[u]:
            first_ms[u] = ts
        n_events[u] += 1

        if place >= 0:
            for i in range(place):
                ring_item[u, i] = ring_item[u, i + 1]
                ring_ms[u, i] = ring_ms[u, i + 1]
                ring_value[u, i] = ring_value[u, i + 1]
                ring_kind[u, i] = ring_kind[u, i + 1]
            ring_item[u, place] = item[row]
            ring_ms[u, place] = ts
            ring_value[u, place] = value[row]
            ring_kind[u, place] = kind[row]
        at_ms, length = ring_ms[u, n_ring - 1], 1
        for i in range(n_ring - 2, -1, -1):
            if ring_ms[u, i] == NEVER_MS or at_ms - ring_ms[u, i] > session_gap_ms:
                break
            at_ms = ring_ms[u, i]
            length += 1
        session_start_ms[u] = at_ms
        session_length[u] = length

        in_a_window = False
        for scale in range(n_scales):
            bucket = ts // bucket_ms[scale]
            width = n_buckets[scale]
            if bucket > head[u, scale]:
                # The buckets between hold what is now a whole turn old, all of them if the turn is complete.
                oldest = max(head[u, scale] + 1, bucket - width + 1)
                for b in range(oldest, bucket + 1):
                    total[u, scale, b % width] = 0.0
                    for k in range(count.shape[3]):
                        count[u, scale, b % width, k] = 0
                head[u, scale] = bucket
            elif bucket <= head[u, scale] - width:
                continue
            in_a_window = True
            b = bucket % width
            if count[u, scale, b, kind[row]] < 65_535:
                count[u, scale, b, kind[row]] += 1
            if not np.isnan(value[row]):
                total[u, scale, b] += value[row]
        if not in_a_window:
            late[row] = True
            n_late[u] += 1
        raw_after[row] = raw[u]
    return np.int64(-1)

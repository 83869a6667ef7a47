"""Logs of events as plain values, how to draw them, and what they mean, recomputed the slow way.

Nothing here shares code with what it checks: users' pasts are lists, windows are counted from the raw events, and
sessions are walked backwards event by event.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from stream.core.events import FORGET, REQUEST, EventBatch, EventTypes, Request, item_key, segment_key
from stream.core.fold import Folded, fold, source_key
from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS, WindowSpec
from stream.core.state import StateSpec, blank_states, decode_states, encode_state

T0_MS = 19_705 * DAY_MS
"""A time at which a bucket of every default scale begins (35 days hold whole buckets of all of them)."""
WEIGHTS = EventTypes().weight_table()
SOURCE = "events/0"
SMALL = StateSpec(
    scales=(WindowSpec(5 * MINUTE_MS, 5), WindowSpec(HOUR_MS), WindowSpec(DAY_MS, 4)), n_ring=6, n_ids=3, n_sources=2
)
"""Small enough that every bound is met within a few events."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One event of the log; `name` is the producer's event id."""

    user: str
    item: str
    kind: int
    ts_ms: int
    value: float = math.nan
    name: str | None = None
    segment: str = ""
    request: Request | None = None


def batch_of(
    log: Sequence[Happening], first_offset: int = 0, *, offsets: Sequence[int] | None = None, n_segments: int = 1
) -> EventBatch:
    """The log as one batch, its offsets rising by one unless given."""
    return EventBatch.build(
        [event.user for event in log],
        [event.item for event in log],
        np.array([event.kind for event in log], np.uint8),
        np.array([event.ts_ms for event in log], np.int64),
        offset=np.arange(first_offset, first_offset + len(log)) if offsets is None else np.array(offsets, np.int64),
        value=np.array([event.value for event in log], np.float32),
        event_ids=[event.name for event in log],
        segments=np.array(
            [[segment_key(event.segment) if event.segment else 0] * n_segments for event in log], np.uint32
        ).reshape(len(log), n_segments),
        requests={row: event.request for row, event in enumerate(log) if event.request is not None},
    )


class Store:
    """Users' records as the worker keeps them: bytes between batches."""

    def __init__(self, spec: StateSpec) -> None:
        self.spec = spec
        self.records: dict[str, bytes] = {}

    def load(self, users: Sequence[str]) -> np.ndarray:
        return decode_states(self.spec, [self.records.get(user) for user in users])

    def save(self, batch: EventBatch, folded: Folded) -> None:
        for row, user in enumerate(batch.users):
            if folded.erased[row]:
                self.records.pop(user, None)
            elif folded.changed[row]:
                self.records[user] = encode_state(folded.states, row)

    def fold(self, batch: EventBatch, source: str = SOURCE) -> Folded:
        folded = fold(self.spec, self.load(batch.users), batch, source=source_key(source), weights=WEIGHTS)
        self.save(batch, folded)
        return folded

    def record(self, user: str) -> np.void:
        raw = self.records.get(user)
        return (blank_states(self.spec, 1) if raw is None else decode_states(self.spec, [raw]))[0]


def place(event: Happening) -> tuple[int, int, int, float]:
    """What orders events: time, then content; no value comes before any value."""
    value = -math.inf if math.isnan(event.value) else float(np.float32(event.value))
    return (event.ts_ms, item_key(event.item) if event.item else 0, event.kind, value)


@dataclass(slots=True)
class Past:
    """All that was applied of one user, in order of arrival."""

    spec: StateSpec
    applied: list[Happening] = field(default_factory=list)

    def ring(self) -> list[Happening]:
        return sorted(self.applied, key=place)[-self.spec.n_ring :]

    def before(self, event: Happening) -> list[Happening]:
        """The part of the ring that precedes the event, newest first, back to the first silence that ends a session."""
        walk, at_ms = [], event.ts_ms
        for other in reversed([other for other in self.ring() if place(other) <= place(event)]):
            if at_ms - other.ts_ms > self.spec.session_gap_ms:
                break
            walk.append(other)
            at_ms = other.ts_ms
        return walk

    def previous(self, event: Happening) -> list[int]:
        keys: list[int] = []
        for other in self.before(event):
            key = item_key(other.item) if other.item else 0
            if key and WEIGHTS[other.kind] > 0 and other.item != event.item and key not in keys:
                keys.append(key)
        return [*keys, 0, 0, 0][:3]

    def session(self) -> list[Happening]:
        """Events of the current session, newest first."""
        ring = self.ring()
        return self.before(ring[-1]) if ring else []

    def last_ms(self) -> int | None:
        return max((event.ts_ms for event in self.applied), default=None)

    def newest(self) -> Happening:
        """Of events at the newest time, the one that arrived last."""
        return next(event for event in reversed(self.applied) if event.ts_ms == self.last_ms())

    def counts(self, as_of_ms: int) -> np.ndarray:
        """(n_scales, n_kinds) events whose bucket is one of the last n_buckets as of a time."""
        counts = np.zeros((len(self.spec.scales), self.spec.n_kinds))
        for scale, window in enumerate(self.spec.scales):
            for event in self.applied:
                if in_window(window, event.ts_ms, as_of_ms):
                    counts[scale, event.kind] += 1
        return counts

    def sums(self, as_of_ms: int) -> np.ndarray:
        return np.array(
            [
                math.fsum(
                    event.value
                    for event in self.applied
                    if not math.isnan(event.value) and in_window(window, event.ts_ms, as_of_ms)
                )
                for window in self.spec.scales
            ]
        )


def in_window(window: WindowSpec, ts_ms: int, as_of_ms: int) -> bool:
    """`[start, end)` in milliseconds, as the documentation of scales draws it."""
    end_ms = (as_of_ms // window.bucket_ms + 1) * window.bucket_ms
    return end_ms - window.span_ms <= ts_ms < end_ms


ITEMS = ("i0", "i1", "i2", "i3", "i4")
_EDGES = sorted(
    {
        at + step
        for at in (
            0,
            MINUTE_MS,
            5 * MINUTE_MS,
            10 * MINUTE_MS,
            30 * MINUTE_MS,
            HOUR_MS,
            HOUR_MS + 10 * MINUTE_MS,
            6 * HOUR_MS,
            DAY_MS,
            3 * DAY_MS,
        )
        for step in (-1, 0, 1)
    }
)
"""On, right before and right after the ends of buckets, windows and sessions."""

_after_ms = st.one_of(
    st.sampled_from(_EDGES),
    st.integers(0, 12).map(lambda n: n * MINUTE_MS),
    st.integers(0, 2 * HOUR_MS),
    st.integers(0, 4 * DAY_MS),
)
times = _after_ms.map(lambda after_ms: T0_MS + after_ms)
values = st.one_of(st.just(math.nan), st.integers(-20, 20).map(lambda n: n / 4))  # exact in float32, so are their sums


def happenings(
    users: Sequence[str] = ("a",), *, names: bool = True, controls: bool = True, items: Sequence[str] = ITEMS
) -> st.SearchStrategy[Happening]:
    """Single events, their times in any order, some of them sent twice."""
    ordinary = st.builds(
        Happening,
        user=st.sampled_from(users),
        item=st.sampled_from(("", *items)),
        kind=st.integers(0, 7),
        ts_ms=times,
        value=values,
        name=st.sampled_from((None, None, "e0", "e1", "e2", "e3", "e4")) if names else st.none(),
        segment=st.sampled_from(("", "phone", "desk")),
    )
    if not controls:
        return ordinary
    control = st.builds(
        Happening,
        user=st.sampled_from(users),
        item=st.just(""),
        kind=st.sampled_from((REQUEST, REQUEST, FORGET)),
        ts_ms=times,
    )
    return st.one_of(ordinary, ordinary, ordinary, ordinary, ordinary, control)


def logs(users: Sequence[str] = ("a",), *, max_size: int = 30, **options: Any) -> st.SearchStrategy[list[Happening]]:
    return st.lists(happenings(users, **options), min_size=1, max_size=max_size)


def cuts(n: int) -> st.SearchStrategy[list[int]]:
    """Where a log of n events is cut into batches."""
    return st.lists(st.integers(0, n), max_size=6).map(lambda inner: sorted({0, n, *inner}))

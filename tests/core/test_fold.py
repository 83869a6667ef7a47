"""Folding: order of arrival, batch boundaries, repetitions and replays do not change what a record says."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import FORGET, REQUEST, EventBatch, item_key, segment_key
from stream.core.fold import APPLIED, DUPLICATE, ERASED, REPLAYED, REQUESTED, fold, source_key
from stream.core.scales import MINUTE_MS
from stream.core.state import NEVER_MS, StateSpec, blank_states
from tests.core.histories import (
    SMALL,
    SOURCE,
    T0_MS,
    WEIGHTS,
    Happening,
    Past,
    Store,
    batch_of,
    cuts,
    happenings,
    logs,
    place,
)


def at(minutes: float, item: str = "x", **rest: object) -> Happening:
    return replace(Happening("a", item, 0, T0_MS + int(minutes * MINUTE_MS)), **rest)  # type: ignore[arg-type]


def assert_says(record: np.void, past: Past) -> None:
    """The record holds just the ring and the session of the user's past."""
    ring = past.ring()
    n_free = past.spec.n_ring - len(ring)
    assert record["ring_ms"].tolist() == [NEVER_MS] * n_free + [event.ts_ms for event in ring]
    assert record["ring_item"].tolist() == [0] * n_free + [place(event)[1] for event in ring]
    assert record["ring_kind"].tolist() == [0] * n_free + [event.kind for event in ring]
    np.testing.assert_array_equal(record["ring_value"][n_free:], np.float32([event.value for event in ring]))
    session = past.session()
    assert record["session_length"] == len(session)
    assert record["session_start_ms"] == (session[-1].ts_ms if session else NEVER_MS)
    assert record["n_events"] == len(past.applied)
    last_ms = past.last_ms()
    assert record["last_ms"] == (NEVER_MS if last_ms is None else last_ms)
    assert record["first_ms"] == min((event.ts_ms for event in past.applied), default=NEVER_MS)
    if past.applied:
        segment = past.newest().segment
        assert record["segment"][0] == (segment_key(segment) if segment else 0)


@given(logs(("a", "b"), max_size=40))
def test_each_event_does_what_a_naive_walk_over_the_users_past_says(log: list[Happening]) -> None:
    store = Store(SMALL)
    folded = store.fold(batch_of(log))
    pasts: dict[str, Past] = {}
    ids: dict[str, list[str]] = {}
    changed_in: dict[str, int] = {}
    for row, event in enumerate(log):
        past = pasts.setdefault(event.user, Past(SMALL))
        known = ids.setdefault(event.user, [])
        last_ms = past.last_ms()
        expected_gap = (event.ts_ms - last_ms) / 1000 if last_ms is not None and event.ts_ms > last_ms else 0.0
        assert folded.earlier[row] == changed_in.get(event.user, -1)
        if event.kind == FORGET:
            assert folded.outcome[row] == ERASED
            pasts[event.user], ids[event.user] = Past(SMALL), []
            changed_in[event.user] = row
        elif event.kind == REQUEST:
            assert folded.outcome[row] == REQUESTED
            assert folded.gap_s[row] == np.float32(expected_gap)
        elif event.name is not None and event.name in known[-SMALL.n_ids :]:
            assert folded.outcome[row] == DUPLICATE
        else:
            assert folded.outcome[row] == APPLIED
            assert folded.gap_s[row] == np.float32(expected_gap)
            assert folded.previous[row].tolist() == past.previous(event)
            before = past.before(event)
            assert bool(folded.continues[row]) == bool(before)
            newest = past.newest().segment if before and event.ts_ms >= (last_ms or 0) else ""
            assert folded.previous_segments[row, 0] == (segment_key(newest) if newest else 0)
            past.applied.append(event)
            if event.name is not None:
                known.append(event.name)
            changed_in[event.user] = row
        assert_says(folded.after[row], pasts[event.user])
    for user, past in pasts.items():
        assert_says(store.record(user), past)


@given(st.lists(happenings(names=False, controls=False), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(log: list[Happening], chance: object) -> None:
    """
    one order     a(10:00)  b(10:03)  c(10:07)        the other     c(10:07)  a(10:00)  b(10:03)
    """
    log = [replace(event, segment="") for event in log]  # of equal times, the context that arrived last stands
    shuffled = list(log)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Store(SMALL), Store(SMALL)
    one.fold(batch_of(log))
    other.fold(batch_of(shuffled))
    a, b = one.record("a"), other.record("a")
    for name in a.dtype.names or ():
        if name != "n_late":  # late is late on arrival
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@given(logs(("a", "b", "c"), max_size=30).flatmap(lambda log: st.tuples(st.just(log), cuts(len(log)))))
def test_batch_boundaries_leave_no_trace(drawn: tuple[list[Happening], list[int]]) -> None:
    log, bounds = drawn
    whole, pieces = Store(SMALL), Store(SMALL)
    folded = whole.fold(batch_of(log))
    parts = [pieces.fold(batch_of(log[start:end], start)) for start, end in itertools.pairwise(bounds)]
    assert pieces.records == whole.records
    for name in ("outcome", "late", "continues", "previous", "previous_segments", "gap_s"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(folded, name))
    assert b"".join(part.after.tobytes() for part in parts) == folded.after.tobytes()


@given(logs(("a", "b"), max_size=25, controls=False), st.data())
def test_replays_change_nothing_and_are_called_so(log: list[Happening], data: st.DataObject) -> None:
    """
    offsets   0 1 2 3 4 5 6 7
                  ^ the worker starts again here: 2 to 7 come a second time
    """
    store = Store(SMALL)
    first = store.fold(batch_of(log))
    before = dict(store.records)
    start = data.draw(st.integers(0, len(log) - 1))
    again = store.fold(batch_of(log[start:], start))
    assert store.records == before
    assert not again.changed.any()
    for row, event in enumerate(log[start:]):
        last_applied = max(
            (r for r, other in enumerate(log) if other.user == event.user and first.outcome[r] == APPLIED), default=-1
        )
        expected = REPLAYED if start + row <= last_applied else DUPLICATE
        assert again.outcome[row] == expected


@given(logs(("a",), max_size=20, controls=False, names=False), st.data())
def test_what_a_producer_sends_twice_changes_nothing(log: list[Happening], data: st.DataObject) -> None:
    """
    e0  e1  e2  e1  e3        the second e1 is a duplicate, as long as few enough ids came between
                ^
    """
    named = [replace(event, name=f"e{row}") for row, event in enumerate(log)]
    row = data.draw(st.integers(0, len(named) - 1))
    back = data.draw(st.integers(0, min(row, SMALL.n_ids - 1)))
    twice = [*named[: row + 1], named[row - back], *named[row + 1 :]]
    clean, noisy = Store(SMALL), Store(SMALL)
    clean.fold(batch_of(named))
    folded = noisy.fold(batch_of(twice))
    assert folded.outcome.tolist() == [APPLIED] * (row + 1) + [DUPLICATE] + [APPLIED] * (len(log) - row - 1)
    a, b = clean.record("a"), noisy.record("a")
    for name in a.dtype.names or ():
        if name != "source_offset":
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_each_source_has_its_own_last_offset() -> None:
    """
    events/0   7        8 (new)      7 again (replayed)
    events/1       3         3 again (replayed)      4 (new)
    """
    store = Store(SMALL)
    steps = [
        ("events/0", 7, APPLIED),
        ("events/1", 3, APPLIED),
        ("events/0", 8, APPLIED),
        ("events/1", 3, REPLAYED),
        ("events/0", 7, REPLAYED),
        ("events/1", 4, APPLIED),
    ]
    for minute, (source, offset, outcome) in enumerate(steps):
        assert store.fold(batch_of([at(minute)], offset), source).outcome.tolist() == [outcome]
    assert store.record("a")["n_events"] == 4


def test_of_more_sources_than_a_record_holds_the_one_added_first_is_forgotten() -> None:
    store = Store(SMALL)  # room for two
    for source in ("events/0", "events/1", "events/2"):
        store.fold(batch_of([at(0)], 5), source)
    assert store.fold(batch_of([at(0)], 5), "events/2").outcome[0] == REPLAYED
    assert store.fold(batch_of([at(0)], 5), "events/1").outcome[0] == REPLAYED
    assert store.fold(batch_of([at(0)], 5), "events/0").outcome[0] == APPLIED


def test_forgetting_leaves_nothing_of_what_came_before() -> None:
    """
    x  y  forget  z          the record is the one of a user who only ever had z
    """
    store, fresh = Store(SMALL), Store(SMALL)
    folded = store.fold(batch_of([at(0), at(1, "y"), Happening("a", "", FORGET, T0_MS), at(2, "z")]))
    fresh.fold(batch_of([at(2, "z")], 3))
    assert store.records == fresh.records
    assert folded.outcome.tolist() == [APPLIED, APPLIED, ERASED, APPLIED]
    assert folded.changed.tolist() == [True]
    assert folded.erased.tolist() == [False]
    assert folded.previous[3].tolist() == [0, 0, 0]
    assert not folded.continues[3]


def test_a_forgotten_user_has_nothing_to_store() -> None:
    store = Store(SMALL)
    folded = store.fold(batch_of([at(0), Happening("a", "", FORGET, T0_MS), Happening("a", "", REQUEST, T0_MS)]))
    assert folded.erased.tolist() == [True]
    assert store.records == {}
    assert folded.after[1:].tobytes() == blank_states(SMALL, 2).tobytes()


def test_a_request_leaves_the_record_alone() -> None:
    store = Store(SMALL)
    store.fold(batch_of([at(0)]))
    before = dict(store.records)
    folded = store.fold(batch_of([Happening("a", "", REQUEST, T0_MS + 90_000)], 1))
    assert folded.outcome.tolist() == [REQUESTED]
    assert not folded.changed.any()
    assert store.records == before
    assert folded.gap_s.tolist() == [90.0]


def test_what_led_to_an_event_skips_repetitions_dislikes_and_the_event_itself() -> None:
    """
    u  v  v  -w  x  |  x        w was disliked; the last event is x again
                       ^ led to by v, u
    """
    store = Store(SMALL)
    log = [at(0, "u"), at(1, "v"), at(2, "v"), at(3, "w", kind=6), at(4, "x"), at(5, "x")]
    assert store.fold(batch_of(log)).previous[-1].tolist() == [item_key("v"), item_key("u"), 0]


def test_a_session_ends_after_its_gap_and_not_at_it() -> None:
    """
    x ---- 30 min ---- y ---- 30 min and 1 ms ---- z
    |_________one session_______|                  |_another
    """
    store = Store(SMALL)
    folded = store.fold(batch_of([at(0, "x"), at(30, "y"), replace(at(60, "z"), ts_ms=T0_MS + 60 * MINUTE_MS + 1)]))
    assert folded.continues.tolist() == [False, True, False]
    assert folded.after["session_length"].tolist() == [1, 2, 1]


def test_a_late_event_can_join_two_sessions() -> None:
    """
    x(0:00)            z(0:50)        y(0:25) comes last, and the session begins at x
    """
    store = Store(SMALL)
    folded = store.fold(batch_of([at(0, "x"), at(50, "z"), at(25, "y")]))
    assert folded.after["session_length"].tolist() == [1, 1, 3]
    assert folded.after["session_start_ms"][-1] == T0_MS
    assert folded.previous[-1].tolist() == [item_key("x"), 0, 0]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_events_alike_but_for_their_value_have_one_order(order: tuple[int, ...]) -> None:
    """A value that is missing compares with nothing, but needs its place."""
    log = [at(0, value=value) for value in (2.0, math.nan, -1.0)]
    store = Store(SMALL)
    store.fold(batch_of([log[i] for i in order]))
    np.testing.assert_array_equal(store.record("a")["ring_value"][-3:], np.float32([math.nan, -1.0, 2.0]))


def test_a_kind_that_records_do_not_count_is_refused() -> None:
    """Its counter would lie outside the record."""
    spec = replace(SMALL, n_kinds=2)
    with pytest.raises(ValueError, match="event type 2 is not one of the 2"):
        Store(spec).fold(batch_of([at(0, kind=2)]))
    Store(spec).fold(batch_of([at(0, kind=1), at(0, kind=REQUEST), at(0, kind=FORGET)]))


def test_the_given_records_are_not_changed() -> None:
    spec = StateSpec()
    states = blank_states(spec, 1)
    before = states.tobytes()
    fold(spec, states, batch_of([at(0)]), source=source_key(SOURCE), weights=WEIGHTS)
    assert states.tobytes() == before


def test_an_empty_batch_does_nothing() -> None:
    batch = EventBatch.build([], [], [], [])
    folded = fold(SMALL, blank_states(SMALL, 0), batch, source=1, weights=WEIGHTS)
    assert len(folded.states) == len(folded.after) == 0


def test_records_and_users_must_agree() -> None:
    with pytest.raises(ValueError, match="2 records for 1 users"):
        fold(SMALL, blank_states(SMALL, 2), batch_of([at(0)]), source=1, weights=WEIGHTS)
    with pytest.raises(ValueError, match="5 context fields"):
        fold(SMALL, blank_states(SMALL, 1), batch_of([at(0)], n_segments=5), source=1, weights=WEIGHTS)

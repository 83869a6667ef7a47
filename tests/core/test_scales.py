"""Windows: where their ends are, and that counts and sums read from a record are those of the raw events."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.scales import DAY_MS, DEFAULT_SCALES, HOUR_MS, MINUTE_MS, WindowSpec
from stream.core.state import StateSpec, window_counts, window_sums
from tests.core.histories import SMALL, T0_MS, Happening, Past, Store, batch_of, in_window, logs


def test_the_default_scales_reach_from_minutes_to_a_month() -> None:
    assert [scale.name for scale in DEFAULT_SCALES] == ["5m", "1h", "1d", "7d", "30d"]
    assert all(T0_MS % scale.bucket_ms == 0 for scale in DEFAULT_SCALES)


@pytest.mark.parametrize(("span_ms", "n_buckets"), [(0, 6), (-5, 1), (10, 0), (10, -2), (100, 6)])
def test_a_span_that_is_not_whole_buckets_is_refused(span_ms: int, n_buckets: int) -> None:
    with pytest.raises(ValueError, match=str(span_ms)):
        WindowSpec(span_ms, n_buckets)


@pytest.mark.parametrize("scale", range(len(DEFAULT_SCALES)))
def test_an_event_counts_from_its_own_bucket_until_its_bucket_leaves(scale: int) -> None:
    """
    |event      |           |    …      |           |
    ^ edge                              ^ last bucket in which it counts
                                                    ^ span later: gone
    """
    spec, window = StateSpec(), DEFAULT_SCALES[scale]
    store = Store(spec)
    store.fold(batch_of([Happening("a", "x", 0, T0_MS)]))
    states = store.load(["a"])

    def counted(as_of_ms: int) -> float:
        return float(window_counts(spec, states, np.array([as_of_ms]))[0, scale, 0])

    assert counted(T0_MS) == 1
    assert counted(T0_MS + window.span_ms - 1) == 1
    assert counted(T0_MS + window.span_ms) == 0
    assert counted(T0_MS - 1) == 0, "the event lies in the future of this read"


@pytest.mark.parametrize("scale", range(len(DEFAULT_SCALES)))
@pytest.mark.parametrize("step", [1, 2, 5, 6, 7])
def test_turning_the_ring_of_buckets_leaves_nothing_of_the_turn_before(scale: int, step: int) -> None:
    """
    an event in every bucket, or every second, …      |x|x|x|x|x|x|x|x|x|
                                                             [ window  ]
    """
    spec, window = StateSpec(), DEFAULT_SCALES[scale]
    store, past = Store(spec), Past(spec)
    for n in range(20):
        event = Happening("a", "x", 0, T0_MS + n * step * window.bucket_ms, 1.0)
        store.fold(batch_of([event], n))
        past.applied.append(event)
        states, at = store.load(["a"]), np.array([event.ts_ms])
        np.testing.assert_array_equal(window_counts(spec, states, at)[0], past.counts(event.ts_ms))
        np.testing.assert_array_equal(window_sums(spec, states, at)[0], past.sums(event.ts_ms))


@given(logs(controls=False, names=False, max_size=40), st.integers(0, 3 * DAY_MS))
def test_windows_equal_a_recount_of_the_raw_events_on_every_prefix(log: list[Happening], later_ms: int) -> None:
    """
    arrival   10:00   10:07   9:12      each prefix is read as of its newest event
                              ^ late    and as of a later time
    """
    store, past = Store(SMALL), Past(SMALL)
    for offset, event in enumerate(log):
        store.fold(batch_of([event], offset))
        past.applied.append(event)
        states, newest_ms = store.load(["a"]), past.last_ms()
        assert newest_ms is not None
        for as_of_ms in (newest_ms, newest_ms + later_ms):
            at = np.array([as_of_ms])
            np.testing.assert_array_equal(window_counts(SMALL, states, at)[0], past.counts(as_of_ms))
            np.testing.assert_allclose(window_sums(SMALL, states, at)[0], past.sums(as_of_ms), atol=1e-4)


@given(logs(controls=False, names=False, max_size=20))
def test_only_events_too_old_for_every_window_are_late(log: list[Happening]) -> None:
    """Late means late on arrival: as of the newest event that came before it."""
    store = Store(SMALL)
    folded = store.fold(batch_of(log))
    n_late = 0
    for row, event in enumerate(log):
        newest_ms = max(other.ts_ms for other in log[: row + 1])
        expected = not any(in_window(window, event.ts_ms, newest_ms) for window in SMALL.scales)
        assert bool(folded.late[row]) == expected
        n_late += expected
    assert store.record("a")["n_late"] == n_late


def test_a_counter_stops_at_its_end_instead_of_starting_over() -> None:
    n = 65_540
    spec = StateSpec(scales=(WindowSpec(5 * MINUTE_MS), WindowSpec(HOUR_MS)))
    store = Store(spec)
    store.fold(batch_of([Happening("a", "x", 2, T0_MS, 1.0)] * n))
    states = store.load(["a"])
    at = np.array([T0_MS])
    assert window_counts(spec, states, at)[0, :, 2].tolist() == [65_535, 65_535]
    assert window_sums(spec, states, at)[0].tolist() == [n, n], "values are not counters"


def test_a_read_changes_nothing() -> None:
    store = Store(SMALL)
    store.fold(batch_of([Happening("a", "x", 0, T0_MS, 2.0)]))
    states = store.load(["a"])
    before = states.tobytes()
    window_counts(SMALL, states, np.array([T0_MS + DAY_MS]))
    window_sums(SMALL, states, np.array([T0_MS + DAY_MS]))
    assert states.tobytes() == before


def test_an_event_without_a_value_adds_to_no_sum() -> None:
    store = Store(SMALL)
    store.fold(batch_of([Happening("a", "x", 0, T0_MS, math.nan), Happening("a", "x", 0, T0_MS, 1.5)]))
    assert window_sums(SMALL, store.load(["a"]), np.array([T0_MS]))[0].tolist() == [1.5, 1.5, 1.5]

"""Records: their bytes are all there is of them, other layouts are carried over, and what is no record says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.fold import REPLAYED
from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS, WindowSpec
from stream.core.state import (
    NEVER_MS,
    StateError,
    StateSpec,
    blank_states,
    decode_states,
    encode_state,
    records_at,
    window_counts,
    window_sums,
)
from tests.core.histories import SMALL, Happening, Past, Store, batch_of, in_window, logs

OTHER_SCALES = (WindowSpec(10 * MINUTE_MS, 2), WindowSpec(2 * DAY_MS, 8))


def recorded(spec: StateSpec, log: list[Happening]) -> bytes:
    store = Store(spec)
    store.fold(batch_of(log))
    return store.records["a"]


SIZES = {
    # (n_ring, n_model) -> bytes of a user's record at the default scales: the README's table
    (16, 0): 1160,
    (32, 0): 1496,
    (32, 64): 1624,
    (32, 128): 1752,
    (32, 256): 2008,
    (64, 0): 2168,
    (64, 256): 2680,
}


@pytest.mark.parametrize(("setting", "n_bytes"), SIZES.items())
def test_a_users_record_has_the_published_size(setting: tuple[int, int], n_bytes: int) -> None:
    n_ring, n_model = setting
    spec = StateSpec(n_ring=n_ring, n_model=n_model)
    assert spec.n_bytes == n_bytes == len(encode_state(blank_states(spec, 1), 0))


def test_a_users_record_fits_two_kibibytes_at_defaults_even_with_recurrent_state() -> None:
    assert StateSpec(n_model=256).n_bytes <= 2048


def test_records_lie_aligned_in_arrays() -> None:
    for spec in (StateSpec(), SMALL, StateSpec(n_ring=7, n_ids=1, n_sources=3, n_kinds=5, n_model=3)):
        assert spec.n_bytes % 8 == 0
        assert all(
            offset % dtype.base.itemsize == 0 for dtype, offset, *_ in (spec.dtype.fields or {}).values()
        )  # numba reads fields in place


@given(logs(controls=False))
def test_bytes_come_back_as_they_went(log: list[Happening]) -> None:
    raw = recorded(SMALL, log)
    states = decode_states(SMALL, [raw, None, raw])
    assert [encode_state(states, row) for row in (0, 2)] == [raw, raw]
    assert encode_state(states, 1) == encode_state(blank_states(SMALL, 1), 0)
    assert decode_states(SMALL, [raw]).flags.writeable


def test_no_records_are_no_records() -> None:
    assert len(decode_states(SMALL, [])) == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"n_ring": 3},
        {"n_ring": 20},
        {"n_ids": 1},
        {"n_ids": 9},
        {"n_sources": 1},
        {"n_sources": 5},
        {"n_kinds": 3},
        {"n_kinds": 12},
        {"n_model": 16},
        {"scales": OTHER_SCALES},
        {"scales": OTHER_SCALES, "n_ring": 4, "n_model": 8},
        {"scales": (*SMALL.scales, WindowSpec(30 * DAY_MS))},
    ],
    ids=str,
)
@given(log=logs(controls=False, names=False))
def test_a_record_of_another_layout_keeps_what_does_not_depend_on_it(changed: dict, log: list[Happening]) -> None:
    old, new = SMALL, replace(SMALL, **changed)
    raw = recorded(old, log)
    before, after = decode_states(old, [raw])[0], decode_states(new, [raw])[0]
    for name in ("session_start_ms", "first_ms", "last_ms", "n_events", "n_late"):
        assert after[name] == before[name]
    assert after["segment"].tolist() == before["segment"].tolist()
    assert after["session_length"] == min(before["session_length"], new.n_ring)
    n = min(old.n_ring, new.n_ring)
    for name in ("ring_item", "ring_ms", "ring_kind", "ring_value"):
        np.testing.assert_array_equal(after[name][-n:], before[name][-n:])
    assert set(after["ring_ms"][:-n].tolist()) <= {NEVER_MS}
    for name, kept in (("event_id", min(old.n_ids, new.n_ids)), ("source_offset", min(old.n_sources, new.n_sources))):
        assert after[name][:kept].tolist() == before[name][:kept].tolist()
    assert after["model_tag"] == 0, "nobody wrote recurrent state"
    assert after["layout"] == new.layout
    again = decode_states(new, [encode_state(decode_states(new, [raw]), 0)])
    assert encode_state(again, 0) == encode_state(decode_states(new, [raw]), 0)


@pytest.mark.parametrize(("wrote", "has_room"), [([1.5, -2.0], True), ([1.5, -2.0, 0.0, 0.5], False)])
def test_recurrent_state_is_carried_over_where_all_of_it_fits_and_else_left_to_be_rebuilt(
    wrote: list[float], has_room: bool
) -> None:
    """In an experiment a record is as wide as its widest model; what a narrower one wrote has zeros behind it."""
    wide, narrow = replace(SMALL, n_model=4), replace(SMALL, n_model=2)
    states = decode_states(wide, [None])
    states["model"][0, : len(wrote)], states["model_tag"] = wrote, 7
    after = decode_states(narrow, [encode_state(states, 0)])
    assert after["model"][0].tolist() == (wrote if has_room else [0.0, 0.0])
    assert after["model_tag"].tolist() == [7 if has_room else 0]
    back = decode_states(wide, [encode_state(after, 0)])
    assert back["model_tag"].tolist() == after["model_tag"].tolist()
    assert back["model"][0, :2].tolist() == after["model"][0].tolist()


@given(log=logs(controls=False, names=False), later_ms=st.integers(0, 2 * DAY_MS))
def test_the_same_scales_keep_their_windows_in_another_layout(log: list[Happening], later_ms: int) -> None:
    """A bundle with another width of recurrent state must not cost users a month of counts."""
    new = replace(SMALL, n_model=32, n_ring=2)
    raw, past = recorded(SMALL, log), Past(SMALL, log)
    as_of_ms = (past.last_ms() or 0) + later_ms
    states, at = decode_states(new, [raw]), np.array([as_of_ms])
    np.testing.assert_array_equal(window_counts(new, states, at)[0], past.counts(as_of_ms))
    np.testing.assert_allclose(window_sums(new, states, at)[0], past.sums(as_of_ms), atol=1e-4)


@given(log=logs(controls=False, names=False))
def test_other_scales_are_counted_anew_from_the_ring(log: list[Happening]) -> None:
    new = replace(SMALL, scales=OTHER_SCALES)
    ring = Past(SMALL, log).ring()
    as_of_ms = ring[-1].ts_ms
    states, at = decode_states(new, [recorded(SMALL, log)]), np.array([as_of_ms])
    counts, sums = window_counts(new, states, at)[0], window_sums(new, states, at)[0]
    for scale, window in enumerate(OTHER_SCALES):
        inside = [event for event in ring if in_window(window, event.ts_ms, as_of_ms)]
        expected = np.bincount([event.kind for event in inside], minlength=new.n_kinds)
        assert counts[scale].tolist() == expected.tolist()
        assert sums[scale] == pytest.approx(np.nansum([event.value for event in inside]), abs=1e-4)


@given(log=logs(controls=False, names=False), more=logs(controls=False, names=False, max_size=6))
def test_a_carried_over_record_goes_on_as_if_it_had_always_been_so(log: list[Happening], more: list[Happening]) -> None:
    """What came before is still a replay, and what comes counts: only what the shorter ring forgot is missing."""
    new = replace(SMALL, n_model=8, n_ids=5)
    moved, always = Store(new), Store(new)
    moved.records["a"] = recorded(SMALL, log)
    always.fold(batch_of(log))
    assert set(moved.fold(batch_of(log)).outcome.tolist()) == {REPLAYED}
    moved.fold(batch_of(more, len(log)))
    always.fold(batch_of(more, len(log)))
    assert moved.records == always.records


@given(raw=st.binary(max_size=700))
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(StateError):
        decode_states(SMALL, [None, raw])


@given(log=logs(controls=False), cut=st.integers(0, SMALL.n_bytes - 1))
def test_truncated_records_are_refused(log: list[Happening], cut: int) -> None:
    with pytest.raises(StateError):
        decode_states(SMALL, [recorded(SMALL, log)[:cut]])


@given(position=st.integers(0, 15), byte=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_harmless(position: int, byte: int) -> None:
    raw = bytearray(encode_state(blank_states(SMALL, 1), 0))
    raw[position] = byte
    try:
        states = decode_states(SMALL, [bytes(raw)])
    except StateError:
        return
    assert states.dtype == SMALL.dtype


def test_records_of_another_version_are_refused_by_name() -> None:
    raw = bytearray(encode_state(blank_states(SMALL, 1), 0))
    raw[0] = 7
    raw[4] ^= 255  # the layout's checksum covers the version
    with pytest.raises(StateError, match="version 7, this program reads 1"):
        decode_states(SMALL, [bytes(raw)])


def test_a_header_of_impossible_sizes_is_refused() -> None:
    raw = bytearray(encode_state(blank_states(SMALL, 1), 0))
    raw[4] ^= 255
    raw[8] = 0
    with pytest.raises(StateError, match="impossible sizes"):
        decode_states(SMALL, [bytes(raw)])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scales": ()}, "at least one"),
        ({"scales": (WindowSpec(HOUR_MS), WindowSpec(MINUTE_MS))}, "ascending"),
        ({"scales": (WindowSpec(HOUR_MS), WindowSpec(HOUR_MS, 4))}, "distinct"),
        ({"scales": (WindowSpec(300, 300),)}, "255 buckets"),
        ({"n_ring": 0}, "n_ring"),
        ({"n_ids": 256}, "n_ids"),
        ({"n_sources": 0}, "n_sources"),
        ({"n_kinds": -1}, "n_kinds"),
        ({"n_model": 65_536}, "n_model"),
    ],
    ids=str,
)
def test_impossible_layouts_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StateSpec(**changed)


@given(st.sets(st.integers(0, 11)))
def test_records_are_found_at_any_rows(rows: set[int]) -> None:
    """With gaps between them or without, one, or none."""
    states = blank_states(StateSpec(), 12)
    states["n_events"] = np.arange(12)
    found = records_at(states, np.array(sorted(rows), np.intp))
    assert found.dtype == states.dtype
    assert found["n_events"].tolist() == sorted(rows)

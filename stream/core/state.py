"""What is kept of one user: one NumPy record of fixed size, whose bytes are its only stored form.

A record's header says its own sizes, so that a record written under another layout (other scales, a longer ring,
another model's state) can still be read: `decode_states` carries over what does not depend on the layout and, where the
scales differ, rebuilds the windows from the ring of recent events.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stream.core.scales import DEFAULT_SCALES, MINUTE_MS, WindowSpec

__all__ = [
    "NEVER_MS",
    "N_SEGMENTS",
    "StateError",
    "StateSpec",
    "States",
    "blank_bytes",
    "blank_states",
    "compiled_form",
    "copied",
    "decode_states",
    "encode_state",
    "last_offset",
    "newest_ms",
    "records_at",
    "window_counts",
    "window_sums",
]

States: TypeAlias = NDArray[np.void]

RECORD_VERSION = 1
N_SEGMENTS = 4
"""Context fields whose last value a record remembers."""
NEVER_MS = -(2**62)
"""The time of what has not happened; far enough from the ends of int64 that differences do not overflow."""


class StateError(ValueError):
    """A stored record cannot be read."""


@dataclass(frozen=True, slots=False)
class StateSpec:
    """The layout of a user's record.

    Attributes:
        scales: one window each; a bundle states the ones that it was trained with.
        n_ring: recent events kept in full (item, time, kind, value).
        n_ids: recent event ids kept to recognise a producer's duplicates.
        n_sources: input partitions whose last applied offset is kept. A user's events come from one partition of each
            input topic; more are needed only while partitions are being re-laid.
        n_kinds: event kinds counted separately in the windows.
        n_model: values of recurrent state, stored as float16.
        session_gap_ms: silence that ends a session.
    """

    scales: tuple[WindowSpec, ...] = DEFAULT_SCALES
    n_ring: int = 32
    n_ids: int = 8
    n_sources: int = 4
    n_kinds: int = 8
    n_model: int = 0
    session_gap_ms: int = 30 * MINUTE_MS

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("a state needs at least one time scale")
        spans = [scale.span_ms for scale in self.scales]
        if spans != sorted(set(spans)):
            raise ValueError(f"time scales must be distinct and ascending, not {spans} ms")
        for name in ("n_ring", "n_ids", "n_sources", "n_kinds"):
            if not 1 <= getattr(self, name) <= 255:
                raise ValueError(f"{name} must be between 1 and 255, not {getattr(self, name)}")
        if len(self.scales) > 255 or max(scale.n_buckets for scale in self.scales) > 255:
            raise ValueError("a state has at most 255 time scales of at most 255 buckets each")
        if not 0 <= self.n_model <= 65_535:
            raise ValueError(f"n_model must be between 0 and 65535, not {self.n_model}")

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The record's dtype. Eight-byte fields stand first, so that every field is aligned without padding between."""
        max_buckets = max(scale.n_buckets for scale in self.scales)
        return _dtype(
            self.n_ring, self.n_ids, self.n_sources, len(self.scales), max_buckets, self.n_kinds, self.n_model
        )

    @cached_property
    def layout(self) -> int:
        """A checksum of everything that decides how a record's bytes are to be read."""
        text = repr((RECORD_VERSION, self.scales, self.n_ring, self.n_ids, self.n_sources, self.n_kinds, self.n_model))
        return zlib.crc32(text.encode()) or 1

    @property
    def n_bytes(self) -> int:
        """Size of one user's record."""
        return self.dtype.itemsize

    @cached_property
    def bucket_ms(self) -> NDArray[np.int64]:
        """(n_scales,) length of a bucket at each scale."""
        return np.array([scale.bucket_ms for scale in self.scales], np.int64)

    @cached_property
    def n_buckets(self) -> NDArray[np.int64]:
        """(n_scales,) buckets in use at each scale; the record holds the largest number for all."""
        return np.array([scale.n_buckets for scale in self.scales], np.int64)


@lru_cache(maxsize=64)
def _dtype(
    n_ring: int, n_ids: int, n_sources: int, n_scales: int, max_buckets: int, n_kinds: int, n_model: int
) -> np.dtype[Any]:
    fields: list[tuple[str, str, tuple[int, ...]]] = [
        # The header comes first and never moves: it is what makes a foreign record readable.
        ("version", "<u2", ()),
        ("n_model", "<u2", ()),
        ("layout", "<u4", ()),
        ("sizes", "u1", (6,)),  # n_ring, n_ids, n_sources, n_scales, max_buckets, n_kinds
        ("session_length", "<u2", ()),  # events of the current session, at most n_ring
        ("session_start_ms", "<i8", ()),
        ("first_ms", "<i8", ()),
        ("last_ms", "<i8", ()),
        ("source_offset", "<i8", (n_sources,)),
        ("event_id", "<u8", (n_ids,)),
        ("ring_item", "<u8", (n_ring,)),
        ("ring_ms", "<i8", (n_ring,)),  # ascending, right-aligned: the newest event is the last
        ("head", "<i8", (n_scales,)),  # bucket index of the newest event, per scale
        ("source", "<u4", (n_sources,)),  # 0 for an unused slot
        ("n_events", "<u4", ()),
        ("n_late", "<u4", ()),  # events too old for any window
        ("model_tag", "<u4", ()),  # which bundle wrote `model`; 0 for none
        ("segment", "<u4", (N_SEGMENTS,)),  # the newest event's context values
        ("ring_value", "<f4", (n_ring,)),
        ("sum", "<f4", (n_scales, max_buckets)),
        ("count", "<u2", (n_scales, max_buckets, n_kinds)),  # saturating
        ("model", "<f2", (n_model,)),
        ("ring_kind", "u1", (n_ring,)),
    ]
    packed = np.dtype(fields)
    padding = -packed.itemsize % 8  # keeps every record of an array aligned
    return np.dtype([*fields, ("padding", "u1", (padding,))]) if padding > 0 else packed


def blank_states(spec: StateSpec, n: int) -> States:
    """(n,) records of users of whom nothing is known."""
    return np.tile(blank_bytes(spec), (n, 1)).reshape(-1).view(spec.dtype)


@lru_cache(maxsize=64)
def blank_bytes(spec: StateSpec) -> NDArray[np.uint8]:
    """(n_bytes,) one blank record; not to be written to."""
    blank = np.zeros(1, spec.dtype)
    blank["version"] = RECORD_VERSION
    blank["n_model"] = spec.n_model
    blank["layout"] = spec.layout
    blank["sizes"] = (
        spec.n_ring,
        spec.n_ids,
        spec.n_sources,
        len(spec.scales),
        int(spec.n_buckets.max()),
        spec.n_kinds,
    )
    for field in ("session_start_ms", "first_ms", "last_ms", "ring_ms"):
        blank[field] = NEVER_MS
    blank["source_offset"] = -1
    blank["head"] = NEVER_MS
    return blank.view(np.uint8)


def compiled_form(states: States) -> States:
    """The same records, for compiled code that reads their fields: a copy with a row more if there is only one.

    NumPy calls the fields of a single record contiguous, those of several not; for each layout the compiler would make
    code of its own, which takes seconds in the middle of a stream.
    """
    if len(states) != 1:
        return states
    # Through bytes: joining two records as records compares their two dozen fields first.
    twice = np.empty((2, states.dtype.itemsize), np.uint8)
    twice[:] = states.view(np.uint8)
    return twice.reshape(-1).view(states.dtype)


def copied(states: States) -> States:
    """A copy, made as bytes: NumPy would copy field by field."""
    if not states.flags.c_contiguous:
        return states.copy()
    return states.view(np.uint8).copy().view(states.dtype)


def records_at(states: States, rows: NDArray[np.intp]) -> States:
    """(R,) the records at rising `rows`, not to be written to: without a copy where no row is left out between them."""
    if len(rows) > 0 and int(rows[-1]) - int(rows[0]) == len(rows) - 1:
        return states[int(rows[0]) : int(rows[-1]) + 1]
    raw = states.view(np.uint8).reshape(len(states), states.dtype.itemsize)
    found: States = raw[rows].reshape(-1).view(states.dtype)
    return found


def encode_state(states: States, row: int) -> bytes:
    """The stored form of one record."""
    raw: bytes = states[row].tobytes()
    return raw


def decode_states(spec: StateSpec, stored: Sequence[bytes | None]) -> States:
    """(B,) records, writable, from stored bytes; None stands for a user of whom nothing is stored.

    Raises:
        StateError: bytes that are no record of this or an earlier version.
    """
    n_bytes, layout = spec.n_bytes, spec.layout.to_bytes(4, "little")
    if all(raw is not None and len(raw) == n_bytes and raw[4:8] == layout for raw in stored):
        return np.frombuffer(bytearray(b"".join(stored)), spec.dtype)  # type: ignore[arg-type]
    states = blank_states(spec, len(stored))
    for row, raw in enumerate(stored):
        if raw is None:
            continue
        if len(raw) == n_bytes and raw[4:8] == layout:
            states[row] = np.frombuffer(raw, spec.dtype)[0]
        else:
            _migrate(spec, states[row : row + 1], raw)
    return states


def newest_ms(raw: bytes) -> int:
    """The time of the newest event in a stored record, of whatever layout; NEVER_MS where there is none."""
    return int.from_bytes(raw[_NEWEST : _NEWEST + 8], "little", signed=True)


def last_offset(raw: bytes, key: int) -> int:
    """The last offset of an input partition that a stored record of any layout holds; -1 where it holds none.

    Args:
        key: `stream.core.fold.source_key` of the partition.

    Raises:
        StateError: see `decode_states`.
    """
    record = _as_written(raw)[0]
    held = np.flatnonzero(record["source"] == key)
    return int(record["source_offset"][held[0]]) if len(held) > 0 else -1


_NEWEST = int(StateSpec().dtype.fields["last_ms"][1])  # type: ignore[index]  # before it all fields have one size
_HEADER = np.dtype([("version", "<u2"), ("n_model", "<u2"), ("layout", "<u4"), ("sizes", "u1", (6,))])


def _migrate(spec: StateSpec, state: States, raw: bytes) -> None:
    """Carry a record of another layout over into `state` (1,), in place.

    Offsets, ids, session and ring are copied (the newest of each that fit), and windows where both layouts have the
    same scales. For other scales they are counted anew from the ring, so at long scales they miss what the ring had
    already forgotten. Recurrent state keeps its owner's tag if all of it fits; else it is left to be rebuilt from the
    ring.
    """
    old = _as_written(raw)
    header, sizes = old[0], [int(size) for size in old["sizes"][0]]
    for field in ("session_start_ms", "first_ms", "last_ms", "n_events", "n_late", "segment"):
        state[field] = old[field]
    state["session_length"] = np.minimum(old["session_length"], spec.n_ring)
    for field in ("ring_item", "ring_ms", "ring_value", "ring_kind"):  # newest last
        n = min(state[field].shape[1], old[field].shape[1])
        state[field][:, -n:] = old[field][:, -n:]
    for field in ("source", "source_offset", "event_id"):  # newest first
        n = min(state[field].shape[1], old[field].shape[1])
        state[field][:, :n] = old[field][:, :n]
    n = min(spec.n_model, old["model"].shape[1])
    if not old["model"][:, n:].any():  # a narrower model of the same experiment leaves zeros behind its own state
        state["model"][:, :n] = old["model"][:, :n]
        state["model_tag"] = old["model_tag"]
    n_ring, n_ids, n_sources, _, _, n_kinds = sizes
    with_our_scales = replace(
        spec, n_ring=n_ring, n_ids=n_ids, n_sources=n_sources, n_kinds=n_kinds, n_model=int(header["n_model"])
    )
    if with_our_scales.layout == int(header["layout"]):
        n = min(spec.n_kinds, n_kinds)
        state["head"], state["sum"] = old["head"], old["sum"]
        state["count"][..., :n] = old["count"][..., :n]
    else:
        _recount(spec, state)


def _as_written(raw: bytes) -> States:
    """(1,) a stored record in its own layout, as its header tells it; StateError where it is none."""
    if len(raw) < _HEADER.itemsize:
        raise StateError(f"a stored state of {len(raw)} bytes is too short to have a header")
    header = np.frombuffer(raw, _HEADER, 1)[0]
    if int(header["version"]) != RECORD_VERSION:
        raise StateError(f"a stored state has version {int(header['version'])}, this program reads {RECORD_VERSION}")
    sizes = [int(size) for size in header["sizes"]]
    if min(sizes) < 1:
        raise StateError(f"a stored state has the impossible sizes {sizes} in its header")
    dtype = _dtype(*sizes, int(header["n_model"]))
    if dtype.itemsize != len(raw):
        raise StateError(f"a stored state of {len(raw)} bytes says in its header that it has {dtype.itemsize}")
    written: States = np.frombuffer(raw, dtype, 1)
    return written


def _recount(spec: StateSpec, state: States) -> None:
    """Fill the empty windows of `state` (1,) from its ring, in place."""
    if int(state["last_ms"][0]) == NEVER_MS:
        return
    state["head"][0] = int(state["last_ms"][0]) // spec.bucket_ms
    for item_ms, kind, value in zip(state["ring_ms"][0], state["ring_kind"][0], state["ring_value"][0], strict=True):
        if item_ms == NEVER_MS or kind >= spec.n_kinds:
            continue
        for scale, window in enumerate(spec.scales):
            bucket = int(item_ms) // window.bucket_ms
            head = int(state["head"][0, scale])
            if head - window.n_buckets < bucket <= head:
                slot = bucket % window.n_buckets
                state["count"][0, scale, slot, kind] += 1
                state["sum"][0, scale, slot] += np.float32(0 if np.isnan(value) else value)


def _live_buckets(spec: StateSpec, states: States, as_of_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(B, n_scales, max_buckets): which stored buckets lie in the window as of a time."""
    max_buckets = states["sum"].shape[2]
    slot = np.arange(max_buckets)
    head = states["head"][:, :, None]  # (B, S, 1) bucket of the newest event
    n_buckets = spec.n_buckets[None, :, None]
    # A slot holds the newest bucket <= head that is congruent to it.
    bucket = head - (head - slot) % n_buckets
    now = (as_of_ms[:, None] // spec.bucket_ms)[:, :, None]
    live: NDArray[np.bool_] = (slot < n_buckets) & (bucket > now - n_buckets) & (bucket <= now)
    return live


def window_counts(spec: StateSpec, states: States, as_of_ms: NDArray[np.int64]) -> NDArray[np.float32]:
    """(B, n_scales, n_kinds) events in each window as of `as_of_ms` (B,), see `stream.core.scales` for its ends."""
    live = _live_buckets(spec, states, as_of_ms)
    return np.asarray((states["count"] * live[..., None]).sum(2), np.float32)


def window_sums(spec: StateSpec, states: States, as_of_ms: NDArray[np.int64]) -> NDArray[np.float32]:
    """(B, n_scales) sum of the values in each window as of `as_of_ms` (B,)."""
    live = _live_buckets(spec, states, as_of_ms)
    return np.asarray((states["sum"] * live).sum(2), np.float32)

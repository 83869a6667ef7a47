"""Activity messages come back as they were, and corrupt ones say what is wrong instead of giving wrong arrays."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.activity import ActivityBatch
from stream.wire.activity import decode_activity, encode_activity
from stream.wire.errors import WireError


def _activity(
    n_entries: int, n_segments: int = 2, n_items: int = 3, first: int = 2**40, seed: int = 0
) -> ActivityBatch:
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 5, n_entries)
    offset = first + np.cumsum(steps) - 1
    return ActivityBatch(
        source="events/3",
        first=first,
        last=int(offset[-1]) if n_entries else first,
        segment_fields=tuple(f"field{number}" for number in range(n_segments)),
        item_ids=[f"item-ä{number}" for number in range(n_items)],
        offset=offset.astype(np.int64),
        item=rng.integers(0, n_items, n_entries).astype(np.int32),
        kind=rng.integers(0, 8, n_entries).astype(np.uint8),
        weight=rng.normal(size=n_entries).astype(np.float32),
        ts_ms=rng.integers(-(2**62), 2**62, n_entries),
        continues=rng.random(n_entries) < 0.5,
        previous=rng.integers(0, 2**64, (n_entries, 3), dtype=np.uint64, endpoint=False),
        segments=rng.integers(0, 2**32, (n_entries, n_segments)).astype(np.uint32),
        previous_segments=rng.integers(0, 2**32, (n_entries, n_segments)).astype(np.uint32),
    )


@pytest.mark.parametrize("n_entries", [0, 1, 2, 300])
@pytest.mark.parametrize("n_segments", [0, 1, 3])
@pytest.mark.parametrize("n_items", [1, 256, 257, 70_000])
def test_a_batch_comes_back_as_it_was(n_entries: int, n_segments: int, n_items: int) -> None:
    batch = _activity(n_entries, n_segments, n_items)
    back = decode_activity(encode_activity(batch))
    for field in fields(ActivityBatch):
        before, after = getattr(batch, field.name), getattr(back, field.name)
        np.testing.assert_array_equal(after, before, err_msg=field.name)
        assert getattr(after, "dtype", None) == getattr(before, "dtype", None), field.name


def test_the_arrays_of_a_message_cannot_be_written_to() -> None:
    back = decode_activity(encode_activity(_activity(3)))
    for column in (back.offset, back.item, back.weight, back.continues, back.previous):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0


def test_an_unsound_batch_is_not_sent() -> None:
    with pytest.raises(ValueError, match="outside the 3"):
        encode_activity(replace(_activity(2), item=np.array([0, 3], np.int32)))


_ITEM_IDS, _OFFSET, _ITEM, _KIND, _CONTINUES, _PREVIOUS = 5, 6, 7, 8, 11, 12


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        (0, 2, "has version 2, this program reads 1"),
        (1, 7, "Expected `str`"),
        (2, -1, "empty or negative"),
        (3, 0, "empty or negative"),
        (_ITEM_IDS, [], "outside the 0 item ids"),
        (_ITEM_IDS, ["x", "x", "y"], "repeat"),
        (_OFFSET, ["<u1", b"\1\0"], "item has 4 values"),
        (_OFFSET, ["<u2", b"\1\0\1"], "no multiple of 2"),
        (_OFFSET, ["|O8", b"\0" * 32], "dtype '|O8'"),
        (_ITEM, ["<u1", b"\0"], "item has 1 values"),
        (_ITEM, ["<f4", b"\0" * 16], "dtype '<f4'"),
        (_KIND, ["<u1", b"\x09\0\0\0"], "event type 9"),
        (_CONTINUES, ["|b1", b"\2\0\0\0"], "other than 0 and 1"),
        (_PREVIOUS, ["<u8", b"\0" * 16], "previous has 2 values"),
        (_PREVIOUS, ["<u8", "text"], "Expected `bytes`"),
    ],
)
def test_a_corrupt_message_says_what_is_wrong(place: int, content: Any, message: str) -> None:
    parts = msgspec.msgpack.decode(encode_activity(_activity(4)))
    parts[place] = content
    with pytest.raises(WireError, match=message.replace("|", r"\|")):
        decode_activity(msgspec.msgpack.encode(parts))


@given(st.data(), st.integers(0, 20))
def test_damaged_messages_are_sound_or_refused_and_nothing_else(data: st.DataObject, n_entries: int) -> None:
    message = bytearray(encode_activity(_activity(n_entries)))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    _is_sound_or_refused(bytes(message[: data.draw(st.integers(0, len(message)))]))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_as_corrupt(message: bytes) -> None:
    _is_sound_or_refused(message)


def _is_sound_or_refused(message: bytes) -> None:
    refusal = ""
    try:
        encode_activity(decode_activity(message))
    except WireError as error:
        refusal = error.message
    assert refusal == "" or "activity message" in refusal

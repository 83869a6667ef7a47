"""Activity messages: the columns of an ActivityBatch as MessagePack.

Layout: one array [version, source, first, last, segment fields, item ids, nine columns]; each column is [dtype, bytes],
the bytes little-endian and row-major. A tenth column stands there where what users come back to is counted. Items and
offsets travel in the narrowest type that holds them, offsets as their distance from `first`. Dtypes and lengths in a
message are checked against what each column may be, never obeyed.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream.core.activity import N_EARLIER, N_PREVIOUS, ActivityBatch, checked
from stream.wire.errors import WireError

__all__ = ["VERSION", "decode_activity", "encode_activity"]

VERSION: Final = 1

_UNSIGNED: Final = ("<u1", "<u2", "<u4", "<u8")
_WIDTHS: Final = {dtype: np.dtype(dtype).itemsize for dtype in (*_UNSIGNED, "<f4", "<i8", "|b1")}


class _Column(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    dtype: str
    data: bytes


class _Activity(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    version: int
    source: str
    first: int
    last: int
    segment_fields: tuple[str, ...]
    item_ids: list[str]
    offset: _Column
    item: _Column
    kind: _Column
    weight: _Column
    ts_ms: _Column
    continues: _Column
    previous: _Column
    segments: _Column
    previous_segments: _Column


class _Returning(_Activity, array_like=True, forbid_unknown_fields=True, gc=False):
    earlier: _Column | None = None


class _Head(msgspec.Struct, array_like=True, gc=False):
    version: int


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Returning).decode
_decode_head: Final = msgspec.msgpack.Decoder(_Head).decode


def encode_activity(batch: ActivityBatch) -> bytes:
    """The message of one batch; ValueError if the batch is not sound, see `stream.core.activity.checked`."""
    checked(batch)
    content = (
        VERSION,
        batch.source,
        batch.first,
        batch.last,
        batch.segment_fields,
        batch.item_ids,
        _narrow(batch.offset - batch.first),
        _narrow(batch.item),
        _fixed(batch.kind, "<u1"),
        _fixed(batch.weight, "<f4"),
        _fixed(batch.ts_ms, "<i8"),
        _fixed(batch.continues, "|b1"),
        _fixed(batch.previous, "<u8"),
        _fixed(batch.segments, "<u4"),
        _fixed(batch.previous_segments, "<u4"),
    )
    if batch.earlier is None:
        return _encode(_Activity(*content))
    return _encode(_Returning(*content, earlier=_fixed(batch.earlier, "<u8")))


def decode_activity(message: bytes) -> ActivityBatch:
    """The batch in one message; its arrays cannot be written to. WireError says how a message is corrupt."""
    try:
        wire = _decoded(message)
        offset = _read("offset", wire.offset, _UNSIGNED)
        n_entries = len(offset)
        n_segments = len(wire.segment_fields)
        return checked(
            ActivityBatch(
                source=wire.source,
                first=wire.first,
                last=wire.last,
                segment_fields=wire.segment_fields,
                item_ids=wire.item_ids,
                offset=_frozen(offset.astype(np.int64) + wire.first),
                item=_frozen(_shaped("item", wire.item, _UNSIGNED, (n_entries,)).astype(np.int32)),
                kind=_shaped("kind", wire.kind, ("<u1",), (n_entries,)),
                weight=_shaped("weight", wire.weight, ("<f4",), (n_entries,)),
                ts_ms=_shaped("ts_ms", wire.ts_ms, ("<i8",), (n_entries,)),
                continues=_booleans(_shaped("continues", wire.continues, ("|b1",), (n_entries,))),
                previous=_shaped("previous", wire.previous, ("<u8",), (n_entries, N_PREVIOUS)),
                segments=_shaped("segments", wire.segments, ("<u4",), (n_entries, n_segments)),
                previous_segments=_shaped(
                    "previous_segments", wire.previous_segments, ("<u4",), (n_entries, n_segments)
                ),
                earlier=None
                if wire.earlier is None
                else _shaped("earlier", wire.earlier, ("<u8",), (n_entries, N_EARLIER)),
            )
        )
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise WireError(f"an activity message is corrupt: {error}") from error


def _decoded(message: bytes) -> _Returning:
    try:
        wire = _decode(message)
    except msgspec.DecodeError:
        _check_version(_decode_head(message).version)  # what another version wrote may look like anything
        raise
    _check_version(wire.version)
    return wire


def _check_version(version: int) -> None:
    if version != VERSION:
        raise WireError(f"an activity message has version {version}, this program reads {VERSION}.")


def _narrow(column: npt.NDArray[Any]) -> _Column:
    largest = int(np.maximum.reduce(column)) if column.size else 0
    return _fixed(column, next(dtype for dtype in _UNSIGNED if largest < 1 << (8 * _WIDTHS[dtype])))


def _fixed(column: npt.NDArray[Any], dtype: str) -> _Column:
    return _Column(dtype, column.astype(dtype, copy=False).tobytes())


def _read(name: str, column: _Column, allowed: tuple[str, ...]) -> npt.NDArray[Any]:
    if column.dtype not in allowed:
        raise ValueError(f"{name} has the dtype {column.dtype[:20]!r}, expected {' or '.join(allowed)}")
    n_bytes, width = len(column.data), _WIDTHS[column.dtype]
    if n_bytes % width:
        raise ValueError(f"{name} has {n_bytes} bytes, which is no multiple of {width}")
    return np.frombuffer(column.data, column.dtype)


def _shaped(name: str, column: _Column, allowed: tuple[str, ...], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    values = _read(name, column, allowed)
    if values.size != prod(shape):
        raise ValueError(f"{name} has {values.size} values, expected the shape {shape}")
    return values.reshape(shape) if len(shape) > 1 else values


def _booleans(column: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    # A boolean array over other bytes than 0 and 1 behaves as no boolean does.
    if column.size and np.maximum.reduce(column.view(np.uint8)) > 1:
        raise ValueError("continues holds bytes other than 0 and 1")
    return column


def _frozen(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    column.flags.writeable = False
    return column

"""Events as the core sees them: columns of one batch, with names and ids already turned into numbers.

Nothing here reads JSON or Kafka; `stream.wire` makes these batches from messages, training makes them from logs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

__all__ = [
    "FORGET",
    "MAX_KINDS",
    "REQUEST",
    "EventBatch",
    "EventTypes",
    "Request",
    "event_keys",
    "item_key",
    "item_keys",
    "segment_key",
    "segment_keys",
    "segment_text",
]

MAX_KINDS: Final = 8
"""States and statistics hold one counter per kind, so the number of kinds is part of their fixed size."""

REQUEST: Final = 254
"""Code of the control type `request`: recommend now, without anything having happened."""

FORGET: Final = 255
"""Code of the control type `forget`: erase this user."""

_CONTROLS: Final = {"request": REQUEST, "forget": FORGET}
_EXACT: Final = 2.0**53  # beyond it a float no longer tells neighbouring whole numbers apart
_CACHED_KEYS: Final = 1 << 17  # about 25 MB when full: popular ids stay, one-off ids fall out

Rows = slice | npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class EventTypes:
    """The kinds of event of one deployment; a kind's code is its position.

    A weight says how much one such event speaks for its item: 0 counts nothing, below 0 speaks against it.
    Codes are stored in states and in bundles, so a deployment appends kinds and never reorders them.

    Raises ValueError for no kinds, more than MAX_KINDS, repeated, empty or control names, and weights that are not
    finite.

    >>> EventTypes().codes()["purchase"]
    3
    """

    names: tuple[str, ...] = ("view", "click", "cart", "purchase", "rating", "like", "dislike", "return")
    weights: tuple[float, ...] = (1.0, 1.0, 2.0, 3.0, 1.0, 2.0, -2.0, -1.0)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_KINDS:
            raise ValueError(f"between 1 and {MAX_KINDS} event types are possible, got {len(self.names)}")
        if len(self.weights) != len(self.names):
            raise ValueError(f"{len(self.names)} event types but {len(self.weights)} weights")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"event types repeat: {', '.join(self.names)}")
        for name, weight in zip(self.names, self.weights, strict=True):
            if not name or name in _CONTROLS:
                raise ValueError(f"{name!r} cannot be the name of an event type")
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {name!r} is {weight}")

    def codes(self) -> dict[str, int]:
        """Name -> code, the two control types included."""
        return {name: code for code, name in enumerate(self.names)} | _CONTROLS

    def name_of(self, code: int) -> str:
        """The name behind a code; ValueError when there is none."""
        if 0 <= code < len(self.names):
            return self.names[code]
        for name, control in _CONTROLS.items():
            if control == code:
                return name
        raise ValueError(f"no event type has the code {code}")

    def weight_table(self) -> npt.NDArray[np.float32]:
        """Weight by code, (256,): `table[batch.kind]` gives (B,) weights. Control types and unused codes weigh 0."""
        table = np.zeros(256, np.float32)
        table[: len(self.weights)] = self.weights
        return table

    def as_json(self) -> dict[str, float]:
        """Name -> weight in the order of the codes, as manifests and configuration files hold it."""
        return dict(zip(self.names, self.weights, strict=True))

    @classmethod
    def from_json(cls, weights: Mapping[str, float]) -> Self:
        """The inverse of `as_json`; the mapping's order gives the codes."""
        return cls(tuple(weights), tuple(float(weight) for weight in weights.values()))


@dataclass(frozen=True, slots=True)
class Request:
    """What an event may ask of the recommendation that it causes; only control events of type `request` carry one."""

    n: int | None = None
    """How many items; None leaves it to the worker."""
    exclude: tuple[str, ...] = ()
    """Items that must not be recommended."""
    only: tuple[str, ...] | None = None
    """If given, nothing but these may be recommended."""


@lru_cache(maxsize=_CACHED_KEYS)
def item_key(item_id: str) -> int:
    """64 bits that stand for an item in arrays: the same on every machine and in every run, and never 0."""
    return int.from_bytes(blake2b(item_id.encode(), digest_size=8).digest(), "little") or 1


@lru_cache(maxsize=_CACHED_KEYS)
def segment_key(value: str) -> int:
    """32 bits that stand for the value of a context field (a device, a referrer, a country); never 0."""
    return int.from_bytes(blake2b(value.encode(), digest_size=4).digest(), "little") or 1


def segment_text(value: str | float | None) -> str:
    """A context field's value as the text that `segment_key` takes; empty for None and NaN, which mean missing.

    Whole numbers have one text however their producer writes them, so that 3 and 3.0 are one segment.

    >>> [segment_text(value) for value in (3, 3.0, 2.5, True, "3", None)]
    ['3', '3', '2.5', 'true', '3', '']
    """
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN is the one number that differs from itself
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return str(value)


def item_keys(item_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """`item_key` of each id, (B,); the empty id means no item and gives 0."""
    return np.fromiter([item_key(item_id) if item_id else 0 for item_id in item_ids], np.uint64, len(item_ids))


def segment_keys(values: Sequence[str]) -> npt.NDArray[np.uint32]:
    """`segment_key` of each value, (B,); the empty value means that the field is missing and gives 0."""
    return np.fromiter([segment_key(value) if value else 0 for value in values], np.uint32, len(values))


def event_keys(event_ids: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """64 bits for each producer-given event id, (B,); None and the empty id give 0.

    Not cached: an event id is there to be seen once.
    """
    keys = np.zeros(len(event_ids), np.uint64)
    rows = [row for row, event_id in enumerate(event_ids) if event_id]
    if rows:
        digests = b"".join([blake2b((event_ids[row] or "").encode(), digest_size=8).digest() for row in rows])
        keys[rows] = np.maximum(np.frombuffer(digests, "<u8"), 1)
    return keys


@dataclass(frozen=True, slots=True, eq=False)
class EventBatch:
    """B valid events of one partition as columns, in the order of their offsets. The arrays are not to be written to.

    `users` are distinct and in order of first appearance, and each has at least one event.
    """

    offset: npt.NDArray[np.int64]
    """(B,) position in the input partition, rising."""
    user: npt.NDArray[np.int32]
    """(B,) index into `users`."""
    users: list[str]
    item_ids: list[str]
    """(B,) the empty string where an event has no item."""
    item: npt.NDArray[np.uint64]
    """(B,) `item_key` of the item, 0 for none."""
    kind: npt.NDArray[np.uint8]
    """(B,) code of the event's type, see `EventTypes`."""
    ts_ms: npt.NDArray[np.int64]
    """(B,) event time, UTC epoch milliseconds; not necessarily rising."""
    value: npt.NDArray[np.float32]
    """(B,) price, rating or amount, NaN for none."""
    event_id: npt.NDArray[np.uint64]
    """(B,) hash of the producer's event id, 0 for none."""
    event_ids: list[str | None]
    segments: npt.NDArray[np.uint32]
    """(B, S) `segment_key` of the S declared context fields, 0 where one is missing."""
    requests: dict[int, Request]
    """Row -> what the event asks for."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @classmethod
    def build(
        cls,
        user_ids: Sequence[str],
        item_ids: Sequence[str | None],
        kind: npt.ArrayLike,
        ts_ms: npt.ArrayLike,
        *,
        offset: npt.ArrayLike | None = None,
        value: npt.ArrayLike | None = None,
        event_ids: Sequence[str | None] | None = None,
        segments: npt.ArrayLike | None = None,
        requests: Mapping[int, Request] | None = None,
    ) -> Self:
        """A batch from columns of B rows each, for logs and tests; what is left out is taken as missing.

        Offsets count from 0 unless given; `segments` are keys, (B, S), S = 0 unless given.
        Raises ValueError when the columns do not fit together.
        """
        n_events = len(user_ids)
        row_of = {user_id: row for row, user_id in enumerate(dict.fromkeys(user_ids))}
        items = [item_id or "" for item_id in item_ids]
        names: list[str | None] = [event_id or None for event_id in event_ids or [None] * n_events]
        batch = cls(
            offset=np.arange(n_events, dtype=np.int64) if offset is None else np.asarray(offset, np.int64),
            user=np.fromiter(map(row_of.__getitem__, user_ids), np.int32, n_events),
            users=list(row_of),
            item_ids=items,
            item=item_keys(items),
            kind=np.asarray(kind, np.uint8),
            ts_ms=np.asarray(ts_ms, np.int64),
            value=np.full(n_events, np.nan, np.float32) if value is None else np.asarray(value, np.float32),
            event_id=event_keys(names),
            event_ids=names,
            segments=np.zeros((n_events, 0), np.uint32) if segments is None else np.asarray(segments, np.uint32),
            requests=dict(requests or {}),
        )
        batch._check()
        return batch

    def take(self, rows: Rows) -> Self:
        """The events at these rows, which must rise: a slice, a mask (B,) or indices. Users are numbered anew."""
        index = np.arange(len(self))[rows]
        chosen = index.tolist()
        old, first, inverse = np.unique(self.user[index], return_index=True, return_inverse=True)
        by_appearance = np.argsort(first)
        renumbered = np.empty(len(old), np.int32)
        renumbered[by_appearance] = np.arange(len(old), dtype=np.int32)
        requests = {new: self.requests[row] for new, row in enumerate(chosen) if row in self.requests}
        batch = type(self)(
            offset=self.offset[index],
            user=renumbered[inverse],
            users=[self.users[row] for row in old[by_appearance].tolist()],
            item_ids=[self.item_ids[row] for row in chosen],
            item=self.item[index],
            kind=self.kind[index],
            ts_ms=self.ts_ms[index],
            value=self.value[index],
            event_id=self.event_id[index],
            event_ids=[self.event_ids[row] for row in chosen],
            segments=self.segments[index],
            requests=requests,
        )
        if not _rises(batch.offset):
            raise ValueError("rows must be taken in rising order and once each")
        return batch

    def user_ids(self) -> list[str]:
        """(B,) the user of each event."""
        return [self.users[row] for row in self.user.tolist()]

    def _check(self) -> None:
        n_events = len(self)
        columns: dict[str, npt.NDArray[Any]] = {
            "offset": self.offset,
            "user": self.user,
            "kind": self.kind,
            "ts_ms": self.ts_ms,
            "value": self.value,
        }
        for name, column in columns.items():
            if column.shape != (n_events,):
                raise ValueError(f"{name} has the shape {column.shape} beside {n_events} item ids")
        if len(self.event_ids) != n_events:
            raise ValueError(f"{len(self.event_ids)} event ids beside {n_events} item ids")
        if self.segments.ndim != 2 or len(self.segments) != n_events:
            raise ValueError(f"segments have the shape {self.segments.shape}, expected ({n_events}, S)")
        if not _rises(self.offset):
            raise ValueError("offsets must rise")
        if any(not 0 <= row < n_events for row in self.requests):
            raise ValueError(f"a request belongs to a row outside 0..{n_events - 1}")


def _rises(offset: npt.NDArray[np.int64]) -> bool:
    return bool(np.all(offset[1:] > offset[:-1]))

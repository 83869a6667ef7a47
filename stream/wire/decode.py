"""Bytes of a batch of records -> columns of events, and what had to be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from stream.core.events import REQUEST, EventBatch, EventTypes, Request, event_keys, item_keys, segment_keys
from stream.core.events import segment_text as text_of
from stream.wire.careful import check_event, read_event, usable_value
from stream.wire.limits import Limits
from stream.wire.messages import IMPRESSION, Event, Scalar
from stream.wire.reasons import Malformed, Record, Rejected

__all__ = ["Decoded", "EventDecoder"]

_UNKNOWN: Final = 200  # a code that neither a kind nor a control type has
_SHOWN: Final = 201  # an impression, where that is none of the declared types
_FEW: Final = 8
"""So few events are judged one by one: looking for suspects in columns costs more."""
_LARGEST_VALUE: Final = float(np.finfo(np.float32).max)
_FIELDS_OF_EVENT: Final = attrgetter(
    "user_id", "event_type", "ts_ms", "item_id", "event_id", "value", "context", "n", "exclude", "only"
)
_FIELDS_OF_RECORD: Final = attrgetter("offset", "timestamp", "key", "value")


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a batch of records held.

    Each record is a row of `batch`, or one of `rejected`, both in the order of the records, or one of the
    `n_impressions` that are for those who count and change nothing here.
    """

    batch: EventBatch
    rejected: list[Rejected]
    n_impressions: int = 0


class _Columns(NamedTuple):
    """B events as they were read; arrays are (B,)."""

    user_ids: tuple[str, ...]
    item_ids: list[str]
    event_ids: list[str | None]
    kind: npt.NDArray[np.uint8]
    ts_ms: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    contexts: tuple[dict[str, Scalar] | None, ...]
    asks: tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]
    """n, exclude and only."""
    offset: npt.NDArray[np.int64]
    timestamps: tuple[int | None, ...]
    keys: tuple[bytes | None, ...]
    n_bytes: npt.NDArray[np.int64]


class EventDecoder:
    """Reads events of one deployment.

    Args:
        types: the event types that are accepted, besides `request` and `forget`. Impressions are passed over, unless
            they are declared and so count as any other event.
        segment_fields: the S context fields that become `EventBatch.segments`.
        limits: what is refused as too large, too long or too far off.
    """

    def __init__(self, types: EventTypes, segment_fields: tuple[str, ...] = (), limits: Limits | None = None) -> None:
        self.types: Final = types
        self.segment_fields: Final = segment_fields
        self.limits: Final = limits or Limits()
        self._code_of: Final = types.codes()
        self._kind_of: Final = {IMPRESSION: _SHOWN, **self._code_of}
        self._read: Final = msgspec.json.Decoder(Event).decode
        # A string has at most as many characters as its message has bytes, and a context field takes at least five:
        # no event in a message this short can break these limits.
        self._short_bytes: Final = min(
            self.limits.max_id_chars, self.limits.max_context_chars, 5 * self.limits.max_context_fields
        )

    def decode(self, records: Sequence[Record]) -> Decoded:
        """Every record of one partition's batch, in the order of offsets; no content of a record makes this raise."""
        return self.decode_all([records])[0]

    def decode_all(self, batches: Sequence[Sequence[Record]]) -> list[Decoded]:
        """Batches of several partitions, each as `decode` would; many small ones cost little more than one."""
        events: list[Event] = []
        taken: list[Record] = []
        ends: list[int] = []
        faults: list[list[Rejected]] = []
        for records in batches:
            faults.append(self._read_all(records, events, taken))
            ends.append(len(events))
        n_shown = [0] * len(batches)
        if not events:
            return [Decoded(self._no_events(), of) for of in faults]
        columns = self._columns(events, taken)
        found = self._check(self._suspects(columns).tolist(), events, taken)
        shown = {row for row in np.flatnonzero(columns.kind == _SHOWN).tolist() if row not in found}
        if found or shown:
            first, keep, kept_ends = 0, list[int](), list[int]()
            for place, end in enumerate(ends):
                faults[place] += [found[row] for row in range(first, end) if row in found]
                faults[place].sort(key=lambda rejected: rejected.record.offset)
                n_shown[place] = sum(row in shown for row in range(first, end))
                keep += [row for row in range(first, end) if row not in found and row not in shown]
                kept_ends.append(len(keep))
                first = end
            events, taken, ends = [events[row] for row in keep], [taken[row] for row in keep], kept_ends
            if events:
                columns = self._columns(events, taken)
        parts = self._batches(columns, ends) if events else [self._no_events() for _ in ends]
        return [Decoded(*of) for of in zip(parts, faults, n_shown, strict=True)]

    def _read_all(self, records: Sequence[Record], events: list[Event], taken: list[Record]) -> list[Rejected]:
        """Read records, adding to `events` and to the records `taken` that they come from; those that are none."""
        faults: list[Rejected] = []
        read, max_bytes = self._read, self.limits.max_bytes
        for record in records:
            value = record.value
            try:
                if value is None or len(value) > max_bytes or not (value.isascii() or value.decode()):
                    raise ValueError  # noqa: TRY301 - on to the careful reading, which finds the reason
                event = read(value)
            except Exception:  # noqa: BLE001 - a parser's surprise must not stop the worker either
                try:
                    event = read_event(usable_value(value, self.limits))
                    check_event(event, record, self._code_of, self.limits)
                except Malformed as fault:
                    faults.append(Rejected(record, fault.reason, fault.detail))
                    continue
            events.append(event)
            taken.append(record)
        return faults

    def _columns(self, events: Sequence[Event], records: Sequence[Record]) -> _Columns:
        n_events = len(events)
        fields: tuple[tuple[Any, ...], ...] = tuple(zip(*map(_FIELDS_OF_EVENT, events), strict=True))
        user_ids, event_types, ts_ms, item_ids, event_ids, values, contexts, n, exclude, only = fields
        offsets, timestamps, keys, raw = zip(*map(_FIELDS_OF_RECORD, records), strict=True)
        n_values = n_events - values.count(None)
        value = np.array([np.nan if number is None else number for number in values]) if n_values else None
        kind_of = self._kind_of
        return _Columns(
            user_ids=user_ids,
            item_ids=[item_id or "" for item_id in item_ids],
            event_ids=[event_id or None for event_id in event_ids],
            kind=np.fromiter([kind_of.get(event_type, _UNKNOWN) for event_type in event_types], np.uint8, n_events),
            ts_ms=np.fromiter(ts_ms, np.int64, n_events),
            value=np.full(n_events, np.nan) if value is None else value,
            contexts=contexts,
            asks=(n, exclude, only),
            offset=np.fromiter(offsets, np.int64, n_events),
            timestamps=timestamps,
            keys=keys,
            n_bytes=np.fromiter(map(len, raw), np.int64, n_events),
        )

    def _suspects(self, columns: _Columns) -> npt.NDArray[np.intp]:
        """Rows that `check_event` must judge: every row that it would refuse is among them."""
        limits, ts_ms = self.limits, columns.ts_ms
        n_events = len(ts_ms)
        if n_events <= _FEW:
            return np.arange(n_events)
        stamp_ms = np.fromiter([-1 if stamp is None else stamp for stamp in columns.timestamps], np.int64, n_events)
        has_item = np.fromiter(map(bool, columns.item_ids), np.bool_, n_events)
        suspect = (columns.kind == _UNKNOWN) | (columns.kind == _SHOWN) | (columns.n_bytes > self._short_bytes)
        suspect |= (ts_ms < limits.min_ts_ms) | (ts_ms > limits.max_ts_ms)
        suspect |= (stamp_ms >= 0) & (ts_ms - limits.max_ahead_ms > stamp_ms)
        suspect |= has_item == (columns.kind >= REQUEST)
        suspect |= np.abs(columns.value) > _LARGEST_VALUE
        if any(asked.count(None) < n_events for asked in columns.asks):
            for asked in columns.asks:
                suspect |= [answer is not None for answer in asked]
        keys = [user_id.encode() for user_id in columns.user_ids]
        if keys != list(columns.keys):
            suspect |= [key != expected for key, expected in zip(columns.keys, keys, strict=True)]
        for ids in (columns.user_ids, columns.item_ids, columns.event_ids):
            if "\0" in "".join(filter(None, ids)):
                suspect |= ["\0" in (some_id or "") for some_id in ids]
        return np.flatnonzero(suspect)

    def _check(self, rows: list[int], events: Sequence[Event], records: Sequence[Record]) -> dict[int, Rejected]:
        found = {}
        for row in rows:
            try:
                check_event(events[row], records[row], self._code_of, self.limits)
            except Malformed as fault:
                found[row] = Rejected(records[row], fault.reason, fault.detail)
        return found

    def _batches(self, columns: _Columns, ends: Sequence[int]) -> list[EventBatch]:
        """The events up to each of `ends` as a batch of its own: its columns are parts of the same arrays."""
        value = columns.value.astype(np.float32)
        item, event_id = item_keys(columns.item_ids), event_keys(columns.event_ids)
        segments = self._segments(columns.contexts)
        asking = np.flatnonzero(columns.kind == REQUEST).tolist()
        parts, first = [], 0
        for end in ends:
            here = slice(first, end)
            user_ids = columns.user_ids[here]
            row_of = {user_id: row for row, user_id in enumerate(dict.fromkeys(user_ids))}
            requests = {}
            for row in asking:
                if first <= row < end:
                    n, exclude, only = (asked[row] for asked in columns.asks)
                    requests[row - first] = Request(n, tuple(exclude or ()), None if only is None else tuple(only))
            parts.append(
                EventBatch(
                    offset=columns.offset[here],
                    user=np.fromiter(map(row_of.__getitem__, user_ids), np.int32, end - first),
                    users=list(row_of),
                    item_ids=columns.item_ids[here],
                    item=item[here],
                    kind=columns.kind[here],
                    ts_ms=columns.ts_ms[here],
                    value=value[here],
                    event_id=event_id[here],
                    event_ids=columns.event_ids[here],
                    segments=segments[here],
                    requests=requests,
                )
            )
            first = end
        return parts

    def _segments(self, contexts: Sequence[dict[str, Scalar] | None]) -> npt.NDArray[np.uint32]:
        segments = np.zeros((len(contexts), len(self.segment_fields)), np.uint32)
        for column, field in enumerate(self.segment_fields):
            values = [context.get(field) if context else None for context in contexts]
            texts = [value if isinstance(value, str) else text_of(value) for value in values]  # a call less for most
            segments[:, column] = segment_keys(texts)
        return segments

    def _no_events(self) -> EventBatch:
        return EventBatch.build([], [], [], [], segments=np.zeros((0, len(self.segment_fields)), np.uint32))

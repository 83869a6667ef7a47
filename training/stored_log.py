"""A log of any length as columns in files, in the order of event time: what `Log.of` makes of a table in memory.

    file         batch 0, batch 1, ...     read twice: for when its events happened, then to deal them out
    time         |--- n ---|--- n ---|     stretches of about so many events: sorted one by one, written one by one
    users        hash(user) mod n          numbered one share after the other

In memory are a batch of the file, a stretch and the distinct items. Users are numbered by their hashes and called by
them; nothing that is counted, folded or scored depends on either.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stream.core.events import EventTypes, event_keys, item_keys, segment_keys
from training.log import Log, numbered, usable
from training.storage import InFiles

__all__ = ["store_log"]

_N_BINS: Final = 1 << 16
_EVENT: Final = (
    *(("user", "<u8"), ("event", "<u8"), ("ts_ms", "<i8")),
    *(("value", "<f4"), ("item", "<i4"), ("kind", "u1")),
)
_ROW: Final = np.dtype([("user", "<u8"), ("row", "<i8")])


@dataclass(frozen=True, slots=True, eq=False)
class _Names(Sequence[str]):
    """Users by their hashes."""

    key: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.key)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> _Names: ...
    def __getitem__(self, at: int | slice) -> str | _Names:
        return _Names(self.key[at]) if isinstance(at, slice) else f"{self.key[at]:016x}"


def store_log(
    batches: Callable[[], Iterable[pl.DataFrame]],
    folder: Path,
    types: EventTypes,
    segment_fields: tuple[str, ...] = (),
    *,
    span_ms: tuple[int, int],
    n_events: int = 1_000_000,
) -> Log:
    """The events of a log in nameless files.

    Args:
        batches: gives the log's tables, in the normal form of `stream.logs`, from the beginning each time.
        folder: see `training.storage.InFiles`.
        segment_fields: context fields, columns of the tables.
        span_ms: `[first, end)`, in which all its events are.
        n_events: of a stretch, about; events of the same 65,536th of the span are never parted.
    """
    ends_ms, n_dropped = _stretches(batches, types, span_ms, n_events)
    row = np.dtype([*_EVENT, ("segments", "<u4", (len(segment_fields),))])
    number_of: dict[str, int] = {}
    with ExitStack() as stack:
        dealt = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in ends_ms]
        for frame in batches():
            events = _events(usable(frame, types), row, types, segment_fields, number_of)
            stretch = np.searchsorted(ends_ms, events["ts_ms"], side="right")
            for number in np.unique(stretch).tolist():
                dealt[number].write(events[stretch == number].tobytes())
        sizes = [file.tell() // row.itemsize for file in dealt]
        return _sorted(dealt, sizes, row, list(number_of), folder, n_events, n_dropped)


def _stretches(
    batches: Callable[[], Iterable[pl.DataFrame]], types: EventTypes, span_ms: tuple[int, int], n_events: int
) -> tuple[NDArray[np.int64], int]:
    """(S,) when each stretch ends, this moment excluded, and how many rows of the log cannot be used."""
    edges = np.unique(np.linspace(*span_ms, _N_BINS + 1).astype(np.int64))
    counts, n_dropped = np.zeros(len(edges) - 1, np.int64), 0
    for frame in batches():
        known = usable(frame, types)
        counts += np.histogram(known["ts_ms"].to_numpy(), edges)[0]
        n_dropped += len(frame) - len(known)
    before = np.cumsum(counts)
    full = np.searchsorted(before, np.arange(n_events, before[-1], n_events))
    return np.unique(np.append(edges[1 + full], edges[-1])), n_dropped


def _events(
    frame: pl.DataFrame, row: np.dtype[Any], types: EventTypes, segment_fields: tuple[str, ...], items: dict[str, int]
) -> NDArray[Any]:
    """A batch of the log, as it is dealt out; items are numbered as they come."""
    events = np.zeros(len(frame), row)
    users, user = numbered(frame["user_id"])
    events["user"] = item_keys(users)[user]
    events["event"] = event_keys(frame["event_id"].to_list())
    events["ts_ms"] = frame["ts_ms"].to_numpy()
    events["value"] = frame["value"].fill_null(float("nan")).to_numpy()
    names, item = numbered(frame["item_id"].fill_null(""))
    events["item"] = np.array([items.setdefault(name, len(items)) for name in names], np.int32)[item]
    events["kind"] = frame["event_type"].replace_strict(types.codes(), return_dtype=pl.UInt8).to_numpy()
    for column, name in enumerate(segment_fields):
        values, code = numbered(frame[name].fill_null(""))
        events["segments"][:, column] = segment_keys(values)[code]
    return events


def _sorted(
    dealt: Sequence[IO[bytes]],
    sizes: list[int],
    row: np.dtype[Any],
    item_ids: list[str],
    folder: Path,
    n_events: int,
    n_dropped: int,
) -> Log:
    """The columns of what was dealt out."""
    storage, n_all = InFiles(folder), sum(sizes)
    columns = {name: storage((n_all, *row[name].shape), row[name].base) for name in ("item", "kind", "ts_ms", "value")}
    segments = storage((n_all, *row["segments"].shape), np.uint32)
    event_ids = None
    with ExitStack() as stack:
        shares = [
            stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(max(1, math.ceil(n_all / n_events)))
        ]
        at = 0
        for file, size in zip(dealt, sizes, strict=True):
            file.seek(0)
            events = np.frombuffer(file.read(), row)
            events = events[np.argsort(events["ts_ms"], kind="stable")]
            here = slice(at, at + size)
            for name, column in columns.items():
                column[here] = events[name]
            segments[here] = events["segments"]
            if events["event"].any():
                # Names that are alike where those in the log are: what was applied before is not applied again.
                event_ids = storage((n_all,), "<U16") if event_ids is None else event_ids
                event_ids[here] = [f"{key:016x}" if key else "" for key in events["event"].tolist()]
            rows = np.empty(size, _ROW)
            rows["user"], rows["row"] = events["user"], np.arange(at, at + size)
            for number, share in enumerate(shares):
                share.write(rows[rows["user"] % len(shares) == number].tobytes())
            at += size
        user, keys = _users(shares, n_all, storage)
    return Log(
        user_ids=_Names(keys),
        item_ids=item_ids,
        user=user,
        key=item_keys(item_ids),
        event_ids=event_ids,
        segments=segments,
        n_dropped=n_dropped,
        storage=storage,
        **columns,
    )


def _users(shares: Sequence[IO[bytes]], n_all: int, storage: InFiles) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """(N,) the number of each event's user, and (U,) the users' hashes."""
    user, keys = storage((n_all,), np.int32), storage((n_all,), np.uint64)
    n_users = 0
    for share in shares:
        share.seek(0)
        rows = np.frombuffer(share.read(), _ROW)
        distinct, number = np.unique(rows["user"], return_inverse=True)
        user[rows["row"]] = n_users + number
        keys[n_users : n_users + len(distinct)] = distinct
        n_users += len(distinct)
    return user, keys[:n_users]

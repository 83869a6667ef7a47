"""A log of events as columns of numbers, ready to be cut into the batches that the core takes.

What the worker would refuse (no user, no readable time, an unknown type) is left out and counted; what is left is put
into the order of event time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stream.core.catalogue import ItemUpdate
from stream.core.events import FORGET, REQUEST, EventBatch, EventTypes, event_keys, item_keys, segment_keys
from stream.core.state import NEVER_MS
from stream.logs import EVENT_COLUMNS
from training.storage import Storage, in_memory

__all__ = ["Log", "item_updates", "most_common", "numbered", "published_ms", "usable"]


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """N events in the order of their time, and in the order of the file where times are equal.

    Attributes:
        user: (N,) index into `user_ids`, which are in order of first appearance.
        item: (N,) index into `item_ids`; the empty id stands for none.
        key: (M,) `item_key` of each item id.
        kind: (N,) code of the event's type.
        ts_ms: (N,) event time, UTC epoch milliseconds, never falling.
        value: (N,) NaN for none.
        event_ids: (N,) producer-given ids, text, or None when no event has one.
        segments: (N, S) `segment_key` of each declared context field, 0 for missing.
        n_dropped: rows of the file that the worker would have refused.
        storage: where its columns are, and where others as long as them belong.
    """

    user_ids: Sequence[str]
    item_ids: list[str]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    key: NDArray[np.uint64]
    kind: NDArray[np.uint8]
    ts_ms: NDArray[np.int64]
    value: NDArray[np.float32]
    event_ids: NDArray[Any] | None
    segments: NDArray[np.uint32]
    n_dropped: int
    storage: Storage = in_memory

    def __len__(self) -> int:
        return len(self.ts_ms)

    @classmethod
    def of(cls, frame: pl.DataFrame, types: EventTypes, segment_fields: tuple[str, ...] = ()) -> Self:
        """The events of a table in the normal form of `stream.logs`.

        Raises ValueError when a declared context field is not among its columns.
        """
        missing = [name for name in segment_fields if name not in frame.columns]
        if missing:
            there = ", ".join(frame.columns[len(EVENT_COLUMNS) :]) or "none"
            raise ValueError(f"the log has no context field {', '.join(missing)}; there are: {there}")
        known = usable(frame, types).sort("ts_ms", maintain_order=True)
        user_ids, user = numbered(known["user_id"])
        item_ids, item = numbered(known["item_id"].fill_null(""))
        event_ids = known["event_id"]
        segments = np.zeros((len(known), len(segment_fields)), np.uint32)
        for column, name in enumerate(segment_fields):
            values, code = numbered(known[name].fill_null(""))
            segments[:, column] = segment_keys(values)[code]
        return cls(
            user_ids=user_ids,
            item_ids=item_ids,
            user=user,
            item=item,
            key=item_keys(item_ids),
            kind=known["event_type"].replace_strict(types.codes(), return_dtype=pl.UInt8).to_numpy(),
            ts_ms=known["ts_ms"].to_numpy(),
            value=known["value"].fill_null(float("nan")).to_numpy().astype(np.float32),
            event_ids=None if event_ids.null_count() == len(event_ids) else np.array(event_ids.to_list(), object),
            segments=segments,
            n_dropped=len(frame) - len(known),
        )

    def between(self, from_ms: int, until_ms: int) -> slice:
        """The events of `[from_ms, until_ms)`."""
        start, stop = np.searchsorted(self.ts_ms, [from_ms, until_ms])
        return slice(int(start), int(stop))

    def head(self, stop: int) -> Log:
        """The first `stop` events, as if nothing else had ever been known: users and items of later ones are gone."""
        n_users, n_items = (int(column[:stop].max(initial=-1)) + 1 for column in (self.user, self.item))
        return Log(
            user_ids=self.user_ids[:n_users],
            item_ids=self.item_ids[:n_items],
            user=self.user[:stop],
            item=self.item[:stop],
            key=self.key[:n_items],
            kind=self.kind[:stop],
            ts_ms=self.ts_ms[:stop],
            value=self.value[:stop],
            event_ids=None if self.event_ids is None else self.event_ids[:stop],
            segments=self.segments[:stop],
            n_dropped=self.n_dropped,
            storage=self.storage,
        )

    def batch(self, start: int, stop: int) -> EventBatch:
        """The events `start` to `stop` (excluded) as the core takes them; an event's offset is its row here."""
        codes, first, inverse = np.unique(self.user[start:stop], return_index=True, return_inverse=True)
        by_appearance = np.argsort(first)
        renumbered = np.empty(len(codes), np.int32)
        renumbered[by_appearance] = np.arange(len(codes), dtype=np.int32)
        items = self.item[start:stop]
        names: list[str | None] = [None] * (stop - start)
        if self.event_ids is not None:
            names = self.event_ids[start:stop].tolist()
        return EventBatch(
            offset=np.arange(start, stop, dtype=np.int64),
            user=renumbered[inverse],
            users=[self.user_ids[code] for code in codes[by_appearance].tolist()],
            item_ids=[self.item_ids[code] for code in items.tolist()],
            item=self.key[items],
            kind=self.kind[start:stop],
            ts_ms=self.ts_ms[start:stop],
            value=self.value[start:stop],
            event_id=np.zeros(stop - start, np.uint64) if self.event_ids is None else event_keys(names),
            event_ids=names,
            segments=self.segments[start:stop],
            requests={},
        )

    def happened(self, rows: slice = slice(None)) -> NDArray[np.bool_]:
        """(N,) the events in which something happened to an item, control events left out; or of some rows (R,)."""
        kind = self.kind[rows]
        happened: NDArray[np.bool_] = (self.key[self.item[rows]] != 0) & (kind != REQUEST) & (kind != FORGET)
        return happened


def usable(frame: pl.DataFrame, types: EventTypes) -> pl.DataFrame:
    """The rows of a table in the normal form of `stream.logs` that the worker would not refuse."""
    return frame.filter(
        (pl.col("user_id").fill_null("") != "")
        & pl.col("ts_ms").is_not_null()
        & pl.col("event_type").is_in(list(types.codes()))
        & ((pl.col("item_id").fill_null("") != "") | pl.col("event_type").is_in(["request", "forget"]))
    )


def most_common(frame: pl.DataFrame, field: str, n: int) -> tuple[str, ...]:
    """The n most common values of a context field, the most common first, missing ones left out."""
    counts = frame[field].drop_nulls().value_counts(name="n").filter(pl.col(field) != "")
    return tuple(counts.sort(["n", field], descending=[True, False])[field].head(n).to_list())


def item_updates(items: pl.DataFrame) -> list[ItemUpdate]:
    """What a table of items (see `stream.logs.read_items`) says, as the `items` topic would say it."""
    columns: dict[str, list[Any]] = {
        name: items[name].to_list() if name in items.columns else [None] * len(items)
        for name in ("item_id", "category", "title", "available", "published_ms")
    }
    return [
        ItemUpdate(item_id, category, title, available is not False, published_ms)
        for item_id, category, title, available, published_ms in zip(*columns.values(), strict=True)
        if item_id
    ]


def published_ms(update: ItemUpdate) -> int:
    """When an update could first have been on the `items` topic: not before its item was published."""
    return NEVER_MS if update.published_ms is None else update.published_ms


def numbered(column: pl.Series) -> tuple[list[str], NDArray[np.int32]]:
    """Distinct values in order of first appearance, and the number of each row's."""
    values = column.unique(maintain_order=True)
    table = pl.DataFrame({"value": values, "code": pl.Series(range(len(values)), dtype=pl.Int32)})
    codes = column.alias("value").to_frame().join(table, on="value", how="left", maintain_order="left")["code"]
    return values.to_list(), codes.to_numpy()

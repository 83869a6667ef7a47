"""A table of events made ready for backtests: one order, whatever it was read from.

Events are ordered by time; where times are equal by user, and a user's events as they came. So a file and a topic with
any number of partitions give the same log, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import polars as pl

from stream.core.catalogue import ItemUpdate
from stream.core.events import EventTypes, segment_key
from stream.logs import EVENT_COLUMNS
from training.log import Log

__all__ = ["Material", "material_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The events of a backtest, with all their context fields.

    Attributes:
        log: the events; `log.segments` has a column for each of `fields`.
        fields: names of the context fields.
        values: by context field, `segment_key` -> the value.
        types: what the log's kinds mean.
        items: what is known of items.
    """

    log: Log
    fields: tuple[str, ...]
    values: dict[str, dict[int, str]]
    types: EventTypes
    items: list[ItemUpdate]

    def with_fields(self, wanted: tuple[str, ...]) -> Log:
        """The log with these context fields; one that no event has is missing everywhere, as it would be live."""
        segments = np.zeros((len(self.log), len(wanted)), np.uint32)
        for column, name in enumerate(wanted):
            if name in self.fields:
                segments[:, column] = self.log.segments[:, self.fields.index(name)]
        return replace(self.log, segments=segments)

    def fingerprint(self) -> str:
        """Stands for the events and items: a backtest is only resumed over the same ones."""
        log, digest = self.log, blake2b(digest_size=16)
        for column in (log.ts_ms, log.user, log.key[log.item], log.kind, log.segments):
            digest.update(np.ascontiguousarray(column).tobytes())
        digest.update(repr((log.user_ids, len(self.items), self.items[:1], self.items[-1:])).encode())
        return digest.hexdigest()


def material_of(frame: pl.DataFrame, types: EventTypes, items: list[ItemUpdate] | None = None) -> Material:
    """Order a table in the normal form of `stream.logs`; all columns beyond it are context fields."""
    fields = tuple(sorted(name for name in frame.columns if name not in EVENT_COLUMNS))
    ordered = frame.sort("ts_ms", "user_id", maintain_order=True)
    log = Log.of(ordered, types, fields)
    values: dict[str, dict[int, str]] = {}
    for name in fields:
        texts = [text for text in frame[name].unique().to_list() if text]
        values[name] = {segment_key(text): text for text in texts}
    return Material(log, fields, values, types, sorted(items or [], key=lambda update: update.item_id))

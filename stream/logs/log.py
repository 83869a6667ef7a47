"""A log of events, whatever its columns, in its normal form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from stream.logs.columns import ColumnMapping
from stream.logs.files import raw_batches, sample_of, scan
from stream.logs.guesses import completed
from stream.logs.normal import expressions

__all__ = ["EventLog", "open_log"]


@dataclass(frozen=True, slots=True)
class EventLog:
    """A log whose columns are known. Made by `open_log`."""

    path: Path
    mapping: ColumnMapping
    """Nothing in it is left open."""

    @property
    def context_columns(self) -> tuple[str, ...]:
        """Names of the context fields, the columns behind `EVENT_COLUMNS`."""
        return self.mapping.context or ()

    def count_rows(self) -> int:
        """Rows of the file; takes no time for Parquet, one pass for the others."""
        lazy = scan(self.path)
        return int(lazy.select(pl.len()).collect().item())

    def raw_batches(self) -> Iterator[pl.DataFrame]:
        """Yield the file's rows with its own columns, in frames of at most 50,000 rows."""
        return raw_batches(self.path)

    def normal_form(self, raw: pl.DataFrame) -> pl.DataFrame:
        """The events of rows with the file's own columns."""
        return raw.select(expressions(self.mapping, raw.schema))

    def batches(
        self, *, since_ms: int | None = None, until_ms: int | None = None, limit: int | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the events in the order of the file, in frames of at most 50,000 rows.

        Args:
            since_ms: only events at or after this time. Rows without a readable time are in no range.
            until_ms: only events before this time.
            limit: at most so many events, counted behind the two filters.
        """
        left = limit
        for raw in self.raw_batches():
            frame = self.normal_form(raw)
            if since_ms is not None:
                frame = frame.filter(pl.col("ts_ms") >= since_ms)
            if until_ms is not None:
                frame = frame.filter(pl.col("ts_ms") < until_ms)
            if left is not None:
                frame = frame.head(left)
                left -= len(frame)
            if len(frame) > 0:
                yield frame
            if left == 0:
                return

    def frame(
        self, *, since_ms: int | None = None, until_ms: int | None = None, limit: int | None = None
    ) -> pl.DataFrame:
        """All of it at once: `batches` put together."""
        parts = list(self.batches(since_ms=since_ms, until_ms=until_ms, limit=limit))
        return pl.concat(parts) if len(parts) > 0 else self.normal_form(sample_of(self.path).clear())


def open_log(path: str | Path, mapping: ColumnMapping | None = None) -> EventLog:
    """Find out how to read a log; reads its beginning only, unless day and month cannot be told apart there.

    Raises:
        PolytempoError: the file does not exist or is of no known format, a named column is not in it, or a column for
            user, item or time cannot be guessed; says which columns there are.
    """
    path = Path(path)
    wanted = mapping or ColumnMapping()
    sample = sample_of(path)
    return EventLog(path, completed(path, sample, wanted))

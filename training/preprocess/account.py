"""What was found in a log and what was done to it, as plain values whose numbers add up."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import polars as pl
from msgspec import Struct

__all__ = ["Account", "ColumnAccount", "StepAccount", "describe", "n_said"]


class ColumnAccount(Struct, frozen=True):
    """What a column holds.

    Attributes:
        n_missing: rows without a value (or with one that could not be read).
        n_different: different values.
        low, median, high, n_negative: of numbers.
        commonest: of texts, with its number of rows.
    """

    name: str
    n_missing: int
    n_different: int
    low: float | None = None
    median: float | None = None
    high: float | None = None
    n_negative: int | None = None
    commonest: tuple[str, int] | None = None


class StepAccount(Struct, frozen=True):
    """What a step did.

    Attributes:
        step: its name.
        n_in, n_out: rows before and after.
        n_changed: rows that stayed and have another value in some column.
        added: columns that it added, with the number of rows in which they say something (true, yes, or any value).
        parameters: what it learnt before the end of training.
        settings: as they were declared.
        live: whether the worker repeats it.
    """

    step: str
    n_in: int
    n_out: int
    n_changed: int
    added: dict[str, int]
    parameters: dict[str, Any]
    settings: dict[str, Any]
    live: bool = False

    @property
    def n_removed(self) -> int:
        """Rows that it left out."""
        return self.n_in - self.n_out


class Account(Struct, frozen=True):
    """The whole way from file to events.

    Attributes:
        n_rows, n_events: of the file, and of what came out.
        known_until_ms: the end of training; None where everything was fitted to.
        before, after: what the columns held.
        steps: in their order; each takes the rows that the one before left.
    """

    n_rows: int
    n_events: int
    known_until_ms: int | None
    before: tuple[ColumnAccount, ...]
    after: tuple[ColumnAccount, ...]
    steps: tuple[StepAccount, ...]


_NAMES = frozenset(("user_id", "session_id", "event_id"))


def describe(table: pl.DataFrame, unnamed: Set[str] = _NAMES) -> tuple[ColumnAccount, ...]:
    """Every column in short; texts that are all numbers as numbers. Of the columns `unnamed` no text is told."""
    return tuple(_column(table[name], told=name not in unnamed) for name in table.columns)


def n_said(column: pl.Series) -> int:
    """Rows in which a column that was added says something."""
    if column.dtype == pl.Boolean:
        return int(column.sum())
    return int((column == "yes").sum()) if column.name.endswith("_missing") else len(column) - column.null_count()


def _column(column: pl.Series, *, told: bool) -> ColumnAccount:
    known = column.drop_nulls()
    if column.dtype == pl.String and told:
        numbers = known.cast(pl.Float64, strict=False)
        known = known if numbers.null_count() > 0 else numbers
    n_missing, n_different = len(column) - len(known), known.n_unique()
    if known.dtype.is_numeric() and len(known) > 0:
        low, median, high = (float(figure) for figure in (known.min(), known.median(), known.max()))  # type: ignore[arg-type]
        return ColumnAccount(column.name, n_missing, n_different, low, median, high, int((known < 0).sum()))
    if known.dtype == pl.String and len(known) > 0 and told:
        counts = known.value_counts(sort=True, name="n").sort(["n", column.name], descending=[True, False])
        return ColumnAccount(
            column.name, n_missing, n_different, commonest=(str(counts[column.name][0]), int(counts["n"][0]))
        )
    return ColumnAccount(column.name, n_missing, n_different)

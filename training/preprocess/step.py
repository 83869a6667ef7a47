"""What every step is: settings that fit parameters on the training window, and apply them to the log.

Tables of events have the columns of `stream.logs.EVENT_COLUMNS`, the kept columns of the raw file as text, and two of
their own: `ROW`, the row of the raw file from 0, and `KNOWN`, whether the event lies before the end of training.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import polars as pl

__all__ = ["KNOWN", "ROW", "LogStep", "Parameters", "number"]

ROW: Final = "row"
KNOWN: Final = "known"

Parameters = dict[str, Any]
"""Plain numbers, texts and lists, as a manifest holds them."""


class LogStep(Protocol):
    """A step over the log. Settings are the attributes of a struct."""

    def fit(self, known: pl.DataFrame) -> Parameters:
        """What must be learnt from the events before the end of training, empty where nothing must."""
        ...

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
        """The events after the step. Rows that stay keep their order and their `ROW`."""
        ...


def number(column: str) -> pl.Expr:
    """A column as numbers: null for texts that are none, and for NaN and infinity."""
    value = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)

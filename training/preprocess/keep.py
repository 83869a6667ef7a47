"""Rows that are left out for what they are themselves."""

from __future__ import annotations

import re

import polars as pl
from msgspec import Struct

from training.preprocess.step import Parameters

__all__ = ["Complete", "Keep"]


class Complete(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="complete"):
    """Leave out events without one of these fields. The worker refuses those without the first four, too.

    Attributes:
        fields: columns that must not be missing.
    """

    fields: tuple[str, ...] = ("user_id", "item_id", "event_type", "ts_ms")

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - nothing to learn
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """The complete ones."""
        return events.drop_nulls(self.fields)


class Keep(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="keep"):
    """Leave out events whose text in a column does not match, or is missing: postage and bank charges are no items.

    Producers must not send such events either: the worker would count them.

    Attributes:
        column: of the events, or a kept column.
        pattern: regular expression that must be found in it.
    """

    column: str
    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"keep {self.column}: {error}") from error

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - nothing to learn
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """Those that match."""
        return events.filter(pl.col(self.column).cast(pl.String).str.contains(self.pattern).fill_null(value=False))

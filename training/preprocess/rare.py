"""Categories too rare to say anything."""

from __future__ import annotations

import polars as pl
from msgspec import Struct

from training.preprocess.step import Parameters

__all__ = ["Rare"]


class Rare(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="rare"):
    """Texts with fewer events than `at_least` before the end of training, or beyond the `most` commonest, become
    `other`. Missing ones stay missing. A bundle's segments do the same live: values that it does not name are one.

    Attributes:
        column: a context field.
        at_least: events that a text needs.
        most: different texts at most.
        other: the text that takes their place.
    """

    column: str
    at_least: int = 1
    most: int | None = None
    other: str = "other"

    def fit(self, known: pl.DataFrame) -> Parameters:
        """The texts that stay, the commonest first."""
        counts = known.group_by(self.column).len().drop_nulls().filter(pl.col("len") >= self.at_least)
        counts = counts.sort(["len", self.column], descending=[True, False])
        return {"kept": counts[self.column].head(self.most).to_list() if self.most else counts[self.column].to_list()}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
        """With `other` in their place."""
        text = pl.col(self.column)
        stays = text.is_null() | text.is_in(parameters["kept"])
        return events.with_columns(pl.when(stays).then(text).otherwise(pl.lit(self.other)).alias(self.column))

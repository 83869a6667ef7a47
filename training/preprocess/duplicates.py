"""The same event twice."""

from __future__ import annotations

import polars as pl
from msgspec import Struct

from training.preprocess.step import Parameters

__all__ = ["Duplicates"]


class Duplicates(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="duplicates"):
    """Of events that agree in these columns, keep the first. Missing agrees with missing.

    The worker knows duplicates by `event_id` alone: a producer that repeats itself must send one.

    Attributes:
        columns: what must agree.
    """

    columns: tuple[str, ...] = ("user_id", "item_id", "event_type", "ts_ms", "value", "session_id", "event_id")

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - nothing to learn
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """The first of each."""
        return events.unique(self.columns, keep="first", maintain_order=True)

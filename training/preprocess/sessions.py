"""Which events belong together: sessions by silence, and the lines of one order."""

from __future__ import annotations

import polars as pl
from msgspec import Struct

from training.preprocess.step import Parameters
from training.spans import Span, span_ms

__all__ = ["Lines", "Sessions"]


class Sessions(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="sessions"):
    """Name the sessions of events that have none: a longer silence than `gap` ends one.

    Names are USER/NUMBER, from 1. The worker needs no names: it finds sessions by the same rule, by `session_gap`.

    Attributes:
        gap: silence that ends a session.
    """

    gap: Span = "30m"

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - nothing to learn
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """With `session_id` where user and time are known."""
        timeline = ["user_id", pl.col("ts_ms").is_null()]  # events without a time are beside it
        before = pl.col("ts_ms").shift(1).over(timeline, order_by="ts_ms")
        # The comparison is null, not false, for a user's first event: it begins the first session.
        begins = (pl.col("ts_ms") - before > span_ms(self.gap)).fill_null(value=True)
        named = events.with_columns(begins.alias("begins")).with_columns(
            pl.col("begins").cast(pl.Int64).cum_sum().over(timeline, order_by="ts_ms").alias("begins")
        )
        name = pl.concat_str("user_id", pl.lit("/"), pl.col("begins").cast(pl.String))
        name = pl.when(pl.col("user_id").is_not_null() & pl.col("ts_ms").is_not_null()).then(name)
        return named.with_columns(pl.coalesce("session_id", name).alias("session_id")).drop("begins")


class Lines(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="lines"):
    """Put the lines of an order one after the other: each `apart` later than the one before, in the file's order.

    A log of orders gives all lines the time of the order, while a record orders events by time: without this, which
    line came last would be lost. Producers that send orders must space their lines in the same way.

    Attributes:
        of: columns that name the order.
        apart: from one line to the next.
    """

    of: tuple[str, ...] = ("user_id", "session_id", "ts_ms")
    apart: Span = "10ms"

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - nothing to learn
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """With later times for all lines but the first of an order."""
        line = pl.int_range(pl.len()).over(self.of)
        return events.with_columns(pl.col("ts_ms") + span_ms(self.apart) * line)

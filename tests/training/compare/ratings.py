"""A small log that has an order to find: users who walk through items one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from training.sequences import UserSequences, cut_sequences, frequent_items

__all__ = ["ratings", "sequences", "write_log"]


def ratings() -> pl.DataFrame:
    """Forty users who walk through twenty films in order, each from one of their own, a minute apart."""
    user, step = np.repeat(np.arange(40), 8), np.tile(np.arange(8), 40)
    return pl.DataFrame(
        {"user_id": user, "item_id": (user + step) % 20, "rating": 1 + step % 5, "ts_ms": (step * 40 + user) * 60_000}
    ).sort("ts_ms")


def write_log(path: Path) -> Path:
    """The same as a Parquet file."""
    ratings().with_columns(pl.col("ts_ms") + 1_700_000_000_000).write_parquet(path)
    return path


def sequences() -> UserSequences:
    """The same, cut."""
    frame = ratings().select(
        pl.col("user_id").cast(pl.String),
        pl.col("item_id").cast(pl.String),
        "ts_ms",
        pl.lit("rating").alias("event_type"),
        pl.col("rating").cast(pl.Float32).alias("value"),
    )
    return cut_sequences(frame, frequent_items(frame))

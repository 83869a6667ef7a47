"""Small tables of events, as steps see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import polars as pl
from hypothesis import settings

from training.preprocess.step import KNOWN, ROW

quietly = settings(deadline=None, max_examples=60)
"""The first call of a polars expression takes its time, and so do scikit-learn and SciPy."""

SCHEMA = {
    "user_id": pl.String,
    "item_id": pl.String,
    "event_type": pl.String,
    "ts_ms": pl.Int64,
    "value": pl.Float64,
    "session_id": pl.String,
    "event_id": pl.String,
    "country": pl.String,
}
Row = dict[str, Any]


def raw_events(rows: Sequence[Row]) -> pl.DataFrame:
    """Events as they are read; what a row leaves out is missing, but the type, which is a purchase."""
    return pl.DataFrame([{"event_type": "purchase"} | row for row in rows], schema=SCHEMA)


def events(rows: Sequence[Row], known_until_ms: int | None = None) -> pl.DataFrame:
    """The same with the columns of steps."""
    table = raw_events(rows)
    known = pl.col("ts_ms").is_not_null() if known_until_ms is None else pl.col("ts_ms") < known_until_ms
    return table.with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW), known.fill_null(value=False).alias(KNOWN)
    )


def rows(max_size: int = 25, max_ms: int = 40) -> st.SearchStrategy[list[Row]]:
    """Few users, items and times, so that everything that can coincide does; anything may be missing."""
    return st.lists(
        st.fixed_dictionaries(
            {
                "user_id": st.sampled_from(["a", "b", "c", None]),
                "item_id": st.sampled_from(["x", "y", "z", None]),
                "event_type": st.sampled_from(["purchase", "purchase", "return", "view"]),
                "ts_ms": st.one_of(st.integers(0, max_ms), st.integers(0, max_ms), st.none()),
                "value": st.one_of(st.integers(0, 4).map(float), st.floats(-5, 5), st.none()),
                "session_id": st.sampled_from([None, "1", "C2"]),
                "country": st.sampled_from(["uk", "de", "fr", None]),
            }
        ),
        max_size=max_size,
    )

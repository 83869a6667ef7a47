"""A file's columns as those of the normal form: expressions of polars."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from stream.logs.columns import UNITS_PER_S, ColumnMapping

__all__ = ["as_flag", "as_text", "context_name", "expressions"]


def expressions(mapping: ColumnMapping, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """The normal form's columns from the file's."""

    def text(column: str | None) -> pl.Expr:
        return as_text(column, schema[column]) if column else pl.lit(None, pl.String)

    value = pl.lit(None, pl.Float64)
    if mapping.value:
        number = pl.col(mapping.value).cast(pl.Float64, strict=False)
        value = pl.when(number.is_finite()).then(number)
    if mapping.event_type:
        kind = text(mapping.event_type)
        kind = kind.str.to_lowercase().replace_strict(dict(mapping.type_names), default=kind, return_dtype=pl.String)
    else:
        kind = pl.lit(mapping.constant_type, pl.String)
    if mapping.negative_value_type:
        kind = pl.when(value < 0).then(pl.lit(mapping.negative_value_type)).otherwise(kind)
        value = value.abs()
    return [
        text(mapping.user).alias("user_id"),
        text(mapping.item).alias("item_id"),
        kind.alias("event_type"),
        _as_ms(mapping.time or "", mapping.time_format or "").alias("ts_ms"),
        value.alias("value"),
        text(mapping.session).alias("session_id"),
        text(mapping.event_id).alias("event_id"),
        *(text(name).alias(context_name(name)) for name in mapping.context or ()),
    ]


def _as_ms(column: str, time_format: str) -> pl.Expr:
    """UTC epoch milliseconds, null where the text or number is no time."""
    time = pl.col(column)
    if time_format == "":
        return time.cast(pl.Datetime("ms"), strict=False).dt.timestamp("ms")
    if time_format in UNITS_PER_S:
        ms = time.cast(pl.Float64, strict=False) * 1000.0 / UNITS_PER_S[time_format]
        return pl.when(ms.is_finite()).then(ms.round()).cast(pl.Int64, strict=False)
    parsed = time.cast(pl.String).str.strip_chars().str.to_datetime(time_format, strict=False, time_unit="ms")
    return parsed.dt.timestamp("ms")


def as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """Ids as text. Whole numbers in a column of floats, which missing values make of integers, lose their `.0`."""
    text = pl.col(column).cast(pl.String)
    if dtype.is_float():
        number = pl.col(column)
        text = pl.when(number.is_finite()).then(text.str.strip_suffix(".0"))
    return text


def as_flag(dtype: pl.DataType | None) -> pl.Expr:
    flag = pl.col("available")
    if dtype == pl.String:
        return flag.str.to_lowercase().is_in(["true", "1", "yes", "t", "y"])
    return flag.cast(pl.Boolean)


def context_name(column: str) -> str:
    return column.removeprefix("context.")

"""What the texts of a raw file mean: which stand for nothing, how numbers are written, which numbers are ids."""

from __future__ import annotations

import re
from typing import Literal

import polars as pl
from msgspec import Struct

from stream.logs import ColumnMapping

__all__ = ["Text", "tidy"]


class Text(Struct, frozen=True, forbid_unknown_fields=True):
    """How to read texts. Everything else (which column is what, formats of times) is said under `[data.columns]`.

    Attributes:
        missing: texts that stand for nothing, whatever their case; blanks around texts never count.
        decimal: the mark before the decimals of values; with a comma, points are taken as marks of thousands.
        whole: columns of ids that were written as floats, such as 17850.0.
        upper, lower: columns whose case means nothing.
        pattern: column -> regular expression of which the first group, or all of it, is what counts; other texts are
            missing.
    """

    missing: tuple[str, ...] = ("", "na", "n/a", "nan", "null", "none", "-")
    decimal: Literal[".", ","] = "."
    whole: tuple[str, ...] = ()
    upper: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    pattern: dict[str, str] = {}

    def __post_init__(self) -> None:
        for column, pattern in self.pattern.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern of {column}, {pattern!r}: {error}") from error

    def columns(self) -> set[str]:
        """The raw file's columns that are named here."""
        return {*self.whole, *self.upper, *self.lower, *self.pattern}


def tidy(raw: pl.DataFrame, text: Text, mapping: ColumnMapping) -> pl.DataFrame:
    """The raw table with its texts cleaned; columns of other types stay as they are.

    Raises:
        ValueError: a named column is not there.
    """
    absent = text.columns() - set(raw.columns)
    if absent:
        raise ValueError(f"there is no column {', '.join(sorted(absent))}; there are {', '.join(raw.columns)}")
    missing = [word.strip().lower() for word in text.missing]
    cleaned = []
    for name, dtype in raw.schema.items():
        if dtype != pl.String:
            continue
        column = pl.col(name).str.strip_chars()
        column = pl.when(~column.str.to_lowercase().is_in(missing)).then(column)
        if name == mapping.value and text.decimal == ",":
            column = column.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
        if name in text.whole:
            column = column.str.replace(r"^(-?\d+)\.0+$", "$1")
        column = column.str.to_uppercase() if name in text.upper else column
        column = column.str.to_lowercase() if name in text.lower else column
        if name in text.pattern:
            column = column.str.extract(text.pattern[name], 1 if re.compile(text.pattern[name]).groups else 0)
        cleaned.append(column.alias(name))
    return raw.with_columns(cleaned)

"""What texts of a raw file mean."""

from __future__ import annotations

import polars as pl
import pytest

from stream.logs import ColumnMapping
from training.preprocess.text import Text, tidy

MAPPING = ColumnMapping(value="amount")


def cleaned(column: str, cells: list[str | None], text: Text) -> list[str | None]:
    return tidy(pl.DataFrame({column: cells}, schema={column: pl.String}), text, MAPPING)[column].to_list()


def test_words_for_nothing_are_nothing_whatever_their_case_and_blanks() -> None:
    cells = [" x ", "NA", " nan", "", "  ", "None", "-", "nano", None]
    assert cleaned("c", cells, Text()) == ["x", None, None, None, None, None, None, "nano", None]


def test_a_decimal_comma_is_one_only_in_values() -> None:
    text = Text(decimal=",")
    assert cleaned("amount", ["1.234,5", "-2", "0,25"], text) == ["1234.5", "-2", "0.25"]
    assert cleaned("item", ["1.234,5"], text) == ["1.234,5"]


def test_ids_that_were_floats_become_whole() -> None:
    assert cleaned("c", ["17850.0", "1.50", "-3.000", "x.0"], Text(whole=("c",))) == ["17850", "1.50", "-3", "x.0"]


def test_case_means_nothing_where_it_is_said() -> None:
    assert cleaned("c", ["85123a"], Text(upper=("c",))) == ["85123A"]
    assert cleaned("c", ["UK"], Text(lower=("c",))) == ["uk"]


def test_a_pattern_takes_what_counts() -> None:
    assert cleaned("c", ["item:7", "other"], Text(pattern={"c": r"item:(\d+)"})) == ["7", None]
    assert cleaned("c", ["a77", "b"], Text(pattern={"c": r"\d+"})) == ["77", None]


def test_columns_of_other_types_stay() -> None:
    table = pl.DataFrame({"amount": [1.5], "n": [3]})
    assert tidy(table, Text(decimal=","), MAPPING).equals(table)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="no column b; there are a"):
        tidy(pl.DataFrame({"a": ["x"]}), Text(upper=("b",)), MAPPING)
    with pytest.raises(ValueError, match="the pattern of c"):
        Text(pattern={"c": "("})

"""Files of whatever format as frames of rows, in batches: Parquet, CSV, JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl

from stream.errors import PolytempoError

__all__ = ["raw_batches", "sample_of", "scan"]

_BATCH_ROWS: Final = 50_000
_SAMPLE_ROWS: Final = 2_000  # what guesses look at
_SUFFIXES: Final = (
    "Parquet (.parquet), CSV (.csv, .tsv) and JSON lines (.jsonl, .ndjson, .json), the latter two also .gz or .zst"
)


def _format_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 0 and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    last = suffixes[-1] if len(suffixes) > 0 else ""
    formats = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "csv"}
    formats |= {".jsonl": "lines", ".ndjson": "lines", ".json": "lines"}
    if last not in formats:
        raise PolytempoError(f"{path.name} is of no known format.", f"Known are {_SUFFIXES}.")
    return formats[last]


def scan(path: Path) -> pl.LazyFrame:
    """The file's rows, lazily: its columns as they are (Parquet), as text (CSV), or one column `line` (JSON lines)."""
    if not path.is_file():
        raise PolytempoError(f"there is no file {path}.")
    form = _format_of(path)
    if form == "parquet":
        return pl.scan_parquet(path)
    if form == "lines":
        return pl.scan_lines(path)
    # Everything is text here: types guessed from the first rows would fail at the first row that breaks them.
    choices = [
        pl.scan_csv(
            path, separator=separator, infer_schema=False, encoding="utf8-lossy", truncate_ragged_lines=True,
            raise_if_empty=False,
        )
        for separator in (",", ";", "\t", "|")
    ]  # fmt: skip
    return max(choices, key=lambda lazy: len(lazy.collect_schema()))


def raw_batches(path: Path, n_rows: int | None = None) -> Iterator[pl.DataFrame]:
    """The file's rows with its own columns, or of the first `n_rows` only."""
    lazy = scan(path)
    columns = _json_columns(lazy) if _format_of(path) == "lines" else None
    if n_rows is not None:
        lazy = lazy.head(n_rows)
    try:
        for frame in lazy.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, lazy=True):
            yield _tidy(frame if columns is None else _from_json(frame["line"], columns))
    except pl.exceptions.PolarsError as error:
        raise PolytempoError(f"{path.name} cannot be read: {error}") from error


def sample_of(path: Path) -> pl.DataFrame:
    try:
        parts = list(raw_batches(path, _SAMPLE_ROWS))
        if len(parts) > 0:
            return pl.concat(parts)
        empty = scan(path).head(0).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PolytempoError(f"{path.name} cannot be read: {error}") from error
    return pl.DataFrame() if _format_of(path) == "lines" else empty


def _tidy(frame: pl.DataFrame) -> pl.DataFrame:
    """Structs become columns `struct.field`."""
    structs = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Struct)]
    for name in structs:
        fields = frame[name].struct.unnest()
        frame = frame.drop(name).hstack([fields[field].alias(f"{name}.{field}") for field in fields.columns])
    return frame


def _json_columns(lazy: pl.LazyFrame) -> list[str]:
    """All keys of the first lines, nested objects as `object.key`."""
    names: dict[str, None] = {}
    for line in lazy.head(_SAMPLE_ROWS).collect()["line"]:
        names |= dict.fromkeys(_flat(line))
    return list(names)


def _from_json(lines: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """Rows of text; a line that is no JSON object is a row of nulls."""
    cells: dict[str, list[str | None]] = {name: [] for name in columns}
    for line in lines:
        row = _flat(line)
        for name in columns:
            cells[name].append(row.get(name))
    return pl.DataFrame(cells, schema=dict.fromkeys(columns, pl.String))


def _flat(line: str | None) -> dict[str, str | None]:
    """One line's object as text by name, objects in it flattened by one level; empty when it is none."""
    try:
        document = msgspec.json.decode(line or "")
    except msgspec.DecodeError:
        return {}
    if not isinstance(document, dict):
        return {}
    row: dict[str, str | None] = {}
    for name, cell in document.items():
        if isinstance(cell, dict):
            row |= {f"{name}.{inner}": _as_cell(value) for inner, value in cell.items()}
        else:
            row[name] = _as_cell(cell)
    return row


def _as_cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return msgspec.json.encode(value).decode()

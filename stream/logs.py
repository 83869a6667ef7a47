"""Event logs in files: Parquet, CSV or JSON lines with whatever columns, read as one normal form, batch by batch.

The normal form has the columns of `EVENT_COLUMNS` and one text column for each context field. Which column of the file
is which is said by a `ColumnMapping`; what it leaves open is guessed from the columns' names and values, and the guess
can be shown (`ColumnMapping.describe`).

Nothing is dropped here: a row without a user, with an unreadable time or a broken line of JSON comes out with nulls,
so that whoever consumes the log (the worker, with its dead letters) accounts for every row. Files are streamed: memory
does not grow with their length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl

from stream.errors import PolytempoError

__all__ = ["EVENT_COLUMNS", "ColumnMapping", "EventLog", "open_log", "read_items"]

EVENT_COLUMNS: Final = ("user_id", "item_id", "event_type", "ts_ms", "value", "session_id", "event_id")
"""Text, text, text, int64 (UTC epoch milliseconds), float64, text, text; any may be null."""

_BATCH_ROWS: Final = 50_000
_SAMPLE_ROWS: Final = 2_000  # what guesses look at
_SUFFIXES: Final = (
    "Parquet (.parquet), CSV (.csv, .tsv) and JSON lines (.jsonl, .ndjson, .json), the latter two also .gz or .zst"
)

# Names in the order of preference, without case, underscores and the like.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("userid", "user", "customerid", "customer", "visitorid", "visitor", "clientid", "memberid", "accountid",
             "reviewerid", "uid"),
    "item": ("itemid", "item", "productid", "product", "stockcode", "sku", "articleid", "clickarticleid", "contentid",
             "movieid", "trackid", "songid", "newsid", "asin", "iid"),
    "time": ("tsms", "timestampms", "timems", "timestamp", "ts", "eventtime", "time", "datetime", "invoicedate",
             "createdat", "occurredat", "clicktimestamp", "unixtime", "date"),
    "event_type": ("eventtype", "type", "event", "action", "behavior", "behaviour", "interaction"),
    "value": ("value", "rating", "stars", "quantity", "price", "amount"),
    "session": ("sessionid", "session", "visitid", "invoiceno", "orderid", "basketid"),
    "event_id": ("eventid", "messageid"),
}  # fmt: skip
_CONTEXT_NAMES: Final = frozenset(
    (
        "device",
        "devicetype",
        "devicegroup",
        "platform",
        "os",
        "country",
        "region",
        "referrer",
        "referrertype",
        "channel",
    )
)
_TYPE_NAMES: Final = (
    ("addtocart", "cart"),
    ("add_to_cart", "cart"),
    ("transaction", "purchase"),
    ("buy", "purchase"),
    ("order", "purchase"),
    ("pageview", "view"),
    ("page_view", "view"),
    ("rate", "rating"),
)

_UNITS_PER_S: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_TEXT_TIMES: Final = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f UTC",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
)


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Which column of a log is what. None leaves it to be guessed, the empty string says that there is none."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    event_type: str | None = None
    """Column of the type of event; without one every event has `constant_type`."""
    constant_type: str | None = None
    value: str | None = None
    session: str | None = None
    event_id: str | None = None
    context: tuple[str, ...] | None = None
    """Columns that become context fields of the same names, as text."""
    time_format: str | None = None
    """Unit of epoch times (`s`, `ms`, `us`, `ns`), or a format of date and time such as `%m/%d/%Y %H:%M`.

    Times without a zone are UTC.
    """
    negative_value_type: str | None = None
    """A row with a negative value is an event of this type with the absolute value, such as `return`."""
    type_names: tuple[tuple[str, str], ...] = _TYPE_NAMES
    """Pairs of a type's name in the log, in lower case, and its name here; others stay as they are."""

    def describe(self) -> str:
        """What comes from where, in one line for people."""
        parts = [f"user_id from {self.user}", f"item_id from {self.item}", f"ts_ms from {self.time}"]
        parts[2] += f" ({self.time_format})" if self.time_format else ""
        parts.append(f"event_type from {self.event_type}" if self.event_type else f"event_type {self.constant_type!r}")
        for name, column in (("value", self.value), ("session_id", self.session), ("event_id", self.event_id)):
            if column:
                parts.append(f"{name} from {column}")
        if self.value and self.negative_value_type:
            parts.append(f"negative values are {self.negative_value_type!r}")
        if self.context:
            parts.append(f"context from {', '.join(self.context)}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class EventLog:
    """A log whose columns are known. Made by `open_log`."""

    path: Path
    mapping: ColumnMapping
    """Nothing in it is left open."""
    guessed: bool
    """Whether some of the mapping was guessed."""

    @property
    def context_columns(self) -> tuple[str, ...]:
        """Names of the context fields, the columns behind `EVENT_COLUMNS`."""
        return self.mapping.context or ()

    def count_rows(self) -> int:
        """Rows of the file; takes no time for Parquet, one pass for the others."""
        lazy = _scan(self.path)
        return int(lazy.select(pl.len()).collect().item())

    def raw_batches(self) -> Iterator[pl.DataFrame]:
        """Yield the file's rows with its own columns, in frames of at most 50,000 rows."""
        return _raw_batches(self.path)

    def normal_form(self, raw: pl.DataFrame) -> pl.DataFrame:
        """The events of rows with the file's own columns."""
        return raw.select(_expressions(self.mapping, raw.schema))

    def batches(
        self, *, since_ms: int | None = None, until_ms: int | None = None, limit: int | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the events in the order of the file, in frames of at most 50,000 rows.

        Args:
            since_ms: only events at or after this time. Rows without a readable time are in no range.
            until_ms: only events before this time.
            limit: at most so many events, counted behind the two filters.
        """
        left = limit
        for raw in self.raw_batches():
            frame = self.normal_form(raw)
            if since_ms is not None:
                frame = frame.filter(pl.col("ts_ms") >= since_ms)
            if until_ms is not None:
                frame = frame.filter(pl.col("ts_ms") < until_ms)
            if left is not None:
                frame = frame.head(left)
                left -= len(frame)
            if len(frame) > 0:
                yield frame
            if left == 0:
                return

    def frame(
        self, *, since_ms: int | None = None, until_ms: int | None = None, limit: int | None = None
    ) -> pl.DataFrame:
        """All of it at once: `batches` put together."""
        parts = list(self.batches(since_ms=since_ms, until_ms=until_ms, limit=limit))
        return pl.concat(parts) if len(parts) > 0 else self.normal_form(_sample(self.path).clear())


def open_log(path: str | Path, mapping: ColumnMapping | None = None) -> EventLog:
    """Find out how to read a log; reads its beginning only, unless day and month cannot be told apart there.

    Raises:
        PolytempoError: the file does not exist or is of no known format, a named column is not in it, or a column for
            user, item or time cannot be guessed; says which columns there are.
    """
    path = Path(path)
    wanted = mapping or ColumnMapping()
    sample = _sample(path)
    resolved = _complete(path, sample, wanted)
    return EventLog(path=path, mapping=resolved, guessed=resolved != wanted)


def read_items(path: str | Path) -> pl.DataFrame:
    """A table of items: item_id, then whichever of category, title, published_ms, available there are, then the rest.

    The item column is found like a log's; a column called genre, genres or class is the category, and one whose name
    ends in title or is name or description the title. The rest are attributes, under their own names.

    Raises:
        PolytempoError: the file cannot be read, or no column looks like the item.
    """
    path = Path(path)
    parts = list(_raw_batches(path))
    table = pl.concat(parts) if len(parts) > 0 else _sample(path)
    columns = {_plain(name): name for name in reversed(table.columns)}
    item = next((columns[name] for name in (*_NAMES["item"], "id") if name in columns), None)
    if item is None:
        raise _no_column(path, "the item", table.columns, "Rename the one that holds the items' ids to item_id.")
    renamed = {item: "item_id"}
    for target, names in (("category", ("category", "genre", "genres", "class")), ("title", ("title", "name"))):
        found = next((columns[name] for name in names if name in columns), None)
        if found is None and target == "title":
            found = next((c for c in table.columns if _plain(c).endswith("title") or _plain(c) == "description"), None)
        if found is not None and target not in table.columns:
            renamed[found] = target
    table = table.rename(renamed)
    first = [name for name in ("item_id", "category", "title", "published_ms", "available") if name in table.columns]
    readers = {
        "item_id": _as_text("item_id", table.schema["item_id"]),
        "category": pl.col("category").cast(pl.String),
        "title": pl.col("title").cast(pl.String),
        "published_ms": pl.col("published_ms").cast(pl.Int64, strict=False),
        "available": _as_flag(table.schema.get("available")),
    }
    return table.select(*(readers[name].alias(name) for name in first), pl.exclude(first))


def _complete(path: Path, sample: pl.DataFrame, wanted: ColumnMapping) -> ColumnMapping:
    """Fill in what the mapping leaves open."""
    columns = sample.columns
    plain = {_plain(name): name for name in reversed(columns)}  # of two alike the first wins
    found: dict[str, str] = {}
    for field, names in _NAMES.items():
        named: str | None = getattr(wanted, field)
        if named is None:
            found[field] = next((plain[name] for name in names if name in plain), "")
        elif named == "" or named in columns:
            found[field] = named
        else:
            raise PolytempoError(f"{path.name} has no column {named!r}.", f"It has {_listed(columns)}.")
        if found[field] == "" and field in ("user", "item", "time"):
            what = {"user": "a user", "item": "an item", "time": "a time"}[field]
            raise _no_column(path, what, columns, "Say which columns are which: --user, --item, --time.")
    # A column called `event` may hold ids or texts; it is the type only if it has few values.
    if wanted.event_type is None and found["event_type"] and sample[found["event_type"]].n_unique() > 64:
        found["event_type"] = ""
    by_order = _plain(found["value"]) == "quantity"
    context = wanted.context
    if context is None:
        taken = set(found.values())
        context = tuple(
            c for c in columns if c not in taken and (_plain(c) in _CONTEXT_NAMES or c.startswith("context."))
        )
    for name in context:
        if name not in columns:
            raise PolytempoError(f"{path.name} has no column {name!r}.", f"It has {_listed(columns)}.")
        if _context_name(name) in EVENT_COLUMNS:
            raise PolytempoError(f"the column {name!r} cannot be context: that is the name of a field of events.")
    constant_type = wanted.constant_type
    if constant_type is None and not found["event_type"]:
        constant_type = _guess_type(path, found, by_order=by_order)
    negative = wanted.negative_value_type
    if negative is None and by_order:
        negative = "return"
    return ColumnMapping(
        **found,
        constant_type=constant_type,
        context=tuple(context),
        time_format=_time_format(path, sample, found["time"], wanted.time_format),
        negative_value_type=negative or "",
        type_names=wanted.type_names,
    )


def _guess_type(path: Path, found: Mapping[str, str], *, by_order: bool) -> str:
    if _plain(found["value"]) in ("rating", "stars"):
        return "rating"
    if by_order or _plain(found["session"]) in ("invoiceno", "orderid", "basketid"):
        return "purchase"
    if any("click" in name.lower() for name in (path.name, found["item"], found["time"])):
        return "click"
    return "view"


def _time_format(path: Path, sample: pl.DataFrame, column: str, wanted: str | None) -> str:
    """The unit or format asked for, else the one that reads most of the sample; empty for columns that hold times."""
    if sample.schema[column].is_temporal():
        return ""
    values = sample[column].drop_nulls()
    if wanted in _UNITS_PER_S:
        return str(wanted)
    if wanted:
        if len(values) > 0 and _parsed(values.cast(pl.String), wanted) == 0:
            raise PolytempoError(
                f"no time in column {column!r} of {path.name} has the format {wanted!r}; one is {str(values[0])!r}."
            )
        return wanted
    numbers = values.cast(pl.Float64, strict=False).drop_nulls()
    texts = values.cast(pl.String)
    readable = dict.fromkeys(_TEXT_TIMES, 0)
    if len(numbers) < len(values):
        readable = {name: _parsed(texts, name) for name in _TEXT_TIMES}
    best = max(readable.values())
    if len(numbers) >= max(best, 1) or len(values) == 0:
        typical = numbers.abs().median()
        # Today is 1.8e9 s: each border lies a factor of 50 above that, and as much below it in the next smaller unit.
        return next(
            (unit for unit, per_s in _UNITS_PER_S.items() if isinstance(typical, float) and typical < 1e11 * per_s),
            "ms" if typical is None else "ns",
        )
    if best == 0:
        raise PolytempoError(
            f"the times in column {column!r} of {path.name} are of no known format, such as {texts[0]!r}.",
            "Say which: --time-format s, ms, us, ns, or a format such as '%m/%d/%Y %H:%M'.",
        )
    tied = [name for name, count in readable.items() if count == best]
    if len(tied) > 1:  # the third of April or the fourth of March: read on until a day beyond the twelfth decides
        for raw in _raw_batches(path):
            counts = [_parsed(raw[column].cast(pl.String), name) for name in tied]
            if len(set(counts)) > 1:
                return tied[counts.index(max(counts))]
    return tied[0]


def _parsed(texts: pl.Series, time_format: str) -> int:
    """How many of the texts a format reads."""
    try:
        times = texts.str.strip_chars().str.to_datetime(time_format, strict=False, time_unit="ms")
    except pl.exceptions.PolarsError:  # no format at all
        return 0
    return len(times) - times.null_count()


def _expressions(mapping: ColumnMapping, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """The normal form's columns from the file's."""

    def text(column: str | None) -> pl.Expr:
        return _as_text(column, schema[column]) if column else pl.lit(None, pl.String)

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
        *(text(name).alias(_context_name(name)) for name in mapping.context or ()),
    ]


def _as_ms(column: str, time_format: str) -> pl.Expr:
    """UTC epoch milliseconds, null where the text or number is no time."""
    time = pl.col(column)
    if time_format == "":
        return time.cast(pl.Datetime("ms"), strict=False).dt.timestamp("ms")
    if time_format in _UNITS_PER_S:
        ms = time.cast(pl.Float64, strict=False) * 1000.0 / _UNITS_PER_S[time_format]
        return pl.when(ms.is_finite()).then(ms.round()).cast(pl.Int64, strict=False)
    parsed = time.cast(pl.String).str.strip_chars().str.to_datetime(time_format, strict=False, time_unit="ms")
    return parsed.dt.timestamp("ms")


def _as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """Ids as text. Whole numbers in a column of floats, which missing values make of integers, lose their `.0`."""
    text = pl.col(column).cast(pl.String)
    if dtype.is_float():
        number = pl.col(column)
        text = pl.when(number.is_finite()).then(text.str.strip_suffix(".0"))
    return text


def _as_flag(dtype: pl.DataType | None) -> pl.Expr:
    flag = pl.col("available")
    if dtype == pl.String:
        return flag.str.to_lowercase().is_in(["true", "1", "yes", "t", "y"])
    return flag.cast(pl.Boolean)


def _context_name(column: str) -> str:
    return column.removeprefix("context.")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _listed(columns: Sequence[str]) -> str:
    return f"the columns {', '.join(columns)}" if len(columns) > 0 else "no columns at all"


def _no_column(path: Path, what: str, columns: Sequence[str], hint: str) -> PolytempoError:
    return PolytempoError(f"{path.name} has no column that looks like {what}; it has {_listed(columns)}.", hint)


# ---- files -----------------------------------------------------------------------------------------------------------


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


def _scan(path: Path) -> pl.LazyFrame:
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


def _raw_batches(path: Path, n_rows: int | None = None) -> Iterator[pl.DataFrame]:
    """The file's rows with its own columns, or of the first `n_rows` only."""
    lazy = _scan(path)
    columns = _json_columns(lazy) if _format_of(path) == "lines" else None
    if n_rows is not None:
        lazy = lazy.head(n_rows)
    try:
        for frame in lazy.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, lazy=True):
            yield _tidy(frame if columns is None else _from_json(frame["line"], columns))
    except pl.exceptions.PolarsError as error:
        raise PolytempoError(f"{path.name} cannot be read: {error}") from error


def _sample(path: Path) -> pl.DataFrame:
    try:
        parts = list(_raw_batches(path, _SAMPLE_ROWS))
        if len(parts) > 0:
            return pl.concat(parts)
        empty = _scan(path).head(0).collect()
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

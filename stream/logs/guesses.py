"""What a log's columns are, guessed from their names and values where nobody says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from stream.errors import PolytempoError
from stream.logs.columns import EVENT_COLUMNS, UNITS_PER_S, ColumnMapping
from stream.logs.files import raw_batches
from stream.logs.normal import context_name

__all__ = ["NAMES", "completed", "no_column", "plain_name"]

# Names in the order of preference, without case, underscores and the like.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
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


def completed(path: Path, sample: pl.DataFrame, wanted: ColumnMapping) -> ColumnMapping:
    """Fill in what the mapping leaves open."""
    columns = sample.columns
    plain = {plain_name(name): name for name in reversed(columns)}  # of two alike the first wins
    found: dict[str, str] = {}
    for field, names in NAMES.items():
        named: str | None = getattr(wanted, field)
        if named is None:
            found[field] = next((plain[name] for name in names if name in plain), "")
        elif named == "" or named in columns:
            found[field] = named
        else:
            raise PolytempoError(f"{path.name} has no column {named!r}.", f"It has {listed(columns)}.")
        if found[field] == "" and field in ("user", "item", "time"):
            what = {"user": "a user", "item": "an item", "time": "a time"}[field]
            raise no_column(path, what, columns, "Say which columns are which: --user, --item, --time.")
    # A column called `event` may hold ids or texts; it is the type only if it has few values.
    if wanted.event_type is None and found["event_type"] and sample[found["event_type"]].n_unique() > 64:
        found["event_type"] = ""
    by_order = plain_name(found["value"]) == "quantity"
    context = wanted.context
    if context is None:
        taken = set(found.values())
        context = tuple(
            c for c in columns if c not in taken and (plain_name(c) in _CONTEXT_NAMES or c.startswith("context."))
        )
    for name in context:
        if name not in columns:
            raise PolytempoError(f"{path.name} has no column {name!r}.", f"It has {listed(columns)}.")
        if context_name(name) in EVENT_COLUMNS:
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
    if plain_name(found["value"]) in ("rating", "stars"):
        return "rating"
    if by_order or plain_name(found["session"]) in ("invoiceno", "orderid", "basketid"):
        return "purchase"
    if any("click" in name.lower() for name in (path.name, found["item"], found["time"])):
        return "click"
    return "view"


def _time_format(path: Path, sample: pl.DataFrame, column: str, wanted: str | None) -> str:
    """The unit or format asked for, else the one that reads most of the sample; empty for columns that hold times."""
    if sample.schema[column].is_temporal():
        return ""
    values = sample[column].drop_nulls()
    if wanted in UNITS_PER_S:
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
            (unit for unit, per_s in UNITS_PER_S.items() if isinstance(typical, float) and typical < 1e11 * per_s),
            "ms" if typical is None else "ns",
        )
    if best == 0:
        raise PolytempoError(
            f"the times in column {column!r} of {path.name} are of no known format, such as {texts[0]!r}.",
            "Say which: --time-format s, ms, us, ns, or a format such as '%m/%d/%Y %H:%M'.",
        )
    tied = [name for name, count in readable.items() if count == best]
    if len(tied) > 1:  # the third of April or the fourth of March: read on until a day beyond the twelfth decides
        for raw in raw_batches(path):
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


def plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def listed(columns: Sequence[str]) -> str:
    return f"the columns {', '.join(columns)}" if len(columns) > 0 else "no columns at all"


def no_column(path: Path, what: str, columns: Sequence[str], hint: str) -> PolytempoError:
    return PolytempoError(f"{path.name} has no column that looks like {what}; it has {listed(columns)}.", hint)

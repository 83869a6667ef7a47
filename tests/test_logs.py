"""Logs of several formats and column names come out in one normal form, and no row is lost."""

import gzip
import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import cramjam
import polars as pl
import pytest

from stream.errors import PolytempoError
from stream.logs import EVENT_COLUMNS, ColumnMapping, open_log, read_items

NOON_MS = 1_700_049_600_000  # 2023-11-15T12:00:00Z
ROWS: list[dict[str, Any]] = [
    {"user_id": "u1", "item_id": "i1", "event_type": "view", "ts_ms": NOON_MS, "device": "mobile"},
    {"user_id": "u2", "item_id": "007", "event_type": "cart", "ts_ms": NOON_MS + 1_500, "device": None},
]


def _write_parquet(path: Path) -> None:
    pl.DataFrame(ROWS).write_parquet(path)


def _csv() -> bytes:
    return pl.DataFrame(ROWS).write_csv().encode()


def _jsonl() -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


WRITERS: dict[str, Callable[[Path], object]] = {
    "log.parquet": _write_parquet,
    "log.csv": lambda path: path.write_bytes(_csv()),
    "log.tsv": lambda path: path.write_bytes(_csv().replace(b",", b"\t")),
    "semicolons.csv": lambda path: path.write_bytes(_csv().replace(b",", b";")),
    "log.csv.gz": lambda path: path.write_bytes(gzip.compress(_csv())),
    "log.csv.zst": lambda path: path.write_bytes(bytes(cramjam.zstd.compress(_csv()))),
    "log.jsonl": lambda path: path.write_bytes(_jsonl()),
    "log.ndjson.gz": lambda path: path.write_bytes(gzip.compress(_jsonl())),
    "log.jsonl.zst": lambda path: path.write_bytes(bytes(cramjam.zstd.compress(_jsonl()))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_normal_form(tmp_path: Path, name: str) -> None:
    """Parquet, CSV and JSON lines, plain or compressed; ids stay text with their leading zeros."""
    path = tmp_path / name
    WRITERS[name](path)
    log = open_log(path)
    frame = log.frame()
    assert frame.columns == [*EVENT_COLUMNS, "device"]
    assert frame.rows() == [
        ("u1", "i1", "view", NOON_MS, None, None, None, "mobile"),
        ("u2", "007", "cart", NOON_MS + 1_500, None, None, None, None),
    ]
    assert frame.schema == {
        **dict.fromkeys(EVENT_COLUMNS, pl.String),
        "ts_ms": pl.Int64,
        "value": pl.Float64,
        "device": pl.String,
    }
    assert log.count_rows() == len(ROWS)


def _frame_of(path: Path, table: Mapping[str, Any], mapping: ColumnMapping | None = None) -> pl.DataFrame:
    pl.DataFrame(table, strict=False).write_parquet(path)
    return open_log(path, mapping).frame()


@pytest.mark.parametrize(
    ("columns", "user", "item", "time"),
    [
        (("userId", "movieId", "timestamp"), "userId", "movieId", "timestamp"),
        (("timestamp", "visitorid", "event", "itemid", "transactionid"), "visitorid", "itemid", "timestamp"),
        (("CustomerID", "StockCode", "InvoiceDate"), "CustomerID", "StockCode", "InvoiceDate"),
        (("user_id", "click_article_id", "click_timestamp"), "user_id", "click_article_id", "click_timestamp"),
        (("User ID", "Product-ID", "Event.Time"), "User ID", "Product-ID", "Event.Time"),
    ],
)
def test_columns_are_guessed_by_their_names(
    tmp_path: Path, columns: tuple[str, ...], user: str, item: str, time: str
) -> None:
    """The names that public logs use, whatever their case and punctuation."""
    path = tmp_path / "some.parquet"
    pl.DataFrame({name: [1_700_049_600] for name in columns}).write_parquet(path)
    mapping = open_log(path).mapping
    assert (mapping.user, mapping.item, mapping.time) == (user, item, time)
    assert mapping.time_format == "s"


def test_a_named_column_beats_the_guess_and_empty_means_none(tmp_path: Path) -> None:
    """`value=""` says that there is no value although a column is called price."""
    table = {"user_id": ["u"], "item_id": ["i"], "buyer": ["b"], "ts": [NOON_MS], "price": [2.5]}
    frame = _frame_of(tmp_path / "a.parquet", table, ColumnMapping(user="buyer", value=""))
    assert frame.row(0)[:5] == ("b", "i", "view", NOON_MS, None)
    assert _frame_of(tmp_path / "b.parquet", table)["value"].to_list() == [2.5]


def test_the_guess_can_be_shown(tmp_path: Path) -> None:
    """One line that names every column used."""
    path = tmp_path / "orders.parquet"
    table = {"CustomerID": [1], "StockCode": ["a"], "InvoiceDate": ["12/13/2010 8:26"], "Quantity": [-1]}
    pl.DataFrame(table).write_parquet(path)
    assert open_log(path).mapping.describe() == (
        "user_id from CustomerID; item_id from StockCode; ts_ms from InvoiceDate (%m/%d/%Y %H:%M); "
        "event_type 'purchase'; value from Quantity; negative values are 'return'"
    )


def test_a_log_without_known_columns_is_refused_with_its_columns(tmp_path: Path) -> None:
    """The error names the file, what is missing, what there is, and the way out."""
    path = tmp_path / "strange.csv"
    path.write_text("foo,item,bar\n1,2,3\n")
    with pytest.raises(PolytempoError, match=r"strange\.csv .* a user; it has the columns foo, item, bar\. .*--user"):
        open_log(path)


def test_a_named_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The mapping's own mistakes are named, for fields and for context."""
    path = tmp_path / "log.csv"
    path.write_bytes(_csv())
    with pytest.raises(PolytempoError, match="no column 'nobody'"):
        open_log(path, ColumnMapping(user="nobody"))
    with pytest.raises(PolytempoError, match="no column 'weather'"):
        open_log(path, ColumnMapping(context=("weather",)))


@pytest.mark.parametrize("name", ["log.xml", "log", "log.gz"])
def test_unknown_formats_are_refused(tmp_path: Path, name: str) -> None:
    """By their suffix, with the known ones listed."""
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PolytempoError, match="Parquet"):
        open_log(tmp_path / name)


def test_a_missing_or_broken_file_is_an_expected_error(tmp_path: Path) -> None:
    """No traceback for a wrong path, an empty file or a file that is not what its suffix says."""
    with pytest.raises(PolytempoError, match="no file"):
        open_log(tmp_path / "nowhere.csv")
    for name in ("empty.csv", "empty.jsonl", "torn.parquet"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"PAR1 and no more")
        with pytest.raises(PolytempoError):
            open_log(tmp_path / name)


@pytest.mark.parametrize(
    ("written", "unit"),
    [(1_700_049_600, "s"), (1_700_049_600_000, "ms"), (1_700_049_600_000_000, "us"), (1_700_049_600_000_000_000, "ns")],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_the_unit_of_epoch_times_is_guessed(tmp_path: Path, written: int, unit: str, as_text: bool) -> None:
    """Seconds to nanoseconds, as numbers or as text."""
    path = tmp_path / "log.parquet"
    table = {"user": ["u"], "item": ["i"], "time": [str(written) if as_text else written]}
    assert _frame_of(path, table)["ts_ms"].to_list() == [NOON_MS]
    assert open_log(path).mapping.time_format == unit


@pytest.mark.parametrize(
    "written",
    [
        "2023-11-15 12:00:00",
        "2023-11-15T12:00:00",
        "2023-11-15T12:00:00.000Z",
        "2023-11-15T13:00:00+01:00",
        "2023-11-15 12:00:00.000 UTC",
        "2023-11-15 12:00",
        "11/15/2023 12:00",
        "15/11/2023 12:00",
        "15.11.2023 12:00:00",
        datetime(2023, 11, 15, 12, tzinfo=UTC),
        datetime(2023, 11, 15, 12),  # noqa: DTZ001  times without a zone are what this is about
    ],
)
def test_dates_with_times_are_read_as_utc(tmp_path: Path, written: object) -> None:
    """ISO 8601 with and without a zone, and the ways in which spreadsheets write."""
    table = {"user": ["u"], "item": ["i"], "time": [written]}
    assert _frame_of(tmp_path / "log.parquet", table)["ts_ms"].to_list() == [NOON_MS]


def test_a_date_is_its_midnight(tmp_path: Path) -> None:
    """As a date or as text."""
    midnight_ms = NOON_MS - 12 * 3_600_000
    for day in (date(2023, 11, 15), "2023-11-15"):
        table = {"user": ["u"], "item": ["i"], "date": [day]}
        assert _frame_of(tmp_path / "log.parquet", table)["ts_ms"].to_list() == [midnight_ms]


def test_day_and_month_are_told_apart_by_the_first_day_beyond_the_twelfth(tmp_path: Path) -> None:
    """Thousands of rows that could be read either way come first."""
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "u,i,2/1/2011 8:26\n" * 3_000 + "u,i,13/1/2011 8:26\n")
    assert open_log(path).mapping.time_format == "%d/%m/%Y %H:%M"


def test_a_time_format_can_be_given(tmp_path: Path) -> None:
    """A unit, or a format; one that fits nothing is refused with an example."""
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\nu,i,20231115-120000\n")
    with pytest.raises(PolytempoError, match="known format, such as '20231115-120000'"):
        open_log(path)
    assert open_log(path, ColumnMapping(time_format="%Y%m%d-%H%M%S")).frame()["ts_ms"].to_list() == [NOON_MS]
    with pytest.raises(PolytempoError, match="'20231115-120000'"):
        open_log(path, ColumnMapping(time_format="%H:%M"))
    table = {"user": ["u"], "item": ["i"], "time": [NOON_MS // 1000]}
    frame = _frame_of(tmp_path / "log.parquet", table, ColumnMapping(time_format="ms"))
    assert frame["ts_ms"].to_list() == [NOON_MS // 1000]


def test_half_of_the_times_may_be_unreadable(tmp_path: Path) -> None:
    """The guess goes by what can be read."""
    table = {"user": ["u", "v"], "item": ["i", "j"], "time": ["soon", str(NOON_MS)]}
    assert _frame_of(tmp_path / "log.parquet", table)["ts_ms"].to_list() == [None, NOON_MS]


def test_unreadable_cells_are_null_and_their_rows_stay(tmp_path: Path) -> None:
    """A log of five rows gives five events, whatever is wrong with them."""
    path = tmp_path / "log.csv"
    path.write_text(
        f"user,item,time,price\nu,i,{NOON_MS},1.5\n,i,{NOON_MS},x\nu,i,soon,inf\nu\nu,,{NOON_MS},,,surplus\n"
    )
    frame = open_log(path).frame()
    assert frame.select("user_id", "item_id", "ts_ms", "value").rows() == [
        ("u", "i", NOON_MS, 1.5),
        (None, "i", NOON_MS, None),
        ("u", "i", None, None),
        ("u", None, None, None),
        ("u", None, NOON_MS, None),
    ]


def test_a_broken_line_of_json_is_a_row_of_nulls(tmp_path: Path) -> None:
    """Torn, empty and foreign lines are delivered too."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(_jsonl() + b'{"user_id": "u3", "item\n[1, 2]\n')
    frame = open_log(path).frame()
    assert frame["user_id"].to_list() == ["u1", "u2", None, None]
    assert frame["event_type"].to_list() == ["view", "cart", None, None]


def test_events_as_polytempo_writes_them_come_back_with_their_context(tmp_path: Path) -> None:
    """A nested `context` becomes context fields, from JSON lines and from Parquet."""
    event = ROWS[0] | {"value": 2, "context": {"referrer": "search", "age": 30}}
    (tmp_path / "log.jsonl").write_text(json.dumps(event) + "\n")
    pl.DataFrame([event]).write_parquet(tmp_path / "log.parquet")
    for name in ("log.jsonl", "log.parquet"):
        row = open_log(tmp_path / name).frame().row(0, named=True)
        assert (row["value"], row["device"], row["referrer"], row["age"]) == (2.0, "mobile", "search", "30")


def test_whole_floats_are_ids_without_a_point(tmp_path: Path) -> None:
    """A missing id turns a column of integers to floats; 17850.0 is still the user 17850."""
    table = {"user": [17850.0, None], "item": [1, 2], "time": [NOON_MS, NOON_MS]}
    assert _frame_of(tmp_path / "log.parquet", table)["user_id"].to_list() == ["17850", None]


def test_types_are_taken_from_their_column_under_our_names(tmp_path: Path) -> None:
    """`addtocart` is a cart; unknown names stay as they are."""
    types = ["view", "addtocart", "Transaction", "Zap"]
    table = {"user": ["u"] * 4, "item": ["i"] * 4, "ts": [NOON_MS] * 4, "event": types}
    assert _frame_of(tmp_path / "log.parquet", table)["event_type"].to_list() == ["view", "cart", "purchase", "Zap"]


def test_negative_values_are_events_of_their_own_type(tmp_path: Path) -> None:
    """-2 pieces are a return of 2 pieces."""
    table = {"user": ["u", "u"], "item": ["i", "i"], "ts": [NOON_MS, NOON_MS], "quantity": [3, -2]}
    frame = _frame_of(tmp_path / "log.parquet", table)
    assert frame.select("event_type", "value").rows() == [("purchase", 3.0), ("return", 2.0)]
    kept = _frame_of(tmp_path / "kept.parquet", table, ColumnMapping(negative_value_type=""))
    assert kept.select("event_type", "value").rows() == [("purchase", 3.0), ("purchase", -2.0)]


def test_ranges_are_half_open_and_the_limit_counts_what_is_in_them(tmp_path: Path) -> None:
    """since <= time < until; rows without a time are in no range."""
    path = tmp_path / "log.parquet"
    table = {"user": list("abcde"), "item": ["i"] * 5, "ts": [NOON_MS, NOON_MS + 1, NOON_MS + 2, None, NOON_MS + 3]}
    pl.DataFrame(table).write_parquet(path)
    log = open_log(path)
    assert log.frame(since_ms=NOON_MS + 1, until_ms=NOON_MS + 3)["user_id"].to_list() == ["b", "c"]
    assert log.frame(since_ms=NOON_MS + 1, limit=1)["user_id"].to_list() == ["b"]
    assert len(log.frame()) == 5
    assert log.frame(limit=0).columns == log.frame().columns


def test_a_log_comes_in_bounded_batches_in_its_own_order(tmp_path: Path) -> None:
    """What is held at a time does not grow with the log."""
    path = tmp_path / "log.parquet"
    n_rows = 180_000
    times = range(NOON_MS, NOON_MS + n_rows)
    pl.DataFrame({"user": range(n_rows), "item": range(n_rows), "ts": times}).write_parquet(path)
    batches = list(open_log(path).batches())
    assert max(len(batch) for batch in batches) <= 50_000
    assert pl.concat(batches)["ts_ms"].to_list() == list(range(NOON_MS, NOON_MS + n_rows))


def test_items_are_read_with_their_names_for_things(tmp_path: Path) -> None:
    """Category and title are found, the rest are attributes."""
    path = tmp_path / "items.csv"
    path.write_text("movieId,movie_title,class,year,available\n7,Toy Story,Comedy,1995,False\n")
    items = read_items(path)
    assert items.rows(named=True) == [
        {"item_id": "7", "category": "Comedy", "title": "Toy Story", "available": False, "year": "1995"}
    ]


def test_news_clicks_need_no_mapping(shared_data: Callable[[str], Path]) -> None:
    """1.4 million clicks with device and referrer."""
    log = open_log(shared_data("news_clicks.parquet"))
    assert log.count_rows() == 1_410_779
    first = log.frame(limit=1).row(0, named=True)
    assert first["event_type"] == "click"
    assert (first["user_id"], first["item_id"], first["ts_ms"]) == ("59", "234853", 1_506_826_800_026)
    assert (first["device"], first["referrer"]) == ("3", "1")


def test_online_retail_needs_no_mapping(shared_data: Callable[[str], Path]) -> None:
    """Every order line arrives: those without a customer as null, negative quantities as returns."""
    frame = open_log(shared_data("online_retail.parquet")).frame()
    assert len(frame) == 541_909
    assert frame["user_id"].null_count() == 135_080
    assert frame["ts_ms"].null_count() == 0
    assert (frame["event_type"] == "return").sum() == 10_624
    assert frame["value"].min() > 0  # type: ignore[operator]


def test_film_ratings_need_no_mapping(shared_data: Callable[[str], Path]) -> None:
    """Stars are values of rating events, and the films' titles are found."""
    frame = open_log(shared_data("ml_100k.parquet")).frame()
    assert frame["event_type"].unique().to_list() == ["rating"]
    assert set(frame["value"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    films = read_items(shared_data("ml_100k_items.parquet"))
    assert films.columns[:3] == ["item_id", "category", "title"]

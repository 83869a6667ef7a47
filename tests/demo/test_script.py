"""What the demo streams."""

from pathlib import Path

import polars as pl
import pytest

from stream.core.events import EventTypes
from stream.demo.script import script_of_log, script_of_shop
from stream.errors import PolytempoError
from stream.feed import encode_events
from stream.logs import open_log
from stream.wire.decode import EventDecoder
from stream.wire.reasons import Reason
from tests.wire.records import FakeRecord

LATER_MS = 1_750_000_000_000


def reasons_of(frame: pl.DataFrame) -> list[Reason]:
    """Why the worker will refuse some of these events."""
    records = [
        FakeRecord(None if key is None else key.encode(), value, offset, LATER_MS)
        for offset, (key, value, _) in enumerate(encode_events([frame]))
    ]
    return [rejected.reason for rejected in EventDecoder(EventTypes()).decode(records).rejected]


def test_the_shop_is_streamed_in_the_order_of_time_and_six_live_events_are_malformed() -> None:
    script = script_of_shop(500, 700, seed=3)
    assert (len(script.history), len(script.live)) == (500, 706)
    assert script.history["ts_ms"].is_sorted()
    assert reasons_of(script.history) == []
    faults = "empty_id", "missing_field", "missing_field", "out_of_range", "too_old", "unknown_type"
    assert sorted(reasons_of(script.live)) == list(faults)
    assert script.items is not None
    assert set(script.live["item_id"].drop_nulls()) - {""} <= set(script.items["item_id"])


def test_the_same_seed_gives_the_same_script() -> None:
    assert script_of_shop(100, 100, seed=3).live.equals(script_of_shop(100, 100, seed=3).live)


@pytest.mark.parametrize(("n_rows", "n_history", "n_live"), [(100, 40, 20), (60, 40, 20), (50, 37, 13), (20, 15, 5)])
def test_a_log_is_sorted_and_of_a_short_one_three_quarters_are_history(
    tmp_path: Path, n_rows: int, n_history: int, n_live: int
) -> None:
    """Wanted are 40 events of history and 20 live ones."""
    rows = [f"u{n % 3},i{n},{1_700_000_000 + (n * 7) % n_rows}" for n in range(n_rows)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user,item,timestamp", *rows]))
    script = script_of_log(open_log(path), 40, 20)
    assert (len(script.history), len(script.live)) == (n_history, n_live)
    assert pl.concat([script.history, script.live])["ts_ms"].is_sorted()
    assert script.title == "log.csv"


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,timestamp\n")
    with pytest.raises(PolytempoError, match="no events"):
        script_of_log(open_log(path), 10, 10)

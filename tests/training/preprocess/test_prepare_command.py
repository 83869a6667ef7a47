"""`polytempo prepare`, and `train` with steps before: a messy file becomes events and a bundle by configuration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stream.bundle.load import load_bundle
from stream.cli.main import main
from stream.core.events import EventTypes
from stream.core.values import Clip, Fill, Log1p, Scale

STEPS = """
[data]
file = "orders.csv"
[data.columns]
user = "Customer"
item = "Article"
time = "Sold"
time_format = "%d/%m/%Y %H:%M"
session = "Order"
value = "Pieces"
constant_type = "purchase"
negative_value_type = "return"
[window]
train_until = 2024-01-08T00:00:00Z
[preprocess]
keep = ["Country"]
[preprocess.text]
missing = ["", "unknown"]
decimal = ","
whole = ["Customer"]
upper = ["Article"]
[[preprocess.steps]]
step = "complete"
[[preprocess.steps]]
step = "keep"
column = "item_id"
pattern = "^A"
[[preprocess.steps]]
step = "duplicates"
[[preprocess.steps]]
step = "returns"
[[preprocess.steps]]
step = "lines"
[[preprocess.steps]]
step = "fill"
[[preprocess.steps]]
step = "clip"
bounds = { method = "quantile", low = 0.0, high = 0.95 }
[[preprocess.steps]]
step = "log1p"
[[preprocess.steps]]
step = "scale"
"""
TRAINING = """
period = "1h"
baselines = ["basket"]
[bundle]
path = "unused"
name = "orders"
[policy]
seen = "session"
[features]
popularity = ["all:1d"]
co_visitation = ["any:30d"]
candidates = 20
slots = 16
lists = { "all:1d" = 10 }
[model]
kind = "ranker"
hidden = [8, 4]
epochs = 1
"""


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Ten days of orders of five lines, as somebody's spreadsheet has them, and a few lines that are none."""
    rng = np.random.default_rng(1)
    lines = ["Customer;Article;Sold;Order;Pieces;Country"]
    for order in range(400):
        day, hour = 1 + order // 40, order % 24
        first = rng.integers(0, 20)
        for line in range(5):
            item = f"a{(first + line) % 20:02d}"
            pieces = "unknown" if rng.random() < 0.1 else f"{int(rng.integers(1, 9))},0"
            pieces = "9.000,0" if order == 7 else pieces
            lines.append(f"{order % 30}.0;{item};{day:02d}/01/2024 {hour:02d}:15;{order};{pieces};uk")
    lines += [lines[1], "unknown;a01;01/01/2024 10:00;900;1,0;uk", "3.0;POSTAGE;01/01/2024 10:00;901;1,0;uk"]
    lines += [f"0.0;{lines[1].split(';')[1]};02/01/2024 10:00;C902;-1,0;uk", "3.0;a01;once;903;1,0;uk"]
    path = tmp_path / "orders.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "steps.toml"
    path.write_text(STEPS)
    return path


def test_a_messy_file_becomes_events_and_every_row_is_accounted_for(
    orders: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "made" / "events.parquet", tmp_path / "made" / "account.md"
    assert (
        main(["prepare", str(config), "--data", str(orders), "--out", str(out), "--report", str(report), "--json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    removed = {step["step"]: step["removed"] for step in said["steps"]}
    assert said["n_rows"] == 2005
    assert {name: n for name, n in removed.items() if n > 0} == {"complete": 2, "keep": 1, "duplicates": 1}
    events = pl.read_parquet(out)
    assert said["n_events"] == len(events) == 2001
    assert events["ts_ms"].is_sorted()
    assert set(events["user_id"].unique()) == {str(n) for n in range(30)}
    assert events["event_type"].value_counts(sort=True).rows() == [("purchase", 2000), ("return", 1)]
    back = events.row(by_predicate=pl.col("event_type") == "return", named=True)
    same = (pl.col("user_id") == "0") & (pl.col("item_id") == back["item_id"]) & (pl.col("ts_ms") < back["ts_ms"])
    assert back["cancels"] == events.filter(same)["row"].to_list()[-1]
    assert events["value"].max() == 9000
    assert events["value_model"].max() < 3
    assert events["value_model"].null_count() == 0
    assert "2,005 rows became 2,001 events" in report.read_text()
    assert "2024-01-08T00:00:00Z, the end of training" in report.read_text()


def test_the_report_can_be_json(orders: Path, config: Path, tmp_path: Path) -> None:
    report = tmp_path / "account.json"
    assert main(["prepare", str(config), "--data", str(orders), "--report", str(report)]) == 0
    account = json.loads(report.read_text())
    assert account["n_rows"] == 2005
    pieces = next(column for column in account["before"] if column["name"] == "Pieces")
    assert (pieces["high"], pieces["n_negative"]) == (9000, 1)


def test_a_bundle_carries_the_steps_and_the_worker_repeats_those_on_values(
    orders: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(TRAINING.replace("[bundle]", "[bundle]", 1) + STEPS)
    out = tmp_path / "orders"
    assert main(["train", str(config), "--data", str(orders), "--out", str(out), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert {"basket_co_visitation/hr@10", "own_repeats/hr@10", "popularity_7d/hr@10"} <= set(metrics)
    bundle = load_bundle(out)
    assert [type(step) for step in bundle.features.values.steps] == [Fill, Clip, Log1p, Scale]
    record = bundle.manifest.preprocessing
    assert isinstance(record, dict)
    assert (record["n_rows"], record["n_events"]) == (2005, 2001)

    assert main(["bundle", "show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preprocessing"] == record
    assert main(["bundle", "show", str(out)]) == 0
    assert "returns, lines, FILL, CLIP, LOG1P, SCALE: 2,005 rows" in " ".join(capsys.readouterr().out.split())

    assert main(["prepare", str(config), "--data", str(orders), "--out", str(tmp_path / "events.parquet")]) == 0
    events = pl.read_parquet(tmp_path / "events.parquet")
    value = events["value"].fill_null(float("nan")).to_numpy()
    kind = events["event_type"].replace_strict(EventTypes().codes(), return_dtype=pl.UInt8).to_numpy()
    served = bundle.features.values.transform(value.astype(np.float32), kind)
    assert served.tobytes() == events["value_model"].to_numpy().astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[preprocess]\n", "[preprocessing]\n", "no section or setting preprocessing"),
        ('step = "duplicates"', 'step = "dupes"', "dupes"),
        ('upper = ["Article"]', 'upper = ["Artikel"]', "no column Artikel"),
        ("2024-01-08", "2034-01-08", "do not fit"),
        ('file = "orders.csv"', "", "no log to prepare"),
    ],
)
def test_a_mistake_is_an_error_of_one_line(
    orders: Path, config: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, complaint: str
) -> None:
    config.write_text(STEPS.replace(old, new))
    arguments = ["prepare", str(config)] + ([] if 'file = "orders.csv"' in old else ["--data", str(orders)])
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_where_it_goes_must_have_a_known_form(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(config), "--data", "x.csv", "--out", "events.xlsx"]) == 2
    assert "events.xlsx ends with none of .parquet" in capsys.readouterr().err


ONLINE_RETAIL = Path("../shared/data/online_retail.parquet")


@pytest.mark.skipif(not ONLINE_RETAIL.exists(), reason="needs ../shared/data/online_retail.parquet")
def test_a_shops_orders_as_published_become_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "events.parquet"
    config = "training/configs/retail-ranker.toml"
    assert main(["prepare", config, "--data", str(ONLINE_RETAIL), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["n_rows"] == 541_909
    assert said["steps"][0] == {"step": "complete", "removed": 135_080, "changed": 0, "parameters": {}}
    assert said["n_rows"] - sum(step["removed"] for step in said["steps"]) == said["n_events"]
    events = pl.read_parquet(out)
    assert len(events) == said["n_events"]
    returns = events.filter(pl.col("event_type") == "return")
    assert len(returns) > 8_000
    assert returns["cancels"].null_count() < 0.25 * len(returns)
    assert events["user_id"].str.contains(".", literal=True).sum() == 0
    assert events["value_model"].abs().max() < 20

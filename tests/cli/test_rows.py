"""`polytempo rows` as people call it: from a file and from a topic, with a check."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from stream.cli.main import main
from stream.feed import produce_frame
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from tests.training.backtest_log import START_MS, table
from training.shards import shards_of

CONFIG = """
period = "30s"
[bundle]
path = "models/small"
name = "small"
[data]
file = "log.parquet"
[window]
train_sample = 0.5
[features]
popularity = ["all:1h", "all:1h:device"]
co_visitation = ["next:1d"]
segments = { device = 2 }
slots = 16
candidates = 32
lists = { "all:1h" = 20 }
[model]
kind = "ranker"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.parquet"
    table(1500).write_parquet(path)
    return path


def rows(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in shards_of(folder)])


def test_a_file_and_a_topic_give_the_same_rows(
    config: Path,
    log: Path,
    tmp_path: Path,
    kafka: KafkaSettings,
    topic_prefix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLYTEMPO_KAFKA", kafka.servers)
    ensure_topics(kafka, topic_layout(topic_prefix, n_partitions=4))
    assert produce_frame(kafka, TopicNames(topic_prefix).events, [table(1500)]).failed == 0
    common = ["--config", str(config), "--since", str(START_MS + 600_000), "--json"]
    assert main(["rows", "--log", str(log), "--out", str(tmp_path / "file"), "--check", "10", *common]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["check"] == {"n_again": 10, "n_differ": 0, "n_wrong": 0}
    assert 100 < said["n_rows"] <= said["n_targets"]
    topic = ["--topic", "events", "--prefix", topic_prefix]
    assert main(["rows", *topic, "--out", str(tmp_path / "topic"), *common]) == 0
    one, two = rows(tmp_path / "file"), rows(tmp_path / "topic")
    assert len(one) == said["n_rows"]
    assert one["target_ms"].min() >= START_MS + 600_000
    assert one.equals(two)


def test_a_complete_folder_is_only_checked_and_a_changed_row_is_an_exit_code(
    config: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rows", "--log", str(log), "--config", str(config), "--out", str(tmp_path / "rows")]
    assert main(command) == 0
    (first, *_) = shards_of(tmp_path / "rows")
    frame = pl.read_parquet(first)
    frame.with_columns(target_item=frame["target_item"].reverse()).write_parquet(first)
    assert main([*command, "--check", "3"]) == 1
    assert "are wrong" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "rows need features"),
        (["--config", "CONFIG"], "events come from one place"),
        (["--config", "CONFIG", "--log", "nowhere.parquet"], "there is no file"),
        (["--config", "CONFIG", "--log", "LOG", "--sample", "0"], "no share"),
        (["--config", "CONFIG", "--log", "LOG", "--since", "2100-01-01"], "no target in this range"),
    ],
)
def test_what_cannot_be_done_is_said(
    config: Path, log: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"CONFIG": str(config), "LOG": str(log)}
    assert main(["rows", "--out", str(tmp_path / "rows"), *(named.get(each, each) for each in arguments)]) == 2
    assert message in capsys.readouterr().err

"""`polytempo train`: one line of JSON, a bundle that loads, and mistakes that are named."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from stream.bundle.load import load_bundle
from stream.cli.main import main
from stream.feed import produce_frame
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from tests.training.backtest_log import table

CONFIG = """
seed = 3
period = "10m"
[bundle]
path = "unused"
name = "tiny"
[data.simulate]
seed = 5
days = 1.5
n_users = 80
n_items = 80
n_categories = 4
events_per_day = 1_500
[features]
popularity = ["all:1h", "all:1d"]
co_visitation = ["any:1d"]
candidates = 40
slots = 16
lists = { "all:1h" = 20 }
[model]
kind = "ranker"
hidden = [8, 4]
epochs = 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(CONFIG)
    return path


def test_a_configuration_becomes_a_bundle_whose_figures_evaluate_gives_again(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny"
    assert main(["train", str(config), "--out", str(out), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["reference"] == "tiny@1"
    assert 0 < trained["metrics"]["hr@10"] <= 1
    assert load_bundle(out).manifest.training.source.startswith("simulated shop (seed 5")
    assert load_bundle(out).manifest.training.command == "polytempo train tiny.toml"

    assert main(["train", str(config), "--evaluate", str(out), "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["metrics"]["hr@10"] == pytest.approx(trained["metrics"]["hr@10"], abs=0.01)
    for said in (trained, judged):
        assert said["cost"]["us_per_event"] > 0
        assert said["cost"]["n_batch"] == 256
    assert "us_per_event" not in " ".join(trained["metrics"]), "the machine's figures are none of the bundle's"


def test_a_topic_trains_the_bundle_that_its_events_in_a_file_train(
    config: Path,
    tmp_path: Path,
    kafka: KafkaSettings,
    topic_prefix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the last bit of the weights, whatever the partitions."""
    events = table(1_500).sort("ts_ms", "user_id", maintain_order=True)  # the order in which a topic is read
    config.write_text(
        CONFIG[: CONFIG.index("[data")] + "[data]\nfile = 'unused'\n" + CONFIG[CONFIG.index("[features") :]
    )
    monkeypatch.setenv("POLYTEMPO_KAFKA", kafka.servers)
    ensure_topics(kafka, topic_layout(topic_prefix, n_partitions=4))
    assert produce_frame(kafka, TopicNames(topic_prefix).events, [events]).failed == 0
    topic = ["--topic", "events", "--prefix", topic_prefix]
    said, bundles = {}, {}
    since_ms = int(events["ts_ms"][700])  # of the topic, only what comes from then on
    events.filter(pl.col("ts_ms") >= since_ms).write_parquet(tmp_path / "log.parquet")
    sources = {"file": ["--data", str(tmp_path / "log.parquet")], "topic": [*topic, "--since", str(since_ms)]}
    for name, source in sources.items():
        assert main(["train", str(config), *source, "--out", str(tmp_path / name), "--json"]) == 0
        said[name] = json.loads(capsys.readouterr().out)
        bundles[name] = load_bundle(tmp_path / name)
    assert said["topic"]["metrics"] == said["file"]["metrics"]
    one, other = (bundles[name].manifest for name in ("file", "topic"))
    assert one.files["model.onnx"] == other.files["model.onnx"]
    assert one.distributions == other.distributions
    assert (one.training.from_ms, one.training.n_events) == (other.training.from_ms, other.training.n_events)
    assert other.training.command == f"polytempo train tiny.toml --topic events --since {since_ms}"

    assert main(["train", str(config), *topic, "--data", "x.parquet"]) == 2
    assert "come from one place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("n_users = 80", "n_people = 80", "no option 'n_people'"),
        ("days = 1.5", "days = 0", "must run for an hour"),
        ("hidden = [8, 4]", "hidden = [8]", "$.model.hidden"),
    ],
)
def test_a_mistake_in_the_configuration_is_an_error_of_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, complaint: str
) -> None:
    config.write_text(CONFIG.replace(old, new))
    assert main(["train", str(config)]) == 2
    assert complaint in capsys.readouterr().err


def test_a_log_that_is_not_there_is_an_error_of_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(config), "--data", str(config.with_name("none.parquet"))]) == 2
    assert "there is no file" in capsys.readouterr().err

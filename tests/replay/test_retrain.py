"""`polytempo retrain`: events on a topic become the bundle that a worker serves, unless it is worse."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

import training.retrain
from stream.bundle.channel import read_channel, resolve
from stream.bundle.load import load_bundle
from stream.cli.main import main
from stream.errors import PolytempoError
from stream.feed import produce_frame
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.wire.messages import Receipt, Source
from stream.wire.userkeys import UserKeys
from tests.training.small_shop import shop
from tests.worker.cluster import Cluster, keyed, until
from training.backtest.significance import Interval
from training.retrain import working

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
CONFIG = """
seed = 2
period = "30m"
[bundle]
path = "unused"
name = "tiny"
[data]
file = "none.parquet"
[features]
popularity = ["all:1h"]
co_visitation = ["any:1d"]
slots = 8
ring = 20
lists = { "all:1h" = 20 }
[model]
kind = "tempo"
d = 8
n_scales = 2
n_best = 40
epochs = 3
batch = 8
length = 30
learning_rate = 0.01
[policy]
n = 10
seen = "session"
"""


def lately(*, until_share: float = 1.0) -> pl.DataFrame:
    """The small shop's events as of now, its first part."""
    events = shop().events
    events = events.head(round(len(events) * until_share))
    last = shop().events["ts_ms"].max()
    return events.with_columns(pl.col("ts_ms") + (time.time_ns() // 1_000_000 - HOUR_MS - last))  # type: ignore[operator]


class Command:
    """The command on a cluster's topics, and what it says."""

    def __init__(self, cluster: Cluster, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.channel = folder / "models" / "live.json"
        self.channel.parent.mkdir()
        config = folder / "tiny.toml"
        config.write_text(CONFIG)
        self._capsys = capsys
        self.words = ["retrain", str(config), "--channel", str(self.channel), "--since", "5d", "--share", "0.8"]
        self.words += ["--kafka", cluster.broker, "--prefix", cluster.prefix, "--json"]

    def __call__(self, *options: str, status: int = 0) -> dict[str, Any]:
        assert main([*self.words, *options]) == status
        said: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return said


@pytest.fixture
def command(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(cluster, tmp_path, capsys)


def feed(kafka: KafkaSettings, cluster: Cluster, frame: pl.DataFrame) -> None:
    assert produce_frame(kafka, TopicNames(cluster.prefix).events, [frame]).failed == 0


class KilledError(Exception):
    """Stands for a kill."""


async def test_events_become_the_bundle_that_a_worker_serves_and_a_kill_changes_nothing(
    kafka: KafkaSettings, cluster: Cluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    first half   ->  retrain  ->  live.json: tiny@1st      worker serves tiny@1st
    second half  ->  retrain, killed before it promotes    live.json: tiny@1st
                     again    ->  live.json: tiny@2nd      the same worker serves tiny@2nd
    """
    events = lately()
    cut = len(events) // 2
    feed(kafka, cluster, events.head(cut).filter(pl.col("item_id") != events["item_id"][-1]))
    first = command()
    assert first["promoted"]
    assert first["before"] is None
    assert not first["warm"]
    assert resolve(command.channel) == Path(first["path"])

    worker = cluster.worker(command.channel, "--watch-bundle", "100ms")
    await worker.ready()
    feed(kafka, cluster, events.tail(len(events) - cut))

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(training.retrain, "_compare", killed)
        with pytest.raises(KilledError):
            command("--tolerance", "1")
    assert resolve(command.channel) == Path(first["path"])

    second = command("--tolerance", "1")
    assert second["promoted"]
    assert second["resumed"]
    assert second["warm"]
    assert second["before"] == first["reference"]
    assert second["n_new_items"] > 0
    assert second["n_events"] > first["n_events"]
    assert second["difference"]["low"] <= second["difference"]["ndcg"] <= second["difference"]["high"]
    assert read_channel(command.channel).previous == Path(first["path"]).name
    old, new = (set(load_bundle(Path(each["path"])).vocabulary) for each in (first, second))
    assert old < new

    await until(lambda: "serves from now on instead of" in worker.stderr.read_text())
    event = {"user_id": "somebody", "item_id": events["item_id"][0], "event_type": "view"}
    await cluster.send([keyed({**event, "ts_ms": time.time_ns() // 1_000_000, "event_id": "last"})])
    await cluster.caught_up()
    served = [each for each in await cluster.recommendations() if each["user_id"] == "somebody"]
    assert [each["model"] for each in served] == [second["reference"]]
    assert served[0]["items"]


async def test_a_bundle_that_may_be_worse_does_not_serve_unless_forced(
    kafka: KafkaSettings, cluster: Cluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(kafka, cluster, lately(until_share=0.4))
    first = command()
    monkeypatch.setattr(
        training.retrain, "paired_difference", lambda *_: Interval(mean=-0.01, low=-0.05, high=0.03, p=0.6)
    )
    kept = command(status=3)
    assert not kept["promoted"]
    assert kept["difference"] == {"ndcg": -0.01, "low": -0.05, "high": 0.03}
    assert resolve(command.channel) == Path(first["path"])
    assert command("--force")["promoted"]


async def test_what_forgotten_users_did_is_not_among_the_rows_not_even_where_it_was_copied_before(
    kafka: KafkaSettings, cluster: Cluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    events      all that the first user did | ... | forget(first user)
    retrain     copied ^ and killed                                    again ^ reads the topic anew
    """
    trained_on: list[pl.DataFrame] = []
    original = training.retrain.train

    def train(*args: Any, **named: Any) -> Any:
        trained_on.append(named["tables"][0])
        if len(trained_on) == 1:
            raise KilledError
        return original(*args, **named)

    monkeypatch.setattr(training.retrain, "train", train)
    events = lately(until_share=0.4)
    whom = events["user_id"][0]
    n_theirs = len(events.filter(pl.col("user_id") == whom))
    feed(kafka, cluster, events)
    with pytest.raises(KilledError):
        command()
    [(partition, offset)] = await cluster.send([keyed({"user_id": whom, "event_type": "forget", "ts_ms": 1})])
    receipt = Receipt(
        receipt_id="r",
        user=UserKeys().pseudonym(whom.encode()).hex(),
        key_id="",
        ts_ms=1,
        erased=["state"],
        source=Source(cluster.names.events, partition, offset),
    )
    await cluster.send([(b"whom", msgspec.json.encode(receipt))], cluster.names.forgotten)
    done = command()
    assert not done["resumed"]
    before, after = trained_on
    assert len(before.filter(pl.col("user_id") == whom)) == n_theirs > 0
    assert len(after.filter(pl.col("user_id") == whom)) == 0
    assert len(after) == done["n_events"] == len(before) - n_theirs
    assert done["n_forgotten"] == n_theirs + 1, "and that they asked for it"


def test_a_channel_is_retrained_by_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        working(tmp_path / "live.json"),
        pytest.raises(PolytempoError, match="by another process"),
        working(tmp_path / "live.json"),
    ):
        pass
    with working(tmp_path / "live.json"):
        pass


async def test_a_topic_without_events_of_the_range_is_an_error_that_changes_nothing(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.words) == 2
    assert "no event of this range" in capsys.readouterr().err
    assert not command.channel.exists()

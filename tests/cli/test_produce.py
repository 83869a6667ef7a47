"""`polytempo produce` and `polytempo simulate` from the command line to a real broker and back."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kafka import KafkaConsumer, TopicPartition

from stream.cli.main import main
from stream.cli.produce import parse_time
from stream.demo.shop import ShopConfig, simulate
from stream.feed import Pace, partition_of, produce_frame
from stream.kafka.settings import KafkaSettings

NOON_MS = 1_700_049_600_000
N_PARTITIONS = 3


def _create(settings: KafkaSettings, **topics: int) -> None:
    from kafka.admin import KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(**settings.kafka_python())
    try:
        admin.create_topics([NewTopic(name, n, 1) for name, n in topics.items()])
    finally:
        admin.close()


def _read_all(settings: KafkaSettings, topic: str) -> list[Any]:
    """Every record of a topic, partition after partition."""
    consumer = KafkaConsumer(**settings.kafka_python(), enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records = []
        while any(consumer.position(p) < ends[p] for p in partitions):
            for batch in consumer.poll(timeout_ms=500).values():
                records += batch
        return records
    finally:
        consumer.close()


def _last_json(text: str) -> dict[str, Any]:
    """What `--json` printed: the last line of standard output."""
    document: dict[str, Any] = json.loads(text.splitlines()[-1])
    return document


def test_a_log_arrives_whole_with_each_user_in_order_on_one_partition(
    kafka: KafkaSettings, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every event once; the key is the user; the summary counts what Kafka acknowledged."""
    shop = simulate(ShopConfig(n_users=100, n_items=100, days=1, events_per_day=3_000), seed=1)
    path = tmp_path / "shop.parquet"
    shop.events.write_parquet(path)
    _create(kafka, **{f"{topic_prefix}events": N_PARTITIONS})
    assert main(["produce", str(path), "--kafka", kafka.servers, "--prefix", topic_prefix, "--json"]) == 0
    report = _last_json(capsys.readouterr().out)
    assert report["produced"] == len(shop.events)
    assert report["failed"] == 0
    assert report["events_per_s"] > 0

    records = _read_all(kafka, f"{topic_prefix}events")
    assert len(records) == len(shop.events)
    of_user: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        event = json.loads(record.value)
        assert record.key.decode() == event["user_id"]
        assert record.partition == partition_of(record.key, N_PARTITIONS)
        of_user[event["user_id"]].append(event["event_id"])
    for user, sent in shop.events.group_by("user_id", maintain_order=True).agg("event_id").iter_rows():
        assert of_user[user] == sent


def test_rows_that_lack_something_are_sent_for_the_worker_to_refuse(
    kafka: KafkaSettings, topic_prefix: str, tmp_path: Path
) -> None:
    """A missing user is a record without a key, an unreadable time is null."""
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,time\n,i1,{NOON_MS}\nu2,i2,soon\n")
    _create(kafka, **{f"{topic_prefix}events": 1})
    assert main(["produce", str(path), "--kafka", kafka.servers, "--prefix", topic_prefix]) == 0
    first, second = _read_all(kafka, f"{topic_prefix}events")
    assert first.key is None
    assert json.loads(first.value)["user_id"] is None
    assert json.loads(second.value)["ts_ms"] is None


def test_items_go_to_their_topic_before_the_events(
    kafka: KafkaSettings, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--items` alone is enough, and both are counted."""
    items = tmp_path / "items.csv"
    items.write_text("item_id,title,price\ni1,Teapot,20.5\ni2,Kettle,35\n")
    events = tmp_path / "events.jsonl"
    events.write_text(f'{{"user_id": "u", "item_id": "i1", "event_type": "view", "ts_ms": {NOON_MS}}}\n')
    _create(kafka, **{f"{topic_prefix}events": 1, f"{topic_prefix}items": 1})
    common = ["--kafka", kafka.servers, "--prefix", topic_prefix, "--json", "--items", str(items)]
    assert main(["produce", *common]) == 0
    assert main(["produce", str(events), *common]) == 0
    report = _last_json(capsys.readouterr().out)
    assert (report["items"], report["produced"]) == (2, 1)
    records = _read_all(kafka, f"{topic_prefix}items")
    assert [record.key for record in records] == [b"i1", b"i2"] * 2
    assert json.loads(records[0].value) == {"item_id": "i1", "title": "Teapot", "attributes": {"price": "20.5"}}


def test_ranges_limits_and_columns_are_options(
    kafka: KafkaSettings, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A day of a foreign log, mapped by hand."""
    path = tmp_path / "sales.csv"
    days = [f"{day}.11.2023 12:00,b{day},p{day},{-day if day == 3 else day},shop" for day in range(1, 9)]
    path.write_text("Sold at,Buyer,Product,Pieces,Where\n" + "\n".join(days) + "\n")
    _create(kafka, **{f"{topic_prefix}events": 1})
    options = ["--user", "Buyer", "--time", "Sold at", "--value", "Pieces", "--constant-type", "purchase"]
    options += ["--negative-type", "return", "--context", "Where", "--since", "2023-11-02", "--limit", "2"]
    assert main(["produce", str(path), "--kafka", kafka.servers, "--prefix", topic_prefix, *options]) == 0
    assert "user_id from Buyer" in capsys.readouterr().err
    second, third = (json.loads(record.value) for record in _read_all(kafka, f"{topic_prefix}events"))
    assert (second["user_id"], second["event_type"], second["value"]) == ("b2", "purchase", 2.0)
    assert (third["user_id"], third["event_type"], third["value"]) == ("b3", "return", 3.0)
    assert third["ts_ms"] == parse_time("2023-11-03T12:00")
    assert third["context"] == {"Where": "shop"}


def test_a_missing_topic_is_not_created_and_the_way_to_create_it_is_said(
    kafka: KafkaSettings, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and the command that helps."""
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,time\nu,i,{NOON_MS}\n")
    assert main(["produce", str(path), "--kafka", kafka.servers, "--prefix", topic_prefix]) == 2
    said = capsys.readouterr().err
    assert f"no topic '{topic_prefix}events'" in said
    assert "polytempo topics" in said


def test_a_record_that_is_too_large_is_counted_and_the_others_arrive(
    kafka: KafkaSettings, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, the number of failures and the first reason."""
    path = tmp_path / "log.parquet"
    table = {"user_id": ["a", "b", "c"], "item_id": ["i", "i" * 2_000_000, "i"], "ts_ms": [NOON_MS] * 3}
    pl.DataFrame(table).write_parquet(path)
    _create(kafka, **{f"{topic_prefix}events": 1})
    assert main(["produce", str(path), "--kafka", kafka.servers, "--prefix", topic_prefix, "--json"]) == 1
    captured = capsys.readouterr()
    report = _last_json(captured.out)
    assert (report["produced"], report["failed"]) == (2, 1)
    assert "MessageSizeTooLarge" in captured.err
    assert [record.key for record in _read_all(kafka, f"{topic_prefix}events")] == [b"a", b"c"]


def test_an_interruption_flushes_what_was_sent_and_counts_it(kafka: KafkaSettings, topic_prefix: str) -> None:
    """Ctrl-C in the middle: what the result says is what the topic holds."""
    shop = simulate(ShopConfig(n_users=50, n_items=60, days=0.5, events_per_day=2_000), seed=2).events

    def frames() -> Iterator[pl.DataFrame]:
        yield shop.head(300)
        raise KeyboardInterrupt

    _create(kafka, **{f"{topic_prefix}events": 1})
    outcome = produce_frame(kafka, f"{topic_prefix}events", frames())
    assert outcome.interrupted
    assert (outcome.produced, outcome.failed) == (300, 0)
    assert len(_read_all(kafka, f"{topic_prefix}events")) == 300


def test_a_paced_stream_can_be_stopped(kafka: KafkaSettings, topic_prefix: str) -> None:
    """`stop` ends a stream that would take days, and progress is reported on the way."""
    shop = simulate(ShopConfig(n_users=50, n_items=60, days=0.5, events_per_day=2_000), seed=2).events
    seen: list[int] = []
    _create(kafka, **{f"{topic_prefix}events": 1})
    outcome = produce_frame(
        kafka,
        f"{topic_prefix}events",
        [shop],
        pace=Pace(rate=50.0),
        on_progress=seen.append,
        stop=lambda: len(seen) >= 2,
    )
    assert 0 < outcome.produced < len(shop)
    assert seen == sorted(seen)
    assert len(_read_all(kafka, f"{topic_prefix}events")) == outcome.produced


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["produce"], "nothing to send"),
        (["produce", "nowhere.csv"], "no file"),
        (["produce", "x.csv", "--rate", "1", "--speedup", "1"], "--rate or --speedup"),
        (["produce", "x.csv", "--since", "yesterday"], "is no time"),
        (["simulate", "--out", "shop.xml"], "no known format"),
        (["simulate", "--out", "shop.csv", "--days", "0"], "an hour at least"),
    ],
)
def test_mistakes_are_named_before_anything_happens(
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Exit code 2, no traceback, no broker needed."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2023-11-15T12:00", NOON_MS),
        ("2023-11-15T13:00+01:00", NOON_MS),
        ("2023-11-15", NOON_MS - 43_200_000),
        (str(NOON_MS), NOON_MS),
    ],
)
def test_times_on_the_command_line_are_utc(text: str, ms: int) -> None:
    """Dates, times with and without a zone, epoch milliseconds."""
    assert parse_time(text) == ms


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_simulated_shop_is_written_and_can_be_read_as_a_log(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Events, items and the hidden truth, each in a file; the log needs no mapping."""
    from stream.logs import open_log, read_items

    out, items, truth = (tmp_path / f"{name}.{suffix}" for name in ("shop", "items", "truth"))
    arguments = ["--out", str(out), "--items-out", str(items), "--truth-out", str(truth)]
    arguments += [
        "--days",
        "0.5",
        "--users",
        "60",
        "--items",
        "80",
        "--events-per-day",
        "1000",
        "--seed",
        "5",
        "--json",
    ]
    assert main(["simulate", *arguments]) == 0
    report = _last_json(capsys.readouterr().out)
    config = ShopConfig(n_users=60, n_items=80, days=0.5, events_per_day=1_000)
    expected = simulate(config, seed=5)
    log = open_log(out).frame()
    assert report["events"] == len(log) == len(expected.events)
    assert log.select(expected.events.columns).equals(expected.events)
    assert (
        read_items(items)
        .select("item_id", "title", "available")
        .equals(expected.items.select("item_id", "title", "available"))
    )
    assert truth.is_file()

"""The same events from a file and from topics with one and with four partitions: the same table, the same backtest."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stream.cli.main import main
from stream.core.events import EventTypes
from stream.errors import PolytempoError
from stream.feed import produce_frame, produce_items
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from stream.replay.events import read_events, read_item_updates
from stream.replay.topics import Cursor, TopicReader
from tests.training.backtest_log import START_MS, table
from tests.worker.bundles import bundle
from training.backtest.material import material_of

TYPES = EventTypes()
ITEMS = pl.DataFrame(
    {
        "item_id": [f"item-{number}" for number in range(50)],
        "category": [f"category-{number % 4}" for number in range(50)],
        "available": [number % 10 != 3 for number in range(50)],
        "published_ms": [START_MS + 50_000 * number for number in range(50)],
    }
)


def fed(kafka: KafkaSettings, n_partitions: int, frame: pl.DataFrame) -> str:
    """The prefix of topics that hold a log and its items."""
    prefix = f"test-{uuid.uuid4().hex[:10]}-"
    ensure_topics(kafka, topic_layout(prefix, n_partitions=n_partitions))
    names = TopicNames(prefix)
    assert produce_items(kafka, names.items, ITEMS).failed == 0
    assert produce_frame(kafka, names.events, [frame]).failed == 0
    return prefix


@pytest.fixture(scope="module")
def prefixes(kafka: KafkaSettings) -> dict[int, str]:
    """By number of partitions."""
    return {n_partitions: fed(kafka, n_partitions, table()) for n_partitions in (1, 4)}


@pytest.mark.parametrize("n_partitions", [1, 4])
def test_a_topic_gives_the_events_of_the_file(
    kafka: KafkaSettings, prefixes: dict[int, str], n_partitions: int
) -> None:
    expected = material_of(table(), TYPES)
    with TopicReader(kafka) as reader:
        found = read_events(reader, f"{prefixes[n_partitions]}events", known_types=TYPES.codes())
    assert found.n_refused == 0
    assert len(found.ranges) == n_partitions
    assert material_of(found.table, TYPES).fingerprint() == expected.fingerprint()


def test_a_range_of_time_is_that_of_the_events(kafka: KafkaSettings, prefixes: dict[int, str]) -> None:
    since_ms, until_ms = START_MS + 300_000, START_MS + 900_000
    within = table().filter((pl.col("ts_ms") >= since_ms) & (pl.col("ts_ms") < until_ms))
    with TopicReader(kafka) as reader:
        found = read_events(
            reader, f"{prefixes[4]}events", known_types=TYPES.codes(), since_ms=since_ms, until_ms=until_ms
        )
    assert 100 < len(within) < len(table())
    assert material_of(found.table, TYPES).fingerprint() == material_of(within, TYPES).fingerprint()


def test_reading_starts_where_records_can_hold_events_of_the_range(kafka: KafkaSettings, topic_prefix: str) -> None:
    """Records carry the time of their arrival; events of a range cannot have arrived much before they happened."""
    from time import time

    now_ms = int(time() * 1000)
    ensure_topics(kafka, topic_layout(topic_prefix, n_partitions=1))
    frame = table(200).with_columns(ts_ms=pl.Series([now_ms - 1000] * 200))
    produce_frame(kafka, f"{topic_prefix}events", [frame])
    with TopicReader(kafka) as reader:
        topic = f"{topic_prefix}events"
        assert reader.offsets_from(topic, now_ms - 60_000) == {0: 0}
        assert reader.offsets_from(topic, now_ms + 3_600_000) == {0: 200}
        later = read_events(reader, topic, known_types=TYPES.codes(), since_ms=now_ms + 3_600_000)
        assert later.ranges == {0: (200, 200)}
        soon = read_events(reader, topic, known_types=TYPES.codes(), since_ms=now_ms - 60_000)
        assert len(soon.table) == 200


def test_what_a_worker_would_refuse_is_counted_and_left_out(kafka: KafkaSettings, topic_prefix: str) -> None:
    frame = table(100)
    broken = frame.with_columns(
        user_id=pl.when(pl.int_range(pl.len()) % 10 == 0).then(None).otherwise(pl.col("user_id")),
        event_type=pl.when(pl.int_range(pl.len()) % 10 == 1).then(pl.lit("wink")).otherwise(pl.col("event_type")),
    )
    ensure_topics(kafka, topic_layout(topic_prefix, n_partitions=4))
    produce_frame(kafka, f"{topic_prefix}events", [broken])
    with TopicReader(kafka) as reader:
        found = read_events(reader, f"{topic_prefix}events", known_types=TYPES.codes())
    assert (found.n_refused, len(found.table)) == (20, 80)
    assert material_of(found.table, TYPES).fingerprint() == material_of(broken, TYPES).fingerprint()


def test_the_last_word_on_each_item_counts(kafka: KafkaSettings, prefixes: dict[int, str]) -> None:
    produce_items(kafka, f"{prefixes[1]}items", ITEMS.head(1).with_columns(category=pl.lit("changed")))
    with TopicReader(kafka) as reader:
        found = {update.item_id: update for update in read_item_updates(reader, f"{prefixes[1]}items")}
    assert len(found) == 50
    assert found["item-0"].category == "changed"
    assert not found["item-3"].available
    produce_items(kafka, f"{prefixes[1]}items", ITEMS.head(1))


def test_a_cursor_gives_each_record_once_and_ends_where_the_topic_ended(
    kafka: KafkaSettings, prefixes: dict[int, str]
) -> None:
    cursor = Cursor(kafka, f"{prefixes[1]}events", 0)
    try:
        produce_frame(kafka, f"{prefixes[1]}items", [table(1)])  # another topic: not seen
        parts = [cursor.up_to(offset) for offset in (-1, 0, 9, 9, 1500, 10**9, 10**9)]
        assert [len(part) for part in parts] == [0, 1, 9, 0, 1491, 499, 0]
        assert [record.offset for part in parts for record in part] == list(range(2000))
    finally:
        cursor.close()


def test_a_topic_that_is_not_there_is_named(kafka: KafkaSettings) -> None:
    with TopicReader(kafka) as reader, pytest.raises(PolytempoError, match="no topic 'nowhere'"):
        reader.bounds("nowhere")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The figures of a backtest that do not depend on the clock."""
    capsys.readouterr()
    assert (
        main(["backtest", "--bundle", str(bundle("ranker")), "--since", str(START_MS + 900_000), "--json", *arguments])
        == 0
    )
    document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    for runs in (document["bundles"], document["baselines"]):
        for figures in runs.values():
            for name in ("seconds", "events_per_s"):
                del figures[name]
    return document


def test_topics_and_file_give_the_same_figures_to_the_last_digit(
    kafka: KafkaSettings,
    prefixes: dict[int, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLYTEMPO_KAFKA", kafka.servers)
    table().write_parquet(tmp_path / "log.parquet")
    ITEMS.write_parquet(tmp_path / "items.parquet")
    file = said(capsys, "--log", str(tmp_path / "log.parquet"), "--items", str(tmp_path / "items.parquet"))
    assert file["bundles"]["ranker@1"]["n_targets"] > 300
    from_topic: Callable[..., dict[str, Any]] = lambda n, *more: said(  # noqa: E731 - one line for three calls
        capsys, "--topic", "events", "--prefix", prefixes[n], *more
    )
    assert from_topic(1) == file
    assert from_topic(4, "--batch", "17") == file
    assert from_topic(4, "--processes", "2", "--batch", "1000") == file

"""The beginnings of real logs through a real broker and worker, and what another client reads of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl

from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from stream.logs import open_log
from tests.integration.real_logs import FILES, Report, through_worker
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, keyed

START_MS = 1_700_000_000_000


async def account_for(
    settings: KafkaSettings, prefix: str, workdir: Path, path: Path, limit: int | None = None
) -> Report:
    """Send a log through a worker on topics of its own."""
    cluster = Cluster(settings, prefix, workdir)
    cluster.create()
    try:
        return await through_worker(cluster, bundle("ranker"), open_log(path), limit)
    finally:
        await cluster.kill_all()


async def test_every_click_of_the_news_is_answered_once(
    kafka: KafkaSettings, topic_prefix: str, tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    """The first 8,000 of 1.4 million."""
    report = await account_for(kafka, topic_prefix, tmp_path, shared_data(FILES["news"]), 8_000)
    assert report.sound, report
    assert (report.n_rows, report.n_valid, report.n_recommendations) == (8_000, 8_000, 8_000)
    assert report.kinds == {"click": 8_000}
    assert report.n_full > 2_000  # from when on statistics are there, depends on how fast the others went through


async def test_orders_without_a_customer_are_dead_letters_and_returns_speak_against_their_item(
    kafka: KafkaSettings, topic_prefix: str, tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    """The columns are guessed; negative quantities are returns."""
    path = shared_data(FILES["retail"])
    rows = pl.read_parquet(path, n_rows=8_000)
    n_without = rows["CustomerID"].null_count()
    n_returns = len(rows.filter(pl.col("CustomerID").is_not_null() & pl.col("Quantity").str.starts_with("-")))
    assert n_without > 1_000
    assert n_returns > 50
    report = await account_for(kafka, topic_prefix, tmp_path, path, 8_000)
    assert report.sound, report
    assert report.n_valid == report.n_recommendations == 8_000 - n_without
    assert report.dead_letters == {"missing_field": n_without}
    assert report.kinds == {"purchase": 8_000 - n_without - n_returns, "return": n_returns}
    assert report.n_negative == n_returns
    assert report.n_only_returned > 0


async def test_kafkas_own_console_consumer_reads_recommendations(
    kafka_broker: EmbeddedBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """A client that shares no code with ours finds keys that are users and values that are JSON."""
    cluster = Cluster(kafka_broker.settings, topic_prefix, tmp_path, n_partitions=2)
    cluster.create()
    try:
        await cluster.worker(bundle("ranker"), "--refresh", "50ms").ready()
        n_events, recommended = 0, False
        async with asyncio.timeout(60):
            while not recommended:  # what is popular is known as soon as the view has moved on
                events = [
                    {"user_id": f"user {n % 9}", "item_id": f"ü-{n}", "event_type": "click", "ts_ms": START_MS + n}
                    for n in range(n_events, n_events + 20)
                ]
                n_events += len(await cluster.send(map(keyed, events)))
                await cluster.caught_up()
                recommended = any(each["items"] for each in await cluster.recommendations())
    finally:
        await cluster.kill_all()
    lines = kafka_broker.console_consumer(cluster.names.recommendations, n_events, with_keys=True)
    assert len(lines) == n_events
    for line in lines:
        key, value = line.split("\t")
        recommendation = json.loads(value)
        assert recommendation["user_id"] == key
        assert recommendation["model"] == "ranker@1"
        assert {"rec_id", "items", "source"} <= recommendation.keys()
    assert any(item["item_id"].startswith("ü-") for line in lines for item in json.loads(line.split("\t")[1])["items"])

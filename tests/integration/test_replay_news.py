"""A small round of `python -m tests.integration.replay_news`: a log of clicks from a file and from topics."""

from __future__ import annotations

import polars as pl
import pytest

from stream.kafka.settings import KafkaSettings
from tests.integration.replay_news import Way, compare, fill
from tests.training.backtest_log import START_MS, table
from tests.worker.bundles import bundle
from training.backtest.judged import Judged


@pytest.fixture(scope="module")
def prefixes(kafka: KafkaSettings) -> dict[int, str]:
    """By number of partitions, the set-up that holds the log."""
    return {n_partitions: fill(kafka, table(), n_partitions) for n_partitions in (1, 4)}


def test_baselines_are_the_same_from_file_and_topics_by_one_and_two_processes(
    kafka: KafkaSettings, prefixes: dict[int, str]
) -> None:
    ways = (Way(None, 1, 256), Way(1, 1, 1000), Way(4, 2, 17))
    found = compare(table(), kafka, prefixes, judged=Judged(), ways=ways)
    assert len(found.metrics) == len(found.lists) == 3
    assert found.equal, found
    assert next(iter(found.metrics.values()))["co_visitation"]["n_targets"] > 500


def test_a_bundle_is_the_same_over_a_range_that_topics_are_asked_for(
    kafka: KafkaSettings, prefixes: dict[int, str]
) -> None:
    since_ms, until_ms = START_MS + 900_000, START_MS + 2_400_000
    found = compare(
        table(),
        kafka,
        prefixes,
        bundle=bundle("ranker"),
        judged=Judged(from_ms=since_ms, until_ms=until_ms),
        since_ms=since_ms,
        until_ms=until_ms,
        ways=(Way(None, 1, 256), Way(4, 1, 64), Way(1, 1, 1)),
    )
    assert found.equal, found


def test_events_that_differ_are_noticed(kafka: KafkaSettings, prefixes: dict[int, str]) -> None:
    other = table().with_columns(item_id=pl.col("item_id").shuffle(seed=1))
    found = compare(other, kafka, prefixes, judged=Judged(), ways=(Way(None, 1, 256), Way(1, 1, 256)))
    assert not found.equal

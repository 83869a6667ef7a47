"""`polytempo watch` on a real broker."""

import json
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from stream.cli.main import main
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout
from stream.wire.encode import rec_id
from stream.wire.messages import DeadLetter, Event, Item, Recommendation, RecommendedItem, Source

N_EVENTS = 40


@pytest.fixture
def played(kafka: KafkaSettings, topic_prefix: str) -> TopicNames:
    """Topics in which one user went on as recommended every second time; the last event was malformed."""
    names = TopicNames(topic_prefix)
    ensure_topics(kafka, topic_layout(topic_prefix, n_partitions=2))
    producer = KafkaProducer(**kafka.kafka_python())
    producer.send(names.items, key=b"i1", value=msgspec.json.encode(Item(title="Tent")))
    for n in range(N_EVENTS):
        event = Event(user_id="u", item_id=f"i{n}", event_type="view", ts_ms=1_700_000_000_000 + 1000 * n)
        value = b"{" if n == N_EVENTS - 1 else msgspec.json.encode(event)
        placed = producer.send(names.events, key=b"u", value=value, partition=1).get()
        if n == N_EVENTS - 1:
            letter = DeadLetter(
                reason="invalid_json", detail="", topic=names.events, partition=1, offset=placed.offset, ts_ms=None,
                key=None, key_bytes=None, value=None, value_bytes=None, value_sha256=None,
            )  # fmt: skip
            producer.send(names.dead_letters, value=msgspec.json.encode(letter))
            continue
        source = Source(names.events, 1, placed.offset)
        answer = Recommendation(
            rec_id=rec_id(names.events, 1, placed.offset),
            user_id="u",
            ts_ms=event.ts_ms,
            event_id=None,
            items=[RecommendedItem(f"i{n + 1 if n % 2 else 9999}", 1.0, ["own"])],
            model="m@1",
            variant="default",
            activity_offset=-1,
            items_offset=-1,
            source=source,
        )
        producer.send(names.recommendations, key=b"u", value=msgspec.json.encode(answer), partition=1)
    producer.flush()
    producer.close()
    return names


def watch(kafka: KafkaSettings, names: TopicNames, *options: str) -> int:
    return main(["watch", "--kafka", kafka.servers, "--prefix", names.prefix, *options])


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return line


def test_everything_that_the_topics_hold_is_summed_up(
    kafka: KafkaSettings, played: TopicNames, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(kafka, played, "--from-beginning", "--events", str(N_EVENTS), "--json") == 0
    summary = last_line(capsys)
    assert summary["final"] is True
    assert summary["events_in"] == N_EVENTS
    assert summary["recommendations_out"] == N_EVENTS - 1
    assert summary["dead_letters_by_reason"] == {"invalid_json": 1}
    # 39 valid events in one session: 38 targets, of which every second was recommended, and none was popular before.
    assert (summary["n_targets"], summary["hit_rate_at_10"], summary["popularity_hit_rate_at_10"]) == (38, 0.5, 0.0)
    assert summary["p99_ms"] >= summary["p50_ms"] >= 0
    assert summary["lag"] is None  # no worker has committed anything


def test_without_from_beginning_the_past_is_not_counted(
    kafka: KafkaSettings, played: TopicNames, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(kafka, played, "--for", "0.5", "--json") == 0
    summary = last_line(capsys)
    assert (summary["events_in"], summary["recommendations_out"], summary["dead_letters"]) == (0, 0, 0)


def test_watching_leaves_no_group_behind(kafka: KafkaSettings, played: TopicNames) -> None:
    assert watch(kafka, played, "--from-beginning", "--events", "1", "--plain") == 0
    admin = KafkaAdminClient(**kafka.kafka_python())
    try:
        groups = str(admin.list_groups())
    finally:
        admin.close()
    assert played.prefix not in groups


def test_missing_topics_and_senseless_figures_are_plain_errors(
    kafka: KafkaSettings, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch(kafka, TopicNames(topic_prefix)) == 2
    assert "polytempo topics" in capsys.readouterr().err
    assert watch(kafka, TopicNames(topic_prefix), "--for", "0") == 2
    assert watch(kafka, TopicNames(topic_prefix), "--events", "0") == 2

"""The doctor sees what is wrong with a real cluster, and touches nothing."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.structs import OffsetAndMetadata

from stream.cli.main import main
from stream.doctor.cluster import check_cluster, skew_between
from stream.doctor.findings import Finding
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topic, TopicNames, ensure_topics, topic_layout
from tests.worker.cluster import Cluster

EVENT = (b"u", b'{"user_id":"u","item_id":"i","event_type":"click","ts_ms":1704067200000}')


def seen(settings: KafkaSettings, prefix: str, **how: object) -> dict[str, Finding]:
    """The last finding of each check."""
    found = check_cluster(settings, TopicNames(prefix), **{"listen_s": 0.0, **how})  # type: ignore[arg-type]
    return {finding.check: finding for finding in found}


@pytest.fixture
def made(kafka: KafkaSettings, topic_prefix: str) -> str:
    """The prefix of topics that exist."""
    ensure_topics(kafka, topic_layout(topic_prefix, n_partitions=2))
    return topic_prefix


def test_a_cluster_that_does_not_answer_is_the_only_finding() -> None:
    found = seen(KafkaSettings(bootstrap=("127.0.0.1:1",)), "")
    assert {name: each.status for name, each in found.items()} == {"kafka": "error"}
    assert "polytempo broker" in found["kafka"].hint


def test_missing_topics_come_with_the_command_that_makes_them(kafka: KafkaSettings, topic_prefix: str) -> None:
    found = seen(kafka, topic_prefix)
    assert found["kafka"].status == "ok"
    assert found["topics"].status == "error"
    assert f"{topic_prefix}events" in found["topics"].detail
    assert found["topics"].hint == f"Create them with `polytempo topics --prefix {topic_prefix}`."


def test_fresh_topics_are_well_and_nobody_works_there(kafka: KafkaSettings, made: str) -> None:
    found = seen(kafka, made)
    assert {name: each.status for name, each in found.items()} == {
        "kafka": "ok",
        "topics": "ok",
        "workers": "warning",
        "lag": "ok",
        "view": "ok",
        "clock": "unknown",
    }


def test_a_retention_of_ones_own_is_no_finding_and_a_changelog_that_is_deleted_is_one(
    kafka: KafkaSettings, topic_prefix: str
) -> None:
    names = TopicNames(topic_prefix)
    layout = topic_layout(topic_prefix, n_partitions=2, retention_ms=3_600_000)
    ensure_topics(kafka, layout)
    assert seen(kafka, topic_prefix)["topics"].status == "ok"
    other = f"{topic_prefix}other-"
    wrong = [
        Topic(each.name, each.n_partitions, config={**each.config, "cleanup.policy": "delete"})
        if each.name == TopicNames(other).changelog
        else each
        for each in topic_layout(other, n_partitions=2)
    ]
    ensure_topics(kafka, wrong)
    found = seen(kafka, other)["topics"]
    assert found.status == "error"
    assert TopicNames(other).changelog in found.detail
    assert names.changelog not in found.detail


def test_partitions_that_do_not_agree_are_named(kafka: KafkaSettings, topic_prefix: str) -> None:
    names = TopicNames(topic_prefix)
    layout = topic_layout(topic_prefix, n_partitions=2)
    ensure_topics(
        kafka,
        [Topic(each.name, 3, config=each.config) if each.name == names.recommendations else each for each in layout],
    )
    found = seen(kafka, topic_prefix)["topics"]
    assert found.status == "error"
    assert f"{names.recommendations} has 3 partitions, not 2" in found.detail


async def test_events_that_nobody_reads_and_commits_beyond_the_end(cluster: Cluster) -> None:
    await cluster.send([EVENT] * 7)
    look = asyncio.get_running_loop().run_in_executor
    found = await look(None, lambda: seen(cluster.settings, cluster.prefix))
    assert (found["lag"].status, found["lag"].detail) == ("warning", "7 events are not finished")
    admin = KafkaAdminClient(**cluster.settings.kafka_python())
    try:
        beyond = {TopicPartition(cluster.names.events, 0): OffsetAndMetadata(1_000, "", -1)}
        await look(None, lambda: admin.alter_group_offsets(cluster.names.app_id, beyond))
    finally:
        admin.close()
    every = await look(None, lambda: list(check_cluster(cluster.settings, TopicNames(cluster.prefix), listen_s=0.0)))
    (made_anew,) = [each for each in every if each.status == "error"]
    assert "made anew" in made_anew.detail
    assert cluster.names.changelog in made_anew.hint


@pytest.mark.parametrize(
    ("off_s", "status", "says"), [(0, "ok", "agree"), (-60, "error", "ahead of"), (60, "error", "behind")]
)
async def test_the_brokers_clock_shows_when_something_is_written_meanwhile(
    cluster: Cluster, off_s: int, status: str, says: str
) -> None:
    """This machine's clock is put off by a minute, as far as the doctor can see."""
    await cluster.send([EVENT])
    looking = asyncio.get_running_loop().run_in_executor(
        None, lambda: seen(cluster.settings, cluster.prefix, listen_s=30.0, clock=lambda: time.time() + off_s)
    )
    while not looking.done():
        await cluster.send([EVENT])
    found = (await looking)["clock"]
    assert found.status == status
    assert says in found.detail


def test_the_skew_lies_between_two_looks() -> None:
    """
    own clock    1000 ----- 1200
    stamp             4100
    """
    assert skew_between(4_100, 1_000, 1_200) == (2_900, 3_100)


def test_the_command_prints_one_line_for_programs_and_exits_by_what_it_found(
    kafka: KafkaSettings, made: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYTEMPO_KAFKA", kafka.servers)
    assert main(["doctor", "--prefix", made, "--listen", "0s", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert {"check", "status", "detail", "hint"} == document["findings"][0].keys()
    assert main(["doctor", "--prefix", "nothing-", "--listen", "0s"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "error topics: missing: nothing-events" in shown
    assert "polytempo topics --prefix nothing-" in shown

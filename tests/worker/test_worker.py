"""A worker as its users run it: a process of its own, against a real broker."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stream.bundle.channel import activate, rollback
from stream.cli.main import main
from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topic, TopicNames, ensure_topics, topic_layout
from stream.wire.encode import rec_id
from stream.worker.app import Worker, WorkerConfig
from tests.wire.malformed import KINDS, REASON_OF, make
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, KeyAndValue, Running, keyed, until
from tests.worker.test_processor import Desk, counted, event, record


def clicks(n_events: int, start: int = 0, n_users: int = 50) -> list[dict[str, Any]]:
    """Four clicks a second of the last hour, over 300 items of which a few are popular."""
    began_ms = int(time.time() * 1000) - 3_600_000
    return [
        {
            "user_id": f"user-{Random(-number).randrange(n_users)}",
            "item_id": f"item-{int(Random(number).paretovariate(0.5)) % 300}",
            "event_type": "click",
            "ts_ms": began_ms + 250 * number,
            "event_id": f"event-{number}",
            "context": {"device": "1"},
        }
        for number in range(start, start + n_events)
    ]


def ids_of(cluster: Cluster, places: list[tuple[int, int]]) -> list[str]:
    """The rec_id of each place on `events`."""
    return [rec_id(cluster.names.events, partition, offset) for partition, offset in places]


async def logged(worker: Running, text: str, n: int = 1) -> None:
    """Until the worker has logged this so often."""
    await until(lambda: worker.stderr.read_text().count(text) >= n or worker.process.poll() is not None)
    assert worker.process.poll() is None, worker.stderr.read_text()[-3000:]


async def models_serving(cluster: Cluster, events: list[dict[str, Any]]) -> set[str]:
    """Who answers these events."""
    wanted = set(ids_of(cluster, await cluster.send(map(keyed, events))))
    await cluster.caught_up()
    return {each["model"] for each in await cluster.recommendations() if each["rec_id"] in wanted}


async def test_every_valid_event_is_answered_once_and_every_other_is_a_dead_letter(cluster: Cluster) -> None:
    """1,000 malformed messages of all kinds among 4,000 good ones; then a restart, which repeats nothing."""
    rng, now_ms = Random(0), int(time.time() * 1000)
    kinds = [KINDS[number % len(KINDS)] for number in range(1_000)]
    assert len(set(kinds)) >= 20
    good = clicks(4_000)
    mixed: list[tuple[str | None, KeyAndValue]] = []
    for number, click in enumerate(good):
        mixed.append((None, keyed(click)))
        if number % 4 == 0:
            kind = kinds[number // 4]
            mixed.append((kind, make(kind, rng, now_ms)))
    worker = cluster.worker(bundle("ranker"))
    await worker.ready()
    places = await cluster.send(pair for _, pair in mixed)
    await cluster.caught_up()

    expected = {
        rec_id(cluster.names.events, *place): json.loads(value or b"")
        for (kind, (_, value)), place in zip(mixed, places, strict=True)
        if kind is None
    }
    recommendations = await cluster.recommendations()
    assert Counter(each["rec_id"] for each in recommendations) == dict.fromkeys(expected, 1)
    for each in recommendations:
        cause = expected[each["rec_id"]]
        assert [each[name] for name in ("user_id", "event_id", "ts_ms")] == [
            cause[name] for name in ("user_id", "event_id", "ts_ms")
        ]
    reasons = {place: REASON_OF[kind].value for (kind, _), place in zip(mixed, places, strict=True) if kind}
    letters = await cluster.dead_letters()
    assert Counter((each["partition"], each["offset"]) for each in letters) == dict.fromkeys(reasons, 1)
    assert {(each["partition"], each["offset"]): each["reason"] for each in letters} == reasons

    summary = await worker.stopped()
    assert summary["recommendations"] == 4_000
    assert summary["dead_letters"] == Counter(reasons.values())
    assert (summary["replayed"], summary["duplicates"]) == (0, 0)

    again = cluster.worker(bundle("ranker"))
    await again.ready()
    await cluster.send(map(keyed, clicks(10, start=4_000)))
    await cluster.caught_up()
    summary = await again.stopped()
    assert (summary["records"], summary["recommendations"], summary["replayed"]) == (10, 10, 0)


async def test_an_item_that_goes_off_sale_is_never_recommended_after(cluster: Cluster) -> None:
    """Every recommendation made with the catalogue that says so leaves it out; broken items are dead letters, once."""
    items = cluster.names.items
    await cluster.send([(b"item-1", b"{"), (b"item-2", json.dumps({"title": "Tea"}).encode())], items)
    worker = cluster.worker(bundle("ranker"), "--refresh", "100ms", "--seen", "none")
    await worker.ready()
    await cluster.send(map(keyed, clicks(2_000)))
    await cluster.caught_up()
    popular = Counter(item["item_id"] for each in await cluster.recommendations() for item in each["items"])
    gone = popular.most_common(1)[0][0]
    ((_, offset), _) = await cluster.send(
        [(gone.encode(), json.dumps({"available": False}).encode()), (b"item-3", b"[]")], items
    )
    feeding = asyncio.ensure_future(cluster.send(map(keyed, clicks(2_000, start=2_000)), rate=1_000))
    await feeding
    await cluster.caught_up()
    after = [each for each in await cluster.recommendations() if each["items_offset"] >= offset]
    assert len(after) > 500
    assert all(gone != item["item_id"] for each in after for item in each["items"])

    async def letters() -> list[tuple[str, int, str]]:
        return [(each["topic"], each["offset"], each["reason"]) for each in await cluster.dead_letters()]

    expected = [(items, 0, "invalid_json"), (items, 3, "not_an_object")]
    async with asyncio.timeout(30):
        while await letters() != expected:
            await asyncio.sleep(0.1)
    assert (await worker.stopped())["dead_letters"] == {"invalid_json": 1, "not_an_object": 1}


async def test_a_bundle_is_exchanged_rolled_back_and_refused_while_events_are_answered(
    cluster: Cluster, tmp_path: Path
) -> None:
    """ranker@1 → ranker@2 → back → a corrupt one, refused → one that wants other statistics; no restart."""
    channel = tmp_path / "live.json"
    activate(channel, bundle("ranker"))
    worker = cluster.worker(channel, "--watch-bundle", "100ms", "--refresh", "100ms")
    await worker.ready()
    events = clicks(2_000)
    assert await models_serving(cluster, events[:400]) == {"ranker@1"}

    feeding = asyncio.ensure_future(cluster.send(map(keyed, events[400:1_000]), rate=300))
    activate(channel, bundle("ranker-2"))
    await logged(worker, "serves from now on instead of")
    await feeding
    assert await models_serving(cluster, events[1_000:1_200]) == {"ranker@2"}

    rollback(channel)
    await logged(worker, "serves from now on instead of", 2)
    assert await models_serving(cluster, events[1_200:1_400]) == {"ranker@1"}

    corrupt = shutil.copytree(bundle("ranker-2"), tmp_path / "corrupt")
    model = corrupt / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    channel.write_text(json.dumps({"active": "corrupt", "previous": None}))
    await logged(worker, "the new bundle is not used")
    assert await models_serving(cluster, events[1_400:1_600]) == {"ranker@1"}

    activate(channel, bundle("other-statistics"))
    await logged(worker, "serves from now on instead of", 3)
    assert await models_serving(cluster, events[1_600:]) == {"other@1"}
    last = [each for each in await cluster.recommendations() if each["model"] == "other@1"]
    assert sum(len(each["items"]) == 10 for each in last) > 300  # its statistics were built from the topic's beginning
    assert last[-1]["activity_offset"] >= 5

    assert len(await cluster.recommendations()) == len(events)
    assert (await worker.stopped())["recommendations"] == len(events)


async def test_a_recurrent_bundle_takes_over_from_a_ranker_and_remembers_through_a_restart(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Its state is rebuilt from the ring of events, then carried in the record."""
    channel = tmp_path / "live.json"
    activate(channel, bundle("ranker"))
    worker = cluster.worker(channel, "--watch-bundle", "100ms")
    await worker.ready()
    events = clicks(900)
    assert await models_serving(cluster, events[:300]) == {"ranker@1"}
    activate(channel, bundle("recurrent"))
    await logged(worker, "serves from now on instead of")
    assert await models_serving(cluster, events[300:600]) == {"recurrent@1"}
    await worker.stopped()
    again = cluster.worker(channel)
    await again.ready()
    assert await models_serving(cluster, events[600:]) == {"recurrent@1"}
    assert (await again.stopped())["records"] == 300


async def test_a_restart_with_a_data_folder_goes_on_with_the_same_view(cluster: Cluster, tmp_path: Path) -> None:
    """The snapshot is written at the stop and taken up at the start."""
    data = tmp_path / "data"
    worker = cluster.worker(bundle("ranker"), "--data", str(data), "--refresh", "100ms")
    await worker.ready()
    await cluster.send(map(keyed, clicks(2_000)))
    await cluster.caught_up()
    await worker.stopped()
    (snapshot,) = data.glob("*.npz")
    assert snapshot.stat().st_size > 0
    n_messages = len(await cluster.records(cluster.names.item_activity))
    again = cluster.worker(bundle("ranker"), "--data", str(data))
    await again.ready()
    await cluster.send(map(keyed, clicks(1, start=2_000)))
    await cluster.caught_up()
    (newest,) = [each for each in await cluster.recommendations() if each["event_id"] == "event-2000"]
    assert newest["activity_offset"] == n_messages - 1
    assert len(newest["items"]) == 10
    await again.stopped()


# -- what a worker refuses to start with -------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What `polytempo worker` says when it does not start, on one line."""
    assert main(["worker", *options]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_missing_topics_are_named_with_the_command_that_makes_them(
    kafka: KafkaSettings, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It creates none by itself, and least of all with the cluster's defaults."""
    said = refused(capsys, "--bundle", str(bundle("ranker")), "--kafka", kafka.servers, "--prefix", topic_prefix)
    assert f"{topic_prefix}events" in said
    assert f"polytempo topics --prefix {topic_prefix}" in said


@pytest.mark.parametrize("which", ["recommendations", "changelog", "item_activity", "items"])
def test_partitions_that_do_not_fit_are_named(
    kafka: KafkaSettings, topic_prefix: str, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    """A user's event, state and recommendation share a partition; what is global has one."""
    name = getattr(TopicNames(topic_prefix), which)
    layout = topic_layout(topic_prefix, n_partitions=4)
    ensure_topics(kafka, [Topic(each.name, 3, config=each.config) if each.name == name else each for each in layout])
    said = refused(capsys, "--bundle", str(bundle("ranker")), "--kafka", kafka.servers, "--prefix", topic_prefix)
    assert name in said
    assert "partition" in said


def test_a_broker_that_is_not_there_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    """With its address and what to do."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        said = refused(capsys, "--bundle", str(bundle("ranker")), "--kafka", address)
    assert f"no Kafka answers at {address}" in said
    assert "polytempo broker" in said


def test_a_bundle_that_is_not_there_is_said_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before anything is asked of Kafka."""
    assert "no bundle folder" in refused(capsys, "--bundle", str(tmp_path / "nothing"), "--kafka", "127.0.0.1:1")


async def test_an_events_topic_that_was_made_anew_beside_old_states_is_refused(cluster: Cluster) -> None:
    """Its offsets begin at 0 again, below what states have applied: every event would be taken for a replay."""
    old = [record(number, event(f"user-{number}", "item-1", number)) for number in range(20)]
    output = Desk().processor.process(
        old, lambda keys: [None] * len(keys), topic=cluster.names.events, partition=2, covers=(0, 19)
    )
    await cluster.send([(b"", counted(output))], cluster.names.item_activity)
    ready: Callable[[], None] = lambda: pytest.fail("it must not become ready")  # noqa: E731
    worker = Worker(WorkerConfig(bundle("ranker")), cluster.settings, cluster.names)
    with pytest.raises(PolytempoError, match=r"made anew.* group"):
        await worker.run(ready=ready, stop=asyncio.Event())


async def test_a_worker_that_is_stopped_while_it_starts_ends_without_joining(cluster: Cluster) -> None:
    """It need not read months of activity first."""
    await cluster.send(map(keyed, clicks(5)))
    stop = asyncio.Event()
    stop.set()
    ready: Callable[[], None] = lambda: pytest.fail("it must not become ready")  # noqa: E731
    await Worker(WorkerConfig(bundle("ranker")), cluster.settings, cluster.names).run(ready=ready, stop=stop)
    assert await cluster.lag() == 5

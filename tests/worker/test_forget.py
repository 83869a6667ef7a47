"""Who asks to be forgotten is: in every topic that can do so, in files and memory, and in what a replay rebuilds."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
import rocksdict

from stream.bundle.service import load_service
from stream.cli.main import main
from stream.kafka.lookup import administration
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, topic_layout
from stream.replay.events import read_events
from stream.replay.forgotten import Forgotten, read_forgotten
from stream.replay.topics import TopicReader
from stream.replay.verify import read_published, verify
from stream.wire.encode import rec_id
from stream.wire.userkeys import UserKeys
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, keyed

ZOE = "zoe-7f3a9c1d"
KEYS = "2025:" + "5e" * 32
EAGER = {
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "max.compaction.lag.ms": "200",
    "delete.retention.ms": "0",
}


def clicks(user: str, n: int, first: int = 0) -> list[dict[str, Any]]:
    began_ms = int(time.time() * 1000) - 3_600_000
    return [
        {"user_id": user, "item_id": f"item-{at % 7}", "event_type": "click", "ts_ms": began_ms + 1000 * at}
        for at in range(first, first + n)
    ]


def compact_eagerly(settings: KafkaSettings, names: TopicNames) -> None:
    """Let the broker compact within seconds what it would compact within a day."""
    from kafka.admin import ConfigResource, ConfigResourceType

    with administration(settings) as admin:
        for name in (names.changelog, names.forgotten):
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, EAGER)])


async def holding(cluster: Cluster, needle: bytes) -> set[str]:
    """The topics with a record that names the needle, in its key, its value, or what its value holds in base64."""
    found = set()
    for topic in topic_layout(cluster.prefix, n_partitions=cluster.n_partitions):
        for record in await cluster.records(topic.name, topic.n_partitions):
            texts = [record.key or b"", record.value or b""]
            if topic.name == cluster.names.dead_letters:
                letter = json.loads(record.value)
                texts += [base64.b64decode(letter[name] or "") for name in ("key", "value")]
            if any(needle in text for text in texts):
                found.add(topic.name)
    return found


def files_holding(folder: Path, needle: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
async def test_a_forgotten_user_is_nowhere_but_in_raw_records_that_nobody_uses(
    cluster: Cluster, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    events       z z y(bad) z forget(z) y z     the last one begins anew
    forgotten               ^ up to here
    """
    monkeypatch.setenv("POLYTEMPO_USER_KEYS", KEYS)
    names, data = cluster.names, tmp_path / "data"
    compact_eagerly(cluster.settings, names)
    worker = cluster.worker(bundle("ranker"), "--store", store, "--data", str(data))
    await worker.ready()
    before = await cluster.send([*map(keyed, clicks(ZOE, 5)), (ZOE.encode(), b"no event of " + ZOE.encode())])
    between = await cluster.send(map(keyed, clicks("yves", 3)))
    await cluster.caught_up()

    options = ["--json", "--kafka", cluster.broker, "--prefix", cluster.prefix]
    assert await asyncio.to_thread(main, ["forget", ZOE, *options]) == 0
    said = json.loads(capsys.readouterr().out)
    offset = 1 + max(offset for partition, offset in before + between if partition == before[0][0])
    assert said["receipt"]["source"] == {"topic": names.events, "partition": before[0][0], "offset": offset}
    assert said["receipt"]["receipt_id"] == rec_id(names.events, before[0][0], offset)
    assert said["receipt"]["key_id"] == "2025"
    assert said["receipt"]["user"] == UserKeys.read().pseudonym(ZOE.encode()).hex()
    assert [each["topic"] for each in said["remains"]] == [
        *(names.events, names.recommendations, names.shadow, names.feedback, names.dead_letters, names.changelog)
    ]

    deadline_s, raw = time.monotonic() + 120, {names.events, names.recommendations, names.dead_letters}
    while await holding(cluster, ZOE.encode()) != raw:  # until compaction has run, which needs newer records
        assert time.monotonic() < deadline_s, await holding(cluster, ZOE.encode())
        await cluster.send(map(keyed, [event for n in range(20) for event in clicks(f"user-{n}", 1)]))
        await cluster.caught_up()
        await asyncio.sleep(0.5)

    with TopicReader(cluster.settings) as reader:
        forgotten = read_forgotten(reader, names)
        table = read_events(reader, names.events, known_types={"click": 0}, forgotten=forgotten)
        answers = read_published(reader, names.recommendations, forgotten=forgotten)
    assert ZOE not in set(table.table["user_id"])
    assert (table.n_forgotten, answers.n_forgotten) == (7, 5)
    verdict = verify(cluster.settings, names, answers, [load_service(bundle("ranker"))])
    assert (verdict.identical, verdict.n_forgotten, verdict.n) == (1.0, 5, len(answers.published))

    await cluster.send(map(keyed, clicks(ZOE, 2, first=100)))
    await cluster.caught_up()
    with TopicReader(cluster.settings) as reader:
        again = read_events(reader, names.events, known_types={"click": 0}, forgotten=read_forgotten(reader, names))
    assert again.table.filter(again.table["user_id"] == ZOE).height == 2, "what comes after it counts again"

    assert await asyncio.to_thread(main, ["forget", ZOE, *options]) == 0
    assert (await worker.stopped())["forgotten"] == 2
    if store == "rocksdb":  # its list of files names their first and last keys, and is written anew when it is opened
        assert {path.name.partition("-")[0] for path in files_holding(data, ZOE.encode())} <= {"MANIFEST"}
        for path in data.glob("**/users-*.db"):
            rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True)).close()
    assert files_holding(data, ZOE.encode()) == []
    assert ZOE not in worker.stderr.read_text() + worker.said()
    assert "5e5e5e5e" not in worker.stderr.read_text() + worker.said() + capsys.readouterr().out


def test_a_replay_without_the_secret_of_the_markers_says_so_instead_of_using_what_it_must_not() -> None:
    from stream.errors import PolytempoError
    from stream.wire.messages import Receipt, Source

    keys = UserKeys.read({"POLYTEMPO_USER_KEYS": KEYS})
    receipt = Receipt(
        receipt_id="r",
        user=keys.pseudonym(b"zoe").hex(),
        key_id="2025",
        ts_ms=0,
        erased=["state"],
        source=Source("events", 1, 9),
    )
    with pytest.raises(PolytempoError, match="2025"):
        Forgotten([receipt], UserKeys())
    forgotten = Forgotten([receipt], keys)
    assert forgotten.covers(b"zoe", "events", 1, 9)
    assert not forgotten.covers(b"zoe", "events", 1, 10)
    assert not forgotten.covers(b"zoe", "events", 0, 9)
    assert not forgotten.covers(b"yves", "events", 1, 9)
    assert forgotten.covers_time("zoe", 0)
    assert not forgotten.covers_time("zoe", 1)
    assert not forgotten.covers_time("yves", 0)

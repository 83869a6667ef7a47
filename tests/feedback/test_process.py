"""The joining process on a real broker: killed, restarted and joined by another, it loses nothing and counts once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stream.cli.main import main
from stream.core.identity import rec_id
from stream.feedback.codec import FeedbackCodec, decode_feedback, decode_resume, encode_resume
from stream.feedback.joiner import Checkpoint, Joiner, JoinRules, Resume
from stream.kafka.broker import EmbeddedBroker
from stream.live.reader import Reader
from stream.wire.messages import FeedbackTotals, Outcome, UserSpan
from tests.worker.cluster import ROOT, Cluster, Running, keyed

MINUTE_MS = 60_000
START_MS = 1_700_000_000_000
RULES = JoinRules(
    frozenset({"click", "purchase"}), window_ms=5 * MINUTE_MS, span_ms=10 * MINUTE_MS, lateness_ms=MINUTE_MS
)
OPTIONS = ["--outcomes", "click,purchase", "--window", "5m", "--span", "10m", "--lateness", "1m"]


def traffic(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Two events a second of event time, of 60 users; some late, some malformed."""
    rng = Random(seed)
    events = []
    for number in range(n):
        kind = rng.choice(["click", "click", "purchase", "dislike", "nonsense"])
        late_ms = rng.choice([0] * 18 + [30_000, 300_000])
        events.append(
            {
                "user_id": f"user-{rng.randrange(60)}",
                "item_id": f"item-{rng.randrange(12)}",
                "event_type": kind,
                "ts_ms": START_MS + 500 * number - late_ms,
            }
        )
    return events


async def answer(cluster: Cluster, events: list[dict[str, Any]], places: list[tuple[int, int]]) -> None:
    """What a worker would publish for them, one in fifty twice."""
    rng = Random(1)
    pairs, topic = [], cluster.names.events
    for event, (partition, offset) in zip(events, places, strict=True):
        if event["event_type"] == "nonsense":
            continue
        items = rng.sample(range(12), 3)
        message = {
            "rec_id": rec_id(topic, partition, offset),
            "user_id": event["user_id"],
            "ts_ms": event["ts_ms"],
            "event_id": None,
            "items": [{"item_id": f"item-{item}", "score": 1.0, "reasons": []} for item in items],
            "model": "m@1",
            "variant": "a" if int(event["user_id"][5:]) % 2 else "b",
            "activity_offset": -1,
            "items_offset": -1,
            "source": {"topic": topic, "partition": partition, "offset": offset},
        }
        pairs += [keyed(message)] * (2 if rng.random() < 0.02 else 1)
    await cluster.send(pairs, cluster.names.recommendations)


def started(cluster: Cluster, label: str, *options: str) -> Running:
    """A process of the group; the cluster ends it in any case."""
    directory: Path = cluster.workdir / label
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "stream.cli.main", "feedback", *OPTIONS, *options, "--json"]
    command += ["--kafka", cluster.broker, "--prefix", cluster.prefix]
    out, err = directory / "stdout", directory / "stderr"
    began_bytes = out.stat().st_size if out.exists() else 0
    with out.open("ab") as stdout, err.open("ab") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stderr)
    running = Running(process, out, err, began_bytes)
    cluster.workers.append(running)
    return running


async def expected(cluster: Cluster) -> dict[str, bytes]:
    """feedback_id -> message, by one joiner that reads each partition once from its beginning to its end."""
    names, found = cluster.names, dict[str, bytes]()
    events = await cluster.partitions(names.events, cluster.n_partitions)
    answers = await cluster.partitions(names.recommendations, cluster.n_partitions)
    for number in range(cluster.n_partitions):
        joiner, codec = Joiner(RULES), FeedbackCodec(names.events, number, RULES)
        joiner.events(codec.events(events[number]))
        joiner.recommendations(codec.recommendations(answers[number]))
        found |= {json.loads(value)["feedback_id"]: value for _, value in codec.told(joiner.told())}
    return found


async def published(cluster: Cluster) -> tuple[dict[str, bytes], int, dict[bytes, FeedbackTotals]]:
    """feedback_id -> message, how many there were with those that came again, and the last totals of each key."""
    found, n, totals = dict[str, bytes](), 0, dict[bytes, FeedbackTotals]()
    for record in await cluster.records(cluster.names.feedback, cluster.n_partitions):
        message = decode_feedback(record.value)
        assert message is not None
        if isinstance(message, FeedbackTotals):
            totals[record.key] = message
            continue
        n += 1
        assert found.setdefault(message.feedback_id, record.value) == record.value, "one id, one message"
    return found, n, totals


def counts(messages: Iterable[UserSpan | FeedbackTotals]) -> Counter[str]:
    """Sums of what they count."""
    found = Counter[str]()
    for each in messages:
        for field in ("n_recommendations", "n_hits", "n_outcomes"):
            found[field] += getattr(each, field)
    return found


async def test_a_kill_and_a_rebalance_lose_nothing_and_count_nothing_twice(cluster: Cluster) -> None:
    """
    member a   ─────x    ─────────      killed with SIGKILL, started again
    member b      ────────────────      takes over in between
    """
    events = traffic(6_000)
    first = started(cluster, "a")
    await first.ready()
    places = await cluster.send(map(keyed, events[:2_500]))
    await answer(cluster, events[:2_500], places)
    second = started(cluster, "b")
    await second.ready()
    places = await cluster.send(map(keyed, events[2_500:4_000]))
    await answer(cluster, events[2_500:4_000], places)
    await first.kill()
    first = started(cluster, "a")
    places = await cluster.send(map(keyed, events[4_000:]))
    await answer(cluster, events[4_000:], places)
    wanted = await expected(cluster)
    told = [decode_feedback(value) for value in wanted.values()]
    users = [each for each in told if isinstance(each, UserSpan)]
    assert sum(isinstance(each, Outcome) for each in told) > 1_000
    assert len({each.from_ms for each in users}) > 2
    found, sums = dict[str, bytes](), Counter[str]()
    for _ in range(600):
        found, _, totals = await published(cluster)
        sums = counts(each for each in totals.values() if each.is_over)
        # Who takes over tells running totals again until it has read as far: all ids may be there before all totals.
        if len(found) >= len(wanted) and sums == counts(users):
            break
        await asyncio.sleep(0.1)
    assert found == wanted
    assert sums == counts(users)
    await first.stopped()
    await second.stopped()
    _, _, totals = await published(cluster)
    assert counts(each for each in totals.values() if each.is_over) == counts(users), "leaving takes nothing back"


async def test_reading_up_to_the_end_and_going_on_later_repeats_nothing(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run re-reads what is still open, to have the same state again, and keeps quiet about it."""
    events = traffic(3_000, seed=5)
    command = ["feedback", *OPTIONS, "--until-end", "--json", "--kafka", cluster.broker, "--prefix", cluster.prefix]
    for part in (events[:1_500], events[1_500:]):
        await answer(cluster, part, await cluster.send(map(keyed, part)))
        run = await asyncio.create_subprocess_exec(sys.executable, "-m", "stream.cli.main", *command, cwd=ROOT)
        assert await run.wait() == 0
    found, n, _ = await published(cluster)
    assert found == await expected(cluster)
    assert n == len(found)
    capsys.readouterr()
    assert main(["experiment", "--json", "--kafka", cluster.broker, "--prefix", cluster.prefix]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["variant"] for each in said["variants"]] == ["a", "b"]
    assert all(0 < each["low"] < each["rate"] < each["high"] < 1 for each in said["variants"])
    assert main(["experiment", "--kafka", cluster.broker, "--prefix", cluster.prefix]) == 0
    assert "b against a" in capsys.readouterr().out
    with Reader(cluster.settings, cluster.names) as reader:
        deadline_s = time.monotonic() + 60
        while len({each.from_ms for each in reader.observer.online.by_span()}) < 2:
            assert time.monotonic() < deadline_s
            reader.poll()
        online = reader.observer.figures(time.monotonic()).as_json()["online"]
    assert [(each["variant"], each["hit_rate"] > 0) for each in online] == [("a", True), ("b", True)]
    assert main(["feedback", "--outcomes", "click,impression", "--kafka", cluster.broker]) == 2
    assert "different event types" in capsys.readouterr().err


async def test_where_the_broker_is_gone_for_good_it_says_so_and_ends(tmp_path: Path) -> None:
    """Status 2 and one line, soon after its patience is over; with data told and uncommitted, and without an end."""
    with EmbeddedBroker() as broker:
        cluster = Cluster(broker.settings, "gone-", tmp_path)
        cluster.create()
        process = started(cluster, "a", "--give-up-after", "2s")
        await process.ready()
        events = traffic(300)
        await answer(cluster, events, await cluster.send(map(keyed, events)))
        broker.kill()
        assert await process.ended(90) == 2
        said = " ".join(process.stderr.read_text().split())
        assert "no broker of" in said, said[-1500:]


def test_what_a_restart_needs_fits_into_the_metadata_of_an_offset() -> None:
    resume = Resume(Checkpoint(5, 7, 4, START_MS), 9, START_MS - 1)
    assert decode_resume(encode_resume(resume)) == resume
    assert decode_resume("") is None
    assert decode_resume("somebody else's") is None

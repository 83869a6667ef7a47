"""What workers published in trouble is what a replay of the same inputs gives; where it is not, the reason is found."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import pytest

from stream.bundle.service import load_service
from stream.cli.main import main
from stream.replay.topics import TopicReader
from stream.replay.verify import TOLERANCE, Verdict, read_published, verify
from tests.faults.traffic import traffic
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, KeyAndValue


def verified(cluster: Cluster, *names: str, **options: Any) -> Verdict:
    with TopicReader(cluster.settings) as reader:
        answers = read_published(reader, cluster.names.recommendations)
    return verify(cluster.settings, cluster.names, answers, [load_service(bundle(name)) for name in names], **options)


def catalogue(seed: int) -> Iterator[KeyAndValue]:
    """News of items without end: categories, times of publication, some taken off sale and back."""
    rng = random.Random(seed)
    while True:
        item: dict[str, Any] = {"category": f"category-{rng.randrange(5)}", "available": rng.random() < 0.8}
        if rng.random() < 0.5:
            item["published_ms"] = 1_700_000_000_000 + rng.randrange(10**9)
        key = f"item-{rng.randrange(100)}".encode()
        yield key, None if rng.random() < 0.05 else json.dumps(item).encode()


@pytest.mark.parametrize("name", ["ranker", "recurrent"])
async def test_two_workers_a_rebalance_and_a_kill_leave_only_recommendations_that_a_replay_gives(
    cluster: Cluster, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    worker a   ───────x   ────────    killed with SIGKILL, started again: two rebalances
    worker b   ───────────────────
    events     ═══════════════════    requests, late, repeated, broken ones, and users who ask to be forgotten
    items      ═══════════════════
    """
    folder = bundle(name)
    steady, victim = cluster.worker(folder, "--session", "6s", label="b"), cluster.worker(folder, label="a")
    await asyncio.gather(steady.ready(), victim.ready())
    troubled = True
    events = takewhile(lambda sent: troubled or sent[0] < 6000, enumerate(traffic(500, seed=3)))
    updates = takewhile(lambda _: troubled, catalogue(seed=3))
    feeding = asyncio.gather(
        cluster.send((pair for _, pair in events), rate=1200),
        cluster.send(updates, cluster.names.items, rate=100),
    )
    await asyncio.sleep(2)  # the moment of the crash is arbitrary, as in life
    await victim.kill()
    victim = cluster.worker(folder, "--session", "6s", label="a")
    await victim.ready()
    await asyncio.sleep(1)
    troubled = False
    await feeding
    await cluster.caught_up()
    assert (await steady.stopped())["records"] > 0
    assert (await victim.stopped())["records"] > 0

    verdict = verified(cluster, name)
    published = await cluster.recommendations()
    assert verdict.n == len(published) > 5000
    assert verdict.identical >= 0.999, verdict.as_json()
    assert verdict.max_score_difference <= TOLERANCE, verdict.as_json()
    assert sum(verdict.reasons.values()) == verdict.n - verdict.n_identical
    assert verdict.n_points > 10
    assert len({(each["activity_offset"], each["items_offset"]) for each in published}) == verdict.n_points

    capsys.readouterr()
    arguments = ["verify", "--bundle", str(folder), "--kafka", cluster.broker, "--prefix", cluster.prefix]
    assert main([*arguments, "--sample", "0.2", "--at-least", "0.99", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["identical"] >= 0.99
    assert 0.1 * verdict.n < said["n"] < 0.3 * verdict.n
    assert said["max_score_difference"] <= TOLERANCE


@pytest.fixture
async def served(cluster: Cluster) -> Cluster:
    """A deployment whose worker has answered a few hundred events in several views."""
    worker = cluster.worker(bundle("ranker"), "--refresh", "100ms")
    await worker.ready()
    await cluster.send(islice(traffic(30, seed=5), 800), rate=400)
    await cluster.caught_up()
    await worker.stopped()
    return cluster


async def tampered(cluster: Cluster, published: list[dict[str, Any]], **changes: Any) -> None:
    """Publish a late one of these recommendations once more, changed."""
    last_view = max(each["activity_offset"] for each in published)
    chosen = next(each for each in reversed(published) if each["activity_offset"] == last_view and each["items"])
    changed = {**chosen, **{name: change(chosen) for name, change in changes.items()}}
    await cluster.send([(chosen["user_id"].encode(), json.dumps(changed).encode())], cluster.names.recommendations)


async def test_what_is_wrong_is_found_and_explained(served: Cluster) -> None:
    whole = verified(served, "ranker")
    assert whole.identical == 1.0

    def swapped(one: dict[str, Any]) -> list[dict[str, Any]]:
        first, second, *rest = one["items"]
        return [{**second, "score": first["score"]}, {**first, "score": second["score"]}, *rest]

    def shifted(one: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**each, "score": each["score"] + 0.01} for each in one["items"]]

    genuine = await served.recommendations()
    # half of the way back is far enough for another list
    await tampered(served, genuine, activity_offset=lambda one: one["activity_offset"] // 2)
    await tampered(served, genuine, items=swapped)
    await tampered(served, genuine, items=shifted)
    await tampered(served, genuine, source=lambda one: {**one["source"], "offset": 10**6})
    await tampered(served, genuine, model=lambda _: "somebody@1")
    verdict = verified(served, "ranker")
    assert verdict.n == whole.n + 4
    assert verdict.n_other_bundle == 1
    assert verdict.n - verdict.n_identical == 3  # the shifted scores are those of the same list
    assert verdict.max_score_difference >= 0.01 - TOLERANCE
    found = {each.because: each.detail for each in verdict.explanations}
    assert set(found) == {"view", "scores", "features", "state"}
    assert "activity offset" in found["view"]
    assert "the same items, with scores up to 0.01 apart" in found["features"]


async def test_nothing_is_joined_committed_or_changed(served: Cluster, tmp_path: Path) -> None:
    from kafka import KafkaAdminClient

    def seen() -> tuple[Any, ...]:
        admin = KafkaAdminClient(bootstrap_servers=served.broker)
        try:
            groups = sorted(str(group) for group in admin.list_groups())
            return groups, str(admin.list_group_offsets([served.names.app_id]))
        finally:
            admin.close()

    before = seen()
    verified(served, "ranker")
    kafka = ["--kafka", served.broker, "--prefix", served.prefix]
    assert main(["backtest", "--topic", "events", *kafka, "--bundle", str(bundle("ranker")), "--json"]) == 0
    assert seen() == before
    assert list(tmp_path.glob("*.npz")) == []

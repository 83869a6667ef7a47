"""An experiment as its users run it: worker processes on a real broker, weights changed while they serve.

What they publish, drawn lists and the state of a recurrent model included, is what a replay gives.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stream.bundle.service import load_service
from stream.cli.main import main
from stream.core.assignment import Assignment
from stream.kafka.settings import KafkaSettings
from stream.replay.topics import TopicReader
from stream.replay.verify import read_published, verify
from tests.worker.bundles import bundle
from tests.worker.cluster import ROOT, Cluster, keyed, until
from tests.worker.test_worker import clicks, ids_of

FILE = """
name = "two"
[[variants]]
name = "control"
bundle = "{ranker}"
weight = {weight}
[[variants]]
name = "drawn"
bundle = "{second}"
exploration = {{kind = "softmax", first = 3, pool = 8, temperature = 0.5}}
[[shadows]]
bundle = "{shadow}"
sample = 0.5
"""


def write(file: Path, weight: float) -> dict[str, float]:
    file.write_text(
        FILE.format(ranker=bundle("ranker"), second=bundle("recurrent"), shadow=bundle("ranker-2"), weight=weight)
    )
    return {"control": weight, "drawn": 1.0}


def variants(recommendations: list[dict[str, Any]]) -> dict[str, set[str]]:
    """User -> the variants that answered."""
    found: dict[str, set[str]] = {}
    for each in recommendations:
        found.setdefault(each["user_id"], set()).add(each["variant"])
    return found


async def test_two_workers_give_each_user_one_variant_and_follow_the_weights(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    worker a  ─────────────────────
    worker b  ─────────────────────     of two partitions each
    weights   1:1        |   0:1        whoever was in `control` moves, without a restart
    """
    file = tmp_path / "two.toml"
    weights = write(file, 1)
    workers = [
        cluster.worker(file, "--watch-bundle", "100ms", "--session", "6s", label=label) for label in ("one", "two")
    ]
    await asyncio.gather(*(worker.ready() for worker in workers))
    first = ids_of(cluster, await cluster.send(map(keyed, clicks(1_500))))
    await cluster.caught_up()
    published = await cluster.recommendations()
    assert sorted(each["rec_id"] for each in published) == sorted(first)
    assignment = Assignment("two", weights)
    assert variants(published) == {user: {assignment.of(user)} for user in variants(published)}
    assert {each["variant"] for each in published} == {"control", "drawn"}
    for each in published:
        assert each["model"] == {"control": "ranker@1", "drawn": "recurrent@1"}[each["variant"]]
        assert all(("propensity" in item) == (each["variant"] == "drawn") for item in each["items"])

    write(file, 0)
    for worker in workers:
        await until(lambda worker=worker: "serves from now on" in worker.stderr.read_text())  # type: ignore[misc]
    second = set(ids_of(cluster, await cluster.send(map(keyed, clicks(200, start=1_500)))))
    await cluster.caught_up()
    moved = [each for each in await cluster.recommendations() if each["rec_id"] in second]
    assert {each["variant"] for each in moved} == {"drawn"}
    summaries = [await worker.stopped() for worker in workers]
    shadow = [json.loads(each.value) for each in await cluster.records(cluster.names.shadow, cluster.n_partitions)]
    assert {(each["model"], each["variant"]) for each in shadow} == {("ranker@2", "shadow")}
    assert {each["rec_id"] for each in shadow} <= {*first, *second}
    assert sum(summary["shadow"]["n_scored"] for summary in summaries) >= len(shadow) > 100
    assert sum(summary["shadow"]["n_errors"] for summary in summaries) == 0

    with TopicReader(cluster.settings) as reader:
        answers = read_published(reader, cluster.names.recommendations)
    verdict = verify(cluster.settings, cluster.names, answers, [load_service(file)])
    assert verdict.n == 1_700
    assert verdict.n_identical == verdict.n, verdict.as_json()

    # Joined, and asked what the same policy, and one that explores more, would have earned.
    kafka = ["--kafka", cluster.broker, "--prefix", cluster.prefix, "--json"]
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stream.cli.main", "feedback", "--until-end", *kafka, stdout=subprocess.DEVNULL, cwd=ROOT
    )
    assert await run.wait() == 0
    capsys.readouterr()
    estimates = []
    hotter = tmp_path / "hotter.toml"
    hotter.write_text(file.read_text().replace("temperature = 0.5", "temperature = 0.6"))
    for target in (file, hotter):
        assert main(["offpolicy", str(file), "--target", str(target), "--variant", "drawn", *kafka]) == 0
        estimates.append(json.loads(capsys.readouterr().out))
    same, other = estimates
    n_drawn = len({each["rec_id"] for each in await cluster.recommendations() if each["variant"] == "drawn"})
    assert same["n"] == other["n"] == n_drawn
    assert same["n_left_out"] == other["n_left_out"] == 0
    assert same["n_effective"] == pytest.approx(same["n"], rel=1e-4)
    for name in ("ips", "snips", "dr", "whole"):
        assert same[name]["value"] == pytest.approx(same["logged"]["value"], rel=1e-3)
    assert other["n_supported"] == other["n"] > other["n_effective"] > 1


def test_a_worker_serves_a_bundle_or_an_experiment(kafka: KafkaSettings, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--bundle", "x", "--experiment", "y.toml"]):
        assert main(["worker", *options, "--kafka", kafka.servers]) == 2
        assert "--experiment" in capsys.readouterr().err

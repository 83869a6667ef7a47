"""A bundle of two graphs in a worker of its own, against a real broker; and a replay that gives the same answers."""

from __future__ import annotations

import json

import pytest

from stream.bundle.service import load_service
from stream.replay.topics import TopicReader
from stream.replay.verify import read_published, verify
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, keyed
from tests.worker.test_worker import clicks

N_EVENTS = 400


@pytest.mark.parametrize("name", ["fused", "fused-indexed"])
async def test_a_sequence_model_and_its_ranker_serve_together_and_verify_finds_every_answer_again(
    cluster: Cluster, name: str
) -> None:
    """Items are announced first; then clicks, several of each user, in one burst: several waves a batch."""
    if name == "fused-indexed":
        pytest.importorskip("faiss", reason="the extra `index` is not installed")
    folder = bundle(name)
    worker = cluster.worker(folder)
    await worker.ready()
    items = [
        (
            f"item-{number}".encode(),
            json.dumps({"category": f"kind {number % 7}", "title": f"number {number}"}).encode(),
        )
        for number in range(300)
    ]
    await cluster.send(items, cluster.names.items)
    await cluster.send(map(keyed, clicks(N_EVENTS)))
    await cluster.caught_up()
    await worker.stopped()
    answers = await cluster.recommendations()
    assert len(answers) == N_EVENTS
    assert any("sequence" in item["reasons"] for answer in answers for item in answer["items"])
    with TopicReader(cluster.settings) as reader:
        published = read_published(reader, cluster.names.recommendations)
    verdict = verify(cluster.settings, cluster.names, published, [load_service(folder)])
    assert verdict.n_identical == N_EVENTS

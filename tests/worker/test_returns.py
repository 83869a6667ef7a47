"""A worker that counts what users come back to: activity carries earlier sessions, warming up compiled it all."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from stream.bundle.service import Arm, load_service
from stream.core.events import item_key
from stream.core.features import candidate_feature_names
from stream.core.scales import HOUR_MS
from stream.core.seam import Policy
from stream.core.statistics import ItemStatistics, returns
from stream.replay.topics import TopicReader
from stream.replay.verify import read_published, verify
from stream.wire.activity import decode_activity, encode_activity
from stream.worker.processor import Processor
from tests.bundle.models import RETURNING
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, keyed
from tests.worker.test_compiled import Record, records
from training.replay import RecordingScorer

START_MS = 1_700_000_000_000
KERNELS = {"earlier": returns._earlier, "count": returns._count, "fill": returns._fill}


@dataclass
class RecordingBundle:
    """A bundle whose model keeps what it is asked."""

    features = RETURNING
    scorer: Any = field(default_factory=lambda: RecordingScorer(RETURNING))
    vocabulary: tuple[str, ...] = ()
    reference = "recording@1"
    tag = 7
    parts: tuple[str, ...] = ()
    retriever = None
    distributions: dict[str, Any] = field(default_factory=dict)


def later(batch: list[Record], hours: int) -> list[Record]:
    """The same events, hours later, at offsets that follow."""
    moved = []
    for record in batch:
        event = json.loads(record.value)
        event["ts_ms"] += hours * HOUR_MS
        moved.append(replace(record, offset=record.offset + len(batch), value=json.dumps(event).encode()))
    return moved


@pytest.mark.parametrize(("n", "n_users"), [(1, 1), (3, 1), (40, 9)])
def test_it_is_carried_counted_and_read_by_code_that_is_there(n: int, n_users: int) -> None:
    bundle = RecordingBundle()
    processor = Processor(
        [Arm("default", bundle, Policy())],  # type: ignore[arg-type]  # what of a bundle is used is there
        ItemStatistics(RETURNING.statistics),
    )
    processor.warm_up()
    before = {name: len(kernel.signatures) for name, kernel in KERNELS.items()}
    assert min(before.values()) > 0
    stored: dict[bytes, bytes | None] = {}
    first = records(0, n, n_users)
    for batch in (first, later(first, 2)):
        output = processor.process(
            batch,
            lambda keys: [stored.get(key) for key in keys],
            topic="events",
            partition=0,
            covers=(batch[0].offset, batch[-1].offset),
        )
        stored.update(output.writes)
        assert output.activity is not None
        activity = decode_activity(encode_activity(output.activity))
        processor.view.apply(activity)
        processor.view.refresh()
    assert {name: len(kernel.signatures) for name, kernel in KERNELS.items()} == before
    assert activity.earlier is not None
    assert item_key(f"i{(n_users * ((n - 1) // n_users)) % 7}") in activity.earlier[0].tolist()
    bundle.scorer.taken()
    processor.process(
        later(later(first, 2), 4), lambda keys: [stored.get(key) for key in keys], topic="events", partition=0,
        covers=(2 * n, 3 * n - 1),
    )  # fmt: skip
    asked = bundle.scorer.taken()
    there = asked["candidates"] >= 0
    column = asked["candidate_features"][..., candidate_feature_names(RETURNING).index("return/1d")]
    if there.any():  # one user who clicked it all in this session is offered nothing
        assert column[there].max() > column[there].min(), "something was come back to, something was not"


async def test_what_it_answers_at_a_broker_is_what_a_replay_gives(cluster: Cluster) -> None:
    """Three sessions of each user, hours apart: the later ones bring back what was clicked in the earlier ones."""
    folder = bundle("returning")
    worker = cluster.worker(folder)
    await worker.ready()
    rng = random.Random(5)
    for session in range(3):
        events = [
            {
                "user_id": f"user-{user}",
                "item_id": f"item-{10 * session + rng.randrange(20)}",
                "event_type": "click",
                "ts_ms": START_MS + 3 * session * HOUR_MS + 1000 * number,
            }
            for number in range(4)
            for user in range(40)
        ]
        await cluster.send(map(keyed, events))
        await cluster.caught_up()
    await worker.stopped()
    activity = [decode_activity(record.value) async for record in cluster.each(cluster.names.item_activity)]
    assert sum(int((batch.earlier != 0).sum()) for batch in activity if batch.earlier is not None) > 200
    with TopicReader(cluster.settings) as reader:
        published = read_published(reader, cluster.names.recommendations)
    verdict = verify(cluster.settings, cluster.names, published, [load_service(folder)])
    assert (verdict.n, verdict.n_identical) == (480, 480), verdict.as_json()

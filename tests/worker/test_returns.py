"""A worker that counts what users come back to: activity carries earlier sessions, warming up compiled it all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from stream.bundle.service import Arm
from stream.core.events import item_key
from stream.core.features import candidate_feature_names
from stream.core.scales import DAY_MS, HOUR_MS
from stream.core.seam import Policy
from stream.core.statistics import ItemStatistics, returns
from stream.wire.activity import decode_activity, encode_activity
from stream.worker.processor import Processor
from tests.bundle.models import FEATURES
from tests.worker.test_compiled import Record, records
from training.replay import RecordingScorer

RETURNING = replace(FEATURES, statistics=replace(FEATURES.statistics, returns=(DAY_MS, 6 * HOUR_MS)))
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

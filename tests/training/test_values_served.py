"""What a model is given of a value is the same, bit for bit, in training rows and in the worker."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl

from stream.bundle.service import Arm
from stream.core.seam import Policy, Recommender
from stream.core.state import decode_states
from stream.core.statistics import ItemStatistics
from stream.core.values import Clip, Fill, Log1p, Scale, ValueSpec
from stream.worker.processor import Processor
from tests.training.small_shop import SPEC
from tests.wire.records import FakeRecord
from tests.worker.plain import PlainBundle
from training.log import Log
from training.replay import RecordingScorer, Replay

VALUES = ValueSpec((Clip(0.5, 40.25), Fill(3.3), Log1p(), Scale(1.1, 0.7)))
WANTED = ("candidates", "value", "history_values")


def test_training_rows_and_the_worker_agree_bit_for_bit() -> None:
    """Values as producers send them: missing, absurd, of any number of digits."""
    rng = np.random.default_rng(5)
    n, start_ms = 500, 1_700_000_000_000
    values = [
        None if missing else float(v) for missing, v in zip(rng.random(n) < 0.2, rng.lognormal(1, 3, n), strict=True)
    ]
    users = [f"u{user}" for user in rng.integers(0, 20, n)]
    items = [f"i{item}" for item in rng.integers(0, 50, n)]
    ts_ms = start_ms + np.cumsum(rng.integers(1, 60_000, n))
    spec = replace(SPEC, values=VALUES)

    frame = pl.DataFrame(
        {"user_id": users, "item_id": items, "event_type": "purchase", "ts_ms": ts_ms, "value": values,
         "session_id": None, "event_id": None, "device": None},
        schema_overrides={"session_id": pl.String, "event_id": pl.String, "device": pl.String},
    )  # fmt: skip
    log = Log.of(frame, spec.types, ("device",))
    trained = RecordingScorer(spec, WANTED)
    replay = Replay(log, Recommender(spec, trained), batch_size=64)
    rows = [trained.taken() for _ in replay.run()]

    served = RecordingScorer(spec, WANTED)
    bundle = PlainBundle(served, spec)
    processor = Processor([Arm("default", bundle, Policy())], ItemStatistics(spec.statistics))
    stored: dict[bytes, bytes | None] = {}
    events = [
        {"user_id": u, "item_id": i, "event_type": "purchase", "ts_ms": int(t)} | ({} if v is None else {"value": v})
        for u, i, t, v in zip(users, items, ts_ms, values, strict=True)
    ]
    records = [
        FakeRecord(event["user_id"].encode(), json.dumps(event).encode(), offset=offset, timestamp=None)
        for offset, event in enumerate(events)
    ]
    for first in range(0, n, 37):
        part = records[first : first + 37]
        output = processor.process(
            part, lambda keys: [stored.get(key) for key in keys], topic="log", partition=0,
            covers=(part[0].offset, part[-1].offset),
        )  # fmt: skip
        stored.update(output.writes)
    live = served.taken()

    for name in ("value", "history_values"):
        learnt = np.concatenate([row[name] for row in rows])
        assert learnt.tobytes() == live[name].tobytes()
        assert np.isfinite(learnt).all()
    expected = VALUES.transform(
        np.array([np.nan if v is None else v for v in values], np.float32), np.full(n, 3, np.uint8)
    )
    assert live["value"].tobytes() == expected.tobytes()
    for number, user in enumerate(log.user_ids):
        replayed = replay.states.get(np.array([number]))
        worker = decode_states(spec.state, [stored[user.encode()]])
        assert replayed["ring_value"].tobytes() == worker["ring_value"].tobytes()

"""Cost of the core's steps in microseconds an event, on one thread: `python -m tests.bench.core`.

A synthetic shop of 46,000 items whose co-visitation rows are full, users with full rings, batches of 256 events; the
middle of nine rounds, in processor time of the thread. `--digest` prints a checksum of all candidates and features
instead, to show that a change of the code changed no bit. `--returns` counts what users come back to as well; their
events are then sessions of their own, so that every answer reads as many rows of returns as there can be.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from stream.core.activity import N_EARLIER, ActivityBatch
from stream.core.candidates import Filters, Scratch
from stream.core.catalogue import ItemUpdate
from stream.core.events import EventBatch
from stream.core.features import FeatureSpec, Vocabulary, featurize
from stream.core.fold import Folded, fold, source_key
from stream.core.ranking import rank
from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS
from stream.core.state import blank_states
from stream.core.statistics import ItemStatistics

N_ITEMS, N_USERS, BATCH, N_BATCHES = 46_000, 4_000, 256, 16
T0_MS = 1_700_000_000_000
WANTED = ("candidates", "candidate_features", "context_features")


def made(
    seed: int, spec: FeatureSpec, *, with_categories: bool
) -> tuple[ItemStatistics, list[Folded], list[EventBatch]]:
    """A warm view, and batches folded on top of users with full rings."""
    chance = np.random.default_rng(seed)
    view = ItemStatistics(spec.statistics)
    ids = [f"item-{n}" for n in range(N_ITEMS)]
    view.know(ids)
    if with_categories:
        view.update_items([ItemUpdate(item, category=f"c{n % 40}", published_ms=T0_MS) for n, item in enumerate(ids)])
    n = 1_500_000
    # Rings of items near each other, so that rows fill up and sessions hang together.
    item = np.minimum((chance.pareto(0.6, n) * 20).astype(np.int64), N_ITEMS - 1)
    near = (item[:, None] + chance.integers(1, 200, (n, 3))) % N_ITEMS
    returns = bool(spec.statistics.returns)
    earlier = (item[:, None] + chance.integers(1, 200, (n, N_EARLIER))) % N_ITEMS if returns else None
    key = view.catalogue.key
    for start in range(0, n, 50_000):
        at = slice(start, start + 50_000)
        view.apply(
            ActivityBatch(
                source="events/0",
                first=start,
                last=start + 49_999,
                segment_fields=(),
                item_ids=ids,
                offset=np.arange(start, start + 50_000),
                item=item[at].astype(np.int32),
                kind=np.zeros(50_000, np.uint8),
                weight=np.ones(50_000, np.float32),
                ts_ms=T0_MS + np.arange(start, start + 50_000) * 200,
                continues=chance.random(50_000) < 0.7,
                previous=key[near[at]],
                segments=np.zeros((50_000, 0), np.uint32),
                previous_segments=np.zeros((50_000, 0), np.uint32),
                earlier=None if earlier is None else key[earlier[at]],
            )
        )
    view.refresh()
    end_ms = T0_MS + n * 200
    weights = spec.types.weight_table()
    users = [f"u{n}" for n in range(N_USERS)]
    n_past = 32 * N_USERS
    past = EventBatch.build(
        users * 32,
        [ids[n] for n in np.minimum((chance.pareto(0.6, n_past) * 20).astype(np.int64), N_ITEMS - 1)],
        chance.integers(0, 3, n_past),
        end_ms - np.repeat(np.arange(32)[::-1], N_USERS) * (45 if returns else 9) * MINUTE_MS,
    )
    states = fold(spec.state, blank_states(spec.state, N_USERS), past, source=source_key("events/0"), weights=weights)
    folded, batches = [], []
    for n in range(N_BATCHES):
        who = chance.choice(N_USERS, BATCH, replace=False)
        batch = EventBatch.build(
            [users[u] for u in who],
            [ids[n] for n in np.minimum((chance.pareto(0.6, BATCH) * 20).astype(np.int64), N_ITEMS - 1)],
            chance.integers(0, 3, BATCH),
            end_ms + 60_000 + np.arange(BATCH),
            offset=np.arange(BATCH) + n_past + n * BATCH,
        )
        batches.append(batch)
        folded.append(fold(spec.state, states.states[who], batch, source=source_key("events/0"), weights=weights))
    return view, folded, batches


def no_filters(seen: int = 1) -> Filters:
    none, start = np.zeros(0, np.int32), np.zeros(BATCH + 1, np.int64)
    return Filters(seen, none, start, none, start, np.zeros(BATCH, np.bool_))


def middle(rounds: Callable[[], Any], n_events: int) -> float:
    """Microseconds an event: the middle of nine rounds after one to warm up."""
    rounds()
    took = []
    for _ in range(9):
        start = time.thread_time()
        rounds()
        took.append(time.thread_time() - start)
    return statistics.median(took) / n_events * 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--digest", action="store_true")
    arguments.add_argument("--categories", action="store_true", help="items have categories")
    arguments.add_argument("--returns", action="store_true", help="what users come back to is counted at two scales")
    given = arguments.parse_args()
    spec = FeatureSpec()
    if given.returns:
        spec = replace(spec, statistics=replace(spec.statistics, returns=(DAY_MS, 6 * HOUR_MS)))
    view, folded, batches = made(0, spec, with_categories=given.categories)
    rows, filters, scratch, words = np.arange(BATCH), no_filters(), Scratch(), Vocabulary([])

    def featurized(f: Folded, b: EventBatch, wanted: tuple[str, ...]) -> Any:
        return featurize(spec, f, b, rows, view, wanted, filters=filters, vocabulary=words, scratch=scratch)

    pairs = list(zip(folded, batches, strict=True))
    features = [featurized(f, b, WANTED) for f, b in pairs]
    if given.digest:
        digest = hashlib.sha256()
        for each in features:
            for name in sorted(each.inputs):
                digest.update(each.inputs[name].tobytes())
            digest.update(each.sources.tobytes())
        print(digest.hexdigest())
        return
    n_events, weights = BATCH * N_BATCHES, spec.types.weight_table()
    before = [blank_states(spec.state, BATCH) for _ in batches]
    for at, f in enumerate(folded):
        before[at][:] = f.states
    later = [replace(b, offset=b.offset + 10_000_000) for b in batches]
    scored = [
        (e.inputs["candidates"].astype(np.int32), e.inputs["candidate_features"][:, :, 0].copy()) for e in features
    ]
    asked = np.full(BATCH, 10, np.int64)
    print(
        f"{np.mean([(e.inputs['candidates'] >= 0).sum(1).mean() for e in features]):.0f} candidates an event, ", end=""
    )
    print(f"{features[0].inputs['candidate_features'].shape[2]} features each")
    print("us/event")
    us = middle(
        lambda: [fold(spec.state, s, b, source=1, weights=weights) for s, b in zip(before, later, strict=True)],
        n_events,
    )
    print(f"  fold                  {us:7.2f}")
    us = middle(lambda: [featurized(f, b, WANTED) for f, b in pairs], n_events)
    print(f"  featurize             {us:7.2f}")
    us = middle(
        lambda: [
            rank(spec, f.after, items, scores, e.sources, view, filters, asked, scratch)
            for f, e, (items, scores) in zip(folded, features, scored, strict=True)
        ],
        n_events,
    )
    print(f"  rank                  {us:7.2f}")
    start = time.thread_time()
    for _ in range(9):
        view.refresh()
    print(f"refresh of {N_ITEMS:,} items  {(time.thread_time() - start) / 9 * 1e3:7.2f} ms")
    n = 20_000
    chance = np.random.default_rng(1)
    keys = view.catalogue.key[: len(view.catalogue)]
    took = []
    for turn in range(5):
        batch = ActivityBatch(
            source="events/1",
            first=turn * n,
            last=turn * n + n - 1,
            segment_fields=(),
            item_ids=view.catalogue.ids,
            offset=np.arange(turn * n, turn * n + n),
            item=chance.integers(0, N_ITEMS, n).astype(np.int32),
            kind=np.zeros(n, np.uint8),
            weight=np.ones(n, np.float32),
            ts_ms=batches[-1].ts_ms[-1] + np.arange(n) + turn * n,
            continues=np.ones(n, np.bool_),
            previous=keys[chance.integers(0, len(keys), (n, 3))],
            segments=np.zeros((n, 0), np.uint32),
            previous_segments=np.zeros((n, 0), np.uint32),
            earlier=keys[chance.integers(0, len(keys), (n, N_EARLIER))] if given.returns else None,
        )
        start = time.thread_time()
        view.apply(batch)
        took.append(time.thread_time() - start)
    print(
        f"  apply                 {statistics.median(took) / n * 1e6:7.2f} us/event, items from all over the catalogue"
    )
    print(f"memory                  {view.n_bytes_per_item} bytes an item, {spec.state.n_bytes} bytes a user")


if __name__ == "__main__":
    main()

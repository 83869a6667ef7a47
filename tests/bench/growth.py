"""How cost grows with what there is: `polytempo bench growth`.

Everything but the model and Kafka, on one thread, in processor time: records of users are loaded, events folded,
candidates found, features computed, lists ranked, records stored. The model is left out because it does not grow; what
grows with its vocabulary has a section of its own. Each section changes one thing and keeps the rest:

    history     events that each user has had
    users       users that there are, and the memory that one takes in a table held in memory
    items       items that there are, with 32 neighbours each: an event's cost, time and memory of a view's refresh
    scales      time scales of the windows
    partitions  input partitions that a step takes its 64 events from
    vocabulary  items that a sequence model ranks: all of them in the graph, or with an index and exact re-ranking
    workers     processes that share a topic's partitions; with model and Kafka, see `growth_workers`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.core.activity import ActivityBatch
from stream.core.arms import Arms
from stream.core.events import EventBatch
from stream.core.features import FeatureSpec
from stream.core.parts import Part
from stream.core.scales import DAY_MS, DEFAULT_SCALES, HOUR_MS, WindowSpec
from stream.core.seam import Policy, Recommender
from stream.core.state import decode_states
from stream.core.statistics import ItemStatistics
from tests.bench.first_feature import FirstFeature
from tests.bench.growth_chart import drawn
from tests.bench.growth_vocabulary import vocabulary
from tests.bench.growth_workers import workers

__all__ = ["SECTIONS", "GrowthOptions", "run"]

_T0_MS: Final = 1_700_000_000_000
_BATCH: Final = 64
_LONG: Final = (WindowSpec(2 * DAY_MS), WindowSpec(14 * DAY_MS), WindowSpec(90 * DAY_MS))
"""Scales that the defaults lack."""


@dataclass(frozen=True, slots=True)
class GrowthOptions:
    """What to measure.

    Attributes:
        sections: names out of SECTIONS.
        most_events, most_users, most_items: where each section ends.
        n_batches: batches of 64 events behind each figure.
        n_worker_events: what workers answer, together.
        plot: SVG file to draw into; None for none.
    """

    sections: tuple[str, ...] = ()
    most_events: int = 10_000
    most_users: int = 1_000_000
    most_items: int = 1_000_000
    n_batches: int = 60
    n_worker_events: int = 40_000
    plot: Path | None = None


class _World:
    """Users with records, items with statistics, and a clock that runs on."""

    def __init__(self, spec: FeatureSpec, n_items: int, n_users: int = _BATCH, *, seed: int = 0) -> None:
        self.chance = np.random.default_rng(seed)
        self.view = ItemStatistics(spec.statistics)
        self.ids = [f"item-{number}" for number in range(n_items)]
        self.view.know(self.ids)
        self.arms = Arms([Recommender(spec, FirstFeature(spec), policy=Policy())])
        self.users = [f"u{number}" for number in range(n_users)]
        self.states: dict[str, bytes] = {}
        self.now_ms, self.offset = _T0_MS, 0

    def count(self, n_entries: int) -> None:
        """Let this many events have happened, on items of which few are popular."""
        n_items, step = len(self.ids), 50_000
        for first in range(0, n_entries, step):
            n = min(step, n_entries - first)
            item = self._items(n)
            known, place = np.unique(item, return_inverse=True)
            near = (item[:, None] + self.chance.integers(1, 200, (n, 3))) % n_items
            self.view.apply(
                ActivityBatch(
                    source="events/warm",
                    first=first,
                    last=first + n - 1,
                    segment_fields=(),
                    item_ids=[self.ids[number] for number in known.tolist()],
                    offset=np.arange(first, first + n),
                    item=place.astype(np.int32),
                    kind=np.zeros(n, np.uint8),
                    weight=np.ones(n, np.float32),
                    ts_ms=_T0_MS - HOUR_MS + np.arange(n) % HOUR_MS,
                    continues=self.chance.random(n) < 0.7,
                    previous=self.view.catalogue.key[near],
                    segments=np.zeros((n, 0), np.uint32),
                    previous_segments=np.zeros((n, 0), np.uint32),
                )
            )
        self.view.refresh()

    def events(self, users: Sequence[str]) -> EventBatch:
        """One click of each, a second after the other."""
        n = len(users)
        ts_ms = self.now_ms + 1000 * np.arange(n)
        batch = EventBatch.build(
            users,
            [self.ids[number] for number in self._items(n).tolist()],
            np.ones(n, np.uint8),
            ts_ms,
            offset=self.offset + np.arange(n),
        )
        self.now_ms, self.offset = int(ts_ms[-1]) + 1000, self.offset + n
        return batch

    def step(self, batches: Sequence[EventBatch], *, answer: bool = True) -> None:
        """What a worker does with events between decoding and encoding them."""
        users = [user for batch in batches for user in batch.users]
        parts = [
            Part(batch, f"events/{number}", (int(batch.offset[0]), int(batch.offset[-1])))
            for number, batch in enumerate(batches)
        ]
        states = decode_states(self.arms.state_spec, list(map(self.states.get, users)))
        select = None if answer else np.zeros(sum(map(len, batches)), np.bool_)
        stepped = self.arms.step(states, parts, self.view, np.zeros(len(users), np.intp), select=select)
        raw, n_bytes = stepped.folded.states.tobytes(), self.arms.state_spec.n_bytes
        for row, user in enumerate(users):
            self.states[user] = raw[row * n_bytes : (row + 1) * n_bytes]

    def us_per_event(self, batches: Callable[[], Sequence[EventBatch]], n_batches: int) -> float:
        """The median of a step's processor time, an event."""
        took_ns = []
        for turn in range(n_batches + 5):
            made = batches()
            began_ns = time.thread_time_ns()
            self.step(made)
            if turn >= 5:
                took_ns.append((time.thread_time_ns() - began_ns) / sum(map(len, made)))
        return float(np.median(took_ns)) / 1000

    def _items(self, n: int) -> NDArray[np.int64]:
        return np.minimum((self.chance.pareto(0.6, n) * 20).astype(np.int64), len(self.ids) - 1)


def powers(first: int, last: int) -> list[int]:
    """`first`, ten times as many and so on, up to `last`."""
    found = [first]
    while found[-1] * 10 <= last:
        found.append(found[-1] * 10)
    return found


def _history(options: GrowthOptions) -> list[dict[str, float]]:
    found = []
    world = _World(FeatureSpec(), 3_000)
    world.count(100_000)
    done = 0
    for n in powers(10, options.most_events):
        while done < n:
            world.step([world.events(world.users)], answer=False)
            done += 1
        us = world.us_per_event(lambda: [world.events(world.users)], options.n_batches)
        done += options.n_batches + 5
        found.append({"n": n, "us_per_event": us, "bytes_per_user": float(world.arms.state_spec.n_bytes)})
    return found


def _users(options: GrowthOptions) -> list[dict[str, float]]:
    found = []
    for n in powers(1_000, options.most_users):
        world = _World(FeatureSpec(), 3_000, 0)
        world.count(100_000)
        some = [f"u{number}" for number in range(_BATCH)]
        for _ in range(20):
            world.step([world.events(some)])
        patterns = [world.states[user] for user in some]
        world.states = {f"u{number}": bytes(bytearray(patterns[number % _BATCH])) for number in range(n)}
        held = sum(sys.getsizeof(user) + sys.getsizeof(state) for user, state in world.states.items())
        each = (held + sys.getsizeof(world.states)) / n

        def drawn_users(world: _World = world, n: int = n) -> list[EventBatch]:
            return [world.events([f"u{number}" for number in world.chance.choice(n, _BATCH, replace=False).tolist()])]

        found.append(
            {"n": n, "us_per_event": world.us_per_event(drawn_users, options.n_batches), "bytes_per_user": each}
        )
    return found


def _items(options: GrowthOptions) -> list[dict[str, float]]:
    found = []
    spec = replace(FeatureSpec(), statistics=replace(FeatureSpec().statistics, n_slots=32))
    for n in powers(1_000, options.most_items):
        world = _World(spec, n)
        world.count(max(100_000, n // 2))
        each = world.view.n_bytes_per_item * world.view.catalogue.capacity / n
        for _ in range(32):
            world.step([world.events(world.users)], answer=False)
        us = world.us_per_event(lambda world=world: [world.events(world.users)], options.n_batches)  # type: ignore[misc]
        took_s = []
        for _ in range(5):
            began_s = time.thread_time()
            world.view.refresh()
            took_s.append(time.thread_time() - began_s)
        found.append(
            {"n": n, "us_per_event": us, "refresh_ms": 1000 * float(np.median(took_s)), "bytes_per_item": each}
        )
    return found


def _scales(options: GrowthOptions) -> list[dict[str, float]]:
    found = []
    every = sorted((*DEFAULT_SCALES, *_LONG), key=lambda scale: scale.span_ms)
    for n in range(3, len(every) + 1):
        spec = replace(FeatureSpec(), state=replace(FeatureSpec().state, scales=tuple(every[:n])))
        world = _World(spec, 3_000)
        world.count(100_000)
        for _ in range(32):
            world.step([world.events(world.users)], answer=False)
        us = world.us_per_event(lambda world=world: [world.events(world.users)], options.n_batches)  # type: ignore[misc]
        found.append({"n": n, "us_per_event": us, "bytes_per_user": float(world.arms.state_spec.n_bytes)})
    return found


def _partitions(options: GrowthOptions) -> list[dict[str, float]]:
    found = []
    world = _World(FeatureSpec(), 3_000)
    world.count(100_000)
    for n in (1, 2, 4, 8, 16):
        shares = [world.users[first : first + _BATCH // n] for first in range(0, _BATCH, _BATCH // n)]
        together = world.us_per_event(lambda shares=shares: list(map(world.events, shares)), options.n_batches)  # type: ignore[misc]
        apart = world.us_per_event(lambda share=shares[0]: [world.events(share)], options.n_batches)  # type: ignore[misc]
        found.append({"n": n, "us_per_event": together, "us_per_event_one_by_one": apart})
    return found


def _vocabulary(options: GrowthOptions) -> list[dict[str, float]]:
    return vocabulary(powers(1_000, options.most_items), options.n_batches)


def _workers(options: GrowthOptions) -> list[dict[str, float]]:
    return workers((1, 2), options.n_worker_events)


SECTIONS: Final[dict[str, Callable[[GrowthOptions], list[dict[str, float]]]]] = {
    "history": _history,
    "users": _users,
    "items": _items,
    "scales": _scales,
    "partitions": _partitions,
    "vocabulary": _vocabulary,
    "workers": _workers,
}


def run(options: GrowthOptions, say: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Measure, and give the figures by section; `say` is told what is going on."""
    figures: dict[str, Any] = {}
    for name in options.sections or tuple(SECTIONS):
        say(f"growth with {name}")
        figures[name] = [{what: round(value, 4) for what, value in row.items()} for row in SECTIONS[name](options)]
    if options.plot is not None:
        options.plot.write_text(drawn(figures))
    return figures

"""Small worlds of items, activity and one user, and what candidates and features they should lead to, the slow way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import strategies as st

from stream.core.candidates import (
    FROM_EARLIER,
    FROM_LAST,
    FROM_NEWEST,
    FROM_OWN,
    FROM_SESSION,
    SEEN_POLICIES,
    CandidateSpec,
    Filters,
    first_list_bit,
)
from stream.core.catalogue import ItemUpdate
from stream.core.events import segment_keys
from stream.core.features import FeatureSpec
from stream.core.scales import HOUR_MS
from stream.core.statistics import ItemStatistics
from tests.core.activities import SPEC, Entry, activity, an_entry, fading, shares, transitions
from tests.core.histories import SMALL, WEIGHTS, Happening, Past, logs, times

POOL = tuple(f"p{n}" for n in range(12))
FEATURES = FeatureSpec(
    state=replace(SMALL, n_ring=9),
    statistics=SPEC,
    candidates=CandidateSpec(
        n=24, n_last=3, n_earlier=2, lists=(("continuing:1h", 2), ("all:1h:device", 3)), n_newest=2, own=True
    ),
    n_history=5,
)
NOBODY = Filters(0, *(np.zeros(0, np.int32), np.zeros(2, np.int64)) * 2, np.zeros(1, np.bool_))


@dataclass(frozen=True, slots=True)
class World:
    """What was counted, what was said of items, what one user did, and what may be recommended to them."""

    entries: list[Entry]
    updates: list[ItemUpdate]
    log: list[Happening]
    later_ms: int
    seen: str
    exclude: tuple[str, ...]
    only: tuple[str, ...] | None

    def view(self) -> ItemStatistics:
        view = ItemStatistics(SPEC)
        # Whatever led somewhere was counted before.
        view.know(list(dict.fromkeys(item for entry in self.entries for item in entry.previous)))
        view.apply(activity(self.entries))
        view.update_items(self.updates)
        view.refresh()
        return view

    def filters(self, view: ItemStatistics) -> Filters:
        def numbers(ids: Sequence[str]) -> np.ndarray:
            found = [view.catalogue.number(item) for item in ids]
            return np.array([-1 if number is None else number for number in found], np.int32)

        exclude, only = numbers(self.exclude), numbers(self.only or ())
        return Filters(
            SEEN_POLICIES.index(self.seen),
            exclude,
            np.array([0, len(exclude)]),
            only,
            np.array([0, len(only)]),
            np.array([self.only is not None]),
        )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    updates = st.builds(
        ItemUpdate,
        item_id=st.sampled_from(POOL),
        category=st.sampled_from((None, "hats", "shoes")),
        available=st.sampled_from((True, True, True, False)),
        published_ms=st.one_of(st.none(), times),
    )
    some = st.lists(st.sampled_from((*POOL, "unknown")), max_size=4).map(tuple)
    return World(
        draw(st.lists(an_entry(POOL), min_size=1, max_size=25)),
        draw(st.lists(updates, max_size=10, unique_by=lambda update: update.item_id)),
        draw(logs(controls=False, names=False, items=(*POOL[:8], "unknown"), max_size=14)),
        draw(st.sampled_from((0, 0, 1, HOUR_MS, 30 * HOUR_MS))),
        draw(st.sampled_from(SEEN_POLICIES)),
        draw(some),
        draw(st.one_of(st.none(), st.none(), some)),
    )


@dataclass(slots=True)
class Naive:
    """The user's side of a world as of a time, recomputed from lists."""

    spec: FeatureSpec
    world: World
    view: ItemStatistics
    as_of_ms: int
    past: Past
    memory: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def known(self) -> list[Happening]:
        """Events of the ring whose items the catalogue knows, oldest first."""
        return [event for event in self.past.ring() if self.view.catalogue.number(event.item) is not None]

    def liked(self) -> list[Happening]:
        return [event for event in self.known() if WEIGHTS[event.kind] > 0]

    def start_ms(self) -> int:
        return self.past.session()[-1].ts_ms

    def last(self) -> list[str]:
        """The session's last distinct items, most recent first."""
        inside = [event.item for event in reversed(self.liked()) if event.ts_ms >= self.start_ms()]
        return list(dict.fromkeys(inside))[: self.spec.candidates.n_last]

    def earlier(self) -> list[str]:
        """Last distinct items of earlier sessions, those of the session left out."""
        outside = [event.item for event in reversed(self.liked()) if event.ts_ms < self.start_ms()]
        fresh = [item for item in dict.fromkeys(outside) if item not in self.last()]
        return fresh[: self.spec.candidates.n_earlier]

    def blocked(self) -> set[str]:
        out = set(self.world.exclude)
        known = self.known()
        if self.world.seen == "history":
            out |= {event.item for event in known}
        if self.world.seen == "session":
            out |= {event.item for event in known if event.ts_ms >= self.start_ms()}
        last_kind = {event.item: event.kind for event in known}
        return out | {item for item, kind in last_kind.items() if WEIGHTS[kind] < 0}

    def allowed(self, item: str) -> bool:
        number = self.view.catalogue.number(item)
        return number is not None and bool(self.view.catalogue.available[number]) and item not in self.blocked()

    def row(self, item: str) -> dict[str, list[float]]:
        """Neighbour -> transitions per channel, of the event's segment where the channel has one.

        A row is never read as of a time before its own.
        """
        touching = [
            entry
            for entry in self.world.entries
            if entry.weight > 0 and (item in entry.previous or (entry.item == item and entry.previous))
        ]
        pairs = transitions(SPEC, touching, max([self.as_of_ms, *(entry.ts_ms for entry in touching)]))
        columns = [
            SPEC.first_pair_column[c]
            + (0 if pair.field is None else self.codes()[SPEC.segment_fields.index(pair.field)])
            for c, pair in enumerate(SPEC.co_visitation)
        ]
        return {after: [weights[p] for p in columns] for (before, after), weights in pairs.items() if before == item}

    def ratios(self, item: str) -> dict[str, list[float]]:
        """Neighbour -> share of the item's transitions per channel, rare items shrunk."""
        if item in self.memory:
            return self.memory[item]
        row = self.row(item)
        total = np.sum(list(row.values()), axis=0)
        self.memory[item] = {after: list(np.array(weights) / (total + 5.0)) for after, weights in row.items()}
        return self.memory[item]

    def out_weight(self) -> float:
        if not self.last():
            return 0.0
        return math.fsum(weights[ANY] for weights in self.row(self.last()[0]).values())

    def codes(self) -> list[int]:
        text = self.past.newest().segment  # the logs say the same for both fields
        return [1 + field.values.index(text) if text in field.values else 0 for field in SPEC.segments]

    def column(self, channel: int) -> int:
        field = SPEC.popularity[channel].field
        code = 0 if field is None else self.codes()[SPEC.segment_fields.index(field)]
        return SPEC.first_column[channel] + code

    def named(self, numbers: np.ndarray) -> list[str]:
        return [self.view.catalogue.ids[number] for number in numbers if number >= 0]

    def certain(self) -> dict[str, int]:
        """Candidates of lists, of the newest and of the user's own, in this order, with their source bits."""
        bits: dict[str, int] = {}

        def add(items: Sequence[str], bit: int) -> None:
            for item in items:
                if self.allowed(item):
                    bits[item] = bits.get(item, 0) | bit

        if self.world.only is not None:
            add(self.world.only, 0)
            return bits
        names = [channel.name for channel in SPEC.popularity]
        for k, (name, n) in enumerate(self.spec.candidates.lists):
            add(self.named(self.view.listed[self.column(names.index(name))][:n]), 1 << (first_list_bit + k))
        add(self.named(self.view.newest[: self.spec.candidates.n_newest]), FROM_NEWEST)
        if self.spec.candidates.own:
            add([event.item for event in reversed(self.liked())], FROM_OWN)
        return bits

    def rows(self) -> list[tuple[str, int, float, bool]]:
        """(item, source bit, how much its row counts, whether of the session) for each row that is read."""
        last = [
            (item, FROM_LAST if position == 0 else FROM_SESSION, 1 / (1 + position), True)
            for position, item in enumerate(self.last())
        ]
        return last + [(item, FROM_EARLIER, 0.25, False) for item in self.earlier()]

    def all_sources(self) -> dict[str, int]:
        """Every candidate there could be, with its source bits."""
        bits = self.certain()
        for item, bit, _, _ in self.rows():
            for after in self.ratios(item):
                if self.allowed(after) and (self.world.only is None or after in bits):
                    bits[after] = bits.get(after, 0) | bit
        return bits

    def strength(self, item: str) -> float:
        total = 0.0
        for before, _, lean, inside in self.rows():
            ratio = self.ratios(before).get(item, [0.0] * len(SPEC.co_visitation))
            total += lean * (sum(ratio) if inside else ratio[ANY])
        return total

    def features(self, item: str) -> dict[str, float]:
        """Each column of `candidate_features` by name."""
        number = self.view.catalogue.number(item)
        assert number is not None
        out: dict[str, float] = {}
        share = shares(SPEC, self.world.entries)
        for channel, spec in enumerate(SPEC.popularity):
            out[f"popularity/{spec.name}"] = math.log(share[self.column(channel)].get(item, 0.0) + 1e-6)
        last = self.last()
        near = 0.0
        for lag in range(self.spec.candidates.n_last):
            ratio = (
                self.ratios(last[lag]).get(item, [0.0] * len(SPEC.co_visitation))
                if lag < len(last)
                else [0.0] * len(SPEC.co_visitation)
            )
            near += ratio[ANY]
            for c, pair in enumerate(SPEC.co_visitation):
                out[f"lag{lag + 1}/{pair.name}"] = math.log(ratio[c] + 1e-3)
        before = sum(self.ratios(other).get(item, [0.0] * len(SPEC.co_visitation))[ANY] for other in self.earlier())
        out["earlier"] = math.log(before + 1e-3)
        out["near"] = math.log(near + 1e-3)
        own = [event for event in self.liked() if event.item == item]
        out["own/flag"] = float(bool(own))
        out["own/count"] = math.log1p(len(own))
        out["own/hours"] = math.log1p((self.as_of_ms - own[-1].ts_ms) / HOUR_MS) if own else 0.0
        group = int(self.view.catalogue.category[number])
        for scale in self.spec.state.scales:
            mine, total = 0.0, 1e-6
            for event in self.liked():
                w = fading(Entry("", WEIGHTS[event.kind], event.ts_ms), self.as_of_ms, scale.span_ms)
                total += w
                if self.view.catalogue.category[self.view.catalogue.number(event.item)] == group >= 0:
                    mine += w
            out[f"taste/{scale.name}"] = math.log(mine / total + 1e-2)
        seen_ms = [entry.ts_ms for entry in self.world.entries if entry.item == item]
        said = [u.published_ms for u in self.world.updates if u.item_id == item and u.published_ms is not None]
        born_ms = said[0] if said else min(seen_ms, default=None)
        out["age"] = 0.0 if born_ms is None else math.log1p(max(self.as_of_ms - born_ms, 0) / HOUR_MS)
        return out


ANY = 1
"""The first channel of transitions to any of the next items."""


def keys_of(texts: Sequence[str]) -> np.ndarray:
    return segment_keys(list(texts))

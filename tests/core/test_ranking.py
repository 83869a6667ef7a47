"""Ranking against sorting: best scores first, ties by key, filters, and what fills up."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.candidates import FROM_LAST, FROM_NEWEST, FROM_OWN, FROM_SESSION, Scratch, first_list_bit
from stream.core.events import REQUEST, item_key
from stream.core.features import FeatureSpec
from stream.core.fold import fold, source_key
from stream.core.ranking import FILLED, Ranked, rank, reasons_of, sources_of, with_strongest
from stream.core.state import blank_states
from tests.core.activities import Entry
from tests.core.histories import SOURCE, T0_MS, WEIGHTS, Happening, Past, batch_of
from tests.core.worlds import FEATURES, POOL, Naive, World, worlds

scores = st.one_of(st.sampled_from((0.0, 0.5, -1.0, math.nan, -math.inf)), st.floats(-4, 4, width=32))


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said: items by number, some of them none at all."""

    items: list[int]
    scores: list[float]
    n: int


_pairs = st.tuples(st.one_of(st.integers(-1, len(POOL) - 1), st.just(5_000_000)), scores)
said = st.one_of(st.lists(_pairs, max_size=5), st.lists(_pairs, min_size=10, max_size=25)).flatmap(
    lambda pairs: st.builds(Said, st.just([i for i, _ in pairs]), st.just([s for _, s in pairs]), st.integers(0, 15))
)


def ranked(world: World, model: Said) -> tuple[Ranked, Naive]:
    view = world.view()
    view.know(POOL)
    view.refresh()
    as_of_ms = max(event.ts_ms for event in world.log)
    batch = batch_of([*world.log, Happening("a", "", REQUEST, as_of_ms)], n_segments=2)
    folded = fold(FEATURES.state, blank_states(FEATURES.state, 1), batch, source=source_key(SOURCE), weights=WEIGHTS)
    scratch = Scratch()
    bits = np.arange(len(model.items), dtype=np.uint16)[None]  # says which of several equal items was taken
    got = rank(
        FEATURES,
        folded.after[-1:],
        np.array([model.items], np.int32).reshape(1, -1),
        np.array([model.scores], np.float32).reshape(1, -1),
        bits,
        view,
        world.filters(view),
        np.array([model.n], np.int64),
        scratch,
    )
    assert (scratch.place == -1).all(), "working memory is left clean"
    return got, Naive(FEATURES, world, view, as_of_ms, Past(FEATURES.state, list(world.log)))


@given(worlds(), said)
def test_ranking_is_sorting_what_is_allowed(world: World, model: Said) -> None:
    """
    model   p3 .5   p1 .9   p3 .7   p2 nan   p9 .7 (seen)        ranked    p1 .9   p3 .7   fill: p4   p8
    """
    got, slow = ranked(world, model)
    ids = slow.view.catalogue.ids
    best: dict[str, float] = {}
    for number, score in zip(model.items, model.scores, strict=True):
        if not 0 <= number < len(ids) or math.isnan(score):
            continue
        item = ids[number]
        if slow.allowed(item) and (world.only is None or item in world.only):
            best[item] = max(best.get(item, -math.inf), float(np.float32(score)))
    order = sorted(best, key=lambda item: (-best[item], item_key(item)))[: model.n]
    expected = [(item, best[item]) for item in order]
    whole = [n for n, channel in enumerate(slow.view.spec.popularity) if (channel.of, channel.field) == ("all", None)]
    column = slow.view.spec.first_column[max(whole, key=lambda n: slow.view.spec.popularity[n].half_life_ms)]
    fill = list(world.only) if world.only is not None else slow.named(slow.view.listed[column])
    for item in dict.fromkeys(fill):
        if len(expected) < model.n and slow.allowed(item) and item not in order:
            share = float(slow.view.log_share[slow.view.catalogue.number(item), column])
            expected.append((item, min(share, expected[-1][1]) if expected else share))
    numbers = [number for number in got.items[0] if number >= 0]
    assert [ids[number] for number in numbers] == [item for item, _ in expected]
    np.testing.assert_allclose(got.scores[0, : len(expected)], [score for _, score in expected], rtol=1e-6)
    assert (got.items[0, len(expected) :] == -1).all()
    for place, (item, score) in enumerate(expected):
        if place < len(order):
            taken = int(got.sources[0, place])
            assert (ids[model.items[taken]], float(np.float32(model.scores[taken]))) == (item, score)
        else:
            assert got.sources[0, place] == FILLED


@given(st.permutations(range(len(POOL))), st.integers(1, len(POOL)))
def test_equal_scores_are_ordered_by_key_not_by_number_or_place(order: list[int], n: int) -> None:
    world = World([Entry("p0", -1.0, 1_700_000_000_000)], [], [Happening("a", "q", 0, T0_MS)], 0, "none", (), None)
    got, slow = ranked(world, Said(order, [1.0] * len(order), n))
    assert slow.named(got.items[0]) == sorted(POOL, key=item_key)[:n]


def test_each_row_gets_as_many_as_it_asks_for() -> None:
    against = Entry("p0", -1.0, 1_700_000_000_000)
    world = World([against], [], [Happening("a", "q", 0, 1_700_000_000_000)], 0, "none", (), None)
    view = world.view()
    view.know(POOL)
    view.refresh()
    f = world.filters(view)
    zeros = np.zeros(4, np.int64)
    filters = replace(f, exclude_start=zeros, only_start=zeros, has_only=np.zeros(3, np.bool_))
    got = rank(
        FEATURES,
        blank_states(FEATURES.state, 3),
        np.tile(np.arange(6, dtype=np.int32), (3, 1)),
        np.tile(np.arange(6, dtype=np.float32), (3, 1)),
        np.zeros((3, 0), np.uint16),
        view,
        filters,
        np.array([2, 0, 4]),
        Scratch(),
    )
    assert got.items.tolist() == [[5, 4, -1, -1], [-1, -1, -1, -1], [5, 4, 3, 2]]


@given(st.lists(st.integers(-1, 9), max_size=12, unique=True), st.lists(st.integers(-1, 12), max_size=15))
def test_sources_follow_items_into_the_models_order(candidates: list[int], items: list[int]) -> None:
    """A model may sort its candidates and leave some out: a reason belongs to an item, not to a place."""
    bits = np.arange(1, len(candidates) + 1, dtype=np.uint16)[None]
    scratch = Scratch()
    got = sources_of(
        np.array([items], np.int32).reshape(1, -1),
        np.array([candidates], np.int64).reshape(1, -1),
        bits.reshape(1, -1),
        scratch,
        10,
    )
    expected = [candidates.index(item) + 1 if item >= 0 and item in candidates else 0 for item in items]
    assert got[0].tolist() == expected
    assert (scratch.place == -1).all()


def test_reasons_name_the_strongest_evidence_first() -> None:
    spec = FeatureSpec()
    popular = 1 << first_list_bit
    assert reasons_of(spec, FROM_NEWEST | popular | FROM_LAST, from_candidates=True) == (
        "co-visited:last",
        "popular:continuing:30m",
        "new",
    )
    assert reasons_of(spec, FROM_OWN | FROM_LAST | FROM_SESSION | popular, from_candidates=True) == (
        "own",
        "co-visited:last",
        "co-visited:session",
    )
    assert reasons_of(spec, 0, from_candidates=True) == ("model",)
    assert reasons_of(spec, 0, from_candidates=False) == ("model",)
    assert reasons_of(spec, FILLED, from_candidates=False) == ("fill:all:1d",)


@given(st.integers(1, 6), st.integers(0, 20))
def test_the_strongest_part_of_a_score_is_its_reason(n_parts: int, n_items: int) -> None:
    """Beside what the candidate's sources say, in the room that they leave."""
    spec, names = FeatureSpec(), [f"scale:{number}" for number in range(n_parts)]
    parts = np.random.default_rng(n_items).integers(-3, 3, (2, n_items, n_parts)).astype(np.float32)
    sources = np.full((2, n_items), FROM_OWN | 1 << first_list_bit, np.uint16)
    alone = with_strongest(np.zeros((2, 0), np.uint16), parts)
    beside = with_strongest(sources, parts)
    for row in range(2):
        for item in range(n_items):
            strongest = names[int(parts[row, item].argmax())]
            assert reasons_of(spec, int(alone[row, item]), from_candidates=False, parts=names) == (strongest,)
            found = reasons_of(spec, int(beside[row, item]), from_candidates=True, parts=names)
            assert found == ("own", "popular:continuing:30m", strongest)
    assert reasons_of(spec, FILLED, from_candidates=False, parts=names) == ("fill:all:1d",)
    assert reasons_of(spec, 0, from_candidates=False, parts=names) == ("model",)

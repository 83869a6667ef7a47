"""Candidates and features of small random worlds, column by column, against plain Python."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.candidates import CandidateSpec, Scratch, keep_strongest
from stream.core.events import REQUEST, EventTypes, item_key
from stream.core.features import (
    Features,
    FeatureSpec,
    Vocabulary,
    candidate_feature_names,
    context_feature_names,
    featurize,
    menu,
)
from stream.core.fold import Folded, fold, source_key
from stream.core.scales import DAY_MS, HOUR_MS
from stream.core.state import StateSpec, blank_states
from stream.core.statistics import ItemStatistics
from tests.core.activities import SPEC, Entry
from tests.core.histories import SOURCE, T0_MS, WEIGHTS, Happening, Past, batch_of
from tests.core.worlds import FEATURES, POOL, Naive, World, worlds

EVERYTHING = tuple(name for name in menu(FEATURES) if name != "state")
WORDS = Vocabulary(POOL[:6])


def featurized(
    world: World, view: ItemStatistics, spec: FeatureSpec = FEATURES, scratch: Scratch | None = None
) -> tuple[Features, Folded, int]:
    """The features of a request that follows the world's log, which changes no record."""
    as_of_ms = max(event.ts_ms for event in world.log) + world.later_ms
    batch = batch_of([*world.log, Happening("a", "", REQUEST, as_of_ms)], n_segments=2)
    folded = fold(spec.state, blank_states(spec.state, 1), batch, source=source_key(SOURCE), weights=WEIGHTS)
    scratch = Scratch() if scratch is None else scratch
    features = featurize(
        spec,
        folded,
        batch,
        np.array([len(world.log)]),
        view,
        EVERYTHING,
        filters=world.filters(view),
        vocabulary=WORDS,
        scratch=scratch,
    )
    assert (scratch.place == -1).all(), "working memory is left clean"
    return features, folded, as_of_ms


def naive(world: World, view: ItemStatistics, as_of_ms: int, spec: FeatureSpec = FEATURES) -> Naive:
    return Naive(spec, world, view, as_of_ms, Past(spec.state, list(world.log)))


@given(worlds())
def test_candidates_are_what_the_rule_says_with_all_their_sources(world: World) -> None:
    view = world.view()
    features, _, as_of_ms = featurized(world, view)
    numbers = features.inputs["candidates"][0]
    n_found = int((numbers >= 0).sum())
    assert (numbers[n_found:] == -1).all(), "padding comes last"
    assert len(set(numbers[:n_found].tolist())) == n_found, "no item twice"
    got = {view.catalogue.ids[number]: int(features.sources[0, c]) for c, number in enumerate(numbers[:n_found])}
    assert got == naive(world, view, as_of_ms).all_sources()
    assert not features.sources[0, n_found:].any()


@pytest.mark.parametrize("listed", [True, False])
@given(world=worlds(), n=st.integers(1, 6))
def test_of_too_many_candidates_lists_come_first_and_then_the_strongest(world: World, n: int, listed: bool) -> None:
    """
    n = 4     lists: p3 p7   own: p1   |   co-visited: p9 .31  p2 .22  p5 .22
              p3     p7      p1            p9
    """
    sources = {} if listed else {"lists": (), "n_newest": 0, "own": False}
    spec = replace(FEATURES, candidates=replace(FEATURES.candidates, n=n, **sources))
    view = world.view()
    features, _, as_of_ms = featurized(world, view, spec)
    got = [view.catalogue.ids[number] for number in features.inputs["candidates"][0] if number >= 0]
    slow = naive(world, view, as_of_ms, spec)
    everything = slow.all_sources()
    assert len(got) == min(n, len(everything))
    if world.only is None:
        certain = list(slow.certain())[:n]
        assert set(certain) <= set(got)
    else:
        certain = []  # all of them compete
    strength = {item: slow.strength(item) for item in everything if item not in certain}
    kept = [strength[item] for item in got if item not in certain]
    left = [s for item, s in strength.items() if item not in got]
    if kept and left:
        # Among the only ones allowed, popularity speaks too, below 2e-5.
        assert min(kept) >= max(left) - (3e-5 if world.only is not None else 1e-6)


@given(worlds())
def test_each_candidate_feature_is_what_its_name_says(world: World) -> None:
    view = world.view()
    features, _, as_of_ms = featurized(world, view)
    slow = naive(world, view, as_of_ms)
    names = candidate_feature_names(FEATURES)
    for c, number in enumerate(features.inputs["candidates"][0]):
        row = features.inputs["candidate_features"][0, c]
        if number < 0:
            assert not row.any(), "padding is zero"
            continue
        expected = slow.features(view.catalogue.ids[number])
        assert list(expected) == list(names)
        for name, value in zip(names, row.tolist(), strict=True):
            tolerance = 2e-3 if name.startswith("popularity") else 2e-4
            assert value == pytest.approx(expected[name], abs=tolerance), name


@given(worlds())
def test_each_context_feature_is_what_its_name_says(world: World) -> None:
    view = world.view()
    features, _, as_of_ms = featurized(world, view)
    slow = naive(world, view, as_of_ms)
    past, newest = slow.past, slow.past.newest()
    week_ms = 7 * DAY_MS
    day, week = (2 * math.pi * (as_of_ms % span) / span for span in (DAY_MS, week_ms))
    expected = {
        "session": math.log1p(len(past.session())),
        "events": math.log1p(len(past.applied)),
        "out_weight": math.log1p(slow.out_weight()),
        "gap": math.log1p(world.later_ms / 1000),
        "day/sin": math.sin(day),
        "day/cos": math.cos(day),
        "week/sin": math.sin(week),
        "week/cos": math.cos(week),
    }
    counts = past.counts(as_of_ms)
    expected |= {f"window/{s.name}": math.log1p(counts[n].sum()) for n, s in enumerate(FEATURES.state.scales)}
    expected |= {f"kind/{name}": float(n == past.ring()[-1].kind) for n, name in enumerate(FEATURES.types.names)}
    for field, code in zip(SPEC.segments, slow.codes(), strict=True):
        expected |= {f"segment/{field.field}/{n}": float(n == code) for n in range(1 + len(field.values))}
    assert newest.ts_ms == past.last_ms()
    assert list(expected) == list(context_feature_names(FEATURES))
    np.testing.assert_allclose(features.inputs["context_features"][0], list(expected.values()), atol=2e-5)


@given(worlds())
def test_the_history_is_the_end_of_the_ring(world: World) -> None:
    view = world.view()
    features, _, as_of_ms = featurized(world, view)
    ring = Past(FEATURES.state, list(world.log)).ring()[-FEATURES.n_history :]
    n_free = FEATURES.n_history - len(ring)
    words = {item: n + 1 for n, item in enumerate(WORDS.ids)}
    got = {name: array[0].tolist() for name, array in features.inputs.items()}
    assert got["history_items"] == [0] * n_free + [words.get(event.item, 0) for event in ring]
    assert got["history_kinds"] == [0] * n_free + [event.kind for event in ring]
    ages = np.float32([(as_of_ms - event.ts_ms) / 1000 for event in ring])
    assert got["history_age_s"] == [0.0] * n_free + ages.tolist()
    assert got["history_values"] == [0.0] * n_free + [0.0 if math.isnan(e.value) else e.value for e in ring]
    assert got["windows"] == Past(FEATURES.state, list(world.log)).counts(as_of_ms).tolist()
    assert (got["item"], got["kind"], got["value"]) == (0, 0, 0.0), "a request is no event of its own"


@given(worlds())
def test_everything_has_the_declared_type_and_shape(world: World) -> None:
    features, _, _ = featurized(world, world.view())
    for name, tensor in menu(FEATURES).items():
        array = features.inputs[name]
        assert (array.dtype, array.shape) == (np.dtype(tensor.dtype), (1, *tensor.shape[1:])), name
        assert array.dtype.kind != "f" or np.isfinite(array).all(), name


@given(st.lists(worlds(), min_size=2, max_size=4))
def test_a_batch_gives_what_its_events_give_alone(drawn: list[World]) -> None:
    """Working memory is reused between events: nothing of one may reach the next."""
    view, scratch = drawn[0].view(), Scratch()
    drawn = [replace(world, entries=drawn[0].entries, updates=drawn[0].updates, seen="session") for world in drawn]
    alone = [featurized(world, view, scratch=scratch)[0] for world in drawn]
    again = [featurized(world, view)[0] for world in reversed(drawn)][::-1]
    for one, other in zip(alone, again, strict=True):
        for name in one.inputs:
            assert one.inputs[name].tobytes() == other.inputs[name].tobytes(), name
    log = [replace(event, user=f"u{n}") for n, world in enumerate(drawn) for event in world.log]
    ends_ms = [max(event.ts_ms for event in world.log) + world.later_ms for world in drawn]
    log += [Happening(f"u{n}", "", REQUEST, end_ms) for n, end_ms in enumerate(ends_ms)]
    batch = batch_of(log, n_segments=2)
    states = blank_states(FEATURES.state, len(drawn))
    folded = fold(FEATURES.state, states, batch, source=source_key(SOURCE), weights=WEIGHTS)
    each = [world.filters(view) for world in drawn]
    filters = replace(
        each[0],
        exclude=np.concatenate([f.exclude for f in each]),
        exclude_start=np.cumsum([0, *[len(f.exclude) for f in each]]),
        only=np.concatenate([f.only for f in each]),
        only_start=np.cumsum([0, *[len(f.only) for f in each]]),
        has_only=np.concatenate([f.has_only for f in each]),
    )
    rows = np.arange(len(log) - len(drawn), len(log))
    together = featurize(
        FEATURES, folded, batch, rows, view, EVERYTHING, filters=filters, vocabulary=WORDS, scratch=scratch
    )
    for n, one in enumerate(alone):
        for name, array in together.inputs.items():
            assert array[n].tobytes() == one.inputs[name][0].tobytes(), name
        assert together.sources[n].tolist() == one.sources[0].tolist()


@given(worlds())
def test_only_what_is_wanted_is_given_and_it_is_the_same(world: World) -> None:
    view = world.view()
    full, folded, as_of_ms = featurized(world, view)
    batch = batch_of([*world.log, Happening("a", "", REQUEST, as_of_ms)], n_segments=2)
    rows = np.array([len(world.log)])
    for wanted in (("context_features",), ("history_items", "windows"), ("candidates",), ("gap_s", "state")):
        some = featurize(
            FEATURES,
            folded,
            batch,
            rows,
            view,
            wanted,
            filters=world.filters(view),
            vocabulary=WORDS,
            scratch=Scratch(),
        )
        assert set(some.inputs) == set(wanted) - {"state"}
        for name, array in some.inputs.items():
            assert array.tobytes() == full.inputs[name].tobytes()


def test_what_follows_an_earlier_session_weighs_a_quarter() -> None:
    """
    p0 ------ hours ------ p1        p0 led to p2 sixty times, p1 to p3 once: p3 is the one candidate of two
    """
    counted = [Entry("p2", 1.0, T0_MS, True, ("p0",))] * 60 + [Entry("p3", 1.0, T0_MS, True, ("p1",))]
    log = [Happening("a", "p0", 0, T0_MS), Happening("a", "p1", 0, T0_MS + 2 * HOUR_MS)]
    one = replace(FEATURES.candidates, n=1, lists=(), n_newest=0, own=False)
    world = World(counted, [], log, 0, "none", (), None)
    view = world.view()
    features, _, _ = featurized(world, view, replace(FEATURES, candidates=one))
    assert [view.catalogue.ids[number] for number in features.inputs["candidates"][0]] == ["p3"]


def test_an_unknown_world_has_no_candidates() -> None:
    view = ItemStatistics(SPEC)
    world = World([], [], [Happening("a", "x", 0, T0_MS)], 0, "none", ("y",), None)
    features, _, _ = featurized(world, view)
    assert (features.inputs["candidates"] == -1).all()
    assert not features.inputs["candidate_features"].any()


def test_a_kind_that_the_specification_does_not_know_is_no_kind() -> None:
    """A record may hold kinds of a newer bundle that was rolled back."""
    spec = replace(FEATURES, types=EventTypes(("view", "sale"), (1.0, 2.0)))
    view = ItemStatistics(SPEC)
    features, _, _ = featurized(World([], [], [Happening("a", "x", 7, T0_MS)], 0, "none", (), None), view, spec)
    names = context_feature_names(spec)
    row = features.inputs["context_features"][0]
    assert [row[names.index(f"kind/{name}")] for name in ("view", "sale")] == [0, 0]
    assert row[names.index("segment/device/0")] == 1


@given(
    st.lists(st.tuples(st.sampled_from((0.0, 0.5, 0.25, 1.0)), st.integers(1, 2**64 - 1)), max_size=60, unique=True),
    st.data(),
)
def test_keep_strongest_keeps_what_sorting_would_keep(pairs: list[tuple[float, int]], data: st.DataObject) -> None:
    strength = np.array([s for s, _ in pairs], np.float32)
    key = np.array([k for _, k in pairs], np.uint64)
    n = data.draw(st.integers(0, len(pairs)))
    chosen = np.array(data.draw(st.permutations(range(len(pairs)))), np.int64)
    keep_strongest(strength, key, chosen, n)
    assert sorted(chosen.tolist()) == list(range(len(pairs)))
    expected = sorted(range(len(pairs)), key=lambda i: (-strength[i], int(key[i])))[:n]
    assert {int(key[i]) for i in chosen[:n]} == {int(key[i]) for i in expected}


def test_a_specification_comes_back_from_json_with_the_same_digest() -> None:
    for spec in (FeatureSpec(), FEATURES):
        again = FeatureSpec.from_json(json.loads(json.dumps(spec.to_json())))
        assert again == spec
        assert again.digest() == spec.digest()
    assert FEATURES.digest() != FeatureSpec().digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": StateSpec(n_model=3)}, "belongs to the model"),
        ({"state": StateSpec(n_kinds=7)}, "8 event types, but a record counts 7"),
        ({"n_history": 33}, "does not fit"),
        ({"n_history": 0}, "does not fit"),
        ({"candidates": CandidateSpec(lists=(("no:such", 5),))}, "no popularity channel"),
    ],
)
def test_impossible_specifications_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(FeatureSpec(), **change)


@pytest.mark.parametrize(
    "change",
    [{"n": 0}, {"n": 5000}, {"n_last": 0}, {"n_last": 4}, {"n_earlier": 17}, {"n_newest": 129}, {"lists": (("a", 0),)}],
    ids=str,
)
def test_impossible_numbers_of_candidates_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at most|must be|gives 1"):
        CandidateSpec(**change)


def test_words_are_numbered_from_one_and_all_others_are_zero() -> None:
    keys = np.array([[item_key("p0"), item_key("p5")], [item_key("else"), 0]], np.uint64)
    assert WORDS.encode(keys).tolist() == [[1, 6], [0, 0]]

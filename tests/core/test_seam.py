"""The whole composition over random logs: cutting and interleaving leave no trace, with and without recurrent state."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.core.activity import checked, concatenated
from stream.core.candidates import FROM_SEQUENCE
from stream.core.catalogue import ItemUpdate
from stream.core.content import buckets, content_keys
from stream.core.events import FORGET, REQUEST, Request, item_keys
from stream.core.features import TensorSpec, content_of, menu
from stream.core.fold import APPLIED, DUPLICATE, ERASED, REPLAYED, REQUESTED
from stream.core.scales import MINUTE_MS
from stream.core.seam import Policy, Recommender, Scorer, Stepped
from stream.core.state import decode_states
from stream.core.statistics import ItemStatistics
from tests.core.activities import Entry, activity
from tests.core.histories import ITEMS, SOURCE, T0_MS, Happening, Store, batch_of, cuts, logs
from tests.core.worlds import FEATURES


class ByFeatures:
    """Scores candidates by the sum of their features, and gives them in an order of its own."""

    inputs: Mapping[str, TensorSpec] = {
        name: tensor for name, tensor in menu(FEATURES).items() if name in ("candidates", "candidate_features")
    }
    n_state = 0
    space: Literal["candidates", "vocabulary"] = "candidates"

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        score = inputs["candidate_features"].astype(np.float64).sum(2).astype(np.float32)
        return {"items": inputs["candidates"][:, ::-1], "scores": score[:, ::-1]}


class Counting:
    """A recurrent scorer whose state is a running hash of all steps: one lost, repeated or moved, and it differs.

    Whole numbers below 2048, so that the record's float16 holds them exactly.
    """

    inputs: Mapping[str, TensorSpec] = {
        name: menu(FEATURES, 2)[name] for name in ("item", "kind", "gap_s", "value", "state")
    }
    n_state = 2
    space: Literal["candidates", "vocabulary"] = "vocabulary"

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        state = inputs["state"].astype(np.int64)
        step = inputs["item"] * 5 + inputs["kind"] + (inputs["gap_s"] * 8).astype(np.int64) % 7
        step += np.round(inputs["value"] * 4).astype(np.int64)
        after = np.stack([(state[:, 0] * 31 + step + 1) % 2039, (state[:, 1] * 17 + state[:, 0] + 3) % 1021], axis=1)
        items = 1 + (after[:, :1] + np.arange(len(ITEMS))) % len(ITEMS)
        scores = np.tile(-np.arange(len(ITEMS), dtype=np.float32), (len(state), 1))
        return {"items": items, "scores": scores, "state": after.astype(np.float32)}


class Stepping(Counting):
    """`Counting` whose state can be had alone; counts how often it is asked for more."""

    n_scored = 0

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.n_scored += 1
        return super().score(inputs)

    def step(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        state: NDArray[np.float32] = super().score(inputs)["state"]
        return state


FUSED = replace(FEATURES, candidates=replace(FEATURES.candidates, n_retrieved=2), n_content=16)


class Asking(Counting):
    """`Counting` as it goes before a ranker: its state is also its query, and it reads what an item is about."""

    inputs: Mapping[str, TensorSpec] = {
        name: menu(FUSED, 2)[name] for name in ("item", "kind", "gap_s", "value", "item_content", "state")
    }

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        told = inputs["value"] + inputs["item_content"].sum(1) / 4
        outputs = super().score({**inputs, "value": told.astype(np.float32)})
        return {**outputs, "query": outputs["state"] / 2000}


class AskingStepping(Asking):
    """`Asking` whose state can be had alone."""

    def step(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        state: NDArray[np.float32] = self.score(inputs)["state"]
        return state


class ByQuery:
    """Scores candidates by their features, and by all that a sequence model makes known of them."""

    inputs: Mapping[str, TensorSpec] = {
        name: menu(FUSED, n_query=2)[name]
        for name in ("candidates", "candidate_features", "candidate_index", "candidate_content", "query")
    }
    n_state = 0
    space: Literal["candidates", "vocabulary"] = "candidates"

    def __init__(self, retriever: Scorer | None = None) -> None:
        self.retriever = Asking() if retriever is None else retriever

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        of_item = inputs["candidate_index"] + inputs["candidate_content"].sum(2) / 8
        score = inputs["candidate_features"].astype(np.float64).sum(2) + of_item * inputs["query"].sum(1)[:, None]
        return {"items": inputs["candidates"], "scores": score.astype(np.float32)}


def recommender(scorer: Scorer, tag: int = 1, seen: str = "none") -> Recommender:
    if isinstance(scorer, ByQuery):
        return Recommender(FUSED, scorer, ITEMS, Policy(3, seen), tag, scorer.retriever)
    return Recommender(FEATURES, scorer, ITEMS, Policy(3, seen), tag)


def some_view() -> ItemStatistics:
    """All items, each leading to the next, the later ones more popular."""
    view = ItemStatistics(FEATURES.statistics)
    view.know(ITEMS)
    view.update_items([ItemUpdate(item, f"category {n % 2}", f"the {n}th") for n, item in enumerate(ITEMS[:3])])
    pairs = zip(ITEMS, ITEMS[1:] + ITEMS[:1], strict=True)
    view.apply(
        activity([Entry(after, 1.0 + n, T0_MS - MINUTE_MS, True, (before,)) for n, (before, after) in enumerate(pairs)])
    )
    view.refresh()
    return view


VIEW = some_view()
SCORERS: Sequence[Scorer] = (ByFeatures(), Counting(), Stepping(), ByQuery(), ByQuery(AskingStepping()))
NAMES = ("candidates", "recurrent", "recurrent with steps", "both", "both with steps")


@dataclass(slots=True)
class Run:
    """A worker in miniature: records as bytes between batches, everything that left it kept."""

    recommender: Recommender
    store: Store = field(init=False)
    steps: list[Stepped] = field(default_factory=list)
    answers: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.recommender.state_spec)

    def step(self, log: Sequence[Happening], offsets: Sequence[int]) -> Stepped:
        batch = batch_of(log, offsets=offsets, n_segments=2)
        stepped = self.recommender.step(self.store.load(batch.users), batch, VIEW, source=SOURCE)
        self.store.save(batch, stepped.folded)
        self.steps.append(stepped)
        checked(stepped.activity)
        ranked = stepped.ranked
        for place, row in enumerate(stepped.rows.tolist()):
            n = int((ranked.items[place] >= 0).sum())
            self.answers[offsets[row]] = (
                ranked.items[place, :n].tolist(),
                ranked.scores[place, :n].tolist(),
                ranked.sources[place, :n].tolist(),
                int(stepped.as_of_ms[place]),
            )
        return stepped

    def steps_of(self, log: Sequence[Happening], bounds: Sequence[int]) -> Run:
        for start, end in itertools.pairwise(bounds):
            if start < end:
                self.step(log[start:end], range(start, end))
        return self


def counted(run: Run) -> dict[int, tuple[Any, ...]]:
    """Offset -> all that was sent for the statistics of items."""
    one = concatenated([stepped.activity for stepped in run.steps])
    return {
        offset: (
            one.item_ids[one.item[n]],
            int(one.kind[n]),
            float(one.weight[n]),
            int(one.ts_ms[n]),
            bool(one.continues[n]),
            one.previous[n].tolist(),
            one.segments[n].tolist(),
            one.previous_segments[n].tolist(),
        )
        for n, offset in enumerate(one.offset.tolist())
    }


wishes = st.builds(
    Request,
    n=st.one_of(st.none(), st.integers(1, 7)),
    exclude=st.lists(st.sampled_from((*ITEMS, "unknown")), max_size=2).map(tuple),
    only=st.one_of(st.none(), st.lists(st.sampled_from((*ITEMS, "unknown")), max_size=3).map(tuple)),
)


@st.composite
def wishing_logs(draw: st.DrawFn, users: Sequence[str] = ("a", "b", "c"), max_size: int = 25) -> list[Happening]:
    log = draw(logs(users, max_size=max_size))
    return [replace(event, request=draw(wishes)) if event.kind == REQUEST else event for event in log]


@pytest.mark.parametrize("scorer", SCORERS, ids=NAMES)
@given(drawn=wishing_logs().flatmap(lambda log: st.tuples(st.just(log), cuts(len(log)))))
def test_batch_boundaries_leave_no_trace(scorer: Scorer, drawn: tuple[list[Happening], list[int]]) -> None:
    """
    one batch    | a b a F a b R a |        several    | a b | a F a | b R | a |
    """
    log, bounds = drawn
    whole = Run(recommender(scorer)).steps_of(log, [0, len(log)])
    pieces = Run(recommender(scorer)).steps_of(log, bounds)
    assert pieces.store.records == whole.store.records
    assert pieces.answers == whole.answers
    assert counted(pieces) == counted(whole)


@pytest.mark.parametrize("scorer", SCORERS, ids=NAMES)
@given(log=wishing_logs(), chance=st.randoms(use_true_random=False))
def test_users_do_not_touch_each_other(scorer: Scorer, log: list[Happening], chance: Any) -> None:
    """
    one order    a0 b0 a1 c0 b1        another    c0 b0 b1 a0 a1        each user's own order stays
    """
    queues: dict[str, list[int]] = defaultdict(list)
    for place, event in enumerate(log):
        queues[event.user].append(place)
    turns = [event.user for event in log]
    chance.shuffle(turns)
    order = [queues[user].pop(0) for user in turns]  # a place in the log for each new offset
    one = Run(recommender(scorer)).steps_of(log, [0, len(log)])
    other = Run(recommender(scorer)).steps_of([log[place] for place in order], [0, len(log)])
    assert {order[offset]: answer for offset, answer in other.answers.items()} == one.answers
    moved = {order[offset]: entry for offset, entry in counted(other).items()}
    assert moved == counted(one)
    assert set(other.store.records) == set(one.store.records)
    for user in one.store.records:
        a, b = one.store.record(user), other.store.record(user)
        for name in a.dtype.names or ():
            if name != "source_offset":
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("scorer", SCORERS, ids=NAMES)
@given(log=wishing_logs())
def test_each_outcome_has_its_consequences(scorer: Scorer, log: list[Happening]) -> None:
    """Duplicates and requests get an answer and count nothing; forgetting gets none; replays get neither."""
    run = Run(recommender(scorer)).steps_of(log, [0, len(log)])
    outcome = run.steps[0].folded.outcome
    assert set(run.answers) == set(np.flatnonzero(np.isin(outcome, (APPLIED, DUPLICATE, REQUESTED))).tolist())
    assert set(counted(run)) == {row for row in np.flatnonzero(outcome == APPLIED).tolist() if log[row].item}
    before = dict(run.store.records)
    again = run.step(log, range(len(log)))
    replayed = np.flatnonzero(again.folded.outcome == REPLAYED)
    assert not np.isin(replayed, again.rows).any()
    assert not np.isin(replayed, again.activity.offset).any()
    if FORGET not in [event.kind for event in log]:
        assert run.store.records == before
        assert len(again.activity) == 0
        assert (again.activity.first, again.activity.last) == (0, len(log) - 1), "the range is covered all the same"


@pytest.mark.parametrize("scorer", SCORERS, ids=NAMES)
@given(log=wishing_logs(), seen=st.sampled_from(("none", "session", "history")))
def test_requests_get_what_they_ask_for(scorer: Scorer, log: list[Happening], seen: str) -> None:
    run = Run(recommender(scorer, seen=seen)).steps_of(log, [0, len(log)])
    for offset, (numbers, scores, _, _) in run.answers.items():
        items, request = [VIEW.catalogue.ids[number] for number in numbers], log[offset].request or Request()
        assert len(items) <= (3 if request.n is None else request.n)
        assert len(set(items)) == len(items)
        assert scores == sorted(scores, reverse=True)
        assert not set(items) & set(request.exclude)
        assert request.only is None or set(items) <= set(request.only)
        if seen != "none" and log[offset].item and run.steps[0].folded.outcome[offset] == APPLIED:
            newest = log[offset].ts_ms == run.steps[0].folded.after["last_ms"][offset]
            assert not newest or log[offset].item not in items, "what was just seen is seen"


@pytest.mark.parametrize("scorer", SCORERS[1:], ids=NAMES[1:])
@given(log=logs(("a",), controls=False, names=False, max_size=FEATURES.state.n_ring))
def test_recurrent_state_of_another_bundle_is_rebuilt_from_the_ring(scorer: Scorer, log: list[Happening]) -> None:
    """
    bundle 1    x y z                  record carries tag 1
    bundle 2          | w              steps x y z again, then w: as if it had been there from the start
    """
    log = sorted(log, key=lambda event: event.ts_ms)
    times = [event.ts_ms for event in log]
    log = [event for n, event in enumerate(log) if event.ts_ms not in times[:n]]  # of equal times, content decides
    last = Happening("a", "i3", 1, log[-1].ts_ms + 5000)
    always, moved = Run(recommender(scorer, 2)), Run(recommender(scorer, 1))
    for run in (always, moved):
        run.step(log, range(len(log)))
    moved.recommender = recommender(scorer, 2)
    for run in (always, moved):
        run.step([last], [len(log)])
    assert moved.store.records == always.store.records
    assert moved.answers == always.answers


@given(log=logs(("a",), controls=False, names=False, max_size=FEATURES.state.n_ring))
def test_a_model_without_state_can_give_way_to_one_with_it(log: list[Happening]) -> None:
    """The record changes its layout, and keeps all but the state that it never had."""
    first, second = Run(recommender(ByFeatures(), 1)), Run(recommender(Counting(), 2))
    first.step(log, range(len(log)))
    second.store.records = first.store.records
    second.step([Happening("a", "i1", 0, max(event.ts_ms for event in log) + 1)], [len(log)])
    record = second.store.record("a")
    assert record["model_tag"] == 2
    assert record["n_events"] == len(log) + 1
    assert record["model"].any()


@pytest.mark.parametrize("scorer", [Counting(), Stepping()], ids=NAMES[1:3])
def test_forgetting_in_the_middle_of_a_batch_resets_recurrent_state(scorer: Scorer) -> None:
    """
    x y F z        as z alone
    """
    at = [Happening("a", item, 0, T0_MS + n * 1000) for n, item in enumerate(("i0", "i1", "i2"))]
    log = [at[0], at[1], Happening("a", "", FORGET, T0_MS + 1500), at[2]]
    forgotten, fresh = Run(recommender(scorer)), Run(recommender(scorer))
    stepped = forgotten.step(log, range(4))
    fresh.step([at[2]], [3])
    assert stepped.folded.outcome.tolist() == [APPLIED, APPLIED, ERASED, APPLIED]
    assert forgotten.store.records == fresh.store.records
    assert forgotten.answers[3] == fresh.answers[3]
    assert 2 not in forgotten.answers


@given(log=wishing_logs())
def test_where_the_state_can_be_had_alone_the_answers_are_the_same_and_given_at_once(log: list[Happening]) -> None:
    """However many events a user has in a batch."""
    whole, stepping = Counting(), Stepping()
    one, other = (Run(recommender(scorer)).steps_of(log, [0, len(log)]) for scorer in (whole, stepping))
    assert other.answers == one.answers
    assert other.store.records == one.store.records
    assert stepping.n_scored <= 1


@given(log=wishing_logs(), data=st.data())
def test_selecting_events_changes_neither_records_nor_the_answers_that_remain(
    log: list[Happening], data: st.DataObject
) -> None:
    """A backtest scores a sample; a recurrent model steps through every event all the same."""
    select = np.array(data.draw(st.lists(st.booleans(), min_size=len(log), max_size=len(log))))
    for scorer in SCORERS:
        full = Run(recommender(scorer)).steps_of(log, [0, len(log)])
        run = recommender(scorer)
        batch = batch_of(log, n_segments=2)
        states = decode_states(run.state_spec, [None] * len(batch.users))
        stepped = run.step(states, batch, VIEW, source=SOURCE, select=select)
        assert stepped.folded.states.tobytes() == full.steps[0].folded.states.tobytes()
        assert set(stepped.rows.tolist()) == {offset for offset in full.answers if select[offset]}
        for place, row in enumerate(stepped.rows.tolist()):
            items = [number for number in stepped.ranked.items[place].tolist() if number >= 0]
            assert items == full.answers[row][0]


def test_reasons_belong_to_items_whatever_the_models_order() -> None:
    """ByFeatures turns the candidates round; each source is still the one of its item."""
    run = Run(recommender(ByFeatures()))
    stepped = run.step([Happening("a", "i0", 0, T0_MS)], [0])
    ranked, i0 = stepped.ranked, VIEW.catalogue.number("i0")
    for number, sources in zip(ranked.items[0].tolist(), ranked.sources[0].tolist(), strict=True):
        neighbours = {VIEW.catalogue.number("i1"), VIEW.catalogue.number("i4")}
        assert bool(sources & 1) == (number in neighbours), "co-visited with the last item"
        assert bool(sources & 8) == (number == i0), "the user's own"


def test_another_view_means_other_numbers() -> None:
    """Of two catalogues of one size, each has its own numbers, and a model's words follow them."""
    view = ItemStatistics(FEATURES.statistics)
    view.know(ITEMS[::-1])
    view.refresh()
    model = recommender(Counting())
    batch = batch_of([Happening("a", "i0", 0, T0_MS)], n_segments=2)
    states = decode_states(model.state_spec, [None])
    one, other = (model.step(states, batch, each, source=SOURCE) for each in (VIEW, view))
    named = [
        [each.catalogue.ids[number] for number in stepped.ranked.items[0]]
        for each, stepped in ((VIEW, one), (view, other))
    ]
    assert named[0] == named[1]


def test_an_empty_batch_covers_what_it_is_told_to() -> None:
    """A batch of nothing but malformed events still moves the count on."""
    for scorer in SCORERS:
        model = recommender(scorer)
        batch = batch_of([])
        stepped = model.step(decode_states(model.state_spec, []), batch, VIEW, source=SOURCE, covers=(5, 9))
        assert (stepped.activity.first, stepped.activity.last, len(stepped.activity)) == (5, 9, 0)
        assert len(stepped.rows) == len(stepped.ranked.items) == 0


def test_impossible_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="seen policy"):
        Policy(seen="sometimes")
    with pytest.raises(ValueError, match="at least one"):
        Policy(n=0)
    assert recommender(Counting()).state_spec == replace(FEATURES.state, n_model=2)


def test_a_sequence_models_best_are_candidates_and_its_query_is_of_the_event_itself() -> None:
    """
    events     i0   i1             query after i0 and i1, not after i0 alone
    """
    model = recommender(ByQuery())
    run = Run(model)
    stepped = run.step([Happening("a", item, 0, T0_MS + n * 1000) for n, item in enumerate(("i0", "i1"))], [0, 1])
    asked, state = Asking(), np.zeros((1, 2), np.float32)
    for row, item in enumerate(("i0", "i1")):
        event = {
            "item": np.array([ITEMS.index(item) + 1]),
            "kind": np.array([0]),
            "gap_s": np.array([float(row)], np.float32),
            "value": np.zeros(1, np.float32),
            "item_content": content_of(FUSED, item_keys([item]), VIEW.catalogue),
        }
        found = asked.score({**event, "state": state})
        state = found["state"]
        best = {VIEW.catalogue.number(ITEMS[index - 1]) for index in found["items"][0, :2].tolist()}
        ranked = zip(stepped.ranked.items[row].tolist(), stepped.ranked.sources[row].tolist(), strict=True)
        marked = {number for number, sources in ranked if sources & FROM_SEQUENCE}
        listed = set(stepped.ranked.items[row].tolist())
        assert marked == best & listed
    np.testing.assert_array_equal(run.store.record("a")["model"], state[0])


def test_an_item_that_was_just_announced_is_told_by_its_words_alone() -> None:
    """Neither the vocabulary nor the statistics know it; its category and title do, from the first event on."""
    view = ItemStatistics(FEATURES.statistics)
    view.know(ITEMS)
    view.update_items([ItemUpdate("new", "category 1", "the 7th", published_ms=T0_MS - 1000)])
    view.refresh()
    seen: list[Mapping[str, NDArray[Any]]] = []

    class Watching(ByQuery):
        def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            seen.append(inputs)
            return super().score(inputs)

    model = recommender(Watching())
    batch = batch_of([Happening("a", "i0", 0, T0_MS)], n_segments=2)
    model.step(decode_states(model.state_spec, [None]), batch, view, source=SOURCE)
    place = seen[0]["candidates"][0].tolist().index(view.catalogue.number("new"))
    assert seen[0]["candidate_index"][0, place] == 0
    expected = buckets(content_keys("category 1", "the 7th"), FUSED.n_content)
    assert seen[0]["candidate_content"][0, place].tolist() == expected.tolist()
    assert (seen[0]["candidate_index"][0][seen[0]["candidates"][0] < 0] == 0).all(), "padding is no item"


def test_a_retriever_goes_before_a_ranker_and_nothing_else() -> None:
    for scorer, retriever in ((Counting(), Asking()), (ByQuery(), ByFeatures())):
        with pytest.raises(ValueError, match="retriever"):
            Recommender(FUSED, scorer, ITEMS, retriever=retriever)

"""What users come back to: credited from the items of earlier sessions, read back as shares, against loops."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.activity import N_EARLIER, ActivityBatch, concatenated
from stream.core.candidates import CandidateSpec
from stream.core.events import REQUEST, item_keys
from stream.core.features import SHRINK, FeatureSpec, candidate_feature_names
from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS
from stream.core.seam import Policy, Recommender
from stream.core.state import compiled_form
from stream.core.statistics import CoVisitationChannel, ItemStatistics, PopularityChannel, StatisticsSpec
from stream.core.statistics.returns import earlier_items
from stream.wire.activity import decode_activity, encode_activity
from tests.core.histories import SMALL, T0_MS, WEIGHTS, Happening, Past, Store, batch_of
from training.replay import RecordingScorer

HALVES = (DAY_MS, 6 * HOUR_MS)
STATISTICS = StatisticsSpec(
    (PopularityChannel(HOUR_MS),), (CoVisitationChannel(DAY_MS, "any"),), n_slots=16, returns=HALVES
)
PLAIN = replace(STATISTICS, returns=())
FEATURES = FeatureSpec(
    statistics=STATISTICS, candidates=CandidateSpec(n=12, lists=((STATISTICS.popularity[0].name, 12),)), n_history=8
)
GAP_MS = FEATURES.state.session_gap_ms
CLICK = FEATURES.types.codes()["click"]
ITEMS = "abcdefgh"


def happenings(steps: list[tuple[int, int, int]]) -> list[Happening]:
    """(user, item, minutes since the event before), in the order of time."""
    at_ms, log = T0_MS, []
    for user, item, minutes in steps:
        at_ms += minutes * MINUTE_MS
        log.append(Happening(f"user-{user}", ITEMS[item], CLICK, at_ms))
    return log


def earlier_of(past: list[Happening], ts_ms: int, gap_ms: int) -> list[str]:
    """The last items before the session at `ts_ms`, of one user's past in the order of time, newest first."""
    over, at_ms, items = False, ts_ms, []
    for event in reversed([event for event in past if event.ts_ms <= ts_ms]):
        over = over or at_ms - event.ts_ms > gap_ms
        at_ms = event.ts_ms
        if over and event.item and WEIGHTS[event.kind] > 0 and event.item not in items:
            items.append(event.item)
    return items[:N_EARLIER]


class Fed:
    """A log through the worker's own composition, cut into batches, and the statistics that it came to."""

    def __init__(self, log: list[Happening], cuts: list[int]) -> None:
        self.recommender = Recommender(FEATURES, RecordingScorer(FEATURES), policy=Policy(5, "session"))
        self.view, self.store = ItemStatistics(STATISTICS), Store(FEATURES.state)
        self.activities: list[ActivityBatch] = []
        for first, last in pairwise(sorted({0, len(log), *(cut % (len(log) + 1) for cut in cuts)})):
            self.step(log[first:last], first)
            self.view.apply(self.activities[-1])
            self.view.refresh()

    def step(self, log: list[Happening], first: int) -> dict[str, np.ndarray]:
        """What was asked of the scorer for these events."""
        batch = batch_of(log, first, n_segments=0)
        stepped = self.recommender.step(self.store.load(batch.users), batch, self.view, source="events/0")
        self.store.save(batch, stepped.folded)
        self.activities.append(stepped.activity)
        scorer = self.recommender.scorer
        assert isinstance(scorer, RecordingScorer)
        return scorer.taken()


steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 7), st.sampled_from([0, 1, 7, 29, 31, 90])), min_size=1, max_size=40
)


@given(steps, st.lists(st.integers(0, 40), max_size=4))
def test_features_are_shares_of_what_users_came_back_to(log_steps: list[tuple[int, int, int]], cuts: list[int]) -> None:
    log = happenings(log_steps)
    fed = Fed(log, cuts)
    credit: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for number, event in enumerate(log):
        past = [one for one in log[: number + 1] if one.user == event.user]
        for item in earlier_of(past, event.ts_ms, GAP_MS):
            if item != event.item:
                credit[item, event.item].append((event.ts_ms, float(WEIGHTS[CLICK])))
    now_ms, user = log[-1].ts_ms + 40 * MINUTE_MS, log[-1].user
    asked = fed.step([Happening(user, "", REQUEST, now_ms)], len(log))
    names = candidate_feature_names(FEATURES)
    assert names[-2:] == ("return/1d", "return/6h")
    gone = earlier_of([one for one in log if one.user == user], log[-1].ts_ms, GAP_MS)

    def worth(pair: tuple[str, str], half_ms: int) -> float:
        return sum((w * 2.0 ** (-(now_ms - ts_ms) / half_ms) for ts_ms, w in credit[pair]), 0.0)

    for place, number in enumerate(asked["candidates"][0].tolist()):
        if number < 0:
            assert not asked["candidate_features"][0, place].any()
            continue
        item = fed.view.catalogue.ids[number]
        ratios = [
            [worth((a, item), half) / (sum(worth((a, b), half) for b in ITEMS) + SHRINK) for a in gone]
            for half in HALVES
        ]
        expected = [math.log(sum(each) + 1e-3) for each in ratios]
        np.testing.assert_allclose(asked["candidate_features"][0, place, -2:], expected, rtol=1e-3, atol=1e-3)


@given(steps, st.lists(st.integers(0, 40), max_size=6))
def test_it_does_not_matter_how_events_fall_into_batches(
    log_steps: list[tuple[int, int, int]], cuts: list[int]
) -> None:
    whole, cut = (Fed(happenings(log_steps), each) for each in ([], cuts))
    for name, array in whole.view.returns.snapshot(len(whole.view.catalogue)).items():
        np.testing.assert_array_equal(array, cut.view.returns.snapshot(len(cut.view.catalogue))[name], err_msg=name)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([CLICK, FEATURES.types.codes()["dislike"]]), st.integers(0, 300)),
        min_size=1,
        max_size=20,
    )
)
def test_late_events_have_the_earlier_items_of_their_own_time(drawn: list[tuple[int, int, int]]) -> None:
    """In any order of arrival, as far back as the ring reaches."""
    log = [Happening("a", ITEMS[item], kind, T0_MS + minute * MINUTE_MS) for item, kind, minute in drawn]
    store, past = Store(SMALL), Past(SMALL)
    for number, event in enumerate(log):
        folded = store.fold(batch_of([event], number))
        past.applied.append(event)
        at_ms = np.array([event.ts_ms], np.int64)
        keys = earlier_items(compiled_form(folded.after), at_ms, SMALL.session_gap_ms, WEIGHTS)
        expected = earlier_of(past.ring(), event.ts_ms, SMALL.session_gap_ms)
        assert keys[0].tolist() == item_keys([*expected, *[""] * (N_EARLIER - len(expected))]).tolist()


def test_a_full_row_lets_go_of_its_weakest() -> None:
    """17 users come back from `a`, each to an item of its own, and another to one of these: 16 items have a place."""
    log: list[Happening] = []
    for number in [*range(17), 3]:
        user = f"user-{len(log)}"
        log += [
            Happening(user, "a", CLICK, T0_MS + len(log) * MINUTE_MS),
            Happening(user, f"item-{number}", CLICK, T0_MS + (90 + len(log)) * MINUTE_MS),
        ]
    fed = Fed(sorted(log, key=lambda event: event.ts_ms), [])
    catalogue, returns = fed.view.catalogue, fed.view.returns
    a = catalogue.number("a")
    assert a is not None
    kept = {catalogue.ids[number] for number in returns.item[a].tolist()}
    assert len(kept) == 16
    assert {"item-3", "item-16"} <= kept
    assert "item-0" not in kept
    np.testing.assert_allclose(returns.total[a, 0], returns.weight[a, :, 0].sum() * 18 / 17, rtol=0.02)


def log_of_returns() -> list[Happening]:
    return happenings(
        [(user, (user + place) % 8, minutes) for place, minutes in enumerate((3, 95, 8)) for user in range(3)]
    )


def test_activity_keeps_it_on_its_way_and_says_nothing_where_nobody_asks() -> None:
    fed = Fed(log_of_returns(), [3, 6])
    assert any(each.earlier is not None and each.earlier.any() for each in fed.activities)
    for each in fed.activities:
        back = decode_activity(encode_activity(each))
        assert each.earlier is not None
        assert back.earlier is not None
        np.testing.assert_array_equal(back.earlier, each.earlier)
        silent = replace(each, earlier=None)
        assert decode_activity(encode_activity(silent)).earlier is None
        assert len(encode_activity(silent)) < len(encode_activity(each))
    mixed = concatenated([replace(fed.activities[0], earlier=None), *fed.activities[1:]])
    assert mixed.earlier is not None
    assert not mixed.earlier[: len(fed.activities[0])].any()
    np.testing.assert_array_equal(mixed.earlier[-len(fed.activities[-1]) :], fed.activities[-1].earlier)
    assert concatenated([replace(each, earlier=None) for each in fed.activities]).earlier is None


def test_a_snapshot_brings_it_back_and_goes_to_no_other_statistics() -> None:
    view = Fed(log_of_returns(), [4]).view
    again = ItemStatistics.restore(STATISTICS, view.snapshot())
    for name, array in view.returns.snapshot(len(view.catalogue)).items():
        np.testing.assert_array_equal(again.returns.snapshot(len(view.catalogue))[name], array)
    assert view.returns.weight.any()
    with pytest.raises(ValueError, match="other statistics"):
        ItemStatistics.restore(PLAIN, view.snapshot())
    arrays = view.snapshot()
    arrays["returns/item"] = arrays["returns/item"] + 100
    with pytest.raises(ValueError, match="came back to"):
        ItemStatistics.restore(STATISTICS, arrays)


def test_specifications_without_it_are_what_they_were() -> None:
    """Old bundles keep their digest, and old snapshots their name."""
    plain = replace(FEATURES, statistics=PLAIN)
    assert "returns" not in str(plain.to_json())
    assert "returns" not in repr(PLAIN)
    assert FeatureSpec.from_json(plain.to_json()) == plain
    assert FeatureSpec.from_json(FEATURES.to_json()) == FEATURES
    assert FEATURES.digest() != plain.digest()
    assert candidate_feature_names(FEATURES)[:-2] == candidate_feature_names(plain)
    assert ItemStatistics(PLAIN).returns.n_bytes_per_item == 0
    assert not any(name.startswith("returns") for name in ItemStatistics(PLAIN).snapshot())


@pytest.mark.parametrize("halves", [(0,), (HOUR_MS, HOUR_MS)])
def test_half_lives_are_positive_and_distinct(halves: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive and distinct"):
        replace(STATISTICS, returns=halves)

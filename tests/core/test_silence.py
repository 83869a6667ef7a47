"""Who was silent for too long begins as a new user, whatever the batches, and the same for every kind of model."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import FORGET, REQUEST
from stream.core.fold import Folded, fold, source_key
from stream.core.scales import DAY_MS, HOUR_MS
from stream.core.seam import Policy, Recommender, Stepped
from stream.core.state import decode_states, newest_ms
from stream.core.statistics import ItemStatistics
from tests.core.histories import SMALL, SOURCE, T0_MS, WEIGHTS, Happening, Store, batch_of, cuts, logs
from tests.worker.plain import FEATURES, VOCABULARY, PlainRanker, PlainRecurrent

SPAN_MS = DAY_MS


class Forgetting(Store):
    """A store whose users begin anew after a day."""

    def fold_all(self, log: list[Happening], first: int) -> Folded:
        batch = batch_of(log, first)
        folded = fold(
            self.spec,
            self.load(batch.users),
            batch,
            source=source_key(SOURCE),
            weights=WEIGHTS,
            forget_after_ms=SPAN_MS,
        )
        self.save(batch, folded)
        return folded

    def removed_by_hand(self, event: Happening) -> bytes | None:
        """Takes the record away that an event comes too late for, and gives it."""
        raw = self.records.get(event.user)
        if raw is None or event.kind == FORGET or event.ts_ms - newest_ms(raw) <= SPAN_MS:
            return None
        return self.records.pop(event.user)


@given(st.data(), logs(("a", "b"), max_size=40))
def test_it_is_as_if_the_record_had_been_taken_away_just_before(data: st.DataObject, log: list[Happening]) -> None:
    """One event at a time, with nothing but a plain fold; a request takes nothing away for good."""
    naive, store = Forgetting(SMALL), Forgetting(SMALL)
    expected = []
    for offset, event in enumerate(log):
        kept = naive.removed_by_hand(event)
        expected.append((kept is not None, naive.fold(batch_of([event], offset))))
        if kept is not None and event.kind == REQUEST:
            naive.records[event.user] = kept
    for start, end in itertools.pairwise(data.draw(cuts(len(log)))):
        folded = store.fold_all(log[start:end], start)
        for row, (anew, one) in enumerate(expected[start:end]):
            assert folded.anew[row] == anew
            assert folded.outcome[row] == one.outcome[0]
            assert folded.after[row].tobytes() == one.after[0].tobytes()
            assert folded.gap_s[row] == one.gap_s[0]
            assert folded.continues[row] == one.continues[0]
            assert folded.previous[row].tolist() == one.previous[0].tolist()
    assert store.records == naive.records


def test_exactly_the_span_is_not_too_long_and_a_millisecond_more_is() -> None:
    first = Happening("a", "x", 0, T0_MS)
    for more_ms, n_events in ((0, 2), (1, 1)):
        store = Forgetting(SMALL)
        folded = store.fold_all([first, replace(first, item="y", ts_ms=T0_MS + SPAN_MS + more_ms)], 0)
        assert folded.anew.tolist() == [False, n_events == 1]
        assert store.record("a")["n_events"] == n_events


def test_what_is_read_again_stays_a_replay() -> None:
    """The record forgets what it knew, not how far it has got."""
    store = Forgetting(SMALL)
    log = [Happening("a", "x", 0, T0_MS), Happening("a", "y", 0, T0_MS + 3 * SPAN_MS)]
    store.fold_all(log, 0)
    before = dict(store.records)
    assert store.fold_all(log, 0).anew.tolist() == [False, False]
    assert store.records == before


def lists_of(stepped: Stepped) -> list[tuple[list[int], list[float]]]:
    return list(zip(stepped.ranked.items.tolist(), stepped.ranked.scores.tolist(), strict=True))


@given(st.data(), st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 39), st.integers(0, 40)), max_size=30))
def test_recommenders_know_nothing_of_before(data: st.DataObject, moves: list[tuple[str, int, int]]) -> None:
    """A recurrent model's state begins at zero again, in the middle of a batch too."""
    ts_ms, log = T0_MS, []
    for user, item, hours in moves:
        ts_ms += hours * HOUR_MS
        log.append(Happening(user, f"item-{item}", REQUEST if item % 7 == 0 else 0, ts_ms))
    log = [replace(event, item="") if event.kind == REQUEST else event for event in log]
    for scorer in (PlainRanker(), PlainRecurrent()):
        naive = Recommender(FEATURES, scorer, VOCABULARY, Policy(3, "none"))
        forgetting = Recommender(FEATURES, scorer, VOCABULARY, Policy(3, "none", forget_after_ms=SPAN_MS))
        view = ItemStatistics(FEATURES.statistics)
        view.know(VOCABULARY)
        one, store = Forgetting(naive.state_spec), Forgetting(naive.state_spec)
        expected = []
        for offset, event in enumerate(log):
            kept = one.removed_by_hand(event)
            batch = batch_of([event], offset)
            stepped = naive.step(one.load(batch.users), batch, view, source=SOURCE)
            one.save(batch, stepped.folded)
            expected += lists_of(stepped)
            if kept is not None and event.kind == REQUEST:
                one.records[event.user] = kept
        found = []
        for start, end in itertools.pairwise(data.draw(cuts(len(log)))):
            batch = batch_of(log[start:end], start)
            stepped = forgetting.step(store.load(batch.users), batch, view, source=SOURCE)
            store.save(batch, stepped.folded)
            found += lists_of(stepped)
        assert [items for items, _ in found] == [items for items, _ in expected]
        np.testing.assert_allclose(
            np.array([scores for _, scores in found]), np.array([scores for _, scores in expected]), atol=1e-5
        )
        assert store.records.keys() == one.records.keys()
        for user, raw in store.records.items():
            ours, theirs = (decode_states(naive.state_spec, [each])[0] for each in (raw, one.records[user]))
            assert ours["n_events"] == theirs["n_events"]
            np.testing.assert_allclose(ours["model"], theirs["model"], atol=1e-2)

"""Several recommenders over one fold: as each alone for its users, wherever batches are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.core.arms import Arms, unshared
from stream.core.features import TensorSpec, menu
from stream.core.parts import Part
from stream.core.scales import HOUR_MS
from stream.core.seam import Policy, Recommender
from tests.core.histories import ITEMS, SOURCE, Happening, Store, batch_of, cuts, logs
from tests.core.test_seam import VIEW, ByFeatures, Counting, recommender
from tests.core.worlds import FEATURES


class Wide(Counting):
    """The same with a third number in its state."""

    inputs: Mapping[str, TensorSpec] = {
        name: menu(FEATURES, 3)[name] for name in ("item", "kind", "gap_s", "value", "state")
    }
    n_state = 3

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        scored = super().score({**inputs, "state": inputs["state"][:, :2]})
        third = (inputs["state"][:, 2:] * 3 + scored["state"][:, :1] + 1) % 1009
        return {**scored, "state": np.concatenate([scored["state"], third], axis=1).astype(np.float32)}


def three_arms() -> Arms:
    """A ranker, and two recurrent ones of different width."""
    return Arms([recommender(ByFeatures(), 1), recommender(Wide(), 2), recommender(Counting(), 3)])


class Run:
    """A log, applied in batches, with what came of it."""

    def __init__(self, arms: Arms, arm_of: Mapping[str, int]) -> None:
        self.arms = arms
        self.arm_of = dict(arm_of)
        self.store = Store(arms.state_spec)
        self.answers: dict[int, tuple[list[int], list[float], int]] = {}
        self.n_counted = 0

    def step(self, log: Sequence[Happening], offsets: Sequence[int]) -> None:
        batch = batch_of(log, offsets=offsets, n_segments=2)
        arm = np.array([self.arm_of[user] for user in batch.users], np.intp)
        stepped = self.arms.step(
            self.store.load(batch.users),
            [Part(batch, SOURCE, (int(batch.offset[0]), int(batch.offset[-1])))],
            VIEW,
            arm,
        )
        self.store.save(batch, stepped.folded)
        for number, answers in enumerate(stepped.answers):
            ranked = answers.ranked
            for row, items, scores in zip(
                answers.rows.tolist(), ranked.items.tolist(), ranked.scores.tolist(), strict=True
            ):
                assert offsets[row] not in self.answers, "one arm answers"
                n = sum(item >= 0 for item in items)  # as many columns as the longest list of the batch
                self.answers[offsets[row]] = (items[:n], scores[:n], number)
        self.n_counted += len(stepped.activities[0])


EACH_HIS_OWN = {"a": 0, "b": 1, "c": 2}


@given(log=logs(("a", "b", "c")), data=st.data())
def test_cuts_leave_no_trace_and_each_user_gets_what_his_recommender_alone_would_give(
    log: list[Happening], data: st.DataObject
) -> None:
    whole, cut = Run(three_arms(), EACH_HIS_OWN), Run(three_arms(), EACH_HIS_OWN)
    whole.step(log, range(len(log)))
    for start, end in pairwise(data.draw(cuts(len(log)))):
        cut.step(log[start:end], range(start, end))
    assert cut.answers == whole.answers
    assert cut.store.records == whole.store.records
    assert cut.n_counted == whole.n_counted

    for number, alone in enumerate(three_arms().recommenders):
        single = Run(Arms([alone]), dict.fromkeys("abc", 0))
        single.step(log, range(len(log)))
        mine = {offset: given_ for offset, given_ in whole.answers.items() if given_[2] == number}
        assert {offset: (*single.answers[offset][:2], number) for offset in mine} == mine
        assert set(single.answers) == set(whole.answers)
        assert single.n_counted == whole.n_counted, "what is counted does not depend on who answers"


@given(log=logs(("a",), controls=False, names=False, max_size=FEATURES.state.n_ring - 2))
def test_a_user_who_is_moved_takes_his_history_along(log: list[Happening]) -> None:
    """
    arm 1   x y z                   its recurrent state in the record
    arm 0         | w               has none, and disowns what is there
    arm 2             | v           built from the ring, as if it had been there from the start
    """
    log = sorted(log, key=lambda event: event.ts_ms)
    times = [event.ts_ms for event in log]
    log = [event for n, event in enumerate(log) if event.ts_ms not in times[:n]]  # of equal times, content decides
    log += [Happening("a", "i3", 1, log[-1].ts_ms + 5000), Happening("a", "i1", 0, log[-1].ts_ms + 9000)]

    def run(*arms: int) -> dict[str, bytes]:
        done = Run(three_arms(), {})
        for arm, (start, end) in zip(arms, ((0, len(log) - 2), (-2, -1), (-1, 0)), strict=True):
            done.arm_of["a"] = arm
            offsets = range(len(log))[start : end or None]
            done.step([log[at] for at in offsets], offsets)
        return done.store.records

    assert run(1, 0, 2) == run(2, 2, 2)
    assert run(1, 0, 1) == run(1, 1, 1), "state that missed an event is not taken for current"


def test_what_cannot_share_a_fold_is_refused_by_name() -> None:
    statistics = replace(FEATURES.statistics, n_slots=FEATURES.statistics.n_slots + 1)
    state = replace(FEATURES.state, session_gap_ms=HOUR_MS)
    other = replace(FEATURES, statistics=statistics, state=state)
    assert unshared(FEATURES, FEATURES) == []
    assert [text.split(":")[0] for text in unshared(FEATURES, other)] == [
        "session gap (ms)",
        "neighbours kept of an item",
    ]
    with pytest.raises(ValueError, match="session gap"):
        Arms([recommender(ByFeatures()), Recommender(other, ByFeatures(), ITEMS, Policy(3))])


def test_the_record_has_room_for_the_widest_state() -> None:
    assert three_arms().state_spec == replace(FEATURES.state, n_model=3)

"""A model that fails on some events answers the others; one that fails on all ends the worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.worker.around import MAX_IN_A_ROW, Around
from tests.worker.plain import PlainBundle, PlainRanker, PlainRecurrent
from tests.worker.test_processor import Desk, a_busy_hour, counted, event, record, said, warm_view


class Picky(PlainRanker):
    """Fails on a batch with an event whose features add up to something it does not like."""

    share = 0.05

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        sums = np.abs(inputs["candidate_features"]).sum((1, 2)) * 1000 % 1
        if (sums < self.share).any():
            raise RuntimeError("indices element out of data bounds")
        return super().score(inputs)


class Broken(PlainRanker):
    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        raise RuntimeError("out of order")


@settings(deadline=None)
@given(st.integers(1, 40), st.data())
def test_just_the_failing_rows_are_left_out(n: int, data: st.DataObject) -> None:
    failing = data.draw(st.sets(st.integers(0, n - 1), max_size=min(n - 1, 8)))

    def step(select: NDArray[np.bool_]) -> list[int]:
        rows = np.flatnonzero(select).tolist()
        if failing & set(rows):
            raise RuntimeError("no")
        return rows

    answered, left_out = Around().step(step, n, RuntimeError("all"))
    assert set(left_out) == failing
    assert answered == sorted(set(range(n)) - failing)


def test_states_and_statistics_are_as_if_the_model_had_answered() -> None:
    """Only the recommendations of the failing events are missing, and each of these is a dead letter."""
    records, picky, calm = a_busy_hour(300), Desk(PlainBundle(Picky())), Desk()
    picky.view, calm.view = warm_view(), warm_view()
    picky.__post_init__()
    calm.__post_init__()
    outputs = [desk.answer(records) for desk in (picky, calm)]
    assert picky.states == calm.states
    assert counted(outputs[0]) == counted(outputs[1])
    letters = [json.loads(value or b"") for _, value in outputs[0].dead_letters]
    unanswered = {letter["offset"] for letter in letters if letter["reason"] == "unanswered"}
    assert 0 < len(unanswered) < 100
    assert all("out of data bounds" in each["detail"] for each in letters if each["reason"] == "unanswered")
    missing = [each for each in said(outputs[1]) if each["source"]["offset"] in unanswered]
    assert len(missing) == len(unanswered)
    assert said(outputs[0]) == [each for each in said(outputs[1]) if each["source"]["offset"] not in unanswered]
    assert picky.counters.dead_letters["unanswered"] == len(unanswered)


def test_a_model_that_fails_on_everything_ends_the_worker_after_a_few() -> None:
    """One event at a time: the first ones may be to blame themselves."""
    desk = Desk(PlainBundle(Broken()))
    for offset in range(MAX_IN_A_ROW):
        assert desk.answer([record(offset, event("a", "item-1", offset))]).dead_letters
    with pytest.raises(RuntimeError, match="out of order"):
        desk.answer([record(MAX_IN_A_ROW, event("a", "item-1", MAX_IN_A_ROW))])


def test_a_whole_batch_that_fails_is_nobodys_dead_letter() -> None:
    desk = Desk(PlainBundle(Broken()))
    with pytest.raises(RuntimeError, match="out of order"):
        desk.answer([record(offset, event("a", "item-1", offset)) for offset in range(MAX_IN_A_ROW + 1)])
    assert desk.counters.dead_letters == {}


def test_a_recurrent_model_that_fails_ends_the_worker() -> None:
    """It must step through every event: without one its state would be another."""

    class Failing(PlainRecurrent):
        def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # noqa: ARG002
            raise RuntimeError("no state")

    with pytest.raises(RuntimeError, match="no state"):
        Desk(PlainBundle(Failing(), vocabulary=["item-1"])).answer([record(0, event("a", "item-1"))])


def test_warming_up_does_not_excuse_a_broken_model() -> None:
    """A bundle that fails there is refused."""
    with pytest.raises(RuntimeError, match="out of order"):
        Desk(PlainBundle(Broken())).processor.warm_up()

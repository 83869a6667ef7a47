"""What is learnt from and what is predicted, and where it is found; baselines against figures by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.compare.ratings import sequences
from training.backtest.significance import gains
from training.compare.baselines import BASELINES, baseline
from training.compare.task import PROTOCOLS, Protocol, Task, inner, look, split
from training.sequences import UserSequences


def ndcg(task: Task, name: str) -> float:
    return float(gains(look(task, baseline(name, task), max_length=200).place, 10)["ndcg"].mean())


def test_leave_one_out_predicts_each_users_last_event_and_learns_the_rest() -> None:
    task = split(sequences(), "loo")
    assert task.rows.tolist() == list(range(7, 320, 8))
    assert len(task.train) == 280
    assert task.users().tolist() == list(range(40))


def test_nothing_after_the_cut_is_learnt_from() -> None:
    task = split(sequences(), "time", cut=0.5)
    assert task.train.ts_ms.max() < task.whole.ts_ms[task.rows].min()
    assert len(task.train) == 159  # what is at the cut is after it
    assert len(task.rows) == 161


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_choosing_never_sees_a_target_of_the_test(protocol: Protocol) -> None:
    test, choose = split(sequences(), protocol), split(sequences(), protocol, choose=True)
    assert len(choose.whole) == len(test.train)
    assert len(choose.rows) > 0
    events = set(zip(test.whole.user()[test.rows].tolist(), test.whole.ts_ms[test.rows].tolist(), strict=True))
    known = set(zip(choose.whole.user().tolist(), choose.whole.ts_ms.tolist(), strict=True))
    assert not events & known


def test_the_inner_task_holds_back_the_end_of_the_histories() -> None:
    train, task = inner(sequences(), 0.25)
    assert train.ts_ms.max() < task.whole.ts_ms[task.rows].min()
    assert len(train) + len(task.rows) == 320


def test_what_a_user_had_is_neither_recommended_nor_a_target() -> None:
    """Every second user's last film is the one he began with."""
    log = sequences()
    item = log.item.copy()
    item[7::16] = item[0::16]
    log = dataclasses.replace(log, item=item)
    task = split(log, "loo")
    assert task.rows.tolist() == list(range(15, 320, 16))
    found = look(task, baseline("popularity", task), max_length=200)
    for row, listed in zip(task.rows, found.lists, strict=True):
        assert not set(listed + 1) & set(log.item[row - 7 : row].tolist())
    assert len(split(log, "loo", repeats=True).rows) == 40


def test_an_item_that_may_repeat_is_found_by_last_repeat_alone() -> None:
    log = sequences()
    item = log.item.copy()
    item[7::8] = item[6::8]
    task = split(dataclasses.replace(log, item=item), "loo", repeats=True)
    assert ndcg(task, "last_repeat") == 1.0
    assert ndcg(task, "popularity") < 0.5


def test_a_place_counts_what_is_not_seen_and_ties_against_the_target() -> None:
    task = split(sequences(), "loo")

    def score(rows: NDArray[np.int64], _: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.zeros((len(rows), 20), np.float32)
        scores[:, 0] = 1.0
        return scores

    place = look(task, score, max_length=200).place
    first = task.whole.item[task.rows] == 1
    assert (place[first] == 1).all()
    assert (place[~first] == 13).all(), "seven films are seen, so thirteen are left, and all others tie"


def test_lists_are_the_best_items_in_order() -> None:
    task = split(sequences(), "loo")
    rng = np.random.default_rng(0)
    table = rng.normal(size=(len(task.whole), 20)).astype(np.float32)
    found = look(task, lambda rows, _: table[rows], max_length=200)
    for at, row in enumerate(task.rows.tolist()):
        scores = table[row].copy()
        scores[task.whole.item[row - 7 : row] - 1] = -np.inf
        assert found.lists[at].tolist() == np.argsort(-scores)[:10].tolist()
        wanted = int(task.whole.item[row]) - 1
        assert found.place[at] == 1 + int((scores > scores[wanted]).sum())


def test_co_visitation_knows_what_follows_and_popularity_does_not() -> None:
    task = split(sequences(), "loo")
    assert ndcg(task, "co_visitation") > 0.9
    assert ndcg(task, "popularity") < 0.6


@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_looks_at_its_target_or_beyond(name: str) -> None:
    """Exchange every target's item and what comes after the moment: nothing that was scored changes."""
    task = split(sequences(), "time", cut=0.5)
    at = 100
    row = int(task.rows[at])
    span = np.array([[task.whole.start[task.users()[at]], row]])
    item = task.whole.item.copy()
    later = task.whole.ts_ms >= task.whole.ts_ms[row]
    item[later] = 1 + item[later] % 20
    other = dataclasses.replace(task, whole=dataclasses.replace(task.whole, item=item))
    one = baseline(name, task)(np.array([row]), span)
    two = baseline(name, other)(np.array([row]), span)
    np.testing.assert_array_equal(one, two)


def test_popularity_of_the_last_hour_fades_by_half_an_hour() -> None:
    task = split(sequences(), "time", cut=0.5)
    row = int(task.rows[-1])
    scores = baseline("popularity_1h", task)(np.array([row]), np.array([[row - 1, row]]))[0]
    whole: UserSequences = task.whole
    now_ms = int(whole.ts_ms[row])
    count = np.bincount(task.train.item, minlength=21)[1:]
    expected = 1e-3 * count / count.sum()
    for item, ts_ms in zip(whole.item.tolist(), whole.ts_ms.tolist(), strict=True):
        age_h = (now_ms - ts_ms) / 3_600_000
        if 0 < age_h <= 24:
            expected[item - 1] += 0.5**age_h
    np.testing.assert_allclose(scores, expected, rtol=1e-5)

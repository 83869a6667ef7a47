"""Estimates of another policy against a simulated truth: held by their intervals, and missed without propensities."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stream.core.exploration import Exploration, draw, list_probabilities
from stream.feedback.offpolicy import OffPolicy, estimate

N_ITEMS, N_SHOWN = 6, 3
LOGGING = Exploration("softmax", temperature=1.0)
OWN_SCORES = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5], np.float32)  # of items 0 to 5
OTHER_ORDER = np.array([2, 0, 1, 5, 3, 4])  # the other policy's pool, best first
OTHER_SCORES = np.array([2.0, 1.0, 0.7, 0.2, 0.0, -1.0], np.float32)
RELEVANCE = np.array([0.05, 0.3, 0.6, 0.1, 0.2, 0.5])


def clicks(items: np.ndarray, taste: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(L, n) clicks of people who read from the top and stop at the first click, or, less and less, before."""
    chance = np.clip(RELEVANCE[items] * taste[:, None], 0, 1)
    looks = np.ones(len(items), bool)
    found = np.zeros(items.shape)
    for place in range(items.shape[1]):
        found[:, place] = looks & (rng.random(len(items)) < chance[:, place])
        looks &= (found[:, place] == 0) & (rng.random(len(items)) < 0.8)
    return found


def worth(listed: tuple[int, ...]) -> float:
    """The expected clicks of a list, over tastes 0.6 and 1.4, which are equally frequent."""
    value = 0.0
    for taste in (0.6, 1.4):
        reach = 1.0
        for item in listed:
            chance = min(1.0, RELEVANCE[item] * taste)
            value += 0.5 * reach * chance
            reach *= (1 - chance) * 0.8
    return value


def truth(how: Exploration | None) -> float:
    """The other policy's clicks per list, by going through all its lists."""
    place_of = {int(item): place for place, item in enumerate(OTHER_ORDER)}
    return sum(
        list_probabilities(how, OTHER_SCORES, np.array([place_of[item] for item in listed])).prod() * worth(listed)
        for listed in itertools.permutations(range(N_ITEMS), N_SHOWN)
    )


def logs(n_lists: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lists that were drawn, their propensities, clicks, and users of some ten lists and one taste each."""
    seeds = rng.integers(0, 2**63, n_lists).astype(np.uint64)
    pool = np.tile(np.arange(N_ITEMS, dtype=np.int32), (n_lists, 1))
    items, chance = draw(LOGGING, pool, np.tile(OWN_SCORES, (n_lists, 1)), np.full(n_lists, N_SHOWN), seeds)
    user = rng.integers(0, n_lists // 10, n_lists)
    taste = rng.choice([0.6, 1.4], n_lists // 10)[user]
    return items, chance, clicks(items, taste, rng), user


def judged(how: Exploration | None, n_lists: int, rng: np.random.Generator) -> OffPolicy:
    items, chance, found, user = logs(n_lists, rng)
    column_of = np.argsort(OTHER_ORDER)
    target = np.array([list_probabilities(how, OTHER_SCORES, row) for row in column_of[items]])
    return estimate(target, chance, found, user)


@pytest.mark.parametrize("how", [None, Exploration("softmax", first=2, temperature=0.7)], ids=["greedy", "drawn"])
def test_intervals_hold_the_truth_and_what_was_logged_does_not(how: Exploration | None) -> None:
    """150 logs of 2,000 lists: each estimator's 95 % intervals hold the truth nine times in ten at least."""
    rng = np.random.default_rng(7)
    true = truth(how)
    runs = [judged(how, 2_000, rng) for _ in range(150)]
    for name in ("ips", "snips", "dr", "whole"):
        held = [getattr(run, name).low <= true <= getattr(run, name).high for run in runs]
        assert np.mean(held) >= 0.9, name
        assert np.mean([getattr(run, name).value for run in runs]) == pytest.approx(true, rel=0.03)
    assert not any(run.logged.low <= true <= run.logged.high for run in runs), "without propensities it is biased"
    widths = {
        name: np.mean([getattr(run, name).high - getattr(run, name).low for run in runs])
        for name in ("ips", "snips", "dr", "whole")
    }
    assert max(widths["snips"], widths["dr"]) < widths["ips"] < widths["whole"]
    assert np.mean([run.mean_weight for run in runs]) == pytest.approx(1.0, rel=0.05)
    assert all(10 < run.n_effective < run.n for run in runs)


def test_the_same_policy_is_estimated_as_what_it_earned() -> None:
    rng = np.random.default_rng(1)
    items, chance, found, user = logs(500, rng)
    same = estimate(chance, chance, found, user)
    assert len(items) == same.n == same.n_supported == same.n_effective
    for each in (same.ips, same.snips, same.whole, same.dr):
        assert each.value == pytest.approx(same.logged.value)


def test_users_not_lists_are_independent() -> None:
    """Every list ten times over by the same user is no more news."""
    rng = np.random.default_rng(2)
    _, chance, found, user = logs(300, rng)
    once, often = (estimate(*(np.repeat(x, n, axis=0) for x in (chance, chance, found, user))) for n in (1, 10))
    assert often.ips.high - often.ips.low == pytest.approx(once.ips.high - once.ips.low)


def test_what_cannot_have_been_shown_is_refused() -> None:
    one = np.ones((1, 2))
    with pytest.raises(ValueError, match="probability 0"):
        estimate(one, np.zeros((1, 2)), one, np.zeros(1, int))
    with pytest.raises(ValueError, match="no list"):
        estimate(one[:0], one[:0], one[:0], np.zeros(0, int))

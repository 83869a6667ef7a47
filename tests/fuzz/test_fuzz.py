"""A short round of each target, and what earlier rounds have found."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

N_INPUTS = {
    "decode": 2000,
    "activity": 500,
    "items": 3000,
    "bundle": 15,
    "state": 150,
    "snapshot": 100,
    "experiment": 500,
}


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_almost_good_is_taken_or_refused_in_order(name: str) -> None:
    target, rng = TARGETS[name], Random(1)
    seeds = target.seeds()
    for seed in seeds:
        target.check(seed)
    for _ in range(N_INPUTS[name]):
        target.check(mutated(seeds, rng))

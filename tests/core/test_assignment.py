"""Users to variants: shares as weighted, the same everywhere, and no move without need."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.assignment import Assignment

USERS = [f"user-{number}" for number in range(4_000)]
NAMES = ("control", "b", "c", "d")

some_weights = st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0]), min_size=2, max_size=4).filter(any)


def shares(weights: dict[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


@given(weights=some_weights, salt=st.text("abc-1", max_size=5))
@settings(max_examples=30)
def test_shares_are_as_weighted(weights: list[float], salt: str) -> None:
    """Within five standard deviations of a fair draw, each."""
    given_ = dict(zip(NAMES, weights, strict=False))
    assignment = Assignment(salt, given_)
    found = [assignment.of(user) for user in USERS]
    for name, share in shares(given_).items():
        n, sigma = found.count(name), math.sqrt(len(USERS) * share * (1 - share))
        assert abs(n - share * len(USERS)) <= 5 * sigma, (name, share, n)


@given(weights=some_weights, at=st.integers(0, 3), factor=st.sampled_from([0.0, 0.3, 2.0, 7.0]))
@settings(max_examples=40)
def test_one_changed_weight_moves_users_to_or_from_that_variant_alone(
    weights: list[float], at: int, factor: float
) -> None:
    """And so no more than the difference of the shares, which no rule can undercut."""
    before = dict(zip(NAMES, weights, strict=False))
    changed = NAMES[at % len(before)]
    after = {**before, changed: before[changed] * factor if before[changed] else 1.0}
    if not any(after.values()):
        return
    one, two = Assignment("s", before), Assignment("s", after)
    moves = [(one.of(user), two.of(user)) for user in USERS if one.of(user) != two.of(user)]
    grows = shares(after)[changed] >= shares(before)[changed]
    assert {move[1] if grows else move[0] for move in moves} <= {changed}
    least = abs(shares(after)[changed] - shares(before)[changed])
    assert abs(len(moves) / len(USERS) - least) <= 5 * math.sqrt(0.25 / len(USERS))


@given(before=some_weights, after=some_weights)
@settings(max_examples=30)
def test_nobody_moves_to_a_variant_whose_weight_did_not_grow_beside_his_own(
    before: list[float], after: list[float]
) -> None:
    names = NAMES[: min(len(before), len(after))]
    one, two = dict(zip(names, before, strict=False)), dict(zip(names, after, strict=False))
    if not any(one.values()) or not any(two.values()):
        return
    first, second = Assignment("s", one), Assignment("s", two)
    for user in USERS[:500]:
        old, new = first.of(user), second.of(user)
        assert old == new or two[new] * one[old] > one[new] * two[old]


def test_the_algorithm_is_the_documented_one() -> None:
    """Written out here once more, as somebody would in another language."""
    assignment = Assignment("salt", {"a": 2, "b": 1, "c": 0})
    for user in (*USERS[:200], "Zoë", "", "x\ny"):
        times = {}
        for name, weight in (("a", 2), ("b", 1)):
            digest = hashlib.sha256(f"salt\n{name}\n{user}".encode()).digest()
            drawn = (int.from_bytes(digest[:8], "big") // 2**11 + 0.5) / 2**53
            times[name] = -math.log(drawn) / weight
        assert assignment.of(user) == min(times, key=lambda name: times[name])


def test_another_process_agrees() -> None:
    program = (
        "from stream.core.assignment import Assignment; a = Assignment('s', {'x': 1, 'y': 2})\n"
        "print(''.join(a.of(f'user-{n}') for n in range(300)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
        cwd=".",
    ).stdout.strip()
    assignment = Assignment("s", {"x": 1, "y": 2})
    assert said == "".join(assignment.of(user) for user in USERS[:300])


def test_salts_are_independent() -> None:
    """A quarter of the users in each of the four combinations of two even experiments."""
    one, two = Assignment("one", {"a": 1, "b": 1}), Assignment("two", {"a": 1, "b": 1})
    n = sum(one.of(user) == "a" == two.of(user) for user in USERS)
    assert abs(n - len(USERS) / 4) <= 5 * math.sqrt(len(USERS) * 3 / 16)


def test_raising_a_share_step_by_step_keeps_those_who_are_in() -> None:
    """1 %, 5 %, 20 %, 50 %: who got the new variant keeps it."""
    stages = [Assignment("s", {"old": 1 - share, "new": share}) for share in (0.01, 0.05, 0.2, 0.5)]
    inside = [{user for user in USERS if stage.of(user) == "new"} for stage in stages]
    assert all(fewer < more for fewer, more in pairwise(inside))


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": math.nan}, {"a\nb": 1.0}])
def test_what_is_no_share_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"weight|line breaks"):
        Assignment("s", weights)

"""An experiment read out from messages: users are counted once, in one variant, whatever came twice."""

from __future__ import annotations

from random import Random

import pytest

from stream.feedback.readout import read_out
from stream.wire.messages import UserSpan

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def span(user: str, variant: str, day: int, made: int, hits: int, **more: int) -> UserSpan:
    start_ms = day * DAY_MS
    counts = {"n_outcomes": hits, "n_shown": made, "n_shown_hits": hits} | more
    return UserSpan(
        feedback_id=f"{user}/{variant}/{day}",
        user_id=user,
        from_ms=start_ms,
        to_ms=start_ms + HOUR_MS,
        model=f"{variant}@1",
        variant=variant,
        n_recommendations=made,
        n_hits=hits,
        **counts,
    )


def days(n_days: int, lift: float, n_users: int = 300) -> list[UserSpan]:
    rng = Random(4)
    return [
        span(f"u{user}", variant, day, made := rng.randint(1, 9), sum(rng.random() < rate for _ in range(made)))
        for day in range(n_days)
        for user in range(n_users)
        for variant, rate in [("control", 0.2) if user % 2 else ("new", 0.2 + lift)]
    ]


def test_a_better_variant_is_found_and_rates_are_those_of_the_counts() -> None:
    spans = days(8, 0.08)
    read = read_out(spans, weights={"control": 1, "new": 1}, effect=0.05)
    control, new = read.variants
    mine = [each for each in spans if each.variant == "new"]
    assert new.rate == pytest.approx(sum(e.n_hits for e in mine) / sum(e.n_recommendations for e in mine))
    assert (control.n_users, new.n_users, new.models) == (150, 150, ("new@1",))
    (comparison,) = read.comparisons
    assert comparison.is_decided
    assert len(comparison.looks) == 8
    last = comparison.looks[-1]
    assert last.low <= 0.08 <= last.high
    assert [look.p for look in comparison.looks] == sorted((look.p for look in comparison.looks), reverse=True)
    assert read.split_p == 1.0
    assert read.as_json()["differences"][0]["decided"]


def test_what_comes_twice_counts_once() -> None:
    spans = days(3, 0.0)
    assert read_out([*spans, *spans[::3]]) == read_out(spans)


def test_users_of_several_variants_are_left_out() -> None:
    spans = days(3, 0.0)
    strays = [span("u1", "new", 1, 5, 5), span("u2", "control", 2, 5, 5)]
    read = read_out([*spans, *strays])
    assert read.n_moved == 2
    assert [variant.n_users for variant in read.variants] == [149, 149]


def test_a_split_that_is_not_the_weights_is_told() -> None:
    read = read_out(days(2, 0.0, 2_000), weights={"control": 2, "new": 1})
    assert read.is_split_wrong


def test_three_variants_share_the_error_rate() -> None:
    spans = [*days(3, 0.0), *(span(f"x{user}", "third", 1, 5, user % 2) for user in range(60))]
    two = read_out(days(3, 0.0), weights={"control": 1, "new": 1}).comparisons[0].looks[-1]
    three = read_out(spans, weights={"control": 1, "new": 1, "third": 1}).comparisons[0].looks[-1]
    assert three.high - three.low > two.high - two.low


def test_nothing_yet_is_no_error() -> None:
    read = read_out([], weights={"control": 1, "new": 1})
    assert [variant.rate for variant in read.variants] == [None, None]
    assert read.as_json()["differences"][0]["p"] == 1.0
    assert read_out([]).variants == ()

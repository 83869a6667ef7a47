"""What counts as a hit, and against which popularity."""

from collections.abc import Callable

import numpy as np
import pytest

from stream.live.hits import SESSION_GAP_MS, HitRates
from stream.live.popularity import RecentPopularity

MINUTE_MS = 60_000


def test_a_target_is_judged_by_the_recommendation_of_the_event_before_it() -> None:
    """offset   0    1        2
    u           a    b        c
    answer     [b]  [x]                b was recommended, c was not"""
    hits = HitRates()
    hits.event((0, 0), "u", "a", 0)
    hits.recommendation((0, 0), "u", ["b"])
    hits.event((0, 1), "u", "b", MINUTE_MS)
    hits.recommendation((0, 1), "u", ["x"])
    hits.event((0, 2), "u", "c", 2 * MINUTE_MS)
    assert (hits.n_targets, hits.n_hits) == (2, 1)


@pytest.mark.parametrize(
    ("second", "gap_ms", "weight", "is_target"),
    [
        ("b", SESSION_GAP_MS, 1.0, True),
        ("b", SESSION_GAP_MS + 1, 1.0, False),  # another session's first event
        ("a", MINUTE_MS, 1.0, False),  # in the session already
        ("b", MINUTE_MS, -1.0, False),  # a dislike
        ("b", MINUTE_MS, 0.0, False),
        ("b", -MINUTE_MS, 1.0, True),  # late, but of this session
    ],
)
def test_only_positive_events_on_new_items_of_a_session_that_has_begun_are_targets(
    second: str, gap_ms: int, weight: float, is_target: bool
) -> None:
    hits = HitRates()
    hits.event((0, 0), "u", "a", 10 * MINUTE_MS)
    hits.recommendation((0, 0), "u", ["b"])
    hits.event((0, 1), "u", second, 10 * MINUTE_MS + gap_ms, weight=weight)
    assert hits.n_targets == is_target


def test_popularity_is_that_of_the_moment_of_the_recommendation_without_the_sessions_items() -> None:
    """v makes p and a popular: after u's event on a the list is [p]. What gets popular later does not count."""
    hits = HitRates(1)
    for offset, item in enumerate("aaap"):
        hits.event((1, offset), f"v{offset}", item, 0)
    for first, target in (("u", "p"), ("w", "q")):
        hits.event((0, 0), first, "a", MINUTE_MS)
        hits.recommendation((0, 0), first, [])
        for offset in range(5 if target == "q" else 0):
            hits.event((2, offset), f"x{offset}", "q", MINUTE_MS)
        hits.event((0, 1), first, target, 2 * MINUTE_MS)
    assert (hits.n_targets, hits.n_popular_hits, hits.n_hits) == (2, 1, 0)


def test_only_the_first_ten_of_a_recommendation_count() -> None:
    hits = HitRates()
    hits.event((0, 0), "u", "a", 0)
    hits.recommendation((0, 0), "u", [f"i{n}" for n in range(10)] + ["b"])
    hits.event((0, 1), "u", "b", 1)
    assert (hits.n_targets, hits.n_hits) == (1, 0)


def test_events_that_do_not_count_still_teach_and_a_target_counts_only_if_both_ends_do() -> None:
    hits = HitRates()
    hits.event((0, 0), "u", "a", 0, counts=False)
    hits.recommendation((0, 0), "u", ["b"])
    hits.event((0, 1), "u", "b", 1)
    assert hits.n_targets == 0
    hits.recommendation((0, 1), "u", ["c"])
    hits.event((0, 2), "u", "a", 2)  # in the session since before counting began
    assert hits.n_targets == 0
    hits.recommendation((0, 2), "u", ["c"])
    hits.event((0, 3), "u", "c", 3)
    assert (hits.n_targets, hits.n_hits) == (1, 1)


def test_a_refused_event_is_nobodys_judge() -> None:
    hits = HitRates()
    hits.event((0, 0), "u", "a", 0)
    hits.event((0, 1), "u", "b", 1)
    assert hits.n_waiting == 1
    hits.refused((0, 0))
    assert (hits.n_waiting, hits.n_targets) == (0, 0)


def test_a_repeated_recommendation_changes_nothing() -> None:
    hits = HitRates()
    hits.event((0, 0), "u", "a", 0)
    hits.recommendation((0, 0), "u", ["b"])
    hits.recommendation((0, 0), "u", ["x"])
    hits.event((0, 1), "u", "b", 1)
    hits.recommendation((0, 0), "u", ["x"])
    assert (hits.n_targets, hits.n_hits) == (1, 1)


def test_forgotten_users_begin_anew_and_memory_is_bounded() -> None:
    hits = HitRates(max_users=2)
    hits.event((0, 0), "u", "a", 0)
    hits.forget("u")
    hits.event((0, 1), "u", "b", 1)
    for n in range(5):
        hits.event((0, 2 + n), f"v{n}", "a", 1)
    hits.event((0, 9), "u", "c", 2)  # u was pushed out: a first event again
    assert (hits.n_targets, hits.n_waiting) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_any_interleaving_of_events_and_recommendations_gives_the_rates_of_the_log(seed: int) -> None:
    """Two readers, neither of which waits for the other."""
    rng = np.random.default_rng(seed)
    n_events = 400
    users = rng.integers(0, 12, n_events)
    items = [f"i{n}" for n in rng.integers(0, 15, n_events)]
    times = np.cumsum(rng.integers(0, 5 * MINUTE_MS, n_events)).tolist()
    answers = [[f"i{n}" for n in rng.permutation(15)[:10]] for _ in range(n_events)]
    n_targets, n_hits, n_popular = recount(users.tolist(), items, times, answers)

    def event(n: int) -> Callable[[], None]:
        return lambda: hits.event((int(users[n]) % 3, n), f"u{users[n]}", items[n], times[n])

    def answer(n: int) -> Callable[[], None]:
        return lambda: hits.recommendation((int(users[n]) % 3, n), f"u{users[n]}", answers[n])

    hits = HitRates()
    # Each recommendation comes up to 60 events before or after its event.
    moments = [(n, event(n)) for n in range(n_events)]
    moments += [(n + float(rng.uniform(-60, 60)), answer(n)) for n in range(n_events)]
    for _, tell in sorted(moments, key=lambda moment: moment[0]):
        tell()
    assert (hits.n_targets, hits.n_hits, hits.n_popular_hits) == (n_targets, n_hits, n_popular)
    assert hits.n_waiting == 0


def recount(users: list[int], items: list[str], times: list[int], answers: list[list[str]]) -> tuple[int, int, int]:
    """Targets, hits and popular hits, each found by walking over the log from its start."""
    n_targets = n_hits = n_popular = 0
    for row, user in enumerate(users):
        mine = [before for before in range(row) if users[before] == user]
        session: list[int] = []
        for before in mine:
            session = (
                [before] if session and times[before] - times[session[-1]] > SESSION_GAP_MS else [*session, before]
            )
        if not session or times[row] - times[session[-1]] > SESSION_GAP_MS:
            continue
        seen = {items[before] for before in session}
        if items[row] in seen:
            continue
        n_targets += 1
        n_hits += items[row] in answers[session[-1]]
        popularity = RecentPopularity()
        for before in range(session[-1] + 1):
            popularity.add(items[before], times[before])
        n_popular += items[row] in popularity.best(10, seen)
    return n_targets, n_hits, n_popular

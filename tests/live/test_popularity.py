"""Recent popularity against a naive recomputation over all events, after each of them."""

from collections.abc import Sequence

import numpy as np
import pytest

from stream.live.popularity import RecentPopularity

HOUR_MS = 3_600_000


def naive(events: Sequence[tuple[str, int]], half_life_ms: int) -> dict[str, float]:
    latest = max(ts_ms for _, ts_ms in events)
    weights: dict[str, float] = {}
    for item, ts_ms in events:
        weights[item] = weights.get(item, 0.0) + 2.0 ** ((ts_ms - latest) / half_life_ms)
    return weights


@pytest.mark.parametrize("seed", range(4))
def test_the_best_are_those_of_a_recount_after_every_event_late_ones_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    popularity = RecentPopularity(HOUR_MS, n_best=60)
    times = 1_700_000_000_000 + np.cumsum(rng.integers(0, 200_000, 300)) - rng.integers(0, 5, 300) * HOUR_MS
    events = [(f"i{rng.zipf(1.5) % 40}", int(ts_ms)) for ts_ms in times]
    for n in range(1, len(events) + 1):
        popularity.add(*events[n - 1])
        weights = naive(events[:n], HOUR_MS)
        found = [weights[item] for item in popularity.best(10)]
        assert found == pytest.approx(sorted(weights.values(), reverse=True)[:10], rel=1e-9)


def test_items_to_leave_out_make_room_for_the_next_ones() -> None:
    popularity = RecentPopularity(HOUR_MS)
    for n, item in enumerate("abc"):
        for _ in range(n + 1):
            popularity.add(item, 0)
    assert popularity.best(2) == ("c", "b")
    assert popularity.best(2, without={"c"}) == ("b", "a")


def test_what_was_popular_long_ago_gives_way_to_one_event_of_now() -> None:
    """A jump of years must not leave what a double holds."""
    popularity = RecentPopularity(HOUR_MS)
    for _ in range(1000):
        popularity.add("old", 0)
    popularity.add("new", 20 * 365 * 24 * HOUR_MS)
    assert popularity.best(1) == ("new",)


def test_memory_is_bounded_and_the_heavy_stay() -> None:
    popularity = RecentPopularity(HOUR_MS, n_best=10, max_items=100)
    for n in range(1000):
        popularity.add("hit", n)
        popularity.add(f"once-{n}", n)
    assert len(popularity) <= 100
    assert popularity.best(1) == ("hit",)

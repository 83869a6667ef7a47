"""Baselines of baskets, recomputed from lists of baskets."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.events import EventTypes
from training.baskets import BASKET_BASELINES, basket_places
from training.log import Log
from training.targets import find_targets

GAP_MS = 10
TYPES = EventTypes()
WEIGHTS = TYPES.weight_table()
Line = tuple[str, str, str, int]


def log_of(lines: list[Line]) -> Log:
    frame = pl.DataFrame(
        [(user, item, kind, ts_ms, None, None, None) for user, item, kind, ts_ms in lines],
        schema={"user_id": pl.String, "item_id": pl.String, "event_type": pl.String, "ts_ms": pl.Int64,
                "value": pl.Float64, "session_id": pl.String, "event_id": pl.String},
        orient="row",
    )  # fmt: skip
    return Log.of(frame, TYPES)


def place(scores: dict[str, float], wanted: str, basket: list[str]) -> tuple[int, int]:
    """First and last place that `wanted` may have among items outside the basket, as float32 may break ties or not."""
    own = scores.get(wanted, 0)
    if own <= 0:
        return 0, 0
    others = [item for item in scores if item not in {wanted, *basket}]
    first = sum(scores[item] > own + 1e-6 for item in others)
    tied = [item for item in others if abs(scores[item] - own) <= 1e-6]
    return first + 1, first + len(tied) + 1


def naive(log: Log, rows: list[int]) -> dict[str, list[tuple[int, int]]]:
    """Every target from scratch: cut what is before it into baskets, count those that are over."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    events = [
        (int(log.user[r]), log.item_ids[log.item[r]], int(log.ts_ms[r]), r)
        for r in range(len(log))
        if WEIGHTS[log.kind[r]] > 0
    ]
    for row in rows:
        me, wanted, now = int(log.user[row]), log.item_ids[log.item[row]], int(log.ts_ms[row])
        past = [event for event in events if event[3] < row]
        over: list[list[str]] = []
        mine: list[str] = []
        for user in sorted({event[0] for event in past}):
            own = [event for event in past if event[0] == user]
            open_basket: list[str] = []
            for k, event in enumerate(own):
                if k > 0 and event[2] - own[k - 1][2] > GAP_MS:
                    over.append(open_basket)
                    open_basket = []
                open_basket.append(event[1])
            if user == me:
                mine = open_basket  # the target itself continues it
        count: Counter[str] = Counter()
        pairs: Counter[tuple[str, str]] = Counter()
        near: Counter[tuple[str, str]] = Counter()
        for basket in over:
            last = {item: k for k, item in enumerate(basket)}
            for a, line in last.items():
                count[a] += 1
                for b, other in last.items():
                    if a != b:
                        pairs[a, b] += 1
                        near[a, b] += 1 / abs(line - other)
        popular: dict[str, float] = defaultdict(float)
        for _, item, ts_ms, _ in past:
            popular[item] += 2.0 ** ((ts_ms - now) / (7 * 86_400_000))
        bought = [item for user, item, _, _ in past if user == me]
        own_score = {item: bought.count(item) + 0.5 / (1 + bought[::-1].index(item)) for item in bought}
        first, everything, neighbours = defaultdict(float), defaultdict(float), defaultdict(float)
        for item in log.item_ids:
            for back, i in enumerate(reversed(mine), start=1):
                if count[i] > 0 and count[item] > 0:
                    everything[item] += pairs[i, item] / math.sqrt(count[i] * count[item])
                    neighbours[item] += near[i, item] / (count[i] + 5) / back
                    if back == 1:
                        first[item] = pairs[i, item] / (count[i] + 5)
        for name, scores in zip(
            BASKET_BASELINES, (dict(popular), own_score, first, everything, neighbours), strict=True
        ):
            found[name].append(place(scores, wanted, mine))
    return found


@settings(deadline=None, max_examples=60)
@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from("vwxyz"),
            st.sampled_from(["purchase", "purchase", "purchase", "return"]), st.sampled_from([0, 1, 5, 11, 30, 10**9]),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_each_baseline_knows_the_baskets_that_are_over(drawn: list[tuple[str, str, str, int]]) -> None:
    times = np.cumsum([step for *_, step in drawn])
    log = log_of([(user, item, kind, int(t)) for (user, item, kind, _), t in zip(drawn, times, strict=True)])
    targets = find_targets(log, WEIGHTS, GAP_MS)
    # What the rules of targets and those of baskets call a basket differs where returns stand between its lines.
    plain = np.array([not (log.kind[: row + 1] != 3).any() for row in targets.row], np.bool_)
    targets = targets.where(plain) if len(targets) > 0 else targets
    found = basket_places(log, targets, WEIGHTS, GAP_MS, n=3)
    for name, bounds in naive(log, targets.row.tolist()).items():
        for at, (first, last) in zip(found[name].tolist(), bounds, strict=True):
            assert at in {place if place <= 3 else 0 for place in range(first, last + 1)}, name


def test_what_is_bought_together_is_found() -> None:
    """Two orders of tea and cups; the third begins with tea."""
    lines = [("a", "tea", 0), ("a", "cup", 1), ("b", "salt", 100), ("a", "tea", 200), ("a", "cup", 201),
             ("a", "salt", 300), ("c", "tea", 400), ("c", "cup", 401)]  # fmt: skip
    log = log_of([(user, item, "purchase", ts_ms) for user, item, ts_ms in lines])
    targets = find_targets(log, WEIGHTS, GAP_MS)
    last = targets.where(targets.row == len(log) - 1)
    found = basket_places(log, last, WEIGHTS, GAP_MS)
    assert {name: place.tolist() for name, place in found.items()} == {
        "popularity_7d": [2],
        "own_repeats": [0],
        "basket_co_visitation": [1],
        "basket_all_items": [1],
        "basket_neighbours": [1],
    }


def test_a_log_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.baskets.MAX_ITEMS", 1)
    log = log_of([("a", "x", "purchase", 0), ("a", "y", "purchase", 1)])
    with pytest.raises(ValueError, match="2 items"):
        basket_places(log, find_targets(log, WEIGHTS), WEIGHTS, GAP_MS)

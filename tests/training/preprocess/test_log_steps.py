"""Steps over the log, each against plain Python over its rows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.preprocess.tables import Row, events, quietly, rows
from training.preprocess.bots import Bots
from training.preprocess.core import KCore
from training.preprocess.duplicates import Duplicates
from training.preprocess.gaps import Indicator
from training.preprocess.keep import Complete, Keep
from training.preprocess.rare import Rare
from training.preprocess.sessions import Lines, Sessions
from training.preprocess.step import KNOWN, ROW

CUT_MS = 25


def is_known(row: Row) -> bool:
    return row["ts_ms"] is not None and row["ts_ms"] < CUT_MS


# ---- rows for what they are ----


@quietly
@given(log=rows())
def test_incomplete_events_are_left_out(log: list[Row]) -> None:
    kept = Complete(("user_id", "value")).apply(events(log), {})
    assert kept[ROW].to_list() == [
        n for n, row in enumerate(log) if row["user_id"] is not None and row["value"] is not None
    ]


@quietly
@given(log=rows())
def test_events_that_do_not_match_are_left_out(log: list[Row]) -> None:
    kept = Keep("item_id", "^[xy]").apply(events(log), {})
    assert kept[ROW].to_list() == [n for n, row in enumerate(log) if row["item_id"] in {"x", "y"}]


@quietly
@given(log=rows())
def test_of_equal_events_the_first_stays(log: list[Row]) -> None:
    columns = ("user_id", "item_id", "ts_ms")
    first: dict[tuple[object, ...], int] = {}
    for n, row in enumerate(log):
        first.setdefault(tuple(row[column] for column in columns), n)
    assert Duplicates(columns).apply(events(log), {})[ROW].to_list() == sorted(first.values())


@quietly
@given(log=rows())
def test_an_indicator_says_what_is_missing(log: list[Row]) -> None:
    said = Indicator("value").apply(events(log), {})["value_missing"].to_list()
    assert said == ["yes" if row["value"] is None else "no" for row in log]


@pytest.mark.parametrize("pattern", ["(", "[z"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="keep item_id"):
        Keep("item_id", pattern)


# ---- bots ----


def bots_of(log: list[Row], span: int, limit: int, *, moments: bool) -> set[str]:
    """Users with more than `limit` known events (or moments) in some stretch of `span`."""
    found = set()
    for user in {row["user_id"] for row in log} - {None}:
        times = [row["ts_ms"] for row in log if row["user_id"] == user and is_known(row)]
        times = sorted(set(times) if moments else times)
        if any(sum(start <= other < start + span for other in times) > limit for start in times):
            found.add(user)
    return found


@quietly
@given(log=rows(), span=st.integers(1, 20), limit=st.integers(1, 4), moments=st.booleans())
def test_users_beyond_a_rate_are_left_out_of_training(log: list[Row], span: int, limit: int, *, moments: bool) -> None:
    found = bots_of(log, span, limit, moments=moments)
    step = Bots({f"{span}ms": limit}, "moments" if moments else "events")
    kept = step.apply(events(log, CUT_MS), {})[ROW].to_list()
    assert kept == [n for n, row in enumerate(log) if not (is_known(row) and row["user_id"] in found)]
    flag = Bots({f"{span}ms": limit}, "moments" if moments else "events", "flag").apply(events(log, CUT_MS), {})
    assert flag["bot"].to_list() == [row["user_id"] in found for row in log]


def test_one_of_several_limits_is_enough() -> None:
    log = [{"user_id": "a", "ts_ms": t} for t in (0, 10, 20)] + [{"user_id": "b", "ts_ms": t} for t in (0, 1)]
    kept = Bots({"2ms": 1, "30ms": 2}).apply(events(log), {})
    assert len(kept) == 0
    assert len(Bots({"2ms": 2, "30ms": 2}).apply(events(log), {})) == 2


# ---- sessions and orders ----


@quietly
@given(log=rows(), gap=st.integers(1, 15))
def test_a_longer_silence_than_the_gap_ends_a_session(log: list[Row], gap: int) -> None:
    expected = [row["session_id"] for row in log]
    for user in {row["user_id"] for row in log} - {None}:
        own = sorted(
            (n for n, row in enumerate(log) if row["user_id"] == user and row["ts_ms"] is not None),
            key=lambda n: (log[n]["ts_ms"], n),
        )
        number, before = 0, None
        for n in own:
            if before is None or log[n]["ts_ms"] - before > gap:
                number += 1
            before = log[n]["ts_ms"]
            expected[n] = expected[n] or f"{user}/{number}"
    assert Sessions(f"{gap}ms").apply(events(log), {})["session_id"].to_list() == expected


@quietly
@given(log=rows())
def test_lines_of_an_order_follow_each_other(log: list[Row]) -> None:
    seen: Counter[tuple[object, ...]] = Counter()
    expected = []
    for row in log:
        order = (row["user_id"], row["session_id"], row["ts_ms"])
        expected.append(None if row["ts_ms"] is None else row["ts_ms"] + 3 * seen[order])
        seen[order] += 1
    assert Lines(apart="3ms").apply(events(log), {})["ts_ms"].to_list() == expected


# ---- statistics of users, items and texts ----


@quietly
@given(log=rows(), n_users=st.integers(1, 3), n_items=st.integers(1, 3))
def test_the_core_is_what_removing_in_turns_leaves(log: list[Row], n_users: int, n_items: int) -> None:
    pairs = {(row["user_id"], row["item_id"]) for row in log if is_known(row)}
    pairs = {pair for pair in pairs if None not in pair}
    while True:
        users = Counter(user for user, _ in pairs)
        items = Counter(item for _, item in pairs)
        fewer = {(user, item) for user, item in pairs if users[user] >= n_items and items[item] >= n_users}
        if fewer == pairs:
            break
        pairs = fewer
    kept = KCore(users=n_users, items=n_items).apply(events(log, CUT_MS), {})[ROW].to_list()
    assert kept == [n for n, row in enumerate(log) if not is_known(row) or (row["user_id"], row["item_id"]) in pairs]


@quietly
@given(log=rows(), at_least=st.integers(1, 4), most=st.one_of(st.none(), st.integers(1, 3)))
def test_texts_rare_in_training_become_one(log: list[Row], at_least: int, most: int | None) -> None:
    table = events(log, CUT_MS)
    step = Rare("country", at_least, most)
    counts = Counter(row["country"] for row in log if is_known(row) and row["country"] is not None)
    kept = sorted((text for text in counts if counts[text] >= at_least), key=lambda text: (-counts[text], text))[:most]
    parameters = step.fit(table.filter(KNOWN))
    assert parameters == {"kept": kept}
    found = step.apply(table, parameters)["country"].to_list()
    assert found == [row["country"] if row["country"] in {*kept, None} else "other" for row in log]

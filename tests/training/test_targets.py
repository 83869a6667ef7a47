"""Which events count as targets, on drawn timelines."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import EventTypes
from stream.core.scales import MINUTE_MS
from training.log import Log
from training.targets import Targets, find_targets, sampled

TYPES = EventTypes()
Event = tuple[str, int, str, str]


def log_of(events: list[Event]) -> Log:
    """A log of (user, minute, item, type)."""
    frame = pl.DataFrame(
        {
            "user_id": [user for user, _, _, _ in events],
            "item_id": [item for _, _, item, _ in events],
            "event_type": [kind for _, _, _, kind in events],
            "ts_ms": [minute * MINUTE_MS for _, minute, _, _ in events],
            "value": [None] * len(events),
            "event_id": [None] * len(events),
        },
        schema={
            "user_id": pl.String,
            "item_id": pl.String,
            "event_type": pl.String,
            "ts_ms": pl.Int64,
            "value": pl.Float64,
            "event_id": pl.String,
        },
    )
    return Log.of(frame, TYPES)


def found(log: Log) -> list[tuple[int, int]]:
    targets = find_targets(log, TYPES.weight_table())
    return list(zip(targets.row.tolist(), targets.scored.tolist(), strict=True))


def test_a_target_continues_a_session_with_an_item_that_is_new_to_it() -> None:
    """
    minute   0  1  2  3     34  35
    item     a  b  a  c  |  c   d       31 minutes of silence end the session
    target      *     *         *
    """
    log = log_of([("u", m, i, "view") for m, i in ((0, "a"), (1, "b"), (2, "a"), (3, "c"), (34, "c"), (35, "d"))])
    assert found(log) == [(1, 0), (3, 2), (5, 4)]


def test_thirty_minutes_of_silence_do_not_end_a_session() -> None:
    log = log_of([("u", 0, "a", "view"), ("u", 30, "b", "view"), ("u", 61, "c", "view")])
    assert found(log) == [(1, 0)]


def test_the_recommendation_that_counts_is_the_same_users_own_last_one() -> None:
    """
    minute   0   1   2   3
    user     u   v   u   v
    """
    log = log_of([("u", 0, "a", "view"), ("v", 1, "a", "view"), ("u", 2, "b", "view"), ("v", 3, "c", "view")])
    assert found(log) == [(2, 0), (3, 1)]


def test_a_dislike_is_no_target_but_its_item_belongs_to_the_session() -> None:
    log = log_of([("u", 0, "a", "view"), ("u", 1, "b", "dislike"), ("u", 2, "b", "view"), ("u", 3, "c", "view")])
    assert found(log) == [(3, 2)]


def test_the_sample_is_one_draw_for_each_event_of_the_log() -> None:
    targets = Targets(np.arange(1, 1000, 2), np.arange(0, 999, 2))
    kept = sampled(targets, 1000, 0.15)
    drawn = np.random.default_rng(0).random(1000) < 0.15
    assert kept.row.tolist() == [row for row in range(1, 1000, 2) if drawn[row]]
    assert kept.scored.tolist() == [row - 1 for row in kept.row.tolist()]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("uv"), st.integers(0, 120), st.sampled_from("abc"), st.sampled_from(["view", "like"])
        ),
        max_size=30,
    )
)
def test_any_log_has_the_targets_that_a_naive_reading_of_the_rule_finds(events: list[Event]) -> None:
    log = log_of(sorted(events, key=lambda event: event[1]))
    expected = []
    for row in range(len(log)):
        own = [r for r in range(row + 1) if log.user[r] == log.user[row]]
        session = [own[-1]]
        for before in reversed(own[:-1]):
            if log.ts_ms[session[-1]] - log.ts_ms[before] > 30 * MINUTE_MS:
                break
            session.append(before)
        if len(session) > 1 and all(log.item[r] != log.item[row] for r in session[1:]):
            expected.append((row, session[1]))
    assert found(log) == expected

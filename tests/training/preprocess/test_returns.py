"""Returns take back the latest purchase that is not used up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.training.preprocess.tables import Row, events, quietly, rows
from training.preprocess.returns import CANCELS, Returns
from training.preprocess.step import ROW

CUT_MS = 25


def naive(log: list[Row], within: int) -> tuple[list[int | None], set[int]]:
    """By row, the purchase that a return takes from first; and the purchases that known returns took back in full."""
    amount = [1.0 if row["value"] is None else abs(row["value"]) for row in log]
    left, left_known = list(amount), list(amount)
    cancels: list[int | None] = [None] * len(log)
    order = sorted((n for n, row in enumerate(log) if row["ts_ms"] is not None), key=lambda n: (log[n]["ts_ms"], n))
    for place, n in enumerate(order):
        row = log[n]
        if row["event_type"] != "return" or row["user_id"] is None or row["item_id"] is None:
            continue
        wanted = amount[n]
        for m in reversed(order[:place]):
            other = log[m]
            if (other["user_id"], other["item_id"], other["event_type"]) != (
                row["user_id"],
                row["item_id"],
                "purchase",
            ):
                continue
            if wanted <= 0 or row["ts_ms"] - other["ts_ms"] > within:
                break
            if left[m] > 0:
                taken = min(left[m], wanted)
                left[m] -= taken
                left_known[m] -= taken if row["ts_ms"] < CUT_MS else 0
                wanted -= taken
                cancels[n] = m if cancels[n] is None else cancels[n]
    gone = {
        n
        for n, row in enumerate(log)
        if row["event_type"] == "purchase" and row["ts_ms"] is not None and row["ts_ms"] < CUT_MS
        and row["user_id"] is not None and row["item_id"] is not None and left_known[n] <= 0
    }  # fmt: skip
    return cancels, gone


@quietly
@given(log=rows(), within=st.integers(1, 50))
def test_a_return_is_linked_to_what_it_takes_back(log: list[Row], within: int) -> None:
    table = Returns(within=f"{within}ms").apply(events(log, CUT_MS), {})
    assert table[CANCELS].to_list() == naive(log, within)[0]
    assert len(table) == len(log)


@quietly
@given(log=rows(), within=st.integers(1, 50))
def test_what_was_taken_back_in_full_in_training_can_be_left_out(log: list[Row], within: int) -> None:
    cancels, gone = naive(log, within)
    step = Returns(within=f"{within}ms", cancelled="drop", unmatched="drop")
    kept = step.apply(events(log, CUT_MS), {})[ROW].to_list()
    lone = {n for n, row in enumerate(log) if row["event_type"] == "return" and cancels[n] is None}
    assert kept == [n for n in range(len(log)) if n not in gone | lone]


def test_an_orders_number_makes_a_return() -> None:
    """purchase of 6 ---- C-order of -4 ---- C-order of -4: the second takes the two that are left."""
    log: list[Row] = [
        {"user_id": "a", "item_id": "x", "ts_ms": 1, "value": 6.0, "session_id": "1"},
        {"user_id": "a", "item_id": "x", "ts_ms": 2, "value": -4.0, "session_id": "C2"},
        {"user_id": "a", "item_id": "x", "ts_ms": 3, "value": -4.0, "session_id": "C3"},
        {"user_id": "b", "item_id": "x", "ts_ms": 4, "value": -1.0, "session_id": "C4"},
    ]
    table = Returns(pattern="^C").apply(events(log), {})
    assert table["event_type"].to_list() == ["purchase", "return", "return", "return"]
    assert table["value"].to_list() == [6, 4, 4, 1]
    assert table[CANCELS].to_list() == [None, 0, 0, None]


def test_a_later_return_does_not_reach_into_training() -> None:
    log: list[Row] = [
        {"user_id": "a", "item_id": "x", "ts_ms": 1, "value": 6.0},
        {"user_id": "a", "item_id": "x", "ts_ms": CUT_MS, "value": 6.0, "event_type": "return"},
    ]
    table = Returns(cancelled="drop").apply(events(log, CUT_MS), {})
    assert table[ROW].to_list() == [0, 1]
    assert table[CANCELS].to_list() == [None, 0]

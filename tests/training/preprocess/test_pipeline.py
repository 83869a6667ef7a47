"""The steps together: every row is accounted for, and nothing of later leaks into what is fitted."""

from __future__ import annotations

import doctest
import importlib
import json
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.values import ValueSpec
from stream.errors import PolytempoError
from tests.training.preprocess.tables import Row, quietly, raw_events, rows
from training.preprocess import Preprocess, as_markdown, preprocess

CUT_MS = 25
EVERYTHING: dict[str, Any] = {
    "values_of": ["purchase", "return"],
    "steps": [
        {"step": "complete"},
        {"step": "keep", "column": "item_id", "pattern": "."},
        {"step": "duplicates"},
        {"step": "bots", "limits": {"5ms": 4}},
        {"step": "indicator", "column": "value"},
        {"step": "gaps", "method": "linear"},
        {"step": "returns", "cancelled": "drop", "unmatched": "drop"},
        {"step": "outliers", "bounds": {"method": "zscore", "k": 2.0}},
        {"step": "outliers", "column": "country", "action": "flag"},
        {"step": "sessions", "gap": "5ms"},
        {"step": "lines", "apart": "1ms"},
        {"step": "k_core", "users": 1, "items": 1},
        {"step": "rare", "column": "country", "at_least": 2},
        {"step": "fill", "by": "median"},
        {"step": "clip", "bounds": {"method": "iqr"}},
        {"step": "log1p"},
        {"step": "scale", "by": "standard"},
    ],
}
SETTINGS = msgspec.convert(EVERYTHING, Preprocess)


def prepared_or_none(log: list[Row]) -> Any:
    """None where the steps leave nothing, which is an error of its own."""
    try:
        return preprocess(raw_events(log), SETTINGS, known_until_ms=CUT_MS)
    except PolytempoError as error:
        assert "leaves none" in error.message  # noqa: PT017 - any other error is one
        return None


@pytest.mark.parametrize("name", ["training.spans", "training.preprocess.outliers", "stream.core.values"])
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@quietly
@given(log=rows())
def test_every_row_is_accounted_for(log: list[Row]) -> None:
    prepared = prepared_or_none(log)
    if prepared is None:
        return
    account = prepared.account
    assert account.n_rows == len(log)
    assert account.n_events == len(prepared.events)
    n = account.n_rows
    for step in account.steps:
        assert step.n_in == n
        n = step.n_out
        assert 0 <= step.n_changed <= step.n_out
    assert n == account.n_events
    assert account.n_rows - sum(step.n_removed for step in account.steps) == account.n_events
    assert prepared.events["row"].is_unique().all()
    assert [step.step for step in account.steps] == [step["step"] for step in EVERYTHING["steps"]]


@quietly
@given(log=rows(), later=rows(max_ms=1000))
def test_what_comes_after_training_decides_nothing(log: list[Row], later: list[Row]) -> None:
    """Other events after the cut: the same parameters, and before the cut the same events."""
    known = [row for row in log if row["ts_ms"] is not None and row["ts_ms"] < CUT_MS]
    after = [row | {"ts_ms": CUT_MS + (row["ts_ms"] or 0)} for row in later]
    one, two = prepared_or_none(known), prepared_or_none([*known, *after])
    if one is None or two is None:
        return
    assert [step.parameters for step in one.account.steps] == [step.parameters for step in two.account.steps]
    assert one.values == two.values
    early = two.events.filter(pl.col("row") < len(known))
    assert one.events.equals(early.select(one.events.columns))


@quietly
@given(log=rows())
def test_the_record_is_plain_json(log: list[Row]) -> None:
    prepared = prepared_or_none(log)
    if prepared is None:
        return
    text = json.dumps(prepared.record, allow_nan=False)
    record = json.loads(text)
    assert msgspec.convert(record["settings"], Preprocess) == SETTINGS
    assert record["n_events"] == len(prepared.events)
    fitted = [step["parameters"] for step in record["steps"] if step["live"] and step["parameters"]]
    plain = prepared.values.to_json()["steps"]
    # The logarithm has no parameters.
    assert [p for p in ({k: v for k, v in s.items() if k != "step"} for s in plain) if p] == fitted


@quietly
@given(log=rows())
def test_values_stay_as_producers_send_them_but_for_steps_of_training(log: list[Row]) -> None:
    settings = msgspec.structs.replace(SETTINGS, steps=SETTINGS.steps[-4:])
    prepared = preprocess(raw_events(log), settings)
    assert prepared.events["value"].equals(raw_events(log)["value"])


def test_no_user_is_named_in_record_or_report() -> None:
    log: list[Row] = [
        {"user_id": f"private-{n % 3}", "item_id": "x", "ts_ms": n, "value": 1.0, "session_id": f"private/{n}",
         "event_id": f"private-{n}"} for n in range(9)
    ]  # fmt: skip
    prepared = preprocess(raw_events(log), SETTINGS)
    assert "private" not in json.dumps(prepared.record)
    assert "private" not in as_markdown(prepared.account, "A log")


# ---- edges ----


@pytest.mark.parametrize(
    ("values", "n_steps"),
    [
        ([None, None, None], 1),  # nothing known: only the logarithm can be done
        ([3.0, 3.0, 3.0], 3),  # nothing varies: no bounds to clip to
        ([3.0], 3),
        ([1.0, float("inf"), 2.0, 9.0], 4),
    ],
)
def test_steps_that_cannot_be_fitted_are_left_out(values: list[float | None], n_steps: int) -> None:
    log: list[Row] = [{"user_id": "a", "item_id": "x", "ts_ms": n, "value": v} for n, v in enumerate(values)]
    live = msgspec.structs.replace(SETTINGS, steps=SETTINGS.steps[-4:])
    prepared = preprocess(raw_events(log), live)
    assert len(prepared.values.steps) == n_steps
    given_values = np.array([np.nan if v is None else v for v in values], np.float32)
    result = prepared.values.transform(given_values, np.full(len(values), 3, np.uint8))
    assert np.isfinite(result).all() == (n_steps > 1)


def test_no_rows_are_no_events() -> None:
    prepared = preprocess(raw_events([]), SETTINGS)
    assert len(prepared.events) == 0
    assert prepared.account.n_rows == 0


def test_without_steps_nothing_happens() -> None:
    log: list[Row] = [{"user_id": "a", "ts_ms": 1, "value": -7.0}]
    prepared = preprocess(raw_events(log), Preprocess())
    assert prepared.events.drop("row").equals(raw_events(log))
    assert prepared.values == ValueSpec()


# ---- settings ----


def test_what_the_worker_repeats_comes_last() -> None:
    with pytest.raises(msgspec.ValidationError, match="come after all other steps"):
        msgspec.convert({"steps": [{"step": "log1p"}, {"step": "complete"}]}, Preprocess)


@pytest.mark.parametrize(
    "steps", [[{"step": "wash"}], [{"step": "fill", "with": "median"}], [{"step": "bots", "limits": {}}]]
)
def test_unknown_steps_and_settings_are_refused(steps: list[dict[str, Any]]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"steps": steps}, Preprocess)


def test_a_column_that_is_not_there_is_named() -> None:
    settings = msgspec.convert({"steps": [{"step": "rare", "column": "colour"}]}, Preprocess)
    with pytest.raises(PolytempoError, match="rare: there is no column"):
        preprocess(raw_events([{"user_id": "a", "ts_ms": 1}]), settings)


def test_an_event_type_that_is_none_is_named() -> None:
    with pytest.raises(PolytempoError, match="no event type 'gift'"):
        preprocess(raw_events([]), Preprocess(values_of=("gift",)))


@given(share=st.floats(0, 1))
def test_steps_that_leave_nothing_say_so(share: float) -> None:
    log: list[Row] = [{"user_id": None, "ts_ms": 1, "value": share}]
    with pytest.raises(PolytempoError, match="complete: leaves none of 1 events"):
        preprocess(raw_events(log), msgspec.convert({"steps": [{"step": "complete"}]}, Preprocess))

"""Steps on values: gaps, bounds and scales against the standard library, SciPy's spline and scikit-learn."""

from __future__ import annotations

import math
import statistics
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from sklearn.preprocessing import RobustScaler, StandardScaler

from stream.core import values as frozen
from tests.training.preprocess.tables import Row, events, quietly, rows
from training.preprocess.gaps import Gaps
from training.preprocess.live import Clip, Fill, Log1p, Scale
from training.preprocess.outliers import Bounds, Outliers, bounds
from training.preprocess.step import KNOWN, ROW

CUT_MS = 25
NUMBERS = st.lists(st.one_of(st.integers(-9, 9).map(float), st.floats(-1e4, 1e4)), max_size=15)


# ---- gaps ----


@quietly
@given(
    log=rows(), method=st.sampled_from(["linear", "nearest", "spline"]), within=st.one_of(st.none(), st.integers(1, 30))
)
def test_gaps_are_filled_from_the_same_user_around_them(
    log: list[Row], method: Literal["linear", "nearest", "spline"], within: int | None
) -> None:
    step = Gaps(method, types=("purchase",), within=None if within is None else f"{within}ms")
    found = step.apply(events(log, CUT_MS), {})["value"].to_list()
    for n, row in enumerate(log):
        mine = [
            other
            for other in log
            if other["user_id"] == row["user_id"] and other["event_type"] == "purchase" and other["value"] is not None
            and other["ts_ms"] is not None and other["ts_ms"] < CUT_MS
        ]  # fmt: skip
        fillable = (
            row["value"] is None and row["user_id"] is not None and row["event_type"] == "purchase"
            and row["ts_ms"] is not None and row["ts_ms"] < CUT_MS and mine
        )  # fmt: skip
        if not fillable:
            assert found[n] == row["value"]
            continue
        t = row["ts_ms"]
        at = {ms: statistics.fmean(o["value"] for o in mine if o["ts_ms"] == ms) for ms in {o["ts_ms"] for o in mine}}
        expected: float | None
        if method == "nearest":
            near = min(at, key=lambda ms: (abs(ms - t), ms))
            expected, reach = at[near], abs(near - t)
        else:
            left, right = (
                max((ms for ms in at if ms <= t), default=None),
                min((ms for ms in at if ms >= t), default=None),
            )
            if left is None or right is None:
                assert found[n] is None
                continue
            reach = max(t - left, right - t)
            if method == "spline" and len(at) > 2:
                times = sorted(at)
                expected = float(PchipInterpolator(times, [at[ms] for ms in times])(t))
            else:
                expected = (
                    at[left] if left == right else at[left] + (at[right] - at[left]) * (t - left) / (right - left)
                )
        if within is not None and reach > within:
            assert found[n] is None
        else:
            assert found[n] == pytest.approx(expected)


def test_a_spline_does_not_overshoot() -> None:
    log: list[Row] = [
        {"user_id": "a", "ts_ms": t, "value": v} for t, v in [(0, 0.0), (10, 0.0), (14, None), (20, 9.0), (30, 9.0)]
    ]
    assert 0 <= Gaps("spline").apply(events(log), {})["value"][2] <= 9


# ---- outliers ----


def naive_bounds(values: list[float], how: Bounds) -> tuple[float, float] | None:
    if not values:
        return None
    if how.log:
        inner = naive_bounds(
            [math.copysign(math.log1p(abs(v)), v) for v in values], Bounds(how.method, how.k, how.low, how.high)
        )
        return None if inner is None else tuple(math.copysign(math.expm1(abs(v)), v) for v in inner)  # type: ignore[return-value]
    if how.method == "zscore":
        spread = statistics.pstdev(values)
        middle, k = statistics.fmean(values), how.k or 3.0
    elif how.method == "robust":
        middle, k = statistics.median(values), how.k or 3.5
        spread = statistics.median(abs(v - middle) for v in values) / statistics.NormalDist().inv_cdf(0.75)
    else:

        def quantile(q: float) -> float:
            ordered, at = sorted(values), q * (len(values) - 1)
            low = min(math.floor(at), len(values) - 1)
            high = min(low + 1, len(values) - 1)
            return ordered[low] + (ordered[high] - ordered[low]) * (at - low)

        if how.method == "quantile":
            return (quantile(how.low), quantile(how.high)) if quantile(how.high) > quantile(how.low) else None
        first, third = quantile(0.25), quantile(0.75)
        k = how.k or 1.5
        return (first - k * (third - first), third + k * (third - first)) if third > first else None
    return (middle - k * spread, middle + k * spread) if spread > 0 else None


BOUNDS = st.builds(
    Bounds,
    st.sampled_from(["iqr", "zscore", "robust", "quantile"]),
    st.one_of(st.none(), st.floats(0.5, 5)),
    st.floats(0, 0.4),
    st.floats(0.6, 1),
    st.booleans(),
)


@quietly
@given(values=NUMBERS, how=BOUNDS)
def test_bounds_are_those_of_the_textbook(values: list[float], how: Bounds) -> None:
    # Spreads so small that rounding decides whether they are 0 prove nothing.
    assume(not values or len(set(values)) == 1 or statistics.pstdev(values) > 1e-3)
    found, expected = bounds(np.array(values), how), naive_bounds(values, how)
    if expected is not None and expected[1] - expected[0] < 1e-6:
        return
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@quietly
@given(log=rows(), how=BOUNDS)
def test_outliers_are_dropped_before_the_end_of_training_and_flagged_everywhere(log: list[Row], how: Bounds) -> None:
    table = events(log, CUT_MS)
    step = Outliers(bounds=how, types=("purchase",))
    parameters = step.fit(table.filter(KNOWN))
    low, high = parameters["low"], parameters["high"]

    def beyond(row: Row) -> bool:
        is_mine = row["event_type"] == "purchase" and row["value"] is not None and low is not None
        return is_mine and not low <= row["value"] <= high

    kept = step.apply(table, parameters)[ROW].to_list()
    assert kept == [
        n for n, row in enumerate(log) if not (beyond(row) and row["ts_ms"] is not None and row["ts_ms"] < CUT_MS)
    ]
    flags = Outliers(bounds=how, types=("purchase",), action="flag").apply(table, parameters)["value_outlier"]
    assert flags.to_list() == [beyond(row) for row in log]


def test_texts_and_infinities_are_no_outliers() -> None:
    table = events([{"country": text} for text in ["1", "2", "3", "90", "many", "inf", None]])
    step = Outliers("country", Bounds("iqr"), action="flag")
    known = table.with_columns(known=True)
    assert step.apply(known, step.fit(known))["country_outlier"].to_list() == [False] * 3 + [True] + [False] * 3


@pytest.mark.parametrize("settings", [{"k": 0.0}, {"k": -1.0}, {"low": 0.5, "high": 0.5}])
def test_bounds_that_leave_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lie"):
        Bounds(**settings)


# ---- steps that the worker repeats ----


def with_gaps(values: list[float]) -> NDArray[np.float64]:
    return np.array([*values, math.nan])


@quietly
@given(values=NUMBERS)
def test_fills_are_the_textbooks(values: list[float]) -> None:
    assert Fill("constant", 2.5).fit(with_gaps(values)) == frozen.Fill(2.5)
    for by in ("mean", "median", "mode"):
        found = Fill(by).fit(with_gaps(values))  # type: ignore[arg-type]
        if not values:
            assert found is None
            continue
        expected = min(statistics.multimode(values)) if by == "mode" else getattr(statistics, by)(values)
        assert isinstance(found, frozen.Fill)
        assert found.value == pytest.approx(expected, abs=1e-9)


@quietly
@given(values=NUMBERS)
def test_scales_are_those_of_scikit_learn(values: list[float]) -> None:
    assume(not values or len(set(values)) == 1 or statistics.pstdev(values) > 1e-3)
    for by, theirs in (("standard", StandardScaler()), ("robust", RobustScaler())):
        found = Scale(by).fit(with_gaps(values))  # type: ignore[arg-type]
        if not values:
            assert found is None
            continue
        assert found is not None
        first, third = np.quantile(values, [0.25, 0.75])
        if by == "robust" and 0 < third - first < 1e-6:
            continue
        expected = theirs.fit_transform(np.array(values)[:, None])[:, 0]
        np.testing.assert_allclose(found(np.array(values)), expected, rtol=1e-6, atol=1e-6)


@quietly
@given(values=NUMBERS, how=BOUNDS)
def test_clipping_leaves_nothing_beyond_the_bounds(values: list[float], how: Bounds) -> None:
    found, expected = Clip(how).fit(with_gaps(values)), bounds(np.array(values), how)
    if expected is None:
        assert found is None
        return
    assert found == frozen.Clip(*expected)


def test_the_logarithm_needs_no_values() -> None:
    assert Log1p().fit(np.array([math.nan])) == frozen.Log1p()

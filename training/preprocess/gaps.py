"""Missing values along a user's time: carried over from the nearest, or interpolated between the two around them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import polars as pl
from msgspec import Struct
from numpy.typing import NDArray

from training.preprocess.step import KNOWN, Parameters, number
from training.spans import Span, span_ms

__all__ = ["Gaps", "Indicator", "filled"]

Method = Literal["linear", "spline", "nearest"]


class Indicator(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="indicator"):
    """Add the column `COLUMN_missing`, yes or no: that something is missing may say more than what would fill it.

    Attributes:
        column: any column.
    """

    column: str = "value"

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - nothing to learn
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """With the column."""
        said = pl.when(pl.col(self.column).is_null()).then(pl.lit("yes")).otherwise(pl.lit("no"))
        return events.with_columns(said.alias(f"{self.column}_missing"))


class Gaps(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="gaps"):
    """Fill missing numbers from the same user's events around them, before the end of training.

    An interpolated value knows what came after it, so later events are left as they come, and live ones get what
    `fill` gives them. Use it for what changes slowly, such as a reading or a rating of oneself, not for prices.

    Attributes:
        method: `linear`; `spline`, a cubic without overshoot (Fritsch and Carlson: Monotone piecewise cubic
            interpolation, SIAM Journal on Numerical Analysis 17, 1980); or `nearest`, of two as near the earlier.
            The first two fill between known values only.
        column: of numbers.
        of: columns within whose values time runs.
        types: event types whose values they are; all unless given.
        within: known values farther away than this are not used.
    """

    method: Method
    column: str = "value"
    of: tuple[str, ...] = ("user_id",)
    types: tuple[str, ...] = ()
    within: Span | None = None

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - what fills a gap stands beside it
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """With fewer gaps."""
        mine = pl.col(KNOWN) & pl.col("ts_ms").is_not_null()
        if self.types:
            mine = mine & pl.col("event_type").is_in(self.types)
        table = events.with_row_index("place").filter(mine).drop_nulls(self.of)
        table = table.select("place", *self.of, "ts_ms", number(self.column).alias("number"))
        table = table.sort(*self.of, "ts_ms", maintain_order=True)
        group = table.select(pl.struct(self.of).rle_id().alias("group"))["group"].to_numpy()
        value = table["number"].fill_null(float("nan")).to_numpy()
        within_ms = None if self.within is None else span_ms(self.within)
        result = np.full(len(events), np.nan)
        result[table["place"].to_numpy()] = filled(group, table["ts_ms"].to_numpy(), value, self.method, within_ms)
        found = pl.Series(result)
        here = number(self.column)
        return events.with_columns(pl.coalesce(here, pl.when(found.is_not_nan()).then(found)).alias(self.column))


def filled(
    group: NDArray[np.integer],
    ts_ms: NDArray[np.int64],
    value: NDArray[np.float64],
    method: Method,
    within_ms: int | None,
) -> NDArray[np.float64]:
    """(N,) values with NaN replaced where it can be, for rows sorted by group and time.

    Values of one group at one time count as their mean.
    """
    result = value.copy()
    if len(group) == 0:
        return result
    borders = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    for start, stop in zip(borders.tolist(), [*borders[1:].tolist(), len(group)], strict=True):
        own = value[start:stop]
        gap = np.isnan(own)
        if not gap.any() or gap.all():
            continue
        at_ms, where = np.unique(ts_ms[start:stop][~gap], return_inverse=True)
        mean = np.bincount(where, own[~gap]) / np.bincount(where)
        wanted_ms = ts_ms[start:stop][gap]
        right = np.searchsorted(at_ms, wanted_ms)  # first known time not before it
        left = np.maximum(np.where(at_ms[np.minimum(right, len(at_ms) - 1)] == wanted_ms, right, right - 1), 0)
        right = np.minimum(right, len(at_ms) - 1)
        to_left, to_right = np.abs(wanted_ms - at_ms[left]), np.abs(at_ms[right] - wanted_ms)
        if method == "nearest":
            found = np.where(to_left <= to_right, mean[left], mean[right])
            reach = np.minimum(to_left, to_right)
        else:
            found = _between(at_ms, mean, wanted_ms, method)
            reach = np.maximum(to_left, to_right)
        if within_ms is not None:
            found = np.where(reach <= within_ms, found, np.nan)
        result[start:stop][gap] = found
    return result


def _between(at_ms: NDArray[np.int64], mean: NDArray[np.float64], wanted_ms: NDArray[np.int64], method: Method) -> Any:
    """NaN outside the known times. Times are taken from the first, so that milliseconds since 1970 lose no digits."""
    since, wanted = (at_ms - at_ms[0]).astype(np.float64), (wanted_ms - at_ms[0]).astype(np.float64)
    outside = (wanted < since[0]) | (wanted > since[-1])
    if method == "spline" and len(since) > 2:
        from scipy.interpolate import PchipInterpolator

        found = PchipInterpolator(since, mean)(np.clip(wanted, since[0], since[-1]))
    else:  # through two points there is only the line
        found = np.interp(wanted, since, mean)
    return np.where(outside, np.nan, found)

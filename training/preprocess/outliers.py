"""Bounds beyond which a value is absurd, and what becomes of the events that have one."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
import polars as pl
from msgspec import Meta, Struct
from numpy.typing import NDArray

from training.preprocess.step import KNOWN, Parameters, number

__all__ = ["Bounds", "Outliers", "bounds"]

Method = Literal["iqr", "zscore", "robust", "quantile"]
Quantile = Annotated[float, Meta(ge=0, le=1)]
_DEFAULT_K: Final[dict[str, float]] = {"iqr": 1.5, "zscore": 3.0, "robust": 3.5}
_NORMAL_MAD: Final = 0.6744897501960817  # of a normal distribution, in standard deviations


class Bounds(Struct, frozen=True, forbid_unknown_fields=True):
    """How bounds are found.

    Attributes:
        method: `iqr`: k interquartile ranges beyond the quartiles (Tukey: Exploratory Data Analysis, 1977, k = 1.5).
            `zscore`: k standard deviations from the mean (k = 3). `robust`: k median absolute deviations, scaled to be
            standard deviations where values are normal, from the median (Iglewicz and Hoaglin: How to Detect and Handle
            Outliers, 1993, k = 3.5). `quantile`: between the quantiles `low` and `high`.
        k: instead of the method's own.
        low, high: quantiles.
        log: find them on the scale of sign(v) log(1 + |v|): amounts are skewed, and few of the large ones are absurd.
    """

    method: Method = "iqr"
    k: float | None = None
    low: Quantile = 0.001
    high: Quantile = 0.999
    log: bool = False

    def __post_init__(self) -> None:
        if self.k is not None and not self.k > 0:
            raise ValueError(f"bounds lie k > 0 away, not {self.k}")
        if self.low >= self.high:
            raise ValueError(f"nothing lies between the quantiles {self.low} and {self.high}")


class Outliers(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="outliers"):
    """Drop or flag events whose number lies beyond bounds that are fitted before the end of training.

    To clip values, in training and live alike, see the step `clip`.

    Attributes:
        column: of numbers; missing ones are no outliers.
        bounds: how they are found.
        types: event types whose values they are; all unless given.
        action: `drop`: before the end of training. `flag`: adds the column `COLUMN_outlier`, true or false.
    """

    column: str = "value"
    bounds: Bounds = Bounds()
    types: tuple[str, ...] = ()
    action: Literal["drop", "flag"] = "drop"

    def fit(self, known: pl.DataFrame) -> Parameters:
        """The bounds; null where nothing is known or nothing varies."""
        mine = known.filter(pl.col("event_type").is_in(self.types)) if self.types else known
        found = bounds(mine.select(number(self.column).alias("n"))["n"].drop_nulls().to_numpy(), self.bounds)
        return {"low": None, "high": None} if found is None else {"low": found[0], "high": found[1]}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
        """Without them, or with the flag."""
        low, high = parameters["low"], parameters["high"]
        beyond = pl.lit(value=False)
        if low is not None:
            beyond = ((number(self.column) < low) | (number(self.column) > high)).fill_null(value=False)
        if self.types:
            beyond = beyond & pl.col("event_type").is_in(self.types).fill_null(value=False)
        if self.action == "flag":
            return events.with_columns(beyond.alias(f"{self.column}_outlier"))
        return events.filter(~(beyond & pl.col(KNOWN)))


def bounds(values: NDArray[np.float64], how: Bounds) -> tuple[float, float] | None:
    """The lowest and the highest value that are not absurd.

    None where there is no value, or where the spread is 0, for then the method says nothing of other values.
    Quantiles are interpolated between the values around them (Hyndman and Fan 1996, type 7).

    >>> bounds(np.array([1.0, 2, 3, 4]), Bounds("iqr"))
    (-0.5, 5.5)
    """
    if len(values) == 0:
        return None
    scaled = np.copysign(np.log1p(np.abs(values)), values) if how.log else values
    k = _DEFAULT_K.get(how.method, 0.0) if how.k is None else how.k
    if how.method == "quantile":
        low, high = np.quantile(scaled, [how.low, how.high])
        spread = high - low
    elif how.method == "iqr":
        first, third = np.quantile(scaled, [0.25, 0.75])
        spread = third - first
        low, high = first - k * spread, third + k * spread
    elif how.method == "zscore":
        spread = scaled.std() if scaled.min() < scaled.max() else 0.0
        low, high = scaled.mean() - k * spread, scaled.mean() + k * spread
    else:
        middle = np.median(scaled)
        spread = np.median(np.abs(scaled - middle)) / _NORMAL_MAD
        low, high = middle - k * spread, middle + k * spread
    if not spread > 0:
        return None
    if how.log:
        low, high = (float(np.copysign(np.expm1(np.abs(end)), end)) for end in (low, high))
    return float(low), float(high)

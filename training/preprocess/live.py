"""Steps on single values, which the worker repeats on live events: fitted here, frozen in `stream.core.values`.

Each is fitted on the values before the end of training as the live steps before it left them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from stream.core import values as frozen
from training.preprocess.outliers import Bounds, bounds

__all__ = ["Clip", "Fill", "Log1p", "Scale"]


class Fill(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="fill"):
    """Give missing values one value.

    Attributes:
        by: `mean`, `median`, `mode` (the commonest, of several the smallest) or `constant`.
        value: the constant.
    """

    by: Literal["mean", "median", "mode", "constant"] = "median"
    value: float = 0.0

    def fit(self, values: NDArray[np.float64]) -> frozen.ValueStep | None:
        """(N,) with NaN for missing; None where nothing is known to fill with."""
        known = values[~np.isnan(values)]
        if self.by == "constant":
            return frozen.Fill(self.value)
        if len(known) == 0:
            return None
        if self.by == "mode":
            different, count = np.unique(known, return_counts=True)
            return frozen.Fill(float(different[count.argmax()]))
        return frozen.Fill(float(known.mean() if self.by == "mean" else np.median(known)))


class Clip(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="clip"):
    """Move values beyond bounds to these.

    Attributes:
        bounds: how they are found.
    """

    bounds: Bounds = Bounds()

    def fit(self, values: NDArray[np.float64]) -> frozen.ValueStep | None:
        """(N,) with NaN for missing; None where nothing is known or nothing varies."""
        found = bounds(values[~np.isnan(values)], self.bounds)
        return None if found is None else frozen.Clip(*found)


class Log1p(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="log1p"):
    """sign(v) log(1 + |v|): ten pieces are to one what a hundred are to ten."""

    def fit(self, values: NDArray[np.float64]) -> frozen.ValueStep | None:  # noqa: ARG002 - nothing to learn
        """(N,)."""
        return frozen.Log1p()


class Scale(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="scale"):
    """Centre values and divide them by their spread.

    Attributes:
        by: `standard`: mean and standard deviation. `robust`: median and interquartile range.
    """

    by: Literal["standard", "robust"] = "standard"

    def fit(self, values: NDArray[np.float64]) -> frozen.ValueStep | None:
        """(N,) with NaN for missing; None where nothing is known. Where nothing varies, values are only centred."""
        known = values[~np.isnan(values)]
        if len(known) == 0:
            return None
        if self.by == "standard":
            center, spread = known.mean(), known.std() if known.min() < known.max() else 0.0
        else:
            first, center, third = np.quantile(known, [0.25, 0.5, 0.75])
            spread = third - first
        return frozen.Scale(float(center), float(spread) if spread > 0 else 1.0)

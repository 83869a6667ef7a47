"""The G columns of `context_features`, see `stream.core.features.context_feature_names`.

Counting is compiled. Logarithms, sines and cosines are NumPy's, a call each for all columns: a small batch pays for the
calls, and two libraries would round them differently.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.scales import DAY_MS
from stream.core.state import NEVER_MS, States, StateSpec

__all__ = ["N_FIXED", "context_columns"]

N_FIXED: Final = 8
"""Columns before those of the windows."""
_WEEK_MS: Final = 7 * DAY_MS


def context_columns(
    spec: StateSpec,
    after: States,
    as_of_ms: NDArray[np.int64],
    gap_s: NDArray[np.float32],
    out_weight: NDArray[np.float32],
    codes: NDArray[np.int32],
    first_segment: NDArray[np.int64],
    n_kinds: int,
    n_columns: int,
) -> NDArray[np.float32]:
    """(R, G) of R events.

    Args:
        after: at least R records, in the form that `stream.core.state.compiled_form` gives.
        as_of_ms, gap_s, out_weight: (R,).
        codes: (R, S) code of each context field.
        first_segment: (S,) the column of each context field's code 0.
        n_kinds: kinds that have a column.
        n_columns: G.
    """
    n_rows, n_scales = len(as_of_ms), len(spec.scales)
    context = np.zeros((n_rows, n_columns), np.float32)
    counted = np.empty((n_rows, 3 + n_scales), np.float32)
    angle = np.empty((2, n_rows), np.float64)
    _count(
        as_of_ms,
        gap_s,
        out_weight,
        codes,
        first_segment,
        n_kinds,
        spec.bucket_ms,
        spec.n_buckets,
        after["session_length"],
        after["ring_ms"],
        after["ring_kind"],
        after["head"],
        after["count"],
        context,
        counted,
        angle,
    )
    logs = np.log1p(counted)
    context[:, 0] = logs[:, 0]
    context[:, 1] = np.log1p(after["n_events"][:n_rows])
    context[:, 2:4] = logs[:, 1:3]
    context[:, 4:8:2] = np.sin(angle).T
    context[:, 5:8:2] = np.cos(angle).T
    context[:, N_FIXED : N_FIXED + n_scales] = logs[:, 3:]
    return context


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(
    as_of_ms: Any,
    gap_s: Any,
    out_weight: Any,
    codes: Any,
    first_segment: Any,
    n_kinds: Any,
    bucket_ms: Any,
    n_buckets: Any,
    session_length: Any,
    ring_ms: Any,
    ring_kind: Any,
    head: Any,
    count: Any,
    context: Any,
    counted: Any,
    angle: Any,
) -> None:
    """Fill the flags of `context`, what of `counted` is to be logged, and the angles of the day and of the week."""
    n_scales, newest = len(bucket_ms), ring_ms.shape[1] - 1
    for b in range(len(as_of_ms)):
        counted[b, 0] = session_length[b]
        counted[b, 1] = out_weight[b]
        counted[b, 2] = gap_s[b]
        angle[0, b] = (as_of_ms[b] % DAY_MS) * (2 * np.pi / DAY_MS)
        angle[1, b] = (as_of_ms[b] % _WEEK_MS) * (2 * np.pi / _WEEK_MS)
        for scale in range(n_scales):
            width, now, last = n_buckets[scale], as_of_ms[b] // bucket_ms[scale], head[b, scale]
            n_events = 0
            # The record holds the `width` buckets up to `last`; the window is the `width` buckets up to `now`.
            for bucket in range(max(last, now) - width + 1, min(last, now) + 1):
                slot = bucket % width
                for k in range(count.shape[3]):
                    n_events += count[b, scale, slot, k]
            counted[b, 3 + scale] = n_events
        # A record may remember a kind that only a newer specification has, after a bundle was rolled back.
        if ring_ms[b, newest] != NEVER_MS and ring_kind[b, newest] < n_kinds:
            context[b, N_FIXED + n_scales + ring_kind[b, newest]] = 1.0
        for field in range(len(first_segment)):
            context[b, first_segment[field] + codes[b, field]] = 1.0

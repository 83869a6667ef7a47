"""Parts of the targets that are looked at apart: when, for whom, and of what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS
from training.backtest.judged import NEW_USER_EVENTS, Judged, history_of
from training.backtest.material import Material
from training.targets import Targets

__all__ = ["Part", "parts_of", "windows_of"]

_LENGTHS: Final = ((1, 2), (2, 5), (5, 10), (10, 20), (20, 50), (50, None))
_MOST_VALUES: Final = 6
_MOST_WINDOWS: Final = 120


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some of T targets.

    Attributes:
        by: what is looked at.
        label: which value of it.
        mask: (T,) the targets.
    """

    by: str
    label: str
    mask: NDArray[np.bool_]


def parts_of(material: Material, targets: Targets, judged: Judged) -> list[Part]:
    """All parts that hold a target; the same target is in one part of each kind."""
    log, row = material.log, targets.row
    history = history_of(log)
    before, first_ms = history.n_before[row], history.first_ms[log.item[row]]
    parts = [
        Part("user", f"new (fewer than {NEW_USER_EVENTS} events)", before < NEW_USER_EVENTS),
        Part("user", "known", before >= NEW_USER_EVENTS),
    ]
    if judged.from_ms > 0:
        is_new = first_ms >= judged.from_ms
        parts += [Part("item", "new (appeared in the judged range)", is_new), Part("item", "known", ~is_new)]
    age_ms = log.ts_ms[row] - first_ms
    bounds = ((0, HOUR_MS, "under 1 h"), (HOUR_MS, DAY_MS, "1 h to 1 d"), (DAY_MS, 2**62, "over 1 d"))
    parts += [Part("item age", label, (age_ms >= low) & (age_ms < high)) for low, high, label in bounds]
    for low, high in _LENGTHS:
        label = f"{low}" if high == low + 1 else f"{low}+" if high is None else f"{low} to {high - 1}"
        parts.append(Part("history length", label, (before >= low) & (before < (2**62 if high is None else high))))
    hour = log.ts_ms[row] // HOUR_MS % 24
    parts += [Part("hour (UTC)", f"{start:02}-{start + 3:02}", hour // 3 == start // 3) for start in range(0, 24, 3)]
    names = material.types.names
    kind = log.kind[row]
    if len(np.unique(kind)) > 1:
        parts += [Part("event type", names[code], kind == code) for code in np.unique(kind).tolist()]
    for column, name in enumerate(material.fields):
        keys = log.segments[row, column]
        found, counts = np.unique(keys, return_counts=True)
        common = found[np.argsort(-counts, kind="stable")][:_MOST_VALUES]
        for key in common.tolist():
            label = "none" if key == 0 else material.values[name].get(key, "?")
            parts.append(Part(name, label, keys == key))
        parts.append(Part(name, "others", ~np.isin(keys, common)))
    return [part for part in parts if part.mask.any()]


def windows_of(ts_ms: NDArray[np.int64]) -> tuple[NDArray[np.int64], int, int]:
    """Where sliding windows over the targets' times (T,) end (W,), how wide they are, and how far apart (ms).

    Wide enough to be calm, narrow enough to show a day's course; each is four steps wide.
    """
    if len(ts_ms) == 0:
        return np.zeros(0, np.int64), HOUR_MS, HOUR_MS
    first, last = int(ts_ms.min()), int(ts_ms.max())
    steps = (MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS)
    step = next((step for step in steps if (last - first) / step <= _MOST_WINDOWS), 30 * DAY_MS)
    ends = np.arange(first // step + 1, last // step + 2, dtype=np.int64) * step
    return ends, 4 * step, step

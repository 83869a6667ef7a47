"""Names for time constants, as recommendations give them for a reason: `scale:minutes`, `scale:weeks`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

__all__ = ["scale_names"]

_BELOW_S: Final = (
    (30 * 60.0, "minutes"),
    (12 * 3_600.0, "hours"),
    (5 * 86_400.0, "days"),
    (45 * 86_400.0, "weeks"),
)
"""A memory with a time constant below this is best called that."""


def scale_names(tau_s: Sequence[float]) -> tuple[str, ...]:
    """A name of its own for each time constant in seconds; a second one of the same size gets a number.

    >>> scale_names([240, 4_200, 72_000, 1_200_000])
    ('scale:minutes', 'scale:hours', 'scale:days', 'scale:weeks')
    >>> scale_names([60, 90, 10_000_000])
    ('scale:minutes', 'scale:minutes-2', 'scale:months')
    """
    used: Counter[str] = Counter()
    names = []
    for tau in tau_s:
        size = next((name for limit_s, name in _BELOW_S if tau < limit_s), "months")
        used[size] += 1
        names.append(f"scale:{size}" if used[size] == 1 else f"scale:{size}-{used[size]}")
    return tuple(names)

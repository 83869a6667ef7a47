"""Python's garbage collector in a worker that has started.

Compiled code, clients and the bundle are some hundred thousand objects that stay for good. A full collection walks over
all of them: tens of milliseconds in which no event is answered.
"""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["settle"]

_YOUNG: Final = 10_000
"""Objects that may come into being between two collections of the young ones: those of some hundred events."""


def settle() -> None:
    """Take what is there now out of all further collections, for as long as the process lives."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])

"""An event loop whose timers ring to the microsecond.

asyncio waits with `epoll_wait`, which counts whole milliseconds and is told to round up: what is due in 3.1 ms comes
after 4. Where fetches follow each other every few milliseconds that is a tenth of an event's way. `select` counts
microseconds, and an epoll can itself be selected. Other systems' ways of waiting (kqueue) are precise as they are.
"""

from __future__ import annotations

import asyncio
import select
import selectors
from typing import Any, Final

__all__ = ["precise_loop"]

_SHORT_S: Final = 0.02
"""Longer waits may be a millisecond late, and are spared the second system call."""
_MOST_FILES: Final = 1024
"""`select` takes file numbers below this."""


class _PreciseSelector(getattr(selectors, "EpollSelector", selectors.DefaultSelector)):  # type: ignore[misc]
    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and 0 < timeout < _SHORT_S and self.fileno() < _MOST_FILES:
            select.select((self,), (), (), timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """A new event loop, for `asyncio.Runner(loop_factory=precise_loop)`."""
    return asyncio.SelectorEventLoop(_PreciseSelector())

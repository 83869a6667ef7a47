"""Whether a worker lives, and whether it is ready: its phase, and what the watchdog objects to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from stream.operations.watchdog import Objection, Watchdog

__all__ = ["DEAD_S", "Health", "Phase"]

DEAD_S: Final = 120.0
"""An event loop that did not turn for so long will hardly do so again: to be ended and started anew."""


class Phase(StrEnum):
    """Where a worker is in its life."""

    CONNECTING = "connecting"
    READING_STATISTICS = "reading-statistics"
    WARMING_UP = "warming-up"
    RECOVERING = "recovering"
    SERVING = "serving"
    STOPPING = "stopping"


@dataclass(slots=True)
class Health:
    """What `/live` and `/ready` answer from; the worker writes, other threads read.

    Attributes:
        phase: where the worker is.
        note: how far that is, in words; may be empty.
        watchdog: objects while the worker serves; before, there is nothing to compare with.
        clock: the monotonic clock, in seconds.
    """

    watchdog: Watchdog
    phase: Phase = Phase.CONNECTING
    note: str = ""
    clock: Callable[[], float] = field(default=time.monotonic)

    def enter(self, phase: Phase, note: str = "") -> None:
        """The worker is in another phase now."""
        self.phase, self.note = phase, note

    def objections(self) -> tuple[Objection, ...]:
        """Why the worker is not ready; nothing if it is."""
        if self.phase is Phase.SERVING:
            return self.watchdog.objections(self.clock())
        return (Objection(self.phase.value, self.note or "not serving"),)

    @property
    def ready(self) -> bool:
        """Whether it answers events as it should."""
        return not self.objections()

    @property
    def alive(self) -> bool:
        """Whether waiting may still help; only a worker that has served is judged, for starting may take long."""
        return self.phase is not Phase.SERVING or self.watchdog.blocked_for_s(self.clock()) < DEAD_S

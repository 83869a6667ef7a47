"""Whether there is a broker at all: without one kafka-python tries on for ever, and some of its waits take no time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from stream.errors import PolytempoError

__all__ = ["Presence", "connections_of"]

_EVERY_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.1


class Presence:
    """Pauses, longer and longer, while no broker is connected, and gives up in the end.

    Args:
        n_connections: how many brokers are connected now; asked once a second.
        patience_s: how long it may be none.
        servers: what to call them.
        now: a clock that does not go back, in seconds.
        pause: waits so many seconds.
    """

    def __init__(
        self,
        n_connections: Callable[[], int],
        *,
        patience_s: float,
        servers: str,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._n_connections: Final = n_connections
        self._patience_s: Final = patience_s
        self._servers: Final = servers
        self._now: Final = now
        self._pause: Final = pause
        self._due_s = now()
        self._gone_since_s: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    @property
    def is_gone(self) -> bool:
        """Whether no broker was connected when it was last looked at."""
        return self._gone_since_s is not None

    def heard(self) -> None:
        """Records have come: somebody is there."""
        self._gone_since_s, self._pause_s = None, _FIRST_PAUSE_S

    def look(self) -> None:
        """Nothing has come.

        Raises:
            PolytempoError: no broker was connected for too long.
        """
        now_s = self._now()
        if not self.is_gone and now_s < self._due_s:
            return
        self._due_s = now_s + _EVERY_S
        if self._n_connections() > 0:
            self.heard()
            return
        if self._gone_since_s is None:
            self._gone_since_s = now_s
        if now_s - self._gone_since_s >= self._patience_s:
            raise PolytempoError(
                f"no broker of {self._servers} was there for {self._patience_s:.0f} s.",
                "Start it again when Kafka is there: it goes on where it has committed, and nothing is lost.",
            )
        self._pause(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


def connections_of(client: Any) -> int:
    """Brokers that a client of kafka-python is connected to, by its own metrics."""
    found = client.metrics()
    return int(next(group["connection-count"] for group in found.values() if "connection-count" in group))

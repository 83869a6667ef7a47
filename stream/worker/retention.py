"""Removing users who have been silent for too long, in event time, a few at each step.

Who comes back after `forget_after_ms` begins as a new user anyway, by the user's own times alone (`stream.core.fold`).
So when a record is removed changes no recommendation, and this may take its time:

    partition's time   ───────────────●             the median of its last events: no single clock moves it far
    users              | | | | | | | | | | |        a few records are looked at each step, round after round
    removed            newest event < partition's time - forget_after_ms - a day

The day is for events that come late: one that is more than a day late, of a user who is removed already, begins anew
where the record would still have held. Only a record whose last event is committed is removed: one that is read again
after a crash must find it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import median_low
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.core.fold import source_key
from stream.core.scales import DAY_MS
from stream.core.state import NEVER_MS, last_offset, newest_ms

__all__ = ["Records", "Retention"]

Records = Callable[[], Iterator[tuple[bytes, bytes]]]
"""Makes a walk through (key, record) of a partition's store; what changes meanwhile may or may not be seen."""
Load = Callable[[Sequence[bytes]], Sequence[bytes | None]]

_AT_ONCE: Final = 64
"""Records that one step looks at."""
_CLOCK: Final = 255
"""Events that tell a partition's time."""
_FEWEST: Final = 16
"""Events without which it is not known."""
_ROUNDS: Final = 50
"""A round begins when the partition's time has moved by this part of the span: sooner, few more would be found."""


@dataclass(slots=True)
class _Partition:
    times: deque[int] = field(default_factory=lambda: deque(maxlen=_CLOCK))
    now_ms: int = NEVER_MS
    walk: Iterator[tuple[bytes, bytes]] | None = None
    round_ms: int = NEVER_MS
    """The partition's time when the newest round began."""


class Retention:
    """Whom to remove, partition by partition.

    Args:
        forget_after_ms: the silence after which nothing of a user is kept.
        late_ms: how late an event may be and still find its user.
    """

    def __init__(self, forget_after_ms: int, *, late_ms: int = DAY_MS) -> None:
        self._span_ms: Final = forget_after_ms
        self._late_ms: Final = late_ms
        self._partitions: dict[str, _Partition] = {}

    def now_ms(self, source: str) -> int | None:
        """The time of a partition ("topic/number"); None while it is not known."""
        partition = self._partitions.get(source)
        return None if partition is None or partition.now_ms == NEVER_MS else partition.now_ms

    def step(self, source: str, ts_ms: NDArray[np.int64], records: Records, load: Load, committed: int) -> list[bytes]:
        """Keys of users to remove; bounded work.

        Args:
            source: the partition.
            ts_ms: (B,) times of its next events, that were accepted.
            records: its store.
            load: the newest state of records; what is on its way to the store included.
            committed: events of the partition below this offset are not read again.
        """
        partition = self._partitions.setdefault(source, _Partition())
        partition.times.extend(ts_ms[-_CLOCK:].tolist())
        if len(partition.times) >= _FEWEST:
            partition.now_ms = max(partition.now_ms, median_low(partition.times))
        if partition.now_ms == NEVER_MS:
            return []
        if partition.walk is None:
            if partition.now_ms - partition.round_ms < self._span_ms // _ROUNDS:
                return []
            partition.walk, partition.round_ms = records(), partition.now_ms
        seen = list(islice(partition.walk, _AT_ONCE))
        if len(seen) < _AT_ONCE:
            partition.walk = None
        before_ms = partition.now_ms - self._span_ms - self._late_ms
        keys = [key for key, raw in seen if newest_ms(raw) < before_ms]
        if not keys:
            return []
        key_of_source = source_key(source)
        return [
            key
            for key, raw in zip(keys, load(keys), strict=True)
            if raw is not None and newest_ms(raw) < before_ms and last_offset(raw, key_of_source) < committed
        ]

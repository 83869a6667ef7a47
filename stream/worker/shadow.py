"""Bundles in the shadow: they answer a sample of the events after the fact, for a topic that is shown to nobody.

    batch      decode, fold, score, publish                what the worker is for, untouched by what follows
    offered       |  a sample, with the records before     a few copies of arrays; full queues drop
    scored           |  a few events at a time, between batches, a tenth of the time at most

A shadow sees what the worker saw: the user's record as it was before the event. It keeps no state of its own, so that a
recurrent model's is built from the ring of recent events each time. The view of the item statistics is that of the
moment when it is scored, and its message names that one.

Nothing that goes wrong here reaches the worker: it is counted, and logged now and then.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.bundle.service import Arm, ShadowArm
from stream.core.events import EventBatch
from stream.core.fold import APPLIED, DUPLICATE, REQUESTED, Folded, source_key
from stream.core.parts import Part
from stream.core.state import States, decode_states
from stream.core.statistics import ItemStatistics
from stream.worker.answering import Answering

__all__ = ["SHADOW_VARIANT", "ShadowCounters", "ShadowSends", "Shadows"]

logger = logging.getLogger(__name__)

SHADOW_VARIANT: Final = "shadow"
"""What their messages name as variant."""

_AT_ONCE: Final = 16
_MAX_WAITING: Final = 1024
_LOG_EVERY: Final = 1000


@dataclass(slots=True)
class ShadowCounters:
    """What shadows have done.

    Attributes:
        n_scored: messages made.
        n_dropped: events left out because too many waited.
        n_errors: failures to score or to send.
    """

    n_scored: int = 0
    n_dropped: int = 0
    n_errors: int = 0


class ShadowSends(NamedTuple):
    """Messages for one partition of `shadow-recommendations`."""

    partition: int
    pairs: list[tuple[bytes | None, bytes | None]]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    which: int
    batch: EventBatch
    source: str
    before: States


class Shadows:
    """Queues a sample of what was answered, and scores it when it is told to.

    Args:
        shadows: bundles with their share of the events.
        counters: where to count.
    """

    def __init__(self, shadows: Sequence[ShadowArm], counters: ShadowCounters) -> None:
        self.counters = counters
        self._samples: Final = [shadow.sample for shadow in shadows]
        self._answering: Final = [Answering(Arm(SHADOW_VARIANT, shadow.bundle, shadow.policy)) for shadow in shadows]
        self._queue: deque[_Waiting] = deque()
        self._n_waiting = 0

    @property
    def n_waiting(self) -> int:
        """Events that wait to be scored."""
        return self._n_waiting

    def know(self, view: ItemStatistics) -> None:
        """Give the items of their vocabularies numbers."""
        for each in self._answering:
            view.know(each.arm.bundle.vocabulary)

    def offer(self, parts: Sequence[Part], states: States, folded: Folded) -> None:
        """Take a sample of what was answered; never raises.

        Which events, is decided by a hash of their place: the same in each worker and after a restart.

        Args:
            parts: the events.
            states: (U,) records of the users of all parts before them.
            folded: what they did to them.
        """
        try:
            self._offer(parts, states, folded)
        except Exception as error:  # noqa: BLE001 - what is published must not suffer
            self._failed("sampled", error)

    def score(self, view: ItemStatistics) -> ShadowSends | None:
        """Score what waits the longest, a few events; None where nothing came of it. Never raises."""
        if not self._queue:
            return None
        waiting = self._queue.popleft()
        self._n_waiting -= len(waiting.batch)
        try:
            sends = self._score(waiting, view)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed("scored", error)
            return None
        self.counters.n_scored += len(sends.pairs)
        return sends

    def failed_to_send(self, error: Exception) -> None:
        """Count, and say so now and then."""
        self._failed("sent", error)

    def warm_up(self, view: ItemStatistics) -> None:
        """Score what was offered while the worker warmed up, and count nothing of it."""
        kept, self.counters = self.counters, ShadowCounters()
        while self._queue:
            self.score(view)
        self.counters = kept

    def _offer(self, parts: Sequence[Part], states: States, folded: Folded) -> None:
        answered = (folded.outcome == APPLIED) | (folded.outcome == DUPLICATE) | (folded.outcome == REQUESTED)
        first_row, first_user = 0, 0
        for part in parts:
            batch, end_row = part.batch, first_row + len(part.batch)
            drawn = _drawn(source_key(part.source), batch.offset)
            for which, sample in enumerate(self._samples):
                rows = np.flatnonzero(answered[first_row:end_row] & (drawn < sample))
                for first in range(0, len(rows), _AT_ONCE):
                    some = rows[first : first + _AT_ONCE]
                    if self._n_waiting + len(some) > _MAX_WAITING:
                        self.counters.n_dropped += len(rows) - first
                        break
                    before = _before(some + first_row, batch.user[some] + first_user, states, folded)
                    self._queue.append(_Waiting(which, _apart(batch, some), part.source, before))
                    self._n_waiting += len(some)
            first_row, first_user = end_row, first_user + len(batch.users)

    def _score(self, waiting: _Waiting, view: ItemStatistics) -> ShadowSends:
        answering, batch = self._answering[waiting.which], waiting.batch
        recommender = answering.recommender
        states = waiting.before
        if states.dtype != recommender.state_spec.dtype:
            states = decode_states(recommender.state_spec, [record.tobytes() for record in states])
        answers = recommender.step(states, batch, view, source=waiting.source)
        part = Part(batch, waiting.source, (int(batch.offset[0]), int(batch.offset[-1])))
        (said,) = answering.encode([part], answers, view)
        partition = int(waiting.source.rpartition("/")[2])
        return ShadowSends(partition, [(batch.users[row].encode(), value) for row, value in said])

    def _failed(self, what: str, error: Exception) -> None:
        self.counters.n_errors += 1
        if self.counters.n_errors % _LOG_EVERY == 1:
            logger.warning(
                "recommendations in the shadow are not %s (failure %d)", what, self.counters.n_errors, exc_info=error
            )


def _apart(batch: EventBatch, rows: NDArray[np.intp]) -> EventBatch:
    """Some events of a batch, each as if its user had no other in it."""
    taken = batch.take(rows)
    users = [taken.users[user] for user in taken.user.tolist()]
    return replace(taken, user=np.arange(len(rows), dtype=np.int32), users=users)


def _before(rows: NDArray[np.intp], users: NDArray[np.integer[Any]], states: States, folded: Folded) -> States:
    """(R,) the record of each event's user just before it.

    Args:
        rows: (R,) events, counted through all parts.
        users: (R,) their users, counted through all parts.
    """
    before: States = states[users]
    earlier = folded.earlier[rows]
    within = earlier >= 0
    before[within] = folded.after[earlier[within]]
    before["model_tag"][within] = 0  # within a batch, recurrent state is not written into the records
    return before


def _drawn(source: int, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """(B,) numbers in [0, 1) by SplitMix64 of the place: even, and the same everywhere."""
    start = np.uint64(source * 0xD1342543DE82EF95 % 2**64)
    z = offsets.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(11)
    return z.astype(np.float64) * 2.0**-53

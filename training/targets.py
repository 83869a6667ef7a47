"""What counts as a hit: the rule by which events of a log become targets.

    user    |  a  b  a  c  |        c  d  |          sessions: silence of more than 30 minutes ends one
    target  |     *     *  |           *  |          not a session's first event, and not yet in the session
    scored  |  a     a     |        c     |          the recommendation made right after the event before it

The second `a` is none: it was in the session already, and what is in the session is not recommended. The gap between
the scored recommendation and its target is unknown to the recommender, as it is in life.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.scales import MINUTE_MS
from training.log import Log

__all__ = ["SESSION_GAP_MS", "Targets", "find_targets", "sampled"]

SESSION_GAP_MS = 30 * MINUTE_MS


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """T targets in the order of the log.

    Attributes:
        row: (T,) the target's row in the log.
        scored: (T,) row of the same user's event before it: the recommendation made there is the one to be judged.
    """

    row: NDArray[np.int64]
    scored: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def where(self, keep: NDArray[np.bool_]) -> Targets:
        """The targets at which `keep` (T,) holds."""
        return Targets(self.row[keep], self.scored[keep])

    def within(self, rows: slice) -> Targets:
        """The targets among these rows of the log; what is scored for them may lie before."""
        return self.where((self.row >= rows.start) & (self.row < rows.stop))

    def target_of(self, n_events: int) -> NDArray[np.int64]:
        """(n_events,) the target for which an event's recommendation is scored, as a row of the log; -1 for none."""
        target = np.full(n_events, -1, np.int64)
        target[self.scored] = self.row
        return target


def find_targets(log: Log, weights: NDArray[np.float32], session_gap_ms: int = SESSION_GAP_MS) -> Targets:
    """All targets of a log: positive events that are new to a session that has begun.

    Args:
        weights: (256,) weight by kind; kinds at or below 0 are no targets, but belong to the session.
    """
    rows = np.flatnonzero(log.happened())
    order = rows[np.argsort(log.user[rows], kind="stable")]  # by user, then in the order of the log
    is_target = _find(log.user[order], log.item[order], log.ts_ms[order], weights[log.kind[order]], session_gap_ms)
    at = np.flatnonzero(is_target)
    row, scored = order[at], order[at - 1]
    by_row = np.argsort(row)
    return Targets(row[by_row].astype(np.int64), scored[by_row].astype(np.int64))


def sampled(targets: Targets, n_events: int, share: float, seed: int = 0) -> Targets:
    """The targets that one draw per event of the log, in its order, leaves: `default_rng(seed).random(n) < share`.

    Drawn over all events, so that which targets are judged does not depend on the rule for targets.
    """
    return targets.where((np.random.default_rng(seed).random(n_events) < share)[targets.row])


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    ts_ms: NDArray[np.int64],
    weight: NDArray[np.float32],
    session_gap_ms: int,
) -> NDArray[np.bool_]:
    is_target = np.zeros(len(user), np.bool_)
    start = 0
    for row in range(len(user)):
        if row == 0 or user[row] != user[row - 1] or ts_ms[row] - ts_ms[row - 1] > session_gap_ms:
            start = row
            continue
        is_target[row] = weight[row] > 0
        for before in range(start, row):
            if item[before] == item[row]:
                is_target[row] = False
                break
    return is_target

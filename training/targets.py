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

from stream.core.events import FORGET, REQUEST
from stream.core.scales import MINUTE_MS
from training.log import Log
from training.storage import stretches

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
        here = slice(*np.searchsorted(self.row, [rows.start, rows.stop]).tolist())
        return Targets(self.row[here], self.scored[here])

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
    storage, n_events = log.storage, len(log)
    row, scored = storage((n_events,), np.int64), storage((n_events,), np.int64)
    newest, before = storage((len(log.user_ids),), np.int64), storage((n_events,), np.int64)
    happens = np.ones(256, np.bool_)
    happens[[REQUEST, FORGET]] = False
    n = _find(
        log.user, log.item, log.ts_ms, log.kind, log.key != 0, happens, weights, session_gap_ms, newest, before, row,
        scored,
    )  # fmt: skip
    return Targets(row[:n], scored[:n])


def sampled(targets: Targets, n_events: int, share: float, seed: int = 0) -> Targets:
    """The targets that one draw per event of the log, in its order, leaves: `default_rng(seed).random(n) < share`.

    Drawn over all events, so that which targets are judged does not depend on the rule for targets.
    """
    if share >= 1:
        return targets
    rng, parts = np.random.default_rng(seed), [targets.within(slice(0, 0))]
    for rows in stretches(0, n_events):
        drawn = rng.random(rows.stop - rows.start) < share
        here = targets.within(rows)
        parts.append(here.where(drawn[here.row - rows.start]))
    return Targets(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "scored")))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    ts_ms: NDArray[np.int64],
    kind: NDArray[np.uint8],
    is_item: NDArray[np.bool_],
    happens: NDArray[np.bool_],
    weights: NDArray[np.float32],
    session_gap_ms: int,
    newest: NDArray[np.int64],
    before: NDArray[np.int64],
    found: NDArray[np.int64],
    scored: NDArray[np.int64],
) -> int:
    """Fills `found` and `scored`; their number. `newest` and `before` have rows from 1, so that 0 stands for none."""
    n = 0
    for row in range(len(user)):
        if not is_item[item[row]] or not happens[kind[row]]:
            continue
        last = newest[user[row]]
        newest[user[row]] = row + 1
        if last == 0 or ts_ms[row] - ts_ms[last - 1] > session_gap_ms:
            before[row] = 0
            continue
        before[row] = last  # the session's events hang together by this
        is_target = weights[kind[row]] > 0
        at = last
        while is_target and at > 0:
            is_target = item[at - 1] != item[row]
            at = before[at - 1]
        if is_target:
            found[n], scored[n] = row, last - 1
            n += 1
    return n

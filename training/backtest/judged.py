"""Which events of a log are targets, and which of these are judged.

    session   the user's next event, unless a pause of 30 minutes ended the session
    next      the user's next event, however long the pause
    horizon   the user's next event, if it comes within the horizon

What is scored for it is the recommendation made right after the event before it. By every rule a target is a positive
event on an item that its session does not hold yet: what is in the session is not recommended again. The rule `session`
is that of `training.targets`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.events import EventTypes, segment_key
from stream.errors import PolytempoError
from training.log import Log
from training.targets import SESSION_GAP_MS, Targets

__all__ = ["NEW_USER_EVENTS", "History", "Judged", "history_of", "judged_targets"]

NEW_USER_EVENTS: Final = 5
"""A user is new until so many events are known."""
_FOREVER_MS: Final = 2**62


@dataclass(frozen=True, slots=True)
class Judged:
    """What is judged.

    Attributes:
        from_ms, until_ms: targets of `[from_ms, until_ms)`; what is before is only learned from.
        rule: see above.
        horizon_ms: of the rule `horizon`.
        sample: share of the targets; one draw per event of the log, in its order.
        seed: of the draws.
        types: only targets of these types; all where empty.
        new_users: only targets of users with fewer than `NEW_USER_EVENTS` events before.
        new_items: only targets whose item appeared in the judged range.
        where: only targets whose context field has this value.
    """

    from_ms: int = 0
    until_ms: int = _FOREVER_MS
    rule: Literal["session", "next", "horizon"] = "session"
    horizon_ms: int | None = None
    sample: float = 1.0
    seed: int = 0
    types: tuple[str, ...] = ()
    new_users: bool = False
    new_items: bool = False
    where: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise PolytempoError(
                f"a sample of {self.sample:g} is no share of the targets.", "Ask for 0.1, or 1 for all."
            )
        if self.from_ms >= self.until_ms:
            raise PolytempoError("the judged range is empty.", "--since must lie before --until.")
        if (self.rule == "horizon") != (self.horizon_ms is not None):
            raise PolytempoError("a horizon belongs to the rule `horizon`, and that to a horizon.")


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What had happened before each of N events.

    Attributes:
        n_before: (N,) the user's events with an item before it.
        first_ms: (M,) when each item first appeared, by index into the log's `item_ids`.
    """

    n_before: NDArray[np.int64]
    first_ms: NDArray[np.int64]


def history_of(log: Log) -> History:
    """Walk through a log once."""
    happened = log.happened()
    n_before = np.zeros(len(log), np.int64)
    order = np.argsort(log.user, kind="stable")
    user, counted = log.user[order], happened[order].astype(np.int64)
    running = np.cumsum(counted) - counted
    starts = np.flatnonzero(np.append(True, user[1:] != user[:-1])) if len(user) > 0 else np.zeros(0, np.int64)
    n_before[order] = running - np.repeat(running[starts], np.diff(np.append(starts, len(user))))
    first_ms = np.full(len(log.item_ids), _FOREVER_MS, np.int64)
    np.minimum.at(first_ms, log.item[happened], log.ts_ms[happened])
    return History(n_before, first_ms)


def judged_targets(log: Log, types: EventTypes, fields: tuple[str, ...], judged: Judged) -> Targets:
    """The targets that are judged, in the order of the log.

    Args:
        types: the event types that the log's kinds are codes of.
        fields: names of the context fields behind the log's `segments`.

    Raises:
        PolytempoError: a filter names a type or a context field that is not there.
    """
    rows = np.flatnonzero(log.happened())
    order = rows[np.argsort(log.user[rows], kind="stable")]
    within_ms = {"session": SESSION_GAP_MS, "next": _FOREVER_MS, "horizon": judged.horizon_ms or 0}[judged.rule]
    weights = types.weight_table()
    found = _find(
        log.user[order], log.item[order], log.ts_ms[order], weights[log.kind[order]], SESSION_GAP_MS, within_ms
    )
    at = np.flatnonzero(found)
    by_row = np.argsort(order[at])
    targets = Targets(order[at][by_row].astype(np.int64), order[at - 1][by_row].astype(np.int64))
    ts_ms = log.ts_ms[targets.row]
    keep = (ts_ms >= judged.from_ms) & (ts_ms < judged.until_ms)
    if judged.types:
        codes = types.codes()
        unknown = [name for name in judged.types if name not in codes]
        if unknown:
            raise PolytempoError(f"no event type is called {unknown[0]!r}.", f"There are: {', '.join(types.names)}.")
        keep &= np.isin(log.kind[targets.row], [codes[name] for name in judged.types])
    if judged.new_users or judged.new_items:
        history = history_of(log)
        if judged.new_users:
            keep &= history.n_before[targets.row] < NEW_USER_EVENTS
        if judged.new_items:
            keep &= history.first_ms[log.item[targets.row]] >= judged.from_ms
    for name, value in judged.where:
        if name not in fields:
            raise PolytempoError(f"the events have no context field {name!r}.", f"There are: {', '.join(fields)}.")
        keep &= log.segments[targets.row, fields.index(name)] == (segment_key(value) if value else 0)
    if judged.sample < 1:
        keep &= (np.random.default_rng(judged.seed).random(len(log)) < judged.sample)[targets.row]
    return targets.where(keep)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    ts_ms: NDArray[np.int64],
    weight: NDArray[np.float32],
    session_gap_ms: int,
    within_ms: int,
) -> NDArray[np.bool_]:
    is_target = np.zeros(len(user), np.bool_)
    start = 0
    for row in range(len(user)):
        if row == 0 or user[row] != user[row - 1]:
            start = row
            continue
        gap_ms = ts_ms[row] - ts_ms[row - 1]
        if gap_ms > session_gap_ms:
            start = row
        is_target[row] = weight[row] > 0 and gap_ms <= within_ms
        for before in range(start, row):
            if item[before] == item[row]:
                is_target[row] = False
                break
    return is_target

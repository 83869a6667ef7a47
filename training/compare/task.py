"""What is learnt from, what is predicted, and where in the whole catalogue it was found.

    loo     each user's last event is predicted from all before it
    time    what lies before a moment is learnt from, everything after it predicted, with the weights as they are

Leave-one-out flatters, for others' later events are among what is learnt from. Report both. Users' histories go on
after the moment of `time`: what is frozen is the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.metrics.ties import places_by_score
from training.sequences import UserSequences, leave_one_out, split_at

__all__ = ["PROTOCOLS", "Found", "K", "Protocol", "ScoreRows", "Task", "inner", "judge", "look", "split"]

K: Final = 10
Protocol = Literal["loo", "time"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("loo", "time")

ScoreRows: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Rows (b,) to be predicted and spans (b, 2) of the events before them -> scores (b, V) of the whole catalogue."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """R events to be predicted.

    Attributes:
        train: what is learnt from.
        whole: all events, of which the user's own before each target are its history.
        rows: (R,) the targets, rows of `whole` in ascending order.
        protocol: see above.
        repeats: whether what a user had may be recommended again; if not, it is no target either.
    """

    train: UserSequences
    whole: UserSequences
    rows: NDArray[np.int64]
    protocol: Protocol
    repeats: bool = False

    def users(self) -> NDArray[np.int64]:
        """(R,) the user of each target."""
        return np.searchsorted(self.whole.start, self.rows, side="right") - 1

    def predictable(self) -> NDArray[np.bool_]:
        """(N,) the events of `whole` that are of a kind to be targets, whichever are held back."""
        wanted = (self.whole.item > 0) & self.whole.positive
        return wanted if self.repeats else wanted & _new_to_user(self.whole)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What one model did with R targets, in the order of `Task.rows`.

    Attributes:
        place: (R,) each target's place in the whole catalogue from 1; 0 where it could not be recommended.
        lists: (R, K) the best items from 0, -1 beyond the last.
    """

    place: NDArray[np.int64]
    lists: NDArray[np.int64]

    @classmethod
    def nothing(cls, n_targets: int) -> Found:
        """Nothing yet."""
        return cls(np.zeros(n_targets, np.int64), np.full((n_targets, K), -1, np.int64))


def split(
    sequences: UserSequences, protocol: Protocol, *, cut: float = 0.8, choose: bool = False, repeats: bool = False
) -> Task:
    """The task of a protocol.

    Args:
        cut: share of the events that lie before the moment of `time`.
        choose: make the task out of the training part alone, in the same way: for choosing settings, so that what is
            reported in the end was never looked at.
    """
    task = _split(sequences, protocol, cut, repeats)
    return _split(task.train, protocol, cut, repeats) if choose else task


def inner(sequences: UserSequences, hold_back: float) -> tuple[UserSequences, Task]:
    """For early stopping: all but the last `hold_back` of the events by time, and the task of predicting these."""
    task = _split(sequences, "time", 1 - hold_back, repeats=True)
    return task.train, task


def look(task: Task, score: ScoreRows, *, max_length: int) -> Found:
    """Score every target's moment and look for the target; a tie with another item counts against it.

    Args:
        max_length: events that a history has at most.
    """
    found = Found.nothing(len(task.rows))
    for at, rows, spans in _contexts(task, max_length):
        found.place[at], found.lists[at] = judge(task, rows, score(rows, spans))
    return found


def judge(
    task: Task, rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places (b,) of targets and the best items (b, K), see `Found`, by scores (b, V); -inf is no candidate."""
    excluded = np.zeros(scores.shape, np.bool_) if task.repeats else _seen(task, rows)
    place = places_by_score(scores, task.whole.item[rows] - 1, excluded=excluded)
    ranked = np.where(excluded, -np.inf, scores)
    k = min(K, scores.shape[1])
    best = np.argpartition(-ranked, k - 1, axis=1)[:, :k]
    own = np.take_along_axis(ranked, best, axis=1)
    order = np.argsort(-own, axis=1, kind="stable")
    missing = np.isneginf(np.take_along_axis(own, order, axis=1))
    lists = np.full((len(rows), K), -1, np.int64)
    lists[:, :k] = np.where(missing, -1, np.take_along_axis(best, order, axis=1))
    return place, lists


def _split(sequences: UserSequences, protocol: Protocol, cut: float, repeats: bool) -> Task:
    if protocol == "loo":
        train, rows = leave_one_out(sequences)
    else:
        cut_ms = int(np.quantile(sequences.ts_ms, cut, method="lower"))
        train, rows = split_at(sequences, cut_ms)
        if repeats:
            first = np.isin(np.arange(len(sequences)), sequences.start[:-1])
            wanted = (sequences.ts_ms >= cut_ms) & ~first & (sequences.item > 0) & sequences.positive
            rows = np.flatnonzero(wanted)
    if not repeats:
        rows = rows[_new_to_user(sequences)[rows]]
    return Task(train, sequences, rows.astype(np.int64), protocol, repeats)


def _new_to_user(sequences: UserSequences) -> NDArray[np.bool_]:
    """(N,) whether the user's item is one that he did not have before."""
    new = np.zeros(len(sequences), np.bool_)
    new[np.unique(sequences.user() * (len(sequences.vocabulary) + 1) + sequences.item, return_index=True)[1]] = True
    return new


def _contexts(task: Task, max_length: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Targets in batches of like length: their places in `task.rows`, the rows (b,), and the spans (b, 2) before."""
    start = np.maximum(task.whole.start[task.users()], task.rows - max_length)
    order = np.argsort(task.rows - start, kind="stable")
    for chunk in np.array_split(order, max(1, len(order) // 64)):
        if len(chunk) > 0:
            yield chunk, task.rows[chunk], np.stack([start[chunk], task.rows[chunk]], axis=1)


def _seen(task: Task, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(b, V) what each row's user had before it."""
    whole = task.whole
    seen = np.zeros((len(rows), len(whole.vocabulary) + 1), np.bool_)
    starts = whole.start[np.searchsorted(whole.start, rows, side="right") - 1]
    for at, (start, row) in enumerate(zip(starts.tolist(), rows.tolist(), strict=True)):
        seen[at, whole.item[start:row]] = True
    return seen[:, 1:]

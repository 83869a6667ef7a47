"""What anybody would have without training a model.

    popularity      how often an item occurs in the training part
    popularity_1h   in everything before the moment, each event fading by half an hour after hour
    co_visitation   what followed the user's last three items in the training part, within three events
    last_repeat     the user's own items again, the last one first

Each falls back on popularity where it has nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.core.scales import HOUR_MS
from training.compare.task import ScoreRows, Task

__all__ = ["BASELINES", "baseline"]

_LAGS: Final = (1, 2, 3)
_SHRINK: Final = 5.0
"""Added to an item's count: the rare ones speak quietly."""
_FAINT: Final = 1e-3
"""Of popularity where it only decides what nothing else does."""
_FORGOTTEN_MS: Final = 24 * HOUR_MS
"""After this an event with a half-life of an hour has 6e-8 of its weight left."""


def baseline(name: str, task: Task) -> ScoreRows:
    """A baseline by name, fitted to the task's training part."""
    return BASELINES[name](task)


def _shares(task: Task) -> NDArray[np.float32]:
    count = np.bincount(task.train.item, minlength=len(task.train.vocabulary) + 1)[1:]
    return np.asarray(count / max(1, count.sum()), np.float32)


def _popularity(task: Task) -> ScoreRows:
    share = _shares(task)
    return lambda rows, _: np.tile(share, (len(rows), 1))


def _popularity_1h(task: Task) -> ScoreRows:
    whole, share = task.whole, _shares(task) * _FAINT
    order = np.argsort(whole.ts_ms, kind="stable")
    ts_ms, item = whole.ts_ms[order], whole.item[order]

    def score(rows: NDArray[np.int64], _: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.tile(share, (len(rows), 1))
        for at, now_ms in enumerate(whole.ts_ms[rows].tolist()):
            recent = slice(*np.searchsorted(ts_ms, [now_ms - _FORGOTTEN_MS, now_ms]))
            weight = np.exp2((ts_ms[recent] - now_ms) / HOUR_MS)
            scores[at] += np.bincount(item[recent], weight, len(share) + 1)[1:]
        return scores

    return score


def _co_visitation(task: Task) -> ScoreRows:
    train, share = task.train, _shares(task)
    n = len(train.vocabulary) + 1
    count = np.bincount(train.item, minlength=n)
    user = train.user()
    pairs, weights = [], []
    for lag in _LAGS:
        together = user[lag:] == user[:-lag]
        pairs.append(train.item[:-lag][together] * n + train.item[lag:][together])
        weights.append(np.full(len(pairs[-1]), 1 / lag))
    code, of = np.unique(np.concatenate(pairs), return_inverse=True)
    weight = np.bincount(of, np.concatenate(weights), len(code)) / (count[code // n] + _SHRINK)
    start = np.searchsorted(code // n, np.arange(n + 1))

    def score(rows: NDArray[np.int64], spans: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.zeros((len(rows), n), np.float32)
        scores[:, 1:] = share * 0.01
        for at, (first, end) in enumerate(spans.tolist()):
            for lag in _LAGS[: end - first]:
                before = int(task.whole.item[end - lag])
                followed = slice(start[before], start[before + 1])
                scores[at, code[followed] % n] += (weight[followed] / lag).astype(np.float32)
        return scores[:, 1:]

    return score


def _last_repeat(task: Task) -> ScoreRows:
    share = _shares(task) * _FAINT

    def score(rows: NDArray[np.int64], spans: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.zeros((len(rows), len(share) + 1), np.float32)
        scores[:, 1:] = share
        for at, (first, end) in enumerate(spans.tolist()):
            # Of an item that came more than once, the last assignment stays: its latest place.
            scores[at, task.whole.item[first:end]] = 1 + np.arange(end - first, dtype=np.float32)
        return scores[:, 1:]

    return score


BASELINES: Final[dict[str, Callable[[Task], ScoreRows]]] = {
    "popularity": _popularity,
    "popularity_1h": _popularity_1h,
    "co_visitation": _co_visitation,
    "last_repeat": _last_repeat,
}

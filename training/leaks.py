"""Whether rows knew the future: some of them are made again from events that stop right at each.

    rows      .....a.......b......     made in one replay of all events
    again     .....a|                  made from a log that ends with the event at which `a` was recommended,
              .....a.......b|          without later events, users or items: there is nothing to leak

A row whose features differ in a single bit has used something that was not there yet. The rows' own columns are looked
over as well: what came next came later, and is what the log says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stream.core.catalogue import ItemUpdate
from stream.core.features import candidate_feature_names, context_feature_names
from training.log import Log, published_ms
from training.replay import RecordingScorer, Replay
from training.rowmaking import Recipe
from training.shards import shards_of

__all__ = ["Checked", "check_rows"]

_MOST_NAMED = 10


@dataclass(slots=True)
class Checked:
    """What a check found.

    Attributes:
        n_rows: rows whose own columns were looked over.
        n_again: rows that were made again.
        n_differ: of them, those that came out differently.
        n_wrong: rows whose columns contradict the log.
        differences: the first of both, in words.
    """

    n_rows: int = 0
    n_again: int = 0
    n_differ: int = 0
    n_wrong: int = 0
    differences: list[str] = field(default_factory=list)

    def name(self, difference: str) -> None:
        """Keep a difference in words, if it is among the first."""
        if len(self.differences) < _MOST_NAMED:
            self.differences.append(difference)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return self.n_differ == 0 and self.n_wrong == 0


def check_rows(
    folder: Path,
    log: Log,
    items: list[ItemUpdate],
    recipe: Recipe,
    *,
    n_sample: int = 30,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Hold rows against a replay that stops at each of them.

    Args:
        folder: of the shards.
        log, items: what they were made of.
        recipe: how.
        n_sample: rows that are made again.
        on_progress: called with the events replayed so far, and all to replay.
    """
    checked = Checked()
    frames = [_looked_over(pl.read_parquet(file), log, checked) for file in shards_of(folder)]
    if checked.n_rows == 0:
        return checked
    chosen = np.sort(np.random.default_rng(seed).choice(checked.n_rows, min(n_sample, checked.n_rows), replace=False))
    # Targets come in the order of the log; the events at which they were recommended may not.
    frame = pl.concat([frame[_within(chosen, first, len(frame))] for first, frame in frames]).sort("scored")
    del frames
    n_all = int(frame["scored"][-1]) + 1
    replay: Replay | None = None
    for row in frame.iter_rows(named=True):
        scored = int(row["scored"])
        stood = None if replay is None else replay.checkpoint()
        published = [update for update in items if published_ms(update) <= log.ts_ms[scored]]
        replay = recipe.replay(log.head(scored + 1), published)
        if stood is not None:
            replay.resume(stood)
        again = _inputs_at(replay, scored)
        checked.n_again += 1
        different = _different(row, again, replay, log)
        if different:
            checked.n_differ += 1
            checked.name(f"{row['user_id']} at {row['scored_ms']} ms: {', '.join(different)}")
        if on_progress is not None:
            on_progress(scored + 1, n_all)
    return checked


def _looked_over(frame: pl.DataFrame, log: Log, checked: Checked) -> tuple[int, pl.DataFrame]:
    """The number of the first row, and the rows; counts those that contradict the log."""
    first = checked.n_rows
    scored, row = frame["scored"].to_numpy(), frame["row"].to_numpy()
    right = (scored < row) & (log.user[scored] == log.user[row])
    right &= (log.ts_ms[scored] == frame["scored_ms"].to_numpy()) & (log.ts_ms[row] == frame["target_ms"].to_numpy())
    right &= np.array([log.user_ids[user] for user in log.user[row].tolist()], object) == frame["user_id"].to_numpy()
    items = np.array([log.item_ids[item] for item in log.item[row].tolist()], object)
    right &= items == frame["target_item"].to_numpy()
    for at in np.flatnonzero(~right).tolist():
        checked.n_wrong += 1
        checked.name(f"{frame['user_id'][at]} at {frame['scored_ms'][at]} ms: the row is not what the log says")
    checked.n_rows += len(frame)
    return first, frame


def _within(chosen: NDArray[np.int64], first: int, n: int) -> NDArray[np.int64]:
    """Those of the chosen rows that lie among the `n` from `first` on, counted from there."""
    return chosen[(chosen >= first) & (chosen < first + n)] - first


def _inputs_at(replay: Replay, scored: int) -> dict[str, NDArray[Any]]:
    """Replay up to an event and give what the scorer got for it."""
    scorer = replay.recommender.scorer
    if not isinstance(scorer, RecordingScorer):
        raise TypeError("rows are recorded by a RecordingScorer")
    select = np.zeros(len(replay.log), np.bool_)
    select[scored] = True
    for _ in replay.run(scored + 1, select):
        pass
    return scorer.taken()


def _different(row: dict[str, Any], again: dict[str, NDArray[Any]], replay: Replay, log: Log) -> list[str]:
    """What is not the same, in words."""
    if not again:
        return ["the event got no recommendation"]
    names = {
        "candidate_features": candidate_feature_names(replay.recommender.spec),
        "context_features": context_feature_names(replay.recommender.spec),
    }
    found = []
    candidates = again["candidates"][0]
    if int((candidates >= 0).sum()) != row["n_candidates"]:
        found.append(f"{row['n_candidates']} candidates instead of {int((candidates >= 0).sum())}")
    key = log.key[log.item[int(row["row"])]]
    wanted = int(replay.view.catalogue.index.lookup(np.array([key], np.uint64))[0])
    if wanted < 0 or candidates[row["label"]] != wanted:
        found.append("the label names another candidate")
    for name, column in again.items():
        if name == "candidates":
            continue
        new = column[0].astype(np.float16) if name in names else column[0]
        old = np.asarray(row[name], np.float32).reshape(new.shape)
        differs = old != new.astype(np.float32)
        if not differs.any():
            continue
        which = np.flatnonzero(differs.reshape(-1, new.shape[-1]).any(0)).tolist()
        found.append(", ".join(names[name][at] for at in which) if name in names else name)
    return found

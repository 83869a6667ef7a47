"""Does a decoder know its own horizon? `python -m training.compare.horizons --data FILE`.

The LSTM has a decoder for the next event and one for each of the next hour, day and week. Each is asked, at the same
moments after the cut of the protocol `time`, what the user will do within a horizon:

    moment    |  every event after the cut after which the user does something new within the horizon
    wanted    |  the new items of the horizon, as many as there are
    hit rate  |  moments at which one of ten recommended items is among them
    recall    |  wanted items among the ten, of at most ten

Items that the user had before the moment are not recommended.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from stream.logs import open_log
from training.backtest.significance import Interval, paired_difference
from training.compare.models import train_model
from training.compare.task import Task, split
from training.config import LstmTraining
from training.nets.lstm_seq2seq import LstmSeq2Seq
from training.sequences import HORIZONS_MS, UserSequences, cut_sequences, frequent_items, horizon_ends, pad

__all__ = ["Horizon", "judge_horizons", "main"]

_K: Final = 10
_NAMES: Final = ("hour", "day", "week")


@dataclass(frozen=True, slots=True)
class Horizon:
    """How two decoders do on one horizon.

    Attributes:
        name: of the horizon.
        n_moments: moments judged.
        hit_rate, recall: of the horizon's own decoder, at 10.
        next_hit_rate, next_recall: of the decoder of the next event.
        gain: own recall less that of the next event's decoder, paired by moment, users drawn anew.
    """

    name: str
    n_moments: int
    hit_rate: float
    recall: float
    next_hit_rate: float
    next_recall: float
    gain: Interval


def judge_horizons(model: LstmSeq2Seq, task: Task, *, max_length: int) -> list[Horizon]:
    """One entry for each horizon.

    Args:
        task: of the protocol `time`; its moments are the events right before its targets.
        max_length: events of a history at most.
    """
    whole, moments = task.whole, task.rows - 1
    new = task.predictable()
    ends = [horizon_ends(whole, horizon_ms) for horizon_ms in HORIZONS_MS]
    hits: list[list[NDArray[np.float64]]] = [[] for _ in HORIZONS_MS]
    users: list[list[int]] = [[] for _ in HORIZONS_MS]
    model.eval()
    for moment, own, following in _asked(model, whole, moments, max_length):
        user = int(np.searchsorted(whole.start, moment, side="right")) - 1
        had = whole.item[whole.start[user] : moment + 1]
        for at, end in enumerate(ends):
            ahead = slice(moment + 1, int(end[moment]))
            wanted = np.unique(whole.item[ahead][new[ahead]])
            if len(wanted) > 0:
                found = [_found(scores, had, wanted) for scores in (own[at], following)]
                hits[at].append(np.array([*found, min(_K, len(wanted))], np.float64))
                users[at].append(user)
    return [_entry(name, hits[at], users[at]) for at, name in enumerate(_NAMES)]


def _asked(
    model: LstmSeq2Seq, whole: UserSequences, moments: NDArray[np.int64], max_length: int
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """For each moment, scores (H, V) of the horizons' decoders, and (V,) of the next event's."""
    columns: dict[str, NDArray[Any]] = {"gap_s": whole.gap_s(), "target": whole.target()}
    starts = whole.start[np.searchsorted(whole.start, moments, side="right") - 1]
    spans = np.stack([np.maximum(starts, moments + 1 - max_length), moments + 1], axis=1)
    order = np.argsort(spans[:, 1] - spans[:, 0], kind="stable")
    for chunk in np.array_split(order, max(1, len(order) // 64)):
        batch = pad(whole, spans[chunk], columns=columns)
        with torch.no_grad():
            queries, _ = model.sequence(batch)
            last = queries[torch.arange(len(chunk)), batch.length - 1]  # (B, 1 + H, d)
            scores = model.horizon_logits(last).numpy()
        for row, at in enumerate(chunk.tolist()):
            yield int(moments[at]), scores[row, 1:], scores[row, 0]


def _found(scores: NDArray[np.float32], had: NDArray[np.int64], wanted: NDArray[np.int64]) -> int:
    """How many wanted items are among the ten best that the user did not have."""
    scores = scores.copy()
    scores[had[had > 0] - 1] = -np.inf
    best = np.argpartition(-scores, min(_K, len(scores)) - 1)[:_K] + 1
    return len(np.intersect1d(best, wanted))


def _entry(name: str, hits: Sequence[NDArray[np.float64]], users: Sequence[int]) -> Horizon:
    own, following, most = np.array(hits, np.float64).reshape(-1, 3).T
    recall, next_recall = own / most, following / most
    share = [float(each.mean()) if len(own) > 0 else 0.0 for each in (own > 0, recall, following > 0, next_recall)]
    gain = paired_difference(next_recall, recall, np.array(users, np.int64))
    return Horizon(name, len(own), share[0], share[1], share[2], share[3], gain)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.compare.horizons", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="a log, as `polytempo compare` takes it")
    parser.add_argument("--epochs", type=int, default=LstmTraining().epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    frame = open_log(given.data).frame().drop_nulls(["user_id", "item_id", "ts_ms", "event_type"])
    settings = LstmTraining(epochs=given.epochs)
    task = split(cut_sequences(frame, frequent_items(frame)), "time")
    model, _ = train_model(settings, task.train, seed=given.seed, loss="unseen")
    if not isinstance(model, LstmSeq2Seq):
        raise TypeError(f"{type(model).__name__} has no horizons")
    entries = judge_horizons(model, task, max_length=settings.length)
    for each in entries:
        gain = each.gain
        print(
            f"{each.name:5} {each.n_moments:6,} moments: HR@10 {each.hit_rate:.3f} by its decoder, "
            f"{each.next_hit_rate:.3f} by the next event's; recall {each.recall:.4f} and {each.next_recall:.4f} "
            f"({gain.mean:+.4f}, {gain.low:+.4f} to {gain.high:+.4f})"
        )
    if given.json:
        rows = [
            {"horizon": each.name, "n_moments": each.n_moments, "hr_at_10": each.hit_rate, "recall_at_10": each.recall}
            | {"next_hr_at_10": each.next_hit_rate, "next_recall_at_10": each.next_recall}
            for each in entries
        ]
        print(json.dumps(rows))


if __name__ == "__main__":
    main()

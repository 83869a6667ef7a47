"""Users' sequences, cut from a log, and the batches that sequence models learn from.

    user    |  a    b    c    d  |      items, by time; equal times stay in the order of the log
    target  |  b    c    d    0  |      what came next; 0 for nothing to predict
    gap_s   |  0   t_b-t_a  ...  |      since the user's event before

Events of items outside the vocabulary stay where they are, as item 0: live, they happen as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream.core.events import EventTypes
from stream.core.scales import DAY_MS, HOUR_MS, WindowSpec
from training.split import global_time

__all__ = [
    "HORIZONS_MS",
    "HistoryBatch",
    "SequenceBatch",
    "UserSequences",
    "batches",
    "cut_sequences",
    "frequent_items",
    "histories",
    "horizon_ends",
    "leave_one_out",
    "pad",
    "pieces",
    "split_at",
    "window_totals",
]

HORIZONS_MS = (HOUR_MS, DAY_MS, 7 * DAY_MS)
"""How far the decoders beyond the next event look ahead."""


@dataclass(frozen=True, slots=True, eq=False)
class UserSequences:
    """N events of U users, sorted by user and then by time.

    Attributes:
        user_ids: in order of first appearance in the log.
        vocabulary: item ids; index i (from 1) is `vocabulary[i - 1]`.
        start: (U + 1,) user u has the events `start[u]` to `start[u + 1]` (excluded), maybe none.
        item: (N,) vocabulary index, 0 for other items.
        kind: (N,) event-type code.
        ts_ms: (N,) event time.
        value: (N,) 0 for none, as the worker gives it to models.
        positive: (N,) whether the event speaks for its item, so that it may be predicted.
    """

    user_ids: Sequence[str]
    vocabulary: list[str]
    start: NDArray[np.int64]
    item: NDArray[np.int64]
    kind: NDArray[np.int64]
    ts_ms: NDArray[np.int64]
    value: NDArray[np.float32]
    positive: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.item)

    def user(self) -> NDArray[np.int64]:
        """(N,) the user of each event."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.start))

    def gap_s(self) -> NDArray[np.float32]:
        """(N,) seconds since the user's event before, 0 for the first."""
        gap_ms = np.diff(self.ts_ms, prepend=0)
        gap_ms[self.start[:-1][np.diff(self.start) > 0]] = 0
        return (gap_ms / 1000).astype(np.float32)

    def target(self) -> NDArray[np.int64]:
        """(N,) the item of the user's next event, 0 where there is none or it cannot be predicted."""
        following = np.append(np.where(self.positive, self.item, 0)[1:], 0)
        following[self.start[1:][np.diff(self.start) > 0] - 1] = 0
        return following

    def where(self, keep: NDArray[np.bool_]) -> UserSequences:
        """The events at which `keep` (N,) holds; users and vocabulary stay as they are."""
        start = np.concatenate([[0], np.cumsum(keep)])[self.start]
        columns = {name: getattr(self, name)[keep] for name in ("item", "kind", "ts_ms", "value", "positive")}
        return replace(self, start=start.astype(np.int64), **columns)


@dataclass(frozen=True, slots=True, eq=False)
class SequenceBatch:
    """B pieces of users' sequences, padded on the right to T events.

    Attributes:
        item, kind: (B, T) int64, 0 for padding.
        gap_s, value: (B, T) float32.
        time_s: (B, T) float64 seconds since the piece's first event; padding repeats the last.
        target: (B, T) int64 next item, 0 for none and for padding.
        ahead: (B, T, H) int64 an item from within each of the H horizons, 0 for none.
        windows: (B, T, S) float32 the user's events in each window, see `window_totals`.
        length: (B,) int64 events that are no padding.
    """

    item: Tensor
    kind: Tensor
    gap_s: Tensor
    value: Tensor
    time_s: Tensor
    target: Tensor
    ahead: Tensor
    windows: Tensor
    length: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(*(getattr(self, name).to(device) for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class HistoryBatch:
    """What a history model is served, for R events: the newest event last, padding in front; see `menu`."""

    history_items: Tensor
    history_age_s: Tensor
    history_kinds: Tensor
    history_values: Tensor


def frequent_items(frame: pl.DataFrame, *, min_count: int = 1, k_core: int = 1) -> list[str]:
    """Items worth a place in a vocabulary, the most frequent first, equal ones by id.

    Args:
        min_count: events that an item needs.
        k_core: if above 1, users and items with fewer events than this are removed in turns until none is left.
    """
    events = frame.select("user_id", "item_id").filter(pl.col("item_id").fill_null("") != "")
    while k_core > 1:
        enough = (pl.len().over("user_id") >= k_core) & (pl.len().over("item_id") >= k_core)
        kept = events.filter(enough)
        if len(kept) == len(events):
            break
        events = kept
    counts = events.group_by("item_id").len().filter(pl.col("len") >= min_count)
    return counts.sort(["len", "item_id"], descending=[True, False])["item_id"].to_list()


def cut_sequences(frame: pl.DataFrame, vocabulary: Sequence[str], types: EventTypes | None = None) -> UserSequences:
    """The sequences of a log with the columns user_id, item_id, ts_ms, event_type and value.

    Raises ValueError for an event type that is none of `types`.
    """
    types = types if types is not None else EventTypes()
    codes = {name: code for name, code in types.codes().items() if code < len(types.names)}
    unknown = set(frame["event_type"].unique().to_list()) - set(codes)
    if unknown:
        raise ValueError(f"event types {sorted(map(str, unknown))} are none of {', '.join(codes)}")
    users = frame.select("user_id").unique(maintain_order=True).with_row_index("user")
    items = pl.DataFrame({"item_id": pl.Series(list(vocabulary), dtype=pl.String)}).with_row_index("item", offset=1)
    events = (
        frame.select("user_id", "item_id", "ts_ms", "event_type", "value")
        .join(users, on="user_id", how="left", maintain_order="left")
        .join(items, on="item_id", how="left", maintain_order="left")
        .sort(["user", "ts_ms"], maintain_order=True)
    )
    kind = events["event_type"].replace_strict(codes, return_dtype=pl.Int64).to_numpy()
    value = events["value"].cast(pl.Float32).fill_null(0).fill_nan(0).to_numpy()
    return UserSequences(
        user_ids=users["user_id"].to_list(),
        vocabulary=list(vocabulary),
        start=np.searchsorted(events["user"].to_numpy(), np.arange(len(users) + 1)).astype(np.int64),
        item=events["item"].fill_null(0).cast(pl.Int64).to_numpy(),
        kind=kind,
        ts_ms=events["ts_ms"].to_numpy(),
        value=value,
        positive=np.asarray(types.weight_table()[kind] > 0),
    )


def leave_one_out(sequences: UserSequences, n_last: int = 1) -> tuple[UserSequences, NDArray[np.int64]]:
    """Hold back each user's `n_last`-th last event; what is before it is for training.

        user    a b c d      n_last = 1: learn from a b c, predict d
                             n_last = 2: learn from a b,   predict c (to choose epochs and sizes)

    Users with no event before it are left out of the test, and so are targets outside the vocabulary and negative ones.
    Optimistic: others' later events are among the training set. `split_at` is not.

    Returns:
        The training sequences, and (R,) the rows of `sequences` that are to be predicted.
    """
    last = sequences.start[1:] - n_last
    position = np.arange(len(sequences))
    train = sequences.where(position < np.repeat(last, np.diff(sequences.start)))
    row = last[last > sequences.start[:-1]]
    return train, row[(sequences.item[row] > 0) & sequences.positive[row]]


def split_at(sequences: UserSequences, cut_ms: int) -> tuple[UserSequences, NDArray[np.int64]]:
    """Learn from everything before `cut_ms`; predict every event from then on, each from all that the user did before.

    The model stays as it is after the cut, its users' histories go on. Events that are a user's first, outside the
    vocabulary, negative, or of an item that the user had before are no targets.

    Returns:
        The training sequences, and (R,) the rows of `sequences` that are to be predicted.
    """
    user = sequences.user()
    first = np.zeros(len(sequences), bool)
    _, row = np.unique(user * (len(sequences.vocabulary) + 1) + sequences.item, return_index=True)
    first[row] = True
    first[sequences.start[:-1][np.diff(sequences.start) > 0]] = False
    split = global_time(sequences.ts_ms, until_ms=cut_ms)
    wanted = first & split.test & (sequences.item > 0) & sequences.positive
    return sequences.where(split.train), np.flatnonzero(wanted)


def pieces(sequences: UserSequences, max_length: int) -> NDArray[np.int64]:
    """(P, 2) first and last (excluded) row of pieces of at most `max_length` events, cut from the users' ends.

    A user of 250 events and pieces of 100 give 50, 100 and 100: the newest events stand in a full piece.
    """
    spans = []
    for start, stop in zip(sequences.start[:-1].tolist(), sequences.start[1:].tolist(), strict=True):
        ends = list(range(stop, start, -max_length))
        spans += [(max(start, end - max_length), end) for end in reversed(ends)]
    return np.array(spans, np.int64).reshape(-1, 2)


def horizon_ends(sequences: UserSequences, horizon_ms: int) -> NDArray[np.int64]:
    """(N,) where the user's events within `horizon_ms` of each event end: those of event n are n + 1 to there (excl.).

    The horizon is closed: an event exactly `horizon_ms` later belongs to it.
    """
    if len(sequences) == 0:
        return np.zeros(0, np.int64)
    since_ms = sequences.ts_ms - sequences.ts_ms.min()
    stride = since_ms.max() + horizon_ms + 1  # keeps users apart on one axis
    axis = sequences.user() * stride + since_ms
    return np.asarray(np.searchsorted(axis, axis + horizon_ms, side="right"), np.int64)


def window_totals(sequences: UserSequences, scales: Sequence[WindowSpec]) -> NDArray[np.float32]:
    """(N, S) the user's events in each window right after each event, as `stream.core.state.window_counts` has them
    (summed over the kinds)."""
    totals = np.zeros((len(sequences), len(scales)), np.float32)
    if len(sequences) == 0:
        return totals
    user, row = sequences.user(), np.arange(len(sequences))
    for at, scale in enumerate(scales):
        bucket = sequences.ts_ms // scale.bucket_ms
        bucket = bucket - bucket.min() + scale.n_buckets
        axis = user * (bucket.max() + scale.n_buckets + 1) + bucket
        totals[:, at] = row + 1 - np.searchsorted(axis, axis - scale.n_buckets, side="right")
    return totals


def pad(
    sequences: UserSequences,
    spans: NDArray[np.int64],
    *,
    columns: dict[str, NDArray[Any]] | None = None,
) -> SequenceBatch:
    """The events of `spans` (B, 2) as one batch, as long as the longest.

    Args:
        columns: `gap_s`, `target`, `ahead` and `windows` of all N events where they are at hand; made or left empty
            otherwise.
    """
    columns = columns if columns is not None else {}
    length = spans[:, 1] - spans[:, 0]
    n_steps = int(length.max(initial=1))
    at = np.arange(n_steps)
    there = at < length[:, None]  # (B, T)
    row = np.minimum(spans[:, :1] + at, np.maximum(spans[:, 1:] - 1, 0))  # padding repeats the last event
    blank = np.zeros((len(sequences), 0), np.float32)

    def table(values: NDArray[Any]) -> Tensor:
        mask = there.reshape(*there.shape, *([1] * (values.ndim - 1)))
        return torch.from_numpy(np.where(mask, values[row], np.zeros(1, values.dtype)))

    time_s = (sequences.ts_ms[row] - sequences.ts_ms[row[:, :1]]) / 1000
    return SequenceBatch(
        item=table(sequences.item),
        kind=table(sequences.kind),
        gap_s=table(columns["gap_s"] if "gap_s" in columns else sequences.gap_s()),
        value=table(sequences.value),
        time_s=torch.from_numpy(time_s),
        target=table(columns["target"] if "target" in columns else sequences.target()),
        ahead=table(columns.get("ahead", blank.astype(np.int64))),
        windows=table(columns.get("windows", blank)),
        length=torch.from_numpy(length),
    )


def batches(
    sequences: UserSequences,
    *,
    n_batch: int,
    max_length: int,
    seed: int,
    epoch: int,
    horizons_ms: Sequence[int] = (),
    scales: Sequence[WindowSpec] = (),
) -> Iterator[SequenceBatch]:
    """One epoch: every piece once, in an order that seed and epoch decide.

    Pieces of like length share a batch, so that little of it is padding: shuffled pieces are sorted by length within
    groups of 32 batches, and the batches shuffled again. A horizon's target is drawn anew each epoch from all that the
    user did within it, which in expectation gives each of these the same weight.
    """
    rng = np.random.default_rng([seed, epoch])
    spans = pieces(sequences, max_length)
    rng.shuffle(spans)
    groups = []
    for start in range(0, len(spans), 32 * n_batch):
        group = spans[start : start + 32 * n_batch]
        group = group[np.argsort(group[:, 0] - group[:, 1], kind="stable")]
        groups += [group[at : at + n_batch] for at in range(0, len(group), n_batch)]
    wanted = np.where(sequences.positive, sequences.item, 0)
    ahead = np.zeros((len(sequences), len(horizons_ms)), np.int64)
    for column, horizon_ms in enumerate(horizons_ms):
        row = np.arange(len(sequences))
        n_within = horizon_ends(sequences, horizon_ms) - row - 1
        drawn = row + 1 + (rng.random(len(row)) * n_within).astype(np.int64)
        ahead[:, column] = np.where(n_within > 0, wanted[np.minimum(drawn, len(row) - 1)], 0)
    columns: dict[str, NDArray[Any]] = {
        "gap_s": sequences.gap_s(),
        "target": sequences.target(),
        "ahead": ahead,
        "windows": window_totals(sequences, scales),
    }
    for at in rng.permutation(len(groups)):
        yield pad(sequences, groups[at], columns=columns)


def histories(batch: SequenceBatch, at: Tensor, n_history: int) -> HistoryBatch:
    """What the worker would give a history model right after event `at` (B,) of each piece.

    But for one thing: a user's record puts events of the same millisecond in the order of their item keys, so that
    the order of arrival decides nothing. Here they stay as the log has them.
    """
    place = at.unsqueeze(1) - torch.arange(n_history - 1, -1, -1, device=at.device)  # (B, L)
    there = place >= 0
    place = place.clamp(min=0)
    age_s = (batch.time_s.gather(1, at.unsqueeze(1)) - batch.time_s.gather(1, place)).float()
    return HistoryBatch(
        torch.where(there, batch.item.gather(1, place), 0),
        torch.where(there, age_s, 0.0),
        torch.where(there, batch.kind.gather(1, place), 0),
        torch.where(there, batch.value.gather(1, place), 0.0),
    )

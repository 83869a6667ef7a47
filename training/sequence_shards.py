"""Sequences of a log of any length, on disk: cut, shuffled and learnt from in bounded memory.

    log       batch 0, batch 1, ...        read twice: to count items, then to deal events out
    shards    hash(user) mod n             a user's events are all in one shard
    shard     by user, then by time        written when the log is through, one shard at a time
    epoch     shards in an order of its own, in each the pieces in an order of its own

Memory is that of one shard, one batch of the log and the counts of items. With one shard, batches are those of
`training.sequences`; the order of every epoch follows from seed and epoch, whatever was read before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from stream.core.events import EventTypes, item_keys
from stream.core.scales import WindowSpec
from stream.errors import PolytempoError
from training.sequences import SequenceBatch, UserSequences, batches

__all__ = ["Shards", "cut_shards"]

_EVENT: Final = np.dtype(
    [("user", "<u8"), ("ts_ms", "<i8"), ("value", "<f4"), ("item", "<i4"), ("kind", "u1"), ("positive", "?")]
)
_ABOUT: Final = "shards.json"
_APART: Final = 1_000_003
"""Shards draw from seeds so far apart; the first draws from the seed itself."""


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    n_events: tuple[int, ...]
    vocabulary: list[str]


@dataclass(frozen=True, slots=True)
class Shards:
    """Shards in a folder.

    Attributes:
        folder: where they are.
        vocabulary: item ids; index i (from 1) is `vocabulary[i - 1]`.
        n_events: of each shard.
    """

    folder: Path
    vocabulary: list[str]
    n_events: tuple[int, ...]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The shards that `cut_shards` left in a folder.

        Raises:
            PolytempoError: there are none, or the cutting did not come to its end.
        """
        try:
            about = msgspec.json.decode((folder / _ABOUT).read_bytes(), type=_About)
        except (OSError, msgspec.MsgspecError) as error:
            raise PolytempoError(f"{folder} holds no shards.", "Cut them from the log once more.") from error
        return cls(folder, about.vocabulary, about.n_events)

    def sequences(self, shard: int) -> UserSequences:
        """The events of one shard; users, whose names are not kept, are called by the hash that dealt them out."""
        events = np.load(_file(self.folder, shard))
        begins = np.flatnonzero(np.diff(events["user"], prepend=~events["user"][:1]))
        return UserSequences(
            user_ids=[f"{user:016x}" for user in events["user"][begins].tolist()],
            vocabulary=self.vocabulary,
            start=np.append(begins, len(events)).astype(np.int64),
            item=events["item"].astype(np.int64),
            kind=events["kind"].astype(np.int64),
            ts_ms=np.ascontiguousarray(events["ts_ms"]),
            value=np.ascontiguousarray(events["value"]),
            positive=np.ascontiguousarray(events["positive"]),
        )

    def batches(
        self,
        *,
        n_batch: int,
        max_length: int,
        seed: int,
        epoch: int,
        horizons_ms: Sequence[int] = (),
        scales: Sequence[WindowSpec] = (),
    ) -> Iterator[SequenceBatch]:
        """One epoch, as `training.sequences.batches`; batches are of one shard each."""
        there = np.flatnonzero(np.array(self.n_events) > 0)
        for shard in np.random.default_rng([seed, epoch, len(self.n_events)]).permutation(there).tolist():
            yield from batches(
                self.sequences(shard),
                n_batch=n_batch,
                max_length=max_length,
                seed=seed + shard * _APART,
                epoch=epoch,
                horizons_ms=horizons_ms,
                scales=scales,
            )


def cut_shards(
    log: Callable[[], Iterable[pl.DataFrame]],
    folder: Path,
    *,
    types: EventTypes | None = None,
    n_items: int = 20_000,
    n_events: int = 1_000_000,
) -> Shards:
    """Cut a log into shards.

    Args:
        log: gives its batches from the beginning each time, with the columns user_id, item_id, ts_ms, event_type and
            value; such as `stream.logs.EventLog.batches`.
        folder: is made if need be; shards that are there are replaced.
        n_items: vocabulary: the most common items, at most so many.
        n_events: of a shard, about; a user's events are never parted.

    Raises:
        ValueError: an event type is none of `types`.
    """
    types = types if types is not None else EventTypes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT).unlink(missing_ok=True)
    for file in folder.glob("shard-*"):
        file.unlink()
    counts: Counter[str] = Counter()
    n_all = 0
    for frame in log():
        n_all += len(frame)
        counted = frame["item_id"].drop_nulls().value_counts(name="n")
        counts.update(dict(zip(counted["item_id"].to_list(), counted["n"].to_list(), strict=True)))
    counts.pop("", None)
    vocabulary = sorted(counts, key=lambda item: (-counts[item], item))[:n_items]
    n_shards = max(1, math.ceil(n_all / n_events))
    items = pl.DataFrame({"item_id": pl.Series(vocabulary, dtype=pl.String)}).with_row_index("item", offset=1)
    with ExitStack() as stack:
        raw = [stack.enter_context(_raw(folder, shard).open("wb")) for shard in range(n_shards)]
        for frame in log():
            events = _events(frame, items, types)
            shard_of = events["user"] % n_shards
            for shard in np.unique(shard_of).tolist():
                events[shard_of == shard].tofile(raw[shard])
    sizes = tuple(_sort(folder, shard) for shard in range(n_shards))
    aside = folder / f"{_ABOUT}.new"
    aside.write_bytes(msgspec.json.encode(_About(sizes, vocabulary)))
    aside.replace(folder / _ABOUT)
    return Shards(folder, vocabulary, sizes)


def _events(frame: pl.DataFrame, items: pl.DataFrame, types: EventTypes) -> NDArray[Any]:
    """A batch of the log, as it is dealt out."""
    codes = {name: code for name, code in types.codes().items() if code < len(types.names)}
    unknown = set(frame["event_type"].unique().to_list()) - set(codes)
    if unknown:
        raise ValueError(f"event types {sorted(map(str, unknown))} are none of {', '.join(codes)}")
    events = np.empty(len(frame), _EVENT)
    events["user"] = item_keys(frame["user_id"].to_list())
    events["ts_ms"] = frame["ts_ms"].to_numpy()
    events["value"] = frame["value"].cast(pl.Float32).fill_null(0).fill_nan(0).to_numpy()
    found = frame.select("item_id").join(items, on="item_id", how="left", maintain_order="left")["item"]
    events["item"] = found.fill_null(0).to_numpy()
    events["kind"] = frame["event_type"].replace_strict(codes, return_dtype=pl.UInt8).to_numpy()
    events["positive"] = types.weight_table()[events["kind"]] > 0
    return events


def _sort(folder: Path, shard: int) -> int:
    """Put a shard into its final order: users by first appearance, then time, then the log; the number of events."""
    raw = _raw(folder, shard)
    events = np.fromfile(raw, _EVENT)
    _, first, user = np.unique(events["user"], return_index=True, return_inverse=True)
    np.save(_file(folder, shard), events[np.lexsort((events["ts_ms"], first[user]))])
    raw.unlink()
    return len(events)


def _raw(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.raw"


def _file(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.npy"

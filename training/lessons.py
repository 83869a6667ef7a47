"""What a sequence model is taught, and what its epochs are chosen by: histories in memory, or in shards on disk.

    |-------- learnt from --------|-- choose --|      choose: the last `hold_back` of the events by time
                                  ^ one moment for all users

Of shards, one is in memory at a time, so that memory does not grow with the log: the moment is found from a histogram
of their events' times, and what was found in each shard is put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.compare.task import Task, inner
from training.metrics import ndcg
from training.sequence_shards import Shards
from training.sequences import SequenceBatch, UserSequences, split_at

__all__ = ["InMemory", "InShards", "Lesson", "Look", "Parted", "targets_from"]

Parted: TypeAlias = Callable[[UserSequences, int, int], Iterator[SequenceBatch]]
"""(events, seed, epoch) -> the batches of an epoch over them."""
Look: TypeAlias = Callable[[Task], NDArray[np.int64]]
"""Places of a task's targets, 0 beyond the list."""
_N_BINS: Final = 1 << 16
_APART: Final = 1_000_003  # as shards draw, see `training.sequence_shards`


class Lesson(Protocol):
    """A training's material."""

    @property
    def vocabulary(self) -> list[str]:
        """Item ids; index i (from 1) is `vocabulary[i - 1]`."""
        ...

    @property
    def n_events(self) -> int:
        """Events of the training window: those that are learnt from, and those behind them."""
        ...

    @property
    def n_taught(self) -> int:
        """Events that are learnt from."""
        ...

    @property
    def n_chosen(self) -> int:
        """Events that epochs are chosen by."""
        ...

    def epoch(self, parted: Parted, seed: int, epoch: int) -> Iterator[SequenceBatch]:
        """The batches of an epoch."""
        ...

    def figure(self, look: Look) -> float:
        """NDCG over the events that epochs are chosen by."""
        ...

    def example(self) -> UserSequences:
        """Some users' histories, the last part included."""
        ...


class InMemory:
    """All of it at once.

    Args:
        sequences: of the training window.
        hold_back: share of the events, the last ones, to choose by.
    """

    def __init__(self, sequences: UserSequences, hold_back: float) -> None:
        self._whole = sequences
        nothing = Task(sequences, sequences, np.zeros(0, np.int64), "time", repeats=True)
        self._train, self._task = inner(sequences, hold_back) if len(sequences) > 0 else (sequences, nothing)

    @property
    def vocabulary(self) -> list[str]:
        """See `Lesson`."""
        return self._whole.vocabulary

    @property
    def n_events(self) -> int:
        """See `Lesson`."""
        return len(self._whole)

    @property
    def n_taught(self) -> int:
        """See `Lesson`."""
        return len(self._train)

    @property
    def n_chosen(self) -> int:
        """See `Lesson`."""
        return len(self._task.rows)

    def epoch(self, parted: Parted, seed: int, epoch: int) -> Iterator[SequenceBatch]:
        """See `Lesson`."""
        return parted(self._train, seed, epoch)

    def figure(self, look: Look) -> float:
        """See `Lesson`."""
        return ndcg(look(self._task))

    def example(self) -> UserSequences:
        """See `Lesson`."""
        return self._whole


@dataclass(frozen=True, slots=True, eq=False)
class InShards:
    """One shard after the other.

    Attributes:
        shards: of the log until `until_ms`.
        cut_ms: what lies before is learnt from, what lies in `[cut_ms, until_ms)` chooses.
        n_events: of the training window.
        n_taught, n_chosen: see `Lesson`.
    """

    shards: Shards
    cut_ms: int
    until_ms: int
    n_events: int
    n_taught: int
    n_chosen: int

    @classmethod
    def of(cls, shards: Shards, from_ms: int, until_ms: int, hold_back: float) -> InShards:
        """Choose by the last `hold_back` of the events of `[from_ms, until_ms)`, to a 65,536th of that span.

        Users' histories begin where the shards do.
        """
        edges = np.linspace(from_ms, until_ms, _N_BINS + 1)
        times = np.zeros(_N_BINS, np.int64)
        for number in _there(shards):
            times += np.histogram(shards.sequences(number).ts_ms, edges)[0]
        before = np.cumsum(times)
        wanted = (1 - hold_back) * before[-1]
        cut_ms = int(np.ceil(edges[1 + np.searchsorted(before, wanted, side="left")]))
        taught, chosen = 0, 0
        for number in _there(shards):
            sequences = shards.sequences(number)
            taught += int((sequences.ts_ms < cut_ms).sum())
            chosen += len(targets_from(sequences, cut_ms, until_ms).rows)
        return cls(shards, cut_ms, until_ms, int(before[-1]), taught, chosen)

    @property
    def vocabulary(self) -> list[str]:
        """See `Lesson`."""
        return self.shards.vocabulary

    def epoch(self, parted: Parted, seed: int, epoch: int) -> Iterator[SequenceBatch]:
        """See `Lesson`; batches are of one shard each, the shards in an order that seed and epoch decide."""
        there = _there(self.shards)
        for number in np.random.default_rng([seed, epoch, len(self.shards.n_events)]).permutation(there).tolist():
            sequences = self.shards.sequences(number)
            taught = sequences.where(sequences.ts_ms < self.cut_ms)
            if len(taught) > 0:
                yield from parted(taught, seed + number * _APART, epoch)

    def figure(self, look: Look) -> float:
        """See `Lesson`."""
        return ndcg(self.places(look, self.cut_ms, self.until_ms))

    def places(self, look: Look, from_ms: int, until_ms: int) -> NDArray[np.int64]:
        """Of all targets of `[from_ms, until_ms)`, shard by shard."""
        tasks = (targets_from(self.shards.sequences(number), from_ms, until_ms) for number in _there(self.shards))
        found = [look(task) for task in tasks if len(task.rows) > 0]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def example(self) -> UserSequences:
        """See `Lesson`: those of one shard."""
        sequences = self.shards.sequences(_there(self.shards)[0])
        return sequences.where(sequences.ts_ms < self.until_ms)


def targets_from(sequences: UserSequences, from_ms: int, until_ms: int) -> Task:
    """Predict every event of `[from_ms, until_ms)` from all that its user did before, but the users' first ones.

    What the user had before may come again.
    """
    known = sequences.where(sequences.ts_ms < until_ms)
    train, _ = split_at(known, from_ms)
    first = np.zeros(len(known), np.bool_)
    first[known.start[:-1][np.diff(known.start) > 0]] = True
    wanted = (known.ts_ms >= from_ms) & ~first & (known.item > 0) & known.positive
    return Task(train, known, np.flatnonzero(wanted), "time", repeats=True)


def _there(shards: Shards) -> list[int]:
    """The shards that have events."""
    return [number for number, n in zip(count(), shards.n_events) if n > 0]

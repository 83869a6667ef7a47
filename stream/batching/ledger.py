"""What has been read, applied and delivered of one input partition, in one generation of the group.

Offsets in, decisions out: nothing here knows Faust. The three rules of the batch path live here.

1. Batches are contiguous. A state may skip what it has already applied only if nothing before was left out, so each
   batch must start where the last one ended. A hole is read again once; what is still missing then was removed by
   compaction or retention, or was a transaction marker.
2. A batch that was handed out but never arrived (Faust clears its queues on a rebalance) is a hole at the other end;
   reading goes back to it.
3. Only an unbroken run of finished spans may be committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Admission", "Ledger", "Span"]


class Admission(Enum):
    """What to do with records that were just fetched."""

    DELIVER = "deliver"
    REREAD = "reread"
    DROP = "drop"


@dataclass(slots=True, eq=False)
class Span:
    """Offsets [first, last] that were applied; `done` once everything they caused is delivered."""

    first: int
    last: int
    done: bool = False


@dataclass(slots=True, eq=False)
class Ledger:
    """The bookkeeping of one partition between two rebalances.

    `next_read` is the offset that the next fetched records should start at, `next_take` the one that the next batch
    to arrive at the pipeline should; both None until the first records of a partition without a committed offset.
    `epoch` counts the times that reading went back: batches handed out before carry an older one. `began_at` is the
    first offset of this generation, None like them.
    """

    generation: int
    next_read: int | None
    next_take: int | None = None
    epoch: int = 0
    n_handed: int = 0
    n_waiting: int = 0
    open: bool = False
    closed: bool = False
    began_at: int | None = None
    _reread: int | None = None
    _spans: deque[Span] = field(default_factory=deque)
    _on_close: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.next_take = self.began_at = self.next_read

    @property
    def n_buffered(self) -> int:
        """Batches handed out and not yet fully applied."""
        return self.n_handed + self.n_waiting

    @property
    def idle(self) -> bool:
        """Whether nothing is under way: all that was handed out is applied, finished, and said to `committable`."""
        return self.n_buffered == 0 and not self._spans

    @property
    def active(self) -> bool:
        """Whether records may be read and applied: open for this generation, and not being given back."""
        return self.open and not self.closed

    # -- reading -------------------------------------------------------------------------------------------------

    def admit(self, first: int, last: int) -> tuple[Admission, int]:
        """Judge records with offsets first..last (inclusive).

        DELIVER with the offset that the batch covers from (records below it are to be left out), REREAD with the
        offset to read from again, DROP when all of them were handed out before.
        """
        if self.next_read is None:
            self.next_read = self.next_take = self.began_at = first
        if last < self.next_read:
            return Admission.DROP, self.next_read
        if first > self.next_read and self._reread != self.next_read:
            self._reread = self.next_read
            return Admission.REREAD, self.next_read
        covers = self.next_read
        self.next_read = last + 1
        self.n_handed += 1
        return Admission.DELIVER, covers

    def take(self, first: int, last: int, epoch: int) -> bool:
        """A batch arrived at the pipeline: whether it may be applied.

        False with an older epoch means that it comes again by itself. False with the current epoch is a hole (a
        batch before this one was dropped from the queue): the caller then goes back with `rewind`.
        """
        if self.closed or epoch != self.epoch:
            return False
        if first != self.next_take:
            return False
        self.n_handed -= 1
        self.n_waiting += 1
        self.next_take = last + 1
        return True

    def rewind(self) -> int | None:
        """Forget what was handed out and has not arrived; the offset to read from, None if nothing was read yet."""
        self.epoch += 1
        self.n_handed = 0
        self.next_read = self.next_take
        return self.next_take

    # -- applying ------------------------------------------------------------------------------------------------

    def begin(self, first: int, last: int) -> Span:
        """Offsets first..last are being applied; spans begin in offset order."""
        span = Span(first, last)
        self._spans.append(span)
        return span

    def committable(self) -> int | None:
        """The offset to commit (one past the last finished), None if no more has finished since the last call."""
        commit: int | None = None
        while self._spans and self._spans[0].done:
            commit = self._spans.popleft().last + 1
        return commit

    @property
    def has_finished(self) -> bool:
        """Whether `committable` has something to say."""
        return bool(self._spans) and self._spans[0].done

    # -- giving back ---------------------------------------------------------------------------------------------

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the partition is being given back, at once if it already is."""
        if self.closed:
            callback()
        else:
            self._on_close.append(callback)

    def close(self) -> None:
        """The partition is being given back: nothing new is applied, spans in flight may still finish."""
        if not self.closed:
            self.closed = True
            for callback in self._on_close:
                callback()
            self._on_close.clear()

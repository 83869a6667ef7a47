"""A log on its way through the core: the worker's composition without the worker, in the order of event time.

Statistics advance as they do live, from the batches' own activity, but by event time: events of one period see the view
as it stood when the period began, however they fall into batches.

    time      |------- period -------|------- period -------|
    batches   [  e e e        e e e e      e e ][   e e e e    ]
    pieces    [  e e e        e e e e][    e e ][   e e e e    ]
    view      ^ as of here           ^ as of here, with all activity of the first period

What costs the same however few events there are is done as seldom as possible: users' records are folded a batch at a
time across periods, because they go by event time alone, and the view is brought up to date only where a recommendation
is wanted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.core.activity import ActivityBatch
from stream.core.catalogue import ItemUpdate
from stream.core.events import EventBatch
from stream.core.features import FeatureSpec, TensorSpec, menu
from stream.core.fold import Folded
from stream.core.parts import Part
from stream.core.ranking import Ranked
from stream.core.scales import SECOND_MS
from stream.core.seam import Answers, Recommender
from stream.core.state import States, StateSpec, blank_states, records_at
from stream.core.statistics import ItemStatistics
from stream.wire.activity import decode_activity, encode_activity
from training.log import Log, published_ms
from training.storage import Storage, in_memory, stretches

__all__ = ["RecordingScorer", "Replay", "Replayed", "StateTable", "Watcher"]

SOURCE = "log/0"
"""The one partition that a log stands for."""
_MOST_DUE: Final = 1024
"""Activity messages that wait at most for the view to be wanted."""


class RecordingScorer:
    """A scorer that keeps what it was asked to score: the vectors trained on are the ones that are scored live."""

    n_state = 0
    space: Literal["candidates", "vocabulary"] = "candidates"

    def __init__(
        self,
        spec: FeatureSpec,
        wanted: tuple[str, ...] = ("candidates", "candidate_features", "context_features"),
        n_query: int = 0,
    ) -> None:
        """Asks for `wanted`; `n_query` floats of a query where a sequence model goes before."""
        offered = menu(spec, n_query=n_query)
        self.inputs: Mapping[str, TensorSpec] = {name: offered[name] for name in wanted}
        self._recorded: list[dict[str, NDArray[Any]]] = []

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Keep the inputs; every candidate scores 0."""
        self._recorded.append(dict(inputs))
        candidates = inputs["candidates"]
        return {"items": candidates, "scores": np.zeros(candidates.shape, np.float32)}

    def taken(self) -> dict[str, NDArray[Any]]:
        """The inputs since the last call, each (R, ...) in the order of the events; empty when nothing was scored.

        A step may score its events in several runs.
        """
        runs, self._recorded = self._recorded, []
        if len(runs) <= 1:
            return runs[0] if runs else {}
        return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


class StateTable:
    """The records of a log's users, (n_users, record), made when a user first appears.

    Where users are numbered in the order of their first event, those that have a record are always a prefix.
    """

    def __init__(self, spec: StateSpec, n_users: int, storage: Storage = in_memory) -> None:
        self._blank = blank_states(spec, 1)
        self._dtype = spec.dtype
        self._raw = storage((n_users, spec.n_bytes), np.uint8)
        self._n_made = 0

    def get(self, users: NDArray[np.integer[Any]]) -> States:
        """(U,) copies of the records."""
        needed = int(users.max(initial=-1)) + 1
        if needed > self._n_made:
            self._raw[self._n_made : needed] = self._blank.view(np.uint8)
            self._n_made = needed
        states: States = self._raw[users].reshape(-1).view(self._dtype)
        return states

    @property
    def made(self) -> NDArray[np.uint8]:
        """(n, record) bytes of the records that there are so far."""
        return self._raw[: self._n_made]

    def put_made(self, raw: NDArray[np.uint8]) -> None:
        """Take over what `made` was; ValueError where these are no records of this layout or too many."""
        if raw.shape[1:] != self._raw.shape[1:] or len(raw) > len(self._raw):
            raise ValueError(f"records of shape {raw.shape} where {self._raw.shape} is expected")
        self._raw[: len(raw)] = raw
        self._n_made = len(raw)

    def put(self, users: NDArray[np.integer[Any]], states: States) -> None:
        """Store (U,) records of distinct users."""
        self._raw[users] = states.view(np.uint8).reshape(len(states), -1)


_NOTHING: Final = Answers(
    np.zeros(0, np.intp),
    Ranked(np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32), np.zeros((0, 0), np.uint16)),
    np.zeros(0, np.int64),
)


class Watcher(Protocol):
    """Something that keeps statistics of its own beside a replay, such as baselines."""

    def advance(self, activity: list[ActivityBatch], updates: list[ItemUpdate]) -> None:
        """Count what a period added."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """One piece of a batch: events `start` to `stop` (excluded) of the log, all of one period, and what they led to.

    Attributes:
        rows: (R,) rows of the log that got a recommendation.
        answers: their recommendations.
        after: (R,) the record of each event's user right after it.
    """

    start: int
    stop: int
    rows: NDArray[np.int64]
    answers: Answers
    after: States


class Replay:
    """A log, the users' records and the view of the items, as far as it has been replayed.

    Args:
        log: the events.
        recommender: what scores; may be exchanged between runs for one with records of the same layout.
        items: what is known of items. Each is taken over in the period in which it is published, undated ones at once.
        period_ms: the view's age at most, in event time.
        delay_ms: what the view misses besides: at the beginning of a period it holds what was over so long ago.
        batch_size: events in a batch at most. Decides speed and memory, never a result.
        watchers: they see the same activity in the same periods.
        view: a finished view to score with, which then stays as it is; one that grows with the log unless given.
    """

    def __init__(
        self,
        log: Log,
        recommender: Recommender,
        *,
        items: list[ItemUpdate] | None = None,
        period_ms: int = 10 * SECOND_MS,
        delay_ms: int = 0,
        batch_size: int = 256,
        watchers: list[Watcher] | None = None,
        view: ItemStatistics | None = None,
    ) -> None:
        if period_ms < 1 or batch_size < 1:
            raise ValueError(f"a period of {period_ms} ms and batches of {batch_size} events lead nowhere")
        if delay_ms < 0:
            raise ValueError("statistics cannot be ahead of their events")
        self.log = log
        self.recommender = recommender
        self.view = ItemStatistics(recommender.spec.statistics) if view is None else view
        self._is_frozen = view is not None
        self.states = StateTable(recommender.state_spec, len(log.user_ids), log.storage)
        self.at = 0
        """The next row of the log."""
        self._items = sorted(items or (), key=published_ms)
        self._n_items_known = 0
        self._period_ms = period_ms
        self._delay_ms = delay_ms
        self._batch_size = batch_size
        self._watchers = watchers or []
        self._period: int | None = None
        self._pending: deque[tuple[int, int, ActivityBatch]] = deque()
        """When its period ended (ms), its last row, and the activity of each piece that is not due yet."""
        self._due: list[tuple[int, ActivityBatch]] = []
        """Last row and activity of what the view should hold, but nobody has looked since."""
        self._open: tuple[int, States] | None = None
        """First row of the batch whose pieces are being yielded, and its users' records before it."""
        if len(recommender.vocabulary.ids) > 0:
            self.view.know(recommender.vocabulary.ids)

    @property
    def batch_start(self) -> int:
        """The row of the log that the batch begins with whose pieces are being answered."""
        return self.at if self._open is None else self._open[0]

    def exchange(self, recommender: Recommender) -> None:
        """Go on with another scorer over the same features.

        Raises ValueError when its records or statistics are not the ones that have been built up.
        """
        if recommender.state_spec != self.recommender.state_spec:
            raise ValueError("the other recommender keeps other records of users")
        if recommender.spec.statistics != self.recommender.spec.statistics:
            raise ValueError("the other recommender wants other statistics of items")
        self.recommender = recommender

    def run(self, until: int | None = None, select: NDArray[np.bool_] | None = None) -> Iterator[Replayed]:
        """Replay up to row `until` of the log (excluded; its end unless given), batch by batch.

        Each piece is yielded before the view holds anything that follows. Where a piece has recommendations, `view` is
        as of its period; `states` are as of the end of a batch once its last piece was yielded.

        Args:
            select: (N,) the events of the log that need a recommendation; all unless given.
        """
        self._store()
        until = len(self.log) if until is None else until
        # A model with a state of its own steps through every event, each with the view of its time.
        one_period = self.recommender.n_state > 0
        for here in stretches(self.at, until):
            period = self.log.ts_ms[here] // self._period_ms
            ends = np.append(np.flatnonzero(period[1:] != period[:-1]) + 1, len(period)) + here.start
            while self.at < here.stop:
                start = self.at
                stop = min(here.stop, start + self._batch_size)
                first = int(np.searchsorted(ends, start, side="right"))
                if one_period:
                    stop = min(stop, int(ends[first]))
                cuts = [start, *ends[first : np.searchsorted(ends, stop, side="left")].tolist(), stop]
                yield from self._batch(cuts, select)
        self._look()

    def _batch(self, cuts: list[int], select: NDArray[np.bool_] | None) -> Iterator[Replayed]:
        """Fold the events between the first and the last cut, and answer piece by piece."""
        recommender, start, end = self.recommender, cuts[0], cuts[-1]
        users = self.users(start, end)
        before = self.states.get(users)
        batch, folded, parts = self._folded(before, start, end)
        self._open = (start, before)
        for first, last in pairwise(cuts):
            period = int(self.log.ts_ms[first]) // self._period_ms
            self._enter(period)
            here = slice(first - start, last - start)
            wanted = np.zeros(len(batch), np.bool_)
            wanted[here] = True if select is None else select[first:last]
            if recommender.n_state > 0 or wanted.any():
                self._look()
                answers = recommender.recommend(before, folded, batch, self.view, parts, select=wanted)
            else:
                answers = _NOTHING
            if not self._is_frozen:
                activity = recommender.activity_of(batch, folded, Part(batch, SOURCE, (first, last - 1)), here)
                self._pending.append(((period + 1) * self._period_ms, last - 1, activity))
            if last == end:
                self.states.put(users, folded.states)
                self._open = None
            self.at = last
            yield Replayed(first, last, start + answers.rows, answers, records_at(folded.after, answers.rows))

    def _store(self) -> None:
        """Put the records of a batch that was left, or is looked at, between two of its pieces: as of `at`."""
        if self._open is not None and self._open[0] < self.at:
            start, before = self._open
            users = self.users(start, self.at)
            _, folded, _ = self._folded(before[: len(users)], start, self.at)  # users are in order of appearance
            self.states.put(users, folded.states)

    def _folded(self, states: States, start: int, stop: int) -> tuple[EventBatch, Folded, list[Part]]:
        batch = self.log.batch(start, stop)
        parts = [Part(batch, SOURCE, (start, stop - 1))]
        batch = self.recommender.spec.values.apply(batch)
        return batch, self.recommender.fold(states, batch, parts), parts

    def settled(self) -> ItemStatistics:
        """The view with all that has been replayed counted and all items known, however young."""
        self._look()
        due = [(last, activity) for _, last, activity in self._pending]
        self._pending.clear()
        self.view.advance(due, self._items[self._n_items_known :])
        self._n_items_known = len(self._items)
        return self.view

    def checkpoint(self) -> dict[str, NDArray[Any]]:
        """Where the replay stands, as arrays that `numpy.savez` stores without pickling; `resume` takes them.

        Watchers and a recurrent scorer's weights are not in it.
        """
        self._look()
        self._store()
        messages = [encode_activity(activity) for _, _, activity in self._pending]
        arrays = {f"view/{name}": array for name, array in self.view.snapshot().items()}
        return arrays | {
            "states": self.states.made.copy(),
            "at": np.array([self.at, self._n_items_known, -1 if self._period is None else self._period], np.int64),
            "pending": np.array([(end_ms, last) for end_ms, last, _ in self._pending], np.int64).reshape(-1, 2),
            "pending_bytes": np.frombuffer(b"".join(messages), np.uint8),
            "pending_lengths": np.array([len(message) for message in messages], np.int64),
        }

    def resume(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `checkpoint` was called on a replay of the same log with the same arguments.

        Raises ValueError when the arrays belong to other statistics or records.
        """
        stored = {name.removeprefix("view/"): arrays[name] for name in arrays if name.startswith("view/")}
        self.view = ItemStatistics.restore(self.recommender.spec.statistics, stored)
        self.states.put_made(arrays["states"])
        self.at, self._n_items_known, period = (int(number) for number in arrays["at"])
        self._period = None if period < 0 else period
        self._pending.clear()
        self._due.clear()
        self._open = None
        end = 0
        content = arrays["pending_bytes"].tobytes()
        for (end_ms, last), length in zip(arrays["pending"].tolist(), arrays["pending_lengths"].tolist(), strict=True):
            self._pending.append((end_ms, last, decode_activity(content[end : end + length])))
            end += length

    def _enter(self, period: int) -> None:
        if period == self._period or self._is_frozen:
            return
        self._period = period
        n_known = self._n_items_known
        while self._n_items_known < len(self._items) and published_ms(self._items[self._n_items_known]) <= (
            period * self._period_ms
        ):
            self._n_items_known += 1
        updates = self._items[n_known : self._n_items_known]
        while self._pending and self._pending[0][0] + self._delay_ms <= period * self._period_ms:
            _, last, activity = self._pending.popleft()
            self._due.append((last, activity))
        if updates or len(self._due) >= _MOST_DUE:
            self._look(updates)

    def _look(self, updates: Sequence[ItemUpdate] = ()) -> None:
        """Bring the view up to what it should hold by now."""
        if not self._due and not updates:
            return
        due, self._due = self._due, []
        self.view.advance(due, updates)
        for watcher in self._watchers:
            watcher.advance([activity for _, activity in due], list(updates))

    def users(self, start: int, stop: int) -> NDArray[np.int32]:
        """(U,) the batch's users in order of first appearance, as `Log.batch` lists them."""
        codes, first = np.unique(self.log.user[start:stop], return_index=True)
        return codes[np.argsort(first)]

"""How features and scores are distributed while they are served, counted in the bins of a reference.

events      | | |*| | | | | | |*| | ...       a share of them, and of their candidates, is counted
steps       |   s   |   s   |   s   |         whoever has a clock says when a step is over
window      [-----------------------]         the last steps together, which are held against the reference
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.distributions import (
    CHANGED,
    FEWEST,
    UNSEEN,
    WORTH_A_LOOK,
    Binned,
    best_scores,
    candidate_columns,
    context_columns,
    group_of,
)
from stream.core.features import FeatureSpec

__all__ = ["STEPS", "Moved", "Tally"]

STEPS: Final = 24
"""Steps of a window."""
_EVERY: Final = 16
"""Of so many events one is counted."""
_EVERY_CANDIDATE: Final = 8
"""Of so many candidates of a counted event one is: those of one event resemble each other."""
_N_REFERENCE: Final = 1e4  # as `psi` has it


@dataclass(frozen=True, slots=True)
class Moved:
    """How far what is served has moved from a reference.

    Attributes:
        n_events: events that were counted.
        index: by feature, and for `score`: the population stability index.
    """

    n_events: int
    index: Mapping[str, float]

    @property
    def is_judged(self) -> bool:
        """Whether there are enough events to say anything."""
        return self.n_events >= FEWEST

    @property
    def verdict(self) -> Literal["too few", "steady", "look", "changed"]:
        """What to think of it, by the feature that moved most."""
        if not self.is_judged:
            return "too few"
        most = max(self.index.values(), default=0.0)
        return "changed" if most >= CHANGED else "look" if most >= WORTH_A_LOOK else "steady"

    @property
    def groups(self) -> dict[str, float]:
        """The largest index of each group of features, see `group_of`."""
        found: dict[str, float] = {}
        for name, index in self.index.items():
            group = group_of(name)
            found[group] = max(found.get(group, 0.0), index)
        return found

    def worst(self, n: int) -> list[tuple[str, float]]:
        """The n features that moved most, the first one most."""
        return sorted(self.index.items(), key=lambda each: -each[1])[:n]


class Tally:
    """Counts a sample of what one model is given and says.

    Args:
        spec: the features.
        references: distributions by name, as `stream.core.distributions.named_values` names them; others are passed
            over.
        n_steps: steps of a window.
        every: of so many events one is counted.
    """

    def __init__(
        self, spec: FeatureSpec, references: Mapping[str, Binned], *, n_steps: int = STEPS, every: int = _EVERY
    ) -> None:
        self._names: Final = list(references)
        self._every: Final = every
        n_bins = max((len(each.shares) for each in references.values()), default=1)
        shape = (len(references), n_bins)
        self._edges: Final = np.full((shape[0], n_bins - 1), np.inf)
        self._known: Final = np.zeros(shape)
        self._is_bin: Final = np.zeros(shape, np.bool_)
        for row, each in enumerate(references.values()):
            n = len(each.shares)
            known = np.asarray(each.shares) * _N_REFERENCE + UNSEEN
            self._edges[row, : n - 1] = each.edges
            self._known[row, :n] = known / known.sum()
            self._is_bin[row, :n] = True
        row_of = {name: row for row, name in enumerate(references)}
        self._of_candidates: Final = _Columns.of(candidate_columns(spec), row_of)
        self._of_context: Final = _Columns.of(context_columns(spec), row_of)
        self._of_score: Final = _Columns.of([(0, "score")], row_of)
        self._steps: Final[deque[tuple[NDArray[np.int64], int]]] = deque(maxlen=max(n_steps - 1, 0))
        self._counts: Final = np.zeros(shape, np.int64)
        self._n_events = 0
        self._next = 0
        self._phase = 0
        self._drawn = 1

    def __call__(
        self, rows: NDArray[np.intp], inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        """Count a sample of the R events that a model was asked about; a `stream.core.seam.Witness`."""
        n_rows = len(rows)
        if self._next >= n_rows:
            self._next -= n_rows
            return
        taken = []
        while self._next < n_rows:
            taken.append(self._next)
            self._next += self._gap()
        self._next -= n_rows
        self._count(np.array(taken), inputs, outputs)

    def roll(self) -> None:
        """End a step: the oldest one leaves the window."""
        self._steps.append((self._counts.copy(), self._n_events))
        self._counts[:] = 0
        self._n_events = 0

    def clear(self) -> None:
        """Begin anew."""
        self._steps.clear()
        self._counts[:] = 0
        self._n_events, self._next = 0, 0

    def moved(self) -> Moved:
        """How far the window is from the references; 0 for what was never counted."""
        counts = self._counts + sum(step for step, _ in self._steps)
        n_events = self._n_events + sum(n for _, n in self._steps)
        n_values = counts.sum(axis=1, keepdims=True)
        live = (counts + UNSEEN) / (n_values + UNSEEN * self._is_bin.sum(axis=1, keepdims=True))
        known = np.where(self._is_bin, self._known, live)  # where there is no bin, nothing is added
        index = ((live - known) * np.log(live / known)).sum(axis=1)
        index[n_values[:, 0] == 0] = 0.0
        return Moved(n_events, dict(zip(self._names, index.tolist(), strict=True)))

    def _gap(self) -> int:
        """How far on the next event is that is counted: drawn evenly, so that no rhythm of the input is followed."""
        self._drawn = (self._drawn * 6364136223846793005 + 1442695040888963407) % 2**64  # Knuth's MMIX
        return 1 + (self._drawn >> 33) % (2 * self._every - 1)

    def _count(
        self, taken: NDArray[np.intp], inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        self._n_events += len(taken)
        if self._of_candidates and "candidate_features" in inputs:
            self._phase = (self._phase + 1) % _EVERY_CANDIDATE
            some = slice(self._phase, None, _EVERY_CANDIDATE)
            real = inputs["candidates"][taken, some] >= 0
            self._add(self._of_candidates, inputs["candidate_features"][taken, some], real)
        if self._of_context and "context_features" in inputs:
            context = inputs["context_features"][taken]
            self._add(self._of_context, context[:, None], np.ones((len(taken), 1), np.bool_))
        if self._of_score:
            said = {name: outputs[name][taken] for name in ("items", "scores")}
            best = best_scores(inputs, said)[:, None]
            self._add(self._of_score, best[:, :, None], np.isfinite(best))

    def _add(self, columns: _Columns, values: NDArray[np.float32], real: NDArray[np.bool_]) -> None:
        _count(
            np.ascontiguousarray(values),
            np.ascontiguousarray(real),
            columns.column,
            columns.row,
            self._edges,
            self._counts,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Columns of an array, and the rows of the counts that they belong to."""

    column: NDArray[np.int64]
    row: NDArray[np.int64]

    @classmethod
    def of(cls, named: list[tuple[int, str]], row_of: Mapping[str, int]) -> _Columns:
        pairs = [(at, row_of[name]) for at, name in named if name in row_of]
        column, row = np.array(pairs, np.int64).reshape(-1, 2).T.copy()
        return cls(column, row)

    def __bool__(self) -> bool:
        return len(self.column) > 0


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(values: Any, real: Any, column: Any, row: Any, edges: Any, counts: Any) -> None:
    """Adds each real value (R, C, F) to the bin of its row of counts (N, E + 1): edges (N, E) are upper bounds."""
    for event in range(values.shape[0]):
        for place in range(values.shape[1]):
            if not real[event, place]:
                continue
            for i in range(len(column)):
                value = np.float64(values[event, place, column[i]])
                if not np.isfinite(value):
                    continue
                at, n = row[i], 0
                while n < edges.shape[1] and edges[at, n] < value:
                    n += 1
                counts[at, n] += 1

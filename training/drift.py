"""Whether a model still sees what it was trained on: features and scores against those of its training window.

    steps       |  s  |  s  |  s  |  s  |  s  |      events of a sample are counted in bins, step by step
    windows     [-----------------------]            four steps are a window, which slides by one
                      [-----------------------]

The sample is drawn over all events, at training and afterwards: what is compared is the same kind of event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stream.bundle.load import Bundle
from stream.core.catalogue import ItemUpdate
from stream.core.distributions import CHANGED, FEWEST, WORTH_A_LOOK, Binned, named_values, psi
from stream.core.features import FeatureSpec
from stream.core.scales import DAY_MS, SECOND_MS
from stream.core.seam import Policy, Recommender
from stream.errors import PolytempoError
from training.log import Log
from training.replay import Replay
from training.storage import stretches

__all__ = ["Drift", "Noting", "drift_of", "reference_by_replay", "reference_of", "references_of"]

_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class Drift:
    """One window.

    Attributes:
        from_ms, until_ms: its events are of `[from_ms, until_ms)`.
        n_events: events that were looked at.
        index: by feature, and for `score`: the population stability index.
    """

    from_ms: int
    until_ms: int
    n_events: int
    index: dict[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The feature that moved most, and its index."""
        return max(self.index.items(), key=lambda each: each[1])

    @property
    def verdict(self) -> Literal["too few", "steady", "look", "changed"]:
        """What to think of it."""
        if self.n_events < FEWEST:
            return "too few"
        worst = self.worst[1]
        return "changed" if worst >= CHANGED else "look" if worst >= WORTH_A_LOOK else "steady"


class Noting:
    """Keeps what a model was given and said about selected events, until it is taken.

    Args:
        select: (N,) events of the log that are looked at; a recurrent model steps through all of them anyway.
    """

    def __init__(self, spec: FeatureSpec, select: NDArray[np.bool_]) -> None:
        self._spec = spec
        self._select = select
        self._noted: list[dict[str, NDArray[Any]]] = []
        self.replay: Replay | None = None
        """Whose recommender this witnesses: it knows which events of the log a batch is of."""

    def __call__(
        self, rows: NDArray[np.intp], inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        """Keep the selected ones of R events; a `stream.core.seam.Witness`."""
        if self.replay is None:
            raise ValueError("who witnesses a replay must know which one")
        here = np.flatnonzero(self._select[self.replay.batch_start + rows])
        if len(here) > 0:
            given, said = ({name: column[here] for name, column in each.items()} for each in (inputs, outputs))
            self._noted.append(named_values(self._spec, given, said))

    def taken(self) -> dict[str, NDArray[Any]]:
        """The values since the last call, by name."""
        noted, self._noted = self._noted, []
        return {name: np.concatenate([part[name] for part in noted]) for name in noted[0]} if noted else {}


def reference_of(
    spec: FeatureSpec, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> dict[str, Binned]:
    """The distributions of a sample of events, see `named_values`; constant features are left out."""
    return _binned(named_values(spec, inputs, outputs))


def reference_by_replay(
    bundle: Bundle,
    log: Log,
    items: list[ItemUpdate],
    rows: slice,
    *,
    period_ms: int,
    n: int = 2000,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Binned]:
    """The distributions of a sample of the events at `rows` of a log, which is replayed up to them.

    For models whose inputs are not recorded while they are trained.

    Args:
        period_ms: age of the item statistics at most.
        n: events of the sample, about.
        on_progress: called with the events replayed so far.
    """
    noting, replay, select = _noted_replay(bundle, log, items, period_ms)
    _draw(log, rows, n / max(rows.stop - rows.start, 1), seed, select)
    for batch in replay.run(rows.stop, select):
        if on_progress is not None:
            on_progress(batch.stop)
    return _binned(noting.taken())


def _binned(values: Mapping[str, NDArray[Any]]) -> dict[str, Binned]:
    return {name: Binned.of(column) for name, column in values.items() if np.isfinite(column).any()}


def _noted_replay(
    bundle: Bundle, log: Log, items: list[ItemUpdate], period_ms: int
) -> tuple[Noting, Replay, NDArray[np.bool_]]:
    """A replay with a bundle, who notes what is said about events, and the mask (N,) that says of which."""
    select = log.storage((len(log),), np.bool_)
    noting = Noting(bundle.features, select)
    policy = Policy(bundle.manifest.policy.n, bundle.manifest.policy.seen)
    recommender = Recommender(
        bundle.features, bundle.scorer, bundle.vocabulary, policy, bundle.tag, bundle.retriever, noting
    )
    noting.replay = Replay(log, recommender, items=items, period_ms=period_ms)
    return noting, noting.replay, select


def references_of(bundle: Bundle) -> Mapping[str, Binned]:
    """What a bundle says of its training window.

    Raises:
        PolytempoError: it says nothing.
    """
    if not bundle.distributions:
        raise PolytempoError(
            f"{bundle.reference} does not say what it was trained on.",
            "Bundles trained by this version do; train it again.",
        )
    return bundle.distributions


def drift_of(
    bundle: Bundle,
    log: Log,
    items: list[ItemUpdate],
    *,
    from_ms: int = 0,
    until_ms: int = 2**62,
    window_ms: int = DAY_MS,
    n_sample: int = 2000,
    period_ms: int = 10 * SECOND_MS,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> list[Drift]:
    """Replay a log and hold samples of its events against the bundle's training window.

    Args:
        log: with the bundle's context fields.
        from_ms, until_ms: what is looked at; what is before is only learned from.
        window_ms: width of a window, in event time.
        n_sample: events of a window that are looked at, about.
        on_progress: called with the events replayed so far.

    Returns:
        The windows in their order; a range shorter than a window is one.

    Raises:
        PolytempoError: see `references_of`; or there is no event.
    """
    references = references_of(bundle)
    rows = log.between(from_ms, until_ms)
    if rows.stop <= rows.start:
        raise PolytempoError("there is no event in this range.", "Look at --since and --until.")
    noting, replay, select = _noted_replay(bundle, log, items, period_ms)
    step_ms = max(1, window_ms // _STEPS)
    first = int(log.ts_ms[rows.start])
    step_of = (log.ts_ms - first) // step_ms
    here = np.arange(rows.start, rows.stop)
    n_in_step = np.bincount(step_of[here])[step_of[here]]
    _draw(log, rows, max(1, n_sample // _STEPS) / n_in_step, seed, select)
    steps: deque[tuple[int, int, dict[str, NDArray[np.int64]]]] = deque(maxlen=_STEPS)
    found: list[Drift] = []
    counts, n_events, at = _nothing(references), 0, 0

    def close(step: int) -> None:
        steps.append((step, n_events, counts))
        index = {name: psi(references[name], sum(each[2][name] for each in steps)) for name in references}  # type: ignore[arg-type]
        begin = first + steps[0][0] * step_ms
        n_all = sum(each[1] for each in steps)
        if len(steps) == _STEPS or step == int(step_of[rows.stop - 1]):
            found.append(Drift(begin, first + (step + 1) * step_ms, n_all, index))

    for batch in replay.run(rows.stop, select):
        values = noting.taken()
        if len(batch.rows) > 0:
            step = int(step_of[batch.rows[0]])
            while at < step:
                close(at)
                counts, n_events, at = _nothing(references), 0, at + 1
            n_events += len(batch.rows)
            for name, reference in references.items():
                if name in values:
                    counts[name] += reference.counts(values[name])
        if on_progress is not None:
            on_progress(batch.stop)
    close(at)
    if not found:
        found.append(Drift(first, first + (at + 1) * step_ms, 0, dict.fromkeys(references, 0.0)))
    return found


def _draw(log: Log, rows: slice, share: float | NDArray[np.float64], seed: int, select: NDArray[np.bool_]) -> None:
    """Select a share of the events at `rows`, one for all of them or one for each."""
    rng = np.random.default_rng(seed)
    for here in stretches(rows.start, rows.stop):
        own = share if isinstance(share, float) else share[here.start - rows.start : here.stop - rows.start]
        select[here] = (rng.random(here.stop - here.start) < own) & log.happened(here)


def _nothing(references: Mapping[str, Binned]) -> dict[str, NDArray[np.int64]]:
    return {name: np.zeros(len(each.shares), np.int64) for name, each in references.items()}

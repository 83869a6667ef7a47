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
from stream.core.features import FeatureSpec, TensorSpec
from stream.core.scales import DAY_MS, SECOND_MS
from stream.core.seam import Policy, Recommender, Scorer
from stream.errors import PolytempoError
from training.log import Log
from training.replay import Replay

__all__ = ["Drift", "Noting", "drift_of", "reference_of", "references_of"]

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
    """A scorer that passes on what another one says, and keeps question and answer until they are taken."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.inputs: Mapping[str, TensorSpec] = scorer.inputs
        self.n_state = scorer.n_state
        self.space = scorer.space
        self._noted: list[tuple[dict[str, NDArray[Any]], NDArray[np.float32]]] = []

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the other one says."""
        outputs = dict(self._scorer.score(inputs))
        self._noted.append((dict(inputs), outputs["scores"]))
        return outputs

    def taken(self, spec: FeatureSpec) -> dict[str, NDArray[Any]]:
        """The values since the last call, by name."""
        noted, self._noted = self._noted, []
        parts = [named_values(spec, inputs, scores) for inputs, scores in noted]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def reference_of(
    spec: FeatureSpec, inputs: Mapping[str, NDArray[Any]], scores: NDArray[np.float32]
) -> dict[str, Binned]:
    """The distributions of a sample of events, see `named_values`; constant features are left out."""
    values = named_values(spec, inputs, scores)
    return {name: Binned.of(column) for name, column in values.items() if np.isfinite(column).any()}


def references_of(bundle: Bundle) -> dict[str, Binned]:
    """What a bundle says of its training window.

    Raises:
        PolytempoError: it says nothing, or ranks no candidates.
    """
    found = bundle.manifest.distributions
    if not isinstance(found, dict):
        raise PolytempoError(
            f"{bundle.reference} does not say what it was trained on.",
            "Rankers trained by this version do; train it again.",
        )
    return {name: Binned(each.edges, each.shares) for name, each in found.items()}


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
    noting = Noting(bundle.scorer)
    policy = Policy(bundle.manifest.policy.n, bundle.manifest.policy.seen)
    recommender = Recommender(bundle.features, noting, bundle.vocabulary, policy, bundle.tag, bundle.retriever)
    replay = Replay(log, recommender, items=items, period_ms=period_ms)
    step_ms = max(1, window_ms // _STEPS)
    first = int(log.ts_ms[rows.start])
    step_of = (log.ts_ms - first) // step_ms
    select = _sample(log, rows, step_of, max(1, n_sample // _STEPS), seed)
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
        values = noting.taken(bundle.features)
        if len(batch.rows) > 0:
            step = int(step_of[batch.rows[0]])
            while at < step:
                close(at)
                counts, n_events, at = _nothing(references), 0, at + 1
            n_events += len(batch.rows)
            for name, reference in references.items():
                counts[name] += reference.counts(values[name])
        if on_progress is not None:
            on_progress(batch.stop)
    close(at)
    if not found:
        found.append(Drift(first, first + (at + 1) * step_ms, 0, dict.fromkeys(references, 0.0)))
    return found


def _sample(log: Log, rows: slice, step_of: NDArray[np.int64], n_per_step: int, seed: int) -> NDArray[np.bool_]:
    """(N,) a draw of about so many events of each step."""
    here = np.arange(rows.start, rows.stop)
    n_in_step = np.bincount(step_of[here])[step_of[here]]
    select = np.zeros(len(log), np.bool_)
    select[here] = np.random.default_rng(seed).random(len(here)) < n_per_step / n_in_step
    return select & log.happened()


def _nothing(references: Mapping[str, Binned]) -> dict[str, NDArray[np.int64]]:
    return {name: np.zeros(len(each.shares), np.int64) for name, each in references.items()}

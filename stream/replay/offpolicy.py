"""What another policy would have shown where lists were drawn: its probability of each item, from the same inputs.

published lists with propensities  -->  replayed: event, record and view that each names
                                          |  the other bundle ranks its own pool
                                          v
feedback: what came of each place  -->  probability of each shown item under the other policy, given those above it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.bundle.service import Arm, Service
from stream.core.arms import unshared
from stream.core.exploration import list_probabilities
from stream.core.seam import Recommender
from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.replay.partition import Replayed
from stream.replay.verify import Answers, Published, Verifier
from stream.replay.views import View

__all__ = ["DrawnLists", "judge_lists"]


@dataclass(frozen=True, slots=True, eq=False)
class DrawnLists:
    """L lists that were drawn, each of n places; what is beyond a shorter list's end has probability 1 and no outcome.

    Attributes:
        target: (L, n) probability of each shown item under the other policy, given those above it.
        logged: (L, n) the same under the policy that was shown.
        outcomes: (L, n) 1 where something came of a place, else 0.
        user: (L,) number of the list's user.
        n_left_out: lists whose inputs could not be had again, or that were asked for with a length of their own.
    """

    target: NDArray[np.float64]
    logged: NDArray[np.float64]
    outcomes: NDArray[np.float64]
    user: NDArray[np.int64]
    n_left_out: int


def judge_lists(
    settings: KafkaSettings,
    names: TopicNames,
    answers: Answers,
    service: Service,
    target: Arm,
    hits: Mapping[str, set[int]],
    *,
    events_topic: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DrawnLists:
    """Replay what was drawn, and ask another policy about it.

    Args:
        answers: what was published.
        service: who published it.
        target: the other policy.
        hits: rec_id -> places, from 1, that something came of.
        events_topic: full name of the topic that the events came from.
        on_progress: called with the lists done so far, and all of them.

    Raises:
        PolytempoError: no list was drawn, or the other bundle cannot share the statistics of those who published.
    """
    differences = unshared(service.arms[0].bundle.features, target.bundle.features)
    if differences:
        raise PolytempoError(
            f"{target.bundle.reference} cannot be asked about these lists: it differs in {'; in '.join(differences)}.",
            "Train it with the same event types, context fields, time scales and item statistics.",
        )
    first_of = {each.rec_id: each for each in reversed(answers.published) if each.propensities is not None}
    drawn = replace(answers, published=list(first_of.values()))
    if not first_of:
        raise PolytempoError(
            "no published list was drawn by chance.", "Give a variant of the experiment an `exploration`."
        )
    length_of = {arm.variant: arm.policy.n for arm in service.arms}
    judge = _Judge(settings, names, drawn, [service], events_topic or names.events, target, length_of)
    try:
        judge.go(0, on_progress)
    finally:
        judge.close()
    return judge.lists(hits)


class _Judge(Verifier):
    """A verifier that asks another policy instead of comparing."""

    def __init__(
        self,
        settings: KafkaSettings,
        names: TopicNames,
        answers: Answers,
        services: list[Service],
        events_topic: str,
        target: Arm,
        length_of: Mapping[str, int],
    ) -> None:
        super().__init__(settings, names, answers, services, events_topic, None)
        bundle, how = target.bundle, target.policy.exploration
        n = target.policy.n if how is None else max(target.policy.n, how.pool)
        policy = replace(target.policy, n=max(n, *length_of.values()), exploration=None)
        self._target = Recommender(
            bundle.features, bundle.scorer, bundle.vocabulary, policy, bundle.tag, bundle.retriever
        )
        self._how = how
        self._length_of = length_of
        self._also_known.append(bundle.vocabulary)
        self._found: list[tuple[Published, NDArray[np.float64]]] = []
        self._n_left_out = 0

    def lists(self, hits: Mapping[str, set[int]]) -> DrawnLists:
        """All that was judged, with what came of it."""
        width = max((len(live.made.items) for live, _ in self._found), default=0)
        shape = (len(self._found), width)
        target, logged, outcomes = np.ones(shape), np.ones(shape), np.zeros(shape)
        users: dict[str, int] = {}
        user = np.zeros(len(self._found), np.int64)
        for row, (live, likely) in enumerate(self._found):
            n = len(live.made.items)
            target[row, :n], logged[row, :n] = likely, live.propensities
            user[row] = users.setdefault(live.user_id, len(users))
            for place in hits.get(live.rec_id, ()):
                outcomes[row, place - 1] = 1.0
        return DrawnLists(target, logged, outcomes, user, self._n_left_out)

    def _is_waiting(self, partition: int, also: int | None, offset: int) -> bool:  # noqa: ARG002 - as in the base
        """Each list's inputs are kept until the other policy has been asked."""
        return (partition, offset) in self._pending

    def _judge(self, live: Published, made: Replayed | None, view: View, max_explained: int) -> None:  # noqa: ARG002
        self.verdict.n += 1
        pool = self._partitions[live.partition].again(live.offset, view.statistics, self._target)
        if pool is None or len(live.made.items) != self._length_of[live.variant]:
            self._n_left_out += 1
            return
        column_of: dict[str, Any] = {item: column for column, item in enumerate(pool.items)}
        columns = np.array([column_of.get(item, -1) for item in live.made.items], np.int64)
        scores = np.array(pool.scores, np.float32)
        n_pool = len(scores) if self._how is None else max(self._how.pool, len(columns))
        columns[columns >= n_pool] = -1
        self._found.append((live, list_probabilities(self._how, scores[:n_pool], columns)))

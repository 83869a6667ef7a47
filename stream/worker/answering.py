"""One arm at work: its recommender, and its answers as messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.bundle.service import Arm
from stream.core.parts import Part, starts
from stream.core.ranking import Ranked, reasons_of
from stream.core.seam import Answers, Recommender
from stream.core.statistics import ItemStatistics
from stream.core.tally import Tally
from stream.wire.encode import encode_recommendations

__all__ = ["Answering"]

_DECIMALS: Final = 6
"""Of a score in a message: float32 holds no more, and shorter messages are cheaper to everybody."""


class Answering:
    """One arm at work.

    Args:
        arm: who scores under which rules.
        tally: counts what its model is given and says.
    """

    def __init__(self, arm: Arm, tally: Tally | None = None) -> None:
        bundle = arm.bundle
        self.arm = arm
        self.recommender = Recommender(
            bundle.features, bundle.scorer, bundle.vocabulary, arm.policy, bundle.tag, bundle.retriever, tally
        )
        self.tally = tally
        self._reasons: dict[int, list[str]] = {}

    def encode(self, parts: Sequence[Part], answers: Answers, view: ItemStatistics) -> list[list[tuple[int, bytes]]]:
        """For each part, (row of the part, message) of the events that were answered, in their order."""
        item_ids, scores, reasons = self._named(answers.ranked, view)
        propensities = _rounded(answers.ranked)
        first = starts([len(part.batch) for part in parts])
        cuts = np.searchsorted(answers.rows, first).tolist()
        said = []
        for number, part in enumerate(parts):
            here = slice(cuts[number], cuts[number + 1])
            rows = answers.rows[here] - first[number]
            answered = part.batch if len(rows) == len(part.batch) else part.batch.take(rows)
            topic, _, partition = part.source.rpartition("/")
            values = encode_recommendations(
                answered,
                item_ids[here],
                scores[here],
                reasons[here],
                None if propensities is None else propensities[here],
                topic=topic,
                partition=int(partition),
                model=self.arm.bundle.reference,
                variants=[self.arm.variant] * len(answered),
                activity_offset=view.offset,
                items_offset=view.items_offset,
            )
            said.append(list(zip(rows.tolist(), values, strict=True)))
        return said

    def _named(
        self, ranked: Ranked, view: ItemStatistics
    ) -> tuple[list[list[str]], list[list[float]], list[list[list[str]]]]:
        """Items, scores and reasons of each recommendation, as messages want them."""
        ids, reason_of = view.catalogue.ids, self._reason_of
        numbers: list[list[int]] = ranked.items.tolist()
        scores: list[list[float]] = np.round(ranked.scores.astype(np.float64), _DECIMALS).tolist()
        sources: list[list[int]] = ranked.sources.tolist()
        reasons = [list(map(reason_of, row)) for row in sources]
        if ranked.items.size > 0 and int(ranked.items.min()) < 0:  # some have fewer items than others
            n_items: NDArray[np.int64] = (ranked.items >= 0).sum(1)
            for row, n in enumerate(n_items.tolist()):
                del numbers[row][n:], scores[row][n:], reasons[row][n:]
        return [[ids[number] for number in row] for row in numbers], scores, reasons

    def _reason_of(self, sources: int) -> list[str]:
        reasons = self._reasons.get(sources)
        if reasons is None:
            bundle = self.arm.bundle
            from_candidates = bundle.scorer.space == "candidates"
            named = reasons_of(bundle.features, sources, from_candidates=from_candidates, parts=bundle.parts)
            reasons = self._reasons[sources] = list(named)
        return reasons


def _rounded(ranked: Ranked) -> list[list[float]] | None:
    """Propensities with six digits that count, as many as items; None where nothing is left to chance."""
    if ranked.propensity is None:
        return None
    there = (ranked.items >= 0).sum(1).tolist()
    rows = ranked.propensity.tolist()
    return [[float(f"{likely:.6g}") for likely in row[:n]] for row, n in zip(rows, there, strict=True)]

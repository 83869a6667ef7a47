"""One arm at work: its recommender, and its answers as messages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
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
from stream.wire.lists import DECIMALS, ListWriter, encode_lists

__all__ = ["Answering"]


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
        self._reason_of: Final = cache(self._reasons_of)
        self._writer: Final = ListWriter(self._reasons_of)

    def encode(self, parts: Sequence[Part], answers: Answers, view: ItemStatistics) -> list[list[tuple[int, bytes]]]:
        """For each part, (row of the part, message) of the events that were answered, in their order."""
        lists = self._lists(answers.ranked, view)
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
                lists[here],
                topic=topic,
                partition=int(partition),
                model=self.arm.bundle.reference,
                variant=self.arm.variant,
                activity_offset=view.offset,
                items_offset=view.items_offset,
            )
            said.append(list(zip(rows.tolist(), values, strict=True)))
        return said

    def _lists(self, ranked: Ranked, view: ItemStatistics) -> list[bytes]:
        """The items of each recommendation as messages have them."""
        ids = view.catalogue.ids
        if ranked.propensity is None:
            lists = self._writer.write(ranked.items, ranked.scores, ranked.sources, ids)
            if lists is not None:
                return lists
        numbers: list[list[int]] = ranked.items.tolist()
        scores: list[list[float]] = np.round(ranked.scores.astype(np.float64), DECIMALS).tolist()
        sources: list[list[int]] = ranked.sources.tolist()
        n_items: NDArray[np.int64] = (ranked.items >= 0).sum(1)  # some have fewer items than others
        for row, n in enumerate(n_items.tolist()):
            del numbers[row][n:], scores[row][n:], sources[row][n:]
        item_ids = [[ids[number] for number in row] for row in numbers]
        return encode_lists(item_ids, scores, [list(map(self._reason_of, row)) for row in sources], _rounded(ranked))

    def _reasons_of(self, sources: int) -> tuple[str, ...]:
        bundle = self.arm.bundle
        from_candidates = bundle.scorer.space == "candidates"
        return reasons_of(bundle.features, sources, from_candidates=from_candidates, parts=bundle.parts)


def _rounded(ranked: Ranked) -> list[list[float]] | None:
    """Propensities with six digits that count, as many as items; None where nothing is left to chance."""
    if ranked.propensity is None:
        return None
    there = (ranked.items >= 0).sum(1).tolist()
    rows = ranked.propensity.tolist()
    return [[float(f"{likely:.6g}") for likely in row[:n]] for row, n in zip(rows, there, strict=True)]

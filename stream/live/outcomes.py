"""Running totals of feedback, by model and variant: what `polytempo feedback` has counted so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from stream.wire.messages import FeedbackTotals

__all__ = ["Online", "OnlineRates"]


@dataclass(frozen=True, slots=True)
class Online:
    """A model and variant over one span of time, or over all spans that are kept.

    Attributes:
        from_ms, to_ms: the span.
        n_recommendations: recommendations of that time.
        hit_rate: share of them that led to something; None for none.
        n_shown: recommendations that were reported as shown.
        click_through: share of those that led to something; None for none.
    """

    model: str
    variant: str
    from_ms: int
    to_ms: int
    n_recommendations: int
    hit_rate: float | None
    n_shown: int
    click_through: float | None

    def as_json(self) -> dict[str, Any]:
        """For one line of JSON."""
        return {
            "model": self.model,
            "variant": self.variant,
            "from_ms": self.from_ms,
            "to_ms": self.to_ms,
            "recommendations": self.n_recommendations,
            "hit_rate": None if self.hit_rate is None else round(self.hit_rate, 4),
            "shown": self.n_shown,
            "click_through": None if self.click_through is None else round(self.click_through, 4),
        }


class OnlineRates:
    """Sums the latest totals of all partitions.

    Args:
        n_spans: spans of time that are kept.
    """

    def __init__(self, n_spans: int = 24) -> None:
        self._n_spans: Final = n_spans
        self._spans: dict[int, dict[tuple[str, str, int], FeedbackTotals]] = {}

    def add(self, totals: FeedbackTotals) -> None:
        """Of a partition, span, model and variant the last one counts."""
        if totals.from_ms not in self._spans and len(self._spans) >= self._n_spans:
            oldest = min(self._spans)
            if totals.from_ms < oldest:
                return
            del self._spans[oldest]
        cells = self._spans.setdefault(totals.from_ms, {})
        cells[totals.model, totals.variant, totals.partition] = totals

    def overall(self) -> list[Online]:
        """All spans that are kept, by model and variant."""
        return _summed(totals for cells in self._spans.values() for totals in cells.values())

    def by_span(self) -> list[Online]:
        """Every span, the earliest first, by model and variant."""
        return [online for start in sorted(self._spans) for online in _summed(self._spans[start].values())]


def _summed(totals: Iterable[FeedbackTotals]) -> list[Online]:
    groups: dict[tuple[str, str], list[FeedbackTotals]] = {}
    for each in totals:
        groups.setdefault((each.variant, each.model), []).append(each)
    found = []
    for (variant, model), mine in sorted(groups.items()):
        made, shown = sum(each.n_recommendations for each in mine), sum(each.n_shown for each in mine)
        found.append(
            Online(
                model,
                variant,
                min(each.from_ms for each in mine),
                max(each.to_ms for each in mine),
                made,
                sum(each.n_hits for each in mine) / made if made > 0 else None,
                shown,
                sum(each.n_shown_hits for each in mine) / shown if shown > 0 else None,
            )
        )
    return found

"""Totals of partitions and spans, the last word of each, summed by model and variant."""

from __future__ import annotations

from typing import Any

from stream.live.outcomes import OnlineRates
from stream.wire.messages import FeedbackTotals


def totals(partition: int, hour: int, made: int, hits: int, **more: Any) -> FeedbackTotals:
    fields = {"variant": "a", "n_shown": 0, "n_shown_hits": 0, "is_over": False} | more
    return FeedbackTotals(
        partition=partition,
        from_ms=hour,
        to_ms=hour + 1,
        model="m@1",
        n_recommendations=made,
        n_hits=hits,
        n_outcomes=hits,
        **fields,
    )


def test_the_last_totals_of_each_partition_are_summed() -> None:
    rates = OnlineRates()
    for each in (totals(0, 5, 10, 1), totals(1, 5, 30, 9), totals(0, 5, 20, 6), totals(0, 6, 50, 0)):
        rates.add(each)
    (overall,) = rates.overall()
    assert (overall.n_recommendations, overall.hit_rate, overall.from_ms, overall.to_ms) == (100, 0.15, 5, 7)
    assert [(each.from_ms, each.n_recommendations) for each in rates.by_span()] == [(5, 50), (6, 50)]


def test_variants_stand_apart_and_click_through_counts_what_was_shown() -> None:
    rates = OnlineRates()
    rates.add(totals(0, 5, 10, 4, n_shown=5, n_shown_hits=2))
    rates.add(totals(0, 5, 10, 1, variant="b"))
    first, second = rates.overall()
    assert (first.variant, first.click_through, second.variant, second.click_through) == ("a", 0.4, "b", None)


def test_old_spans_are_forgotten() -> None:
    rates = OnlineRates(n_spans=3)
    for hour in (1, 2, 3, 4, 1):
        rates.add(totals(0, hour, 1, 0))
    assert [each.from_ms for each in rates.by_span()] == [2, 3, 4]

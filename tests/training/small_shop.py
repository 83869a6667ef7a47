"""A shop of a few thousand events, for tests that train on it."""

from __future__ import annotations

from functools import cache

from stream.core.candidates import CandidateSpec
from stream.core.features import FeatureSpec
from stream.core.scales import DAY_MS, HOUR_MS
from stream.core.statistics import CoVisitationChannel, PopularityChannel, SegmentField, StatisticsSpec
from stream.demo.shop import ShopConfig, ShopLog, simulate
from training.log import Log

SPEC = FeatureSpec(
    statistics=StatisticsSpec(
        popularity=(
            PopularityChannel(HOUR_MS),
            PopularityChannel(DAY_MS, "continuing"),
            PopularityChannel(DAY_MS, "all", "device"),
        ),
        co_visitation=(CoVisitationChannel(DAY_MS, "next"), CoVisitationChannel(7 * DAY_MS, "any")),
        segments=(SegmentField("device", ("mobile", "desktop")),),
        n_slots=32,
    ),
    candidates=CandidateSpec(n=64, lists=(("all:1h", 30),), n_newest=5),
)


@cache
def shop() -> ShopLog:
    """About 5,000 events of 150 users on 150 items, over two and a half days."""
    return simulate(ShopConfig(n_users=150, n_items=150, n_categories=5, days=2.5, events_per_day=2_000), seed=3)


def shop_log(n_events: int | None = None) -> Log:
    """Its first events."""
    events = shop().events
    return Log.of(events if n_events is None else events.head(n_events), SPEC.types, ("device",))

"""Live statistics of items: decayed popularity and co-visitation at several scales, global and by segment.

All of it is folded from `ActivityBatch`es in event time. Decay is exact and costs no timer:

* Popularity uses forward decay (Cormode, Shkapenyuk, Srivastava, Xu: Forward Decay, ICDE 2009): an event at time t adds
  2^((t - L) / h) to its item and to the total, L being a landmark that moves on before numbers grow large. A share,
  item over total, needs no time at all, since both decay alike. What nobody touches keeps its place among the others,
  so a list changes by what was counted since, and logarithms of shares are taken where somebody looks.
* Co-visitation keeps for each item a bounded row of slots, one per neighbour, valued as of the row's own time. Adding
  to a row first brings the whole row to the event's time; reading it as of a later time is one factor per half-life.
"""

from stream.core.statistics.listing import N_LISTED, bring_up, log_share_of
from stream.core.statistics.spec import CoVisitationChannel, PopularityChannel, SegmentField, StatisticsSpec
from stream.core.statistics.view import ItemStatistics

__all__ = [
    "N_LISTED",
    "CoVisitationChannel",
    "ItemStatistics",
    "PopularityChannel",
    "SegmentField",
    "StatisticsSpec",
    "bring_up",
    "log_share_of",
]

"""Why a live recommendation and its replay differ: which one change of the inputs would make them the same.

scores     the same scores, place by place: items that are as good as equal have changed places
view       the live list comes out with another view of the item statistics than the one that it names
state      the live list comes out if nothing is known of the user's past; or the replay finds no event to answer
features   neither does it: features are computed otherwise, or the bundle is another one
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from stream.core.statistics import ItemStatistics
from stream.replay.partition import Replayed
from stream.replay.views import Point, View

__all__ = ["Because", "Explanation", "explain"]

Because = Literal["scores", "view", "state", "features"]

_NEAR: Final = 50  # views on either side of the one that is named


@dataclass(frozen=True, slots=True)
class Explanation:
    """One difference.

    Attributes:
        because: what it comes from.
        detail: for people.
        user_id: whose recommendation.
        partition, offset: of the event.
        activity_offset, items_offset: the view that the live one names.
        live, replayed: both lists.
    """

    because: Because
    detail: str
    user_id: str
    partition: int
    offset: int
    activity_offset: int
    items_offset: int
    live: tuple[str, ...]
    replayed: tuple[str, ...]


def explain(
    live: Replayed,
    made: Replayed | None,
    *,
    user_id: str,
    place: tuple[int, int],
    point: Point,
    tolerance: float,
    again: Callable[[ItemStatistics], Replayed | None],
    without_history: Callable[[], Replayed | None],
    fresh_view: Callable[[], View],
) -> Explanation:
    """Try one change after another.

    Args:
        live, made: the two recommendations; `made` is None where the replay made none.
        place: partition and offset of the event.
        point: the view that was named.
        tolerance: scores that are no further apart are equal.
        again: makes the recommendation as of other statistics; None where the event's state is not kept.
        without_history: makes it for a user without a past.
        fresh_view: a view at the beginning of its topics.
    """
    because, detail = _reason(live, made, point, tolerance, again, without_history, fresh_view)
    return Explanation(because, detail, user_id, *place, *point, live.items, made.items if made is not None else ())


def _reason(
    live: Replayed,
    made: Replayed | None,
    point: Point,
    tolerance: float,
    again: Callable[[ItemStatistics], Replayed | None],
    without_history: Callable[[], Replayed | None],
    fresh_view: Callable[[], View],
) -> tuple[Because, str]:
    if made is None:
        return "state", "the replay finds the event refused, applied before or not there at all"
    apart = [abs(one - two) for one, two in zip(live.scores, made.scores, strict=False)]
    same_length = len(live.scores) == len(made.scores)
    if same_length and all(each <= tolerance for each in apart):
        moved = [str(at + 1) for at, (a, b) in enumerate(zip(live.items, made.items, strict=True)) if a != b]
        return "scores", f"as good as equal: the scores agree to {tolerance:g}, the items at {', '.join(moved)} do not"
    other = _other_view(live, point, tolerance, again, fresh_view)
    if other is not None:
        return "view", (
            f"the live list is that of activity offset {other.activity} and items offset {other.items}, "
            f"it names {point.activity} and {point.items}"
        )
    blank = without_history()
    if blank is not None and _same(live, blank, tolerance):
        return "state", "the live list is that of a user of whom nothing was known before the event"
    if live.items == made.items:
        return "features", f"the same items, with scores up to {max(apart, default=0.0):.3g} apart"
    both = zip(live.items, made.items, strict=False)
    at = next((at for at, (a, b) in enumerate(both) if a != b), min(len(live.items), len(made.items)))
    return "features", (
        f"the lists part at place {at + 1}; no view near the one that is named leads to the live list, "
        "nor does a user without a past"
    )


def _other_view(
    live: Replayed,
    point: Point,
    tolerance: float,
    again: Callable[[ItemStatistics], Replayed | None],
    fresh_view: Callable[[], View],
) -> Point | None:
    near = range(-_NEAR, _NEAR + 1)
    ways = (
        [Point(max(-1, point.activity + step), point.items) for step in near],
        [Point(point.activity, max(-1, point.items + step)) for step in near],
    )
    for points in ways:
        view = fresh_view()
        try:
            for each in dict.fromkeys(points):
                if not view.reach(each):
                    continue
                made = again(view.statistics)
                if made is None:
                    return None
                if each != point and _same(live, made, tolerance):
                    return each
        finally:
            view.close()
    return None


def _same(one: Replayed, two: Replayed, tolerance: float) -> bool:
    return one.items == two.items and all(abs(a - b) <= tolerance for a, b in zip(one.scores, two.scores, strict=True))

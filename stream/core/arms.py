"""Several recommenders over one fold: each answers its own users, and everything that is counted is counted once.

    batch  --fold-->  records, activity         once, whoever answers
                        |  users of arm 0  -->  featurize, score, rank with recommender 0
                        |  users of arm 1  -->  featurize, score, rank with recommender 1

A record has room for the widest recurrent state; it holds that of the recommender that answered its user last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.core.activity import ActivityBatch
from stream.core.events import EventBatch
from stream.core.features import FeatureSpec
from stream.core.fold import Folded
from stream.core.parts import Part, joined
from stream.core.seam import Answers, Recommender
from stream.core.state import States, StateSpec
from stream.core.statistics import ItemStatistics

__all__ = ["Arms", "ArmsStepped", "unshared"]


@dataclass(frozen=True, slots=True, eq=False)
class ArmsStepped:
    """What a batch led to.

    Attributes:
        folded: the records, and the outcome of each event.
        answers: of each arm.
        activities: what each part of the batch adds to the item statistics.
        batch: all parts, one after the other.
    """

    folded: Folded
    answers: list[Answers]
    activities: tuple[ActivityBatch, ...]
    batch: EventBatch


def unshared(one: FeatureSpec, other: FeatureSpec) -> list[str]:
    """What keeps two specifications from sharing a fold, in words; empty if nothing does."""
    state, other_state = one.state, other.state
    pairs: list[tuple[str, Any, Any]] = [
        ("event types and weights", one.types.as_json(), other.types.as_json()),
        ("time scales (ms)", [s.span_ms for s in state.scales], [s.span_ms for s in other_state.scales]),
        ("buckets of time scales (ms)", [s.bucket_ms for s in state.scales], [s.bucket_ms for s in other_state.scales]),
        ("session gap (ms)", state.session_gap_ms, other_state.session_gap_ms),
        *(
            (what, getattr(state, name), getattr(other_state, name))
            for name, what in (
                ("n_ring", "recent events kept"),
                ("n_ids", "event ids kept"),
                ("n_sources", "input partitions kept"),
                ("n_kinds", "kinds counted"),
            )
        ),
        ("steps for values", one.values, other.values),
        ("context fields", list(one.statistics.segments), list(other.statistics.segments)),
        ("popularity channels", list(one.statistics.popularity), list(other.statistics.popularity)),
        ("co-visitation channels", list(one.statistics.co_visitation), list(other.statistics.co_visitation)),
        ("half-lives of returns (ms)", one.statistics.returns, other.statistics.returns),
        ("neighbours kept of an item", one.statistics.n_slots, other.statistics.n_slots),
    ]
    found = [f"{what}: {a} and {b}" for what, a, b in pairs if a != b or _ordered(a) != _ordered(b)]
    if not found and (state != other_state or one.statistics != other.statistics):
        found = ["the layout of records or statistics"]
    return found


class Arms:
    """Recommenders that share event types, records and item statistics.

    Args:
        recommenders: one at least.

    Raises:
        ValueError: they do not share them; the message says what differs.
    """

    def __init__(self, recommenders: Sequence[Recommender]) -> None:
        self.recommenders: Final = tuple(recommenders)
        first = self.recommenders[0].spec
        for other in self.recommenders[1:]:
            differences = unshared(first, other.spec)
            if differences:
                raise ValueError("; ".join(differences))
            if other.policy.forget_after_ms != self.recommenders[0].policy.forget_after_ms:
                raise ValueError("recommenders that share records forget them after the same time")
        width = max(each.n_state for each in self.recommenders)
        self.state_spec: Final[StateSpec] = replace(first.state, n_model=width)

    def step(
        self,
        states: States,
        parts: Sequence[Part],
        view: ItemStatistics,
        arm: NDArray[np.integer[Any]],
        *,
        select: NDArray[np.bool_] | None = None,
    ) -> ArmsStepped:
        """Apply batches of distinct partitions and let each arm answer its users; see `Recommender.step`.

        Args:
            states: (U,) records of the users of all parts, one part after the other, in the layout of `state_spec`.
            parts: B events in all; rows of the result count on through the parts.
            arm: (U,) which recommender each user has.
        """
        first = self.recommenders[0]
        batch = first.spec.values.apply(joined(parts))
        folded = first.fold(states, batch, parts, spec=self.state_spec)
        activities = first.activities(batch, folded, parts)
        answers = [
            each.recommend(
                states,
                folded,
                batch,
                view,
                parts,
                users=None if len(self.recommenders) == 1 else arm == number,
                select=select,
            )
            for number, each in enumerate(self.recommenders)
        ]
        return ArmsStepped(folded, answers, activities, batch)


def _ordered(value: Any) -> Any:
    """Mappings differ by their order too: it gives event types their codes."""
    return list(value.items()) if isinstance(value, dict) else value

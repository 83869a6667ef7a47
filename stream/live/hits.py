"""How often the next thing a user does was among what was recommended just before.

    user      |  a  b  a  c  |        c  d  |        sessions: silence of more than 30 minutes of event time ends one
    target    |     *     *  |           *  |        not a session's first event, and new to the session
    judged    |  a     a     |        c     |        the recommendation that the event before it caused

The opponent is what was popular when that event happened, without the session's items: both lists are of the same
moment, and neither knows the target.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from stream.live.popularity import RecentPopularity

__all__ = ["SESSION_GAP_MS", "HitRates", "Place"]

SESSION_GAP_MS: Final = 30 * 60 * 1000
_MAX_WAITING: Final = 100_000

_What = TypeVar("_What")

Place = tuple[int, int]
"""Partition and offset of an event."""


@dataclass(slots=True)
class _User:
    """A user's session, and the two lists that stand against its next event."""

    place: Place
    ts_ms: int
    counts: bool
    session: set[str] = field(default_factory=set)
    popular: tuple[str, ...] = ()
    answer: tuple[str, ...] | None = None
    """What was recommended after the last event; None until it has been seen."""


@dataclass(frozen=True, slots=True)
class _Target:
    item_id: str
    is_popular: bool


class HitRates:
    """Hit rates at `k` of recommendations and of popularity, over the same targets.

    Events and recommendations may be told in any order between the two; events of one user in theirs.

    Args:
        k: how many items of a list count.
        popularity: the opponent; fed here.
        max_users: users whose session is remembered; beyond, those who were silent the longest are forgotten.

    Attributes:
        n_targets: targets whose recommendation has been seen.
        n_hits: those that it named.
        n_popular_hits: those that popularity would have named.
    """

    def __init__(self, k: int = 10, *, popularity: RecentPopularity | None = None, max_users: int = 100_000) -> None:
        self.k: Final = k
        self.n_targets = 0
        self.n_hits = 0
        self.n_popular_hits = 0
        self._popularity: Final = RecentPopularity() if popularity is None else popularity
        self._max_users: Final = max_users
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._waiting: OrderedDict[Place, _Target] = OrderedDict()
        self._early: OrderedDict[Place, tuple[str, ...]] = OrderedDict()

    @property
    def hit_rate(self) -> float | None:
        """Share of the targets that were recommended; None without targets."""
        return self.n_hits / self.n_targets if self.n_targets > 0 else None

    @property
    def popular_hit_rate(self) -> float | None:
        """Share of the targets that were popular; None without targets."""
        return self.n_popular_hits / self.n_targets if self.n_targets > 0 else None

    @property
    def n_waiting(self) -> int:
        """Targets whose recommendation has not been seen yet."""
        return len(self._waiting)

    def event(
        self, place: Place, user_id: str, item_id: str, ts_ms: int, *, weight: float = 1.0, counts: bool = True
    ) -> None:
        """Something that a user did to an item.

        Args:
            place: where the event is.
            user_id: who did it.
            item_id: to what.
            ts_ms: event time.
            weight: of its type; only a positive one makes a target, and makes popular.
            counts: whether it belongs to what is measured. One that does not still makes popular, and sessions.
        """
        user = self._users.pop(user_id, None)
        if user is None or ts_ms - user.ts_ms > SESSION_GAP_MS:
            user = _User(place, ts_ms, counts)
        elif weight > 0 and item_id not in user.session and counts and user.counts:
            self._judge(user, _Target(item_id, item_id in user.popular))
        if weight > 0:
            self._popularity.add(item_id, ts_ms)
        user.session.add(item_id)
        user.place, user.ts_ms, user.counts = place, ts_ms, counts
        user.popular = self._popularity.best(self.k, user.session)
        user.answer = self._early.pop(place, None)
        self._users[user_id] = user
        if len(self._users) > self._max_users:
            self._users.popitem(last=False)

    def recommendation(self, place: Place, user_id: str, item_ids: Sequence[str]) -> None:
        """What was recommended because of the event at `place`, best first. Of a repeated one the first counts."""
        answer = tuple(item_ids[: self.k])
        target = self._waiting.pop(place, None)
        if target is not None:
            self._count(target, answer)
            return
        user = self._users.get(user_id)
        if user is not None and user.place == place:
            user.answer = answer if user.answer is None else user.answer
        elif user is None or user.place[0] != place[0] or user.place[1] < place[1]:
            _remember(self._early, place, answer)  # its event has not been told yet
        # What is left was overtaken by the user's next event, which was no target.

    def forget(self, user_id: str) -> None:
        """Drop what is known of a user."""
        self._users.pop(user_id, None)

    def refused(self, place: Place) -> None:
        """The event at `place` will have no recommendation."""
        self._waiting.pop(place, None)

    def _judge(self, user: _User, target: _Target) -> None:
        if user.answer is None:
            _remember(self._waiting, user.place, target)
        else:
            self._count(target, user.answer)

    def _count(self, target: _Target, answer: tuple[str, ...]) -> None:
        self.n_targets += 1
        self.n_hits += target.item_id in answer
        self.n_popular_hits += target.is_popular


def _remember(memory: OrderedDict[Place, _What], place: Place, what: _What) -> None:
    memory[place] = what
    if len(memory) > _MAX_WAITING:
        memory.popitem(last=False)

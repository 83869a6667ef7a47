"""Events joined to the recommendations that caused them, for one partition: no clock, no Kafka.

    events           e0    e1    e2    e3         each is looked at once all recommendations before it are known
    recommendations     r0    r1    r2            r1 answers e1 and stands behind it, before e2
    outcome                        e3 -> r1       of those before e3 that hold its item the one that answers the
                                                  latest event; or the one that it names

The order is that of the topics: first the event at an offset, then what was recommended for it, whichever arrives here
first. So what comes out is a function of the two topics alone.

Time is the events' own. The watermark is the latest time seen; an event that lags it by more than the allowed lateness
is not joined. What users had in a span of time is told when nothing can be added any more:

    span [0, 60)   window 30   lateness 10        told when the watermark reaches 100

After a restart everything is read again from a checkpoint before the first thing that is still open, and the outcome is
the same: what was told before comes again with the same id, or is left out where it is known to have been delivered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from operator import attrgetter
from sys import intern
from typing import Final, Literal, NamedTuple

__all__ = [
    "Checkpoint",
    "Happened",
    "JoinRules",
    "Joined",
    "Joiner",
    "Recommended",
    "Resume",
    "SpanKey",
    "Tally",
    "Told",
]

NEVER_MS: Final = -(2**62)


@dataclass(frozen=True, slots=True)
class JoinRules:
    """What counts as caused by a recommendation.

    Attributes:
        outcomes: event types that count as success.
        impression: the event type that says that a recommendation, named by `rec_id`, was shown.
        window_ms: time after a recommendation in which it can have caused something, both ends included.
        span_ms: length of the spans that are summed up.
        lateness_ms: how far an event may lag the latest one.
        max_open: recommendations remembered; beyond, the oldest are forgotten.
    """

    outcomes: frozenset[str] = frozenset({"view", "click", "cart", "purchase", "rating", "like"})
    impression: str = "impression"
    window_ms: int = 30 * 60_000
    span_ms: int = 60 * 60_000
    lateness_ms: int = 10 * 60_000
    max_open: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the partition; `rec_id` is what its context names."""

    offset: int
    user_id: str
    item_id: str
    event_type: str
    ts_ms: int
    event_id: str | None = None
    rec_id: str | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Recommended:
    """A recommendation; `place` is its record's offset, `offset` that of the event that it answers."""

    place: int
    offset: int
    rec_id: str
    user_id: str
    ts_ms: int
    items: tuple[str, ...]
    model: str
    variant: str


@dataclass(slots=True)
class Tally:
    """Counts of recommendations.

    Attributes:
        n_recommendations: made.
        n_hits: those that caused at least one outcome.
        n_outcomes: outcomes.
        n_shown: those of which an impression was reported.
        n_shown_hits: those that were shown and caused an outcome.
    """

    n_recommendations: int = 0
    n_hits: int = 0
    n_outcomes: int = 0
    n_shown: int = 0
    n_shown_hits: int = 0

    def add(self, other: Tally) -> None:
        """Count what the other one counts."""
        self.n_recommendations += other.n_recommendations
        self.n_hits += other.n_hits
        self.n_outcomes += other.n_outcomes
        self.n_shown += other.n_shown
        self.n_shown_hits += other.n_shown_hits


@dataclass(frozen=True, slots=True)
class Joined:
    """An event and the recommendation that caused it; `position` counts from 1, None where the item is not in it."""

    event: Happened
    rec_id: str
    recommended_ms: int
    model: str
    variant: str
    position: int | None
    by: Literal["rec_id", "item"]


class SpanKey(NamedTuple):
    """Whose counts: the span `[start_ms, start_ms + span_ms)` of recommendations' times, and who recommended."""

    start_ms: int
    user_id: str
    model: str
    variant: str


class TotalKey(NamedTuple):
    """Whose totals over all users of the partition."""

    start_ms: int
    model: str
    variant: str


@dataclass(frozen=True, slots=True)
class Told:
    """A user's counts of a span that is over."""

    key: SpanKey
    tally: Tally


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where reading can begin: everything before the two offsets is merged.

    Attributes:
        events, recommendations: next offset of each topic.
        reached: the furthest event that is answered.
        watermark_ms: the latest time seen.
    """

    events: int = 0
    recommendations: int = 0
    reached: int = -1
    watermark_ms: int = NEVER_MS


@dataclass(frozen=True, slots=True)
class Resume:
    """All that a restart needs.

    Attributes:
        start: where to read from.
        done: events before this offset have been told about.
        told_before_ms: spans that end by this time have been told about.
    """

    start: Checkpoint = field(default_factory=Checkpoint)
    done: int = 0
    told_before_ms: int = NEVER_MS


@dataclass(slots=True, eq=False)
class _Open:
    """A recommendation that may still cause something."""

    rec_id: str
    offset: int
    user_id: str
    ts_ms: int
    items: tuple[str, ...]
    key: SpanKey
    is_hit: bool = False
    is_shown: bool = False


@dataclass(slots=True)
class _Span:
    since: int
    cells: dict[SpanKey, Tally] = field(default_factory=dict)


class Joiner:
    """Joins the two topics' partitions of one number.

    Args:
        rules: what counts.
        resume: where an earlier one stopped.
        checkpoint_every: steps between two places where a restart may begin.

    Attributes:
        n_late: events that came too late to be joined.
        n_repeated: recommendations that came again.
        n_forgotten: recommendations forgotten for want of room.
    """

    def __init__(self, rules: JoinRules, resume: Resume | None = None, *, checkpoint_every: int = 500) -> None:
        resume = Resume() if resume is None else resume
        self.rules: Final = rules
        self._checkpoint_every: Final = checkpoint_every
        self.n_late = 0
        self.n_repeated = 0
        self.n_forgotten = 0
        self._events: deque[tuple[int, Happened | None]] = deque()
        self._answers: deque[tuple[int, int, Recommended]] = deque()  # where it stands, its place
        self._at = resume.start
        self._read_events = resume.start.events - 1
        self._read_reached = resume.start.reached
        self._done = resume.done
        self._told_before_ms = resume.told_before_ms
        self._step = 0
        self._checkpoints: deque[tuple[int, Checkpoint]] = deque([(0, resume.start)])
        self._recommendations: dict[str, _Open] = {}  # in the order of their making
        self._of_user: dict[str, list[_Open]] = {}
        self._event_ids: dict[tuple[str, str, int], None] = {}
        self._spans: dict[int, _Span] = {}
        self._told: list[Joined | Told] = []
        self._totals: dict[TotalKey, Tally] = {}
        self._changed: set[TotalKey] = set()
        self._over: dict[TotalKey, Tally] = {}

    @property
    def n_waiting_events(self) -> int:
        """Events whose recommendations are not all known yet."""
        return len(self._events)

    @property
    def n_waiting_recommendations(self) -> int:
        """Recommendations whose events have not been read yet."""
        return len(self._answers)

    @property
    def n_open(self) -> int:
        """Recommendations that may still cause something."""
        return len(self._recommendations)

    @property
    def watermark_ms(self) -> int:
        """The latest time seen."""
        return self._at.watermark_ms

    @property
    def is_catching_up(self) -> bool:
        """Whether it still reads what an earlier one had read: running totals are too small until then."""
        return self._at.events < self._done

    def events(self, records: Iterable[tuple[int, Happened | None]]) -> None:
        """Read on in `events`: offset and event, None for what is none."""
        for offset, event in records:
            if offset > self._read_events:
                self._events.append((offset, event))
                self._read_events = offset
        self._merge()

    def recommendations(self, records: Iterable[tuple[int, Recommended | None]]) -> None:
        """Read on in `recommendations`: offset of the record and what it says, None for somebody else's message."""
        for place, answer in records:
            if answer is None:
                continue
            # A copy that comes late stands where the topic has it, behind what was answered before it.
            self._read_reached = max(self._read_reached, answer.offset)
            self._answers.append((self._read_reached, place, answer))
        self._merge()

    def told(self) -> list[Joined | Told]:
        """What has become known since the last call."""
        found, self._told = self._told, []
        return found

    def totals(self) -> dict[TotalKey, tuple[Tally, bool]]:
        """Totals that have changed since the last call, and whether their span is over."""
        if self.is_catching_up:
            return {}
        found = {key: (tally, True) for key, tally in self._over.items()}
        found |= {key: (replace(self._totals[key]), False) for key in self._changed}
        self._changed.clear()
        self._over.clear()
        return found

    def resume(self) -> Resume:
        """What a restart needs, if everything told so far has been delivered."""
        since = min((span.since for span in self._spans.values()), default=self._step)
        while len(self._checkpoints) > 1 and self._checkpoints[1][0] <= since:
            self._checkpoints.popleft()
        start = self._at if since == self._step else self._checkpoints[0][1]
        return Resume(start, max(self._done, self._at.events), self._told_before_ms)

    def _merge(self) -> None:
        events, answers = self._events, self._answers
        while True:
            if events and answers and events[0][0] <= answers[0][0]:
                offset, event = events.popleft()
                self._step_on(Checkpoint(offset + 1, self._at.recommendations, self._at.reached, self.watermark_ms))
                if event is not None:
                    self._happened(event)
            elif answers and answers[0][0] <= self._read_events:
                stands_at, place, answer = answers.popleft()
                self._step_on(Checkpoint(self._at.events, place + 1, stands_at, self.watermark_ms))
                self._recommended(answer)
            else:
                return

    def _step_on(self, at: Checkpoint) -> None:
        if self._step % self._checkpoint_every == 0 and self._step > 0:
            self._checkpoints.append((self._step, self._at))
        self._at = at
        self._step += 1

    def _happened(self, event: Happened) -> None:
        rules = self.rules
        if event.ts_ms > self.watermark_ms:
            self._at = Checkpoint(self._at.events, self._at.recommendations, self._at.reached, event.ts_ms)
            self._expire()
        is_impression = event.event_type == rules.impression
        if not is_impression and event.event_type not in rules.outcomes:
            return
        if event.ts_ms < self.watermark_ms - rules.lateness_ms:
            self.n_late += 1
            return
        self._span_of(event.ts_ms)
        if event.event_id is not None:
            name = (event.user_id, event.event_id, event.ts_ms)
            if name in self._event_ids:
                return
            self._event_ids[name] = None
        cause = self._cause(event, is_impression=is_impression)
        if cause is None:
            return
        tally, key = self._spans[cause.key.start_ms].cells[cause.key], cause.key
        total_key = TotalKey(key.start_ms, key.model, key.variant)
        change = Tally()
        if is_impression:
            change.n_shown = int(not cause.is_shown)
            change.n_shown_hits = int(cause.is_hit and not cause.is_shown)
            cause.is_shown = True
        else:
            change.n_outcomes = 1
            change.n_hits = int(not cause.is_hit)
            change.n_shown_hits = int(cause.is_shown and not cause.is_hit)
            cause.is_hit = True
        tally.add(change)
        self._totals[total_key].add(change)
        self._changed.add(total_key)
        if event.offset >= self._done:
            position = cause.items.index(event.item_id) + 1 if event.item_id in cause.items else None
            by: Literal["rec_id", "item"] = "rec_id" if event.rec_id == cause.rec_id else "item"
            self._told.append(Joined(event, cause.rec_id, cause.ts_ms, key.model, key.variant, position, by))

    def _cause(self, event: Happened, *, is_impression: bool) -> _Open | None:
        """What the event names; else, unless it is an impression, the user's latest recommendation with its item."""
        if event.rec_id is not None:
            named = self._recommendations.get(event.rec_id)
            if named is not None and named.user_id == event.user_id and self._is_within(event, named):
                return named
        if is_impression:
            return None
        for each in reversed(self._of_user.get(event.user_id, ())):
            if event.item_id in each.items and self._is_within(event, each):
                return each
        return None

    def _is_within(self, event: Happened, cause: _Open) -> bool:
        return 0 <= event.ts_ms - cause.ts_ms <= self.rules.window_ms

    def _recommended(self, answer: Recommended) -> None:
        rules = self.rules
        if answer.rec_id in self._recommendations:
            self.n_repeated += 1
            return
        if answer.ts_ms < self.watermark_ms - rules.lateness_ms - rules.window_ms:
            return
        key = SpanKey(answer.ts_ms // rules.span_ms * rules.span_ms, answer.user_id, answer.model, answer.variant)
        cells = self._span_of(answer.ts_ms).cells
        cell = cells.get(key)
        if cell is None:
            cell = cells[key] = Tally()
        cell.n_recommendations += 1
        total_key = TotalKey(key.start_ms, key.model, key.variant)
        self._totals.setdefault(total_key, Tally()).n_recommendations += 1
        self._changed.add(total_key)
        items = tuple(map(intern, answer.items))
        made = _Open(answer.rec_id, answer.offset, answer.user_id, answer.ts_ms, items, key)
        self._recommendations[answer.rec_id] = made
        mine = self._of_user.setdefault(answer.user_id, [])
        mine.append(made)
        if len(mine) > 1 and mine[-2].offset > made.offset:
            mine.sort(key=attrgetter("offset"))
        if len(self._recommendations) > rules.max_open:
            self.n_forgotten += 1
            self._forget(next(iter(self._recommendations.values())))

    def _span_of(self, ts_ms: int) -> _Span:
        start_ms = ts_ms // self.rules.span_ms * self.rules.span_ms
        span = self._spans.get(start_ms)
        if span is None:
            span = self._spans[start_ms] = _Span(self._step - 1)
        return span

    def _forget(self, gone: _Open) -> None:
        del self._recommendations[gone.rec_id]
        mine = self._of_user[gone.user_id]
        mine.remove(gone)
        if not mine:
            del self._of_user[gone.user_id]

    def _expire(self) -> None:
        """Forget what can cause nothing any more, and tell of spans that are over."""
        rules, now_ms = self.rules, self.watermark_ms
        while self._recommendations:
            oldest = next(iter(self._recommendations.values()))
            if oldest.ts_ms + rules.window_ms + rules.lateness_ms >= now_ms:
                break
            self._forget(oldest)
        while self._event_ids:
            name = next(iter(self._event_ids))
            if name[2] >= now_ms - rules.lateness_ms:
                break
            del self._event_ids[name]
        open_ms = rules.span_ms + rules.window_ms + rules.lateness_ms
        for start_ms in sorted(start_ms for start_ms in self._spans if start_ms + open_ms <= now_ms):
            span = self._spans.pop(start_ms)
            is_news = start_ms >= self._told_before_ms
            if is_news:
                self._told += [Told(key, tally) for key, tally in span.cells.items()]
            self._told_before_ms = max(self._told_before_ms, start_ms + rules.span_ms)
            for total in [total for total in self._totals if total.start_ms == start_ms]:
                tally = self._totals.pop(total)
                self._changed.discard(total)
                if is_news:
                    self._over[total] = tally

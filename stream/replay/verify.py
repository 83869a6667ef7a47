"""Live recommendations held against a replay of their inputs.

Each recommendation names its event, the bundle, and the view of the item statistics. So it can be made again:

    recommendations  sorted by the view that they name    -> which view comes next, and which events it scored
    item-activity    folded in its one order              -> the view, exactly as the worker had it
    events           each partition in its order          -> the user's record as it was just before the event

After a crash an event may be answered twice, with two views: each copy is compared as of the view that it names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UnsetType
from numpy.typing import NDArray

from stream.bundle.service import Service
from stream.core.arms import Arms
from stream.core.seam import Recommender
from stream.core.statistics import StatisticsSpec
from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.replay.explain import Explanation, explain
from stream.replay.forgotten import Forgotten, Redacted
from stream.replay.partition import PartitionReplay, Replayed
from stream.replay.topics import Cursor, TopicReader
from stream.replay.views import Point, View
from stream.wire.limits import Limits
from stream.wire.messages import Recommendation

__all__ = ["TOLERANCE", "Answers", "Published", "Verdict", "Verifier", "read_published", "verify"]

TOLERANCE: Final = 1e-5
"""Scores that are no further apart are equal: batches of other sizes round differently."""

Answering = tuple[str, str]
"""A bundle's name@version, and the variant."""

_read: Final = msgspec.json.Decoder(Recommendation).decode
_SAMPLE_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class Published:
    """One recommendation as it was published.

    Attributes:
        partition, offset: of its event.
        point: the view that it names.
        model: the bundle that it names, name@version.
        variant: the variant that it names.
        user_id: for whom.
        made: items and scores.
        rec_id: its id.
        propensities: how likely each item was at its place; None where nothing was left to chance.
    """

    partition: int
    offset: int
    point: Point
    model: str
    variant: str
    user_id: str
    made: Replayed
    rec_id: str = ""
    propensities: tuple[float, ...] | None = None

    @property
    def by(self) -> Answering:
        """Who made it."""
        return self.model, self.variant


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What was published: the copies to be compared, and which bundle answered each event.

    Attributes:
        published: the copies in question.
        by: all bundles that answered, each with the variant that it was.
        answered: by partition, (N,) offsets of events, rising, and (N,) which of `by` answered each last.
        forgotten: who was forgotten meanwhile, and up to which event.
        n_forgotten: copies for them, which are not compared.
    """

    published: list[Published]
    by: list[Answering]
    answered: dict[int, tuple[NDArray[np.int64], NDArray[np.int32]]]
    forgotten: Forgotten = field(default_factory=Forgotten)
    n_forgotten: int = 0


@dataclass(slots=True)
class Verdict:
    """What came of it.

    Attributes:
        n: copies that were compared.
        n_identical: those with the same items in the same order.
        max_score_difference: between the two scores of one item, over all copies.
        n_other_bundle: copies by bundles that were not given; not among `n`.
        n_forgotten: copies for users who were forgotten afterwards; not among `n`.
        n_points: views that they name.
        explanations: of the first differences.
        reasons: explained differences by what they come from.
        remarks: what may spoil a comparison.
    """

    n: int = 0
    n_identical: int = 0
    max_score_difference: float = 0.0
    n_other_bundle: int = 0
    n_forgotten: int = 0
    n_points: int = 0
    explanations: list[Explanation] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    @property
    def identical(self) -> float:
        """Share of the copies with identical lists."""
        return self.n_identical / self.n if self.n > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "identical": self.identical,
            "n": self.n,
            "max_score_difference": self.max_score_difference,
            "n_differing": self.n - self.n_identical,
            "n_other_bundle": self.n_other_bundle,
            "n_forgotten": self.n_forgotten,
            "n_views": self.n_points,
            "reasons": dict(self.reasons),
            "differences": [asdict(each) for each in self.explanations],
            "remarks": self.remarks,
        }


def read_published(
    reader: TopicReader,
    topic: str,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    sample: float = 1.0,
    forgotten: Forgotten | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """All recommendations of a topic, of which those of events in `[since_ms, until_ms)` are to be compared.

    Args:
        sample: share of those; by `rec_id`, so that it is the same share each time.
        forgotten: whose recommendations are left out.
    """
    ranges = reader.bounds(topic)
    n_all = sum(end - first for first, end in ranges.values())
    forgotten, n_forgotten = Forgotten() if forgotten is None else forgotten, 0
    published: list[Published] = []
    number_of: dict[Answering, int] = {}
    answered: dict[int, dict[int, int]] = {}
    limit = int(sample * 16**_SAMPLE_DIGITS)
    for _, records in reader.read(topic, ranges, None if on_progress is None else lambda n: on_progress(n, n_all)):
        for record in records:
            found = _read(record.value)
            source = found.source
            if forgotten.covers_source(found.user_id, source):
                n_forgotten += 1
                continue
            number = number_of.setdefault((found.model, found.variant), len(number_of))
            answered.setdefault(source.partition, {})[source.offset] = number
            if (
                (since_ms is None or found.ts_ms >= since_ms)
                and (until_ms is None or found.ts_ms < until_ms)
                and int(found.rec_id[:_SAMPLE_DIGITS], 16) < limit
            ):
                published.append(
                    Published(
                        source.partition,
                        source.offset,
                        Point(found.activity_offset, found.items_offset),
                        found.model,
                        found.variant,
                        found.user_id,
                        Replayed(
                            tuple(item.item_id for item in found.items), tuple(item.score for item in found.items)
                        ),
                        found.rec_id,
                        _propensities(found),
                    )
                )
    return Answers(
        published,
        list(number_of),
        {
            partition: (
                np.array(sorted(numbers), np.int64),
                np.array([numbers[offset] for offset in sorted(numbers)], np.int32),
            )
            for partition, numbers in answered.items()
        },
        forgotten,
        n_forgotten,
    )


def verify(
    settings: KafkaSettings,
    names: TopicNames,
    answers: Answers,
    services: Sequence[Service],
    *,
    events_topic: str | None = None,
    limits: Limits | None = None,
    max_explained: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Make published recommendations again and compare.

    Args:
        answers: what was published.
        services: bundles and experiments that answered, under the rules that they answered with.
        events_topic: full name of the topic that the events came from.
        limits: the workers'.
        max_explained: differences that are explained; each takes as long as building a view.
        on_progress: called with the copies compared so far, and all of them.

    Raises:
        PolytempoError: no recommendation is by one of the bundles, or what they were made of is gone.
    """
    verifier = Verifier(settings, names, answers, services, events_topic or names.events, limits)
    try:
        return verifier.go(max_explained, on_progress)
    finally:
        verifier.close()


class Verifier:
    """Goes through recommendations view by view, and makes each again."""

    def __init__(
        self,
        settings: KafkaSettings,
        names: TopicNames,
        answers: Answers,
        services: Sequence[Service],
        events_topic: str,
        limits: Limits | None,
    ) -> None:
        self._settings, self._names = settings, names
        self.verdict = Verdict()
        self._also_known: list[Sequence[str]] = []
        self._families: list[Arms] = []
        self._recommender_by: dict[Answering, Recommender] = {}
        for service in services:
            recommenders = {
                (arm.bundle.reference, arm.variant): Recommender(
                    arm.bundle.features,
                    arm.bundle.scorer,
                    arm.bundle.vocabulary,
                    arm.policy,
                    arm.bundle.tag,
                    arm.bundle.retriever,
                )
                for arm in service.arms
            }
            self._families.append(Arms(list(recommenders.values())))
            self._recommender_by |= recommenders
        self._to_do = [each for each in answers.published if each.by in self._recommender_by]
        self.verdict.n_forgotten = answers.n_forgotten
        self.verdict.n_other_bundle = len(answers.published) - len(self._to_do)
        if not self._to_do:
            raise PolytempoError(
                "there is no recommendation to compare.",
                f"Recommendations in this range are by: {', '.join(map(' as '.join, answers.by)) or 'nobody'}.",
            )
        self._pending = Counter((each.partition, each.offset) for each in self._to_do)
        numbers = sorted({each.partition for each in self._to_do})
        self._recommender_at = {number: self._recommenders(answers, number) for number in numbers}
        self._partitions = {
            number: PartitionReplay(
                events_topic,
                number,
                Redacted(Cursor(settings, events_topic, number), events_topic, number, answers.forgotten),
                self._recommender_at[number],
                limits,
                self._families,
            )
            for number in numbers
        }
        gone = [str(number) for number, part in self._partitions.items() if not part.is_whole]
        if gone:
            self.verdict.remarks.append(
                f"the oldest events of partition {', '.join(gone)} are deleted: users' records may lack them"
            )

    def close(self) -> None:
        for part in self._partitions.values():
            part.close()

    def go(self, max_explained: int, on_progress: Callable[[int, int], None] | None) -> Verdict:
        groups: dict[Point, list[Published]] = {}
        for each in self._to_do:
            groups.setdefault(each.point, []).append(each)
        self.verdict.n_points = len(groups)
        left = sorted(groups)
        while left:
            # Views go forwards only: points that lie behind another in one of the two topics wait for the next round.
            views: dict[StatisticsSpec, View] = {}
            behind: list[Point] = []
            try:
                for point in left:
                    if not self._compare_at(point, groups[point], views, max_explained):
                        behind.append(point)
                    if on_progress is not None:
                        on_progress(self.verdict.n, len(self._to_do))
            finally:
                for view in views.values():
                    view.close()
            left = behind
        return self.verdict

    def _compare_at(
        self, point: Point, copies: list[Published], views: dict[StatisticsSpec, View], max_explained: int
    ) -> bool:
        """Compare all copies that name one view; False, and nothing is done, where that lies behind."""
        wanted: dict[StatisticsSpec, list[Published]] = {}
        for each in copies:
            wanted.setdefault(self._recommender_by[each.by].spec.statistics, []).append(each)
        for spec in wanted:
            if spec not in views:
                views[spec] = self._view(spec)
        if any(views[spec].at.activity > point.activity or views[spec].at.items > point.items for spec in wanted):
            return False
        for spec, mine in wanted.items():
            view = views[spec]
            view.reach(point)
            by_partition: dict[int, list[Published]] = {}
            for each in mine:
                by_partition.setdefault(each.partition, []).append(each)
            for partition, several in by_partition.items():
                self._compare(partition, several, view, max_explained)
        return True

    def _compare(self, partition: int, copies: list[Published], view: View, max_explained: int) -> None:
        part = self._partitions[partition]
        answering = self._recommender_at[partition]
        usual = [each for each in copies if self._recommender_by[each.by] is answering(each.offset)]
        # An event that two bundles answered, one before a crash and one after it.
        unusual = [each for each in copies if self._recommender_by[each.by] is not answering(each.offset)]
        for each in usual:
            self._pending[partition, each.offset] -= 1
        offsets = sorted({each.offset for each in usual})
        made = part.answer(offsets, partial(self._is_waiting, partition, None), view.statistics)
        for each in usual:
            self._judge(each, made[each.offset], view, max_explained)
        for each in unusual:
            self._pending[partition, each.offset] -= 1
            if each.offset not in made:
                part.answer([each.offset], partial(self._is_waiting, partition, each.offset), view.statistics)
            again = part.again(each.offset, view.statistics, self._recommender_by[each.by])
            self._judge(each, again, view, max_explained)
        for offset in {each.offset for each in copies}:
            if self._pending[partition, offset] == 0:
                part.drop(offset)

    def _is_waiting(self, partition: int, also: int | None, offset: int) -> bool:
        """Whether the event at `offset` is to be answered once more; `also` is, in any case."""
        return offset == also or self._pending.get((partition, offset), 0) > 0

    def _judge(self, live: Published, made: Replayed | None, view: View, max_explained: int) -> None:
        verdict = self.verdict
        verdict.n += 1
        if made is not None:
            scores = dict(zip(made.items, made.scores, strict=True))
            for item, score in zip(live.made.items, live.made.scores, strict=True):
                if item in scores:
                    verdict.max_score_difference = max(verdict.max_score_difference, abs(score - scores[item]))
            if made.items == live.made.items:
                verdict.n_identical += 1  # as a list; scores are judged by their difference
                if _close(made.scores, live.made.scores):
                    return
        if len(verdict.explanations) >= max_explained:
            return
        part = self._partitions[live.partition]
        found = explain(
            live.made,
            made,
            user_id=live.user_id,
            place=(live.partition, live.offset),
            point=live.point,
            tolerance=TOLERANCE,
            again=lambda statistics: part.again(live.offset, statistics, self._recommender_by[live.by]),
            without_history=lambda: part.without_history(live.offset, view.statistics),
            fresh_view=lambda: self._view(view.statistics.spec),
        )
        verdict.explanations.append(found)
        verdict.reasons[found.because] += 1

    def _view(self, spec: StatisticsSpec) -> View:
        vocabularies = self._also_known + [
            recommender.vocabulary.ids
            for recommender in self._recommender_by.values()
            if recommender.spec.statistics == spec
        ]
        view = View.from_topics(spec, vocabularies, self._settings, self._names)
        if not view.is_whole:
            view.close()
            raise PolytempoError(
                f"the oldest messages of {self._names.item_activity} are deleted, so no old view can be built again.",
                "Keep item activity as long as recommendations are to be verified.",
            )
        return view

    def _recommenders(self, answers: Answers, partition: int) -> Callable[[int], Recommender]:
        """By offset, the recommender that answered an event, or the one before it where nobody did."""
        offsets, models = answers.answered[partition]
        by_number = [self._recommender_by.get(by) for by in answers.by]
        fallback = next(iter(self._recommender_by.values()))

        def at(offset: int) -> Recommender:
            place = max(0, int(np.searchsorted(offsets, offset, side="right")) - 1)
            found = by_number[int(models[place])]
            return fallback if found is None else found

        return at


def _propensities(found: Recommendation) -> tuple[float, ...] | None:
    likely = tuple(item.propensity for item in found.items if not isinstance(item.propensity, UnsetType))
    return likely if likely and len(likely) == len(found.items) else None


def _close(one: Iterable[float], two: Iterable[float]) -> bool:
    return all(abs(a - b) <= TOLERANCE for a, b in zip(one, two, strict=True))

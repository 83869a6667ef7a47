"""The item statistics as they stood at an offset of `item-activity` and one of `items`: the view that workers name.

A view only moves forwards. Where workers stood at different points, `View.reach` says that a point lies behind, and a
fresh view has to be built for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from stream.core.catalogue import ItemUpdate
from stream.core.statistics import ItemStatistics, StatisticsSpec
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames
from stream.replay.topics import Cursor
from stream.wire.activity import decode_activity
from stream.wire.errors import WireError
from stream.wire.items import decode_items
from stream.wire.reasons import Record

__all__ = ["ForwardReading", "Point", "View"]


class Point(NamedTuple):
    """A view: the last offset of `item-activity` and of `items` that it holds, -1 for none."""

    activity: int
    items: int


class ForwardReading(Protocol):
    """A partition that is read forwards; `stream.replay.topics.Cursor` is one."""

    @property
    def begin(self) -> int:
        """The first offset that is still there."""
        ...

    def up_to(self, offset: int) -> Sequence[Record]:
        """The records not given yet, up to `offset`, itself included."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class View:
    """Statistics that move forwards from one point to the next.

    Args:
        spec: what is kept.
        known: items that the bundles know by number.
        activity: the topic `item-activity`.
        items: the topic `items`.
    """

    def __init__(
        self, spec: StatisticsSpec, known: Iterable[Sequence[str]], activity: ForwardReading, items: ForwardReading
    ) -> None:
        self.statistics = ItemStatistics(spec)
        for vocabulary in known:
            self.statistics.know(vocabulary)
        self.at = Point(-1, -1)
        self._activity = activity
        self._items = items

    @classmethod
    def from_topics(
        cls, spec: StatisticsSpec, known: Iterable[Sequence[str]], settings: KafkaSettings, names: TopicNames
    ) -> View:
        """A view of a deployment's topics, at their beginning."""
        return cls(spec, known, Cursor(settings, names.item_activity, 0), Cursor(settings, names.items, 0))

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the activity has been deleted, without which no old view can be built again."""
        return self._activity.begin == 0

    def reach(self, point: Point) -> bool:
        """Move on to a point; False, and nothing is moved, where it lies behind."""
        if point.activity < self.at.activity or point.items < self.at.items:
            return False
        if point == self.at:
            return True
        view = self.statistics
        for record in self._activity.up_to(point.activity):
            try:
                batch = decode_activity(record.value or b"")
            except WireError:  # workers leave it out too
                continue
            view.apply(batch)
            view.offset = record.offset
        updates = []
        for item_id, item in decode_items(self._items.up_to(point.items)).items:
            if item is None:
                updates.append(ItemUpdate(item_id, available=False))
            else:
                updates.append(ItemUpdate(item_id, item.category, item.title, item.available, item.published_ms))
        if updates:
            view.update_items(updates)
        view.items_offset = point.items
        view.renew()
        self.at = point
        return True

    def close(self) -> None:
        """Leave the topics."""
        self._activity.close()
        self._items.close()

"""Batches of several input partitions as one: what waits in all of them costs one step instead of one each.

Nothing is shared between partitions but the work: a user who has events in two of them has a record in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.core.events import EventBatch
from stream.core.fold import source_key

__all__ = ["Part", "joined", "source_keys", "starts"]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one partition contributes.

    Attributes:
        batch: its events, at least one, in offset order.
        source: the partition, "topic/partition".
        covers: first and last offset that the batch stands for.
    """

    batch: EventBatch
    source: str
    covers: tuple[int, int]


def starts(sizes: Sequence[int]) -> list[int]:
    """Where each of several runs of these sizes begins when they follow each other, and where the last one ends.

    >>> starts([3, 2])
    [0, 3, 5]
    """
    return list(accumulate(sizes, initial=0))


def source_keys(parts: Sequence[Part]) -> NDArray[np.uint32]:
    """(U,) the key of the partition that each user of the joined batch is in."""
    keys = np.array([source_key(part.source) for part in parts], np.uint32)
    return keys.repeat([len(part.batch.users) for part in parts])


def joined(parts: Sequence[Part]) -> EventBatch:
    """The events of all parts, one after the other, over the users of all parts, one after the other.

    Offsets rise within a part only, and a user of two parts is there twice. Raises ValueError for no parts.
    """
    if not parts:
        raise ValueError("no parts to join")
    batches = [part.batch for part in parts]
    if len(batches) == 1:
        return batches[0]
    first_row = starts([len(batch) for batch in batches])
    first_user = starts([len(batch.users) for batch in batches])

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(batch, name) for batch in batches])

    return EventBatch(
        offset=column("offset"),
        user=np.concatenate([batch.user + np.int32(at) for batch, at in zip(batches, first_user, strict=False)]),
        users=[user for batch in batches for user in batch.users],
        item_ids=[item_id for batch in batches for item_id in batch.item_ids],
        item=column("item"),
        kind=column("kind"),
        ts_ms=column("ts_ms"),
        value=column("value"),
        event_id=column("event_id"),
        event_ids=[event_id for batch in batches for event_id in batch.event_ids],
        segments=column("segments"),
        requests={
            at + row: request
            for batch, at in zip(batches, first_row, strict=False)
            for row, request in batch.requests.items()
        },
    )

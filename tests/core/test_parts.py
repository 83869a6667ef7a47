"""Joining the batches of several partitions."""

from __future__ import annotations

import numpy as np
import pytest

from stream.core.events import REQUEST, EventBatch, Request
from stream.core.parts import Part, joined, starts


def part(number: int, users: list[str], requests: dict[int, Request] | None = None) -> Part:
    """Events of these users on items of their own."""
    batch = EventBatch.build(
        users,
        [f"{user}-{number}" for user in users],
        [REQUEST if requests and row in requests else 1 for row in range(len(users))],
        np.arange(len(users)),
        requests=requests,
    )
    return Part(batch, f"events/{number}", (0, len(users) - 1))


def test_a_part_alone_is_itself() -> None:
    """Nothing is copied."""
    alone = part(0, ["a", "b"])
    assert joined([alone]) is alone.batch


def test_parts_follow_each_other_and_share_no_user() -> None:
    """a has a record in each partition; requests stay with their events."""
    asked = Request(3)
    both = joined([part(0, ["a", "b", "a"]), part(1, ["a", "c"], {1: asked})])
    assert both.users == ["a", "b", "a", "c"]
    assert both.user.tolist() == [0, 1, 0, 2, 3]
    assert both.item_ids == ["a-0", "b-0", "a-0", "a-1", "c-1"]
    assert both.offset.tolist() == [0, 1, 2, 0, 1]
    assert both.requests == {4: asked}
    assert starts([3, 2]) == [0, 3, 5]


def test_nothing_cannot_be_joined() -> None:
    """There would be no columns to speak of."""
    with pytest.raises(ValueError, match="no parts"):
        joined([])

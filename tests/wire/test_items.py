"""Items: what is known of them, removals, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.wire.items import decode_items
from stream.wire.messages import Item
from stream.wire.reasons import Reason
from tests.wire.records import FakeRecord


def _item(key: bytes | None = b"i1", **fields: Any) -> FakeRecord:
    return FakeRecord(key, json.dumps(fields).encode())


def test_items_and_removals_come_in_the_order_of_the_records() -> None:
    full: dict[str, Any] = {
        "item_id": "i1",
        "category": "books",
        "title": "Tempo",
        "available": False,
        "published_ms": 5,
        "attributes": {"pages": 90, "paper": True},
        "unknown": [1],
    }
    decoded = decode_items([_item(**full), _item(b"i2"), FakeRecord(b"i1", None)])
    del full["unknown"]
    assert decoded.items == [("i1", Item(**full)), ("i2", Item()), ("i1", None)]
    assert decoded.rejected == []
    assert decoded.items[1][1] == Item(available=True, category=None)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (FakeRecord(None, b"{}"), Reason.NULL_KEY),
        (FakeRecord(None, None), Reason.NULL_KEY),
        (FakeRecord(b"", b"{}"), Reason.EMPTY_ID),
        (FakeRecord(b"\xff", b"{}"), Reason.INVALID_UTF8),
        (FakeRecord(b"i" * 257, b"{}"), Reason.ID_TOO_LONG),
        (FakeRecord(b"i\0", b"{}"), Reason.INVALID_TEXT),
        (FakeRecord(b"i", b""), Reason.EMPTY),
        (FakeRecord(b"i", b"{"), Reason.INVALID_JSON),
        (FakeRecord(b"i", b"[]"), Reason.NOT_AN_OBJECT),
        (FakeRecord(b"i", b'{"title": "\xff"}'), Reason.INVALID_UTF8),
        (FakeRecord(b"i", b" " * 65_537), Reason.TOO_LARGE),
        (_item(item_id="i2"), Reason.KEY_MISMATCH),
        (_item(available="yes"), Reason.WRONG_TYPE),
        (_item(published_ms=-1), Reason.WRONG_TYPE),
        (_item(attributes={"size": [1, 2]}), Reason.BAD_CONTEXT),
        (_item(attributes={"size": "x" * 257}), Reason.BAD_CONTEXT),
    ],
)
def test_a_bad_item_is_refused_with_its_reason(record: FakeRecord, reason: Reason) -> None:
    decoded = decode_items([record, _item(b"good")])
    assert [(rejected.record, rejected.reason) for rejected in decoded.rejected] == [(record, reason)]
    assert decoded.items == [("good", Item())]


@given(st.none() | st.binary(max_size=50), st.none() | st.binary(max_size=200))
def test_arbitrary_bytes_never_raise(key: bytes | None, value: bytes | None) -> None:
    decoded = decode_items([FakeRecord(key, value)])
    assert len(decoded.items) + len(decoded.rejected) == 1

"""Decoding: good events become columns, bad ones dead letters with the right reason, and nothing raises."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import FORGET, REQUEST, EventTypes, Request, item_key, segment_key
from stream.wire.careful import check_event, read_event, usable_value
from stream.wire.decode import Decoded, EventDecoder
from stream.wire.limits import Limits
from stream.wire.messages import Event
from stream.wire.reasons import MEANING, Malformed, Reason
from tests.wire.limits import boundaries, padded
from tests.wire.malformed import KINDS, REASON_OF, make
from tests.wire.records import NOW_MS, FakeRecord, event_fields, record

DECODER = EventDecoder(EventTypes(), ("device", "referrer"))


def _only_reason(bad: FakeRecord) -> Reason:
    decoded = DECODER.decode([bad])
    assert len(decoded.batch) == 0
    assert [rejected.record for rejected in decoded.rejected] == [bad]
    return decoded.rejected[0].reason


def _only_event(good: FakeRecord) -> Decoded:
    decoded = DECODER.decode([good])
    assert decoded.rejected == []
    assert len(decoded.batch) == 1
    return decoded


def test_a_batch_becomes_columns_in_the_order_of_offsets() -> None:
    """Users are numbered by first appearance; what an event lacks has the column's value for missing."""
    batch = DECODER.decode(
        [
            record(7, user_id="b", item_id="x", value=9.5, event_id="e1", context={"device": "phone", "other": 1}),
            record(9, user_id="a", item_id="y", event_type="view", ts_ms=NOW_MS - 5),
            record(10, user_id="b", item_id="x", event_type="return"),
        ]
    ).batch
    assert batch.offset.tolist() == [7, 9, 10]
    assert batch.users == ["b", "a"]
    assert batch.user.tolist() == [0, 1, 0]
    assert batch.item_ids == ["x", "y", "x"]
    assert batch.item.tolist() == [item_key("x"), item_key("y"), item_key("x")]
    assert batch.kind.tolist() == [1, 0, 7]
    assert batch.ts_ms.tolist() == [NOW_MS, NOW_MS - 5, NOW_MS]
    np.testing.assert_array_equal(batch.value, np.array([9.5, np.nan, np.nan], np.float32))
    assert batch.event_ids == ["e1", None, None]
    assert (batch.event_id != 0).tolist() == [True, False, False]
    assert batch.segments.tolist() == [[segment_key("phone"), 0], [0, 0], [0, 0]]
    assert batch.requests == {}


def test_columns_have_their_dtypes_even_when_no_event_is_left() -> None:
    for batch in (DECODER.decode([record()]).batch, DECODER.decode([record(user_id=None)]).batch):
        dtypes = [column.dtype.name for column in (batch.offset, batch.user, batch.item, batch.kind, batch.ts_ms)]
        assert dtypes == ["int64", "int32", "uint64", "uint8", "int64"]
        dtypes = [column.dtype.name for column in (batch.value, batch.event_id, batch.segments)]
        assert dtypes == ["float32", "uint64", "uint32"]
        assert batch.segments.shape == (len(batch), 2)
    assert DECODER.decode([]).rejected == []


def test_control_events_have_no_item_and_a_request_says_what_it_wants() -> None:
    batch = DECODER.decode(
        [
            record(0, event_type="request", item_id=..., n=5, exclude=["a"], only=[]),
            record(1, event_type="request", item_id=None),
            record(2, event_type="forget", item_id=""),
        ]
    ).batch
    assert batch.kind.tolist() == [REQUEST, REQUEST, FORGET]
    assert batch.item.tolist() == [0, 0, 0]
    assert batch.requests == {0: Request(5, ("a",), ()), 1: Request()}


def test_impressions_are_passed_over_unless_they_are_a_declared_type() -> None:
    """They need no item, keep to all other rules, and leave the events around them as they are."""
    shown = [record(offset, event_type="impression", item_id=None, context={"rec_id": "r"}) for offset in (1, 3)]
    decoded = DECODER.decode([record(0), shown[0], record(2, user_id="b"), shown[1], record(4, user_id=None)])
    assert decoded.n_impressions == 2
    assert decoded.batch.offset.tolist() == [0, 2]
    assert [rejected.record.offset for rejected in decoded.rejected] == [4]
    many = DECODER.decode([record(offset, event_type="impression", item_id="x") for offset in range(20)])
    assert (len(many.batch), many.n_impressions, many.rejected) == (0, 20, [])

    late = DECODER.decode([record(0, event_type="impression", item_id=None, ts_ms=-1)])
    assert [rejected.reason for rejected in late.rejected] == [Reason.TOO_OLD]
    assert late.n_impressions == 0

    declared = EventDecoder(EventTypes(names=("impression",), weights=(0.0,))).decode(
        [record(0, event_type="impression", item_id="x"), shown[0]]
    )
    assert (len(declared.batch), declared.n_impressions) == (1, 0)
    assert [rejected.reason for rejected in declared.rejected] == [Reason.MISSING_FIELD]


def test_a_whole_number_may_be_written_with_a_fraction_of_zero() -> None:
    """JSON has one kind of number, and some languages print large ones as 1.7e12."""
    value = json.dumps(event_fields()).replace(str(NOW_MS), "1.7e12").encode()
    assert _only_event(FakeRecord(b"u1", value)).batch.ts_ms.tolist() == [NOW_MS]


def test_of_a_field_that_occurs_twice_the_last_one_counts() -> None:
    value = json.dumps(event_fields()).replace("{", '{"item_id": "first", ').encode()
    assert _only_event(FakeRecord(b"u1", value)).batch.item_ids == ["i1"]


def test_segments_of_equal_numbers_are_equal_however_they_are_written() -> None:
    rows = [record(row, context={"device": device}) for row, device in enumerate([3, 3.0, "3", None, "", True, "true"])]
    three, missing, true = segment_key("3"), 0, segment_key("true")
    segments = DECODER.decode(rows).batch.segments[:, 0]
    assert segments.tolist() == [three, three, three, missing, missing, true, true]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_malformed_event_is_refused_for_its_reason(kind: str) -> None:
    rng = Random(kind)
    for _ in range(20):
        assert _only_reason(FakeRecord(*make(kind, rng))) is REASON_OF[kind]


def test_the_kinds_of_malformed_events_reach_every_reason() -> None:
    of_models = {Reason.UNANSWERED}  # nothing is wrong with such an event
    assert set(REASON_OF.values()) | of_models == set(Reason) == set(MEANING)


def test_good_events_between_bad_ones_are_all_kept_in_order() -> None:
    rng = Random(1)
    records = []
    for offset in range(0, 4 * len(KINDS), 2):
        key, value = make(KINDS[offset // 2 % len(KINDS)], rng)
        records += [record(offset, user_id=f"u{offset % 10}"), FakeRecord(key, value, offset + 1)]
    decoded = DECODER.decode(records)
    assert decoded.batch.offset.tolist() == list(range(0, 4 * len(KINDS), 2))
    assert [rejected.record.offset for rejected in decoded.rejected] == list(range(1, 4 * len(KINDS), 2))
    assert decoded.batch.user_ids() == [f"u{offset % 10}" for offset in range(0, 4 * len(KINDS), 2)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ts_ms": NOW_MS + Limits().max_ahead_ms}, None),
        ({"ts_ms": NOW_MS + Limits().max_ahead_ms + 1}, Reason.FUTURE),
        ({"ts_ms": Limits().min_ts_ms}, None),
        ({"ts_ms": Limits().min_ts_ms - 1}, Reason.TOO_OLD),
        ({"ts_ms": Limits().max_ts_ms + 1}, Reason.OUT_OF_RANGE),
        *((changes, reason) for changes, reason in boundaries()),
        ({"value": 3.4e38}, None),
        ({"value": -3.5e38}, Reason.NOT_FINITE),
        ({"event_type": "request", "item_id": None, "only": [""]}, Reason.BAD_REQUEST),
    ],
)
def test_each_limit_itself_is_allowed_and_the_next_value_is_not(changes: dict[str, Any], reason: Reason | None) -> None:
    fields = event_fields(**changes)
    good_or_bad = FakeRecord(str(fields["user_id"]).encode(), json.dumps(fields, ensure_ascii=False).encode())
    if reason is None:
        _only_event(good_or_bad)
    else:
        assert _only_reason(good_or_bad) is reason
    among_others = [record(offset) for offset in range(9)] + [replace(good_or_bad, offset=9)]
    decoded = DECODER.decode(among_others)  # so many are judged by columns first
    assert [each.reason for each in decoded.rejected] == ([] if reason is None else [reason])
    assert len(decoded.batch) + len(decoded.rejected) == 10


@pytest.mark.parametrize("n_before", [0, 20])
def test_a_message_of_exactly_the_largest_size_is_read_and_one_byte_more_is_not(n_before: int) -> None:
    """Alone, and behind others, where columns are looked at first."""
    most = Limits().max_bytes
    before = [record(offset) for offset in range(n_before)]
    for n_bytes, reason in ((most, None), (most + 1, Reason.TOO_LARGE)):
        value = padded(event_fields(), n_bytes)
        assert len(value) == n_bytes
        decoded = DECODER.decode([*before, FakeRecord(b"u1", value, n_before)])
        assert [each.reason for each in decoded.rejected] == ([] if reason is None else [reason])
        assert len(decoded.batch) + len(decoded.rejected) == n_before + 1


@pytest.mark.parametrize("timestamp_ms", [None, -1])
def test_without_a_timestamp_of_the_record_no_event_is_from_the_future(timestamp_ms: int | None) -> None:
    value = json.dumps(event_fields(ts_ms=NOW_MS + 10**10)).encode()
    _only_event(FakeRecord(b"u1", value, timestamp=timestamp_ms))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, width=32) | TEXT
EVENTS = st.fixed_dictionaries(
    {
        "user_id": TEXT,
        "item_id": TEXT,
        "event_type": st.sampled_from(EventTypes().names),
        "ts_ms": st.integers(Limits().min_ts_ms, NOW_MS + Limits().max_ahead_ms),
    },
    optional={
        "event_id": TEXT,
        "value": st.floats(allow_nan=False, allow_infinity=False, width=32),
        "session_id": TEXT,
        "context": st.dictionaries(TEXT, SCALARS.filter(lambda value: value not in (float("inf"), -float("inf")))),
        "unknown": st.recursive(st.none() | TEXT, st.lists),
    },
)


@given(st.lists(EVENTS, max_size=8), st.booleans())
def test_valid_events_come_through_unchanged(events: list[dict[str, Any]], ascii_only: bool) -> None:
    records = [
        FakeRecord(event["user_id"].encode(), json.dumps(event, ensure_ascii=ascii_only).encode(), offset)
        for offset, event in enumerate(events)
    ]
    decoded = DECODER.decode(records)
    batch, types = decoded.batch, EventTypes()
    assert decoded.rejected == []
    assert batch.user_ids() == [event["user_id"] for event in events]
    assert batch.users == list(dict.fromkeys(event["user_id"] for event in events))
    assert batch.item_ids == [event["item_id"] for event in events]
    assert [types.name_of(code) for code in batch.kind.tolist()] == [event["event_type"] for event in events]
    assert batch.ts_ms.tolist() == [event["ts_ms"] for event in events]
    assert batch.event_ids == [event.get("event_id") for event in events]
    np.testing.assert_array_equal(batch.value, [event.get("value", np.nan) for event in events])


def _judge(one: FakeRecord) -> tuple[Event | None, Reason | None]:
    """The definition of validity, without the shortcuts of the batch decoder."""
    try:
        event = read_event(usable_value(one.value, DECODER.limits))
        check_event(event, one, EventTypes().codes(), DECODER.limits)
    except Malformed as fault:
        return None, fault.reason
    return event, None


def _agrees(one: FakeRecord) -> None:
    event, reason = _judge(one)
    decoded = DECODER.decode([one])
    assert [rejected.reason for rejected in decoded.rejected] == ([] if reason is None else [reason])
    assert decoded.batch.item_ids == ([] if event is None else [event.item_id or ""])
    assert decoded.batch.ts_ms.tolist() == ([] if event is None else [event.ts_ms])
    assert decoded.batch.users == ([] if event is None else [event.user_id])


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)


@given(st.none() | st.binary(max_size=300), st.none() | st.binary(max_size=300), st.none() | st.integers(-1, 2**62))
def test_arbitrary_bytes_never_raise(key: bytes | None, value: bytes | None, timestamp_ms: int | None) -> None:
    one = FakeRecord(key, value, timestamp=timestamp_ms)
    assert len(DECODER.decode([one]).rejected) == 1
    _agrees(one)


@given(EVENTS, st.sampled_from(["", *Event.__struct_fields__]), ANY_JSON, st.sampled_from([None, "request", "forget"]))
def test_any_json_in_any_field_is_judged_as_the_careful_reader_does(
    event: dict[str, Any], field: str, anything: Any, event_type: str | None
) -> None:
    key = event["user_id"].encode()
    if event_type is not None:
        event |= {"event_type": event_type, "item_id": None}
    _agrees(FakeRecord(key, json.dumps(event | {field: anything}).encode()))


@given(EVENTS, st.data())
def test_damaged_bytes_are_judged_as_the_careful_reader_does(event: dict[str, Any], data: st.DataObject) -> None:
    value = bytearray(json.dumps(event, ensure_ascii=False).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    _agrees(FakeRecord(event["user_id"].encode(), bytes(value)))


@given(st.lists(st.tuples(EVENTS, st.sampled_from([None, *KINDS])), max_size=6), st.integers(0, 99))
def test_a_batch_is_decoded_as_its_records_are_one_by_one(
    rows: list[tuple[dict[str, Any], str | None]], seed: int
) -> None:
    rng = Random(seed)
    records = []
    for offset, (event, kind) in enumerate(rows):
        key, value = (event["user_id"].encode(), json.dumps(event).encode()) if kind is None else make(kind, rng)
        records.append(FakeRecord(key, value, offset))
    together = DECODER.decode(records)
    alone = [DECODER.decode([one]) for one in records]
    assert together.rejected == [rejected for decoded in alone for rejected in decoded.rejected]
    for name in ("offset", "item", "kind", "ts_ms", "value", "event_id", "segments"):
        expected = np.concatenate(
            [np.zeros_like(getattr(together.batch, name)[:0]), *(getattr(one.batch, name) for one in alone)]
        )
        np.testing.assert_array_equal(getattr(together.batch, name), expected)
    assert together.batch.user_ids() == [user_id for decoded in alone for user_id in decoded.batch.user_ids()]


@given(
    st.lists(st.lists(st.tuples(EVENTS, st.sampled_from([None, "impression", *KINDS])), max_size=5), max_size=4),
    st.integers(0, 99),
)
def test_batches_of_several_partitions_are_decoded_as_each_by_itself(
    partitions: list[list[tuple[dict[str, Any], str | None]]], seed: int
) -> None:
    """Whatever is wrong in one of them: users are numbered in each anew, and nothing goes over to another."""
    rng = Random(seed)
    batches = []
    for drawn in partitions:
        records = []
        for offset, (event, kind) in enumerate(drawn):
            if kind in KINDS:
                key, value = make(kind, rng)
            else:
                shown = {"event_type": "impression"} if kind == "impression" else {}
                key, value = event["user_id"].encode(), json.dumps(event | shown).encode()
            records.append(FakeRecord(key, value, offset))
        batches.append(records)
    together = DECODER.decode_all(batches)
    assert len(together) == len(batches)
    for records, found in zip(batches, together, strict=True):
        (alone,) = DECODER.decode_all([records])
        assert (found.rejected, found.n_impressions) == (alone.rejected, alone.n_impressions)
        for name in ("users", "item_ids", "event_ids", "requests"):
            assert getattr(found.batch, name) == getattr(alone.batch, name)
        for name in ("offset", "user", "item", "kind", "ts_ms", "value", "event_id", "segments"):
            np.testing.assert_array_equal(getattr(found.batch, name), getattr(alone.batch, name))

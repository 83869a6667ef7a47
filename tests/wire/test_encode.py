"""What is written for others: stable ids, complete recommendations, dead letters that lose nothing."""

from __future__ import annotations

import base64
import json
from hashlib import sha256

import msgspec
import pytest

from stream.core.events import EventBatch
from stream.wire.encode import dead_letter, encode_all, encode_recommendations, rec_id, rec_ids
from stream.wire.lists import encode_lists
from stream.wire.messages import DeadLetter, Recommendation, RecommendedItem, Source
from stream.wire.reasons import Reason, Rejected
from tests.wire.records import FakeRecord


def test_the_same_place_gives_the_same_id_in_every_version() -> None:
    assert rec_id("events", 3, 41) == "90a8e8f47d302aa4ccfeb9b5e31fe97e"


def test_ids_of_a_partition_are_those_of_its_places() -> None:
    of = rec_ids("events", 3)
    assert [of(offset) for offset in (41, 0, 41)] == [rec_id("events", 3, offset) for offset in (41, 0, 41)]


def test_different_places_give_different_ids() -> None:
    places = [(topic, partition, offset) for topic in ("a", "a1") for partition in (1, 11) for offset in (1, 11, 111)]
    assert len({rec_id(*place) for place in places}) == len(places)


def _batch() -> EventBatch:
    return EventBatch.build(["b", "a", "b"], ["x", "y", "z"], [0, 1, 0], [10, 20, 30], event_ids=["e1", None, None])


def _encoded(n_lists: int = 3) -> list[bytes]:
    lists = encode_lists(
        [["i1", "i2"], [], ['ä"']],
        [[0.5, 0.25], [], [-1.0]],
        [[["trending"], []], [], [["a", "b"]]],
    )
    return encode_recommendations(
        _batch(),
        lists[:n_lists],
        topic="events",
        partition=3,
        model="ranker@2",
        variant="A",
        activity_offset=-1,
        items_offset=7,
    )


def test_each_event_gets_its_recommendation_in_order() -> None:
    first, second, third = map(json.loads, _encoded())
    assert first == {
        "rec_id": rec_id("events", 3, 0),
        "user_id": "b",
        "ts_ms": 10,
        "event_id": "e1",
        "items": [
            {"item_id": "i1", "score": 0.5, "reasons": ["trending"]},
            {"item_id": "i2", "score": 0.25, "reasons": []},
        ],
        "model": "ranker@2",
        "variant": "A",
        "activity_offset": -1,
        "items_offset": 7,
        "source": {"topic": "events", "partition": 3, "offset": 0},
    }
    assert (second["user_id"], second["event_id"], second["items"], second["variant"]) == ("a", None, [], "A")
    assert third["items"] == [{"item_id": 'ä"', "score": -1.0, "reasons": ["a", "b"]}]


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        _encoded(n_lists=1)


def test_recommendations_one_by_one_are_written_as_those_of_a_batch() -> None:
    encoded = _encoded()
    structs = [msgspec.json.decode(value, type=Recommendation) for value in encoded]
    assert structs[0].source == Source("events", 3, 0)
    assert structs[0].items[0] == RecommendedItem("i1", 0.5, ["trending"])
    assert encode_all(structs) == encoded


def test_a_dead_letter_holds_the_record_as_it_was() -> None:
    record = FakeRecord(b"\xff", b'{"a":', offset=12, timestamp=99)
    letter = dead_letter(Rejected(record, Reason.INVALID_JSON, "cut off"), "events", 4)
    assert msgspec.json.decode(letter, type=DeadLetter) == DeadLetter(
        reason="invalid_json",
        detail="cut off",
        topic="events",
        partition=4,
        offset=12,
        ts_ms=99,
        key=b"\xff",
        key_bytes=1,
        value=b'{"a":',
        value_bytes=5,
        value_sha256=sha256(b'{"a":').hexdigest(),
    )


def test_a_large_dead_letter_is_cut_but_says_how_long_it_was_and_what_it_hashes_to() -> None:
    value = bytes(range(256)) * 4096
    letter = json.loads(
        dead_letter(Rejected(FakeRecord(value, value), Reason.TOO_LARGE, ""), "events", 0, limit_bytes=1000)
    )
    assert base64.b64decode(letter["value"]) == base64.b64decode(letter["key"]) == value[:1000]
    assert letter["value_bytes"] == letter["key_bytes"] == len(value)
    assert letter["value_sha256"] == sha256(value).hexdigest()


def test_a_dead_letter_tells_a_missing_value_from_an_empty_one() -> None:
    missing = json.loads(dead_letter(Rejected(FakeRecord(None, None, timestamp=-1), Reason.EMPTY, ""), "events", 0))
    empty = json.loads(dead_letter(Rejected(FakeRecord(b"", b""), Reason.EMPTY, ""), "events", 0))
    assert [missing[name] for name in ("key", "key_bytes", "value", "value_bytes", "value_sha256", "ts_ms")] == [
        None
    ] * 6
    assert (empty["value"], empty["value_bytes"], empty["key"], empty["key_bytes"]) == ("", 0, "", 0)


def test_a_detail_with_half_a_surrogate_pair_can_still_be_written() -> None:
    letter = dead_letter(Rejected(FakeRecord(b"k", b"v"), Reason.INVALID_TEXT, "found \ud83d"), "events", 0)
    assert json.loads(letter)["detail"] == "found \\ud83d"

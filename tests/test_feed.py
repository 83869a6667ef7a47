"""Tables become records: what their bytes are, where they go and when they are due. No broker is needed here."""

import json

import polars as pl
import pytest

from stream.feed import Pace, encode_events, encode_items, partition_of
from stream.wire.messages import Event

NOON_MS = 1_700_049_600_000


def test_an_event_is_json_keyed_by_its_user() -> None:
    """Known columns are fields in any order of columns, the others context; absent fields are left out."""
    frame = pl.DataFrame(
        {
            "device": ["mobile", None],
            "ts_ms": [NOON_MS, NOON_MS + 1],
            "user_id": ["ü1", "u2"],
            "event_type": ["cart", "view"],
            "item_id": ["i1", "i2"],
            "value": [2.5, None],
        }
    )
    first, second = encode_events([frame])
    assert first[0] == "ü1"
    assert json.loads(first[1]) == {
        "user_id": "ü1",
        "item_id": "i1",
        "event_type": "cart",
        "ts_ms": NOON_MS,
        "value": 2.5,
        "context": {"device": "mobile"},
    }
    assert json.loads(second[1]) == {"user_id": "u2", "item_id": "i2", "event_type": "view", "ts_ms": NOON_MS + 1}
    assert (first[2], second[2]) == (NOON_MS, NOON_MS + 1)


def test_every_field_of_the_log_is_a_field_of_the_contract() -> None:
    """What is sent under a name is read under it."""
    columns = {"user_id": ["u"], "item_id": ["i"], "event_type": ["view"], "ts_ms": [NOON_MS], "value": [1.0]}
    (record,) = encode_events([pl.DataFrame(columns | {"session_id": ["s"], "event_id": ["e"], "page": ["p"]})])
    assert set(json.loads(record[1])) <= set(Event.__struct_fields__)


def test_an_event_without_a_user_or_a_time_is_sent_as_it_is() -> None:
    """The worker's dead letters account for it: it has no key, and its fields are null."""
    frame = pl.DataFrame({"user_id": [None], "item_id": ["i"], "event_type": ["view"], "ts_ms": [None]})
    ((key, value, ts_ms),) = encode_events([frame])
    assert key is None
    assert ts_ms is None
    assert json.loads(value) == {"user_id": None, "item_id": "i", "event_type": "view", "ts_ms": None}


def test_an_item_keeps_its_own_fields_and_carries_the_rest_as_attributes() -> None:
    """Nulls are left out; what JSON cannot hold becomes text."""
    items = pl.DataFrame(
        {
            "item_id": ["i1", "i2"],
            "category": ["tea", None],
            "available": [False, True],
            "published_ms": [NOON_MS, None],
            "price": [2.5, float("inf")],
            "tags": [["a", "b"], None],
        }
    )
    first, second = encode_items(items)
    assert first[0] == "i1"
    assert json.loads(first[1]) == {
        "item_id": "i1",
        "category": "tea",
        "available": False,
        "published_ms": NOON_MS,
        "attributes": {"price": 2.5, "tags": "['a', 'b']"},
    }
    assert json.loads(second[1]) == {"item_id": "i2", "available": True, "attributes": {"price": "inf"}}


def test_keys_go_where_kafkas_own_clients_send_them() -> None:
    """murmur2 of the Java client: published test vectors of its hash, without the sign, modulo the partitions."""
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    for key, hashed in hashes.items():
        assert partition_of(key, 1_000) == (hashed & 0x7FFFFFFF) % 1_000


def test_a_rate_spaces_events_evenly() -> None:
    """100 a second: the 50th after half a second, whatever their times."""
    pace = Pace(rate=100.0)
    assert pace.waits
    assert pace.due_s(0, None, None) == 0.0
    assert pace.due_s(50, NOON_MS, NOON_MS) == 0.5


def test_a_speedup_follows_the_events_own_times() -> None:
    """An hour in a minute; an event without a time, or one that goes back, is due at once."""
    pace = Pace(speedup=60.0)
    assert pace.due_s(7, NOON_MS + 3_600_000, NOON_MS) == 60.0
    assert pace.due_s(7, None, NOON_MS) == 0.0
    assert pace.due_s(7, NOON_MS - 1_000, NOON_MS) < 0.0


def test_without_a_pace_nothing_waits() -> None:
    """0 and 0 is as fast as possible."""
    assert not Pace().waits
    assert Pace().due_s(1_000, NOON_MS, NOON_MS) == 0.0


@pytest.mark.parametrize(("rate", "speedup"), [(-1.0, 0.0), (0.0, -1.0), (1.0, 1.0)])
def test_a_pace_is_one_of_the_two_and_not_negative(rate: float, speedup: float) -> None:
    """ValueError says which."""
    with pytest.raises(ValueError, match="pace"):
        Pace(rate, speedup)

"""The published contract says what the code does: what it allows is accepted, what it forbids is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # its stubs are a package more

from stream.cli.main import main
from stream.core.events import EventBatch, EventTypes
from stream.wire.decode import EventDecoder
from stream.wire.encode import dead_letter, encode_recommendations
from stream.wire.limits import Limits
from stream.wire.lists import encode_lists
from stream.wire.reasons import Reason, Rejected
from stream.wire.schema import MESSAGES, asyncapi, json_schema
from tests.wire.malformed import KINDS, REASON_OF, make
from tests.wire.records import NOW_MS, FakeRecord, event_fields
from tests.wire.test_decode import EVENTS

EVENT = Draft202012Validator(json_schema("event"))

# What JSON Schema cannot see: the bytes before parsing, the record around the value, NUL, and field types that it
# takes for what they stand for.
BEYOND_SCHEMA = {
    *(Reason.EMPTY, Reason.TOO_LARGE, Reason.INVALID_UTF8, Reason.INVALID_JSON, Reason.INVALID_TEXT),
    *(Reason.FUTURE, Reason.NULL_KEY, Reason.KEY_MISMATCH),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_each_schema_is_itself_valid_and_describes_every_field(name: str) -> None:
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["description"]
        for field, content in part["properties"].items():
            assert content.get("description"), field


@given(EVENTS)
def test_every_event_that_the_decoder_takes_keeps_to_the_schema(event: dict[str, Any]) -> None:
    EVENT.validate(event)


@pytest.mark.parametrize(
    "changes",
    [
        {"event_type": "request", "item_id": ...},
        {"event_type": "request", "item_id": None, "n": 100, "exclude": ["a"], "only": []},
        {"event_type": "forget", "item_id": ""},
        {"context": {"device": None, "x": 1.5, "y": True}, "value": 3, "n": None},
        {"ts_ms": 1.7e12},
        {"new_field": {"of": ["a later version"]}},
    ],
)
def test_good_events_keep_to_the_schema_and_are_taken(changes: dict[str, Any]) -> None:
    event = event_fields(**changes)
    EVENT.validate(event)
    assert EventDecoder(EventTypes()).decode([FakeRecord(b"u1", json.dumps(event).encode())]).rejected == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if REASON_OF[kind] not in BEYOND_SCHEMA])
def test_malformed_events_break_the_schema(kind: str) -> None:
    _, value = make(kind, Random(kind))
    assert value is not None
    assert not EVENT.is_valid(json.loads(value, parse_constant=str))  # NaN is no JSON, so nothing that a schema knows


def test_the_schema_follows_the_types_and_limits_of_the_deployment() -> None:
    validator = Draft202012Validator(json_schema("event", EventTypes(("listen",), (1.0,)), Limits(max_id_chars=3)))
    assert validator.is_valid(event_fields(event_type="listen"))
    assert not validator.is_valid(event_fields(event_type="click"))
    assert not validator.is_valid(event_fields(event_type="listen", user_id="long"))


def test_what_the_worker_writes_keeps_to_its_schemas() -> None:
    batch = EventBatch.build(["a", "b"], ["x", "y"], [0, 1], [NOW_MS, NOW_MS])
    for value in encode_recommendations(
        batch,
        encode_lists([["i"], []], [[0.5], []], [[["trending"]], []]),
        topic="events",
        partition=0,
        model="ranker@1",
        variant="A",
        activity_offset=-1,
        items_offset=0,
    ):
        Draft202012Validator(json_schema("recommendation")).validate(json.loads(value))
    letters = Draft202012Validator(json_schema("dead-letter"))
    for reason in Reason:
        for record in (FakeRecord(b"k", b"v"), FakeRecord(None, None, timestamp=None)):
            letters.validate(json.loads(dead_letter(Rejected(record, reason, "detail"), "events", 0)))
    assert not letters.is_valid({"reason": "unheard of"})


def test_items_keep_to_the_schema_or_break_it() -> None:
    validator = Draft202012Validator(json_schema("item"))
    assert validator.is_valid({})
    assert validator.is_valid({"item_id": "i", "category": "c", "available": False, "attributes": {"a": 1}})
    wrong: list[Any] = [{"available": "yes"}, {"published_ms": -1}, {"attributes": {"a": []}}, {"item_id": ""}, []]
    for bad in wrong:
        assert not validator.is_valid(bad)


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi("1.2.3")
    references = set(_references(document))
    assert len(references) > len(MESSAGES)
    for reference in references:
        part = document
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]


def test_the_asyncapi_document_names_every_topic_message_and_direction() -> None:
    document = asyncapi("1.2.3")
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["version"] == "1.2.3"
    assert set(document["components"]["messages"]) == set(MESSAGES)
    actions = {name: operation["action"] for name, operation in document["operations"].items()}
    assert actions == {
        "receive-events": "receive",
        "receive-items": "receive",
        "send-recommendations": "send",
        "send-dead-letters": "send",
        "send-forgotten": "send",
        "send-shadow-recommendations": "send",
        "send-feedback": "send",
    }


@pytest.mark.parametrize("which", [*MESSAGES, "asyncapi"])
def test_the_command_prints_the_same_document(which: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", which]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == (json_schema(which) if which in MESSAGES else asyncapi(printed["info"]["version"]))


def test_the_command_writes_a_file_or_says_why_not(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "event", "--out", str(tmp_path / "event.json")]) == 0
    assert json.loads((tmp_path / "event.json").read_text()) == json_schema("event")
    assert main(["schema", "event", "--out", str(tmp_path / "missing" / "event.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err

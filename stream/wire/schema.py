"""The contract for producers and consumers in any language: JSON Schema and AsyncAPI, generated from the types."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any, Final

import msgspec
import numpy as np

from stream.core.events import EventTypes
from stream.wire.limits import Limits
from stream.wire.messages import (
    CONTROL_TYPES,
    IMPRESSION,
    DeadLetter,
    Event,
    FeedbackTotals,
    Item,
    Outcome,
    Receipt,
    Recommendation,
    UserSpan,
)
from stream.wire.reasons import MEANING

__all__ = ["MESSAGES", "asyncapi", "json_schema"]

JsonObject = dict[str, Any]

MESSAGES: Final = {
    "event": Event,
    "item": Item,
    "recommendation": Recommendation,
    "dead-letter": DeadLetter,
    "outcome": Outcome,
    "user-span": UserSpan,
    "feedback-totals": FeedbackTotals,
    "receipt": Receipt,
}
"""Name -> type of the messages that others write or read; `item-activity` is between workers only."""

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(name: str, types: EventTypes | None = None, limits: Limits | None = None) -> JsonObject:
    """The JSON Schema (draft 2020-12) of one message as a JSON-able dict; KeyError for an unknown name.

    Args:
        name: a key of MESSAGES.
        types: the event types of the deployment.
        limits: its limits.
    """
    message = MESSAGES[name]
    schemas = _schemas("#/$defs/{name}", types or EventTypes(), limits or Limits())
    own = schemas.pop(message.__name__)
    used = {other: schema for other, schema in schemas.items() if f"#/$defs/{other}" in str(own)}
    return {"$schema": _DIALECT, **own, **({"$defs": used} if used else {})}


def asyncapi(version: str, types: EventTypes | None = None, limits: Limits | None = None) -> JsonObject:
    """The AsyncAPI 3.0 document of all topics, seen from the worker, as a JSON-able dict.

    Args:
        version: of the program, which is the contract's too.
        types: the event types of the deployment.
        limits: its limits.
    """
    schemas = _schemas("#/components/schemas/{name}", types or EventTypes(), limits or Limits())
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Polytempo",
            "version": version,
            "description": "User events in, recommendations out. `events`, `recommendations` and the worker's own "
            "changelog have the same number of partitions; keys are UTF-8 and decide the partition.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            topic: {
                "address": topic,
                "description": description,
                "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
                "bindings": {"kafka": {"topic": topic, **settings, "bindingVersion": "0.5.0"}},
            }
            for topic, _, messages, description, settings in _CHANNELS
        },
        "operations": {
            f"{action}-{topic}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{topic}"},
                "messages": [{"$ref": f"#/channels/{topic}/messages/{message}"} for message in messages],
            }
            for topic, action, messages, _, _ in _CHANNELS
        },
        "components": {
            "messages": {
                name: {
                    "name": name,
                    "contentType": "application/json",
                    "payload": {"$ref": f"#/components/schemas/{message.__name__}"},
                    "bindings": {"kafka": {"key": {"type": "string", "description": _KEYS[name]}}},
                }
                for name, message in MESSAGES.items()
            },
            "schemas": schemas,
        },
    }


_CHANNELS: Final[tuple[tuple[str, str, tuple[str, ...], str, JsonObject], ...]] = (
    ("events", "receive", ("event",), "What users do, and requests; any producer may write it.", {}),
    (
        "items",
        "receive",
        ("item",),
        "What is known of items; a record without a value removes one.",
        {"topicConfiguration": {"cleanup.policy": ["compact"]}},
    ),
    ("recommendations", "send", ("recommendation",), "One for every valid event; drop repeated `rec_id`s.", {}),
    ("dead-letters", "send", ("dead-letter",), "Records that could not be used, each with its reason.", {}),
    (
        "shadow-recommendations",
        "send",
        ("recommendation",),
        "What bundles in the shadow would have said to a sample of the events; not to be shown to anybody.",
        {},
    ),
    (
        "feedback",
        "send",
        ("outcome", "user-span", "feedback-totals"),
        "What became of recommendations, told by `kind`; drop repeated `feedback_id`s.",
        {},
    ),
    (
        "forgotten",
        "send",
        ("receipt",),
        "Who was forgotten, and up to which record: what lies before it may not be used again.",
        {"topicConfiguration": {"cleanup.policy": ["compact", "delete"]}},
    ),
)

_KEYS: Final = {
    "event": "user_id; an event with another key, or none, is refused",
    "item": "the item's id",
    "recommendation": "user_id",
    "dead-letter": "the key of the refused record",
    "outcome": "user_id",
    "user-span": "user_id",
    "feedback-totals": "partition, begin of the span, model and variant, with spaces between",
    "receipt": "key_id and user, with a colon between",
}


def _schemas(ref_template: str, types: EventTypes, limits: Limits) -> dict[str, JsonObject]:
    """Type's name -> its schema, with what the types alone do not say: this deployment's names and limits."""
    _, schemas = msgspec.json.schema_components(tuple(MESSAGES.values()), ref_template=ref_template)
    components: dict[str, JsonObject] = {
        name: {**schema, "description": cleandoc(schema["description"])} for name, schema in schemas.items()
    }
    event = components["Event"]
    fields = event["properties"]
    fields["event_type"]["enum"] = list(dict.fromkeys((*types.names, *CONTROL_TYPES, IMPRESSION)))
    fields["ts_ms"] |= {"minimum": limits.min_ts_ms, "maximum": limits.max_ts_ms}
    fields["user_id"]["maxLength"] = limits.max_id_chars
    for name in ("item_id", "event_id", "session_id"):
        _of_type(fields[name], "string")["maxLength"] = limits.max_id_chars
    _of_type(fields["n"], "integer")["maximum"] = limits.max_n
    largest = float(np.finfo(np.float32).max)
    _of_type(fields["value"], "number").update(minimum=-largest, maximum=largest)
    for name in ("exclude", "only"):
        array = _of_type(fields[name], "array")
        array["maxItems"] = limits.max_request_ids
        array["items"] = array["items"] | {"minLength": 1, "maxLength": limits.max_id_chars}
    event["allOf"] = _rules_of_types(impressions=IMPRESSION not in types.names)
    for name, free in (("Event", "context"), ("Item", "attributes")):
        flat = _of_type(components[name]["properties"][free], "object")
        flat["maxProperties"] = limits.max_context_fields
        flat["propertyNames"] = {"maxLength": limits.max_context_chars}
        _of_type(flat["additionalProperties"], "string")["maxLength"] = limits.max_context_chars
    _of_type(components["Item"]["properties"]["item_id"], "string").update(minLength=1, maxLength=limits.max_id_chars)
    for name in ("Outcome", "UserSpan", "FeedbackTotals"):
        components[name]["properties"]["kind"]["description"] = "Which of the messages of `feedback` it is."
    components["DeadLetter"]["properties"]["reason"]["oneOf"] = [
        {"const": reason.value, "description": meaning} for reason, meaning in MEANING.items()
    ]
    return components


def _rules_of_types(*, impressions: bool) -> list[JsonObject]:
    """What a field may be depends on event_type; `impressions` need no item, unless they are a type like others."""
    nothing = {"type": "null"}
    free = [*CONTROL_TYPES, IMPRESSION] if impressions else list(CONTROL_TYPES)
    return [
        {
            "if": {"properties": {"event_type": {"enum": list(CONTROL_TYPES)}}},
            "then": {"properties": {"item_id": {"enum": [None, ""]}}},
        },
        {
            "if": {"properties": {"event_type": {"enum": free}}},
            "else": {"required": ["item_id"], "properties": {"item_id": {"type": "string", "minLength": 1}}},
        },
        {
            "if": {"properties": {"event_type": {"const": "request"}}},
            "else": {"properties": {"n": nothing, "exclude": nothing, "only": nothing}},
        },
    ]


def _of_type(schema: JsonObject, json_type: str) -> JsonObject:
    """The alternative of a field's schema that has this type."""
    alternatives: list[JsonObject] = schema.get("anyOf", [schema])
    return next(alternative for alternative in alternatives if alternative.get("type") == json_type)

"""Reads one event slowly, to say exactly what is wrong with it.

`stream.wire.decode` reads whole batches fast and comes here for the events that it could not take, so this is the
definition of a valid event and that is only its shortcut: a test holds the two against each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container
from typing import Any, Final, NoReturn

import numpy as np

from stream.wire.limits import Limits
from stream.wire.messages import CONTROL_TYPES, IMPRESSION, Event, Scalar
from stream.wire.reasons import Malformed, Reason, Record

__all__ = ["check_event", "check_flat", "parse_object", "read_event", "shown", "usable_value"]

_LONGEST_NUMBER: Final = 4300  # digits that Python, and msgspec with it, is ready to read as one whole number
_LARGEST_VALUE: Final = float(np.finfo(np.float32).max)


def usable_value(value: bytes | None, limits: Limits) -> bytes:
    """The record's value if there is one to read; Malformed otherwise."""
    if not value:
        raise Malformed(Reason.EMPTY, "the record has no value" if value is None else "the value has 0 bytes")
    if len(value) > limits.max_bytes:
        raise Malformed(Reason.TOO_LARGE, f"the value has {len(value)} bytes, at most {limits.max_bytes} are read")
    return value


def parse_object(value: bytes) -> dict[str, Any]:
    """The JSON object in these bytes, of finite numbers and whole characters; Malformed otherwise."""
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise Malformed(Reason.INVALID_UTF8, f"byte {error.start}: {error.reason}") from None
    try:
        document = json.loads(text, parse_constant=_refuse_constant, parse_int=_whole_number)
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Malformed(Reason.INVALID_TEXT, "a string holds half a surrogate pair") from None
    except RecursionError:
        raise Malformed(Reason.INVALID_JSON, "nested too deep") from None
    except ValueError as error:
        raise Malformed(Reason.INVALID_JSON, str(error)) from None
    if not isinstance(document, dict):
        raise Malformed(Reason.NOT_AN_OBJECT, f"a JSON object is expected, found {shown(document)}")
    return document


def read_event(value: bytes) -> Event:
    """The event in these bytes, every field of its type; Malformed otherwise. Bounds are `check_event`'s business."""
    document = parse_object(value)
    user_id = _text(document, "user_id")
    event_type = _text(document, "event_type")
    ts_ms = _integer(document, "ts_ms", Reason.WRONG_TYPE)
    if user_id is None or event_type is None or ts_ms is None:
        missing = [name for name in ("user_id", "event_type", "ts_ms") if document.get(name) is None]
        found = "null" if missing[0] in document else "absent"
        raise Malformed(Reason.MISSING_FIELD, f"{missing[0]} is {found}")
    return Event(
        user_id=user_id,
        event_type=event_type,
        ts_ms=ts_ms,
        item_id=_text(document, "item_id"),
        event_id=_text(document, "event_id"),
        value=_number(document, "value"),
        session_id=_text(document, "session_id"),
        context=_context(document),
        n=_integer(document, "n", Reason.BAD_REQUEST),
        exclude=_ids(document, "exclude"),
        only=_ids(document, "only"),
    )


def check_event(event: Event, record: Record, known_types: Container[str], limits: Limits) -> None:
    """Nothing if the event keeps to the contract and to the limits; Malformed says what it breaks first.

    An impression that is none of the known types may pass, too, and needs no item.
    """
    _check_id("user_id", event.user_id, limits)
    is_known = event.event_type in known_types
    if not is_known and event.event_type != IMPRESSION:
        raise Malformed(Reason.UNKNOWN_TYPE, f"event_type is {shown(event.event_type)}")
    needs_item = is_known and event.event_type not in CONTROL_TYPES
    if event.item_id is None and needs_item:
        raise Malformed(Reason.MISSING_FIELD, f"item_id is needed for {event.event_type!r}")
    if event.item_id is not None and (needs_item or event.item_id != ""):
        _check_id("item_id", event.item_id, limits)
    for name, optional_id in (("event_id", event.event_id), ("session_id", event.session_id)):
        if optional_id:  # the empty string says, as null does, that there is none
            _check_id(name, optional_id, limits)
    _check_time(event.ts_ms, record.timestamp, limits)
    if event.value is not None and not abs(event.value) <= _LARGEST_VALUE:
        raise Malformed(Reason.NOT_FINITE, f"value is {event.value}, which a 32-bit float cannot hold")
    check_flat("context", event.context, limits)
    _check_request(event, limits)
    if record.key is None:
        raise Malformed(Reason.NULL_KEY, f"the record has no key, expected user_id {shown(event.user_id)}")
    if record.key != event.user_id.encode():
        raise Malformed(Reason.KEY_MISMATCH, f"the key is {shown(record.key)}, user_id {shown(event.user_id)}")


def check_flat(name: str, fields: dict[str, Scalar] | None, limits: Limits) -> None:
    """Nothing if these free fields are few and short enough; Malformed otherwise."""
    if fields is None:
        return
    if len(fields) > limits.max_context_fields:
        raise Malformed(
            Reason.BAD_CONTEXT, f"{name} has {len(fields)} fields, at most {limits.max_context_fields} are read"
        )
    for key, value in fields.items():
        if len(key) > limits.max_context_chars or len(str(value)) > limits.max_context_chars:
            raise Malformed(
                Reason.BAD_CONTEXT, f"{name}.{shown(key)} has more than {limits.max_context_chars} characters"
            )


def shown(value: object) -> str:
    """A value as a detail shows it: in full if short, its beginning otherwise."""
    limit = 60
    text = repr(value[: limit + 1]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _refuse_constant(constant: str) -> NoReturn:
    raise Malformed(Reason.NOT_FINITE, f"{constant} is not a JSON number")


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else math.copysign(math.inf, -1 if digits[0] == "-" else 1)


def _text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is None or isinstance(value, str):
        return value
    raise Malformed(Reason.WRONG_TYPE, f"{name} is {shown(value)}, a string is expected")


def _number(document: dict[str, Any], name: str) -> float | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Malformed(Reason.WRONG_TYPE, f"{name} is {shown(value)}, a number is expected")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _integer(document: dict[str, Any], name: str, otherwise: Reason) -> int | None:
    """JSON knows one kind of number: 1.7e12 is whole, and some languages write it so."""
    value = document.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float):
        if value.is_integer():
            return int(value)
        if not math.isfinite(value):
            raise Malformed(Reason.NOT_FINITE, f"{name} is too large a number")
    raise Malformed(otherwise, f"{name} is {shown(value)}, a whole number is expected")


def _context(document: dict[str, Any]) -> dict[str, Scalar] | None:
    value = document.get("context")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Malformed(Reason.BAD_CONTEXT, f"context is {shown(value)}, an object is expected")
    for key, field in value.items():
        if isinstance(field, dict | list):
            raise Malformed(Reason.BAD_CONTEXT, f"context.{shown(key)} is nested")
        if isinstance(field, float) and not math.isfinite(field):
            raise Malformed(Reason.NOT_FINITE, f"context.{shown(key)} is too large a number")
    return value


def _ids(document: dict[str, Any], name: str) -> list[str] | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item_id, str) for item_id in value):
        raise Malformed(Reason.BAD_REQUEST, f"{name} is {shown(value)}, an array of strings is expected")
    return value


def _check_id(name: str, value: str, limits: Limits) -> None:
    if not value:
        raise Malformed(Reason.EMPTY_ID, f"{name} is empty")
    if len(value) > limits.max_id_chars:
        raise Malformed(
            Reason.ID_TOO_LONG, f"{name} has {len(value)} characters, at most {limits.max_id_chars} are allowed"
        )
    if "\0" in value:
        raise Malformed(Reason.INVALID_TEXT, f"{name} holds NUL")


def _check_time(ts_ms: int, timestamp_ms: int | None, limits: Limits) -> None:
    if ts_ms < limits.min_ts_ms:
        raise Malformed(Reason.TOO_OLD, f"ts_ms is {shown(ts_ms)}, the earliest accepted is {limits.min_ts_ms}")
    if ts_ms > limits.max_ts_ms:
        raise Malformed(Reason.OUT_OF_RANGE, f"ts_ms is {shown(ts_ms)}, the latest accepted is {limits.max_ts_ms}")
    if timestamp_ms is not None and timestamp_ms >= 0 and ts_ms > timestamp_ms + limits.max_ahead_ms:
        raise Malformed(
            Reason.FUTURE,
            f"ts_ms is {ts_ms - timestamp_ms} ms ahead of the record's timestamp, at most {limits.max_ahead_ms} are",
        )


def _check_request(event: Event, limits: Limits) -> None:
    if event.event_type in CONTROL_TYPES and event.item_id:
        raise Malformed(Reason.BAD_REQUEST, f"{event.event_type!r} has no item, found {shown(event.item_id)}")
    if event.event_type != "request":
        for name, given in (("n", event.n), ("exclude", event.exclude), ("only", event.only)):
            if given is not None:
                raise Malformed(Reason.BAD_REQUEST, f"{name} belongs to 'request', not to {event.event_type!r}")
        return
    if event.n is not None and not 1 <= event.n <= limits.max_n:
        raise Malformed(Reason.BAD_REQUEST, f"n is {shown(event.n)}, expected 1 to {limits.max_n}")
    for name, item_ids in (("exclude", event.exclude or []), ("only", event.only or [])):
        if len(item_ids) > limits.max_request_ids:
            raise Malformed(Reason.BAD_REQUEST, f"{name} has {len(item_ids)} items, at most {limits.max_request_ids}")
        if any(not 1 <= len(item_id) <= limits.max_id_chars for item_id in item_ids):
            raise Malformed(Reason.BAD_REQUEST, f"{name} holds an id that is empty or too long")

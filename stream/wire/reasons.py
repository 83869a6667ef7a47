"""Why a message is refused: the short codes that consumers of `dead-letters` read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

__all__ = ["MEANING", "Malformed", "Reason", "Record", "Rejected"]


class Reason(StrEnum):
    """The code of a refusal. `MEANING` explains each; a message with several faults gets the first that is found."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    INVALID_TEXT = "invalid_text"
    NOT_FINITE = "not_finite"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    UNKNOWN_TYPE = "unknown_type"
    EMPTY_ID = "empty_id"
    ID_TOO_LONG = "id_too_long"
    TOO_OLD = "too_old"
    OUT_OF_RANGE = "out_of_range"
    FUTURE = "future"
    BAD_CONTEXT = "bad_context"
    BAD_REQUEST = "bad_request"
    NULL_KEY = "null_key"
    KEY_MISMATCH = "key_mismatch"
    UNANSWERED = "unanswered"


MEANING: Final = {
    Reason.EMPTY: "the record has no value, or one of zero bytes",
    Reason.TOO_LARGE: "the value has more bytes than are read",
    Reason.INVALID_UTF8: "the value is not UTF-8",
    Reason.INVALID_JSON: "the value is not one JSON document (RFC 8259), or is nested too deep",
    Reason.INVALID_TEXT: "a string holds half a surrogate pair, or an id holds NUL",
    Reason.NOT_FINITE: "NaN, an infinity, or a number too large for its field",
    Reason.NOT_AN_OBJECT: "the JSON document is not an object",
    Reason.MISSING_FIELD: "a field that is needed is absent or null",
    Reason.WRONG_TYPE: "a field has another JSON type than the contract says",
    Reason.UNKNOWN_TYPE: "event_type is not among the configured ones",
    Reason.EMPTY_ID: "an id that is needed is the empty string",
    Reason.ID_TOO_LONG: "an id has more characters than are allowed",
    Reason.TOO_OLD: "ts_ms is negative or before the earliest time that is accepted (seconds instead of milliseconds?)",
    Reason.OUT_OF_RANGE: "ts_ms is after the latest time that is accepted (microseconds instead of milliseconds?)",
    Reason.FUTURE: "ts_ms is further ahead of the record's timestamp than clocks may differ",
    Reason.BAD_CONTEXT: "context or attributes are nested, have too many fields, or one that is too long",
    Reason.BAD_REQUEST: "n, exclude or only are out of bounds or not on a request, or a request names an item",
    Reason.NULL_KEY: "the record has no key, so its partition is not its user's (or item's)",
    Reason.KEY_MISMATCH: "the record's key is not the id in its value, so its partition is not that id's",
    Reason.UNANSWERED: "the event is good and was counted, but the model failed on it",
}


class Record(Protocol):
    """What is read of a Kafka record; aiokafka's ConsumerRecord is one."""

    @property
    def key(self) -> bytes | None:
        """The key's bytes."""

    @property
    def value(self) -> bytes | None:
        """The value's bytes; None for a tombstone."""

    @property
    def offset(self) -> int:
        """Position in the partition."""

    @property
    def timestamp(self) -> int | None:
        """Epoch milliseconds that producer or broker gave the record; None or below 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is refused, and why."""

    record: Record
    reason: Reason
    detail: str
    """One line for a person: the field, what was found there and what was expected."""


class Malformed(Exception):  # noqa: N818 - it is a verdict on a message that its caller turns into Rejected
    """Raised while one message is read; never leaves this package."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

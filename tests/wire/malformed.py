"""Malformed events of many kinds, seeded, for the decoder's own tests and for those that put them through a worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, Final

from stream.wire.reasons import Reason

__all__ = ["KINDS", "REASON_OF", "make"]

KeyAndValue = tuple[bytes | None, bytes | None]


def make(kind: str, rng: Random, now_ms: int = 1_700_000_000_000) -> KeyAndValue:
    """Key and value of one malformed event of this kind, different each time; `now_ms` is the time of sending."""
    return _MAKERS[kind][1](_good(rng, now_ms), rng)


def _good(rng: Random, now_ms: int) -> dict[str, Any]:
    return {
        "user_id": f"user-{rng.randrange(1000)}",
        "item_id": f"item-{rng.randrange(1000)}",
        "event_type": rng.choice(["view", "click", "purchase"]),
        "ts_ms": now_ms - rng.randrange(60_000),
        "event_id": f"e{rng.getrandbits(40):x}",
    }


def _send(event: dict[str, Any], **changes: Any) -> KeyAndValue:
    """The event with these changes, under the user's key; a change to `...` leaves the field out."""
    changed = {name: value for name, value in (event | changes).items() if value is not ...}
    return event["user_id"].encode(), json.dumps(changed).encode()


def _truncated(event: dict[str, Any], rng: Random) -> KeyAndValue:
    key, value = _send(event)
    assert value is not None
    return key, value[: rng.randrange(1, len(value))]


def _invalid_utf8(event: dict[str, Any], rng: Random) -> KeyAndValue:
    key, value = _send(event)
    assert value is not None
    return key, value.replace(b"item-", rng.choice([b"\xff", b"\xc3(", b"\xed\xa0\x80"]))


def _raw(event: dict[str, Any], name: str, literal: str) -> KeyAndValue:
    """A literal that no JSON writer would write."""
    key, value = _send(event, **{name: "@"})
    assert value is not None
    return key, value.replace(b'"@"', literal.encode())


Maker = Callable[[dict[str, Any], Random], KeyAndValue]

_MAKERS: Final[dict[str, tuple[Reason, Maker]]] = {
    "no value": (Reason.EMPTY, lambda e, _: (e["user_id"].encode(), None)),
    "zero bytes": (Reason.EMPTY, lambda e, _: (e["user_id"].encode(), b"")),
    "a string of 1 MB": (Reason.TOO_LARGE, lambda e, r: _send(e, item_id=r.choice("abc") * 1_000_000)),
    "invalid UTF-8": (Reason.INVALID_UTF8, _invalid_utf8),
    "truncated JSON": (Reason.INVALID_JSON, _truncated),
    "binary": (Reason.INVALID_JSON, lambda e, r: (e["user_id"].encode(), b"\0" + bytes(r.choices(range(128), k=40)))),
    "two documents": (Reason.INVALID_JSON, lambda e, _: (e["user_id"].encode(), json.dumps(e).encode() * 2)),
    "nested without end": (Reason.INVALID_JSON, lambda e, _: (e["user_id"].encode(), b'{"context":' + b"[" * 50_000)),
    "half a surrogate pair": (Reason.INVALID_TEXT, lambda e, _: _send(e, item_id="item \ud83d")),
    "NUL in an id": (Reason.INVALID_TEXT, lambda e, _: _send(e, item_id=f"{e['item_id']}\0")),
    "NaN": (Reason.NOT_FINITE, lambda e, _: _send(e, value=float("nan"))),
    "infinity": (Reason.NOT_FINITE, lambda e, r: _send(e, value=r.choice([1, -1]) * float("inf"))),
    "a number beyond doubles": (Reason.NOT_FINITE, lambda e, r: _raw(e, "value", f"1e{r.randrange(400, 999)}")),
    "a number beyond floats": (Reason.NOT_FINITE, lambda e, r: _send(e, value=r.uniform(4e38, 1e300))),
    "an array": (Reason.NOT_AN_OBJECT, lambda e, _: (e["user_id"].encode(), json.dumps([e]).encode())),
    "a bare string": (Reason.NOT_AN_OBJECT, lambda e, _: (e["user_id"].encode(), json.dumps(str(e)).encode())),
    "user_id absent": (Reason.MISSING_FIELD, lambda e, _: _send(e, user_id=...)),
    "user_id null": (Reason.MISSING_FIELD, lambda e, _: (None, _send(e, user_id=None)[1])),
    "item_id absent": (Reason.MISSING_FIELD, lambda e, _: _send(e, item_id=...)),
    "event_type absent": (Reason.MISSING_FIELD, lambda e, _: _send(e, event_type=...)),
    "ts_ms absent": (Reason.MISSING_FIELD, lambda e, _: _send(e, ts_ms=...)),
    "user_id a number": (Reason.WRONG_TYPE, lambda e, r: _send(e, user_id=r.randrange(1000))),
    "item_id an array": (Reason.WRONG_TYPE, lambda e, _: _send(e, item_id=[e["item_id"]])),
    "ts_ms a string": (Reason.WRONG_TYPE, lambda e, _: _send(e, ts_ms=str(e["ts_ms"]))),
    "ts_ms with a fraction": (Reason.WRONG_TYPE, lambda e, _: _send(e, ts_ms=e["ts_ms"] + 0.5)),
    "value a string": (Reason.WRONG_TYPE, lambda e, r: _send(e, value=f"{r.uniform(1, 9):.2f}")),
    "unknown type": (Reason.UNKNOWN_TYPE, lambda e, r: _send(e, event_type=r.choice(["CLICK", "wish", ""]))),
    "empty item": (Reason.EMPTY_ID, lambda e, _: _send(e, item_id="")),
    "a long id": (Reason.ID_TOO_LONG, lambda e, r: _send(e, item_id="x" * r.randrange(257, 5000))),
    "a negative time": (Reason.TOO_OLD, lambda e, r: _send(e, ts_ms=-r.randrange(1, 10**15))),
    "seconds": (Reason.TOO_OLD, lambda e, _: _send(e, ts_ms=e["ts_ms"] // 1000)),
    "microseconds": (Reason.OUT_OF_RANGE, lambda e, _: _send(e, ts_ms=e["ts_ms"] * 1000)),
    "a time beyond 64 bits": (Reason.OUT_OF_RANGE, lambda e, r: _send(e, ts_ms=2**64 + r.randrange(10**6))),
    "far in the future": (Reason.FUTURE, lambda e, r: _send(e, ts_ms=e["ts_ms"] + r.randrange(10**7, 10**10))),
    "nested context": (Reason.BAD_CONTEXT, lambda e, _: _send(e, context={"device": {"os": "x"}})),
    "context a string": (Reason.BAD_CONTEXT, lambda e, _: _send(e, context="mobile")),
    "a long context field": (Reason.BAD_CONTEXT, lambda e, r: _send(e, context={"url": "x" * r.randrange(257, 999)})),
    "many context fields": (Reason.BAD_CONTEXT, lambda e, _: _send(e, context={f"f{i}": i for i in range(65)})),
    "n on a click": (Reason.BAD_REQUEST, lambda e, _: _send(e, n=5)),
    "n of nothing": (Reason.BAD_REQUEST, lambda e, r: _send(e, event_type="request", item_id=..., n=-r.randrange(9))),
    "a request for an item": (Reason.BAD_REQUEST, lambda e, _: _send(e, event_type="request")),
    "exclude a string": (Reason.BAD_REQUEST, lambda e, _: _send(e, event_type="request", item_id=..., exclude="i")),
    "only of numbers": (Reason.BAD_REQUEST, lambda e, _: _send(e, event_type="request", item_id=..., only=[1, 2])),
    "null key": (Reason.NULL_KEY, lambda e, _: (None, _send(e)[1])),
    "another's key": (Reason.KEY_MISMATCH, lambda e, _: (b"somebody else", _send(e)[1])),
}

KINDS: Final = tuple(_MAKERS)
"""Names of the kinds."""

REASON_OF: Final = {kind: reason for kind, (reason, _) in _MAKERS.items()}
"""Kind -> the reason that it must be refused for."""

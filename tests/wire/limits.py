"""What is exactly as large, long and many as may be, and what is one more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from stream.wire.limits import Limits
from stream.wire.reasons import Reason

__all__ = ["boundaries", "padded"]

LIMITS = Limits()


def boundaries() -> Iterator[tuple[dict[str, Any], Reason | None]]:
    """Fields of an event, and why it is refused: one on each limit, and one just beyond it."""
    chars, n_fields, in_context = LIMITS.max_id_chars, LIMITS.max_context_fields, LIMITS.max_context_chars
    n_ids, request = LIMITS.max_request_ids, {"event_type": "request", "item_id": None}
    for more in (0, 1):
        for name in ("user_id", "item_id", "event_id", "session_id"):
            yield {name: "\u00e4" * (chars + more)}, Reason.ID_TOO_LONG if more else None
        contexts: list[dict[str, Any]] = [
            {str(field): field for field in range(n_fields + more)},
            {"url": "x" * (in_context + more)},
            {"k" * (in_context + more): 1},
            {"whole": 10 ** (in_context - 1 + more)},
        ]
        for context in contexts:
            yield {"context": context}, Reason.BAD_CONTEXT if more else None
        wishes: list[dict[str, Any]] = [
            {"n": LIMITS.max_n + more},
            {"n": 1 - more},
            {"exclude": ["x"] * (n_ids + more)},
            {"only": ["x"] * (n_ids + more)},
            {"exclude": ["x" * (chars + more)]},
            {"only": ["x" * (chars + more)]},
        ]
        for wish in wishes:
            yield {**request, **wish}, Reason.BAD_REQUEST if more else None


def padded(fields: dict[str, Any], n_bytes: int) -> bytes:
    """The event as JSON of exactly so many bytes, by white space that means nothing."""
    value = json.dumps(fields, ensure_ascii=False).encode()
    return value[:-1] + b" " * (n_bytes - len(value)) + value[-1:]

"""Kafka records without Kafka."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

NOW_MS = 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class FakeRecord:
    """What the decoder reads of a record."""

    key: bytes | None
    value: bytes | None
    offset: int = 0
    timestamp: int | None = NOW_MS


def event_fields(**changes: Any) -> dict[str, Any]:
    """A good event, changed; a change to `...` leaves the field out."""
    fields = {"user_id": "u1", "item_id": "i1", "event_type": "click", "ts_ms": NOW_MS} | changes
    return {name: value for name, value in fields.items() if value is not ...}


def record(offset: int = 0, **changes: Any) -> FakeRecord:
    """A record of that event, keyed by its user."""
    fields = event_fields(**changes)
    return FakeRecord(str(fields.get("user_id")).encode(), json.dumps(fields).encode(), offset)

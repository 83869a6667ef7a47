"""How large, how long and how far off in time a message may be.

What else is read from outside has its bound where it is read:

    value on `events`, `items`      `Limits.max_bytes`, before it is parsed; ids, context and attributes: `Limits`
    key                             on `events` it must be the user's id, on `items` it is the item's: `max_id_chars`
    headers                         not read
    `item-activity`, changelog      4 MiB, the topics' own `max.message.bytes`; lengths inside are checked against it
    bundle                          each file, before it is read: `stream.bundle.load.MAX_BYTES`
    golden inputs                   256 MiB unpacked, 4,096 rows: `stream.bundle.parity`
    channel, experiment             64 KiB: `stream.bundle.channel.MAX_CHANNEL_BYTES`
    HTTP                            a body of 1 KiB, of which nothing is read: `stream.operations.http`
    snapshots, stores               a worker's own files: whoever writes there may as well write the program
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what producers send; beyond them a message is a dead letter. Each bound itself is still allowed."""

    max_bytes: int = 64 * 1024
    """Of a record's value."""
    max_id_chars: int = 256
    """Of user, item, event and session ids, in Unicode code points."""
    min_ts_ms: int = 631_152_000_000
    """1990-01-01. A time in seconds instead of milliseconds falls below it."""
    max_ts_ms: int = 4_102_444_800_000
    """2100-01-01. A time in microseconds lies beyond it."""
    max_ahead_ms: int = 5 * 60 * 1000
    """How far an event's time may lie after its record's timestamp. One far-future event would age all statistics."""
    max_context_fields: int = 64
    max_context_chars: int = 256
    """Of a context field's name, and of its value."""
    max_n: int = 100
    """Items that a request may ask for."""
    max_request_ids: int = 1000
    """Items in `exclude`, and in `only`."""

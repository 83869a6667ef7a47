"""The id of a recommendation: it follows from the event that caused it, and from nothing else."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["rec_id"]


def rec_id(topic: str, partition: int, offset: int) -> str:
    """The id of the recommendation that the event at this place causes: 32 hexadecimal digits of a 128-bit hash."""
    return blake2b(f"{topic}/{partition}/{offset}".encode(), digest_size=16).hexdigest()

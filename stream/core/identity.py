"""The id of a recommendation: it follows from the event that caused it, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

__all__ = ["rec_id", "rec_ids"]


def rec_id(topic: str, partition: int, offset: int) -> str:
    """The id of the recommendation that the event at this place causes: 32 hexadecimal digits of a 128-bit hash."""
    return blake2b(f"{topic}/{partition}/{offset}".encode(), digest_size=16).hexdigest()


def rec_ids(topic: str, partition: int) -> Callable[[int], str]:
    """`rec_id` of one partition by offset; what all have in common is hashed once."""
    begun = blake2b(f"{topic}/{partition}/".encode(), digest_size=16)

    def of(offset: int) -> str:
        hashed = begun.copy()
        hashed.update(b"%d" % offset)
        return hashed.hexdigest()

    return of

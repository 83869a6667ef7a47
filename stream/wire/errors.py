"""The error of a message that the worker wrote itself and cannot read."""

from __future__ import annotations

from stream.errors import PolytempoError

__all__ = ["WireError"]


class WireError(PolytempoError):
    """A message of the worker's own topics is corrupt, or of another version; the text says how.

    Input of producers never raises this: what is wrong with it is a `Reason`.
    """

"""Why a bundle is refused."""

from __future__ import annotations

from pathlib import Path

from stream.errors import PolytempoError

__all__ = ["BundleError"]


class BundleError(PolytempoError):
    """A bundle, or the pointer to one, cannot be used.

    Args:
        path: the file (or folder) at fault.
        reason: what is wrong with it, as a clause.
        expected: what should have been there; None leaves the comparison out of the message.
        found: what was there instead.
        hint: what to do about it.
    """

    def __init__(
        self, path: Path, reason: str, *, expected: object = None, found: object = None, hint: str = ""
    ) -> None:
        compared = "" if expected is None else f": expected {expected}, found {found}"
        super().__init__(f"{path}: {reason}{compared}.", hint)
        self.path = path
        self.reason = reason
        self.expected = expected
        self.found = found

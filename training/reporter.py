"""Where long work says how far it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Quiet", "Reporter"]


class Reporter(Protocol):
    """Where progress goes."""

    def stage(self, name: str, total: int) -> None:
        """A stage of `total` steps begins; the one before it is over."""
        ...

    def at(self, done: int, note: str = "") -> None:
        """So much of the stage is done; the note says what there is to say, such as the loss."""
        ...


class Quiet:
    """A reporter for tests and programs: says nothing."""

    def stage(self, name: str, total: int) -> None:
        """Nothing."""

    def at(self, done: int, note: str = "") -> None:
        """Nothing."""

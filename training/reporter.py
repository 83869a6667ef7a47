"""Where long work says how far it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Quiet", "Reporter", "Steps"]


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


class Steps:
    """Tells a reporter of steps of training; how many there will be is known at the first."""

    def __init__(self, report: Reporter) -> None:
        self._report, self._begun = report, False

    def __call__(self, done: int, n_steps: int, note: str) -> None:
        """`done` of `n_steps` are."""
        if not self._begun:
            self._report.stage("training", n_steps)
            self._begun = True
        self._report.at(done, note)

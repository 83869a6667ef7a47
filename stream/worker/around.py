"""Answering a batch around the events on which a model fails.

One event that a graph cannot digest must neither stop a partition for ever nor be lost. The batch is stepped again with
fewer and fewer events selected for an answer, until those that fail are known; all others are answered. What an event
does to its user and to the statistics does not depend on the answer, so states are as they would be anyway.

    a b c d e f g h      fails
    a b c d │ e f g h    fails │ works
    a b │ c d            works │ fails
          c │ d          fails │ works      answered: a b d e f g h; c is a dead letter
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_IN_A_ROW", "Around"]

MAX_IN_A_ROW: Final = 10
"""So many events may fail without one that works between them: after that it is the model, not the events."""
_Stepped = TypeVar("_Stepped")


class Around:
    """Remembers from batch to batch how many events failed since one worked."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def step(
        self, step: Callable[[NDArray[np.bool_]], _Stepped], n_events: int, problem: Exception
    ) -> tuple[_Stepped, dict[int, Exception]]:
        """What the batch leads to without answers to the events that fail, and why each of those does, by row.

        Args:
            step: steps the whole batch, answering the events of a mask (n_events,); it failed for all of them.
            n_events: of the batch.
            problem: how it failed.

        Raises:
            Exception: `problem`, where too many have failed in a row, or where the batch fails without any answer.
        """
        failing: dict[int, Exception] = {}
        try:
            step(np.zeros(n_events, np.bool_))
        except Exception:  # noqa: BLE001 - whatever a graph's runtime raises
            raise problem from None  # not an answer's fault: a recurrent model must step through every event
        pending = [np.arange(n_events)]
        while pending:
            rows = pending.pop()
            try:
                step(_mask(rows, n_events))
            except Exception as error:  # noqa: BLE001 - whatever a graph's runtime raises
                if len(rows) == 1:
                    failing[int(rows[0])] = error
                else:
                    pending += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
        if len(failing) == n_events:
            self._in_a_row += n_events
            if self._in_a_row > MAX_IN_A_ROW:
                raise problem
        else:
            self._in_a_row = 0
        good = np.setdiff1d(np.arange(n_events), np.fromiter(failing, np.intp, len(failing)))
        return step(_mask(good, n_events)), failing


def _mask(rows: NDArray[np.intp], n_events: int) -> NDArray[np.bool_]:
    mask = np.zeros(n_events, np.bool_)
    mask[rows] = True
    return mask

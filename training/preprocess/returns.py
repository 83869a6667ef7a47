"""Cancellations and returns: negative events, linked to what they take back."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import polars as pl
from msgspec import Struct
from numba import njit

from training.preprocess.step import KNOWN, ROW, Parameters
from training.spans import Span, span_ms

__all__ = ["CANCELS", "Returns"]

CANCELS = "cancels"


class Returns(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="returns"):
    """Link each return to the latest earlier purchase of the same item by the same user that is not used up.

    Amounts are the events' values, one where they are missing: a return takes from the latest purchase first, then from
    those before it. Adds the column `cancels`: the row of the raw file from which it took first, null where there was
    nothing to take. That a return speaks against its item is its event type's weight, in training and live alike.

    Attributes:
        pattern: regular expression; events whose `session_id` (an order's number) matches are returns, whatever their
            value says. Without it, those that the reading of the log made so (negative values).
        type: event type of returns.
        of: event types that they take back.
        within: they reach back so far.
        cancelled: what becomes of purchases that were taken back in full, where both lie before the end of training:
            `keep`, or `drop` them as orders that nobody wanted.
        unmatched: `keep` or `drop` returns that take back nothing.
    """

    pattern: str | None = None
    type: str = "return"
    of: tuple[str, ...] = ("purchase",)
    within: Span = "365d"
    cancelled: Literal["keep", "drop"] = "keep"
    unmatched: Literal["keep", "drop"] = "keep"

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - nothing to learn
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """With returns as such, and what they cancel."""
        if self.pattern is not None:
            is_return = pl.col("session_id").str.contains(self.pattern).fill_null(value=False)
            kind = pl.when(is_return).then(pl.lit(self.type)).otherwise("event_type")
            events = events.with_columns(kind.alias("event_type"), pl.col("value").abs())
        table = events.with_row_index("place").filter(
            pl.col("user_id").is_not_null() & pl.col("item_id").is_not_null() & pl.col("ts_ms").is_not_null()
            & pl.col("event_type").is_in([self.type, *self.of])
        )  # fmt: skip
        table = table.sort("user_id", "item_id", "ts_ms", maintain_order=True)
        pair = pl.struct("user_id", "item_id").rle_id()
        group = table.select(pair.alias("pair"))["pair"].to_numpy().astype(np.int64)
        amount = table["value"].fill_null(1.0).abs().to_numpy().astype(np.float64)
        took, left_known = np.full(len(table), -1, np.int64), amount.copy()
        _match(
            group,
            (table["event_type"] == self.type).to_numpy(),
            table["ts_ms"].to_numpy(),
            amount,
            table[KNOWN].to_numpy(),
            span_ms(self.within),
            took,
            left_known,
        )
        cancels = np.full(len(events), -1, np.int64)
        matched = took >= 0
        place = table["place"].to_numpy()
        cancels[place[matched]] = table[ROW].to_numpy()[took[matched]]
        linked = pl.Series(CANCELS, cancels)
        events = events.with_columns(pl.when(linked >= 0).then(linked).alias(CANCELS))
        keep = np.ones(len(events), np.bool_)
        if self.cancelled == "drop":
            bought = (table["event_type"] != self.type).to_numpy() & table[KNOWN].to_numpy()
            keep[place[bought & (left_known <= 0)]] = False
        if self.unmatched == "drop":
            keep &= ~((events["event_type"] == self.type) & events[CANCELS].is_null()).fill_null(value=False).to_numpy()
        return events.filter(pl.Series(keep))


@njit(cache=True)  # type: ignore[untyped-decorator]
def _match(
    group: Any, is_return: Any, ts_ms: Any, amount: Any, known: Any, within_ms: Any, took: Any, left_known: Any
) -> None:
    """For events sorted by pair of user and item and then by time: (N,) where each return took from first, and what
    returns from before the end of training left of each purchase."""
    left = amount.copy()
    for row in range(len(group)):
        if not is_return[row]:
            continue
        wanted = amount[row]
        at = row - 1
        while wanted > 0 and at >= 0 and group[at] == group[row] and ts_ms[row] - ts_ms[at] <= within_ms:
            if not is_return[at] and left[at] > 0:
                taken = min(left[at], wanted)
                left[at] -= taken
                if known[row]:
                    left_known[at] -= taken
                wanted -= taken
                if took[row] < 0:
                    took[row] = at
            at -= 1

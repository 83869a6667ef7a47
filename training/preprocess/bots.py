"""Users whose rate no person reaches."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from msgspec import Struct
from numpy.typing import NDArray

from training.preprocess.step import KNOWN, Parameters
from training.spans import Span, span_ms

__all__ = ["Bots", "busiest"]


class Bots(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="bots"):
    """Leave out, or flag, the users who exceed one of the limits before the end of training.

    Attributes:
        limits: span -> the most that a person does within any stretch of that length, such as "1m" = 60.
        count: `events`, or `moments`: events of one millisecond, such as the lines of an order, count as one.
        action: `drop` removes their events before the end of training; `flag` adds the column `bot`, true or false.
    """

    limits: dict[Span, int]
    count: Literal["events", "moments"] = "events"
    action: Literal["drop", "flag"] = "drop"

    def __post_init__(self) -> None:
        if not self.limits or min(self.limits.values()) < 1:
            raise ValueError("bots: at least one limit, and each at least 1")

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - limits are given; users' names stay out of it
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """Without their events, or with the flag."""
        rates = events.filter(pl.col(KNOWN) & pl.col("user_id").is_not_null()).select("user_id", "ts_ms")
        rates = (rates.unique() if self.count == "moments" else rates).sort("user_id", "ts_ms")
        user = rates["user_id"].rle_id().to_numpy()
        ts_ms = rates["ts_ms"].to_numpy()
        beyond = np.zeros(len(rates), np.bool_)
        for span, limit in self.limits.items():
            beyond |= busiest(user, ts_ms, span_ms(span)) > limit
        bots = rates.filter(pl.Series(beyond))["user_id"].unique()
        is_bot = pl.col("user_id").is_in(bots.implode()).fill_null(value=False)
        if self.action == "flag":
            return events.with_columns(is_bot.alias("bot"))
        return events.filter(~(is_bot & pl.col(KNOWN)))


def busiest(user: NDArray[np.integer], ts_ms: NDArray[np.int64], span: int) -> NDArray[np.int64]:
    """(N,) events of the same user in `[ts_ms, ts_ms + span)` of each event, for events sorted by user and time."""
    if len(ts_ms) == 0:
        return np.zeros(0, np.int64)
    since_ms = ts_ms - ts_ms.min()
    axis = user.astype(np.int64) * (since_ms.max() + span + 1) + since_ms  # keeps users apart
    return np.asarray(np.searchsorted(axis, axis + span, side="left") - np.arange(len(axis)), np.int64)

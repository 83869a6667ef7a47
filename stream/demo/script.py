"""What the demo streams: a history, as fast as it can be read, and a live part behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from stream.demo.shop import ShopConfig, simulate
from stream.errors import PolytempoError
from stream.logs import EventLog

__all__ = ["SEED", "Script", "script_of_log", "script_of_shop"]

SEED: Final = 20_240_607
"""Of the demo's shop: another shop than the one that the shipped bundle was trained on."""

_HISTORY_SHARE: Final = 0.75  # of a log that is too short for both parts


@dataclass(frozen=True, slots=True)
class Script:
    """Events in the order in which they are sent."""

    history: pl.DataFrame
    """Sent at once, so that statistics and states are there; nothing in it is measured."""
    live: pl.DataFrame
    """Sent at a steady rate, and measured."""
    items: pl.DataFrame | None
    title: str


def script_of_shop(n_history: int, n_live: int, *, seed: int = SEED) -> Script:
    """The simulated shop of `stream.demo.shop`; six events of its live part are malformed, each in another way.

    The same numbers and seed give the same events.
    """
    config = ShopConfig()
    # A few quiet days come first, and numbers of events are random: a fifth more than enough, and the rest cut off.
    days = (n_history + n_live) / config.events_per_day * 1.2 + 0.5
    shop = simulate(ShopConfig(days=days), seed)
    events = shop.events.head(n_history + n_live)
    live = events.slice(n_history)
    return Script(events.head(n_history), _with_malformed(live), shop.items, "a simulated shop")


def script_of_log(log: EventLog, n_history: int, n_live: int, items: pl.DataFrame | None = None) -> Script:
    """The first events of a log, in the order of their times. Of a short log three quarters are history.

    Raises:
        PolytempoError: the log is empty.
    """
    events = log.frame(limit=n_history + n_live)
    if len(events) == 0:
        raise PolytempoError(f"{log.path} holds no events.")
    # A row without a readable time stays where it is.
    when = pl.col("ts_ms").forward_fill().fill_null(0)
    events = events.sort(when, maintain_order=True)
    if len(events) < n_history + n_live:
        n_history = int(_HISTORY_SHARE * len(events))
    return Script(events.head(n_history), events.slice(n_history), items, log.path.name)


def _with_malformed(live: pl.DataFrame) -> pl.DataFrame:
    """Put malformed copies of some events between the others, evenly."""
    faults = (
        pl.lit("wish").alias("event_type"),
        (pl.col("ts_ms") // 1000).alias("ts_ms"),
        pl.lit(None, pl.String).alias("item_id"),
        pl.lit("").alias("item_id"),
        (pl.col("ts_ms") * 1000).alias("ts_ms"),
        pl.lit(None, pl.String).alias("user_id"),
    )
    if len(live) <= len(faults):
        return live
    step = len(live) // (len(faults) + 1)
    parts = [live.head(step)]
    for number, fault in enumerate(faults, start=1):
        here = live.slice(number * step, step if number < len(faults) else None)
        parts += [here.head(1).with_columns(fault), here]
    return pl.concat(parts)

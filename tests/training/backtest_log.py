"""A small log with something to learn in it, for tests of backtests."""

from __future__ import annotations

import numpy as np
import polars as pl

from stream.core.events import EventTypes
from stream.logs import EVENT_COLUMNS
from training.backtest.material import Material, material_of

__all__ = ["START_MS", "material", "table"]

START_MS = 1_700_000_000_000


def table(n_events: int = 2000, *, n_users: int = 80, n_items: int = 50, seed: int = 0) -> pl.DataFrame:
    """Users that walk from one item to the next, mostly; times are whole seconds, so that many are equal."""
    rng = np.random.default_rng(seed)
    users, items, ts_ms, kinds = [], [], [], []
    at = rng.integers(0, n_items, n_users)
    now_s = 0
    for _ in range(n_events):
        now_s += int(rng.integers(0, 5))
        user = min(int(rng.exponential(n_users / 3)), n_users - 1)
        at[user] = (at[user] + 1) % n_items if rng.random() < 0.7 else rng.integers(0, n_items)
        users.append(f"user-{user}")
        items.append(f"item-{at[user]}")
        ts_ms.append(START_MS + 1000 * now_s)
        kinds.append(rng.choice(["view", "click", "purchase"], p=[0.7, 0.25, 0.05]))
    columns = {"user_id": users, "item_id": items, "event_type": kinds, "ts_ms": ts_ms}
    frame = pl.DataFrame(columns).with_columns(
        pl.lit(None, pl.Float64).alias("value"),
        pl.lit(None, pl.String).alias("session_id"),
        pl.lit(None, pl.String).alias("event_id"),
    )
    device = pl.Series("device", rng.choice(["1", "3"], n_events))
    return frame.select(EVENT_COLUMNS).with_columns(device)


def material(frame: pl.DataFrame | None = None) -> Material:
    """The log ready for a backtest."""
    return material_of(table() if frame is None else frame, EventTypes())

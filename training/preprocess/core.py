"""The k-core: users and items with at least so many events among each other."""

from __future__ import annotations

import polars as pl
from msgspec import Struct

from training.preprocess.step import KNOWN, Parameters

__all__ = ["KCore"]


class KCore(Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", tag="k_core"):
    """Leave out, before the end of training, events of users and items too rare to be learnt from.

    In turns, until every user left has events with at least `items` different items, and every item left events of at
    least `users` different users. Later events stay: a live user is not sent away for being new.

    Attributes:
        users: different users an item needs.
        items: different items a user needs.
    """

    users: int = 5
    items: int = 5

    def fit(self, known: pl.DataFrame) -> Parameters:  # noqa: ARG002 - what stays follows from the limits
        """Nothing."""
        return {}

    def apply(self, events: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:  # noqa: ARG002
        """Without the rare ones."""
        pairs = events.filter(pl.col(KNOWN)).select("user_id", "item_id").drop_nulls().unique()
        while True:
            enough = (pl.len().over("item_id") >= self.users) & (pl.len().over("user_id") >= self.items)
            kept = pairs.filter(enough)
            if len(kept) == len(pairs):
                break
            pairs = kept
        common = pl.struct("user_id", "item_id").is_in(
            pairs.select(pl.struct("user_id", "item_id")).to_series().implode()
        )
        return events.filter(~pl.col(KNOWN) | common)

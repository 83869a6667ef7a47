"""Tables of items."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from stream.logs.files import raw_batches, sample_of
from stream.logs.guesses import NAMES, no_column, plain_name
from stream.logs.normal import as_flag, as_text

__all__ = ["read_items"]


def read_items(path: str | Path) -> pl.DataFrame:
    """A table of items: item_id, then whichever of category, title, published_ms, available there are, then the rest.

    The item column is found like a log's; a column called genre, genres or class is the category, and one whose name
    ends in title or is name or description the title. The rest are attributes, under their own names.

    Raises:
        PolytempoError: the file cannot be read, or no column looks like the item.
    """
    path = Path(path)
    parts = list(raw_batches(path))
    table = pl.concat(parts) if len(parts) > 0 else sample_of(path)
    columns = {plain_name(name): name for name in reversed(table.columns)}
    item = next((columns[name] for name in (*NAMES["item"], "id") if name in columns), None)
    if item is None:
        raise no_column(path, "the item", table.columns, "Rename the one that holds the items' ids to item_id.")
    renamed = {item: "item_id"}
    for target, names in (("category", ("category", "genre", "genres", "class")), ("title", ("title", "name"))):
        found = next((columns[name] for name in names if name in columns), None)
        if found is None and target == "title":
            found = next(
                (c for c in table.columns if plain_name(c).endswith("title") or plain_name(c) == "description"), None
            )
        if found is not None and target not in table.columns:
            renamed[found] = target
    table = table.rename(renamed)
    first = [name for name in ("item_id", "category", "title", "published_ms", "available") if name in table.columns]
    readers = {
        "item_id": as_text("item_id", table.schema["item_id"]),
        "category": pl.col("category").cast(pl.String),
        "title": pl.col("title").cast(pl.String),
        "published_ms": pl.col("published_ms").cast(pl.Int64, strict=False),
        "available": as_flag(table.schema.get("available")),
    }
    return table.select(*(readers[name].alias(name) for name in first), pl.exclude(first))

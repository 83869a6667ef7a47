"""`polytempo simulate`: the events of a simulated shop, as files."""

from dataclasses import replace
from pathlib import Path

import polars as pl

from stream.cli.console import people, print_json
from stream.cli.produce import parse_time
from stream.demo.shop import ShopConfig
from stream.demo.shop import simulate as simulate_shop
from stream.errors import PolytempoError

__all__ = ["simulate"]

_DEFAULTS = ShopConfig()


def simulate(
    *,
    out: Path,
    items_out: Path | None = None,
    truth_out: Path | None = None,
    days: float = _DEFAULTS.days,
    users: int = _DEFAULTS.n_users,
    items: int = _DEFAULTS.n_items,
    events_per_day: int = _DEFAULTS.events_per_day,
    start: str | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Write the events of a simulated shop whose interests move at several time scales.

    Minutes-long intents within days-long projects and weeks-long tastes, items that are born, trend and fade, repeats,
    sessions, devices and referrers. The same options give the same files.

    Examples:

    `polytempo simulate --out shop.parquet --items-out shop_items.parquet`, then
    `polytempo produce shop.parquet --items shop_items.parquet --speedup 600`

    Args:
        out: File for the events: .parquet, .csv or .jsonl.
        items_out: File for the table of items.
        truth_out: File for what caused each event (intent, project, taste, repeat, trend), which no model may see.
        days: How long the shop runs.
        users: Users, some of whom arrive while it runs.
        items: Items, some of which are born while it runs.
        events_per_day: Events on an average day.
        start: Its first moment: 2024-01-01, 2024-01-01T12:00 (UTC) or epoch milliseconds.
        seed: Another number, another shop.
        json: Print one line at the end: {"events": ..., "users": ..., "items": ..., "sessions": ...}.
    """
    for path in (out, items_out, truth_out):
        if path is not None:
            _check(path)
    try:
        config = replace(
            _DEFAULTS, days=days, n_users=users, n_items=items, events_per_day=events_per_day,
            n_categories=min(_DEFAULTS.n_categories, max(items, 1)),
            start_ms=_DEFAULTS.start_ms if start is None else parse_time(start),
        )  # fmt: skip
    except ValueError as error:
        raise PolytempoError(f"{error}.") from error
    with people.status("simulating"):
        log = simulate_shop(config, seed)
        for path, frame in ((out, log.events), (items_out, log.items), (truth_out, log.truth)):
            if path is not None:
                _write(path, frame)
    report = {
        "events": len(log.events),
        "users": log.events["user_id"].n_unique(),
        "items": log.events["item_id"].n_unique(),
        "sessions": log.events["session_id"].n_unique(),
    }
    people.print(
        f"[bold]{report['events']:,}[/] events of {report['users']:,} users on {report['items']:,} items "
        f"in {report['sessions']:,} sessions: {out}"
    )
    if json:
        print_json(report)


def _check(path: Path) -> None:
    """Refuse before the work what would fail after it."""
    if path.suffix not in (".parquet", ".csv", ".jsonl"):
        raise PolytempoError(f"{path} would be of no known format.", "Write .parquet, .csv or .jsonl.")
    if not path.parent.is_dir():
        raise PolytempoError(f"there is no folder {path.parent}.")


def _write(path: Path, frame: pl.DataFrame) -> None:
    try:
        if path.suffix == ".parquet":
            frame.write_parquet(path)
        elif path.suffix == ".csv":
            frame.write_csv(path)
        else:
            frame.write_ndjson(path)
    except OSError as error:
        raise PolytempoError(f"{path} cannot be written: {error.strerror}.") from error

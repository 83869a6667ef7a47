"""`polytempo drift`: whether a bundle still sees what it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from stream.cli.columns import FileColumns
from stream.cli.console import people, print_json, results
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.cli.produce import parse_time
from stream.cli.replaying import events_bar, read_source

__all__ = ["drift"]

_SHOWN = 5
_CHANGED = 1


def drift(
    *,
    bundle: Annotated[Path, Parameter(name=["--bundle", "-b"])],
    log: Path | None = None,
    topic: str | None = None,
    items: Path | None = None,
    since: str | None = None,
    until: str | None = None,
    window: str = "1d",
    sample: int = 2000,
    period: str = "10s",
    json: bool = False,
    columns: FileColumns | None = None,
    connection: KafkaOptions | None = None,
) -> int:
    """Hold features and scores of a sample of events against those of the bundle's training window.

    Events are replayed through the worker's own code. For each sliding window of event time, the population stability
    index of every feature and of the score: from .1 on it is worth a look, from .25 on the model sees another
    population than it was trained on (Siddiqi: Credit Risk Scorecards, 2006), and the exit code is 1.

    Examples:

    `polytempo drift --topic events --since 2024-03-04 --bundle models/my-ranker`

    `polytempo drift --log clicks.parquet --bundle models/news-ranker --window 6h --json`

    Args:
        bundle: Bundle folder of a ranker.
        log: Events from a file: Parquet, CSV or JSON lines.
        topic: Events from a topic.
        items: A table of items, for --log. With --topic, items come from the topic `items`.
        since: Look at events from this time on, in event time; what is before is replayed all the same.
        until: Look at events before this time.
        window: Width of a window; it slides by a quarter.
        sample: Events of a window that are looked at, about.
        period: Age of the item statistics at most.
        json: Print one line at the end: {"bundle": …, "windows": [{"from_ms": …, "verdict": …, "psi": {…}}, …]}.
    """
    from stream.bundle.load import load_bundle
    from training.backtest.material import material_of
    from training.drift import drift_of, references_of

    loaded = load_bundle(bundle)
    references_of(loaded)
    from_ms = 0 if since is None else parse_time(since)
    until_ms = 2**62 if until is None else parse_time(until)
    source = read_source(
        log,
        topic,
        items=items,
        columns=columns,
        connection=connection,
        known_types=loaded.features.types.codes(),
        from_ms=None,
        until_ms=None if until is None else until_ms,
    )
    material = material_of(source.frame, loaded.features.types, source.items)
    events = material.with_fields(loaded.features.statistics.segment_fields)
    with events_bar("replaying") as show:
        found = drift_of(
            loaded,
            events,
            material.items,
            from_ms=from_ms,
            until_ms=until_ms,
            window_ms=parse_duration_ms(window),
            n_sample=sample,
            period_ms=parse_duration_ms(period),
            on_progress=lambda n: show(n, len(events)),
        )
    table = Table(box=None, pad_edge=False)
    for heading in ("until (ms)", "events", "verdict", "moved most (PSI)"):
        table.add_column(heading, overflow="fold")
    for each in found:
        moved = sorted(each.index.items(), key=lambda one: -one[1])[:_SHOWN]
        told = ", ".join(f"{name} {index:.3f}" for name, index in moved)
        table.add_row(str(each.until_ms), f"{each.n_events:,}", each.verdict, told)
    (people if json else results).print(table)
    if json:
        windows = [
            {
                "from_ms": each.from_ms,
                "until_ms": each.until_ms,
                "n_events": each.n_events,
                "verdict": each.verdict,
                "psi": {name: round(index, 4) for name, index in each.index.items()},
            }
            for each in found
        ]
        print_json({"bundle": loaded.reference, "windows": windows})
    return _CHANGED if any(each.verdict == "changed" for each in found) else 0

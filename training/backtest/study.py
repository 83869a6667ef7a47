"""A study of how item statistics are kept: hit rates by their delay, and where each worker keeps its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from training.backtest.analysis import Analysis
from training.backtest.charts import intervals
from training.backtest.report import STYLE, colours_of
from training.backtest.run import BASELINES

__all__ = ["DELAYS", "WORKERS", "study_html", "way_name", "write_study"]

DELAYS: Final = ("0s", "10s", "1m", "5m", "1h", "24h")
"""Delays of the whole study."""
WORKERS: Final = (1, 4, 16)
"""Workers that each keep their own, of the whole study."""

Way = tuple[str, int | None]
"""How late statistics are, and the number of workers that keep them apart; None shares them."""


def way_name(way: Way) -> str:
    """In words."""
    late, n_workers = way
    if n_workers is None:
        return "up to date" if late.startswith("0") else f"{late} late"
    return "1 worker alone" if n_workers == 1 else f"{n_workers} workers apart"


def write_study(ways: Sequence[Way], analyses: Sequence[Analysis], path: Path, *, title: str) -> None:
    """Write the study as one HTML file without network; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(study_html(ways, analyses, title=title), encoding="utf-8")
    aside.replace(path)


def study_html(ways: Sequence[Way], analyses: Sequence[Analysis], *, title: str) -> str:
    """The study as text of a whole HTML document: a plot, and the figures as a table."""
    first = analyses[0]
    names = {each.name: BASELINES.get(each.name, each.name) for each in first.outcomes}
    colours = {names[name]: colour for name, colour in colours_of(first).items()}
    rows = [
        (way_name(way), {names[name]: figures["hr"] for name, figures in analysis.overall.items()})
        for way, analysis in zip(ways, analyses, strict=True)
    ]
    plot = intervals(rows, colours, label=f"HR@{first.k} by how statistics are kept")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="note">HR@{first.k} over {len(first.targets):,} targets, with 95 % intervals over users. Late: the '
        "view misses what happened so recently. Apart: each worker knows only the events of its own partition; users "
        "are divided as Kafka divides their keys.</p>\n"
        f'{plot}\n<div class="wide">{_table(ways, analyses, names)}</div>\n</body></html>\n'
    )


def _table(ways: Sequence[Way], analyses: Sequence[Analysis], names: Mapping[str, str]) -> str:
    k = analyses[0].k
    heads = "".join(f"<th>{escape(shown)}</th>" for shown in names.values())
    lines = []
    for way, analysis in zip(ways, analyses, strict=True):
        cells = "".join(f"<td>{analysis.overall[name]['hr'].mean:.4f}</td>" for name in names)
        lines.append(f"<tr><td>{escape(way_name(way))}</td>{cells}</tr>")
    return f"<table><tr><th>HR@{k}</th>{heads}</tr>{''.join(lines)}</table>"

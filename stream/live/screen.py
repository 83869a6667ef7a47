"""The live view in a terminal."""

from __future__ import annotations

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stream.live.drifting import Drifted
from stream.live.observer import Figures, Observer
from stream.live.words import deed, name_of, sparkline, why

__all__ = ["as_line", "draw", "percent"]

_N_ITEMS = 3
_N_VARIANTS = 4


def draw(observer: Observer, figures: Figures, lag: int | None, *, title: str, height: int) -> Layout:
    """The whole view, drawn anew.

    Args:
        observer: what has been seen.
        figures: its figures now.
        lag: events that the workers have not committed, answered ones among them.
        title: what is being looked at.
        height: lines of the terminal.
    """
    layout = Layout()
    n_letters = 3 + min(len(figures.dead_letters), 4) if figures.dead_letters else 0
    n_online = 4 + min(len(figures.online), _N_VARIANTS) if figures.online else 0
    n_drift = 4 + min(len(figures.drifted), _N_VARIANTS) if figures.drifted else 0
    n_left = height - 8 - n_letters - n_online - n_drift
    parts = [Layout(_header(figures, lag, title), size=8), Layout(_latest(observer, n_left))]
    if n_online > 0:
        parts.append(Layout(_online(figures), size=n_online))
    if n_drift > 0:
        parts.append(Layout(_drifted(figures), size=n_drift))
    if n_letters > 0:
        parts.append(Layout(_letters(figures), size=n_letters))
    layout.split_column(*parts)
    return layout


def as_line(figures: Figures, lag: int | None) -> str:
    """All figures in one line, for terminals and files that cannot redraw."""
    parts = [
        f"in {figures.events_in:,} ({figures.events_per_s:,.0f}/s)",
        f"out {figures.recommendations_out:,}",
        f"dead {figures.n_dead_letters:,}",
        f"waiting {figures.n_open:,}, uncommitted {_count(lag)}",
        f"p50 {_ms(figures.p50_ms)}, p99 {_ms(figures.p99_ms)}",
        f"hit@10 {percent(figures.hit_rate_at_10)}",
        f"1 h popularity {percent(figures.popularity_hit_rate_at_10)} ({figures.n_targets:,} targets)",
    ]
    parts += [f"{each.variant} ({each.model}) online {percent(each.hit_rate)}" for each in figures.online]
    parts += [f"{each.variant} drift: {each.verdict}{_most(each, 1)}" for each in figures.drifted]
    return " | ".join(parts)


def percent(share: float | None) -> str:
    """A share for people; a dash for none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _header(figures: Figures, lag: int | None, title: str) -> RenderableType:
    cells = (
        ("events in", f"{figures.events_in:,}", f"{figures.events_per_s:,.0f} a second"),
        ("recommendations out", f"{figures.recommendations_out:,}", f"{figures.recommendations_per_s:,.0f} a second"),
        ("latency", f"{_ms(figures.p50_ms)} median", f"{_ms(figures.p99_ms)} at 99 %"),
        # What was answered is committed once a second: beside a latency of milliseconds that is no delay of anybody's.
        ("waiting for an answer", f"{figures.n_open:,}", f"{_count(lag)} not committed yet"),
        ("next item in top 10", percent(figures.hit_rate_at_10), f"of {figures.n_targets:,} targets"),
        ("1-hour popularity", percent(figures.popularity_hit_rate_at_10), "same targets"),
    )
    blocks = [
        Text.assemble((f"{name}\n", "dim"), (f"{value}\n", "bold"), (below, "dim")) for name, value, below in cells
    ]
    history = Text.assemble(("events/s, last minute  ", "dim"), (sparkline(figures.history), "cyan"))
    return Panel(Group(Columns(blocks, padding=(0, 3)), Text(), history), title=escape(title), title_align="left")


def _latest(observer: Observer, height: int) -> RenderableType:
    table = Table(expand=True, show_edge=False, pad_edge=False, header_style="dim")
    table.add_column("user", no_wrap=True)
    table.add_column("what they just did", ratio=2)
    table.add_column("recommended since, and why", ratio=5)
    table.add_column("ms", justify="right", no_wrap=True)
    names = observer.names
    n_rows = max((height - 4) // (_N_ITEMS + 1), 1)
    for shown in list(observer.latest)[:n_rows]:
        did = (
            f"{deed(shown.event_type)} {name_of(shown.item_id, names, with_category=True)}"
            if shown.item_id
            else (deed(shown.event_type))
        )
        items = Text()
        for item in shown.items[:_N_ITEMS]:
            items.append(f"{name_of(item.item_id, names)}")
            items.append(f"  {why(item.reasons)}\n", style="dim")
        table.add_row(escape(shown.user_id), escape(did), items, str(shown.latency_ms))
    return Panel(table, title="latest recommendations", title_align="left")


def _online(figures: Figures) -> RenderableType:
    table = Table(expand=True, show_edge=False, pad_edge=False, header_style="dim")
    for name in ("variant", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("recommendations", "led to something", "shown", "clicked through", "by span, latest last"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in figures.online[:_N_VARIANTS]:
        course = [
            span.hit_rate
            for span in figures.online_by_span
            if (span.model, span.variant) == (each.model, each.variant) and span.hit_rate is not None
        ]
        table.add_row(
            escape(each.variant),
            escape(each.model),
            f"{each.n_recommendations:,}",
            percent(each.hit_rate),
            f"{each.n_shown:,}",
            percent(each.click_through),
            "  ".join(map(percent, course[-4:])),
        )
    return Panel(table, title="what became of recommendations", title_align="left")


def _drifted(figures: Figures) -> RenderableType:
    table = Table(expand=True, show_edge=False, pad_edge=False, header_style="dim")
    for name in ("variant", "verdict", "events looked at"):
        table.add_column(name, no_wrap=True)
    table.add_column("moved most (PSI)", no_wrap=True, ratio=1)
    for each in figures.drifted[:_N_VARIANTS]:
        style = {"changed": "yellow", "not known": "dim", "too few": "dim"}.get(each.verdict, "")
        most = _most(each, _N_ITEMS).removeprefix(", ")
        table.add_row(escape(each.variant), Text(each.verdict, style), f"{each.n_events:,}", escape(most))
    return Panel(table, title="features and scores against the training window", title_align="left")


def _most(drifted: Drifted, n: int) -> str:
    return "".join(f", {name} {index:.2f}" for name, index in drifted.moved_most[:n])


def _letters(figures: Figures) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    most = sorted(figures.dead_letters.items(), key=lambda pair: -pair[1])
    for reason, n in most[:4]:
        table.add_row(f"{n:,}", escape(reason))
    return Panel(table, title=f"dead letters: {figures.n_dead_letters:,}", title_align="left", border_style="yellow")


def _ms(latency_ms: int | None) -> str:
    return "-" if latency_ms is None else f"{latency_ms:,} ms"


def _count(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"

"""Charts as SVG text: lines over time, and points with intervals. Small, sharp at any size, and without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from math import ceil, floor, isfinite, log10
from typing import Final

from stream.core.scales import DAY_MS, HOUR_MS
from training.backtest.significance import Interval

__all__ = ["COLOURS", "Line", "bars", "intervals", "lines"]

COLOURS: Final = ("#1f5fa8", "#d1495b", "#2e8b57", "#8d5fa8", "#c98a1b", "#3aa6a6", "#6b7280", "#a85f1f")
"""Told apart also by those who see red and green alike, in the order of their use."""

_WIDTH: Final = 860
_LEFT: Final = 56
_RIGHT: Final = 16
_LONGEST: Final = 56  # characters of a row's name
_CLOSE: Final = "</svg></div>"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart: its name, its colour, its values (NaN leaves a gap), and whether it is drawn faintly."""

    name: str
    colour: str
    values: Sequence[float]
    faint: bool = False


def lines(at_ms: Sequence[int], drawn: Sequence[Line], *, label: str, height: int = 300) -> str:
    """Values over time (UTC), from zero, with a legend above."""
    finite = [value for line in drawn for value in line.values if isfinite(value)]
    if len(at_ms) < 2 or not finite:
        return '<p class="note">There is too little to draw.</p>'
    top, bottom = 20, height - 34
    first, last = at_ms[0], at_ms[-1]
    high, step = _axis(max(finite))

    def x(ms: int) -> float:
        return _LEFT + (ms - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return bottom - value / high * (bottom - top)

    parts = [_open(height, label)]
    for number in range(round(high / step) + 1):
        value = number * step
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for ms, text in _ticks(first, last):
        parts.append(f'<line class="grid" x1="{x(ms):.1f}" x2="{x(ms):.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        anchor = "end" if x(ms) > _WIDTH - 3 * _RIGHT else "middle"
        parts.append(f'<text x="{x(ms):.1f}" y="{bottom + 20}" text-anchor="{anchor}">{text}</text>')
    for line in drawn:
        style = f'stroke="{line.colour}" stroke-width="{1.2 if line.faint else 2.2}"'
        style += ' stroke-dasharray="5 4"' if line.faint else ""
        for run in _runs(line.values):
            points = " ".join(f"{x(at_ms[at]):.1f},{y(line.values[at]):.1f}" for at in run)
            parts.append(
                f'<polyline fill="none" {style} points="{points}"><title>{escape(line.name)}</title></polyline>'
            )
    parts.append(_CLOSE)
    return legend([(line.name, line.colour) for line in drawn]) + "".join(parts)


def intervals(
    rows: Sequence[tuple[str, Mapping[str, Interval]]],
    colours: Mapping[str, str],
    *,
    label: str,
    notes: Sequence[str] = (),
    signed: bool = False,
    with_legend: bool = True,
) -> str:
    """One row for each name: a point and its 95 % interval for each series, on a common axis.

    Args:
        rows: row name, and the figures by series.
        colours: by series; the legend's order.
        notes: written at the right of each row.
        signed: whether the axis has zero in its middle, for differences.
        with_legend: whether the series are named above.
    """
    found = [each for _, figures in rows for each in figures.values()]
    if not found:
        return '<p class="note">There is nothing to draw.</p>'
    left, right = max(150, 20 + 7 * min(_LONGEST, max(len(name) for name, _ in rows))), 110
    row_height = 12 * max(len(figures) for _, figures in rows) + 14
    height = row_height * len(rows) + 44
    high, step = _axis(max(max(abs(each.high), abs(each.low)) if signed else each.high for each in found) or 1e-3)
    low = -high if signed else 0.0
    bottom = height - 30

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (_WIDTH - left - right)

    parts = [_open(height, label)]
    n_steps = round((high - low) / step)
    every = max(1, ceil(n_steps / 8))
    first = n_steps // 2 % every if signed else 0  # so that zero is among them
    for number in range(first, n_steps + 1, every):
        value = low + number * step
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="8" y2="{bottom}"/>')
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 18}" text-anchor="middle">{_number(value, signed=signed)}</text>'
        )
    if signed:
        parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="8" y2="{bottom}"/>')
    for at, (name, figures) in enumerate(rows):
        middle = 14 + row_height * at + row_height / 2
        parts.append(f'<text x="{left - 12}" y="{middle + 4:.1f}" text-anchor="end">{escape(_short(name))}</text>')
        if notes:
            parts.append(
                f'<text class="faint" x="{_WIDTH - right + 14}" y="{middle + 4:.1f}">{escape(notes[at])}</text>'
            )
        if at > 0:
            top = 14 + row_height * at
            parts.append(f'<line class="grid" x1="8" x2="{_WIDTH - _RIGHT}" y1="{top}" y2="{top}"/>')
        drawn = [(series, colour) for series, colour in colours.items() if series in figures]
        for place, (series, colour) in enumerate(drawn):
            each, y = figures[series], middle + (place - (len(drawn) - 1) / 2) * 12
            told = f"{series}: {each.mean:.4f} ({each.low:.4f} to {each.high:.4f})"
            parts.append(
                f'<g stroke="{colour}" fill="{colour}"><title>{escape(told)}</title>'
                f'<line stroke-width="2.4" x1="{x(each.low):.1f}" x2="{x(each.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<circle cx="{x(each.mean):.1f}" cy="{y:.1f}" r="4"/></g>'
            )
    parts.append(_CLOSE)
    return (legend(list(colours.items())) if with_legend and len(colours) > 1 else "") + "".join(parts)


def bars(values: Sequence[tuple[str, float]], *, label: str, colour: str = COLOURS[0], height: int = 220) -> str:
    """Upright bars from zero with their values above."""
    if not values:
        return '<p class="note">There is nothing to draw.</p>'
    top, bottom = 26, height - 34
    high, _ = _axis(max(value for _, value in values) or 1e-3)
    slot = (_WIDTH - _LEFT - _RIGHT) / len(values)
    parts = [_open(height, label)]
    for at, (name, value) in enumerate(values):
        tall = value / high * (bottom - top)
        left = _LEFT + at * slot + slot * 0.15
        middle = left + slot * 0.35
        parts.append(
            f'<rect x="{left:.1f}" y="{bottom - tall:.1f}" width="{slot * 0.7:.1f}" height="{tall:.1f}" '
            f'fill="{colour}"/>'
            f'<text x="{middle:.1f}" y="{bottom - tall - 6:.1f}" text-anchor="middle">{value:.3f}</text>'
            f'<text x="{middle:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>'
        )
    parts.append(f'<line class="zero" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>{_CLOSE}')
    return "".join(parts)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Names with their colours, in one line that wraps."""
    marks = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in entries)
    return f'<div class="legend">{marks}</div>'


def _open(height: float, label: str) -> str:
    # In a box of its own: on a phone a plot is scrolled in it rather than shrunk until nobody can read it.
    return f'<div class="plot"><svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'


def _axis(highest: float) -> tuple[float, float]:
    """The end of an axis that holds this, and the distance of its ticks: a round number, four to eight of them."""
    rough = highest / 5
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return ceil(highest / step - 1e-9) * step, step


def _number(value: float, *, signed: bool = False) -> str:
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    text = "0" if text in ("", "-0") else text
    return f"+{text}" if signed and value > 0 and text != "0" else text.replace("-", "\N{MINUS SIGN}")


def _ticks(first_ms: int, last_ms: int) -> list[tuple[int, str]]:
    steps = (
        HOUR_MS // 12,
        HOUR_MS // 2,
        HOUR_MS,
        3 * HOUR_MS,
        6 * HOUR_MS,
        12 * HOUR_MS,
        DAY_MS,
        7 * DAY_MS,
        30 * DAY_MS,
    )
    step = next((step for step in steps if (last_ms - first_ms) / step <= 9), 365 * DAY_MS)
    ticks, day = [], ""
    for ms in range(-(-first_ms // step) * step, last_ms + 1, step):
        moment = datetime.fromtimestamp(ms / 1000, UTC)
        date = f"{moment.day} {moment:%b}"
        if step >= DAY_MS:
            text = date
        elif date == day:
            text = f"{moment:%H:%M}"
        else:
            text = date if ms % DAY_MS == 0 else f"{date}, {moment:%H:%M}"
        ticks.append((ms, text))
        day = date
    return ticks


def _runs(values: Sequence[float]) -> list[list[int]]:
    """Indices of consecutive values that are there."""
    runs: list[list[int]] = [[]]
    for at, value in enumerate(values):
        if isfinite(value):
            runs[-1].append(at)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _short(text: str, limit: int = _LONGEST) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"

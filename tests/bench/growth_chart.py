"""Growth as a picture: one panel a section, both axes logarithmic, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

__all__ = ["drawn"]

_WIDTH, _HEIGHT, _COLUMNS, _MARGIN = 380, 240, 3, 46
_COLOURS: Final = ("#2456a6", "#c2571a", "#2b8a57", "#8a2b6f")


def drawn(figures: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The picture of `tests.bench.growth.run`'s figures."""
    rows = -(-len(figures) // _COLUMNS)
    size = f"0 0 {_WIDTH * _COLUMNS} {_HEIGHT * rows}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (name, points) in enumerate(figures.items()):
        x, y = _WIDTH * (number % _COLUMNS), _HEIGHT * (number // _COLUMNS)
        parts.append(f'<g transform="translate({x},{y})">{_panel(name, points)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(name: str, points: Sequence[Mapping[str, float]]) -> str:
    series = [what for what in dict.fromkeys(what for point in points for what in point) if what != "n"]
    values = [point[what] for point in points for what in series if point.get(what, 0) > 0]
    if not values:
        return ""
    x_of = _axis([point["n"] for point in points], _MARGIN, _WIDTH - 16)
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values) * 1.001))
    y_of = _axis([low, high], _HEIGHT - _MARGIN, 26)
    parts = [f'<text x="{_MARGIN}" y="16" font-weight="bold">{escape(name)}</text>']
    tick = low
    while tick <= high:
        parts.append(
            f'<path d="M{_MARGIN} {y_of(tick):.1f}H{_WIDTH - 16}" stroke="#e2e5ea"/>'
            f'<text x="{_MARGIN - 4}" y="{y_of(tick) + 4:.1f}" text-anchor="end" fill="#667">{_short(tick)}</text>'
        )
        tick *= 10
    parts += [
        f'<text x="{x_of(point["n"]):.1f}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle" fill="#667">'
        f"{_short(point['n'])}</text>"
        for point in points
    ]
    for number, what in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        there = [(x_of(point["n"]), y_of(point[what])) for point in points if point.get(what, 0) > 0]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in there)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in there]
        parts.append(
            f'<text x="{_MARGIN + 150 * (number % 2)}" y="{_HEIGHT - 12 + 12 * (number // 2)}" fill="{colour}">'
            f"{escape(_named(what))}</text>"
        )
    return "".join(parts)


def _named(what: str) -> str:
    """`us_per_event` for people."""
    return " ".join("µs" if word == "us" else word for word in what.split("_"))


def _short(value: float) -> str:
    """A round number in few letters.

    >>> [_short(value) for value in (0.1, 250, 10_000, 2_500_000)]
    ['0.1', '250', '10 k', '2.5 M']
    """
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


class _axis:  # noqa: N801 (it is called like a function, and is one with a memory)
    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        self._low, high = math.log10(min(values)), math.log10(max(values))
        self._first, self._scale = first, (last - first) / max(high - self._low, 1e-9)

    def __call__(self, value: float) -> float:
        return self._first + (math.log10(value) - self._low) * self._scale

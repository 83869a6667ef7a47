"""Spans of time in settings, such as 90s, 5m, 12h and 30d."""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta

from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

__all__ = ["Span", "span_ms"]

_UNITS_MS: Final = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}

Span = Annotated[str, Meta(pattern=r"^[1-9][0-9]*(ms|s|m|h|d)$")]


def span_ms(text: str) -> int:
    """Milliseconds of a span such as "5m", the inverse of `stream.core.scales.scale_name`.

    >>> span_ms("90s"), span_ms("7d")
    (90000, 604800000)

    Raises ValueError for anything else.
    """
    match = re.fullmatch(r"([1-9][0-9]*)(ms|s|m|h|d)", text)
    if match is None:
        raise ValueError(f"{text!r} is no span of time; write 90s, 5m, 12h or 30d")
    return int(match[1]) * _UNITS_MS[match[2]]

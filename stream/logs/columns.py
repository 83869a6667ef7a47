"""Which column of a log is what, as somebody says it or as it was found out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["EVENT_COLUMNS", "UNITS_PER_S", "ColumnMapping"]

EVENT_COLUMNS: Final = ("user_id", "item_id", "event_type", "ts_ms", "value", "session_id", "event_id")
"""Text, text, text, int64 (UTC epoch milliseconds), float64, text, text; any may be null."""

UNITS_PER_S: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_TYPE_NAMES: Final = (
    ("addtocart", "cart"),
    ("add_to_cart", "cart"),
    ("transaction", "purchase"),
    ("buy", "purchase"),
    ("order", "purchase"),
    ("pageview", "view"),
    ("page_view", "view"),
    ("rate", "rating"),
)


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Which column of a log is what. None leaves it to be guessed, the empty string says that there is none."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    event_type: str | None = None
    """Column of the type of event; without one every event has `constant_type`."""
    constant_type: str | None = None
    value: str | None = None
    session: str | None = None
    event_id: str | None = None
    context: tuple[str, ...] | None = None
    """Columns that become context fields of the same names, as text."""
    time_format: str | None = None
    """Unit of epoch times (`s`, `ms`, `us`, `ns`), or a format of date and time such as `%m/%d/%Y %H:%M`.

    Times without a zone are UTC.
    """
    negative_value_type: str | None = None
    """A row with a negative value is an event of this type with the absolute value, such as `return`."""
    type_names: tuple[tuple[str, str], ...] = _TYPE_NAMES
    """Pairs of a type's name in the log, in lower case, and its name here; others stay as they are."""

    def describe(self) -> str:
        """What comes from where, in one line for people."""
        parts = [f"user_id from {self.user}", f"item_id from {self.item}", f"ts_ms from {self.time}"]
        parts[2] += f" ({self.time_format})" if self.time_format else ""
        parts.append(f"event_type from {self.event_type}" if self.event_type else f"event_type {self.constant_type!r}")
        for name, column in (("value", self.value), ("session_id", self.session), ("event_id", self.event_id)):
            if column:
                parts.append(f"{name} from {column}")
        if self.value and self.negative_value_type:
            parts.append(f"negative values are {self.negative_value_type!r}")
        if self.context:
            parts.append(f"context from {', '.join(self.context)}")
        return "; ".join(parts)

"""Which statistics of items are kept: channels of popularity and co-visitation, and the segments they count apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS, scale_name

__all__ = ["CoVisitationChannel", "PopularityChannel", "SegmentField", "StatisticsSpec"]


@dataclass(frozen=True, slots=True)
class PopularityChannel:
    """One decayed count per item.

    Attributes:
        half_life_ms: after this long an event counts half.
        of: which events count: all, those that continue a session, or those that do so after an event whose segment
            field had a given value ("previous").
        field: count per value of this context field (of the event, or of the one before it when `of` is "previous").
    """

    half_life_ms: int
    of: Literal["all", "continuing", "previous"] = "all"
    field: str | None = None

    def __post_init__(self) -> None:
        if self.half_life_ms <= 0:
            raise ValueError(f"a half-life must be positive, not {self.half_life_ms} ms")
        if self.of == "previous" and self.field is None:
            raise ValueError("popularity after an event of a segment needs the segment's field")

    @property
    def name(self) -> str:
        """For reasons, reports and feature names: `all:5m`, `continuing:1h`, `all:1h:device`."""
        name = f"{self.of}:{scale_name(self.half_life_ms)}"
        return name if self.field is None else f"{name}:{self.field}"


@dataclass(frozen=True, slots=True)
class CoVisitationChannel:
    """One decayed weight per pair of items.

    Attributes:
        half_life_ms: after this long a transition counts half.
        of: "next": an item and the one right after it in a session; "any": and any of the next three; "back": an item
            and any of the three before it.
        field: count apart by value of this context field, of the event that the transition left from: pages differ by
            device, and so does what stands on them to be clicked next.
    """

    half_life_ms: int
    of: Literal["next", "any", "back"] = "any"
    field: str | None = None

    @property
    def name(self) -> str:
        """For feature names: `next:1d`, `next:1d:device`."""
        name = f"{self.of}:{scale_name(self.half_life_ms)}"
        return name if self.field is None else f"{name}:{self.field}"


@dataclass(frozen=True, slots=True)
class SegmentField:
    """A context field with the values that are counted apart; every other value counts as one more."""

    field: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) != len(self.values) or "" in self.values:
            raise ValueError(f"the values of segment field {self.field!r} repeat, or one is empty: {self.values}")


@dataclass(frozen=True, slots=False)
class StatisticsSpec:
    """Which statistics are kept. The defaults are those that won on news clicks, see the README's table of quality."""

    popularity: tuple[PopularityChannel, ...] = (
        *(PopularityChannel(h) for h in (5 * MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)),
        *(PopularityChannel(h, "continuing") for h in (5 * MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)),
    )
    co_visitation: tuple[CoVisitationChannel, ...] = (
        CoVisitationChannel(DAY_MS, "next"),
        CoVisitationChannel(DAY_MS, "any"),
        CoVisitationChannel(HOUR_MS, "any"),
        CoVisitationChannel(DAY_MS, "back"),
    )
    segments: tuple[SegmentField, ...] = ()
    n_slots: int = 128
    returns: tuple[int, ...] = field(default=(), repr=False)
    """Half-lives in milliseconds of what users come back to in later sessions, see `stream.core.statistics.returns`."""

    def __post_init__(self) -> None:
        if min(self.returns, default=1) <= 0 or len(set(self.returns)) != len(self.returns):
            raise ValueError(f"half-lives of returns must be positive and distinct, not {self.returns} ms")
        declared = [segment.field for segment in self.segments]
        if len(set(declared)) != len(declared):
            raise ValueError(f"segment fields repeat: {declared}")
        for channel in self.popularity:
            if channel.field is not None and channel.field not in declared:
                raise ValueError(f"popularity by {channel.field!r} needs that field among the segments {declared}")
        for pair in self.co_visitation:
            if pair.field is not None and pair.field not in declared:
                raise ValueError(f"co-visitation by {pair.field!r} needs that field among the segments {declared}")
        if not self.popularity or not self.co_visitation:
            raise ValueError("at least one popularity and one co-visitation channel are needed")
        if not 1 <= self.n_slots <= 1024:
            raise ValueError(f"n_slots must be between 1 and 1024, not {self.n_slots}")

    @property
    def segment_fields(self) -> tuple[str, ...]:
        """Context fields that events must carry over into batches."""
        return tuple(segment.field for segment in self.segments)

    def n_values(self, field: str) -> int:
        """Codes of a segment field: its values and one for all others."""
        return 1 + next(len(segment.values) for segment in self.segments if segment.field == field)

    @cached_property
    def broadest(self) -> int:
        """Number of the channel that knows most: of all events rather than some, with the longest half-life.

        What fills up a list comes from it: a young shop has events, but few sessions that go on.
        """
        return max(
            range(len(self.popularity)),
            key=lambda n: (
                self.popularity[n].field is None,
                self.popularity[n].of == "all",
                self.popularity[n].half_life_ms,
            ),
        )

    @cached_property
    def first_column(self) -> tuple[int, ...]:
        """Where each popularity channel's columns begin; the last entry is the number of columns."""
        return self._starts([channel.field for channel in self.popularity])

    @cached_property
    def first_pair_column(self) -> tuple[int, ...]:
        """The same for co-visitation channels."""
        return self._starts([pair.field for pair in self.co_visitation])

    def _starts(self, fields: Sequence[str | None]) -> tuple[int, ...]:
        starts = [0]
        for name in fields:
            starts.append(starts[-1] + (1 if name is None else self.n_values(name)))
        return tuple(starts)

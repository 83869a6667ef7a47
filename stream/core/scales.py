"""Time scales: what a window is, as a value that needs no runtime.

A window of a scale covers `n_buckets` whole buckets of event time and is read as of a time `as_of_ms`:

    bucket index     head-3   head-2   head-1    head
                   |--------|--------|--------|----^---|
                   ^ start (in)                    as_of_ms       n_buckets = 4
    start = (head - n_buckets + 1) * bucket_ms,  head = as_of_ms // bucket_ms

so it is half-open, `[start, (head + 1) * bucket_ms)`, and spans between `span_ms - bucket_ms` and `span_ms` of the
past.
Buckets are integers of event time: the order in which events arrive cannot move an event to another bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

__all__ = ["DAY_MS", "DEFAULT_SCALES", "HOUR_MS", "MINUTE_MS", "SECOND_MS", "WindowSpec", "scale_name"]


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """One time scale: `span_ms` of event time cut into `n_buckets` equal buckets.

    Raises:
        ValueError: the span is not positive or is not a whole number of buckets.
    """

    span_ms: int
    n_buckets: int = 6

    def __post_init__(self) -> None:
        if self.span_ms <= 0 or self.n_buckets <= 0:
            raise ValueError(
                f"a window needs a positive span and bucket count, not {self.span_ms} ms / {self.n_buckets}"
            )
        if self.span_ms % self.n_buckets != 0:
            raise ValueError(f"{self.span_ms} ms do not divide into {self.n_buckets} equal buckets")

    @property
    def bucket_ms(self) -> int:
        """Length of one bucket in milliseconds."""
        return self.span_ms // self.n_buckets

    @property
    def name(self) -> str:
        """The span for people: `5m`, `1h`, `7d`."""
        return scale_name(self.span_ms)


def scale_name(span_ms: int) -> str:
    """A span of milliseconds in the largest unit that divides it: `300000 -> '5m'`.

    >>> [scale_name(n) for n in (300_000, 3_600_000, 604_800_000, 1_500)]
    ['5m', '1h', '7d', '1500ms']
    """
    for unit_ms, unit in ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "m"), (SECOND_MS, "s")):
        if span_ms % unit_ms == 0:
            return f"{span_ms // unit_ms}{unit}"
    return f"{span_ms}ms"


DEFAULT_SCALES: tuple[WindowSpec, ...] = (
    WindowSpec(5 * MINUTE_MS),
    WindowSpec(HOUR_MS),
    WindowSpec(DAY_MS),
    WindowSpec(7 * DAY_MS),
    WindowSpec(30 * DAY_MS),
)

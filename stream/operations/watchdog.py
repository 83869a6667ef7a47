"""Tells a worker that is stuck from one that has nothing to do.

The worker reports what it knows of itself twice a second (`observe`); anybody may ask what is wrong (`objections`),
from another thread too, which is how a loop that no longer turns is found out.

    kind            the worker ...                                                 judged
    stalled         has events it knows of and finishes none of a partition        while it reads input
    silent          waits for events, and the broker does not answer its fetches   while it reads input
    unsettled       rebalances or recovers without getting on                      while it does not
    old-view        scores with item statistics that are too old                   always
    blocked         does not come round to its event loop                          always

Clocks of `stalled` and `silent` begin anew when a rebalance, a recovery or a blockade of the loop ends. An objection is
withdrawn when its cause has been gone for `steady_s`: readiness does not flap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from stream.errors import PolytempoError

__all__ = ["KINDS", "Objection", "Progress", "Sample", "Watchdog", "WatchdogConfig"]

KINDS: Final = ("stalled", "silent", "unsettled", "old-view", "blocked")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogConfig:
    """When the watchdog objects.

    Attributes:
        stalled_s: no event of a partition was finished for so long, though some are there.
        silent_s: the broker answered no fetch of a partition for so long; quiet partitions are answered all the time.
        unsettled_s: a rebalance or recovery brought no change for so long.
        view_s: the view of item statistics lacks what is older than this.
        blocked_s: the event loop did not turn for so long.
        steady_s: an objection is withdrawn after its cause has been gone for so long.

    Raises:
        PolytempoError: a duration is not above zero; `steady_s` may be zero.
    """

    stalled_s: float = 30.0
    silent_s: float = 15.0
    unsettled_s: float = 60.0
    view_s: float = 30.0
    blocked_s: float = 5.0
    steady_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("stalled_s", "silent_s", "unsettled_s", "view_s", "blocked_s"):
            if not getattr(self, name) > 0:
                raise PolytempoError(f"a watchdog with {name} = {getattr(self, name):g} would always object.")
        if not self.steady_s >= 0:
            raise PolytempoError(f"a watchdog cannot wait for {self.steady_s:g} s.")


@dataclass(frozen=True, slots=True)
class Progress:
    """One input partition: the offset up to which all is finished, events known to be left, and whether it is fetched.

    `answered` is any value that changes whenever the broker answers a fetch of it.
    """

    done: int | None
    lag: int
    waiting: bool
    answered: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a worker knows of itself at one moment.

    Attributes:
        at_s: the moment, on the monotonic clock.
        settled: whether it reads input: no rebalance or recovery is under way.
        to_recover: changelog records that a recovery has still to read.
        partitions: the input partitions that are its own.
        view_age_s: since when the view of item statistics may lack something.
    """

    at_s: float
    settled: bool
    to_recover: int
    partitions: Mapping[int, Progress]
    view_age_s: float


@dataclass(frozen=True, slots=True)
class Objection:
    """One thing that is wrong, and what it is in words."""

    kind: str
    detail: str


@dataclass(slots=True)
class _Cause:
    """What an objection rests on: last seen when, and how it was put."""

    seen_s: float
    detail: str


@dataclass(slots=True)
class _Clock:
    """When something last changed."""

    value: object
    since_s: float

    def held_s(self, value: object, now_s: float) -> float:
        """For how long it has had this value, seen now."""
        if value != self.value:
            self.value, self.since_s = value, now_s
        return now_s - self.since_s


@dataclass(slots=True)
class Watchdog:
    """See the module. One thread calls `observe`, with times that do not go back; any may call `objections`."""

    config: WatchdogConfig = field(default_factory=WatchdogConfig)
    _last: Sample | None = None
    _causes: dict[str, _Cause] = field(default_factory=dict)
    _done: dict[int, _Clock] = field(default_factory=dict)
    _answered: dict[int, _Clock] = field(default_factory=dict)
    _unsettled: _Clock | None = None

    def observe(self, sample: Sample) -> None:
        """Take note of how things are."""
        last, now_s = self._last, sample.at_s
        blocked = last is not None and now_s - last.at_s > self.config.blocked_s
        if blocked:  # who did not turn could neither finish anything nor hear an answer
            self._done, self._answered = {}, {}
        found = dict(self._judge(sample))
        if last is not None and blocked:
            found["blocked"] = f"the event loop did not turn for {now_s - last.at_s:.1f} s"
        causes = dict(self._causes)
        for kind, detail in found.items():
            causes[kind] = _Cause(now_s, detail)
        self._causes = {
            kind: cause
            for kind, cause in causes.items()
            if kind in found or now_s - cause.seen_s < self.config.steady_s
        }
        self._last = sample

    def objections(self, now_s: float) -> tuple[Objection, ...]:
        """What is wrong, as of `now_s` on the monotonic clock, in the order of `KINDS`."""
        last, found = self._last, {kind: cause.detail for kind, cause in self._causes.items()}
        if last is not None and now_s - last.at_s > self.config.blocked_s:
            found["blocked"] = f"the event loop has not turned for {now_s - last.at_s:.1f} s"
        return tuple(Objection(kind, found[kind]) for kind in KINDS if kind in found)

    def blocked_for_s(self, now_s: float) -> float:
        """For how long nothing was observed; 0 before the first time."""
        return 0.0 if self._last is None else max(now_s - self._last.at_s, 0.0)

    def _judge(self, sample: Sample) -> Iterator[tuple[str, str]]:
        config, now_s = self.config, sample.at_s
        if sample.view_age_s > config.view_s:
            yield "old-view", f"the view of item statistics is {sample.view_age_s:.1f} s old"
        if not sample.settled:
            self._done, self._answered = {}, {}
            if self._unsettled is None:
                self._unsettled = _Clock(sample.to_recover, now_s)
            held_s = self._unsettled.held_s(sample.to_recover, now_s)
            if held_s > config.unsettled_s:
                left = f", {sample.to_recover:,} changelog records to read" if sample.to_recover > 0 else ""
                yield "unsettled", f"a rebalance or recovery has brought no change for {held_s:.1f} s{left}"
            return
        self._unsettled = None
        stalled, silent = [], []
        for number, each in sample.partitions.items():
            # Without lag there is nothing to finish: the clock stands still until there is.
            state = (each.done, each.lag > 0)
            held_s = self._done.setdefault(number, _Clock(state, now_s)).held_s(state, now_s)
            if each.lag > 0 and held_s > config.stalled_s:
                stalled.append(f"partition {number}: {each.lag:,} events wait, none finished for {held_s:.1f} s")
            heard = (each.answered, each.waiting)
            held_s = self._answered.setdefault(number, _Clock(heard, now_s)).held_s(heard, now_s)
            if each.waiting and held_s > config.silent_s:
                silent.append(f"partition {number}: no answer of the broker for {held_s:.1f} s")
        for clocks in (self._done, self._answered):
            for number in clocks.keys() - sample.partitions.keys():
                del clocks[number]
        if stalled:
            yield "stalled", "; ".join(stalled)
        if silent:
            yield "silent", "; ".join(silent)

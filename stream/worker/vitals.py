"""What a worker knows of itself at one moment, for those who ask from another thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stream.batching import RecordBatch, Standing, Timings
from stream.core.tally import Moved
from stream.operations.histogram import BATCH_EVENTS, Histogram
from stream.operations.watchdog import Progress, Sample

__all__ = ["STAGES", "Meter", "Vitals"]

STAGES: Final = ("fetch", "queue", "step", "sends", "changelog")
"""In this order an event goes through them."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """A moment of a worker.

    Attributes:
        at_s: on the monotonic clock.
        settled: whether it reads input, without rebalance or recovery.
        to_recover: changelog records that a recovery has still to read.
        n_rebalances: since it began.
        partitions: the input partitions that are its own.
        n_users, state_bytes: records in its store, those of standby partitions included, and their size; what keys and
            the store itself need comes on top. Estimates for a store on disk.
        view_age_s: since when the view of item statistics may lack something.
        view_offset, items_offset: what the view holds, in `item-activity` and `items`.
        n_items: items in the view.
        n_corrupt: messages of `item-activity` that were left out.
        n_produce_failures: batches that a broker refused or did not answer; most were tried again.
        models: variant -> the bundle that serves it, name@version.
        moved: variant -> how far features and scores are from those of the bundle's training window; None where the
            bundle does not tell of it.
    """

    at_s: float
    settled: bool
    to_recover: int
    n_rebalances: int
    partitions: Sequence[Standing]
    n_users: int
    state_bytes: int
    view_age_s: float
    view_offset: int
    items_offset: int
    n_items: int
    n_corrupt: int
    n_produce_failures: int
    models: Mapping[str, str]
    moved: Mapping[str, Moved | None]

    def sample(self) -> Sample:
        """What the watchdog wants of it."""
        partitions = {
            each.partition: Progress(each.done, each.lag, each.waiting, each.answered_ms) for each in self.partitions
        }
        return Sample(self.at_s, self.settled, self.to_recover, partitions, self.view_age_s)


@dataclass(slots=True)
class Meter:
    """Distributions of a worker, fed once a batch on its event loop.

    Attributes:
        batch_events: events of a batch.
        stages: seconds that batches spent in each of `STAGES`.
        latency: seconds from the broker's receipt of an event until its recommendation was acknowledged; the changelog,
            which follows, nobody waits for. Each event counts with the oldest of its batch, so this errs on the long
            side.
        loop_delay: seconds that the event loop came late to a task that was due.
    """

    batch_events: Histogram = field(default_factory=lambda: Histogram(BATCH_EVENTS))
    stages: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})
    latency: Histogram = field(default_factory=Histogram)
    loop_delay: Histogram = field(default_factory=Histogram)

    def add(self, batch: RecordBatch, timings: Timings, now_s: float) -> None:
        """Count one finished batch; `now_s` is the wall clock."""
        records, stages = batch.records, self.stages
        n = len(records)
        total_s = max(now_s - records[0].timestamp / 1000, 0.0)
        self.batch_events.observe(n)
        self.latency.observe(max(total_s - timings.changelog_us / 1e6, 0.0), n)
        stages["fetch"].observe(max(total_s - timings.total_us / 1e6, 0.0))
        stages["queue"].observe(timings.queue_us / 1e6)
        stages["step"].observe(timings.step_us / 1e6)
        stages["sends"].observe(timings.sends_us / 1e6)
        stages["changelog"].observe(timings.changelog_us / 1e6)

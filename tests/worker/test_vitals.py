"""What a worker measures of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from stream.batching import Standing, Timings
from stream.worker.metrics import outcomes
from stream.worker.processor import Counters
from stream.worker.vitals import STAGES, Meter, Vitals
from tests.bench.metering import us_per_batch


def test_a_batch_is_counted_in_every_stage_and_its_events_in_latency() -> None:
    """
    broker 100.000 s --- fetch 20 ms --- queue 3 --- step 1 --- sends 4 --- changelog 2 --- done 100.030 s
           |--------------------- latency: 28 ms ---------------------|
    """
    records = [SimpleNamespace(timestamp=100_000), SimpleNamespace(timestamp=100_009)]
    meter, batch = Meter(), SimpleNamespace(records=records)
    meter.add(batch, Timings(1_000, 4_000, 2_000, 3_000), now_s=100.030)  # type: ignore[arg-type]
    spent = {stage: round(histogram.sum * 1000, 3) for stage, histogram in meter.stages.items()}
    assert tuple(spent) == STAGES
    assert spent == {"fetch": 20.0, "queue": 3.0, "step": 1.0, "sends": 4.0, "changelog": 2.0}
    assert (meter.latency.n, round(meter.latency.sum, 6)) == (2, 0.056)
    assert (meter.batch_events.n, meter.batch_events.sum) == (1, 2)


def test_a_broker_whose_clock_is_ahead_makes_no_negative_times() -> None:
    meter, batch = Meter(), SimpleNamespace(records=[SimpleNamespace(timestamp=200_000)])
    meter.add(batch, Timings(1_000, 1_000, 1_000), now_s=100.0)  # type: ignore[arg-type]
    assert (meter.latency.sum, meter.stages["fetch"].sum) == (0.0, 0.0)


def test_outcomes_add_up_to_the_records_whatever_became_of_items() -> None:
    counters = Counters(
        n_records=21, n_replayed=3, n_duplicates=2, n_impressions=1, n_dead_letters=6, n_items_refused=2
    )
    found = outcomes(counters)
    assert found == {"applied": 11, "duplicate": 2, "replayed": 3, "impression": 1, "refused": 4}
    assert sum(found.values()) == counters.n_records


def test_the_watchdog_gets_what_the_consumer_knows() -> None:
    standings = [Standing(0, 5, 9, 77, waiting=False), Standing(3, None, None, None, waiting=False)]
    some: dict[str, Any] = {"n_users": 0, "state_bytes": 0, "view_offset": 1, "items_offset": 2, "n_items": 3}
    vitals = Vitals(
        at_s=1.0, settled=True, to_recover=0, n_rebalances=1, partitions=standings, view_age_s=0.5, n_corrupt=0,
        n_produce_failures=0, models={"default": "a@1"}, moved={}, **some,
    )  # fmt: skip
    sample = vitals.sample()
    assert (sample.partitions[0].done, sample.partitions[0].lag, sample.partitions[0].answered) == (5, 4, 77)
    assert sample.partitions[3].lag == 0


def test_metering_costs_the_same_for_a_batch_of_any_size() -> None:
    """What the README's figure is measured with; it calls nothing per event."""
    calls: list[str] = []

    class Record:
        @property
        def timestamp(self) -> int:
            calls.append("timestamp")
            return 0

    batch: Any = SimpleNamespace(records=[Record() for _ in range(256)])
    Meter().add(batch, Timings(1, 1, 1, 1), now_s=1.0)
    assert calls == ["timestamp"]
    assert us_per_batch(256, n_batches=50) > 0

"""A worker's metrics, under Prometheus's conventions: read when they are asked for, so that events pay nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from stream import __version__
from stream.core.tally import Moved
from stream.operations.health import Health
from stream.operations.histogram import Histogram
from stream.operations.http import Page
from stream.operations.watchdog import KINDS
from stream.worker.processor import Counters
from stream.worker.vitals import Meter, Vitals

__all__ = ["Exchanges", "Facts", "MetricsPage", "outcomes"]


@dataclass(slots=True)
class Exchanges:
    """What became of new bundles."""

    n_done: int = 0
    n_refused: int = 0
    is_refused: bool = False
    """Whether the newest one is not the one that serves."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Where figures come from; each is asked for when they are wanted."""

    counters: Counters
    meter: Meter
    exchanges: Exchanges
    health: Health
    vitals: Callable[[], Vitals | None]


def outcomes(counters: Counters) -> dict[str, int]:
    """Events by what became of them. They add up to the records that were read.

    `applied` ones changed a state or asked for a recommendation; `duplicate` ones repeat an event id or record;
    `replayed` ones had been applied before a crash or rebalance; `impression` ones say what was
    shown and change nothing; `refused` ones are dead letters.
    """
    n_refused = counters.n_dead_letters - counters.n_items_refused
    n_other = counters.n_replayed + counters.n_duplicates + counters.n_impressions + n_refused
    return {
        "applied": max(counters.n_records - n_other, 0),
        "duplicate": counters.n_duplicates,
        "replayed": counters.n_replayed,
        "impression": counters.n_impressions,
        "refused": n_refused,
    }


class _WorkerCollector(Collector):
    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Any]:
        facts = self._facts
        yield from self._counted(facts.counters)
        yield from self._measured(facts.meter)
        yield from self._health(facts.health)
        vitals = facts.vitals()
        if vitals is not None:
            yield from self._vitals(vitals)
        exchanges = facts.exchanges
        yield _counter("polytempo_bundle_exchanges", "Bundles that took over while the worker ran.", exchanges.n_done)
        yield _counter("polytempo_bundle_refusals", "New bundles that were not taken over.", exchanges.n_refused)
        yield _gauge(
            "polytempo_bundle_refused", "1 while the newest bundle is not the one that serves.", exchanges.is_refused
        )
        yield _counter(
            "polytempo_produce_failures",
            "Batches that a broker refused or did not answer; most are tried again.",
            0 if vitals is None else vitals.n_produce_failures,
        )

    def _counted(self, counters: Counters) -> Iterator[Any]:
        events = CounterMetricFamily("polytempo_events", "Events read, by what became of them.", labels=["outcome"])
        for outcome, n in outcomes(counters).items():
            events.add_metric([outcome], n)
        yield events
        yield _counter("polytempo_recommendations", "Recommendations made.", counters.n_recommendations)
        yield _counter("polytempo_forgotten_users", "Requests to be forgotten that were done.", counters.n_forgotten)
        yield _counter("polytempo_removed_users", "Users removed after a long silence.", counters.n_removed)
        yield _counter("polytempo_returned_users", "Users who began anew after one.", counters.n_returned)
        yield _counter("polytempo_late_events", "Events older than one of the same user's before.", counters.n_late)
        letters = CounterMetricFamily("polytempo_dead_letters", "Dead letters, by reason.", labels=["reason"])
        for reason, n in dict(counters.dead_letters).items():
            letters.add_metric([reason], n)
        yield letters

    def _measured(self, meter: Meter) -> Iterator[Any]:
        yield _histograms("polytempo_batch_events", "Events scored together.", [([], meter.batch_events)])
        yield _histograms(
            "polytempo_stage_seconds",
            "Time of a batch in each stage: fetch (broker to worker), queue, step, sends, changelog.",
            [([stage], histogram) for stage, histogram in meter.stages.items()],
            labels=["stage"],
        )
        yield _histograms(
            "polytempo_event_latency_seconds",
            "From the broker's receipt of an event to the acknowledgement of its recommendation; "
            "each event counts with the oldest of its batch.",
            [([], meter.latency)],
        )
        yield _histograms(
            "polytempo_loop_delay_seconds", "How late the event loop came to what was due.", [([], meter.loop_delay)]
        )

    def _health(self, health: Health) -> Iterator[Any]:
        objections = {each.kind for each in health.objections()}
        yield _gauge("polytempo_ready", "1 while the worker answers events as it should.", not objections)
        against = GaugeMetricFamily("polytempo_objection", "1 while the watchdog objects.", labels=["kind"])
        for kind in KINDS:
            against.add_metric([kind], float(kind in objections))
        yield against
        yield InfoMetricFamily("polytempo_build", "The program.", value={"version": __version__})

    def _vitals(self, vitals: Vitals) -> Iterator[Any]:
        lag = GaugeMetricFamily(
            "polytempo_lag_events",
            "Events of a partition that are not finished, as far as known.",
            labels=["partition"],
        )
        done = GaugeMetricFamily(
            "polytempo_finished_offset", "All events of a partition below it are finished.", labels=["partition"]
        )
        for each in vitals.partitions:
            lag.add_metric([str(each.partition)], each.lag)
            if each.done is not None:
                done.add_metric([str(each.partition)], each.done)
        yield lag
        yield done
        yield _gauge("polytempo_partitions", "Input partitions that this worker reads.", len(vitals.partitions))
        yield _gauge("polytempo_settled", "1 while neither rebalancing nor recovering.", vitals.settled)
        yield _counter("polytempo_rebalances", "Rebalances of the group.", vitals.n_rebalances)
        yield _gauge("polytempo_recovery_records", "Changelog records still to be read.", vitals.to_recover)
        yield _gauge("polytempo_store_users", "Users in the worker's store, standby ones included.", vitals.n_users)
        yield _gauge("polytempo_store_bytes", "Size of their records, without keys.", vitals.state_bytes)
        models = InfoMetricFamily("polytempo_model", "The bundle that serves a variant.", labels=["variant"])
        for variant, reference in vitals.models.items():
            name, _, version = reference.rpartition("@")
            models.add_metric([variant], {"name": name, "version": version})
        yield models
        yield from _moved(vitals.moved)
        yield _gauge(
            "polytempo_view_age_seconds", "Since when the item statistics may lack something.", vitals.view_age_s
        )
        yield _gauge("polytempo_view_offset", "The last message of item-activity in the view.", vitals.view_offset)
        yield _gauge("polytempo_view_items_offset", "The last message of items in the view.", vitals.items_offset)
        yield _gauge("polytempo_view_items", "Items in the view.", vitals.n_items)
        yield _counter("polytempo_view_corrupt", "Messages of item-activity that could not be read.", vitals.n_corrupt)


def _moved(moved: Mapping[str, Moved | None]) -> Iterator[Any]:
    known = GaugeMetricFamily(
        "polytempo_drift_known", "1 if a variant's bundle tells what it was trained on.", labels=["variant"]
    )
    events = GaugeMetricFamily(
        "polytempo_drift_events", "Events whose features and score were looked at.", labels=["variant"]
    )
    index = GaugeMetricFamily(
        "polytempo_drift_index",
        "Population stability index against the bundle's training window: of the score, and the largest of each group "
        "of features.",
        labels=["variant", "group"],
    )
    for variant, each in moved.items():
        known.add_metric([variant], float(each is not None))
        if each is None:
            continue
        events.add_metric([variant], each.n_events)
        if each.is_judged:
            for group, value in each.groups.items():
                index.add_metric([variant, group], value)
    yield from (known, events, index)


class MetricsPage:
    """The page `/metrics`: the worker's own figures, the process's and Python's."""

    def __init__(self, facts: Facts) -> None:
        self._registry: Final = CollectorRegistry()
        self._registry.register(_WorkerCollector(facts))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def __call__(self, accept: str) -> Page:
        """The text format that the reader prefers."""
        encode, content_type = choose_encoder(accept)
        return Page(encode(self._registry), content_type=content_type)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _histograms(
    name: str, text: str, histograms: Iterable[tuple[list[str], Histogram]], labels: list[str] | None = None
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=[] if labels is None else labels)
    for values, histogram in histograms:
        family.add_metric(values, histogram.buckets(), histogram.sum)
    return family

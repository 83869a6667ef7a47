"""A worker under observation: its pulse, its watchdog, and the pages that others read."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from stream import __version__
from stream.batching import RecordBatch, Timings
from stream.core.tally import Moved
from stream.operations.health import Health, Phase
from stream.operations.http import HttpServer, Page, json_page
from stream.operations.listen import Listen, Token
from stream.operations.watchdog import Watchdog, WatchdogConfig
from stream.worker.metrics import Exchanges, Facts, MetricsPage, outcomes
from stream.worker.processor import Counters
from stream.worker.vitals import Meter, Vitals

__all__ = ["Observed", "Observing"]

logger = logging.getLogger(__name__)

_BEAT_S: Final = 0.5
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Observing:
    """How a worker is observed.

    Attributes:
        listen: where pages are served; None serves none.
        token: who may read them; None lets everybody who reaches the address.
        watchdog: what counts as trouble.
    """

    listen: Listen | None = None
    token: Token | None = None
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)


class Observed:
    """What is known of one worker. As a context it serves pages.

    Args:
        observing: how.
        counters: what its processor counts.
    """

    def __init__(self, observing: Observing, counters: Counters) -> None:
        self.health = Health(Watchdog(observing.watchdog))
        self.meter = Meter()
        self.exchanges = Exchanges()
        self.vitals: Vitals | None = None
        self.url: str | None = None
        """Where the pages are, while they are served."""
        self._counters = counters
        self._began_s = time.monotonic()
        self._server: HttpServer | None = None
        self._objected: frozenset[str] = frozenset()
        if observing.listen is not None:
            facts = Facts(counters, self.meter, self.exchanges, self.health, lambda: self.vitals)
            pages: dict[str, Callable[[str], Page]] = {
                "/live": lambda _: self._live(),
                "/ready": lambda _: self._ready(),
                "/status": lambda _: json_page(self.status()),
                "/metrics": MetricsPage(facts),
            }
            self._server = HttpServer(observing.listen, pages, observing.token)

    def __enter__(self) -> Self:
        if self._server is not None:
            self._server.start()
            self.url = self._server.url
            logger.info("health and metrics are at %s", self.url)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._server is not None:
            self._server.stop()
            self.url = None

    def finished(self, batch: RecordBatch, timings: Timings) -> None:
        """One batch is done."""
        self.meter.add(batch, timings, time.time())

    async def beat(self, look: Callable[[float], Vitals | None]) -> None:
        """Look at the worker twice a second, until cancelled; `look` gives None while there is nothing to see."""
        while True:
            vitals = look(time.monotonic())
            if vitals is not None:
                self.observe(vitals)
            due_s = time.monotonic() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            self.meter.loop_delay.observe(max(time.monotonic() - due_s, 0.0))

    def observe(self, vitals: Vitals) -> None:
        """Take note of how the worker is, and log what is objected to when that changes."""
        self.vitals = vitals
        self.health.watchdog.observe(vitals.sample())
        if self.health.phase is not Phase.SERVING:
            return
        objections = self.health.objections()
        kinds = frozenset(each.kind for each in objections)
        for each in objections:
            if each.kind not in self._objected:
                logger.warning("not ready: %s: %s", each.kind, each.detail)
        if self._objected and not kinds:
            logger.warning("ready again")
        self._objected = kinds

    def status(self) -> dict[str, Any]:
        """Everything of interest, for people."""
        vitals, counters, meter = self.vitals, self._counters, self.meter
        document: dict[str, Any] = {
            **self._readiness(),
            "phase": self.health.phase.value,
            "pid": os.getpid(),
            "version": __version__,
            "up_s": round(time.monotonic() - self._began_s, 1),
            "events": outcomes(counters),
            "recommendations": counters.n_recommendations,
            "late_events": counters.n_late,
            "forgotten_users": counters.n_forgotten,
            "removed_users": counters.n_removed,
            "returned_users": counters.n_returned,
            "dead_letters": dict(counters.dead_letters),
            "latency_ms": _quantiles_ms(meter.latency.quantile),
            "stages_ms": {stage: _quantiles_ms(each.quantile) for stage, each in meter.stages.items()},
            "produce_failures": 0 if vitals is None else vitals.n_produce_failures,
            "bundle_exchanges": self.exchanges.n_done,
            "bundle_refusals": self.exchanges.n_refused,
        }
        if vitals is not None:
            document |= {
                "models": dict(vitals.models),
                "partitions": {
                    str(each.partition): {"finished": each.done, "end": each.end, "lag": each.lag}
                    for each in vitals.partitions
                },
                "rebalances": vitals.n_rebalances,
                "store": {"users": vitals.n_users, "bytes": vitals.state_bytes},
                "view": {
                    "age_s": round(vitals.view_age_s, 3),
                    "offset": vitals.view_offset,
                    "items_offset": vitals.items_offset,
                    "items": vitals.n_items,
                },
                "drift": {variant: _moved(each) for variant, each in vitals.moved.items()},
            }
        return document

    def _live(self) -> Page:
        alive = self.health.alive
        return json_page({"alive": alive}, status=200 if alive else 503, public=True)

    def _ready(self) -> Page:
        document = self._readiness()
        return json_page(document, status=200 if document["ready"] else 503, public=True)

    def _readiness(self) -> dict[str, Any]:
        objections = self.health.objections()
        return {
            "ready": not objections,
            "objections": [{"kind": each.kind, "detail": each.detail} for each in objections],
        }


def _moved(moved: Moved | None) -> dict[str, Any] | None:
    """None where the bundle does not tell what it was trained on."""
    if moved is None:
        return None
    worst = {name: round(index, 4) for name, index in moved.worst(_SHOWN)}
    return {"events": moved.n_events, "verdict": moved.verdict, "moved_most": worst}


def _quantiles_ms(quantile: Callable[[float], float | None]) -> dict[str, float] | None:
    """Estimates from histograms, whose buckets are coarse; None without values."""
    found = {name: quantile(share) for name, share in (("p50", 0.5), ("p99", 0.99))}
    return {name: round(value * 1000, 3) for name, value in found.items() if value is not None} or None

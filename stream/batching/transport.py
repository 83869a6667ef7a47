"""The transport that makes a Faust app read whole fetches, and how an app is told to use it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final

import faust
from faust.exceptions import ImproperlyConfigured
from faust.transport.drivers import aiokafka as driver

from stream.batching.consumer import BatchConsumer
from stream.batching.producing import BatchProducer

__all__ = ["SETTINGS", "BatchTransport", "FetchSettings", "use_batches"]

#: Faust settings that the batch path was measured with; pass them to `faust.App(..., **SETTINGS)`.
SETTINGS: Final = MappingProxyType(
    {
        "broker_max_poll_records": 2000,
        "broker_commit_interval": 1.0,
        "consumer_metadata_max_age_ms": 15_000,  # a topic that came, grew or went is seen so soon, not after 5 minutes
        "producer_acks": -1,
        "producer_request_timeout": 60.0,  # Faust waits 20 minutes for a broker that does not answer
        "producer_max_batch_size": 1 << 20,
        "producer_max_request_size": 2 << 20,
        "value_serializer": "raw",
        "key_serializer": "raw",
        "topic_disable_leader": True,
        "web_enabled": False,
        "store": "memory://",
        "stream_recovery_delay": 0.0,
    }
)


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """What a fetch request asks of the broker.

    There is one fetch under way per broker, answered as soon as `min_bytes` are there, and after `max_wait_ms` at the
    latest. On a quiet topic the next one follows at once. On a busy one (more than an event per `pace_ms` on average)
    answering each event by itself costs more than it saves: every fetch and produce request is paid for singly, and the
    queue for the processor becomes the latency. There a fetch follows the last one after `pace_ms`; 0 turns it off.

    Newly assigned or resumed partitions wait for the fetch under way to end, which bounds `max_wait_ms`. After a second
    without any record it is `idle_wait_ms`, so that a worker at rest is at rest; the first event is answered as soon as
    any other. The bytes per partition are Faust's own `consumer_max_fetch_size`.
    """

    max_wait_ms: int = 20
    idle_wait_ms: int = 500
    min_bytes: int = 1
    max_bytes: int = 50 << 20
    pace_ms: float = 3.0


class BatchTransport(driver.Transport):  # type: ignore[misc]
    """Faust's aiokafka transport, consuming and producing batches; `buffer_of` maps batch topics to their buffer."""

    Consumer: ClassVar[type[Any]] = BatchConsumer
    Producer: ClassVar[type[Any]] = BatchProducer

    def __init__(self, *args: Any, fetch: FetchSettings | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fetch = FetchSettings() if fetch is None else fetch
        self.buffer_of: dict[str, int] = {}


def use_batches(app: faust.App, fetch: FetchSettings | None = None) -> BatchTransport:
    """Give `app` the batch transport. Call it right after the app was made, before topics, tables and agents.

    Raises ImproperlyConfigured if the app would acknowledge what the brokers have not, or wants transactions.
    """
    if app.conf.producer_acks != -1:
        raise ImproperlyConfigured("the batch path needs producer_acks=-1: it commits what it believes delivered")
    if app.conf.processing_guarantee != faust.types.enums.ProcessingGuarantee.AT_LEAST_ONCE:
        raise ImproperlyConfigured("the batch path is at least once with idempotent states, not exactly_once")
    transport = BatchTransport(app.conf.broker_consumer, app, fetch=fetch)
    app.transport = transport
    return transport

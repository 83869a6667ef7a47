"""How an app is told to read in batches, and what reaches aiokafka."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.exceptions import ImproperlyConfigured
from faust.types.tuples import TP

from stream.batching import SETTINGS, FetchSettings, batch_topic, use_batches
from stream.batching.consumer import BatchConsumer, LoopConsumer


def new_app(path: Path, **settings: Any) -> faust.App:
    return faust.App(
        "transport-test", broker="kafka://one:1;kafka://two:2", **{**SETTINGS, "datadir": path, **settings}
    )


def test_an_app_that_does_not_wait_for_all_replicas_is_refused(tmp_path: Path) -> None:
    """It would commit what a failing broker forgets."""
    with pytest.raises(ImproperlyConfigured, match="producer_acks=-1"):
        use_batches(new_app(tmp_path, producer_acks=1))


def test_an_app_that_wants_transactions_is_refused(tmp_path: Path) -> None:
    """The batch path produces outside of Faust's transactions."""
    with pytest.raises(ImproperlyConfigured, match="at least once"):
        use_batches(new_app(tmp_path, processing_guarantee="exactly_once"))


def test_a_batch_topic_needs_the_batch_transport(tmp_path: Path) -> None:
    """Else its agent would get undecoded single records."""
    with pytest.raises(TypeError, match="use_batches"):
        batch_topic(new_app(tmp_path), "events")


def test_a_batch_topic_is_known_to_the_transport_with_its_buffer(tmp_path: Path) -> None:
    """Topics that are not named keep Faust's own way."""
    app = new_app(tmp_path)
    transport = use_batches(app)
    batch_topic(app, "events", buffer=7)
    app.topic("items")
    assert transport.buffer_of == {"events": 7}


async def test_fetch_settings_and_credentials_reach_aiokafka(tmp_path: Path) -> None:
    """The fetch settings are ours, everything else is what Faust makes of its own settings."""
    context = ssl.create_default_context()
    names = {"username": "user", "password": "a-word"}
    credentials = faust.SASLCredentials(**names, mechanism="SCRAM-SHA-256", ssl_context=context)
    app = new_app(tmp_path, broker_credentials=credentials, consumer_max_fetch_size=123_456)
    transport = use_batches(app, FetchSettings(max_wait_ms=33, min_bytes=7, max_bytes=8_000_000))
    app.finalize()
    consumer = app.consumer
    assert isinstance(consumer, BatchConsumer)
    assert isinstance(consumer._thread, LoopConsumer)
    kafka: Any = consumer._thread._create_worker_consumer(transport)
    assert (kafka._fetch_max_wait_ms, kafka._fetch_min_bytes, kafka._fetch_max_bytes) == (33, 7, 8_000_000)
    assert kafka._max_partition_fetch_bytes == 123_456
    assert kafka._max_poll_records == 2000
    client = kafka._client
    assert (client._security_protocol, client._sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (client._sasl_plain_username, client._sasl_plain_password) == ("user", "a-word")
    assert client._ssl_context is context
    assert client._bootstrap_servers == ["one:1", "two:2"]
    kafka._closed = True  # it was never started, so there is nothing to close


async def test_a_batch_message_becomes_one_undecoded_event(tmp_path: Path) -> None:
    """Its value is the message."""
    from stream.batching.consumer import BatchMessage

    app = new_app(tmp_path)
    use_batches(app)
    topic: Any = batch_topic(app, "events")
    message = BatchMessage("events", 0, 9, 0.0, 0, None, None, b"", None, 0, 0, TP("events", 0), generation_id=1)
    event = await topic.decode(message)
    assert event.value is message
    assert event.key is None

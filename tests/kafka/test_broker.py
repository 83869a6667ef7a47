"""The embedded broker: ready when it says so, durable, gone without a trace, and plain about what is wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from stream.errors import PolytempoError
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topic, ensure_topics

GONE_TIMEOUT_S = 60


def _produce(settings: KafkaSettings, topic: str, values: list[str]) -> None:
    producer = KafkaProducer(**settings.kafka_python(), acks="all")
    for value in values:
        producer.send(topic, key=b"key", value=value.encode())
    producer.flush()
    producer.close()


def _is_alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + GONE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"still waiting: {what}"
        time.sleep(0.05)


@contextmanager
def _command(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`polytempo broker --json OPTIONS` as a process, ready, with the line that it printed."""
    arguments = [sys.executable, "-m", "stream.cli.main", "broker", "--json", *options]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def test_an_independent_client_reads_what_ours_produced(kafka_broker: EmbeddedBroker, topic_prefix: str) -> None:
    """Kafka's own console consumer, from the same jars."""
    topic = f"{topic_prefix}plain"
    ensure_topics(kafka_broker.settings, [Topic(topic, 1)])
    _produce(kafka_broker.settings, topic, ["one", "zwei", "три"])
    assert kafka_broker.console_consumer(topic, 3) == ["one", "zwei", "три"]
    assert kafka_broker.console_consumer(topic, 1, with_keys=True) == ["key\tone"]


@pytest.mark.usefixtures("kafka_broker")
def test_the_command_is_ready_when_it_says_so_and_leaves_nothing_behind() -> None:
    with _command() as (process, ready):
        ensure_topics(KafkaSettings.read(ready["bootstrap"], {}), [Topic("at-once", 1)])
        assert Path(ready["data"]).is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(GONE_TIMEOUT_S) == 0
    assert not _is_alive(ready["pid"])
    assert not Path(ready["data"]).exists()


@pytest.mark.usefixtures("kafka_broker")
def test_the_broker_goes_with_its_owner_even_when_that_is_killed() -> None:
    with _command() as (process, ready):
        assert _is_alive(ready["pid"])
        process.kill()
        process.wait()
        _wait_for(lambda: not _is_alive(ready["pid"]), "the broker outlives its owner")
        _wait_for(lambda: not Path(ready["data"]).exists(), "the temporary data outlive the broker")


@pytest.mark.usefixtures("kafka_broker")  # which skips where no broker can run
def test_messages_survive_a_kill_and_the_next_broker_on_the_same_folder(tmp_path: Path) -> None:
    """kill -9 and restart, then stop and a new broker: the same log, the same cluster."""
    meta = tmp_path / "kafka" / "log" / "meta.properties"
    topic = Topic("kept", 1)
    with EmbeddedBroker(tmp_path / "kafka") as broker:
        ensure_topics(broker.settings, [topic])
        _produce(broker.settings, "kept", ["before"])
        address, cluster, pid = broker.bootstrap, meta.read_text(), broker.pid
        broker.kill()
        assert not _is_alive(pid)
        broker.restart()
        assert broker.bootstrap == address
        _produce(broker.settings, "kept", ["after"])
    with EmbeddedBroker(tmp_path / "kafka") as broker:
        assert broker.console_consumer("kept", 2) == ["before", "after"]
        assert meta.read_text() == cluster


@pytest.mark.usefixtures("kafka_broker")
def test_a_taken_port_is_said_with_the_option_that_helps(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PolytempoError, match=f"port {port} is taken") as caught:
            EmbeddedBroker(tmp_path / "kafka", port=port).start()
    assert "--port" in caught.value.hint


def test_a_folder_is_served_by_one_broker_at_a_time(
    kafka_broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.kafka.broker._LOCK_TIMEOUT_S", 0)
    with pytest.raises(PolytempoError, match="another broker is using"):
        EmbeddedBroker(kafka_broker.data).start()
    assert kafka_broker.is_running


@pytest.mark.usefixtures("kafka_broker")
def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(PolytempoError, match="holds other things"):
        EmbeddedBroker(tmp_path).start()
    assert os.listdir(tmp_path) == ["thesis.txt"]  # noqa: PTH208 - names are what is compared


@pytest.mark.parametrize("memory", ["512", "m", "-1m", "1t", "0m"])
def test_an_amount_of_memory_that_java_would_refuse_is_refused_first(memory: str) -> None:
    with pytest.raises(PolytempoError, match="no amount of memory"):
        EmbeddedBroker(memory=memory)

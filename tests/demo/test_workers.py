"""Workers as processes: how they fail, and what they inherit."""

import time
from pathlib import Path

import pytest

from stream.demo.workers import WorkerProcess, environment_for
from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings


def test_a_worker_that_ends_says_why_and_where_its_log_is(tmp_path: Path) -> None:
    worker = WorkerProcess(
        "worker-1", bundle=tmp_path / "no-bundle", settings=KafkaSettings(), prefix="x-", logs=tmp_path
    )
    try:
        with pytest.raises(PolytempoError) as caught:
            worker.wait_until_ready(time.monotonic() + 60)
    finally:
        worker.stop()
    assert "worker-1 ended with exit code 2" in caught.value.message
    assert "no-bundle" in caught.value.message
    assert str(worker.log_file) in caught.value.hint
    assert worker.log_file.is_file()


def test_a_worker_that_is_not_ready_in_time_is_reported_and_stopped(tmp_path: Path) -> None:
    worker = WorkerProcess("worker-1", bundle=tmp_path, settings=KafkaSettings(), prefix="", logs=tmp_path)
    try:
        with pytest.raises(PolytempoError, match="worker-1 was not ready"):
            worker.wait_until_ready(time.monotonic())
    finally:
        worker.stop()
    with pytest.raises(PolytempoError, match="ended"):
        worker.check()


def test_a_worker_gets_the_cluster_that_is_meant_and_nothing_of_another(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    mine = KafkaSettings(bootstrap=("a:1", "b:2"), user="me", password="secret", ca_file=ca)  # noqa: S106
    inherited = {"PATH": "/bin", "POLYTEMPO_KAFKA": "elsewhere:9", "POLYTEMPO_KAFKA_KEY": "/other.pem"}
    environment = environment_for(mine, inherited)
    assert environment["PATH"] == "/bin"
    assert "POLYTEMPO_KAFKA_KEY" not in environment
    assert KafkaSettings.read(environment=environment) == mine

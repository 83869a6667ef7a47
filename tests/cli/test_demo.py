"""`polytempo demo` from end to end, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from stream.kafka.settings import KafkaSettings
from tests.bundle.models import write_ranker

N_RATE = 200
DEMO = (sys.executable, "-m", "stream.cli.main", "demo", "--rate", str(N_RATE), "--seconds", "2", "--history", "400")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-stage bundle that nobody has trained."""
    folder = tmp_path_factory.mktemp("models") / "untrained"
    write_ranker(folder)
    return folder


def own_groups_and_topics(kafka: KafkaSettings, prefix: str) -> list[str]:
    admin = KafkaAdminClient(**kafka.kafka_python())
    try:
        topics = [topic for topic in admin.list_topics() if prefix in topic]
        return topics + ([str(admin.list_groups())] if prefix in str(admin.list_groups()) else [])
    finally:
        admin.close()


def environment(tmp_path: Path) -> dict[str, str]:
    """Ours, with a folder for temporary files that can be looked at afterwards."""
    return {**os.environ, "TMPDIR": str(tmp_path)}


def test_the_demo_answers_every_valid_event_and_leaves_nothing_behind(
    kafka: KafkaSettings, bundle: Path, topic_prefix: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*DEMO, "--bundle", str(bundle), "--kafka", kafka.servers, "--prefix", topic_prefix, "--json"],
        capture_output=True, text=True, timeout=240, env=environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    report: dict[str, Any] = json.loads(lines[0])
    assert list(report) == [
        "events_in", "recommendations_out", "dead_letters", "hit_rate_at_10", "popularity_hit_rate_at_10",
        "p50_ms", "p99_ms",
    ]  # fmt: skip
    assert report["events_in"] == 2 * N_RATE + 6
    assert report["dead_letters"] == 6
    assert report["recommendations_out"] == 2 * N_RATE
    assert 0 <= report["popularity_hit_rate_at_10"] <= 1
    assert 0 <= report["p50_ms"] <= report["p99_ms"]
    assert "one for every valid event" in done.stderr
    assert own_groups_and_topics(kafka, topic_prefix) == []
    assert list(tmp_path.glob("polytempo*")) == []


def test_a_log_of_ones_own_is_streamed_and_its_bad_rows_are_dead_letters(
    kafka: KafkaSettings, bundle: Path, topic_prefix: str, tmp_path: Path
) -> None:
    rows = [f"{'' if n == 150 else f'u{n % 9}'},i{n % 31},{1_700_000_000 + 20 * n}" for n in range(200)]
    log = tmp_path / "clicks.csv"
    log.write_text("\n".join(["customer,product,when", *rows]))
    done = subprocess.run(
        [*DEMO, "--bundle", str(bundle), "--kafka", kafka.servers, "--prefix", topic_prefix, "--json",
         "--workers", "1", "--events", str(log), "--time", "when"],
        capture_output=True, text=True, timeout=240, env=environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["events_in"], report["recommendations_out"], report["dead_letters"]) == (50, 49, 1)


def test_an_interrupted_demo_leaves_nothing_behind(
    kafka: KafkaSettings, bundle: Path, topic_prefix: str, tmp_path: Path
) -> None:
    demo = subprocess.Popen(
        [*DEMO, "--bundle", str(bundle), "--kafka", kafka.servers, "--prefix", topic_prefix],
        stderr=subprocess.PIPE, text=True, env=environment(tmp_path),
    )  # fmt: skip
    assert demo.stderr is not None
    said: list[str] = []
    for line in demo.stderr:
        # An interrupt within the writing of a line makes the console write that line again.
        if "workers are starting" in line and not any("workers are starting" in before for before in said):
            demo.send_signal(signal.SIGINT)
        said.append(line)
    assert demo.wait(60) == 130, "".join(said)
    demo.stderr.close()
    assert own_groups_and_topics(kafka, topic_prefix) == []
    assert list(tmp_path.glob("polytempo*")) == []


def test_a_bundle_that_is_not_there_is_a_plain_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--bundle", str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr

"""docker-compose.yml keeps its promises; Docker itself is not needed to see that."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.cli.main import build_app
from stream.kafka.jars import kafka_version
from stream.operations import probe

WORKERS = ("worker-1", "worker-2", "worker-3")
METRICS = ("prometheus", "grafana")
INSIDE = "kafka:19092"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    path = Path(__file__).resolve().parents[2] / "docker-compose.yml"
    return dict(yaml.safe_load(path.read_text())["services"])


def _command(service: dict[str, Any]) -> list[str]:
    """Its command, with variables at their defaults, as Compose fills them in."""
    return [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", part) for part in service["command"]]


def test_every_image_is_pinned_or_built_here_from_a_pinned_one(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if "build" in service:
            (base,) = re.findall(r"^FROM (\S+)", service["build"]["dockerfile_inline"], re.MULTILINE)
        else:
            base = service["image"]
        assert re.search(r":v?\d+\.\d+\.\d+", base), f"{name} uses {base}"


def test_it_is_the_kafka_that_the_embedded_broker_runs(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{kafka_version()}"


def test_the_topics_are_made_when_kafka_is_healthy_and_before_any_worker_starts(services: dict[str, Any]) -> None:
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    for worker in WORKERS:
        assert services[worker]["depends_on"]["topics"] == {"condition": "service_completed_successfully"}


def test_every_lasting_service_is_health_checked_and_restarted(services: dict[str, Any]) -> None:
    for name in ("kafka", *WORKERS, *METRICS):
        assert services[name]["healthcheck"]["test"][0] == "CMD", name
        assert services[name]["restart"] == "unless-stopped", name


@pytest.mark.parametrize("name", ["topics", *WORKERS])
def test_commands_are_ones_that_the_command_line_takes(services: dict[str, Any], name: str) -> None:
    """Parsed by the real application, so that a renamed option is found here."""
    command = _command(services[name])
    _, bound, unknown = build_app(command[0]).parse_args(command, exit_on_error=False)[:3]
    assert bound.arguments["connection"].kafka == INSIDE
    assert not unknown


def test_kafka_has_the_address_that_the_others_use(services: dict[str, Any]) -> None:
    assert f"INSIDE://{INSIDE}" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert all(services[name]["environment"]["POLYTEMPO_KAFKA"] == INSIDE for name in ("topics", *WORKERS))


def test_only_this_machine_reaches_the_unencrypted_port(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_the_plain_stack_is_kafka_its_topics_and_two_workers(services: dict[str, Any]) -> None:
    plain = {name for name, service in services.items() if "profiles" not in service}
    assert plain == {"kafka", "topics", "worker-1", "worker-2"}
    assert {each for name in METRICS for each in services[name]["profiles"]} == {"metrics"}


def test_health_checks_ask_a_worker_whether_it_is_ready_where_it_listens(services: dict[str, Any]) -> None:
    for name in WORKERS:
        command = _command(services[name])
        assert command[command.index("--http") + 1] == "0.0.0.0:9464"
        *_, module, url = services[name]["healthcheck"]["test"]
        assert (module, url) == ("stream.operations.probe", "http://127.0.0.1:9464/ready")
        assert callable(probe.main)

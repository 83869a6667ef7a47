"""Board, alarms and Prometheus agree with what workers really say, and with the runbook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from stream.batching import Standing
from stream.core.tally import Moved
from stream.operations.health import Phase
from stream.operations.listen import Listen
from stream.operations.probe import ask
from stream.operations.watchdog import KINDS
from stream.worker.observed import Observed, Observing
from stream.worker.processor import Counters
from stream.worker.vitals import Vitals

ROOT = Path(__file__).resolve().parents[2]
BOARDS = ROOT / "stream" / "operations" / "boards"
OF_PROMETHEUS = {"up"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    return dict(json.loads((BOARDS / "polytempo.json").read_text()))


@pytest.fixture(scope="module")
def alarms() -> list[dict[str, Any]]:
    groups = yaml.safe_load((BOARDS / "alarms.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Each sample's name on the page /metrics -> its labels, from the page itself."""
    counters = Counters(n_records=3)
    counters.count_dead_letter("malformed")
    observed = Observed(Observing(listen=Listen("127.0.0.1", 0)), counters)
    observed.health.enter(Phase.SERVING)
    observed.observe(
        Vitals(
            0.0, True, 0, 1, [Standing(0, 3, 5, 1, waiting=False)], 1, 1496, 0.1, 7, 8, 9, 0, 0, {"default": "shop@1"},
            {"default": Moved(1000, {"score": 0.1})},
        )
    )  # fmt: skip
    with observed:
        status, text = ask(f"{observed.url}/metrics")
    assert status == 200
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(board: dict[str, Any], alarms: list[dict[str, Any]]) -> list[str]:
    """All PromQL, with Grafana's variables filled in."""
    of_board = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    filled = [each.replace("$__rate_interval", "1m").replace("$worker", ".*") for each in of_board]
    return [*filled, *(alarm["expr"] for alarm in alarms)]


def selectors(tree: Any) -> Iterator[Any]:
    """The vector selectors of a parsed expression."""
    if isinstance(tree, promql_parser.VectorSelector):
        yield tree
    elif isinstance(tree, promql_parser.MatrixSelector):
        yield tree.vector_selector
    elif isinstance(tree, promql_parser.BinaryExpr):
        yield from selectors(tree.lhs)
        yield from selectors(tree.rhs)
    elif isinstance(tree, promql_parser.Call):
        for argument in tree.args:
            yield from selectors(argument)
    elif isinstance(tree, promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.SubqueryExpr):
        yield from selectors(tree.expr)
    else:
        assert isinstance(tree, promql_parser.NumberLiteral), tree


def test_every_metric_and_label_that_is_asked_for_is_on_the_page(
    board: dict[str, Any], alarms: list[dict[str, Any]], exposed: dict[str, set[str]]
) -> None:
    n_selectors = 0
    for expression in expressions(board, alarms):
        for selector in selectors(promql_parser.parse(expression)):
            n_selectors += 1
            if selector.name in OF_PROMETHEUS:
                continue
            assert selector.name in exposed, expression
            labels = {each.name for each in selector.matchers.matchers} - {"instance", "job"}
            assert labels <= exposed[selector.name], expression
    assert n_selectors > 50


def test_what_is_summed_by_a_label_has_it(
    board: dict[str, Any], alarms: list[dict[str, Any]], exposed: dict[str, set[str]]
) -> None:
    for expression in expressions(board, alarms):
        for by, metric in re.findall(r"by \(([^)]*)\) \((?:\w+\()?(polytempo_\w+)", expression):
            assert {each.strip() for each in by.split(",")} <= exposed[metric] | {"instance"}, expression


def test_every_metric_of_the_worker_is_on_the_board_or_in_an_alarm(
    board: dict[str, Any], alarms: list[dict[str, Any]], exposed: dict[str, set[str]]
) -> None:
    """What nobody looks at is not worth its price."""
    asked = {each.name for text in expressions(board, alarms) for each in selectors(promql_parser.parse(text))}
    series = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exposed if name.startswith("polytempo_")}
    unseen = series - {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert unseen <= {"polytempo_build_info", "polytempo_settled", "polytempo_view_corrupt_total"}


def test_names_follow_the_conventions(exposed: dict[str, set[str]]) -> None:
    for name in exposed:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert not re.search(r"_(ms|us|millis|kb|mb)(_|$)", name), f"{name}: base units only"


def test_alarms_are_named_once_and_say_what_is_wrong(alarms: list[dict[str, Any]]) -> None:
    names = [alarm["alert"] for alarm in alarms]
    assert len(set(names)) == len(names)
    for alarm in alarms:
        assert alarm["labels"]["severity"] in {"critical", "warning", "info"}
        assert alarm["annotations"]["summary"]
        assert re.fullmatch(r"\d+[smh]", alarm.get("for", "1m"))


def test_there_is_an_alarm_for_everything_that_the_watchdog_objects_to(alarms: list[dict[str, Any]]) -> None:
    asked = {kind for alarm in alarms for kind in re.findall(r'polytempo_objection\{kind="([\w-]+)"\}', alarm["expr"])}
    assert asked == set(KINDS)


def test_the_runbook_has_an_entry_for_every_alarm_and_for_no_other(alarms: list[dict[str, Any]]) -> None:
    text = (ROOT / "README.md").read_text()
    entries = re.findall(r"^\| `(Polytempo\w+)` \|", text, re.MULTILINE)
    assert entries == [alarm["alert"] for alarm in alarms], "in this order"


def test_panels_are_numbered_apart_and_do_not_overlap(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_board_uses_the_source_that_is_provisioned(board: dict[str, Any], compose: dict[str, Any]) -> None:
    (source,) = yaml.safe_load(compose["configs"]["grafana-datasources"]["content"])["datasources"]
    assert {panel["datasource"]["uid"] for panel in board["panels"] if "datasource" in panel} == {source["uid"]}
    (provider,) = yaml.safe_load(compose["configs"]["grafana-boards"]["content"])["providers"]
    mounted = [volume.split(":") for volume in compose["services"]["grafana"]["volumes"]]
    ((here, there),) = [(mount[0], mount[1]) for mount in mounted if mount[0].endswith(".json")]
    assert (ROOT / here).resolve() == BOARDS / "polytempo.json"
    assert there.startswith(provider["options"]["path"])
    assert there == compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]


def test_prometheus_reads_the_alarms_and_every_worker(compose: dict[str, Any]) -> None:
    config = yaml.safe_load(compose["configs"]["prometheus"]["content"])
    mounts = [volume.split(":")[:2] for volume in compose["services"]["prometheus"]["volumes"]]
    assert ["./stream/operations/boards/alarms.yml", *config["rule_files"]] in mounts
    (job,) = config["scrape_configs"]
    targets = {target.split(":")[0] for each in job["static_configs"] for target in each["targets"]}
    targets |= {name for each in job["dns_sd_configs"] for name in each["names"]}
    assert job["job_name"] == "polytempo"
    assert targets == {name for name in compose["services"] if name.startswith("worker-")}


def test_every_config_that_a_service_wants_is_there(compose: dict[str, Any]) -> None:
    wanted = {each["source"] for service in compose["services"].values() for each in service.get("configs", ())}
    assert wanted == set(compose["configs"])

"""`polytempo bench`: the benchmarks' own code, run small. Figures are not judged here, only that they are there."""

import json
from pathlib import Path

import pytest

from stream.cli import bench as command
from stream.cli.main import main
from stream.demo.shop import ShopConfig, simulate
from stream.kafka.settings import KafkaSettings
from tests.bench.backtest import STAGES as BACKTEST_STAGES
from tests.bench.path import STAGES
from tests.bench.path_events import load_events, with_ids
from tests.bench.recovery import RecoveryBench, RecoveryConfig
from tests.bundle.models import write_ranker


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained two-stage ranker."""
    path = tmp_path_factory.mktemp("bundle") / "ranker"
    write_ranker(path)
    return path


def test_path_tells_events_per_second_the_ratio_and_every_stage(
    kafka: KafkaSettings, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--events", "600", "--plain-events", "100", "--users", "50", "--items", "60"]
    assert main(["bench", "path", *options, "--bundle", str(bundle), "--kafka", kafka.servers, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"events_per_s", "plain_faust_events_per_s", "ratio", "us_per_event"} <= figures.keys()
    stages = figures["us_per_event"]
    assert {"decode", "load", "fold", "featurize", "score", "rank", "encode", "produce", "consume"} <= stages.keys()
    assert stages.keys() <= set(STAGES)
    assert all(us >= 0 for us in stages.values())
    assert sum(stages.values()) == pytest.approx(figures["cpu_us_per_event"], abs=1)
    assert (figures["events"], figures["plain_faust_events"]) == (600, 100)


def test_latency_tells_percentiles_with_and_without_a_worker(
    kafka: KafkaSettings, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rate", "100", "--seconds", "2", "--idle", "0", "--users", "50", "--items", "60"]
    assert main(["bench", "latency", *options, "--bundle", str(bundle), "--kafka", kafka.servers, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for each in (figures, figures["floor"]):
        assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["p999_ms"]
        assert each["events"] == 200
        assert len(each["seconds"]) == 2


def test_recovery_reads_every_user_once_and_nothing_from_its_own_files(
    kafka: KafkaSettings, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rocksdict")
    options = ["--users", "2000", "--activity", "20", "--no-take-over"]
    assert main(["bench", "recovery", *options, "--bundle", str(bundle), "--kafka", kafka.servers, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    read = {name: each["read"] for name, each in figures["starts"].items()}
    assert read == {"changelog to memory": 2000, "changelog to rocksdb": 2000, "rocksdb, own files": 0}
    assert figures["bytes"] == 2000 * figures["state_bytes"]
    assert figures["users_per_s"] == figures["starts"]["changelog to memory"]["users_per_s"] > 0
    assert figures["views"]["messages"] > 0


async def test_without_standbys_a_survivor_reads_the_users_of_the_dead(
    kafka: KafkaSettings, bundle: Path, tmp_path: Path
) -> None:
    """The part of the benchmark that kills a worker; with standbys it runs behind the command."""
    config = RecoveryConfig(n_users=400, n_activity=0)
    bench = RecoveryBench(config, kafka, bundle, tmp_path, "test-take-over-", lambda _: None)
    await bench.fill()
    took = await bench.take_over(standbys=0)
    assert took["answered_s"] > 0


def test_the_events_of_a_shop_are_as_many_as_asked_for_and_the_same_every_time() -> None:
    pairs = load_events(500, n_users=40, n_items=60)
    assert len(pairs) == 500
    assert pairs == load_events(500, n_users=40, n_items=60)
    stamps = [json.loads(value)["ts_ms"] for _, value in pairs]
    assert stamps == sorted(stamps)


def test_numbered_events_differ_in_their_ids_only() -> None:
    pairs = load_events(500, n_users=40, n_items=60)[:20]
    numbered = with_ids(pairs, first=7)
    assert [json.loads(value)["event_id"] for _, value in numbered] == [str(n) for n in range(7, 27)]
    for (key, value), (same_key, changed) in zip(pairs, numbered, strict=True):
        assert key == same_key
        assert json.loads(value) | {"event_id": ""} == json.loads(changed) | {"event_id": ""}


def test_outside_of_a_checkout_the_command_says_where_benchmarks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_CHECKOUT", tmp_path)
    assert main(["bench", "path"]) == 2
    assert "Clone the repository" in capsys.readouterr().err


def test_a_benchmark_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "path", "--events", "0"]) == 2
    assert "--events 0 measures nothing" in capsys.readouterr().err


def test_backtest_tells_events_per_second_with_and_without_the_model_and_every_stage(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--events", "400", "--before", "600", "--users", "400", "--items", "60"]
    assert main(["bench", "backtest", *options, "--bundle", str(bundle), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert 0 < figures["before"] <= 600
    assert list(figures["runs"]) == ["ranker", "candidates", "baselines", "learning"]
    for each in figures["runs"].values():
        assert each["events_per_s"] > 0
        assert list(each["us_per_event"]) == list(BACKTEST_STAGES)
        assert sum(each["us_per_event"].values()) == pytest.approx(each["all_us_per_event"], abs=0.1)
    assert figures["us_per_event"]["model"] > 0 == figures["runs"]["baselines"]["us_per_event"]["model"]


def test_a_backtest_is_measured_on_a_range_of_a_log(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.parquet"
    events = simulate(ShopConfig(n_users=50, n_items=60, n_categories=5, days=1.0, events_per_day=1500), 0).events
    events.write_parquet(log)
    since_ms = events["ts_ms"][900]
    options = ["--log", str(log), "--since", str(since_ms), "--events", "200", "--bundle", str(bundle), "--json"]
    assert main(["bench", "backtest", *options]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["before"] == int((events["ts_ms"] < since_ms).sum())
    assert 0 < figures["events"] <= 200


def test_a_bundle_without_candidates_has_no_ranker_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    recurrent = Path(__file__).parents[2] / "models" / "shop-recurrent"
    assert main(["bench", "backtest", "--bundle", str(recurrent)]) == 2
    assert "Name a two-stage bundle" in capsys.readouterr().err


def test_growth_has_a_row_for_each_size_and_draws_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """History of 10 events, 1,000 users and items, all scales, all partitions."""
    sections = ["history", "users", "items", "scales", "partitions", "vocabulary"]
    options = [*sections, "--events", "10", "--users", "1000", "--items", "1000", "--batches", "2"]
    plot = tmp_path / "growth.svg"
    assert main(["bench", "growth", *options, "--plot", str(plot), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {name: [row["n"] for row in rows] for name, rows in figures.items()} == {
        "history": [10],
        "users": [1000],
        "items": [1000],
        "scales": [3, 4, 5, 6, 7, 8],
        "partitions": [1, 2, 4, 8, 16],
        "vocabulary": [1000],
    }
    assert all(value > 0 for rows in figures.values() for row in rows for value in row.values())
    assert plot.read_text().count("<polyline") == sum(len(rows[0]) - 1 for rows in figures.values())


def test_growth_with_workers_has_them_all_at_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "growth", "workers", "--worker-events", "400", "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)["workers"]
    assert (one["n"], one["working"]) == (1, 1)
    assert (two["n"], two["working"]) == (2, 2)
    assert min(one["events_per_s"], two["us_per_event"]) > 0


def test_growth_with_something_unknown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """It says what there is."""
    assert main(["bench", "growth", "planets"]) != 0
    assert "Sections are history" in capsys.readouterr().err

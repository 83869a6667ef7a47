"""`polytempo compare` from a file to its table: every row, kept rows, paired differences, ablations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace as changed

from stream.cli.main import main
from tests.training.compare.ratings import sequences, write_log
from training.compare.contenders import Contender, Options, ablations
from training.compare.fused import FUSION
from training.compare.models import score_in_steps, score_with, train_model
from training.compare.report import markdown, summarise
from training.compare.rows import Result, Row
from training.compare.run import compare
from training.compare.task import look, split
from training.config import LstmTraining, MovingAverageTraining, TempoTraining, TransformerTraining

SMALL = """
[moving_average]
d = 8
epochs = 1
[lstm_seq2seq]
d = 8
epochs = 1
[transformer]
d = 8
epochs = 1
[tempo]
d = 8
epochs = 1
[fusion]
d = 8
epochs = 1
ranker = { epochs = 1 }
"""
TEMPO = TempoTraining(d=8, epochs=2, length=8)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "ratings.parquet")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_every_model_has_its_row_and_finished_ones_are_not_made_again(
    log: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked = ["compare", "--data", str(log), "--config", str(config), "--out", str(out), "--processes", "1"]
    asked += ["--not-served", "--json"]
    assert main(asked) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    baselines = ["popularity", "popularity_1h", "co_visitation", "last_repeat"]
    models = [*baselines, "moving_average", "lstm_seq2seq", "transformer", "tempo", "fusion"]
    assert [(row["protocol"], row["model"]) for row in rows] == [
        (protocol, model) for protocol in ("loo", "time") for model in models
    ]
    for row in rows:
        assert {"hr_at_10", "ndcg_at_10", "us_per_event", "state_bytes", "train_s", "coverage", "novelty"} <= set(row)
        assert 0 <= row["ndcg_at_10"] <= row["hr_at_10"] <= 1
        assert row["ndcg_interval"][0] <= row["ndcg_at_10"] <= row["ndcg_interval"][1]
    assert rows[-1]["state_bytes"] > 0
    assert json.loads((out / "table.json").read_text()) == rows
    assert "leave-one-out" in (out / "table.md").read_text()
    assert "global time" in (out / "table.md").read_text()
    assert "<svg" in (out / "comparison.html").read_text()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("this row was finished")

    monkeypatch.setattr("training.compare.jobs.train_model", never)
    monkeypatch.setattr("training.compare.jobs.fuse", never)
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == rows


def test_models_and_the_fusion_are_timed_as_they_are_served() -> None:
    fusion = changed(FUSION, d=8, epochs=1, ranker=changed(FUSION.ranker, epochs=1))
    rows = results([Contender("popularity"), Contender("tempo", TEMPO), Contender("fusion", fusion)], Options(("loo",)))
    assert rows[0].row.us_per_event is None
    assert all((result.row.us_per_event or 0) > 0 for result in rows[1:])


def results(wanted: list[Contender], options: Options, folder: Path | None = None, processes: int = 1) -> list[Result]:
    *_, last = compare(sequences(), wanted, options, folder=folder, processes=processes)
    return last


def test_other_settings_are_another_row(tmp_path: Path) -> None:
    options = Options(protocols=("loo",), served=False)
    settings = MovingAverageTraining(d=8, epochs=1, length=8)
    other = changed(settings, epochs=2)
    (first,) = results([Contender("it", settings)], options, tmp_path)
    (again,) = results([Contender("it", settings)], options, tmp_path)
    (another,) = results([Contender("it", other)], options, tmp_path)
    assert [each.kept for each in (first, again, another)] == [False, True, False]
    assert again.row == first.row
    assert (again.place == first.place).all()


def test_processes_side_by_side_make_the_same_table(tmp_path: Path) -> None:
    wanted = [Contender("popularity"), Contender("tempo", TEMPO), Contender("co_visitation")]
    options = Options(protocols=("loo",), served=False)
    alone, together = results(wanted, options), results(wanted, options, tmp_path, processes=2)
    assert [each.row.model for each in together] == ["popularity", "tempo", "co_visitation"]
    for one, other in zip(alone, together, strict=True):
        assert one.row.ndcg_at_10 == other.row.ndcg_at_10
        assert (one.place == other.place).all()
    assert all(each.kept for each in results(wanted, options, tmp_path))


@pytest.mark.parametrize("settings", [TEMPO, LstmTraining(d=8, epochs=2, length=8)])
def test_event_by_event_a_model_finds_what_it_finds_all_at_once(settings: TempoTraining | LstmTraining) -> None:
    task = split(sequences(), "loo")
    model, _ = train_model(settings, task.train, seed=0)
    at_once = look(task, score_with(model, task.whole), max_length=8)
    by_event = look(task, score_in_steps(model, task.whole, half=False), max_length=8)
    half = look(task, score_in_steps(model, task.whole, half=True), max_length=8)
    assert (by_event.place == at_once.place).all()
    assert np.abs(half.place - at_once.place).max() <= 2, "half precision moves scores in the third digit"


def test_ablations_share_the_weights_that_are_the_same() -> None:
    small = {
        "tempo": TEMPO,
        "transformer": TransformerTraining(d=8, epochs=1, length=8),
        "fusion": changed(FUSION, d=8, epochs=1, ranker=changed(FUSION.ranker, epochs=1)),
    }
    rows = results(ablations(small), Options(protocols=("loo",), served=False))
    of = {result.row.model: result for result in rows}
    assert list(of) == [
        "tempo",
        "tempo, event by event",
        "tempo, event by event, state in fp16",
        "tempo, one scale",
        "tempo, one read-out for all scales",
        "tempo, time by position",
        "tempo, loss over seen items too",
        "fusion",
        "fusion, without live item statistics",
        "fusion, without the sequence model's score",
        "transformer",
        "transformer, 256 sampled negatives",
    ]
    assert rows[0].row.train_s == rows[1].row.train_s == rows[2].row.train_s
    assert (rows[0].place == rows[1].place).all()
    assert [each.row.state_bytes for each in rows[1:3]] == [2 * rows[0].row.state_bytes, rows[0].row.state_bytes]
    assert of["fusion"].row.train_s == of["fusion, without live item statistics"].row.train_s


def result(model: str, place: list[int], seed: int = 0) -> Result:
    return Result(Row(model, "loo", seed, 0.0, 0.5, 0.0, 0.1, 2.0), np.array(place), np.arange(len(place)))


def test_differences_are_paired_with_the_best_baseline_and_with_tempo() -> None:
    n = 200
    entries = summarise(
        [
            result("popularity", [0] * n),
            result("co_visitation", [0, 1] * (n // 2)),
            result("tempo", [1, 1] * (n // 2), seed=0),
            result("tempo", [0, 1] * (n // 2), seed=1),
        ]
    )
    by_name = {entry.model: entry for entry in entries}
    assert by_name["co_visitation"].against_baseline is None
    assert by_name["tempo"].against_tempo is None
    over = by_name["tempo"].against_baseline
    assert over is not None
    assert over.mean == pytest.approx(0.25), "half of the targets, one seed of two"
    assert over.p < 0.01
    assert by_name["tempo"].seeds == (0, 1)
    under = by_name["popularity"].against_tempo
    assert under is not None
    assert under.high < 0
    assert "| co visitation | 0.500 |" in markdown(entries)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[gru]\nd = 3", "settings of 'gru'"),
        ("[tempo]\nwidth = 3", "unknown field `width`"),
        ("tempo = 3", "tempo is no table"),
        ("[tempo", "small.toml"),
    ],
)
def test_a_mistake_in_the_settings_is_an_error_of_one_line(
    log: Path, config: Path, capsys: pytest.CaptureFixture[str], content: str, complaint: str
) -> None:
    config.write_text(content)
    assert main(["compare", "--data", str(log), "--config", str(config)]) == 2
    assert complaint in capsys.readouterr().err

"""Sequence models of logs that do not fit into memory: the same is learnt and chosen by, and memory does not grow."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from stream.bundle.load import load_bundle
from stream.cli.main import main
from stream.core.scales import HOUR_MS, MINUTE_MS
from stream.errors import PolytempoError
from tests.training.small_shop import shop
from tests.training.test_sequence_shards import part
from training.compare.task import Task
from training.config import Config, Data, Features, Output, RankerTraining, TempoTraining, Window
from training.drift import reference_by_replay
from training.evaluate import BASELINES
from training.judging import evaluate_bundle
from training.lessons import InMemory, InShards, targets_from
from training.material import prepare
from training.sequence_learning import learn
from training.sequence_shards import cut_shards
from training.sequences import cut_sequences, frequent_items
from training.train import train
from training.train_streamed import streamed

SMALL = TempoTraining(d=8, n_scales=2, epochs=2, batch=16, length=40, n_best=20, learning_rate=1e-2)
TOML = """
[bundle]
path = "unused"
name = "streamed"
[data]
file = "unused.parquet"
[window]
train_share = 0.7
[model]
kind = "tempo"
d = 16
n_scales = 2
epochs = 3
batch = 8
length = 40
n_best = 60
learning_rate = 0.01
shard_events = 400
"""


def settings(file: Path, bundle: Path, model: TempoTraining = SMALL) -> Config:
    return Config(
        bundle=Output(str(bundle), "streamed"),
        data=Data(file=str(file)),
        model=model,
        window=Window(train_share=0.7),
        features=Features(popularity=("all:1h",), co_visitation=("any:1d",), slots=4, lists={"all:1h": 10}),
    )


def shop_file(folder: Path) -> Path:
    file = folder / "shop.parquet"
    shop().events.write_parquet(file)
    return file


def itself(task: Task) -> NDArray[np.int64]:
    """A place for every target that says which it is."""
    return task.whole.item[task.rows] + 1000 * (task.rows - task.whole.start[task.users()])


def test_shards_teach_and_choose_by_what_the_whole_log_does(tmp_path: Path) -> None:
    """
    in memory    u0 u1 u2 u3 …  | cut | targets
    shards       u1 u3 | u0 u2 …      the same moment, so the same events on either side
    """
    frame = pl.concat([part(number, 300) for number in range(6)])
    shards = cut_shards(lambda: iter([frame]), tmp_path, n_events=300)
    whole = InMemory(cut_sequences(frame, frequent_items(frame)), 0.2)
    begin_ms, end_ms = int(frame["ts_ms"].min()), int(frame["ts_ms"].max()) + 1  # type: ignore[arg-type]  # not empty
    lesson = InShards.of(shards, begin_ms, end_ms, 0.2)
    assert len(shards.n_events) == 6
    assert abs(lesson.n_taught - whole.n_taught) <= 0.01 * len(frame)
    assert abs(lesson.n_chosen - whole.n_chosen) <= 0.01 * len(frame)
    task = targets_from(cut_sequences(frame, frequent_items(frame)), lesson.cut_ms, end_ms)
    found = lesson.places(itself, lesson.cut_ms, end_ms)
    assert sorted(found.tolist()) == sorted(itself(task).tolist())
    assert len(found) == lesson.n_chosen


def test_the_command_cuts_a_file_and_writes_a_bundle_that_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "tempo.toml", tmp_path / "bundle"
    config.write_text(TOML)
    words = ["train", str(config), "--data", str(shop_file(tmp_path)), "--out", str(out), "--json"]
    assert main([*words, "--shards", str(tmp_path / "shards")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(list((tmp_path / "shards").glob("shard-*.npy"))) > 3
    bundle = load_bundle(out)
    assert bundle.manifest.n_state > 0
    assert said["metrics"]["hr@10"] > 0.1, "by chance one in 15 would be among the first ten"
    assert 0 < said["metrics"]["choose/ndcg@10"] < 1
    known = shop().events["ts_ms"]
    assert known.min() == bundle.manifest.training.from_ms < bundle.manifest.training.to_ms < known.max()  # type: ignore[operator]


def test_a_file_longer_than_the_bound_is_cut_unasked_and_nothing_stays_of_it(tmp_path: Path) -> None:
    model = changed(SMALL, shard_above=100, shard_events=500)
    done = train(settings(shop_file(tmp_path), tmp_path / "bundle", model), command="train")
    assert done.manifest.metrics["n_rows"] > 100
    assert {path.name for path in tmp_path.iterdir()} == {"shop.parquet", "bundle", "bundle.weights.pt"}


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_what_was_trained_from_shards_is_judged_as_what_was_trained_in_memory(share: float, tmp_path: Path) -> None:
    """The same bundle, the log once in files and once in memory: every figure, the baselines' too, is the same."""
    config = settings(shop_file(tmp_path), tmp_path / "bundle", changed(SMALL, shard_above=100, shard_events=400))
    config = changed(config, window=Window(train_share=0.7, validate_sample=share), period="10m")
    done = train(config, command="train")
    bundle, material = load_bundle(tmp_path / "bundle"), prepare(config)
    known = evaluate_bundle(bundle, material, period_ms=10 * MINUTE_MS).metrics()
    assert {f"{name}/ndcg@10" for name in BASELINES} < set(known)
    assert {name: done.manifest.metrics[name] for name in known} == {
        name: round(value, 5) for name, value in known.items()
    }
    assert done.evaluation.cost is not None
    assert changed(bundle.manifest.training, command="") == material.window("")
    rows = material.log.between(material.from_ms, material.split_ms)
    assert bundle.distributions == reference_by_replay(
        bundle, material.log, material.items, rows, period_ms=10 * MINUTE_MS, seed=config.seed
    )


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """What Python and NumPy hold at most, from the file to the figures: for 2,000 and for 12,000 events."""
    model = changed(SMALL, d=4, epochs=1, batch=256, shard_events=500)

    def written(n_parts: int) -> Config:
        file = tmp_path / f"{n_parts}.parquet"
        pl.concat([part(number, 500) for number in range(n_parts)]).write_parquet(file)
        return changed(settings(file, tmp_path / "bundle", model), window=Window(train_share=0.85), period="1h")

    train(written(4), command="learn", shards=tmp_path / "shards")
    bundle = load_bundle(tmp_path / "bundle")

    def peak(n_parts: int) -> int:
        config = written(n_parts)
        tracemalloc.start()
        with streamed(config, model, tmp_path / "shards") as found:
            assert found.material is not None
            learn(config, model, found.lesson, found.spec, window=found.window)
            evaluation = evaluate_bundle(bundle, found.material, period_ms=HOUR_MS)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(evaluation.place["model"]) > 0.02 * n_parts * 500
        return held

    assert peak(24) < 1.5 * peak(4)


def test_what_cannot_be_cut_is_said(tmp_path: Path) -> None:
    config = settings(shop_file(tmp_path), tmp_path / "bundle")
    with pytest.raises(PolytempoError, match="cut from a file"):
        train(config, command="train", tables=(shop().events, None), shards=tmp_path / "shards")
    with pytest.raises(PolytempoError, match="for sequence models only"):
        train(changed(config, model=RankerTraining()), command="train", shards=tmp_path / "shards")

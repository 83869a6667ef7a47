"""Sequence models from a log: early stopping on a later slice, a bundle that serves, checkpoints that are exported."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stream.bundle.load import load_bundle
from stream.bundle.manifest import Policy as BundlePolicy
from stream.bundle.manifest import TrainingWindow
from stream.cli.main import main
from stream.errors import PolytempoError
from tests.training.small_shop import shop
from training.config import (
    Config,
    Data,
    Features,
    LstmTraining,
    MovingAverageTraining,
    Output,
    SequenceTraining,
    TempoTraining,
    TransformerTraining,
    Window,
)
from training.fusion import sequences_of
from training.job import Trained
from training.lessons import InMemory
from training.material import prepare
from training.sequence_learning import learn
from training.sequence_models import KINDS, inputs_of
from training.train import train

SMALL: dict[str, Any] = {"d": 16, "epochs": 3, "batch": 8, "length": 40, "n_best": 60, "learning_rate": 1e-2}


def config(path: Path, model: SequenceTraining) -> Config:
    return Config(
        bundle=Output(str(path), "small"),
        data=Data(file="shop.parquet"),
        model=model,
        window=Window(train_share=0.7),
        features=Features(
            popularity=("all:1h", "all:1d"), co_visitation=("any:7d",), slots=16, ring=40, lists={"all:1h": 30}
        ),
        policy=BundlePolicy(n=10, seen="session"),
        period="10m",
    )


def run(path: Path, model: SequenceTraining) -> Trained:
    return train(config(path, model), command="train it", tables=(shop().events, shop().items))


@pytest.mark.parametrize(
    "model",
    [MovingAverageTraining(**SMALL), LstmTraining(**SMALL), TransformerTraining(**SMALL), TempoTraining(**SMALL)],
    ids=list(KINDS),
)
def test_a_log_becomes_a_bundle_that_recommends_better_than_chance(model: SequenceTraining, tmp_path: Path) -> None:
    done = run(tmp_path / "bundle", model)
    bundle = load_bundle(tmp_path / "bundle")
    assert tuple(sorted(bundle.manifest.inputs)) == tuple(sorted(inputs_of(model)))
    assert (bundle.manifest.n_state > 0) == isinstance(model, LstmTraining | TempoTraining)
    assert bool(bundle.parts) == isinstance(model, TempoTraining)
    assert set(bundle.distributions) == {"score"}
    metrics = done.manifest.metrics
    # By chance one target in 15 would be among the first ten.
    assert metrics["hr@10"] > 0.1
    assert 1 <= metrics["best_epoch"] <= metrics["epochs"] <= 3
    assert 0 < metrics["choose/ndcg@10"] < 1
    assert bundle.manifest.training.command == "train it"


def test_histories_are_those_of_the_training_window_and_no_others() -> None:
    material = prepare(config(Path("unused"), TempoTraining()), (shop().events, shop().items))
    window = material.log.between(material.from_ms, material.split_ms)
    found = sequences_of(material.log, material.spec, window, 50)
    assert found.ts_ms.max() < material.split_ms
    assert len(found.vocabulary) == 50
    for user in range(0, len(found.user_ids), 7):
        own = slice(found.start[user], found.start[user + 1])
        rows = np.flatnonzero(
            (material.log.user == user) & material.log.happened() & (material.log.ts_ms < material.split_ms)
        )
        assert (found.ts_ms[own] == material.log.ts_ms[rows]).all()
        names = [material.log.item_ids[item] for item in material.log.item[rows]]
        expected = [found.vocabulary.index(name) + 1 if name in found.vocabulary else 0 for name in names]
        assert found.item[own].tolist() == expected


def test_training_ends_when_the_later_slice_gets_no_better(tmp_path: Path) -> None:
    model = TempoTraining(**{**SMALL, "epochs": 30, "patience": 1, "learning_rate": 0.05})
    metrics = run(tmp_path / "bundle", model).manifest.metrics
    assert metrics["epochs"] == metrics["best_epoch"] + 1 < 30


class KilledError(Exception):
    """Stands for a kill."""


def in_the_second_epoch(done: int, n_steps: int, _: str) -> None:
    if done == n_steps // SMALL["epochs"] + 1:
        raise KilledError


def test_a_killed_run_goes_on_to_the_same_weights_and_its_checkpoint_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, checkpoint = config(tmp_path, TempoTraining(**SMALL)), tmp_path / "run.pt"
    material = prepare(settings, (shop().events, shop().items))
    rows = material.log.between(material.from_ms, material.split_ms)
    sequences = sequences_of(material.log, material.spec, rows, 500)
    window = TrainingWindow(material.from_ms, material.split_ms, len(sequences), "shop.parquet", "train it")
    model = TempoTraining(**SMALL)
    go = partial(learn, settings, model, InMemory(sequences, model.hold_back), material.spec, window=window)
    whole = go()
    with pytest.raises(KilledError):
        go(checkpoint=checkpoint, on_step=in_the_second_epoch)

    assert main(["export", str(checkpoint), "--out", str(tmp_path / "early"), "--json"]) == 0
    early = json.loads(capsys.readouterr().out)
    assert early["metrics"]["epochs"] == early["metrics"]["best_epoch"] == 1
    assert early["metrics"]["choose/ndcg@10"] == pytest.approx(whole.fitted.figures[0], abs=1e-5)
    bundle = load_bundle(tmp_path / "early")
    assert bundle.vocabulary == sequences.vocabulary
    assert bundle.manifest.training == window
    assert len(bundle.parts) == 4

    resumed = go(checkpoint=checkpoint)
    assert resumed.metrics() == whole.metrics()
    for name, weights in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], weights), name


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pt").write_text("weights")
    torch.save({"model": {}}, tmp_path / "other.pt")
    for name, complaint in (("text.pt", "no checkpoint"), ("other.pt", "no checkpoint"), ("none.pt", "cannot be read")):
        assert main(["export", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        assert complaint in capsys.readouterr().err


def test_too_short_a_log_is_refused(tmp_path: Path) -> None:
    lonely = shop().events.unique("user_id", keep="first", maintain_order=True)
    with pytest.raises(PolytempoError, match=r"targets to train on|to choose by"):
        train(config(tmp_path, TempoTraining(**SMALL)), command="", tables=(lonely, None))

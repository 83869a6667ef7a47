"""TensorBoard's own reader finds what a training wrote down."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stream.cli.main import main
from tests.training.tiny_shop import TINY_SHOP
from training.journal import tensorboard

CONFIG = f"""
period = "1h"
{TINY_SHOP}[model]
kind = "moving_average"
d = 8
n_best = 20
epochs = 2
batch = 8
"""


def test_a_training_leaves_curves_and_its_settings(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(CONFIG)
    words = ["train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "tiny")]
    assert main([*words, "--tensorboard", str(tmp_path / "curves")]) == 0
    found = EventAccumulator(str(tmp_path / "curves"))
    found.Reload()
    curves = {name: found.Scalars(name) for name in found.Tags()["scalars"]}
    steps = [each.step for each in curves["train/loss"]]
    assert steps == list(range(1, len(steps) + 1))
    norms = [each.value for each in curves["train/gradient_norm"]]
    assert min(norms) >= 0 < max(norms)  # a batch of single events has nothing to predict
    rates = [each.value for each in curves["train/rate"]]
    assert max(rates) == pytest.approx(3e-3, rel=0.1)  # one cycle: up to the peak, and down
    assert rates[0] < max(rates) > rates[-1]
    assert len(curves["epoch/loss"]) == len(curves["epoch/choose_ndcg@10"]) == 2
    first = [each.value for each in curves["train/loss"]][: len(steps) // 2]
    assert curves["epoch/loss"][0].value == pytest.approx(math.fsum(first) / len(first), rel=1e-5)
    assert 0 < curves["validation/hr@10"][0].value <= 1
    assert curves["hparam/hr@10"][0].value == curves["validation/hr@10"][0].value


def test_without_a_folder_nothing_is_written() -> None:
    with tensorboard(None) as journal:
        assert journal is None

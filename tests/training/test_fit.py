"""The training loop: it learns, stops early, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.sequence_nets import N_ITEMS, made_up
from training.fit import Checkpoint, FitConfig, Fitted, fit
from training.losses import full_cross_entropy
from training.nets.tempo import Tempo, TempoConfig
from training.sequences import UserSequences, batches

CONFIG = FitConfig(n_epochs=3, learning_rate=1e-2, seed=5)


class KilledError(Exception):
    """As if somebody had pulled the plug."""


def walks() -> UserSequences:
    """Users who walk through the items in order, each from an item of their own."""
    log = made_up(24, 12, unknown=0.0)
    item = (np.repeat(np.arange(24), 12) + np.tile(np.arange(12), 24)) % N_ITEMS + 1
    return replace(log, item=item.astype(np.int64), positive=np.ones(len(log), bool))


def train(config: FitConfig, **options: Any) -> tuple[Tempo, Fitted]:
    torch.manual_seed(config.seed)
    model = Tempo(TempoConfig(N_ITEMS, d=8, n_layers=1, n_scales=2))
    order = partial(batches, walks(), n_batch=4, max_length=12, seed=config.seed)
    fitted = fit(
        model, lambda epoch: order(epoch=epoch), lambda batch: model.loss(batch, full_cross_entropy), config, **options
    )
    return model, fitted


def same(first: Tempo, second: Tempo) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def kill_at(step: int) -> Callable[[int], None]:
    def on_step(n_steps: int) -> None:
        if n_steps == step:
            raise KilledError

    return on_step


def test_it_learns_what_follows_what() -> None:
    _, fitted = train(replace(CONFIG, n_epochs=25, learning_rate=3e-2))
    assert fitted.losses[0] > 3.0
    assert fitted.losses[-1] < 1.5
    assert fitted.n_steps == 25 * 6


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    assert same(train(CONFIG)[0], train(CONFIG)[0])
    assert not same(train(CONFIG)[0], train(replace(CONFIG, seed=6))[0])


@pytest.mark.parametrize("step", [1, 4, 6, 9, 17])
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(step: int, tmp_path: Path) -> None:
    """Killed inside an epoch and at its end, before the first checkpoint and after it; every third step is kept."""
    whole, expected = train(CONFIG)
    checkpoint = Checkpoint(tmp_path / "run.pt", every=3)
    with pytest.raises(KilledError):
        train(CONFIG, checkpoint=checkpoint, on_step=kill_at(step))
    assert checkpoint.path.exists() == (step > 3)
    resumed, fitted = train(CONFIG, checkpoint=checkpoint)
    assert same(whole, resumed)
    assert fitted == expected


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.pt")
    whole, expected = train(CONFIG, checkpoint=checkpoint)
    again, fitted = train(CONFIG, checkpoint=checkpoint, on_step=kill_at(1))
    assert same(whole, again)
    assert fitted == expected


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.pt")
    train(CONFIG, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="another run"):
        train(replace(CONFIG, learning_rate=1e-3), checkpoint=checkpoint)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    torch.save({"config": print}, path)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        train(CONFIG, checkpoint=Checkpoint(path))


def test_the_weights_of_the_best_epoch_are_kept_and_patience_ends_the_run() -> None:
    figures = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    seen: list[Tempo] = []

    def evaluate() -> float:
        return next(figures)

    model, fitted = train(replace(CONFIG, n_epochs=9, patience=2), evaluate=evaluate)
    assert fitted.figures == [0.1, 0.3, 0.2, 0.3]  # equal is no better
    assert fitted.best_epoch == 2
    seen.append(model)
    figures = iter([0.1, 0.3] + [0.0] * 7)
    second, fitted = train(replace(CONFIG, n_epochs=9, patience=None), evaluate=evaluate)
    assert len(fitted.figures) == 9
    assert same(model, second)


def test_a_run_is_resumed_with_its_best_weights(tmp_path: Path) -> None:
    def figures() -> Callable[[], float]:
        given = iter([0.9, 0.1, 0.2])
        return lambda: next(given)

    whole, _ = train(CONFIG, evaluate=figures())
    checkpoint = Checkpoint(tmp_path / "run.pt", every=100)
    with pytest.raises(KilledError):
        train(CONFIG, checkpoint=checkpoint, evaluate=figures(), on_step=kill_at(8))
    later = iter([0.1, 0.2])
    resumed, fitted = train(CONFIG, checkpoint=checkpoint, evaluate=lambda: next(later))
    assert fitted.best_epoch == 1
    assert same(whole, resumed)


def test_a_loss_that_is_not_finite_ends_the_run_with_advice() -> None:
    model = Tempo(TempoConfig(N_ITEMS, d=8, n_layers=1, n_scales=2))

    def broken(_: object) -> Tensor:
        return model.bias.sum() * float("nan")

    with pytest.raises(ValueError, match="lower learning rate"):
        fit(model, lambda epoch: batches(walks(), n_batch=4, max_length=12, seed=0, epoch=epoch), broken, CONFIG)


def test_nothing_to_learn_from_is_said() -> None:
    model = Tempo(TempoConfig(N_ITEMS, d=8, n_layers=1, n_scales=2))
    with pytest.raises(ValueError, match="nothing to learn"):
        fit(model, lambda _: iter(()), lambda _: model.bias.sum(), CONFIG)


def test_the_bar_shows_loss_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(CONFIG, n_epochs=1), show=True)
    assert "loss" in capsys.readouterr().out

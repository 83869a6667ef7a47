"""The recurrent model: its two forms agree, time does what it should, and it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.nets.recurrent import Recurrent, RecurrentConfig, Sequences, train_recurrent


def made_up(n_users: int = 60, n_events: int = 30, n_items: int = 12, seed: int = 0) -> Sequences:
    """Users who walk through the items in order, 1, 2, 3 …, each from an item of their own."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, n_items, n_users)
    item = (start[:, None] + np.arange(n_events)) % n_items + 1
    return Sequences(
        user=np.repeat(np.arange(n_users), n_events),
        item=item.ravel().astype(np.int64),
        kind=np.zeros(n_users * n_events, np.int64),
        ts_ms=np.cumsum(rng.integers(1, 10**7, (n_users, n_events)), axis=1).ravel(),
        value=np.full(n_users * n_events, np.nan, np.float32),
    )


def test_step_and_sequence_form_agree() -> None:
    torch.manual_seed(0)
    model = Recurrent(RecurrentConfig(40, n_state=32)).eval()
    item, kind = torch.randint(0, 41, (5, 60)), torch.randint(0, 8, (5, 60))
    gap_s = torch.rand(5, 60) ** 8 * 1e7
    value = torch.where(torch.rand(5, 60) < 0.5, torch.nan, torch.randn(5, 60) * 100)
    state = torch.zeros(5, 32)
    with torch.no_grad():
        states = model.sequence(item, kind, gap_s, value, state)
        for at in range(60):
            items, scores, state = model(item[:, at], kind[:, at], gap_s[:, at], value[:, at], state)
            assert (state - states[:, at]).abs().max() < 1e-5
            best = model.logits(states[:, at])
            assert torch.allclose(best.gather(1, items - 1), scores, atol=1e-5)
            assert torch.allclose(best.max(dim=1).values, scores[:, 0], atol=1e-5)


def test_after_a_long_silence_the_fast_channels_have_forgotten_and_the_slow_ones_have_not() -> None:
    model = Recurrent(RecurrentConfig(4, n_state=16))
    left = model._fade(torch.tensor([0.0, 3600.0, 86_400.0]))
    assert (left[0] == 1).all()
    assert left[1, 0] == 0
    assert left[2, -1] > 0.98


def test_a_small_vocabulary_gives_each_item_once() -> None:
    model = Recurrent(RecurrentConfig(3, n_state=8, n_best=100)).eval()
    one = torch.ones(1, dtype=torch.int64)
    items, _, _ = model(one, one, torch.zeros(1), torch.zeros(1), torch.zeros(1, 8))
    assert sorted(items[0].tolist()) == [1, 2, 3]


def test_it_learns_what_follows_what() -> None:
    losses: list[float] = []
    model = train_recurrent(
        made_up(),
        RecurrentConfig(12, n_state=16, n_best=1, dropout=0.0),
        n_epochs=30,
        n_length=20,
        n_batch=16,
        learning_rate=2e-2,
        on_epoch=lambda _, loss: losses.append(loss),
    )
    assert losses[0] > 1.5
    item = torch.arange(1, 13)
    blank = torch.zeros(12, dtype=torch.int64)
    items, _, _ = model(item, blank, torch.full((12,), 60.0), torch.full((12,), torch.nan), torch.zeros(12, 16))
    assert (items[:, 0] == item % 12 + 1).float().mean() > 0.9


def test_the_same_seed_trains_the_same_model() -> None:
    config = RecurrentConfig(12, n_state=8)
    first, second = (train_recurrent(made_up(20), config, n_epochs=2).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_dislikes_are_read_but_never_predicted() -> None:
    log = made_up(4, 2)
    with pytest.raises(ValueError, match="nothing to predict"):
        train_recurrent(
            Sequences(log.user, log.item, np.full(8, 6), log.ts_ms, log.value), RecurrentConfig(12), n_epochs=1
        )


def test_without_events_there_is_nothing_to_predict() -> None:
    none = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="nothing to predict"):
        train_recurrent(Sequences(none, none, none, none, none.astype(np.float32)), RecurrentConfig(3))

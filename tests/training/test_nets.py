"""What holds of every sequence model in PyTorch: its forms agree, nothing looks ahead, padding says nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.sequence_nets import FEATURES, N_HISTORY, N_ITEMS, NETS, TEMPO, build, made_up, scores_after
from training.losses import draw_negatives, full_cross_entropy, sampled_cross_entropy
from training.nets.scales import scale_names
from training.nets.scan import linear_scan
from training.nets.tempo import Tempo, TempoConfig
from training.sequences import SequenceBatch, histories, pad, pieces, window_totals

RECURRENT = ["lstm_seq2seq", "tempo"]
HISTORY = ["moving_average", "transformer"]


def whole(n_events: int = N_HISTORY, seed: int = 0) -> SequenceBatch:
    sequences = made_up(n_events=n_events, seed=seed)
    columns = {"windows": window_totals(sequences, FEATURES.state.scales)}
    return pad(sequences, pieces(sequences, n_events), columns=columns)


def best(model: Any, scores: torch.Tensor) -> torch.Tensor:
    """Scores (B, V) in the order of the items that `forward` gave."""
    return scores.sort(dim=1, descending=True).values[:, : model.n_best]


@pytest.mark.parametrize("name", RECURRENT)
def test_steps_and_sequence_agree_after_every_event(name: str) -> None:
    model, batch = build(name), whole(n_events=40)
    state = torch.zeros(3, NETS[name].n_state)
    with torch.no_grad():
        for at in range(40):
            now = (batch.item[:, at], batch.kind[:, at], batch.gap_s[:, at], batch.value[:, at])
            items, scores, state, *_ = model(*now, state)
            expected = model.predict(batch, torch.full((3,), at))
            assert (expected.gather(1, items - 1) - scores).abs().max() < 1e-5
            assert (best(model, expected) - scores).abs().max() < 1e-5


@pytest.mark.parametrize("name", RECURRENT)
def test_a_state_kept_in_half_precision_moves_scores_little(name: str) -> None:
    model, batch = build(name), whole(n_events=40)
    state = torch.zeros(3, NETS[name].n_state)
    with torch.no_grad():
        for at in range(40):
            now = (batch.item[:, at], batch.kind[:, at], batch.gap_s[:, at], batch.value[:, at])
            items, scores, state, *_ = model(*now, state)
            state = state.half().float()
        expected = model.predict(batch, torch.full((3,), 39)).gather(1, items - 1)
    assert (expected - scores).abs().max() < 0.01 * expected.std()


@pytest.mark.parametrize("name", HISTORY)
def test_the_served_history_scores_as_the_training_form_does_at_every_event(name: str) -> None:
    model, batch = build(name), whole()
    age_s = (batch.time_s.unsqueeze(2) - batch.time_s.unsqueeze(1)).float()
    age_s = age_s.masked_fill(torch.arange(N_HISTORY).unsqueeze(1) < torch.arange(N_HISTORY), -1.0)
    with torch.no_grad():
        if name == "transformer":
            trained = model.logits(model.sequence(batch))
        else:
            trained = model.logits(batch.item, age_s, batch.kind, batch.windows)
        for at in range(N_HISTORY):
            given = histories(batch, torch.full((3,), at), N_HISTORY)
            windows = batch.windows[:, at].unsqueeze(2)
            last = {"moving_average": windows, "transformer": given.history_values}[name]
            items, scores = model(given.history_items, given.history_age_s, given.history_kinds, last)
            assert (trained[:, at].gather(1, items - 1) - scores).abs().max() < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_a_later_event_never_changes_an_earlier_score(name: str) -> None:
    model, sequences = build(name), made_up()
    later = np.arange(len(sequences)) % N_HISTORY >= 7
    changed = replace(
        sequences,
        item=np.where(later, sequences.item % N_ITEMS + 1, sequences.item),
        ts_ms=sequences.ts_ms + np.where(later, 10**9, 0),
        value=np.where(later, np.float32(7), sequences.value),
    )
    assert torch.equal(scores_after(model, sequences, 7), scores_after(model, changed, 7))
    assert not torch.allclose(scores_after(model, sequences, 8), scores_after(model, changed, 8), atol=1e-3)


@pytest.mark.parametrize("name", NETS)
def test_padding_changes_nothing(name: str) -> None:
    """A user of five events beside users of more scores as one whose later events are simply not looked at."""
    model, sequences = build(name), made_up()
    short = sequences.where(np.arange(len(sequences)) < 2 * N_HISTORY + 5)  # the third user keeps five events
    together, alone = scores_after(model, short), scores_after(model, sequences, 5)
    assert (together[2] - alone[2]).abs().max() < 1e-5


@pytest.mark.parametrize("name", HISTORY)
def test_padding_in_front_of_a_history_changes_nothing(name: str) -> None:
    model, batch = build(name), whole()
    outputs = []
    for room in (6, 7, N_HISTORY):
        given = histories(batch, torch.full((3,), 5), room)
        last = {"moving_average": batch.windows[:, 5].unsqueeze(2), "transformer": given.history_values}[name]
        with torch.no_grad():
            outputs.append(model(given.history_items, given.history_age_s, given.history_kinds, last))
    for items, scores in outputs[1:]:
        assert torch.equal(items, outputs[0][0])
        assert (scores - outputs[0][1]).abs().max() < 1e-5


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("sampled", [False, True])
def test_every_parameter_learns(name: str, sampled: bool) -> None:
    """On a log in which every kind of event occurs, none is left without a gradient."""
    model = build(name).train()
    sequences = made_up(8)
    columns = {
        "windows": window_totals(sequences, FEATURES.state.scales),
        "ahead": np.random.default_rng(0).integers(0, N_ITEMS + 1, (len(sequences), 3)),
    }
    log_q = torch.full((N_ITEMS,), 1 / N_ITEMS).log()
    loss = full_cross_entropy
    if sampled:
        loss = partial(sampled_cross_entropy, negatives=draw_negatives(log_q, 20), log_q=log_q)  # type: ignore[assignment]
    model.loss(pad(sequences, pieces(sequences, N_HISTORY), columns=columns), loss).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert (parameter.grad != 0).any(), parameter_name


def test_a_score_of_tempo_is_the_sum_of_its_time_scales() -> None:
    model, batch = build("tempo"), whole()
    with torch.no_grad():
        state = torch.zeros(3, TEMPO.n_state)
        for step in range(12):
            now = (batch.item[:, step], batch.kind[:, step], batch.gap_s[:, step], batch.value[:, step])
            items, scores, state, parts = model(*now, state)
        assert parts.shape == (3, N_ITEMS, TEMPO.n_scales)
        assert (parts.sum(dim=2) - scores).abs().max() < 1e-5
        assert (scores - model.predict(batch, torch.full((3,), 11)).gather(1, items - 1)).abs().max() < 1e-5
        assert parts.std(dim=2).mean() > 0.01
        assert parts.mean(dim=1).abs().max() < 1e-5, "over all items, no scale says anything"


@pytest.mark.parametrize("config", [replace(TEMPO, decomposed=False), replace(TEMPO, n_scales=1)])
def test_tempo_with_one_read_out_steps_as_it_was_trained(config: TempoConfig) -> None:
    torch.manual_seed(0)
    model, batch = Tempo(config).eval(), whole(n_events=20)
    state = torch.zeros(3, config.n_state)
    with torch.no_grad():
        for at in range(20):
            now = (batch.item[:, at], batch.kind[:, at], batch.gap_s[:, at], batch.value[:, at])
            items, scores, state, *parts = model(*now, state)
            expected = model.predict(batch, torch.full((3,), at))
            assert (expected.gather(1, items - 1) - scores).abs().max() < 1e-5
            assert parts == []


def test_the_scales_of_tempo_have_names_that_follow_what_they_learnt() -> None:
    model = Tempo(TEMPO)
    assert model.parts == ("scale:minutes", "scale:hours", "scale:days", "scale:weeks")
    with torch.no_grad():
        model.cells[-1].log_tau += 3.0  # type: ignore[operator]
    assert model.parts == ("scale:hours", "scale:days", "scale:weeks", "scale:months")
    assert Tempo(replace(TEMPO, n_scales=1)).parts == ()
    assert Tempo(replace(TEMPO, decomposed=False)).parts == ()
    assert scale_names([60.0, 61.0, 62.0]) == ("scale:minutes", "scale:minutes-2", "scale:minutes-3")


def test_the_time_scales_of_tempo_forget_at_their_own_pace() -> None:
    """After a day of silence the fast channels are empty and the slow ones full."""
    cell = Tempo(TEMPO).cells[0]
    rates = torch.exp(-86_400.0 * torch.exp(-cell.log_tau))  # type: ignore[operator, arg-type]
    assert rates[0] < 1e-20
    assert rates[-1] > 0.98
    assert (rates.diff() >= 0).all()


def test_channels_that_do_not_fall_into_equal_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="32 channels"):
        Tempo(replace(TEMPO, n_scales=3))


@pytest.mark.parametrize("n_steps", [1, 2, 3, 9, 10, 50])
def test_the_scan_is_the_loop_and_so_is_its_gradient(n_steps: int) -> None:
    torch.manual_seed(n_steps)
    keep = torch.rand(2, n_steps, 3, dtype=torch.float64) ** 4
    write = torch.randn(2, n_steps, 3, dtype=torch.float64)
    upstream = torch.randn(2, n_steps, 3, dtype=torch.float64)
    results = []
    for scan in (linear_scan, loop):
        leaves = [keep.clone().requires_grad_(), write.clone().requires_grad_()]
        states = scan(*leaves)
        results.append([states, *torch.autograd.grad(states, leaves, upstream)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() < 1e-12


def loop(keep: torch.Tensor, write: torch.Tensor) -> torch.Tensor:
    state, states = torch.zeros_like(write[:, 0]), []
    for at in range(keep.shape[1]):
        state = keep[:, at] * state + write[:, at]
        states.append(state)
    return torch.stack(states, dim=1)


def test_the_decoders_of_the_lstm_learn_their_own_horizons() -> None:
    """With `ahead` always item 5 for the week, the week's decoder says 5 whatever the others learn."""
    model = build("lstm_seq2seq").train()
    sequences = made_up(8, unknown=0.0)
    ahead = np.zeros((len(sequences), 3), np.int64)
    ahead[:, 2] = 5
    batch = pad(sequences, pieces(sequences, N_HISTORY), columns={"ahead": ahead})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(batch, full_cross_entropy).backward()
        optimizer.step()
    with torch.no_grad():
        queries, _ = model.eval().sequence(batch)
    best_of_week = model.horizon_logits(queries)[:, :, 3].argmax(dim=-1) + 1
    assert (best_of_week == 5).float().mean() > 0.9
    assert (model.horizon_logits(queries)[:, :, 0].argmax(dim=-1) + 1 == 5).float().mean() < 0.5


@pytest.mark.parametrize("name", NETS)
def test_a_batch_without_a_target_has_no_loss(name: str) -> None:
    model, batch = build(name), whole()
    nothing = replace(batch, target=torch.zeros_like(batch.target))
    if name == "lstm_seq2seq":
        nothing = replace(nothing, ahead=torch.zeros(*batch.target.shape, 3, dtype=torch.int64))
    loss = model.loss(nothing, full_cross_entropy)
    assert loss.item() == 0
    loss.backward()

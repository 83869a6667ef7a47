"""The losses against their formulas, written down naively."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.losses import Past, draw_negatives, full_cross_entropy, sampled_cross_entropy, unseen_cross_entropy

V, D, N = 23, 6, 17


def made_up(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    leaves = (torch.randn(N, D) * 2, torch.randn(V, D), torch.randn(V))
    return (*(leaf.requires_grad_() for leaf in leaves), torch.randint(1, V + 1, (N,)))  # type: ignore[return-value]


@pytest.mark.parametrize("chunk_bytes", [1, 4 * V * 5, 1 << 20])
def test_chunks_of_any_size_give_the_cross_entropy_and_its_gradient(chunk_bytes: int) -> None:
    query, items, bias, target = made_up()
    expected = functional.cross_entropy(query @ items.T + bias, target - 1)
    found = full_cross_entropy(query, items, bias, target, chunk_bytes=chunk_bytes)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for mine, naive in zip(
        torch.autograd.grad(3 * found, (query, items, bias)),
        torch.autograd.grad(3 * expected, (query, items, bias)),
        strict=True,
    ):
        assert torch.allclose(mine, naive, atol=1e-6)


def test_large_scores_overflow_nothing() -> None:
    query, items, bias, target = made_up()
    assert torch.isfinite(full_cross_entropy(query * 1e4, items, bias, target))


def test_no_target_is_no_loss() -> None:
    query, items, bias, target = made_up()
    loss = full_cross_entropy(query[:0], items, bias, target[:0])
    assert loss.item() == 0
    loss.backward()
    assert items.grad is not None
    assert (items.grad == 0).all()
    log_q = torch.full((V,), 1 / V).log()
    none = sampled_cross_entropy(query[:0], items, bias, target[:0], negatives=target, log_q=log_q)
    assert none.item() == 0


def test_without_gradients_none_are_made() -> None:
    query, items, bias, target = made_up()
    with torch.no_grad():
        loss = full_cross_entropy(query, items, bias, target)
    assert not loss.requires_grad


def test_the_sampled_loss_is_its_formula() -> None:
    query, items, bias, target = made_up()
    q = torch.softmax(torch.randn(V), dim=0)
    negatives = torch.randint(1, V + 1, (9,))
    found = sampled_cross_entropy(query, items, bias, target, negatives=negatives, log_q=q.log())
    scores = (query @ items.T + bias).detach()
    total = 0.0
    for row in range(N):
        own = int(target[row]) - 1
        z = scores[row, own].exp()
        for negative in negatives.tolist():
            if negative - 1 != own:
                z = z + scores[row, negative - 1].exp() / (9 * q[negative - 1])
        total += float(z.log() - scores[row, own])
    assert found.item() == pytest.approx(total / N, rel=1e-5)


def test_every_item_once_with_equal_odds_is_the_whole_catalogue() -> None:
    query, items, bias, target = made_up()
    log_q = torch.full((V,), 1 / V).log()
    sampled = sampled_cross_entropy(query, items, bias, target, negatives=torch.arange(1, V + 1), log_q=log_q)
    assert sampled.item() == pytest.approx(full_cross_entropy(query, items, bias, target).item(), rel=1e-5)


def test_many_draws_from_a_skewed_q_come_close_to_the_whole_catalogue() -> None:
    """Which they would not without the correction: popular items would be pushed down as often as they are drawn."""
    query, items, bias, target = (tensor.detach() for tensor in made_up())
    q = torch.softmax(torch.linspace(-2, 2, V), dim=0)
    negatives = draw_negatives(q.log(), 200_000, torch.Generator().manual_seed(0))
    found = sampled_cross_entropy(query / 2, items, bias, target, negatives=negatives, log_q=q.log())
    assert found.item() == pytest.approx(full_cross_entropy(query / 2, items, bias, target).item(), rel=0.01)


def test_negatives_are_drawn_with_the_given_odds() -> None:
    q = torch.tensor([0.7, 0.2, 0.1])
    drawn = draw_negatives(q.log(), 20_000, torch.Generator().manual_seed(0))
    assert (torch.bincount(drawn, minlength=4)[1:] / 20_000 - q).abs().max() < 0.02


def a_past() -> Past:
    """Four histories of eight events, asked at about half of them; some events are of unknown items."""
    torch.manual_seed(1)
    item = torch.randint(0, V + 1, (4, 8))
    asked = torch.zeros(4, 8, dtype=torch.bool)
    asked.view(-1)[torch.randperm(32)[:N]] = True
    return Past.of(item, asked)


def met(past: Past, target: Tensor) -> Tensor:
    """(N, V) what was met before each query, and is not its target, written down naively."""
    found = torch.zeros(N, V, dtype=torch.bool)
    for row in range(N):
        for event in range(int(past.event[row]) + 1):
            item = int(past.item[past.piece[row], event])
            if item not in (0, int(target[row])):
                found[row, item - 1] = True
    return found


@pytest.mark.parametrize("chunk_bytes", [4 * V * 5, 1 << 20])
def test_what_was_met_before_is_not_among_what_the_target_is_told_from(chunk_bytes: int) -> None:
    query, items, bias, target = made_up()
    past = a_past()
    scores = (query @ items.T + bias).masked_fill(met(past, target), -torch.inf)
    expected = functional.cross_entropy(scores, target - 1)
    found = unseen_cross_entropy(query, items, bias, target, past, chunk_bytes=chunk_bytes)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for mine, naive in zip(
        torch.autograd.grad(found, (query, items, bias)),
        torch.autograd.grad(expected, (query, items, bias)),
        strict=True,
    ):
        assert torch.allclose(mine, naive, atol=1e-6)


def test_sampled_negatives_leave_out_what_was_met_too() -> None:
    query, items, bias, target = made_up()
    past, log_q = a_past(), torch.full((V,), 1 / V).log()
    negatives = torch.arange(1, V + 1)
    sampled = sampled_cross_entropy(query, items, bias, target, past, negatives=negatives, log_q=log_q)
    exact = unseen_cross_entropy(query, items, bias, target, past)
    assert sampled.item() == pytest.approx(exact.item(), rel=1e-5)

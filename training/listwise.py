"""Training a ranker on recorded rows: listwise softmax, AdamW over one cycle, and a running mean of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.config import RankerTraining
from training.nets.ranker import PADDING_SCORE, Ranker, RankerConfig
from training.rows import Rows

__all__ = ["Ensemble", "fit_ranker", "n_steps"]

_SAMPLE_ROWS = 4_000  # what means and deviations are taken from: half a million candidates


class Ensemble(nn.Module):
    """Several rankers in one graph; a candidate's score is the mean of theirs."""

    def __init__(self, members: list[Ranker]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(
        self, candidates: Tensor, candidate_features: Tensor, context_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `Ranker.forward`."""
        scores = [member(candidates, candidate_features, context_features)[1] for member in self.members]
        return candidates.clone(), torch.stack(scores).mean(0)


def n_steps(rows: int, training: RankerTraining) -> int:
    """Steps that a training on so many rows takes."""
    return training.members * training.epochs * math.ceil(rows / training.batch)


def fit_ranker(
    rows: Rows, training: RankerTraining, *, seed: int = 0, on_step: Callable[[int, float], None] | None = None
) -> nn.Module:
    """A ranker, or an ensemble of them, in evaluation mode.

    Args:
        on_step: called after each step with its number from 1, over all members, and the loss in nats a target.
    """
    members: list[Ranker] = []
    for number in range(training.members):
        done = number * n_steps(len(rows), training) // training.members
        members.append(_fit(rows, training, seed + number, done, on_step))
    return members[0].eval() if len(members) == 1 else Ensemble(members).eval()


def _fit(
    rows: Rows, training: RankerTraining, seed: int, n_done: int, on_step: Callable[[int, float], None] | None
) -> Ranker:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    _, _, n_features = rows.candidate_features.shape
    model = Ranker(
        RankerConfig(
            n_features, rows.context_features.shape[1], training.hidden, training.pooled, dropout=training.dropout
        )
    )
    there, features, context, _ = _batch(rows, np.arange(0, len(rows), math.ceil(len(rows) / _SAMPLE_ROWS)))
    model.standardise(features[there], context)
    averaged = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    total = training.epochs * math.ceil(len(rows) / training.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=total + 1)
    step, smooth = 0, math.nan
    for _ in range(training.epochs):
        order = rng.permutation(len(rows))
        for start in range(0, len(order), training.batch):
            # Sorted, so that the memory map is read forwards.
            there, features, context, label = _batch(rows, np.sort(order[start : start + training.batch]))
            scores = model.score(there, features, context).masked_fill(~there, PADDING_SCORE)
            loss = functional.cross_entropy(scores, label)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
            optimizer.step()
            schedule.step()
            step += 1
            # The first weights are forgotten early, whatever the decay.
            _average(averaged, model, min(training.average, step / (10.0 + step)))
            smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
            if on_step is not None:
                on_step(n_done + step, smooth)
    return averaged if training.average > 0 else model


def _batch(rows: Rows, index: NDArray[np.intp]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """there (B, C), features (B, C, F), context (B, G) and label (B,) of these rows."""
    features = torch.from_numpy(rows.candidate_features[index].astype(np.float32))
    context = torch.from_numpy(rows.context_features[index].astype(np.float32))
    n = torch.from_numpy(rows.n_candidates[index].astype(np.int64))
    there = torch.arange(features.shape[1])[None] < n[:, None]
    return there, features, context, torch.from_numpy(rows.label[index])


@torch.no_grad()
def _average(mean: nn.Module, model: nn.Module, decay: float) -> None:
    for kept, new in zip(mean.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1.0 - decay)

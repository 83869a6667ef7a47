"""Training a ranker on recorded rows: listwise softmax, AdamW over one cycle, and a running mean of the weights.

With teachers, networks of other seeds learn first, and the one that is served learns from the mean of their
distributions over each list beside its target, as in Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural
Network", 2015 (arXiv 1503.02531):

    loss = (1 - heed) (-log p[target]) + heed (-sum over the list of q log p)       q: the teachers' mean
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.config import RankerTraining
from training.nets.fusion import GIVEN, Fusion
from training.nets.ranker import PADDING_SCORE, Ranker, RankerConfig
from training.rows import Rows
from training.warm import Start

__all__ = ["Ensemble", "fit_fusion", "fit_ranker", "fusion_scores", "list_loss", "n_steps"]

M = TypeVar("M", bound=nn.Module)
_Scores: TypeAlias = Callable[[M, NDArray[np.intp]], tuple[Tensor, Tensor]]
"""Scores of a model for some rows (b, C), padding far below, and their labels (b,)."""

_SAMPLE_ROWS = 4_000  # what means and deviations are taken from: half a million candidates
_SCORED_AT_ONCE = 128  # rows


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
    """Steps that a training on so many rows takes, teachers included."""
    return (training.teachers + training.members) * training.epochs * math.ceil(rows / training.batch)


def fit_ranker(
    rows: Rows,
    training: RankerTraining,
    *,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
    start: Start | None = None,
) -> nn.Module:
    """A ranker, or an ensemble of them, in evaluation mode.

    Args:
        on_step: called after each step with its number from 1, over all members and teachers, and the loss in nats a
            target.
        start: weights to begin with, and the standardisation that they were learnt under; teachers begin anew.
    """

    def scores(of: Ranker, index: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        there, features, context, label = _batch(rows, index)
        return of.score(there, features, context).masked_fill(~there, PADDING_SCORE), label

    course = _Course(training, scores, len(rows), on_step)
    taught = course.taught(lambda seed: _untrained(rows, training, seed), seed + training.members)
    members: list[Ranker] = []
    for number in range(training.members):
        model = _untrained(rows, training, seed + number)
        if start is not None:
            start.below("" if training.members == 1 else f"members.{number}.").give(model)
        members.append(course.descend(model, seed + number, taught))
    return members[0].eval() if len(members) == 1 else Ensemble(members).eval()


def fit_fusion(
    rows: Rows,
    training: RankerTraining,
    model: Fusion,
    *,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
    start: Start | None = None,
) -> Fusion:
    """A ranker that hears a sequence model, trained on what it heard, in evaluation mode.

    Args:
        model: untrained.
        on_step: see `fit_ranker`.
        start: see `fit_ranker`; what a sequence model gave to the ranker before is left where it is.
    """
    there, features, context, _ = _batch(rows, _sample(rows))
    with torch.no_grad():
        told = model.told(features, *_heard(rows, _sample(rows)))
    model.standardise(told[there], context)

    def scores(of: Fusion, index: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        return _fusion_scores(rows, of, index)

    course = _Course(training, scores, len(rows), on_step)
    taught = course.taught(model.another, seed + 1)
    if start is not None:
        start.without(GIVEN).give(model)
    return course.descend(model, seed, taught).eval()


@torch.no_grad()
def fusion_scores(rows: Rows, model: Fusion, n_batch: int = 64) -> NDArray[np.float32]:
    """(R, C) scores of all rows, padding far below."""
    index = np.arange(len(rows))
    parts = [_fusion_scores(rows, model, index[at : at + n_batch])[0] for at in range(0, len(rows), n_batch)]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def _fusion_scores(rows: Rows, model: Fusion, index: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
    there, features, context, label = _batch(rows, index)
    return model.score(there, features, context, *_heard(rows, index)).masked_fill(~there, PADDING_SCORE), label


def list_loss(scores: Tensor, label: Tensor, taught: Tensor | None = None, heed: float = 0.0) -> Tensor:
    """Mean loss in nats a target: of the target, and of what teachers say of the whole list.

    Args:
        scores: (b, C), padding far below.
        label: (b,) the target's place.
        taught: (b, C) the teachers' distribution over each list, 0 for padding; None without teachers.
        heed: the teachers' share.
    """
    if taught is None:
        return functional.cross_entropy(scores, label)
    log = functional.log_softmax(scores, dim=1)
    # What nobody thinks possible says nothing, however far below it lies.
    told = -torch.where(taught > 0, taught * log, torch.zeros_like(log)).sum(1).mean()
    return (1.0 - heed) * functional.nll_loss(log, label) + heed * told


class _Course(Generic[M]):
    """One training after the other on the same rows, counted through.

    Args:
        scores: see `_Scores`.
        n_rows: to learn from.
        on_step: see `fit_ranker`.
    """

    def __init__(
        self, training: RankerTraining, scores: _Scores[M], n_rows: int, on_step: Callable[[int, float], None] | None
    ) -> None:
        self._training = training
        self._scores = scores
        self._n_rows = n_rows
        self._on_step = on_step
        self._n_done = 0

    def taught(self, untrained: Callable[[int], M], seed: int) -> NDArray[np.float16] | None:
        """(R, C) mean of the distributions of teachers trained from `seed` on; None where none are wanted."""
        mean: NDArray[np.float32] | None = None
        for number in range(self._training.teachers):
            teacher = self.descend(untrained(seed + number), seed + number, None).eval()
            said = self._distributions(teacher) / np.float32(self._training.teachers)
            mean = said if mean is None else mean + said
        return None if mean is None else mean.astype(np.float16)

    @torch.no_grad()
    def _distributions(self, model: M) -> NDArray[np.float32]:
        """(R, C)"""
        batches = np.array_split(np.arange(self._n_rows), math.ceil(self._n_rows / _SCORED_AT_ONCE))
        return np.concatenate([functional.softmax(self._scores(model, index)[0], dim=1).numpy() for index in batches])

    def descend(self, model: M, seed: int, taught: NDArray[np.float16] | None) -> M:
        """Train in place; returns the running mean of the weights, or the model itself where none is wanted."""
        training, n_rows = self._training, self._n_rows
        rng = np.random.default_rng(seed)
        averaged = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
        total = training.epochs * math.ceil(n_rows / training.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=total + 1)
        step, smooth = 0, math.nan
        for _ in range(training.epochs):
            order = rng.permutation(n_rows)
            for start in range(0, len(order), training.batch):
                # Sorted, so that the memory map is read forwards.
                index = np.sort(order[start : start + training.batch])
                told = None if taught is None else torch.from_numpy(taught[index].astype(np.float32))
                loss = list_loss(*self._scores(model, index), told, training.heed)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
                optimizer.step()
                schedule.step()
                step += 1
                # The first weights are forgotten early, whatever the decay.
                _average(averaged, model, min(training.average, step / (10.0 + step)))
                smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
                if self._on_step is not None:
                    self._on_step(self._n_done + step, smooth)
        self._n_done += step
        return averaged if training.average > 0 else model


def _untrained(rows: Rows, training: RankerTraining, seed: int) -> Ranker:
    """A ranker of these rows' features, standardised."""
    torch.manual_seed(seed)
    config = RankerConfig(
        rows.candidate_features.shape[2],
        rows.context_features.shape[1],
        training.hidden,
        training.pooled,
        dropout=training.dropout,
    )
    model = Ranker(config)
    there, features, context, _ = _batch(rows, _sample(rows))
    model.standardise(features[there], context)
    return model


def _sample(rows: Rows) -> NDArray[np.intp]:
    """What means and deviations are taken from."""
    return np.arange(0, len(rows), math.ceil(len(rows) / _SAMPLE_ROWS))


def _heard(rows: Rows, index: NDArray[np.intp]) -> tuple[Tensor, Tensor | None, Tensor]:
    """candidate_index (B, C), candidate_content (B, C, T) if there is any, and query (B, q) of these rows."""
    heard = {name: torch.from_numpy(np.ascontiguousarray(column[index])) for name, column in rows.heard.items()}
    content = heard["candidate_content"].long() if "candidate_content" in heard else None
    return heard["candidate_index"].long(), content, heard["query"]


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

"""A ranker of candidates on one page: a small network over live features, trained on whole lists.

Each candidate is scored from its own features, the context of the event, and what stands beside it in the list (the
best and the mean of every feature). The list enters as in Deep Sets: Zaheer et al., "Deep Sets", 2017 (arXiv
1703.06114). The loss is the listwise softmax: Cao et al., "Learning to Rank: From Pairwise Approach to Listwise
Approach", 2007.

    scores = w3 · relu(W2 relu(W1 x + V1 [context, best, mean]) + V2 pool) + b      x: one candidate's features

What depends on the event alone (V1, V2) is computed once an event, not once a candidate: that is most of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PADDING_SCORE", "Ranker", "RankerConfig"]

PADDING_SCORE = -1e9
"""The score of padding: finite, since infinities do not survive every runtime's softmax."""
_FAR = 1e4  # below any feature


@dataclass(frozen=True, slots=True)
class RankerConfig:
    """Sizes, with the reason for each default.

    Attributes:
        n_features: columns of `candidate_features`.
        n_context: columns of `context_features`.
        hidden: widths of the two layers; they are most of what an event costs.
        pooled: whether the second layer also sees the mean of the first layer over the list.
        dropout: on the first hidden layer, in training only.
    """

    n_features: int
    n_context: int
    hidden: tuple[int, int] = (64, 32)
    pooled: bool = True
    dropout: float = 0.0


class Ranker(nn.Module):
    """Candidates and their features in, the same candidates and their scores out."""

    feature_mean: Tensor
    feature_std: Tensor
    context_mean: Tensor
    context_std: Tensor

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        wide, narrow = config.hidden
        self.config = config
        self.of_candidate = nn.Linear(config.n_features, wide)
        self.of_context = nn.Linear(config.n_context, wide, bias=False)
        self.of_list = nn.Linear(2 * config.n_features, wide, bias=False)
        self.second = nn.Linear(wide, narrow)
        self.of_pool = nn.Linear(wide, narrow, bias=False) if config.pooled else None
        self.last = nn.Linear(narrow, 1, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        # Standardisation belongs to the graph, so that nobody can forget it or apply another one.
        self.register_buffer("feature_mean", torch.zeros(config.n_features))
        self.register_buffer("feature_std", torch.ones(config.n_features))
        self.register_buffer("context_mean", torch.zeros(config.n_context))
        self.register_buffer("context_std", torch.ones(config.n_context))

    def standardise(self, features: Tensor, context: Tensor) -> None:
        """Take means and deviations from a sample: candidates' features (N, F) without padding, context (M, G).

        A column that never changes is taken as it is, so that it says nothing until it does.
        """
        for name, sample in (("feature", features), ("context", context)):
            mean, std = sample.mean(0), sample.std(0)
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_std").copy_(torch.where(std > 1e-4, std, torch.ones_like(std)))

    def forward(
        self, candidates: Tensor, candidate_features: Tensor, context_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score every candidate.

        Args:
            candidates: (B, C) int64 catalogue numbers, -1 for padding.
            candidate_features: (B, C, F).
            context_features: (B, G).

        Returns:
            items (B, C), the candidates as they came in; scores (B, C), PADDING_SCORE for padding.
        """
        there = candidates >= 0  # (B, C)
        scores = self.score(there, candidate_features, context_features)
        return candidates.clone(), torch.where(there, scores, torch.full_like(scores, PADDING_SCORE))

    def score(self, there: Tensor, features: Tensor, context: Tensor) -> Tensor:
        """(B, C) scores; meaningless where `there` (B, C) is false."""
        mask = there.to(features.dtype)  # (B, C)
        # (B, 1, C) @ (B, C, F) takes the mean without a copy of the features.
        share = (mask / torch.clamp(mask.sum(1, keepdim=True), min=1.0)).unsqueeze(1)  # (B, 1, C)
        mean = (share @ features).squeeze(1)  # (B, F)
        best = (features + ((mask - 1.0) * _FAR).unsqueeze(-1)).amax(1)  # (B, F)
        best = torch.where(there.any(1, keepdim=True), best, mean)
        listed = torch.cat([(f - self.feature_mean) / self.feature_std for f in (mean, best)], dim=-1)  # (B, 2F)
        said = self.of_context((context - self.context_mean) / self.context_std) + self.of_list(listed)  # (B, W)
        # (x - mean) / std, folded into the weights: one pass over (B, C, F) less.
        weight = self.of_candidate.weight / self.feature_std
        bias = self.of_candidate.bias - weight @ self.feature_mean
        # Biases join what is said once an event: a pass over all candidates less for each of the two layers.
        hidden = functional.relu(functional.linear(features, weight) + (said + bias).unsqueeze(1))  # (B, C, W)
        hidden = self.dropout(hidden)
        second_said = self.second.bias if self.of_pool is None else self.of_pool(share @ hidden) + self.second.bias
        second = functional.linear(hidden, self.second.weight) + second_said  # (B, C, N)
        scores: Tensor = self.last(functional.relu(second)).squeeze(-1)
        return scores

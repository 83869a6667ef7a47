"""Moving averages of what a user touched, at every time scale, on one page: the baseline that has to be beaten.

A user is the average of the items that he touched, as in Kabbur et al., "FISM: Factored Item Similarity Models", 2013,
but not one average: per time scale a simple one (all events of the last span alike), a weighted one (falling off
linearly over the span, each kind of event with a weight of its own) and an exponential one (half gone after each
span). Learnt gains, per average and channel, and a gate that sees how much the user did in each window mix them into
one query.

    score(i) = query . item_i + bias_i + own history at i + category history at i's category

The last two are moving averages as well: of the item itself and, where categories are given, of its category.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from stream.core.scales import DEFAULT_SCALES
from training.losses import CatalogueLoss
from training.sequences import SequenceBatch, histories

__all__ = ["MovingAverage", "MovingAverageConfig"]


@dataclass(frozen=True, slots=True)
class MovingAverageConfig:
    """Sizes, with the reason for each default.

    Attributes:
        n_items: vocabulary size V; indices run from 1, 0 is padding or an unknown item.
        d: width of the item embeddings.
        spans_s: the time scales, those of the windows in the user's record.
        n_history: the most events it looks back on, in training and live.
        n_kinds: event-type codes.
        n_best: items given per event; enough that what the user has seen can be taken out of them.
        dropout: on the averages and before the read-out; in training only.
    """

    n_items: int
    d: int = 64
    spans_s: tuple[float, ...] = tuple(scale.span_ms / 1000 for scale in DEFAULT_SCALES)
    n_history: int = 32
    n_kinds: int = 8
    n_best: int = 100
    dropout: float = 0.2


class MovingAverage(nn.Module):
    """A history in, newest event last; the best items and their scores out.

    Args:
        config: the sizes.
        categories: (V,) int64 category of each item from 1, 0 for none; no category averages when None.
    """

    categories: Tensor
    spans_s: Tensor

    def __init__(self, config: MovingAverageConfig, categories: Tensor | None = None) -> None:
        super().__init__()
        d, n_averages = config.d, 3 * len(config.spans_s)
        self.config = config
        self.n_best = min(config.n_best, config.n_items)
        self.items = nn.Embedding(config.n_items + 1, d, padding_idx=0)
        self.kinds = nn.Parameter(torch.zeros(config.n_kinds))  # log weight
        self.gains = nn.Parameter(torch.randn(n_averages + 1, d) * 0.1 + 1.0)  # the last: the newest event alone
        self.gate = nn.Linear(2 * len(config.spans_s), n_averages + 1)
        self.own = nn.Parameter(torch.zeros(n_averages))
        self.tastes = nn.Parameter(torch.zeros(n_averages))
        self.out = nn.Linear(d, d, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.n_items))
        self.dropout = nn.Dropout(config.dropout)
        self.n_categories = 0 if categories is None else int(categories.max())
        padded = torch.zeros(config.n_items + 1, dtype=torch.int64)
        if categories is not None:
            padded[1:] = categories
        self.register_buffer("categories", padded)
        self.register_buffer("spans_s", torch.tensor(config.spans_s), persistent=False)
        nn.init.normal_(self.items.weight, std=d**-0.5)
        nn.init.eye_(self.out.weight)
        with torch.no_grad():
            self.items.weight[0] = 0.0

    def forward(
        self, history_items: Tensor, history_age_s: Tensor, history_kinds: Tensor, windows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """History (B, L) each, padding (item 0) in front; windows (B, S, kinds) -> items, scores (B, k), best first."""
        logits = self.logits(history_items, history_age_s.unsqueeze(1), history_kinds, windows.sum(dim=2).unsqueeze(1))
        scores, index = torch.topk(logits[:, 0], self.n_best)
        return index + 1, scores

    def logits(self, item: Tensor, age_s: Tensor, kind: Tensor, totals: Tensor) -> Tensor:
        """Scores of the whole vocabulary for Q moments of each of B histories.

        Args:
            item, kind: (B, L).
            age_s: (B, Q, L) seconds from each event to each moment; negative for what is yet to come.
            totals: (B, Q, S) events in each window.

        Returns:
            (B, Q, V).
        """
        weights, newest = self._weights(item, age_s, kind)  # (B, Q, M, L), (B, Q, L)
        shares = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        all_shares = torch.cat([shares, newest.unsqueeze(2)], dim=2)
        averages = all_shares @ self.items(item).unsqueeze(1)  # (B, Q, M + 1, d)
        # How much of each average there is: an empty window has nothing to say.
        seen = torch.cat([torch.log1p(totals), torch.log1p(weights.sum(dim=-1)[..., : totals.shape[-1]])], dim=-1)
        mixed = torch.softmax(self.gate(seen), dim=-1).unsqueeze(-1) * self.gains * self.dropout(averages)
        user = mixed.sum(dim=2)
        user = user * torch.rsqrt(user.square().mean(dim=-1, keepdim=True) + 1e-4)  # (B, Q, d)
        logits = functional.linear(self.dropout(self.out(user)), self.items.weight[1:], self.bias)
        flat = item.unsqueeze(1).expand_as(newest)
        own = torch.einsum("bqml,m->bql", torch.log1p(weights), self.own)
        logits = logits + _spread(own, flat, self.config.n_items + 1)[..., 1:]
        if self.n_categories > 0:
            taste = torch.einsum("bqml,m->bql", shares, self.tastes)
            by_category = _spread(taste, self.categories[flat], self.n_categories + 1)
            by_category = functional.pad(by_category[..., 1:], (1, 0))  # no category has no taste
            logits = logits + by_category[..., self.categories[1:]]
        return logits

    def _weights(self, item: Tensor, age_s: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        """What each event weighs: (B, Q, M, L) in each average, and (B, Q, L) 1 for the newest."""
        there = (age_s >= 0) & (item > 0).unsqueeze(1)  # (B, Q, L)
        age = age_s.clamp(min=0.0).unsqueeze(2) / self.spans_s.unsqueeze(-1)  # (B, Q, S, L) in spans
        simple = (age < 1).to(age.dtype)
        linear = (1 - age).clamp(min=0.0) * torch.exp(self.kinds)[kind].unsqueeze(1).unsqueeze(1)
        weights = torch.cat([simple, linear, torch.exp(age * -math.log(2))], dim=2) * there.unsqueeze(2)
        # The last known event that is there; `there` is never true again further right.
        later = there.flip(-1).to(torch.float32).cumsum(-1).flip(-1)
        return weights, ((later == 1) & there).to(age.dtype)

    def loss(self, batch: SequenceBatch, catalogue_loss: CatalogueLoss) -> Tensor:  # noqa: ARG002
        """Of predicting each event's next item. Its scores are no plain product, so it is always the exact loss."""
        age_s = (batch.time_s.unsqueeze(2) - batch.time_s.unsqueeze(1)).float()  # (B, T, T)
        place = torch.arange(batch.item.shape[1], device=age_s.device)
        behind = place.unsqueeze(1) - place.unsqueeze(0)
        within = (behind >= 0) & (behind < self.config.n_history)
        known = batch.target > 0
        logits = self.logits(batch.item, age_s.masked_fill(~within, -1.0), batch.kind, batch.windows)
        # A sum, so that a batch without a target has a loss of 0 and not of 0 / 0.
        total = functional.cross_entropy(logits[known], batch.target[known] - 1, reduction="sum")
        return total / known.sum().clamp(min=1)

    def predict(self, batch: SequenceBatch, at: Tensor) -> Tensor:
        """Scores (B, V) right after event `at` (B,) of each sequence, from the history that would be served."""
        served = histories(batch, at, self.config.n_history)
        totals = batch.windows[torch.arange(len(at), device=at.device), at].unsqueeze(1)
        ages, kinds = served.history_age_s.unsqueeze(1), served.history_kinds
        return self.logits(served.history_items, ages, kinds, totals)[:, 0]


def _spread(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Add (B, Q, L) values up at their index: (B, Q, n)."""
    zeros = torch.zeros(1, 1, 1, dtype=values.dtype, device=values.device).expand(*values.shape[:2], n)
    return zeros.scatter_add(2, index, values)

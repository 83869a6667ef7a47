"""Causal self-attention that knows how long ago things were, on one page.

Kang & McAuley, "Self-Attentive Sequential Recommendation", 2018 (arXiv 1808.09781), with the time between two events as
part of their attention as in Li et al., "Time Interval Aware Self-Attention", 2020: a bias per head, a learnt
mixture of exponentials of the interval, beside a learnt bias of how many events lie between. Both are relative, so a
history means the same wherever it stands, and padding changes nothing. Attention is written by hand: the built-in
module does not export.

It is served from the user's recent events, all of them at every event: O(L^2) where a recurrence pays O(1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.losses import CatalogueLoss, Past
from training.nets.embedding import GAPS_S, EventEmbedding, RMSNorm
from training.nets.query import with_one
from training.sequences import SequenceBatch, histories

__all__ = ["Transformer", "TransformerConfig"]


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes, with the reason for each default.

    Attributes:
        n_items: vocabulary size V; indices run from 1, 0 is padding or an unknown item.
        d: width.
        n_layers: two, as published: more does not help at this size.
        n_heads: two; each mixes its own biases.
        n_history: the most events it looks back on, in training and live.
        n_best: items given per event; enough that what the user has seen can be taken out of them.
        dropout: on the embedding, on each branch and before the read-out; in training only.
    """

    n_items: int
    d: int = 64
    n_layers: int = 2
    n_heads: int = 2
    n_history: int = 32
    n_best: int = 100
    dropout: float = 0.2


class Transformer(nn.Module):
    """A history in, newest event last; the best items and their scores out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.d % config.n_heads != 0:
            raise ValueError(f"{config.d} channels do not fall into {config.n_heads} equal heads")
        self.config = config
        self.n_best = min(config.n_best, config.n_items)
        self.events = EventEmbedding(config.n_items, config.d)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final = RMSNorm(config.d)
        self.bias = nn.Parameter(torch.zeros(config.n_items))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, history_items: Tensor, history_age_s: Tensor, history_kinds: Tensor, history_values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Each (B, L), padding (item 0) in front -> items (B, k) int64, best first; scores (B, k).

        L is free in PyTorch and in ONNX, up to `n_history`; beyond it, distances count as the largest.
        """
        x = self.encode(history_items, -history_age_s, history_kinds, history_values)
        scores, index = torch.topk(self.logits(x[:, -1]), self.n_best)
        return index + 1, scores

    def ask(
        self, history_items: Tensor, history_age_s: Tensor, history_kinds: Tensor, history_values: Tensor
    ) -> tuple[Tensor, ...]:
        """As `forward`, but for `training.nets.query`: query (B, d + 1)."""
        return (with_one(self.encode(history_items, -history_age_s, history_kinds, history_values)[:, -1]),)

    def ranked_by(self) -> tuple[Tensor, Tensor]:
        """What `ask` is compared with: items (V, d) and their biases (V,)."""
        return self.events.items.weight[1:], self.bias

    def encode(self, item: Tensor, time_s: Tensor, kind: Tensor, value: Tensor) -> Tensor:
        """(B, T) each -> (B, T, d). Only differences of `time_s` matter; no event sees a later one.

        Events of unknown items are not looked at by others, which makes them and padding alike.
        """
        gap_s = functional.pad(time_s[:, 1:] - time_s[:, :-1], (1, 0)).to(torch.float32)
        # Behind padding (age 0) time runs backwards, and the embedding takes that for a first event.
        x = self.dropout(self.events(item, kind, gap_s, value))
        place = torch.arange(item.shape[1], device=item.device)
        behind = place.unsqueeze(1) - place.unsqueeze(0)  # (T, T) query - key
        self_or_known = (item > 0).unsqueeze(1) | (behind == 0)  # (B, T, T)
        seen = self_or_known & (behind >= 0)
        interval_s = (time_s.unsqueeze(2) - time_s.unsqueeze(1)).to(torch.float32).clamp(min=0.0)  # (B, T, T)
        fades = torch.exp(-interval_s.unsqueeze(-1) / self.events.gaps_s)  # (B, T, T, scales)
        for block in self.blocks:
            x = block(x, behind, fades, seen)
        queries: Tensor = self.dropout(self.final(x))
        return queries

    def sequence(self, batch: SequenceBatch) -> Tensor:
        """Whole histories -> queries (B, T, d)."""
        return self.encode(batch.item, batch.time_s, batch.kind, batch.value)

    def logits(self, query: Tensor) -> Tensor:
        """Scores of the whole vocabulary: (..., d) -> (..., V)."""
        return functional.linear(query, self.events.items.weight[1:], self.bias)

    def loss(self, batch: SequenceBatch, catalogue_loss: CatalogueLoss) -> Tensor:
        """Of predicting each event's next item."""
        known = batch.target > 0
        items, past = self.events.items.weight[1:], Past.of(batch.item, known)
        return catalogue_loss(self.sequence(batch)[known], items, self.bias, batch.target[known], past)

    def predict(self, batch: SequenceBatch, at: Tensor) -> Tensor:
        """Scores (B, V) right after event `at` (B,) of each sequence, from the history that would be served."""
        served = histories(batch, at, self.config.n_history)
        age_s, items = served.history_age_s, served.history_items
        return self.logits(self.encode(items, -age_s, served.history_kinds, served.history_values)[:, -1])


class Block(nn.Module):
    """Attention, then SwiGLU, each on the normalised residual."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d, self.n_heads = config.d, config.n_heads
        self.norm = RMSNorm(d)
        self.project = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.by_place = nn.Parameter(torch.zeros(config.n_heads, config.n_history))
        self.by_time = nn.Linear(len(GAPS_S), config.n_heads, bias=False)
        self.norm_wide = RMSNorm(d)
        self.wide = nn.Linear(d, 4 * d, bias=False)
        self.narrow = nn.Linear(2 * d, d, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.zeros_(self.by_time.weight)

    def forward(self, x: Tensor, behind: Tensor, fades: Tensor, seen: Tensor) -> Tensor:
        """x (B, T, d), behind (T, T), fades (B, T, T, scales), seen (B, T, T) -> (B, T, d)."""
        parts = self.project(self.norm(x)).reshape(*x.shape[:2], 3, self.n_heads, -1)  # (B, T, 3, H, d / H)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, d / H)
        place = behind.clamp(0, self.by_place.shape[1] - 1)
        bias = self.by_place[:, place] + self.by_time(fades).permute(0, 3, 1, 2)  # (B, H, T, T)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
        weights = torch.softmax(scores.masked_fill(~seen.unsqueeze(1), -torch.inf), dim=-1)
        x = x + self.dropout(self.out((weights @ value).transpose(1, 2).flatten(2)))
        signal, gate = self.wide(self.norm_wide(x)).chunk(2, dim=-1)
        wide: Tensor = x + self.dropout(self.narrow(signal * functional.silu(gate)))
        return wide

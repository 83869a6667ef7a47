"""Tempo, the flagship on one page: a gated linear recurrence that decays in physical time, read out per time scale.

The cell is a real-gated linear recurrence, De et al., "Griffin: Mixing Gated Linear Recurrences with Local Attention
for Efficient Language Models", 2024 (arXiv 2402.19427), but what a channel forgets depends on how much time has passed
and on its own time constant: tau is spread log-uniformly from a minute to sixty days, and learnt.

    x     = embedding of the event
    c     = causal depthwise convolution of width 4 over RMSNorm(x)
    u, z  = W c
    r     = gate(c) * (gap / tau + tick)              a = exp(-r)
    s     = a s + sqrt(1 - a^2) gate_in(c) u
    x     = x + W_o (s silu(z));    x = x + SwiGLU(RMSNorm(x))

`tick` is what an event itself ages the state by: events of the same second would otherwise write nothing, since a = 1.

The last layer keeps its scales apart. Channels of like tau form a group; W_o's share of each group, with the residual,
goes through a SwiGLU of the group's own (together as wide as the one they replace) to a query of its own, and a gate
that sees the event's context weighs the scales:

    score(i) = sum over scales g of  alpha_g (query_g . item_i + bias_i),      alpha = softmax(W x)

so a score is exactly the sum of its scales, and they go out with it as named parts. Served scores are relative to the
average item: a scale then says what it has for this item, not how loud it is. One scale is the plain cell, for
comparison; it has no parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.losses import CatalogueLoss
from training.nets.embedding import EventEmbedding, RMSNorm
from training.nets.scales import scale_names
from training.nets.scan import linear_scan
from training.sequences import SequenceBatch

__all__ = ["Tempo", "TempoConfig"]

WIDTH = 4  # of the convolution: the last three inputs are part of the state


@dataclass(frozen=True, slots=True)
class TempoConfig:
    """Sizes, with the reason for each default.

    Attributes:
        n_items: vocabulary size V; indices run from 1, 0 is padding or an unknown item.
        d: width; the best of a film log of a million ratings on two cores in ten minutes.
        n_layers: two, of which the second reads what the first remembers.
        n_scales: groups of channels: with four, minutes, hours, days and weeks.
        shortest_s, longest_s: the ends of the spread of tau: a minute, sixty days.
        n_best: items given per event; enough that what the user has seen can be taken out of them.
        dropout: on the embedding, and before the read-out; in training only.
    """

    n_items: int
    d: int = 128
    n_layers: int = 2
    n_scales: int = 4
    shortest_s: float = 60.0
    longest_s: float = 60 * 86_400.0
    n_best: int = 100
    dropout: float = 0.2

    @property
    def n_state(self) -> int:
        """Floats of state per user: each layer's channels, and its convolution's last three inputs."""
        return self.n_layers * self.d * WIDTH


class Tempo(nn.Module):
    """State (B, n_state) and one event per user in; the best items, their scores and the new state out."""

    def __init__(self, config: TempoConfig) -> None:
        super().__init__()
        d, n_scales = config.d, config.n_scales
        if d % n_scales != 0:
            raise ValueError(f"{d} channels do not fall into {n_scales} equal groups")
        self.config = config
        self.n_best = min(config.n_best, config.n_items)
        self.events = EventEmbedding(config.n_items, d)
        groups = [1] * (config.n_layers - 1) + [n_scales]
        self.cells = nn.ModuleList(Cell(config, n_groups) for n_groups in groups)
        self.gate = nn.Linear(d, n_scales)
        self.final = RMSNorm(d)
        self.bias = nn.Parameter(torch.zeros(config.n_items))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """One event per user, in time and memory that do not depend on how many came before.

        Args:
            item, kind: (B,) int64.
            gap_s: (B,) seconds since the user's event before, 0 for the first.
            value: (B,), 0 for none.
            state: (B, n_state), zeros for a new user.

        Returns:
            items (B, k) int64 vocabulary indices, best first; scores (B, k); state (B, n_state); with more than one
            scale, parts (B, k, G), see `parts`.
        """
        queries, alpha, state = self.step(item, kind, gap_s, value, state)
        weighed = alpha.unsqueeze(-1) * queries  # (B, G, d)
        scores, index = torch.topk(self.logits(weighed.sum(dim=-2)), self.n_best)
        if self.config.n_scales == 1:
            return index + 1, scores, state
        items, bias = self._table()
        parts = items[index] @ weighed.transpose(1, 2) + bias[index].unsqueeze(-1) * alpha.unsqueeze(1)
        return index + 1, scores, state, parts

    def step(
        self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> queries (B, G, d), alpha (B, G), state (B, n_state)."""
        x = self.events(item, kind, gap_s, value)
        kept = state.reshape(-1, self.config.n_layers, WIDTH, self.config.d)  # s, then inputs, oldest first
        written = []
        scales = x.unsqueeze(-2)
        for at, cell in enumerate(cast("list[Cell]", self.cells)):
            x = scales.sum(dim=-2)
            scales, wrote = cell.step(x, gap_s, kept[:, at])
            written.append(wrote)
        return (*self._read(x, scales), torch.stack(written, dim=1).flatten(1))

    def sequence(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Whole histories from empty states, all events in parallel -> queries (B, T, G, d), alpha (B, T, G)."""
        x = self.dropout(self.events(batch.item, batch.kind, batch.gap_s, batch.value))
        scales = x.unsqueeze(-2)
        for cell in cast("list[Cell]", self.cells):
            x = scales.sum(dim=-2)
            scales = cell.sequence(x, batch.gap_s)
        return self._read(x, scales)

    def logits(self, query: Tensor) -> Tensor:
        """Scores of the whole vocabulary, relative to the average item: (..., d) -> (..., V)."""
        return functional.linear(query, *self._table())

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the scales, by the time constants that their channels have learnt; none for a single one."""
        if self.config.n_scales == 1:
            return ()
        log_tau = cast("Cell", self.cells[-1]).log_tau.detach().reshape(self.config.n_scales, -1)
        return scale_names(torch.exp(log_tau.mean(dim=1)).tolist())

    def loss(self, batch: SequenceBatch, catalogue_loss: CatalogueLoss) -> Tensor:
        """Of predicting each event's next item."""
        queries, alpha = self.sequence(batch)
        known = batch.target > 0
        query = (alpha[known].unsqueeze(-1) * queries[known]).sum(dim=-2)  # (N, d)
        return catalogue_loss(query, self.events.items.weight[1:], self.bias, batch.target[known])

    def predict(self, batch: SequenceBatch, at: Tensor) -> Tensor:
        """Scores (B, V) right after event `at` (B,) of each sequence."""
        queries, alpha = self.sequence(batch)
        row = torch.arange(len(at), device=at.device)
        return self.logits((alpha[row, at].unsqueeze(-1) * queries[row, at]).sum(dim=-2))

    def _table(self) -> tuple[Tensor, Tensor]:
        """Items (V, d) and their biases (V,), less the average item's. A softmax never sees the difference."""
        items = self.events.items.weight[1:]
        return items - items.mean(dim=0), self.bias - self.bias.mean()

    def _read(self, x: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.dropout(self.final(scales))
        return queries, torch.softmax(self.gate(x), dim=-1)


class Cell(nn.Module):
    """One layer. With `n_groups` above 1, the groups' outputs stay apart; otherwise there is one of them."""

    def __init__(self, config: TempoConfig, n_groups: int) -> None:
        super().__init__()
        d, self.n_groups = config.d, n_groups
        self.norm = RMSNorm(d)
        self.taps = nn.Parameter(torch.randn(WIDTH, d) * 0.1)
        self.mix = nn.Linear(d, 4 * d)  # u, z, the gate of forgetting, the gate of writing
        self.log_tau = nn.Parameter(torch.linspace(math.log(config.shortest_s), math.log(config.longest_s), d))
        self.log_tick = nn.Parameter(torch.linspace(math.log(1 / 4), math.log(1 / 128), d))
        self.out = nn.Parameter(torch.randn(n_groups, d // n_groups, d) * d**-0.5)
        self.norm_wide = RMSNorm(d)
        n_wide = 2 * d // n_groups
        self.wide = nn.Parameter(torch.randn(n_groups, d, 2 * n_wide) * d**-0.5)
        self.narrow = nn.Parameter(torch.randn(n_groups, n_wide, d) * (2 * d) ** -0.5)
        with torch.no_grad():
            self.taps[-1] += 1.0  # starts close to the event itself

    def step(self, x: Tensor, gap_s: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, d), gap_s (B,), kept (B, WIDTH, d) -> scales (B, groups, d), kept (B, WIDTH, d)."""
        inputs = torch.cat([kept[:, 1:], self.norm(x).unsqueeze(1)], dim=1)  # (B, WIDTH, d)
        keep, write, z = self._gates((inputs * self.taps).sum(dim=1), gap_s)
        s = keep * kept[:, 0] + write
        return self._out(x, s * functional.silu(z)), torch.cat([s.unsqueeze(1), inputs[:, 1:]], dim=1)

    def sequence(self, x: Tensor, gap_s: Tensor) -> Tensor:
        """x (B, T, d), gap_s (B, T) -> scales (B, T, groups, d)."""
        inputs = functional.pad(self.norm(x), (0, 0, WIDTH - 1, 0))
        n_steps = x.shape[1]
        conv = torch.zeros_like(x)
        for at in range(WIDTH):
            conv = conv + inputs[:, at : at + n_steps] * self.taps[at]
        keep, write, z = self._gates(conv, gap_s)
        return self._out(x, linear_scan(keep, write) * functional.silu(z))

    def _gates(self, c: Tensor, gap_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c (..., d), gap_s (...) -> a, sqrt(1 - a^2) gate_in u, z, each (..., d)."""
        u, z, forget, write = self.mix(c).chunk(4, dim=-1)
        aged = gap_s.clamp(min=0.0).unsqueeze(-1) * torch.exp(-self.log_tau) + torch.exp(self.log_tick)
        r = 2 * torch.sigmoid(forget) * aged  # the gate starts at 1, so tau starts as what it says
        # 1 - exp(-2r) = 2t / (1 + t) with t = tanh r, which loses no digits where r is tiny.
        t = torch.tanh(r)
        return torch.exp(-r), torch.sqrt(2 * t / (1 + t)) * torch.sigmoid(write) * u, z

    def _out(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (..., d) -> (..., groups, d): residual and SwiGLU of each group."""
        y = y.reshape(*y.shape[:-1], self.n_groups, y.shape[-1] // self.n_groups)
        r = x.unsqueeze(-2) + _by_group(y, self.out)
        signal, gate = _by_group(self.norm_wide(r), self.wide).chunk(2, dim=-1)
        wide: Tensor = r + _by_group(signal * functional.silu(gate), self.narrow)
        return wide


def _by_group(x: Tensor, weight: Tensor) -> Tensor:
    """Each group's own product: x (..., G, i), weight (G, i, j) -> (..., G, j)."""
    return torch.stack([part @ weight[at] for at, part in enumerate(x.unbind(-2))], dim=-2)

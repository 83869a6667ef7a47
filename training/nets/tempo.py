"""Tempo, the flagship on one page: a gated linear recurrence that decays in physical time, read out per time scale.

A real-gated linear recurrence in the line of De et al., "Griffin: Mixing Gated Linear Recurrences with Local Attention
for Efficient Language Models", 2024 (arXiv 2402.19427), but what is forgotten depends on how much time has passed: each
scale g keeps the whole vector of the user's past, each channel with a time constant of its own, tau spread
log-uniformly from a minute to sixty days over all scales, and learnt.

    x      = embedding of the event: item, kind, value, gap        v = that of its item alone (layer 1), x (later)
    c      = causal depthwise convolution of width 4 over RMSNorm(x)
    a_g    = exp(-gate_g(c) (gap / tau_g + tick_g))
    s_g    = a_g s_g + gate(c) W v
    y_g    = W_g (RMSNorm(s_g) silu(Z_g c))
    r_g    = skip v + y_g;    r_g = r_g + SwiGLU_g(RMSNorm(r_g))

`tick` is what an event itself ages the state by: otherwise events of one second would be summed up for ever.

Its start is not noise. With W = W_g = 1 and open gates, s_g are exponential moving averages of item embeddings and
the score is how close an item is to them, which for few users is hard to beat (Kabbur et al., "FISM", 2013). What the
gates, the convolution and the SwiGLU add is learnt from there; from noise, such a cell learns several times slower.

    score(i) = sum over scales g of  alpha_g (query_g . item_i + bias_i)
    query_g  = RMSNorm(r_g),   alpha = softmax(W [RMSNorm(x), log |s|])

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

from training.losses import CatalogueLoss, Past
from training.nets.embedding import EventEmbedding, RMSNorm
from training.nets.scales import scale_names
from training.nets.scan import linear_scan
from training.sequences import SequenceBatch

__all__ = ["Tempo", "TempoConfig"]

WIDTH = 4  # of the convolution: the last three inputs are part of the state
_SILU_IS_ONE = 1.2784645


@dataclass(frozen=True, slots=True)
class TempoConfig:
    """Sizes, with the reason for each default.

    Attributes:
        n_items: vocabulary size V; indices run from 1, 0 is padding or an unknown item.
        d: width; the state has d floats for each scale.
        n_layers: one; a second found nothing more on a hundred thousand ratings.
        n_scales: with four, minutes, hours, days and weeks.
        decomposed: whether each scale has a read-out of its own. False adds them up before one that is as large as all
            of theirs: to know what the reasons cost. Its scores have no parts.
        shortest_s, longest_s: the ends of the spread of tau: a minute, sixty days.
        first_tick, last_tick: those of tick, from the fastest channel to the slowest.
        n_best: items given per event; enough that what the user has seen can be taken out of them.
        dropout: on what the scales remember, and before the read-out; in training only.
    """

    n_items: int
    d: int = 64
    n_layers: int = 1
    n_scales: int = 4
    decomposed: bool = True
    shortest_s: float = 60.0
    longest_s: float = 60 * 86_400.0
    first_tick: float = 1 / 4
    last_tick: float = 1 / 256
    n_best: int = 100
    dropout: float = 0.2

    @property
    def n_readouts(self) -> int:
        """Queries that a score is the sum of."""
        return self.n_scales if self.decomposed else 1

    @property
    def n_state(self) -> int:
        """Floats of state per user: each layer's scales, and its convolution's last three inputs."""
        return self.n_layers * self.d * (self.n_scales + WIDTH - 1)


class Tempo(nn.Module):
    """State (B, n_state) and one event per user in; the best items, their scores and the new state out."""

    def __init__(self, config: TempoConfig) -> None:
        super().__init__()
        d, n_scales = config.d, config.n_scales
        if 2 * d % config.n_readouts != 0:
            raise ValueError(f"{2 * d} channels of a SwiGLU do not fall into {config.n_readouts} equal groups")
        self.config = config
        self.n_best = min(config.n_best, config.n_items)
        self.events = EventEmbedding(config.n_items, d)
        self.cells = nn.ModuleList(Cell(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(d)
        self.gate = nn.Linear(d + n_scales, config.n_readouts)
        self.final = RMSNorm(d)
        self.bias = nn.Parameter(torch.zeros(config.n_items))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.gate.weight, std=0.02)
        nn.init.zeros_(self.gate.bias)

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
        if self.config.n_readouts == 1:
            return index + 1, scores, state
        items, bias = self._table()
        parts = items[index] @ weighed.transpose(1, 2) + bias[index].unsqueeze(-1) * alpha.unsqueeze(1)
        return index + 1, scores, state, parts

    def ask(self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, but for `training.nets.query`: query (B, d + 1), state, and queries (B, G, d + 1) of parts."""
        queries, alpha, state = self.step(item, kind, gap_s, value, state)
        weight = alpha.unsqueeze(-1)
        asked = torch.cat([weight * queries, weight], dim=-1)  # (B, G, d + 1): a bias counts as much as its scale
        return (asked.sum(dim=-2), state, asked) if self.config.n_readouts > 1 else (asked.sum(dim=-2), state)

    def ranked_by(self) -> tuple[Tensor, Tensor]:
        """What `ask` is compared with: items (V, d) and their biases (V,)."""
        return self._table()

    def step(
        self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> queries (B, G, d), alpha (B, G), state (B, n_state)."""
        x, known = self.events(item, kind, gap_s, value), self._value(item)
        kept = state.reshape(
            -1, self.config.n_layers, self.config.n_scales + WIDTH - 1, self.config.d
        )  # scales, then inputs, oldest first
        written = []
        scales, sizes = known.unsqueeze(-2), x
        first, fed = x, known
        for at, cell in enumerate(cast("list[Cell]", self.cells)):
            scales, sizes, wrote = cell.step(x, fed, gap_s, kept[:, at])
            x = fed = scales.mean(dim=-2)
            written.append(wrote)
        return (*self._read(first, scales, sizes), torch.stack(written, dim=1).flatten(1))

    def sequence(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Whole histories from empty states, all events in parallel -> queries (B, T, G, d), alpha (B, T, G)."""
        x, known = self.events(batch.item, batch.kind, batch.gap_s, batch.value), self._value(batch.item)
        scales, sizes = known.unsqueeze(-2), x
        first, fed = x, known
        for cell in cast("list[Cell]", self.cells):
            scales, sizes = cell.sequence(x, fed, batch.gap_s, self.dropout)
            x = fed = scales.mean(dim=-2)
        return self._read(first, scales, sizes)

    def logits(self, query: Tensor) -> Tensor:
        """Scores of the whole vocabulary, relative to the average item: (..., d) -> (..., V)."""
        return functional.linear(query, *self._table())

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the scales, by the time constants that their channels have learnt; none for a single one."""
        if self.config.n_readouts == 1:
            return ()
        log_tau = cast("Cell", self.cells[-1]).log_tau.detach().reshape(self.config.n_scales, -1)
        return scale_names(torch.exp(log_tau.mean(dim=1)).tolist())

    def loss(self, batch: SequenceBatch, catalogue_loss: CatalogueLoss) -> Tensor:
        """Of predicting each event's next item."""
        queries, alpha = self.sequence(batch)
        known = batch.target > 0
        query = (alpha[known].unsqueeze(-1) * queries[known]).sum(dim=-2)  # (N, d)
        items, past = self.events.items.weight[1:], Past.of(batch.item, known)
        return catalogue_loss(query, items, self.bias, batch.target[known], past)

    def predict(self, batch: SequenceBatch, at: Tensor) -> Tensor:
        """Scores (B, V) right after event `at` (B,) of each sequence."""
        queries, alpha = self.sequence(batch)
        row = torch.arange(len(at), device=at.device)
        return self.logits((alpha[row, at].unsqueeze(-1) * queries[row, at]).sum(dim=-2))

    def _table(self) -> tuple[Tensor, Tensor]:
        """Items (V, d) and their biases (V,), less the average item's. A softmax never sees the difference."""
        items = self.events.items.weight[1:]
        return items - items.mean(dim=0), self.bias - self.bias.mean()

    def _value(self, item: Tensor) -> Tensor:
        """(...) -> (..., d) items alone, of about unit size."""
        value: Tensor = self.events.items(item) * math.sqrt(self.config.d)
        return value

    def _read(self, x: Tensor, scales: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., d), scales (..., G, d), sizes (..., G) -> queries (..., G, d), alpha (..., G)."""
        queries = self.dropout(self.final(scales))
        return queries, torch.softmax(self.gate(torch.cat([self.norm(x), sizes], dim=-1)), dim=-1)


class Cell(nn.Module):
    """One layer: every scale keeps a fading sum of what came in, and speaks for itself."""

    def __init__(self, config: TempoConfig) -> None:
        super().__init__()
        d, n_scales = config.d, config.n_scales
        self.n_scales = n_scales
        self.norm = RMSNorm(d)
        self.taps = nn.Parameter(torch.randn(WIDTH, d) * 0.1)
        self.value = nn.Linear(d, d, bias=False)
        self.write = nn.Linear(d, d)
        self.forget = nn.Linear(d, n_scales)
        self.show = nn.Linear(d, n_scales * d)
        # Vectors, all of them: weight decay, which pulls matrices towards 0, has no business with a time constant.
        n = n_scales * d
        self.log_tau = nn.Parameter(torch.linspace(math.log(config.shortest_s), math.log(config.longest_s), n))
        self.log_tick = nn.Parameter(torch.linspace(math.log(config.first_tick), math.log(config.last_tick), n))
        self.gain = nn.Parameter(torch.ones(n))
        self.out = nn.Parameter(torch.eye(d).repeat(n_scales, 1, 1))
        self.skip = nn.Parameter(torch.ones(d))
        self.norm_wide = RMSNorm(d)
        n_wide = 2 * d // config.n_readouts
        self.n_readouts = config.n_readouts
        self.wide = nn.Parameter(torch.randn(config.n_readouts, d, 2 * n_wide) * d**-0.5)
        self.narrow = nn.Parameter(torch.randn(config.n_readouts, n_wide, d) * 0.3 * (2 * d) ** -0.5)
        # It starts as moving averages of items: what goes in comes out, and gates are open.
        nn.init.eye_(self.value.weight)
        for gate in (self.write, self.forget, self.show):
            nn.init.normal_(gate.weight, std=0.02)
            nn.init.zeros_(gate.bias)
        nn.init.constant_(self.show.bias, _SILU_IS_ONE)
        with torch.no_grad():
            self.taps[-1] += 1.0  # starts close to the event itself

    def step(self, x: Tensor, value: Tensor, gap_s: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, value (B, d), gap_s (B,), kept (B, G + 3, d) -> scales (B, G, d), their sizes (B, G), kept."""
        s, inputs = kept[:, : self.n_scales], kept[:, self.n_scales :]
        inputs = torch.cat([inputs, self.norm(x).unsqueeze(1)], dim=1)  # (B, WIDTH, d)
        c = (inputs * self.taps).sum(dim=1)
        s = self._keep(c, gap_s) * s + self._new(c, value).unsqueeze(-2)
        return *self._out(c, value, s), torch.cat([s, inputs[:, 1:]], dim=1)

    def sequence(self, x: Tensor, value: Tensor, gap_s: Tensor, dropout: nn.Module) -> tuple[Tensor, Tensor]:
        """x, value (B, T, d), gap_s (B, T) -> scales (B, T, G, d), their sizes (B, T, G)."""
        inputs = functional.pad(self.norm(x), (0, 0, WIDTH - 1, 0))
        n_steps = x.shape[1]
        c = torch.zeros_like(x)
        for at in range(WIDTH):
            c = c + inputs[:, at : at + n_steps] * self.taps[at]
        keep = self._keep(c, gap_s)  # (B, T, G, d)
        new = self._new(c, value).unsqueeze(-2).expand_as(keep)
        s = linear_scan(keep.flatten(2), new.flatten(2)).reshape(keep.shape)
        return self._out(c, value, s, dropout)

    def _keep(self, c: Tensor, gap_s: Tensor) -> Tensor:
        """c (..., d), gap_s (...) -> a (..., G, d)."""
        aged = gap_s.clamp(min=0.0).unsqueeze(-1) * torch.exp(-self.log_tau) + torch.exp(self.log_tick)  # (..., G d)
        gate = 2 * torch.sigmoid(self.forget(c)).unsqueeze(-1)  # starts at 1, so tau starts as what it says
        return torch.exp(-aged.reshape(*aged.shape[:-1], self.n_scales, len(self.skip)) * gate)

    def _new(self, c: Tensor, value: Tensor) -> Tensor:
        """c, value (..., d) -> what is written, (..., d)."""
        new: Tensor = self.value(value) * 2 * torch.sigmoid(self.write(c))
        return new

    def _out(self, c: Tensor, value: Tensor, s: Tensor, dropout: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """c, value (..., d), s (..., G, d) -> read-outs (..., G or 1, d), the log of the scales' sizes (..., G)."""
        size = s.square().mean(dim=-1, keepdim=True) + 1e-4
        y = s * torch.rsqrt(size) * self.gain.reshape(self.n_scales, -1)
        y = dropout(y) if dropout is not None else y
        y = y * functional.silu(self.show(c)).reshape(s.shape)
        y = _by_group(y, self.out)
        y = y if self.n_readouts == self.n_scales else y.mean(dim=-2, keepdim=True)
        r = (self.skip * value).unsqueeze(-2) + y
        signal, gate = _by_group(self.norm_wide(r), self.wide).chunk(2, dim=-1)
        r = r + _by_group(signal * functional.silu(gate), self.narrow)
        return r, torch.log(size.squeeze(-1)) / 4


def _by_group(x: Tensor, weight: Tensor) -> Tensor:
    """Each group's own product: x (..., G, i), weight (G, i, j) -> (..., G, j)."""
    return torch.stack([part @ weight[at] for at, part in enumerate(x.unbind(-2))], dim=-2)

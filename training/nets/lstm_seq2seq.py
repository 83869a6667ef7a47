"""An encoder and one decoder per time scale, on one page: "what next" and "what over the next week" from one state.

Sutskever et al., "Sequence to Sequence Learning with Neural Networks", 2014 (arXiv 1409.3215), for recommendation as in
Hidasi et al., 2016 (arXiv 1511.06939). What a user does within a horizon is a set, not a list, so each decoder takes
one step from the encoder's state, started by its horizon's own vector, and predicts the whole set at once; its loss
draws from the set. The decoders' queries, weighed by the state, add up to the query that is served; the served loss is
that of the next event, and each decoder's own loss keeps it to its own horizon.

The LSTM reads a short causal convolution of the events, in which the gaps between them are told.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.losses import CatalogueLoss, Past
from training.nets.embedding import EventEmbedding, RMSNorm
from training.nets.query import with_one
from training.nets.scan import linear_scan
from training.sequences import HORIZONS_MS, SequenceBatch

__all__ = ["LstmSeq2Seq", "LstmSeq2SeqConfig"]

WIDTH = 4  # of the convolution: the last three inputs are part of the state


@dataclass(frozen=True, slots=True)
class LstmSeq2SeqConfig:
    """Sizes, with the reason for each default.

    Attributes:
        n_items: vocabulary size V; indices run from 1, 0 is padding or an unknown item.
        d: width of the encoder, the decoders and the embeddings.
        horizons_ms: what the decoders beyond the next event look ahead: an hour, a day, a week.
        horizon_weight: of the decoders' own losses beside the served one. Small: they shape the state, they are not
            what is measured.
        n_best: items given per event; enough that what the user has seen can be taken out of them.
        dropout: on the embedding, and before the read-out; in training only.
    """

    n_items: int
    d: int = 128
    horizons_ms: tuple[int, ...] = HORIZONS_MS
    horizon_weight: float = 0.3
    n_best: int = 100
    dropout: float = 0.2

    @property
    def n_state(self) -> int:
        """Floats of state per user: the LSTM's two vectors and the convolution's last three inputs."""
        return self.d * (WIDTH + 1)


class LstmSeq2Seq(nn.Module):
    """State (B, n_state) and one event per user in; the best items, their scores and the new state out."""

    def __init__(self, config: LstmSeq2SeqConfig) -> None:
        super().__init__()
        d, n_decoders = config.d, 1 + len(config.horizons_ms)
        self.config = config
        self.n_best = min(config.n_best, config.n_items)
        self.events = EventEmbedding(config.n_items, d)
        self.norm = RMSNorm(d)
        self.taps = nn.Parameter(torch.randn(WIDTH, d) * 0.1)
        self.encoder = nn.LSTM(d, d, batch_first=True)
        self.horizons = nn.Parameter(torch.zeros(n_decoders, 4 * d))  # what starts each decoder
        self.decoders = nn.Parameter(torch.randn(n_decoders, d, 4 * d) * d**-0.5)
        self.norm_wide = RMSNorm(d)
        self.wide = nn.Linear(d, 4 * d, bias=False)
        self.narrow = nn.Linear(2 * d, d, bias=False)
        self.final = RMSNorm(d)
        self.fuse = nn.Linear(d, n_decoders)
        self.bias = nn.Parameter(torch.zeros(config.n_items))
        self.dropout = nn.Dropout(config.dropout)
        with torch.no_grad():
            self.taps[-1] += 1.0  # starts close to the event itself
            self.fuse.bias[0] += 2.0  # starts close to the next event's decoder, which is what is served

    def forward(
        self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One event per user; the encoder steps, the decoders start over.

        Args:
            item, kind: (B,) int64.
            gap_s: (B,) seconds since the user's event before, 0 for the first.
            value: (B,), 0 for none.
            state: (B, n_state), zeros for a new user.

        Returns:
            items (B, k) int64 vocabulary indices, best first; scores (B, k); state (B, n_state).
        """
        queries, alpha, state = self.step(item, kind, gap_s, value, state)
        scores, index = torch.topk(self.logits((alpha.unsqueeze(-1) * queries).sum(dim=-2)), self.n_best)
        return index + 1, scores, state

    def ask(self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, but for `training.nets.query`: query (B, d + 1) and state."""
        queries, alpha, state = self.step(item, kind, gap_s, value, state)
        return with_one((alpha.unsqueeze(-1) * queries).sum(dim=-2)), state

    def ranked_by(self) -> tuple[Tensor, Tensor]:
        """What `ask` is compared with: items (V, d) and their biases (V,)."""
        return self.events.items.weight[1:], self.bias

    def step(
        self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> queries (B, H, d) of the next event and each horizon, alpha (B, H), state (B, n_state)."""
        kept = state.reshape(-1, WIDTH + 1, self.config.d)  # hidden, cell, then inputs, oldest first
        x = self.events(item, kind, gap_s, value)
        inputs = torch.cat([kept[:, 2:], self.norm(x).unsqueeze(1)], dim=1)  # (B, WIDTH, d)
        gates = self._gates((inputs * self.taps).sum(dim=1), kept[:, 0])
        cell, hidden = _lstm(gates, kept[:, 1])
        queries, alpha = self._decode(x, hidden, cell)
        return queries, alpha, torch.cat([hidden, cell, inputs[:, 1:].flatten(1)], dim=1)

    def sequence(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Whole histories from empty states -> queries (B, T, H, d), alpha (B, T, H)."""
        x = self.dropout(self.events(batch.item, batch.kind, batch.gap_s, batch.value))
        inputs = functional.pad(self.norm(x), (0, 0, WIDTH - 1, 0))
        n_steps = x.shape[1]
        conv = torch.zeros_like(x)
        for at in range(WIDTH):
            conv = conv + inputs[:, at : at + n_steps] * self.taps[at]
        hidden, _ = self.encoder(conv)  # (B, T, d)
        return self._decode(x, hidden, self._cells(conv, hidden))

    def logits(self, query: Tensor) -> Tensor:
        """Scores of the whole vocabulary: (..., d) -> (..., V)."""
        return functional.linear(query, self.events.items.weight[1:], self.bias)

    def horizon_logits(self, queries: Tensor) -> Tensor:
        """What each decoder says of every item within its horizon: (..., H, d) -> (..., H, V)."""
        return self.logits(queries)

    def loss(self, batch: SequenceBatch, catalogue_loss: CatalogueLoss) -> Tensor:
        """Of predicting the next item with all decoders together, and with each decoder an item of its horizon.

        Each event teaches one decoder, drawn by lot, its own horizon: all of them at the price of one.
        """
        queries, alpha = self.sequence(batch)
        items = self.events.items.weight[1:]
        known = batch.target > 0
        query = (alpha[known].unsqueeze(-1) * queries[known]).sum(dim=-2)  # (N, d)
        loss = catalogue_loss(query, items, self.bias, batch.target[known], Past.of(batch.item, known))
        targets = torch.cat([batch.target.unsqueeze(-1), batch.ahead], dim=-1)  # (B, T, H)
        n_decoders = targets.shape[-1]
        drawn = torch.randint(n_decoders, batch.target.shape, device=targets.device)
        own = (drawn.unsqueeze(-1) == torch.arange(n_decoders, device=targets.device)) & (targets > 0)
        past = Past.of(batch.item, own)
        of_horizons = catalogue_loss(queries[own], items, self.bias, targets[own], past)
        return loss + self.config.horizon_weight * of_horizons

    def predict(self, batch: SequenceBatch, at: Tensor) -> Tensor:
        """Scores (B, V) right after event `at` (B,) of each sequence."""
        queries, alpha = self.sequence(batch)
        row = torch.arange(len(at), device=at.device)
        return self.logits((alpha[row, at].unsqueeze(-1) * queries[row, at]).sum(dim=-2))

    def _cells(self, conv: Tensor, hidden: Tensor) -> Tensor:
        """(B, T, d) the LSTM's cell after each event, which PyTorch gives only for the last.

        Its gates follow from the inputs and the hidden states, all at once; what is left is c = f c + i g, a scan.
        """
        write, keep, new, _ = self._gates(conv, functional.pad(hidden[:, :-1], (0, 0, 1, 0))).chunk(4, dim=-1)
        return linear_scan(torch.sigmoid(keep), torch.sigmoid(write) * torch.tanh(new))

    def _gates(self, conv: Tensor, hidden: Tensor) -> Tensor:
        """The encoder's gates (..., 4d) from its input and the hidden state before, (..., d) each."""
        weights = dict(self.encoder.named_parameters())
        gates = functional.linear(conv, weights["weight_ih_l0"], weights["bias_ih_l0"])
        return gates + functional.linear(hidden, weights["weight_hh_l0"], weights["bias_hh_l0"])

    def _decode(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """x, hidden, cell (..., d) -> queries (..., H, d), alpha (..., H)."""
        started = torch.stack([hidden @ decoder for decoder in self.decoders.unbind(0)], dim=-2)
        gates = started + self.horizons  # (..., H, 4d)
        _, decoded = _lstm(gates, cell.unsqueeze(-2))
        y = x.unsqueeze(-2) + decoded
        signal, gate = self.wide(self.norm_wide(y)).chunk(2, dim=-1)
        y = y + self.narrow(signal * functional.silu(gate))
        return self.dropout(self.final(y)), torch.softmax(self.fuse(hidden), dim=-1)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM from its gates (..., 4d), in PyTorch's order, and cell (..., d): the new cell and hidden."""
    write, keep, new, show = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(new)
    return cell, torch.sigmoid(show) * torch.tanh(cell)

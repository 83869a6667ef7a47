"""A recurrent recommender on one page: one GRU step per event, with time inside.

The state fades between events at a learnt rate per channel, started from a minute to sixty days, as in GRU-D: Che et
al., "Recurrent Neural Networks for Multivariate Time Series with Missing Values", 2018 (arXiv 1606.01865). Ranking
by the product of state and item embedding is GRU4Rec's: Hidasi et al., "Session-based Recommendations with Recurrent
Neural Networks", 2016 (arXiv 1511.06939); here with tied embeddings and cross-entropy over the whole catalogue.

It has two forms that compute the same. `forward` is one event per user with the state carried in and out: that is what
is exported and served. `sequence` is whole histories at once: that is what is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.nets.query import with_one

__all__ = ["Recurrent", "RecurrentConfig", "Sequences", "train_recurrent"]

MINUTE_S = 60.0
DAY_S = 86_400.0
GONE = 16.0  # time constants after which a channel is empty: e**-16 is below what half precision resolves


@dataclass(frozen=True, slots=True)
class RecurrentConfig:
    """Sizes, with the reason for each default.

    Attributes:
        n_items: vocabulary size V; indices run from 1, and 0 is padding or an unknown item.
        n_kinds: event-type codes.
        n_state: floats of state per user, and of each item's embedding (tied).
        n_best: items given per event; enough that what the user has seen can be taken out of them.
        dropout: on the input and before the output, in training only.
    """

    n_items: int
    n_kinds: int = 8
    n_state: int = 64
    n_best: int = 100
    dropout: float = 0.2


@dataclass(frozen=True, slots=True)
class Sequences:
    """Users' events, each array (N,), sorted by user and then by time.

    Attributes:
        user: any integer per user.
        item: vocabulary index, 0 for unknown.
        kind: event-type code.
        ts_ms: event time.
        value: the event's value, NaN for none.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    kind: NDArray[np.int64]
    ts_ms: NDArray[np.int64]
    value: NDArray[np.float32]


class Recurrent(nn.Module):
    """State (B, d) and one event per user in; the best items, their scores and the new state out."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        d = config.n_state
        self.config = config
        self.n_best = min(config.n_best, config.n_items)
        self.items = nn.Embedding(config.n_items + 1, d, padding_idx=0)
        self.kinds = nn.Embedding(config.n_kinds, d)
        self.gap = nn.Linear(2, d)
        self.value = nn.Linear(1, d, bias=False)
        self.gates_in = nn.Linear(d, 3 * d)
        self.gates_state = nn.Linear(d, 3 * d)
        self.log_rate = nn.Parameter(torch.linspace(-math.log(MINUTE_S), -math.log(60 * DAY_S), d))
        self.norm = nn.LayerNorm(d)
        self.bias = nn.Parameter(torch.zeros(config.n_items))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.items.weight, std=d**-0.5)
        with torch.no_grad():
            self.items.weight[0] = 0.0

    def forward(
        self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One event per user.

        Args:
            item: (B,) int64, 0 for unknown.
            kind: (B,) int64.
            gap_s: (B,) seconds since the user's event before, 0 for the first.
            value: (B,), NaN for none.
            state: (B, d), zeros for a new user.

        Returns:
            items (B, k) int64 vocabulary indices, best first; scores (B, k) logits; state (B, d).
        """
        state = self._step(self._event(item, kind, gap_s, value), self._fade(gap_s), state)
        scores, indices = torch.topk(self.logits(state), self.n_best)
        return indices + 1, scores, state

    def ask(self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, but for `training.nets.query`: query (B, d + 1) and state."""
        state = self._step(self._event(item, kind, gap_s, value), self._fade(gap_s), state)
        return with_one(self.norm(state)), state

    def ranked_by(self) -> tuple[Tensor, Tensor]:
        """What `ask` is compared with: items (V, d) and their biases (V,)."""
        return self.items.weight[1:], self.bias

    def sequence(self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor) -> Tensor:
        """Whole histories: inputs (B, L), state (B, d) before the first event -> states (B, L, d) after each event."""
        gates = self._event(item, kind, gap_s, value)  # (B, L, 3d), all in one product
        fade = self._fade(gap_s)  # (B, L, d)
        states = []
        for at in range(item.shape[1]):
            state = self._step(gates[:, at], fade[:, at], state)
            states.append(state)
        return torch.stack(states, dim=1)

    def logits(self, state: Tensor) -> Tensor:
        """Scores of the whole vocabulary: (..., d) -> (..., V)."""
        return functional.linear(self.dropout(self.norm(state)), self.items.weight[1:], self.bias)

    def _event(self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor) -> Tensor:
        """What an event says to the gates: (...) -> (..., 3d)."""
        amount = torch.where(torch.isnan(value), torch.zeros_like(value), value)
        amount = torch.sign(amount) * torch.log1p(torch.abs(amount))
        gap = torch.log1p(torch.clamp(gap_s, min=0.0))
        time = torch.stack([gap / 10, (gap_s <= 0).to(gap.dtype)], dim=-1)  # (..., 2)
        said = self.items(item) + self.kinds(kind) + self.gap(time) + self.value(amount.unsqueeze(-1))
        gates: Tensor = self.gates_in(self.dropout(said))
        return gates

    def _fade(self, gap_s: Tensor) -> Tensor:
        """What is left of each channel of the state after `gap_s`: (...) -> (..., d), in [0, 1]."""
        spans = torch.clamp(gap_s, min=0.0).unsqueeze(-1) * torch.exp(self.log_rate)
        # Beyond, exactly nothing: numbers that are merely tiny turn denormal, and slow training down tenfold.
        return torch.where(spans < GONE, torch.exp(-spans), 0.0)

    def _step(self, gates: Tensor, fade: Tensor, state: Tensor) -> Tensor:
        """The GRU cell on a faded state: gates (B, 3d), fade (B, d), state (B, d) -> state (B, d)."""
        state = state * fade
        reset_in, keep_in, new_in = gates.chunk(3, dim=-1)
        reset_state, keep_state, new_state = self.gates_state(state).chunk(3, dim=-1)
        keep = torch.sigmoid(keep_in + keep_state)
        new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_state) * new_state)
        return new + keep * (state - new)


def train_recurrent(
    sequences: Sequences,
    config: RecurrentConfig,
    *,
    n_epochs: int = 15,
    n_length: int = 100,
    n_batch: int = 16,
    learning_rate: float = 5e-3,
    positive_kinds: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Recurrent:
    """Learn to predict each user's next item from the events before it.

    Histories are cut into pieces of `n_length` events, each with a fresh state. AdamW, one cycle, on the CPU.

    Args:
        positive_kinds: only events of these kinds are predicted; the others (dislikes) are only read.
        on_epoch: called after each epoch with its number from 1 and the mean loss in nats per target.

    Raises:
        ValueError: no user has two events, so that there is nothing to predict.
    """
    torch.manual_seed(seed)
    pieces, targets = _pieces(sequences, n_length, positive_kinds)
    if not (targets > 0).any():
        raise ValueError("there is nothing to predict: no user has a positive event after another event")
    model = Recurrent(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2)
    n_steps = n_epochs * math.ceil(len(targets) / n_batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=n_steps + 1)
    for epoch in range(1, n_epochs + 1):
        total, n_targets = 0.0, 0
        order = torch.randperm(len(targets))
        for start in range(0, len(targets), n_batch):
            rows = order[start : start + n_batch]
            state = torch.zeros(len(rows), config.n_state)
            item, kind, gap_s, value = (piece[rows] for piece in pieces)
            states = model.sequence(item, kind, gap_s, value, state)  # (b, L, d)
            target = targets[rows]  # (b, L)
            known = target > 0
            if not known.any():
                continue
            loss = functional.cross_entropy(model.logits(states[known]), target[known] - 1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * int(known.sum())
            n_targets += int(known.sum())
        if on_epoch is not None:
            on_epoch(epoch, total / n_targets)
    return model.eval()


def _pieces(
    sequences: Sequences, n_length: int, positive_kinds: tuple[int, ...]
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Cut histories into rows, padded on the right: item, kind, gap_s, value and targets, each (rows, n_length)."""
    user, item = sequences.user, sequences.item
    first = np.r_[True, user[1:] != user[:-1]] if len(user) > 0 else np.zeros(0, bool)
    gap_s = np.where(first, 0.0, np.diff(sequences.ts_ms, prepend=0) / 1000.0).astype(np.float32)
    wanted = np.where(np.isin(sequences.kind, positive_kinds), item, 0)
    target = np.where(np.r_[first[1:], True], 0, np.r_[wanted[1:], 0]) if len(user) > 0 else wanted
    start = np.flatnonzero(first)
    position = np.arange(len(user)) - np.repeat(start, np.diff(np.r_[start, len(user)]))
    row = np.cumsum(position % n_length == 0) - 1
    n_rows = int(row[-1]) + 1 if len(row) > 0 else 0

    def table(values: NDArray[np.generic], blank: float) -> Tensor:
        cells = np.full((n_rows, n_length), blank, values.dtype)
        cells[row, position % n_length] = values
        return torch.from_numpy(cells)

    inputs = (table(item, 0), table(sequences.kind, 0), table(gap_s, 0), table(sequences.value, np.nan))
    return inputs, table(target.astype(np.int64), 0)

"""What a net looks for, without looking for it: its query, where the vocabulary is too large to be in the graph.

A net whose scores are products of one query with every item can be served with an index. It has

    ask(...)       as `forward`, up to the products: query (B, q), the state if there is one, and, where a score is the
                   sum of named parts, a query of each (B, G, q), which sum to the first
    ranked_by()    items (V, q - 1) and their biases (V,): the query's last number is what the bias counts

`training.nets.moving_average` is no such net: what it adds for the user's own items is not a product.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["query_module", "vectors_of", "with_one"]


def with_one(query: Tensor) -> Tensor:
    """(..., d) -> (..., d + 1): followed by 1, for the bias."""
    return torch.cat([query, torch.ones_like(query[..., :1])], dim=-1)


class _EventQuery(nn.Module):
    """One event per user."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        asked: tuple[Tensor, ...] = self.net.ask(item, kind, gap_s, value, state)
        return asked


class _WordedQuery(_EventQuery):
    """The same with the words of the event's item."""

    def forward(  # type: ignore[override]  # one input more
        self, item: Tensor, item_content: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor
    ) -> tuple[Tensor, ...]:
        asked: tuple[Tensor, ...] = self.net.ask((item, item_content), kind, gap_s, value, state)
        return asked


class _HistoryQuery(_EventQuery):
    """A history, newest event last."""

    def forward(  # type: ignore[override]  # other inputs
        self, history_items: Tensor, history_age_s: Tensor, history_kinds: Tensor, history_values: Tensor
    ) -> tuple[Tensor, ...]:
        asked: tuple[Tensor, ...] = self.net.ask(history_items, history_age_s, history_kinds, history_values)
        return asked


_KINDS = {
    frozenset({"item", "kind", "gap_s", "value", "state"}): _EventQuery,
    frozenset({"item", "item_content", "kind", "gap_s", "value", "state"}): _WordedQuery,
    frozenset({"history_items", "history_age_s", "history_kinds", "history_values"}): _HistoryQuery,
}


def query_module(net: nn.Module, inputs: Iterable[str]) -> nn.Module | None:
    """The net up to its query, sharing its weights; None for a net that scores otherwise."""
    kind = _KINDS.get(frozenset(inputs))
    if kind is None or not hasattr(net, "ask") or not hasattr(net, "ranked_by"):
        return None
    return kind(net).train(net.training)


@torch.no_grad()
def vectors_of(net: Any) -> NDArray[np.float32]:
    """(V, q) what the query is compared with; row i is vocabulary index i + 1."""
    items, bias = net.ranked_by()
    vectors: NDArray[np.float32] = torch.cat([items, bias.unsqueeze(1)], dim=1).float().contiguous().cpu().numpy()
    return vectors

"""A recurrent net as it goes before a ranker, on one page: its best items, and the query that found them.

Any net will do that steps with carried state and ranks by `query . item + bias` (tempo, lstm_seq2seq). What an item is
to it is the sum of an embedding of its own, if it was among those trained on, and of the mean of its words':

    item = own[index] + mean of words[token]            own[0] = 0: an unknown item is what its words say

In training, items are met without their own embedding now and then, so that words learn to stand alone: the dropout of
Volkovs, Yu & Poutanen, "DropoutNet: Addressing Cold Start in Recommender Systems", 2017.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.nets.query import with_one

__all__ = ["ItemTable", "Retriever", "SteppingNet", "WordedRetriever", "mean_of_words", "tell_items"]


class SteppingNet(Protocol):
    """What is needed of a net: `training.nets.tempo.Tempo` and `training.nets.lstm_seq2seq.LstmSeq2Seq` have it."""

    config: Any
    events: Any
    """Its item table is `events.items`, which it also ranks by."""
    bias: Any
    """(V,)"""

    def step(self, item: Any, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """-> queries (B, G, d), their weights (B, G), state (B, n_state)."""
        ...


def mean_of_words(words: nn.Embedding, tokens: Tensor) -> Tensor:
    """tokens (..., T), 0 for none -> (..., d)."""
    n = (tokens > 0).sum(dim=-1, keepdim=True).clamp(min=1)
    mean: Tensor = words(tokens).sum(dim=-2) / n
    return mean


class ItemTable(nn.Module):
    """Stands where a net has its `nn.Embedding` of items.

    Args:
        own: the net's table, (V + 1) rows; row 0 is any other item.
        tokens: (V + 1, T) int64 buckets of each item's words, 0 for none.
        n_content: buckets.
        forget: share of the items that are met without their own embedding at each step of training.
    """

    tokens: Tensor

    def __init__(self, own: nn.Embedding, tokens: Tensor, n_content: int, forget: float = 0.1) -> None:
        super().__init__()
        self.own = own
        self.words = nn.Embedding(n_content + 1, own.embedding_dim, padding_idx=0)
        self.forget = forget
        self.register_buffer("tokens", tokens)
        nn.init.normal_(self.words.weight, std=0.5 * own.embedding_dim**-0.5)
        with torch.no_grad():
            self.words.weight[0] = 0.0

    @property
    def weight(self) -> Tensor:
        """(V + 1, d) what each item is."""
        own = self.own.weight
        if self.training and self.forget > 0:
            own = own * (torch.rand(len(own), 1, device=own.device) >= self.forget)
        return own + mean_of_words(self.words, self.tokens)

    def forward(self, item: Any) -> Tensor:
        """Indices (...), or a pair of indices (B,) and live words (B, T) that speak for items without an index."""
        if not isinstance(item, tuple):
            alone: Tensor = self.own(item) + mean_of_words(self.words, self.tokens[item])
            return alone
        index, live = item
        tokens = torch.where((index > 0).unsqueeze(-1), self.tokens[index], live)
        told: Tensor = self.own(index) + mean_of_words(self.words, tokens)
        return told


def tell_items(net: SteppingNet, tokens: Tensor, n_content: int, forget: float = 0.1) -> None:
    """Give a net's items words, in place."""
    net.events.items = ItemTable(net.events.items, tokens, n_content, forget)


class Retriever(nn.Module):
    """State (B, n_state) and one event per user in; the best items, their scores, the new state and the query out.

    Args:
        net: trained; its weights are not copied.
        n_best: items given per event.
    """

    table: Tensor

    def __init__(self, net: SteppingNet, n_best: int = 100) -> None:
        super().__init__()
        module: Any = net  # a module, which no protocol can say
        self.net = module.eval()  # an item table in training forgets items
        # As one table, so that the graph adds nothing up again for each event.
        self.register_buffer("table", self.net.events.items.weight.detach().clone())
        self.n_best = min(n_best, len(self.table) - 1)

    @property
    def n_state(self) -> int:
        """Floats of state per user."""
        return int(self.net.config.n_state)

    @property
    def n_query(self) -> int:
        """Floats of the query."""
        return self.table.shape[1] + 1

    def forward(
        self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As the net's own `forward`, and query (B, n_query) such that `query . [item, bias] ` is an item's score."""
        return self._ask(item, kind, gap_s, value, state)

    def _ask(
        self, item: Any, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        query, state = self.ask(item, kind, gap_s, value, state)
        scores, index = torch.topk(query[:, :-1] @ self.table[1:].T + self.net.bias, self.n_best)
        return index + 1, scores, state, query

    def ask(self, item: Any, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, but for `training.nets.query`: query (B, n_query) and state; `item` as `ItemTable` takes it."""
        queries, alpha, state = self.net.step(item, kind, gap_s, value, state)[:3]
        return with_one((alpha.unsqueeze(-1) * queries).sum(dim=-2)), state

    def ranked_by(self) -> tuple[Tensor, Tensor]:
        """What `ask` is compared with: items (V, d) and their biases (V,)."""
        return self.table[1:], self.net.bias

    @torch.no_grad()
    def representation(self) -> Tensor:
        """(V + 1, n_query) what the query is compared with; row 0 has no embedding and an average item's bias."""
        bias = self.net.bias.detach()
        return torch.cat([self.table, torch.cat([bias.mean().reshape(1), bias]).unsqueeze(1)], dim=1)

    @torch.no_grad()
    def words(self) -> Tensor | None:
        """(n_content + 1, n_query) what the query is compared with for each word; None where words say nothing."""
        items = self.net.events.items
        if not isinstance(items, ItemTable):
            return None
        weight = items.words.weight.detach()
        return torch.cat([weight, torch.zeros_like(weight[:, :1])], dim=1)


class WordedRetriever(Retriever):
    """The same for a net whose items have words: an event on an unknown item says what its words say."""

    def forward(  # type: ignore[override]  # one input more
        self, item: Tensor, item_content: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Retriever.forward`; item_content (B, T) are the words of the event's item."""
        return self._ask((item, item_content), kind, gap_s, value, state)

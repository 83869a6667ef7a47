"""Losses over a catalogue: exact ones in bounded memory, and a sampled one for catalogues beyond that.

The loss is worth more than the architecture: on a million film ratings the same LSTM goes from .118 to .167 NDCG@10 in
the same time when 512 negatives become the whole catalogue. So the exact loss is the default up to some ten thousand
items, and `sampled_cross_entropy` is for what lies beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = [
    "CHUNK_BYTES",
    "CatalogueLoss",
    "Past",
    "draw_negatives",
    "full_cross_entropy",
    "sampled_cross_entropy",
    "unseen_cross_entropy",
]


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """What stands before each of N queries, told by where these stand in a batch: never (N, V) at once.

    Attributes:
        item: (B, T) vocabulary indices of the batch's events, 0 for padding and unknown ones.
        piece, event: (N,) the row and the column of `item` right after which each query is asked.
    """

    item: Tensor
    piece: Tensor
    event: Tensor

    @classmethod
    def of(cls, item: Tensor, asked: Tensor) -> Self:
        """Of the queries that are taken from a batch where `asked` (B, T, ...) holds, in that order."""
        place = asked.nonzero()
        return cls(item, place[:, 0], place[:, 1])

    def first(self, n_items: int) -> Tensor:
        """(B, V) the event in which each item was first met, T for those that never are."""
        n_rows, n_events = self.item.shape
        event = torch.arange(n_events, device=self.item.device, dtype=torch.int32).expand(n_rows, -1)
        never = torch.full((n_rows, n_items + 1), n_events, dtype=torch.int32, device=self.item.device)
        return never.scatter_reduce(1, self.item, event, "amin")[:, 1:]


CatalogueLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Past], Tensor]
"""queries (N, d), items (V, d), bias (V,), target (N,) vocabulary indices from 1, what stands before the queries
-> mean loss in nats, a scalar."""

CHUNK_BYTES: Final = 8 << 20
"""Scores held at a time. Eight megabytes stay near the processor: a tenth faster than 64 at 1,700 items."""


def full_cross_entropy(
    query: Tensor,
    items: Tensor,
    bias: Tensor,
    target: Tensor,
    _: Past | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Mean of -log softmax(query . items + bias)[target] over all V items.

    Never holds more scores than fit into `chunk_bytes`: their gradient is taken chunk by chunk while they are there, so
    memory is O(V d + N d) and the cost that of the three products that any form needs.

    Args:
        query: (N, d).
        items: (V, d); row i is vocabulary index i + 1.
        bias: (V,).
        target: (N,) int64 from 1 to V.

    Returns:
        A scalar in nats; 0 where N is 0.
    """
    return _exact(query, items, bias, target, None, chunk_bytes)


def unseen_cross_entropy(
    query: Tensor, items: Tensor, bias: Tensor, target: Tensor, past: Past, *, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """As `full_cross_entropy`, but over the items that were not met before, and the target.

    For where what a user had is not recommended again: without it, a model that ranks by likeness to what the user had
    must spend itself on pushing exactly that down.
    """
    return _exact(query, items, bias, target, past, chunk_bytes)


def _exact(query: Tensor, items: Tensor, bias: Tensor, target: Tensor, past: Past | None, chunk_bytes: int) -> Tensor:
    n_rows = max(1, chunk_bytes // (4 * len(items)))
    loss: Tensor = _FullCrossEntropy.apply(query, items, bias, target, past, n_rows)
    return loss


class _FullCrossEntropy(torch.autograd.Function):
    """The gradient of cross-entropy with respect to the scores is softmax - one-hot: known when the scores are."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, items: Tensor, bias: Tensor, target: Tensor, past: Past | None, n_rows: int
    ) -> Tensor:
        # Scores of a whole catalogue in half precision would tie: none of what follows is to be rounded.
        with torch.autocast(query.device.type, enabled=False):
            return _FullCrossEntropy._forward(ctx, query, items, bias, target, past, n_rows)

    @staticmethod
    def _forward(
        ctx: Any, query: Tensor, items: Tensor, bias: Tensor, target: Tensor, past: Past | None, n_rows: int
    ) -> Tensor:
        first = None if past is None else past.first(len(items))
        wide, table, offset = query.float(), items.float(), bias.float()
        wanted = any(ctx.needs_input_grad)
        total: Tensor = torch.zeros((), dtype=torch.float32, device=query.device)
        grads = [torch.zeros_like(tensor) if wanted else tensor for tensor in (wide, table, offset)]
        for start in range(0, len(wide), n_rows):
            rows = slice(start, start + n_rows)
            scores = torch.addmm(offset, wide[rows], table.T)  # (n, V)
            index = (target[rows] - 1).unsqueeze(1)
            if past is not None and first is not None:
                met = first[past.piece[rows]] <= past.event[rows].unsqueeze(1)  # (n, V)
                scores.masked_fill_(met.scatter_(1, index, value=False), -torch.inf)
            log_sum = torch.logsumexp(scores, dim=1, keepdim=True)
            total += (log_sum - scores.gather(1, index)).sum()
            if wanted:
                share = scores.sub_(log_sum).exp_()
                share.scatter_add_(1, index, torch.full_like(log_sum, -1.0))
                grads[0][rows] = share @ table
                grads[1].addmm_(share.T, wide[rows])
                grads[2] += share.sum(dim=0)
        if wanted:
            ctx.save_for_backward(*grads)
        ctx.n, ctx.dtypes = max(1, len(wide)), (query.dtype, items.dtype, bias.dtype)
        mean: Tensor = total / ctx.n
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (
            (grad * (upstream / ctx.n)).to(dtype) for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*scaled, None, None, None)


def sampled_cross_entropy(
    query: Tensor,
    items: Tensor,
    bias: Tensor,
    target: Tensor,
    past: Past | None = None,
    *,
    negatives: Tensor,
    log_q: Tensor,
) -> Tensor:
    """Cross-entropy against S negatives that all N rows share, drawn with replacement from q.

    The sum over the catalogue is estimated as exp(s_target) + sum over negatives j != target of exp(s_j) / (S q_j): an
    unbiased estimate of it, since the target itself is known and only the rest is drawn. Bengio & Senecal, "Adaptive
    Importance Sampling to Accelerate Training of a Neural Probabilistic Language Model", 2008; shared negatives as in
    Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019.

    Args:
        query, items, bias, target: as for `full_cross_entropy`.
        negatives: (S,) int64 vocabulary indices from 1.
        log_q: (V,) log of the probability that one draw gives the item.
        past: what was met before a query is then no negative of it, see `unseen_cross_entropy`.

    Returns:
        The mean in nats, a scalar; 0 where N is 0.
    """
    if len(query) == 0:
        return query.sum()
    drawn = functional.linear(query, items[negatives - 1], bias[negatives - 1])  # (N, S)
    drawn = drawn - (log_q[negatives - 1] + torch.log(torch.tensor(float(len(negatives)), device=drawn.device)))
    drawn = drawn.masked_fill(negatives == target.unsqueeze(1), -torch.inf)
    if past is not None:
        first = past.first(len(items))[:, negatives - 1]  # (B, S)
        drawn = drawn.masked_fill(first[past.piece] <= past.event.unsqueeze(1), -torch.inf)
    own = (query * items[target - 1]).sum(dim=1) + bias[target - 1]  # (N,)
    return (torch.logaddexp(own, torch.logsumexp(drawn, dim=1)) - own).mean()


def draw_negatives(log_q: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """(n,) vocabulary indices from 1, drawn with replacement with the probabilities exp(log_q) (V,)."""
    return torch.multinomial(log_q.exp(), n, replacement=True, generator=generator) + 1

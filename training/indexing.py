"""An index for a model whose vocabulary is too large for a product with every item, and what it misses.

The best items that the model itself finds, with all products, are compared with those that the index finds, on real
histories where there are any. As many lists are looked into as the wanted recall needs; an index that would cost too
much is not made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stream.bundle.index import VectorIndex
from stream.core.content import N_TOKENS
from stream.core.seam import Scorer
from stream.errors import PolytempoError
from training.sequences import SequenceBatch, UserSequences, histories, pad

__all__ = ["IndexSettings", "build_index", "real_rows", "some_histories"]

_N_ROWS: Final = 256
_N_STEPS: Final = 32
_AT_ONCE: Final = 32
"""Rows that are compared at once: of each, the model itself scores every item."""
_DEAREST_SHARE: Final = 1 / 8
"""Of the lists. Looking into more costs as much as looking at everything."""


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """When a bundle gets an index.

    Attributes:
        above: items of the vocabulary; up to so many, the graph has all of them.
        recall: least share of the exact best items that the index must find.
    """

    above: int = 20_000
    recall: float = 0.98

    def __post_init__(self) -> None:
        if self.above < 0:
            raise ValueError(f"a vocabulary is not larger than {self.above}")
        if not 0 < self.recall <= 1:
            raise ValueError(f"a recall is above 0 and at most 1, not {self.recall}")


def build_index(
    vectors: NDArray[np.float32], asks: Scorer, exact: Scorer, rows: Mapping[str, NDArray[Any]], floor: float
) -> tuple[VectorIndex, float]:
    """An index over (V, q) vectors, and its recall of what `exact` finds.

    Args:
        asks: gives the `query` for a row.
        exact: gives the best `items` for it, vocabulary indices.
        rows: what both are asked with.
        floor: the least recall. Lists looked into are doubled until it is there.

    Raises:
        PolytempoError: faiss is not installed, the vectors are too few, or the floor is out of reach.
    """
    n_rows = len(next(iter(rows.values())))
    parts = [
        {name: column[first : first + _AT_ONCE] for name, column in rows.items()}
        for first in range(0, n_rows, _AT_ONCE)
    ]
    best = np.concatenate([exact.score(part)["items"] for part in parts]) - 1  # (R, k)
    queries = np.concatenate([asks.score(part)["query"] for part in parts])
    try:
        index = VectorIndex.build(vectors, n_best=best.shape[1])
    except ImportError as error:
        raise PolytempoError(
            f"a vocabulary of {len(vectors):,} items is served with an index, and faiss-cpu is not installed.",
            "pip install 'polytempo[index]', or set index_above to have all items in the graph.",
        ) from error
    except ValueError as error:
        raise PolytempoError(
            f"there can be no index of the vocabulary: {error}.", "Set index_above to have all items in the graph."
        ) from error
    recall = _recall(index, queries, best)
    while recall < floor and 2 * index.n_probe <= index.n_lists * _DEAREST_SHARE:
        index = index.probing(2 * index.n_probe)
        recall = _recall(index, queries, best)
    if recall < floor:
        raise PolytempoError(
            f"the index finds {recall:.4f} of the {best.shape[1]} best items, less than {floor}, "
            f"though it looks into {index.n_probe} of {index.n_lists} lists.",
            f"Train longer (the vectors of a model that has learnt little lie in no clusters), set index_above to "
            f"{len(vectors)} or more to have all items in the graph, or be content with less (index_recall).",
        )
    return index, recall


def some_histories(sequences: UserSequences) -> SequenceBatch:
    """The last 32 events of up to 256 users, evenly from all."""
    spans = np.stack([sequences.start[:-1], sequences.start[1:]], axis=1)
    spans = spans[spans[:, 0] < spans[:, 1]]
    spans = spans[np.unique(np.linspace(0, len(spans) - 1, min(_N_ROWS, len(spans))).astype(np.int64))]
    spans[:, 0] = np.maximum(spans[:, 0], spans[:, 1] - _N_STEPS)
    return pad(sequences, spans)


@torch.no_grad()
def real_rows(
    asking: nn.Module, inputs: Sequence[str], batch: SequenceBatch, n_state: int, n_history: int
) -> dict[str, NDArray[Any]]:
    """What a model is asked with at the last event of each history.

    Args:
        asking: see `training.nets.query.query_module`; steps through the events before, where there is a state.
        inputs: what it wants.
        n_history: events that a model without state looks back on.
    """
    at = batch.length - 1
    if n_state == 0:
        seen = histories(batch, at, n_history)
        return {name: getattr(seen, name).numpy() for name in inputs}
    row = torch.arange(len(at))
    state = torch.zeros(len(at), n_state)
    before = state.clone()
    was_training = asking.training
    asking.eval()
    for step in range(batch.item.shape[1]):
        before = torch.where((at == step).unsqueeze(1), state, before)
        event = _event(batch, inputs, torch.full_like(at, step), row)
        state = asking(**event, state=state)[1].half().float()  # as a user's record keeps it
    asking.train(was_training)
    last = _event(batch, inputs, at, row) | {"state": before}
    return {name: last[name].numpy() for name in inputs}


def _event(batch: SequenceBatch, inputs: Sequence[str], at: torch.Tensor, row: torch.Tensor) -> dict[str, torch.Tensor]:
    """One event of each history. Words of an item are asked for only where it is none of the vocabulary: then none."""
    event = {name: getattr(batch, name)[row, at] for name in ("item", "kind", "gap_s", "value")}
    if "item_content" in inputs:
        event["item_content"] = torch.zeros(len(row), N_TOKENS, dtype=torch.int64)
    return event


def _recall(index: VectorIndex, queries: NDArray[np.float32], best: NDArray[np.int64]) -> float:
    """Share of the best (R, k) items that the index finds."""
    found, _ = index.search(queries, best.shape[1])
    shares = [len(np.intersect1d(row, other)) / best.shape[1] for row, other in zip(best, found, strict=True)]
    return float(np.mean(shares))

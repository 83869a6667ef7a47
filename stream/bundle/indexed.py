"""A model that says what it looks for, and the index that finds it: together, a scorer of a large vocabulary.

The graph gives the `query` (B, q) whose product with an item's vector is the item's score. Where a score is the sum of
named parts, it gives `queries` (B, G, q) as well, one a part; they sum to the query, so that the products with the
vectors of the items that were found are the very parts that a graph over all items would have given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stream.bundle.index import VectorIndex
from stream.core.features import TensorSpec
from stream.core.seam import Scorer

__all__ = ["IndexedScorer", "graph_outputs"]


def graph_outputs(outputs: Mapping[str, TensorSpec], n_query: int) -> dict[str, TensorSpec]:
    """What a graph gives of which a search makes `outputs`: `query`, `state` and `queries`, as far as needed."""
    given = {"query": TensorSpec("float32", ("B", n_query))}
    if "state" in outputs:
        given["state"] = outputs["state"]
    if "parts" in outputs:
        given["queries"] = TensorSpec("float32", ("B", outputs["parts"].shape[2], n_query))
    return given


class IndexedScorer:
    """A scorer of the space "vocabulary", see `stream.core.seam.Scorer`.

    Args:
        asks: gives what `graph_outputs` says; an ONNX session, or the PyTorch module.
        index: over the vectors of the vocabulary's items, in their order.
        outputs: what comes out: `items` and `scores` (B, k), and what the model gives besides.
    """

    space: Literal["candidates", "vocabulary"] = "vocabulary"

    def __init__(self, asks: Scorer, index: VectorIndex, outputs: Mapping[str, TensorSpec]) -> None:
        self.inputs: Mapping[str, TensorSpec] = dict(asks.inputs)
        self.outputs: Mapping[str, TensorSpec] = dict(outputs)
        self.n_state = asks.n_state
        self._asks: Final = asks
        self._index: Final = index
        self._n_best: Final = int(outputs["items"].shape[1])  # a number, which the manifest's checks see to

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Score a batch. Where the lists looked into hold fewer than k items, 0 and -inf fill up.

        Raises:
            ValueError: an array is missing or has the wrong shape.
        """
        given = self._asks.score(inputs)
        found, scores = self._index.search(given["query"], self._n_best)
        outputs = {**given, "items": found + 1, "scores": scores}
        if "queries" in given:
            vectors = self._index.vectors[np.maximum(found, 0)]  # (B, k, q)
            parts = vectors @ given["queries"].transpose(0, 2, 1)
            outputs["parts"] = np.where((found < 0)[:, :, None], np.float32(0), parts)
        return {name: outputs[name] for name in self.outputs}

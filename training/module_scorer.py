"""A PyTorch module behind the scorer contract, and inputs that such a scorer could be given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stream.bundle.scorer import check_shapes
from stream.core.features import TensorSpec

__all__ = ["Arrays", "ModuleScorer", "Space", "example_inputs", "torch_type"]

Space = Literal["candidates", "vocabulary"]
"""What the items of a model's answer mean: places among the candidates, or indices of its vocabulary."""
Arrays = Mapping[str, NDArray[Any]]
"""By name, (B, ...) each."""


class ModuleScorer:
    """A PyTorch module behind the scorer contract of `stream.core.seam`: the reference for its export.

    Args:
        module: its `forward` takes the inputs by name and returns items, scores, and, as far as there are any, the
            state, the parts and the query, in this order.
        inputs: what `forward` takes.
        n_state: floats of recurrent state per user.
        space: what `items` mean.
        parts: names of what a score is the sum of, if the module says.
        query: whether it gives a query.
        asks: whether it gives only what an index needs: the query, the state, and with parts a query of each.

    Raises:
        ValueError: `forward` takes other arguments than `inputs`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        inputs: Mapping[str, TensorSpec],
        n_state: int,
        space: Space,
        parts: Sequence[str] = (),
        query: bool = False,
        asks: bool = False,
    ) -> None:
        self.module = module
        self.asks = asks
        self.parts = tuple(parts)
        self.n_state = n_state
        self.query = query
        self.space: Space = space
        arguments = list(inspect.signature(module.forward).parameters)
        if set(arguments) != set(inputs):
            raise ValueError(f"the module's forward takes {arguments}, where the inputs are {sorted(inputs)}")
        self.inputs: Mapping[str, TensorSpec] = {name: inputs[name] for name in arguments}

    @property
    def names(self) -> list[str]:
        """The outputs' names, in the order in which `forward` returns them."""
        if self.asks:
            there = {"query": True, "state": self.n_state > 0, "queries": bool(self.parts)}
        else:
            there = {"items": True, "scores": True, "state": self.n_state > 0, "parts": bool(self.parts)}
            there["query"] = self.query
        return [name for name in there if there[name]]

    def score(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Score a batch as the module does in evaluation mode; see `stream.core.seam.Scorer`.

        Raises:
            ValueError: an array is missing or has the wrong shape, or the module returns another number of outputs.
        """
        check_shapes(inputs, self.inputs)
        tensors = {name: torch.tensor(inputs[name], dtype=torch_type(spec)) for name, spec in self.inputs.items()}
        was_training = self.module.training
        try:
            with torch.no_grad():
                outputs = self.module.eval()(**tensors)
        finally:
            self.module.train(was_training)
        if len(outputs) != len(self.names):
            raise ValueError(f"the module returns {len(outputs)} outputs, not {self.names}")
        return {name: output.numpy() for name, output in zip(self.names, outputs, strict=True)}


def example_inputs(
    inputs: Mapping[str, TensorSpec],
    *,
    n_rows: int = 12,
    n_vocabulary: int = 0,
    lengths: Mapping[str, int] | None = None,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Made-up inputs of the declared types and shapes, with the marks of real ones (padding, first events, gaps).

    Real rows of the training set make better golden inputs: give those to `write_bundle` where there are any.

    Args:
        lengths: sizes of the named axes besides "B"; 7 where not given.
        n_vocabulary: indices are drawn from 0 to this.
    """
    rng = np.random.default_rng(seed)
    sizes = {"B": n_rows, **(lengths or {})}
    arrays: dict[str, NDArray[Any]] = {}
    for name, spec in inputs.items():
        shape = tuple(axis if isinstance(axis, int) else sizes.get(axis, 7) for axis in spec.shape)
        if name == "candidates":
            drawn = rng.permuted(np.tile(np.arange(shape[1] * 4), (n_rows, 1)), axis=1)[:, : shape[1]]
            # The last row is padded by half.
            drawn[-1, (shape[1] + 1) // 2 :] = -1
        elif name in {"item", "history_items", "candidate_index"}:
            drawn = rng.integers(0, n_vocabulary + 1, shape)
        elif name in {"kind", "history_kinds"}:
            drawn = rng.integers(0, 8, shape)
        elif name in {"gap_s", "history_age_s"}:
            drawn = np.sort(rng.lognormal(6.0, 3.0, shape))[..., ::-1] * (rng.random(shape) < 0.9)
        elif name in {"item_content", "candidate_content"}:
            # Few buckets, so that they are among those of any model.
            drawn = rng.integers(0, 4, shape)
        elif name == "windows":
            drawn = rng.poisson(1.0, shape)
        elif name == "state":
            drawn = np.tanh(rng.standard_normal(shape))
        else:
            drawn = rng.standard_normal(shape)
        arrays[name] = np.ascontiguousarray(drawn, spec.dtype)
    return arrays


def torch_type(spec: TensorSpec) -> torch.dtype:
    """PyTorch's name of a declared type."""
    found: torch.dtype = getattr(torch, spec.dtype)
    return found

"""The scorer that runs in production: a bundle's model in ONNX Runtime.

One thread, and no spinning: a worker is scaled by processes, and on a machine that is shared two threads wait for each
other far longer than they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stream.bundle.ending import cut_ending
from stream.bundle.stepping import only_output
from stream.core.best import best_of
from stream.core.features import TensorSpec

__all__ = ["GRAPH_NAMES", "OnnxScorer", "check_shapes"]

GRAPH_NAMES: Final = {"state": "next_state"}
"""Outputs whose name differs inside the graph, where an input and an output cannot share one."""

_LARGEST_STEP_BYTES: Final = 64 << 20
"""A graph of the state alone holds its weights a second time: of items without number that would be too much."""

_ANY_SIZE: Final = "V"
"""An axis whose size is the model's own affair."""

_ONNX_TYPES: Final = {
    "float32": "tensor(float)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
    "uint8": "tensor(uint8)",
}


def check_shapes(arrays: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec]) -> dict[str, int]:
    """Compare arrays with what is declared, and give the sizes of the named axes: `{"B": 64, "C": 128}`.

    Raises:
        ValueError: an array is missing, or has another rank or size than declared or than its neighbours.
    """
    sizes: dict[str, int] = {}
    for name, spec in specs.items():
        if name not in arrays:
            raise ValueError(f"the model wants {name!r}, which is not among {sorted(arrays)}")
        shape = arrays[name].shape
        fits = len(shape) == len(spec.shape)
        if fits:
            for axis, size in zip(spec.shape, shape, strict=True):
                fits &= size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size))
        if not fits:
            raise ValueError(f"{name!r} has shape {shape} where {spec.shape} was declared, with {sizes}")
    return sizes


class OnnxScorer:
    """A model in ONNX Runtime behind the scorer contract of `stream.core.seam`.

    Where the graph ends by choosing the best of the vocabulary, that is done here instead, see `stream.bundle.ending`.
    `step` is the next state alone, see `stream.bundle.stepping`: inputs as for `score` -> (B, n_state); None where the
    graph does not allow it.

    Args:
        model: the serialized ONNX graph; it must need no other file.
        inputs: the arrays it wants, by name.
        outputs: the arrays it gives: `items`, `scores`, `state` where `n_state > 0`, and maybe `parts`.
        n_state: floats of recurrent state per user.
        space: what `items` mean: "candidates" (the values passed in) or "vocabulary" (indices from 1).

    Raises:
        ValueError: ONNX Runtime refuses the graph, or its inputs and outputs are not the declared ones.
    """

    def __init__(
        self,
        model: bytes,
        *,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        n_state: int,
        space: Literal["candidates", "vocabulary"],
    ) -> None:
        self.inputs: Mapping[str, TensorSpec] = dict(inputs)
        self.outputs: Mapping[str, TensorSpec] = dict(outputs)
        self.n_state = n_state
        self.space: Literal["candidates", "vocabulary"] = space
        given = {GRAPH_NAMES.get(name, name): spec for name, spec in self.outputs.items()}
        stepping = only_output(model, GRAPH_NAMES["state"]) if n_state > 0 else None
        cut = cut_ending(model) if space == "vocabulary" else None
        if cut is not None and all(self.outputs.get(name) == spec for name, spec in _chosen(cut.n_best).items()):
            model = cut.model
            given = {name: spec for name, spec in given.items() if name not in _chosen(cut.n_best)}
            given[cut.all_scores] = TensorSpec("float32", ("B", _ANY_SIZE))
        else:
            cut = None
        self._session = _session(model)
        _check_declared("input", self._session.get_inputs(), self.inputs)
        _check_declared("output", self._session.get_outputs(), given)
        self._casts = {name: np.dtype(spec.dtype) for name, spec in self.inputs.items()}
        self._tails = {
            name: spec.shape[1:]
            for name, spec in self.inputs.items()
            if spec.shape[0] == "B" and all(isinstance(size, int) for size in spec.shape[1:])
        }
        """Sizes behind the batch's, of inputs where they are fixed."""
        self._n_best = 0 if cut is None else cut.n_best
        """Items to choose here; 0 where the graph does."""
        self._names = list(given)
        self.step: Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]] | None = None
        if stepping is not None and len(stepping) <= _LARGEST_STEP_BYTES:
            self._stepping = _session(stepping)
            self.step = self._step

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Score a batch: named arrays in (more than wanted is fine), `items`, `scores`, maybe `state` and `parts` out.

        Raises:
            ValueError: an array is missing or has the wrong shape.
        """
        sizes = self._sizes(inputs)
        if sizes["B"] == 0:
            return {
                name: np.empty(
                    [sizes.get(axis, 0) if isinstance(axis, str) else axis for axis in spec.shape], spec.dtype
                )
                for name, spec in self.outputs.items()
            }
        feed = {name: np.ascontiguousarray(inputs[name], dtype) for name, dtype in self._casts.items()}
        results = self._session.run(self._names, feed)
        if self._n_best == 0:
            return dict(zip(self.outputs, results, strict=True))
        places, scores = best_of(results.pop(), self._n_best)
        rest = iter(results)
        chosen: dict[str, NDArray[Any]] = {"items": places + 1, "scores": scores}
        return {name: chosen[name] if name in chosen else next(rest) for name in self.outputs}

    def _step(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        feed = {name: np.ascontiguousarray(inputs[name], dtype) for name, dtype in self._casts.items()}
        state: NDArray[np.float32] = self._stepping.run(None, feed)[0]
        return state

    def _sizes(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """As `check_shapes`, which costs a batch of one as much as a good part of its graph."""
        if len(self._tails) == len(self.inputs):
            shapes = [inputs[name].shape if name in inputs else () for name in self._tails]
            n_rows = shapes[0][:1]
            if all(
                shape[:1] == n_rows and shape[1:] == tail
                for shape, tail in zip(shapes, self._tails.values(), strict=True)
            ):
                return {"B": n_rows[0]}
        return check_shapes(inputs, self.inputs)


def _session(model: bytes) -> Any:
    try:
        return ort.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class but this one
        raise ValueError(f"ONNX Runtime refuses it: {_first_line(error)}") from error


def _options() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # failures are raised; its log would only repeat them on standard error
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _chosen(n_best: int) -> dict[str, TensorSpec]:
    """What the choice of the best gives."""
    return {"items": TensorSpec("int64", ("B", n_best)), "scores": TensorSpec("float32", ("B", n_best))}


def _check_declared(what: str, nodes: list[Any], declared: Mapping[str, TensorSpec]) -> None:
    """Compare what the graph says of itself with the manifest; the batch must be free, as every named axis."""
    found = {node.name: node for node in nodes}
    if set(found) != set(declared):
        raise ValueError(f"its {what}s: expected {sorted(declared)}, found {sorted(found)}")
    for name, spec in declared.items():
        node = found[name]
        fits = node.type == _ONNX_TYPES[spec.dtype] and len(node.shape) == len(spec.shape)
        # A free axis is a name or None in ONNX; a fixed one must be declared as just that.
        fits = fits and all(
            not isinstance(size, int) or axis in {size, _ANY_SIZE}
            for axis, size in zip(spec.shape, node.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"its {what} {name!r}: expected {_ONNX_TYPES[spec.dtype]} {list(spec.shape)}, "
                f"found {node.type} {node.shape}"
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

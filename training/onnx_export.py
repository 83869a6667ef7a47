"""From a PyTorch module to an ONNX file: the same bytes wherever it is made, and compared with the module."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from stream.bundle.parity import difference, take_rows
from stream.bundle.scorer import GRAPH_NAMES, OnnxScorer, check_shapes
from stream.core.features import TensorSpec
from training.module_scorer import Arrays, ModuleScorer, torch_type

__all__ = ["OPSET", "check_export", "export_module"]

OPSET: Final = 20
"""ONNX operators' version: pinned, so that a newer PyTorch does not silently need a newer runtime."""


def export_module(scorer: ModuleScorer, example: Arrays) -> bytes:
    """The module as a self-contained ONNX file: free batch size (and every other named axis), no trace of this machine.

    The same module gives the same bytes. Works without a network.

    Args:
        example: inputs, at least two rows, for tracing.

    Raises:
        ValueError: the module cannot be exported, a named axis was fixed by it, or the file would name local paths.
    """
    sizes = check_shapes(example, scorer.inputs)
    if min(sizes.values()) < 2:
        raise ValueError(f"tracing takes at least two of each named axis, not {sizes}: one would be taken for fixed")
    axes = {axis: torch.export.Dim(axis) for axis in sizes}
    dynamic = {
        name: {at: axes[axis] for at, axis in enumerate(spec.shape) if isinstance(axis, str)}
        for name, spec in scorer.inputs.items()
    }
    tensors = {name: torch.tensor(example[name], dtype=torch_type(spec)) for name, spec in scorer.inputs.items()}
    was_training = scorer.module.training
    try:
        with _quiet():
            program = torch.onnx.export(
                scorer.module.eval(),
                (),
                kwargs=tensors,
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=list(scorer.inputs),
                output_names=[GRAPH_NAMES.get(name, name) for name in scorer.names],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors share no base class but this one
        raise ValueError(f"the module cannot be exported to ONNX: {error}") from error
    finally:
        scorer.module.train(was_training)
    if program is None:  # only the old exporter gives None
        raise ValueError("the exporter gave no program")
    model = program.model_proto
    _strip(model)
    _refuse_paths(_without_weights(model))
    return bytes(model.SerializeToString(deterministic=True))


def check_export(model: bytes, reference: ModuleScorer, rows: Arrays, outputs: Mapping[str, TensorSpec]) -> None:
    """Run ONNX beside PyTorch at several batch sizes, and at several lengths of every other named axis.

    Args:
        outputs: what the graph gives.

    Raises:
        ValueError: they differ.
    """
    exported = OnnxScorer(
        model, inputs=reference.inputs, outputs=outputs, n_state=reference.n_state, space=reference.space
    )
    sizes = check_shapes(rows, reference.inputs)
    n_rows = sizes.pop("B")
    choices = [sorted({1, max(1, size // 2), size, 2 * size}) for size in sizes.values()]
    for lengths in itertools.product(*choices):
        named = dict(zip(sizes, lengths, strict=True))
        resized = _resize(rows, reference.inputs, named)
        for n in (1, 2, n_rows, 2 * n_rows + 1):
            batch = take_rows(resized, n)
            problem = difference(reference.score(batch), exported.score(batch))
            if problem is not None:
                raise ValueError(f"ONNX and PyTorch differ with {n} rows and {named}: {problem}")


def _resize(rows: Arrays, specs: Mapping[str, TensorSpec], lengths: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """The same rows with other sizes of the named axes: cut off, or repeated."""
    resized = dict(rows)
    for name, spec in specs.items():
        for at, axis in enumerate(spec.shape):
            if isinstance(axis, str) and axis in lengths:
                index = np.arange(lengths[axis]) % resized[name].shape[at]
                resized[name] = np.take(resized[name], index, axis=at)
    return resized


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes down about where the module came from: source lines, file names, scopes."""
    model.producer_version = ""
    model.doc_string = ""
    model.ClearField("metadata_props")
    for holder in (model.graph, *model.functions):
        _strip_nodes(holder)


def _strip_nodes(holder: Any) -> None:
    """The same for one graph or function, and the graphs inside its nodes."""
    for node in holder.node:
        _forget(node)
        for attribute in node.attribute:
            attribute.doc_string = ""
            # Merely touching `attribute.g` where there is none would create it.
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _strip_nodes(graph)
    _forget(holder)
    # Shapes of intermediate results are inferred again at load; they carry the exporter's notes.
    holder.ClearField("value_info")
    if isinstance(holder, onnx.GraphProto):
        for part in (*holder.input, *holder.output, *holder.initializer):
            _forget(part)


def _forget(part: Any) -> None:
    part.ClearField("doc_string")
    part.ClearField("metadata_props")


def _without_weights(model: onnx.ModelProto) -> bytes:
    """The serialized graph without its weights, whose bytes may spell anything."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")
    return bytes(bare.SerializeToString())


def _refuse_paths(content: bytes) -> None:
    """Fail if `content` names a folder of this machine.

    Raises:
        ValueError: it does.
    """
    local = {
        str(Path.cwd()),
        str(Path.home()),
        sys.prefix,
        sys.base_prefix,
        tempfile.gettempdir(),
        str(Path(__file__).parents[1]),
    }
    for folder in sorted(local):
        # A root of one letter or a lone "/" would be found anywhere.
        if len(folder) > 3 and f"{folder}{os.sep}".encode() in content:
            raise ValueError(f"the bundle would name a folder of this machine: {folder}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on optional packages and axis names, which nobody can act upon."""
    chatty = logging.getLogger("torch.onnx")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatty.setLevel(level)

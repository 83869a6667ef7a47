"""From a PyTorch module to a bundle: export, check, seal, and only then put in place.

A bundle is written aside and loaded with every check the worker makes before it gets its name, so that a folder with a
bundle's name is always a whole bundle that this machine could serve.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import os
import platform
import secrets
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import onnx
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import nn

from stream.bundle.errors import BundleError
from stream.bundle.indexed import IndexedScorer, graph_outputs
from stream.bundle.load import load_bundle, read_manifest
from stream.bundle.manifest import (
    INDEX,
    MANIFEST,
    MODEL,
    PARITY,
    RETRIEVAL,
    RETRIEVAL_PARITY,
    VECTORS,
    VOCABULARY,
    Distribution,
    FileEntry,
    Index,
    Manifest,
    Policy,
    Retrieval,
    Tensor,
    TrainingWindow,
    encode_manifest,
    seal_manifest,
)
from stream.bundle.parity import Parity, check_parts, difference, take_rows, write_parity
from stream.bundle.scorer import GRAPH_NAMES, OnnxScorer, check_shapes
from stream.core.distributions import Binned
from stream.core.features import FeatureSpec, TensorSpec, menu
from training.indexing import IndexSettings, build_index, real_rows
from training.nets.query import query_module, vectors_of
from training.sequences import SequenceBatch

__all__ = ["OPSET", "ModuleScorer", "RetrievalModel", "example_inputs", "export_module", "served", "write_bundle"]

OPSET: Final = 20
"""ONNX operators' version: pinned, so that a newer PyTorch does not silently need a newer runtime."""

Space = Literal["candidates", "vocabulary"]
Arrays = Mapping[str, NDArray[Any]]


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
        tensors = {name: torch.tensor(inputs[name], dtype=_torch_type(spec)) for name, spec in self.inputs.items()}
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
    tensors = {name: torch.tensor(example[name], dtype=_torch_type(spec)) for name, spec in scorer.inputs.items()}
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


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalModel:
    """A sequence model that goes before a ranker.

    Attributes:
        module: `forward` takes `inputs` by name and returns items, scores, the state if `n_state > 0`, and the query.
        inputs: what it wants, by name, from `menu(features, n_state)`.
        n_state: floats of recurrent state per user.
        example: rows for its golden inputs, at least two; made up when None.
    """

    module: nn.Module
    inputs: Sequence[str]
    n_state: int = 0
    example: Arrays | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Exported:
    """One graph of a bundle, with its golden inputs and outputs, and what it declares."""

    graph: bytes
    parity: bytes
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    n_query: int
    index: _Indexed | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Indexed:
    """What a bundle holds of an index, and the figures that it was judged by."""

    declared: Index
    files: dict[str, bytes]
    metrics: dict[str, float]


def write_bundle(
    path: Path | str,
    *,
    module: nn.Module,
    inputs: Sequence[str],
    features: FeatureSpec,
    space: Space,
    name: str,
    version: int | str,
    training: TrainingWindow,
    vocabulary: Sequence[str] = (),
    n_state: int = 0,
    parts: Sequence[str] = (),
    policy: Policy = Policy(),  # noqa: B008  it is frozen
    metrics: Mapping[str, float] | None = None,
    description: str = "",
    preprocessing: Mapping[str, Any] | None = None,
    distributions: Mapping[str, Binned] | None = None,
    example: Arrays | None = None,
    replace: bool = False,
    retrieval: RetrievalModel | None = None,
    index: IndexSettings = IndexSettings(),  # noqa: B008  it is frozen
    histories: SequenceBatch | None = None,
) -> Manifest:
    """Export `module` and write the bundle folder `path`, in one step and only after it passed `load_bundle`.

    Args:
        module: `forward` takes `inputs` by name, each (B, ...), and returns items, scores, if `n_state > 0` the state,
            and if there are `parts` these (B, k, G).
        inputs: what the model wants, by name, from `menu(features, n_state)`.
        vocabulary: item ids; index `i` (from 1) is `vocabulary[i - 1]`.
        parts: names of what a score is the sum of; they become reasons, such as "scale:minutes".
        example: rows for the golden inputs, at least two; made up when None.
        preprocessing: what the log went through before, for the manifest.
        distributions: of features and scores over the training window, for the manifest.
        training: what it was trained on; name files without their folders, for it goes wherever the bundle goes.
        replace: whether another bundle in the way may be replaced. The same bundle in the way is left as it is.
        retrieval: a sequence model that goes before `module`, which then may want its query.
        index: when the model that ranks the vocabulary leaves it to an index, see `training.nets.query`.
        histories: of real users, which the index's recall is measured on; the golden inputs, or made-up ones, if None.

    Raises:
        BundleError: there is something else at `path`, or the bundle that came out would be refused.
        PolytempoError: an index is needed, and cannot be made or misses too much.
        ValueError: an input is not on the menu, the module cannot be exported, or it computes something else in ONNX.
    """
    path = Path(path)
    before = None
    if retrieval is not None:
        before = _exported(
            retrieval.module, retrieval.inputs, menu(features, retrieval.n_state), retrieval.n_state, "vocabulary",
            retrieval.example, len(vocabulary), query=True, index=index, histories=histories,
            n_history=features.n_history,
        )  # fmt: skip
    offered = menu(features, n_state, 0 if before is None else before.n_query)
    exported = _exported(
        module, inputs, offered, n_state, space, example, len(vocabulary), parts=parts, index=index,
        histories=histories, n_history=features.n_history,
    )  # fmt: skip
    indexed = exported.index if before is None else before.index
    files = {
        MODEL: exported.graph,
        VOCABULARY: msgspec.json.format(msgspec.json.encode(list(vocabulary)), indent=0) + b"\n",
        PARITY: exported.parity,
    }
    if before is not None:
        files |= {RETRIEVAL: before.graph, RETRIEVAL_PARITY: before.parity}
    if indexed is not None:
        files |= indexed.files
    manifest = seal_manifest(
        Manifest(
            name=name,
            version=version,
            created_from=_created_from(),
            description=description,
            space=space,
            inputs=exported.inputs,
            outputs=exported.outputs,
            n_state=n_state,
            parts=tuple(parts),
            retrieval=UNSET
            if before is None or retrieval is None
            else Retrieval(before.inputs, before.outputs, retrieval.n_state),
            index=UNSET if indexed is None else indexed.declared,
            scales_ms=tuple(scale.span_ms for scale in features.state.scales),
            features=dict(features.to_json()),
            feature_digest=features.digest(),
            n_vocabulary=len(vocabulary),
            policy=policy,
            training=training,
            preprocessing=msgspec.UNSET if preprocessing is None else dict(preprocessing),
            distributions=msgspec.UNSET
            if distributions is None
            else {name: Distribution(each.edges, each.shares) for name, each in distributions.items()},
            metrics=dict(sorted({**(metrics or {}), **({} if indexed is None else indexed.metrics)}.items())),
            files={n: FileEntry.of(content) for n, content in files.items()},
        )
    )
    text = encode_manifest(manifest)
    if _is_there(path, manifest, replace=replace):
        return manifest
    _put(path, {MANIFEST: text, **files})
    return manifest


def served(model: RetrievalModel, features: FeatureSpec, n_vocabulary: int) -> OnnxScorer:
    """A sequence model as it will be served, before there is a bundle around it; always with all items in the graph."""
    offered = menu(features, model.n_state)
    exported = _exported(
        model.module, model.inputs, offered, model.n_state, "vocabulary", model.example, n_vocabulary, query=True
    )
    return OnnxScorer(
        exported.graph,
        inputs={name: tensor.spec() for name, tensor in exported.inputs.items()},
        outputs={name: tensor.spec() for name, tensor in exported.outputs.items()},
        n_state=model.n_state,
        space="vocabulary",
    )


def _exported(
    module: nn.Module,
    inputs: Sequence[str],
    offered: Mapping[str, TensorSpec],
    n_state: int,
    space: Space,
    example: Arrays | None,
    n_vocabulary: int,
    *,
    parts: Sequence[str] = (),
    query: bool = False,
    index: IndexSettings | None = None,
    histories: SequenceBatch | None = None,
    n_history: int = 0,
) -> _Exported:
    """One module as a graph that was compared with it, and with an index where its vocabulary is large."""
    unknown = [wanted for wanted in inputs if wanted not in offered]
    if unknown:
        raise ValueError(f"inputs {unknown} are not on the menu of features: {sorted(offered)}")
    if space == "candidates" and "candidates" not in inputs:
        raise ValueError("a model that ranks candidates has `candidates` among its inputs")
    reference = ModuleScorer(
        module, inputs={n: offered[n] for n in inputs}, n_state=n_state, space=space, parts=parts, query=query
    )
    given = example is not None
    if example is None:
        example = example_inputs(reference.inputs, n_vocabulary=n_vocabulary)
    rows = {n: np.ascontiguousarray(example[n], spec.dtype) for n, spec in reference.inputs.items() if n in example}
    golden = Parity(rows, reference.score(rows))
    outputs = _declare_outputs(golden, reference)
    graph, indexed = reference, None
    if index is not None and space == "vocabulary" and n_vocabulary > index.above:
        asking = query_module(module, inputs)
        if asking is not None:
            graph = ModuleScorer(asking, inputs=reference.inputs, n_state=n_state, space=space, parts=parts, asks=True)
            if histories is not None:
                asked = real_rows(asking, inputs, histories, n_state, n_history)
            else:
                asked = rows if given else example_inputs(reference.inputs, n_rows=256, n_vocabulary=n_vocabulary)
            indexed, scorer = _indexed(graph, reference, vectors_of(module), asked, index.recall, outputs)
            golden = Parity(rows, scorer.score(rows))
    model = export_module(graph, rows)
    gives = outputs if indexed is None else graph_outputs(outputs, indexed.declared.n_query)
    _check_export(model, graph, rows, gives)
    return _Exported(
        model,
        write_parity(golden),
        {n: Tensor.of(spec) for n, spec in reference.inputs.items()},
        {n: Tensor.of(spec) for n, spec in outputs.items()},
        golden.outputs["query"].shape[1] if query else 0,
        indexed,
    )


def _indexed(
    asks: ModuleScorer,
    exact: ModuleScorer,
    vectors: NDArray[np.float32],
    rows: Arrays,
    floor: float,
    outputs: Mapping[str, TensorSpec],
) -> tuple[_Indexed, IndexedScorer]:
    """The index of a model, ready for the bundle, and the scorer that it makes with the module."""
    index, recall = build_index(vectors, asks, exact, rows, floor)
    indexed = _Indexed(
        Index(vectors.shape[1], index.n_probe, index.n_checked),
        {INDEX: index.to_bytes(), VECTORS: vectors.astype("<f4").tobytes()},
        {f"index/recall@{outputs['items'].shape[1]}": round(recall, 5)},
    )
    return indexed, IndexedScorer(asks, index, outputs)


def _declare_outputs(golden: Parity, reference: ModuleScorer) -> dict[str, TensorSpec]:
    """The outputs' types and shapes, and a check that the module keeps to the contract."""
    items, scores = golden.outputs["items"], golden.outputs["scores"]
    if items.dtype != np.int64 or scores.dtype != np.float32 or items.ndim != 2 or items.shape != scores.shape:
        raise ValueError(
            f"items are int64 (B, k) and scores float32 (B, k), not {items.dtype} {items.shape} and "
            f"{scores.dtype} {scores.shape}"
        )
    if any(np.isnan(array).any() for array in golden.outputs.values()):
        raise ValueError("the module gives NaN on the golden inputs")
    width = items.shape[1] if reference.space == "vocabulary" else reference.inputs["candidates"].shape[1]
    outputs = {"items": TensorSpec("int64", ("B", width)), "scores": TensorSpec("float32", ("B", width))}
    if reference.n_state > 0:
        outputs["state"] = TensorSpec("float32", ("B", reference.n_state))
    if reference.parts:
        outputs["parts"] = TensorSpec("float32", ("B", width, len(reference.parts)))
        check_parts(golden.outputs)
    if reference.query:
        outputs["query"] = TensorSpec("float32", ("B", golden.outputs["query"].shape[1]))
    return outputs


def _check_export(model: bytes, reference: ModuleScorer, rows: Arrays, outputs: Mapping[str, TensorSpec]) -> None:
    """Run ONNX beside PyTorch at several batch sizes, and at several lengths of every other named axis."""
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


def _created_from() -> str:
    names = ("polytempo", "torch", "onnxruntime", "numpy")
    versions = (f"{name} {version_of(name).partition('+')[0]}" for name in names)
    return ", ".join((*versions, f"Python {platform.python_version()}"))


def _is_there(path: Path, manifest: Manifest, *, replace: bool) -> bool:
    """Whether the very bundle is at `path` already.

    Raises:
        BundleError: something else is there that may not be replaced.
    """
    if not os.path.lexists(path):
        return False
    if not path.is_dir() or path.is_symlink():
        raise BundleError(path, "it is in the way, and is not a folder")
    try:
        there = read_manifest(path)
    except BundleError as error:
        if not any(path.iterdir()):
            return False
        # Only what was once a bundle may ever be deleted, whatever the caller asks for.
        if replace and (path / MANIFEST).is_file():
            return False
        raise BundleError(path, "it is in the way, and is not a bundle", hint=str(error)) from error
    if there.digest() == manifest.digest():
        load_bundle(path)
        return True
    if not replace:
        raise BundleError(
            path,
            "another bundle is in the way",
            expected=f"{manifest.reference} ({manifest.digest()[:12]})",
            found=f"{there.reference} ({there.digest()[:12]})",
            hint="Write to another folder, or allow it to be replaced.",
        )
    return False


def _put(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the folder aside, load it as a worker would, and move it to its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    aside, old = (path.with_name(f".{path.name}.{mark}.{kind}") for kind in ("new", "old"))
    try:
        aside.mkdir()
        for name, content in files.items():
            with (aside / name).open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        load_bundle(aside)
        if path.exists():
            path.rename(old)
        aside.rename(path)
    finally:
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _torch_type(spec: TensorSpec) -> torch.dtype:
    found: torch.dtype = getattr(torch, spec.dtype)
    return found


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

"""From a PyTorch module to a bundle: export, check, seal, and only then put in place."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray
from torch import nn

from stream.bundle.indexed import IndexedScorer, graph_outputs
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
from stream.bundle.parity import Parity, check_parts, write_parity
from stream.bundle.scorer import OnnxScorer
from stream.core.distributions import Binned
from stream.core.features import FeatureSpec, TensorSpec, menu
from training.bundle_folder import is_there, put
from training.indexing import IndexSettings, build_index, real_rows
from training.module_scorer import Arrays, ModuleScorer, Space, example_inputs
from training.nets.query import query_module, vectors_of
from training.onnx_export import check_export, export_module
from training.sequences import SequenceBatch

__all__ = ["RetrievalModel", "served", "write_bundle"]


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
    if is_there(path, manifest, replace=replace):
        return manifest
    put(path, {MANIFEST: text, **files})
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
    check_export(model, graph, rows, gives)
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


def _created_from() -> str:
    names = ("polytempo", "torch", "onnxruntime", "numpy")
    versions = (f"{name} {version_of(name).partition('+')[0]}" for name in names)
    return ", ".join((*versions, f"Python {platform.python_version()}"))

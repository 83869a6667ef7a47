"""Loads a bundle, and refuses it at the first thing that does not agree.

Nothing in the folder is code, and nothing is unpickled. Each file is read once, into memory: what was hashed is what is
parsed, even if somebody writes to the folder meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from stream.bundle.errors import BundleError
from stream.bundle.graph import inspect_graph
from stream.bundle.index import VectorIndex
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
    Index,
    Manifest,
    Retrieval,
    Tensor,
    decode_manifest,
)
from stream.bundle.parity import Parity, check_parity, read_parity
from stream.bundle.scorer import OnnxScorer
from stream.core.distributions import Binned
from stream.core.features import FeatureSpec, TensorSpec, menu

__all__ = ["MAX_BYTES", "Bundle", "load_bundle", "read_files", "read_manifest"]

MAX_BYTES: Final = {
    MANIFEST: 4 << 20,
    MODEL: (2 << 30) - 1,  # the limit of protocol buffers
    VOCABULARY: 512 << 20,
    PARITY: 64 << 20,
    RETRIEVAL: (2 << 30) - 1,
    RETRIEVAL_PARITY: 64 << 20,
    INDEX: 8 << 30,
    VECTORS: 8 << 30,
}

RETRAIN: Final = "Retrain it with `polytempo train`, or run the version of polytempo that made it."


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that passed every check.

    Attributes:
        path: the folder it came from.
        manifest: what it says about itself.
        features: the specification of the features it was trained with.
        vocabulary: item ids; vocabulary index `i` (from 1) is `vocabulary[i - 1]`.
        scorer: the warmed-up model, with its index where the vocabulary has one.
        parity: the golden inputs and outputs that the scorer reproduced.
        retriever: the sequence model that goes before it, warmed up as well; None where there is none.
    """

    path: Path
    manifest: Manifest
    features: FeatureSpec
    vocabulary: list[str]
    scorer: OnnxScorer | IndexedScorer
    parity: Parity
    retriever: OnnxScorer | IndexedScorer | None = None

    @property
    def reference(self) -> str:
        """`name@version`."""
        return self.manifest.reference

    @property
    def distributions(self) -> Mapping[str, Binned]:
        """Of features and scores in the training window, by name; empty where the manifest does not say."""
        found = self.manifest.distributions
        if not isinstance(found, dict):
            return {}
        return {name: Binned(each.edges, each.shares) for name, each in found.items()}

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what a score is the sum of; see `Manifest.parts`."""
        return self.manifest.parts

    @property
    def tag(self) -> int:
        """Marks recurrent state that this bundle wrote; see `Manifest.tag`."""
        return self.manifest.tag


def load_bundle(path: Path | str) -> Bundle:
    """Read a bundle folder, check it, and warm its model up.

    In this order: the manifest; the set of files; their hashes; the feature specification; the inputs against the menu
    of features; the vocabulary; the index, where there is one; the ONNX graph; the golden outputs, at several batch
    sizes; the last two for the sequence model as well, where one goes before.

    Raises:
        BundleError: the first thing that does not agree; names the file, what was expected and what was found.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    contents = read_files(folder, manifest)
    features = _check_features(folder, manifest)
    vocabulary = _read_vocabulary(folder, manifest, contents[VOCABULARY])
    index = None
    if isinstance(manifest.index, Index):
        index = _read_index(folder, manifest.index, manifest.n_vocabulary, contents.pop(INDEX), contents.pop(VECTORS))
    retriever = None
    if isinstance(manifest.retrieval, Retrieval):
        retriever = _load_model(folder / RETRIEVAL, manifest.retrieval, "vocabulary", contents.pop(RETRIEVAL), index)
        index = None
        file = folder / RETRIEVAL_PARITY
        _check_parity(file, folder / RETRIEVAL, manifest.n_vocabulary, contents[file.name], retriever)
    scorer = _load_model(folder / MODEL, manifest, manifest.space, contents.pop(MODEL), index)
    parity = _check_parity(folder / PARITY, folder / MODEL, manifest.n_vocabulary, contents[PARITY], scorer)
    return Bundle(folder, manifest, features, vocabulary, scorer, parity, retriever)


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` alone.

    Raises:
        BundleError: there is none, or it cannot be believed.
    """
    if not folder.is_dir():
        raise BundleError(folder, "there is no such bundle folder")
    content = _read(folder / MANIFEST)
    try:
        return decode_manifest(content)
    except ValueError as error:
        raise BundleError(folder / MANIFEST, str(error)) from error


def read_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Read every other file and compare it with the manifest.

    Raises:
        BundleError: a file is missing, unexpected, not a regular file, too large, or not what was hashed.
    """
    expected = {MANIFEST, *manifest.data_files}
    found = {entry.name for entry in folder.iterdir()}
    for name in sorted(found - expected):
        raise BundleError(folder / name, "a bundle holds no such file", expected=sorted(expected), found=name)
    for name in sorted(expected - found):
        raise BundleError(folder / name, "this file of the bundle is missing")
    contents = {}
    for name in manifest.data_files:
        entry = manifest.files[name]
        content = _read(folder / name)
        if len(content) != entry.n_bytes:
            raise BundleError(folder / name, "its length", expected=f"{entry.n_bytes} bytes", found=len(content))
        digest = hashlib.sha256(content).hexdigest()
        if digest != entry.sha256:
            raise BundleError(folder / name, "its SHA-256", expected=entry.sha256, found=digest)
        contents[name] = content
    return contents


def _read(file: Path) -> bytes:
    """The content of a regular file; a link, a pipe or a device is refused without being opened for good."""
    limit_bytes = MAX_BYTES[file.name]
    try:
        mode = file.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise BundleError(file, "it is a symbolic link", expected="a regular file", found=f"-> {file.readlink()}")
        if not stat.S_ISREG(mode):
            raise BundleError(file, "it is not a regular file", expected="a regular file", found=stat.filemode(mode))
        # The flags hold if the file is exchanged for a link or a pipe between the two calls.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
            size_bytes = os.fstat(opened.fileno()).st_size
            if size_bytes > limit_bytes:
                raise BundleError(file, "it is too large", expected=f"at most {limit_bytes} bytes", found=size_bytes)
            # One byte more than there was, so that a file that grows is found by its length.
            return opened.read(min(size_bytes + 1, limit_bytes))
    except FileNotFoundError:
        raise BundleError(file, "this file of the bundle is missing") from None
    except OSError as error:
        raise BundleError(file, f"it cannot be read: {error.strerror}") from error


def _check_features(folder: Path, manifest: Manifest) -> FeatureSpec:
    """The specification must parse, mean the same to this version's code, and offer what the model wants."""
    file = folder / MANIFEST
    try:
        features = FeatureSpec.from_json(manifest.features)
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(file, f"its feature specification is refused: {error}", hint=RETRAIN) from error
    digest = features.digest()
    if digest != manifest.feature_digest:
        raise BundleError(
            file,
            "its features are not computed the way this version of polytempo computes them; feature digest",
            expected=digest,
            found=manifest.feature_digest,
            hint=RETRAIN,
        )
    scales_ms = tuple(scale.span_ms for scale in features.state.scales)
    if manifest.scales_ms != scales_ms:
        raise BundleError(file, "its time scales (ms)", expected=list(scales_ms), found=list(manifest.scales_ms))
    _check_inputs(file, manifest.inputs, menu(features, manifest.n_state, manifest.n_query))
    if isinstance(manifest.retrieval, Retrieval):
        _check_inputs(file, manifest.retrieval.inputs, menu(features, manifest.retrieval.n_state))
    return features


def _check_inputs(file: Path, inputs: Mapping[str, Tensor], offers: Mapping[str, TensorSpec]) -> None:
    offered = {name: Tensor.of(spec) for name, spec in offers.items()}
    for name, wanted in inputs.items():
        if name not in offered:
            raise BundleError(
                file, f"input {name!r} is not on the menu of features", expected=sorted(offered), found=name
            )
        if wanted != offered[name]:
            raise BundleError(file, f"input {name!r}", expected=offered[name], found=wanted)


def _read_vocabulary(folder: Path, manifest: Manifest, content: bytes) -> list[str]:
    file = folder / VOCABULARY
    try:
        vocabulary = msgspec.json.decode(content, type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(file, f"it is not a JSON list of strings: {error}") from error
    if len(vocabulary) != manifest.n_vocabulary:
        raise BundleError(file, "its number of items", expected=manifest.n_vocabulary, found=len(vocabulary))
    if len(set(vocabulary)) != len(vocabulary):
        seen: set[str] = set()
        twice = next(item for item in vocabulary if item in seen or seen.add(item))  # type: ignore[func-returns-value]
        raise BundleError(file, f"item {twice!r} stands in it more than once")
    if "" in vocabulary:
        raise BundleError(file, "an item id in it is empty")
    return vocabulary


def _read_index(folder: Path, declared: Index, n_vocabulary: int, content: bytes, vectors: bytes) -> VectorIndex:
    """The index and its vectors; the latter are the bytes themselves, seen as numbers."""
    n_bytes = n_vocabulary * declared.n_query * 4
    if len(vectors) != n_bytes:
        raise BundleError(
            folder / VECTORS,
            f"its length, for {n_vocabulary} items of {declared.n_query} floats",
            expected=f"{n_bytes} bytes",
            found=len(vectors),
        )
    table = np.frombuffer(vectors, "<f4").reshape(n_vocabulary, declared.n_query)
    if not np.isfinite(table).all():
        raise BundleError(folder / VECTORS, "a vector in it is not finite")
    try:
        return VectorIndex(content, table, declared.n_probe, declared.n_checked)
    except ImportError as error:
        raise BundleError(
            folder / INDEX,
            "this bundle searches its vocabulary with an index, and the package faiss-cpu is not installed",
            hint="pip install 'polytempo[index]', or export the bundle again without an index.",
        ) from error
    except ValueError as error:
        raise BundleError(folder / INDEX, str(error), hint="Do not serve it; export it again.") from error


def _load_model(
    file: Path,
    declared: Manifest | Retrieval,
    space: Literal["candidates", "vocabulary"],
    content: bytes,
    index: VectorIndex | None = None,
) -> OnnxScorer | IndexedScorer:
    try:
        facts = inspect_graph(content)
    except ValueError as error:
        raise BundleError(file, str(error)) from error
    if facts.external:
        raise BundleError(
            file, "it takes weights from other files", expected="one self-contained file", found=sorted(facts.external)
        )
    if facts.operators:
        raise BundleError(
            file, "it needs operators outside the ONNX standard", expected="none", found=sorted(facts.operators)
        )
    outputs = {name: tensor.spec() for name, tensor in declared.outputs.items()}
    try:
        scorer = OnnxScorer(
            content,
            inputs={name: tensor.spec() for name, tensor in declared.inputs.items()},
            outputs=outputs if index is None else graph_outputs(outputs, index.vectors.shape[1]),
            n_state=declared.n_state,
            space=space,
        )
        return scorer if index is None else IndexedScorer(scorer, index, outputs)
    except ValueError as error:
        raise BundleError(file, str(error)) from error


def _check_parity(
    file: Path, model: Path, n_vocabulary: int, content: bytes, scorer: OnnxScorer | IndexedScorer
) -> Parity:
    try:
        parity = read_parity(content, scorer.inputs, scorer.outputs)
    except ValueError as error:
        raise BundleError(file, str(error)) from error
    items = parity.outputs["items"]
    if scorer.space == "candidates":
        if not (items == parity.inputs["candidates"]).all():
            raise BundleError(file, "items are not the candidates that went in")
    elif not ((items >= 0) & (items <= n_vocabulary)).all():
        raise BundleError(
            file,
            "items",
            expected=f"indices from 0 to {n_vocabulary}",
            found=f"{items.min()} to {items.max()}",
        )
    try:
        check_parity(scorer, parity)
    except ValueError as error:
        raise BundleError(
            model, f"it does not compute its golden outputs: {error}", hint="Do not serve it; export it again."
        ) from error
    return parity

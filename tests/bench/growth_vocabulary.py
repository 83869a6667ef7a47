"""What it costs to rank a vocabulary: every item in an ONNX graph, or an index with exact re-ranking.

Vectors are made up: items lie in clusters as trained ones do, queries lie near items. Recall is the share of the exact
hundred best that the index finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stream.bundle.index import VectorIndex

__all__ = ["made_up", "vocabulary"]

_WIDTH: Final = 64
_K: Final = 100
_BATCH: Final = 64
_LEAST_INDEXED: Final = 10_000


def made_up(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(n, 64) item vectors and (256, 64) queries."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(max(8, int(np.sqrt(n) / 2)), _WIDTH)).astype(np.float32)
    vectors = centres[chance.integers(0, len(centres), n)]
    vectors += np.float32(0.7) * chance.standard_normal((n, _WIDTH), np.float32)
    queries = vectors[chance.integers(0, n, 4 * _BATCH)]
    queries = queries + np.float32(0.5) * chance.standard_normal(queries.shape, np.float32)
    return vectors, queries.astype(np.float32)


def vocabulary(sizes: Sequence[int], n_rounds: int) -> list[dict[str, float]]:
    """A row for each number of items: microseconds an event of both ways, and the index's recall at 100.

    Events come 64 at a time; `alone` is the index asked for one at a time.

    Without faiss-cpu, and below 10,000 items, there are no figures of the index.
    """
    found = []
    for n in sizes:
        vectors, queries = made_up(n)
        session = ort.InferenceSession(_graph(vectors), _options(), providers=["CPUExecutionProvider"])
        batches = [queries[first : first + _BATCH] for first in range(0, len(queries), _BATCH)]

        def exactly(batch: NDArray[np.float32], session: Any = session) -> Any:
            return session.run(["items"], {"query": batch})[0]

        n_exact = max(2, min(n_rounds, int(4e7 / (n * _BATCH))))
        row = {"n": float(n), "exact_us_per_event": _us_per_event(exactly, batches, n_exact)}
        if n >= _LEAST_INDEXED and find_spec("faiss") is not None:
            index = VectorIndex.build(vectors)
            best = np.concatenate([exactly(batch) for batch in batches])
            got = np.concatenate([index.search(batch, _K)[0] for batch in batches])
            row["index_us_per_event"] = _us_per_event(lambda batch, i=index: i.search(batch, _K), batches, n_rounds)  # type: ignore[misc]
            singles = [queries[row : row + 1] for row in range(len(queries))]
            row["index_us_per_event_alone"] = _us_per_event(lambda one, i=index: i.search(one, _K), singles, 256)  # type: ignore[misc]
            row["recall_at_100"] = float(np.mean([len(set(a) & set(b)) / _K for a, b in zip(best, got, strict=True)]))
        found.append(row)
    return found


def _us_per_event(
    search: Callable[[NDArray[np.float32]], object], batches: list[NDArray[np.float32]], n_rounds: int
) -> float:
    search(batches[0])
    took_ns = []
    for turn in range(n_rounds):
        batch = batches[turn % len(batches)]
        began_ns = time.thread_time_ns()
        search(batch)
        took_ns.append((time.thread_time_ns() - began_ns) / len(batch))
    return float(np.median(took_ns)) / 1000


def _graph(vectors: NDArray[np.float32]) -> bytes:
    """Every product and the hundred best, as a sequence model's last layers have them."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["query", "vectors"], ["products"]),
            helper.make_node("TopK", ["products", "k"], ["scores", "items"]),
        ],
        "vocabulary",
        [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["B", _WIDTH])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", _K]),
            helper.make_tensor_value_info("items", TensorProto.INT64, ["B", _K]),
        ],
        [
            numpy_helper.from_array(np.ascontiguousarray(vectors.T), "vectors"),
            numpy_helper.from_array(np.array([_K], np.int64), "k"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def _options() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return options

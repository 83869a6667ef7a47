"""The items of a large vocabulary that fit a query best, without looking at all of them.

Exact search costs a product with every item: a quarter of a millisecond an event at 100,000 items, ten times as much at
a million. An inverted file of compressed vectors (Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor
Search, TPAMI 2011; here with eight bits a dimension) finds several times as many as are wanted, and these are ranked by
their exact products, so that scores are the model's own and only a few of the best may be missed.

The package `faiss-cpu` is needed: the extra `index`.
"""

from __future__ import annotations

import math
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["VectorIndex"]

_LEAST: Final = 1024
"""Fewer vectors make no lists worth the name."""
_PROBED_SHARE: Final = 1 / 128
_CHECKED: Final = 2
"""Times as many are ranked exactly as are wanted."""
_KIND: Final = b"IwSq"
"""What faiss begins an inverted file of scalar-quantized vectors with."""


class VectorIndex:
    """N vectors, and which of them have the largest inner products with a query.

    Args:
        content: what `to_bytes` gave; faiss's own format, which holds data and no code.
        vectors: (N, d) float32, the very vectors that it was built of.
        n_probe: lists that a search looks into.
        n_checked: vectors that a search ranks exactly, where no more are wanted.

    Raises:
        ValueError: content that cannot be read, or that belongs to other vectors.
        ImportError: faiss is not installed.
    """

    def __init__(self, content: bytes, vectors: NDArray[np.float32], n_probe: int, n_checked: int) -> None:
        faiss = _faiss()
        if content[:4] != _KIND:  # faiss reads other kinds too, of which none was ever written here
            raise ValueError("not an index of the kind that is expected")
        try:
            index = faiss.deserialize_index(np.frombuffer(content, np.uint8))
        except (RuntimeError, MemoryError) as error:
            raise ValueError(f"not an index: {(str(error).splitlines() or ['too large'])[0]}") from error
        if (index.ntotal, index.d) != vectors.shape:
            raise ValueError(f"an index of {index.ntotal} vectors of {index.d}, beside vectors {vectors.shape}")
        if not isinstance(index, faiss.IndexIVF) or not 1 <= n_probe <= index.nlist:
            raise ValueError(f"not an inverted file in which {n_probe} lists can be looked into")
        _check_lists(faiss, index)
        index.nprobe = n_probe
        self.n_probe: Final = n_probe
        self.n_checked: Final = n_checked
        self.vectors: Final = np.ascontiguousarray(vectors, np.float32)
        self._index = index

    @classmethod
    def build(
        cls, vectors: NDArray[np.float32], *, n_best: int = 100, n_probe: int | None = None, seed: int = 0
    ) -> Self:
        """An index of (N, d) vectors, N at least 1,024; the same vectors and seed give the same index.

        Args:
            n_best: vectors that will be wanted of a search.
            n_probe: lists that it will look into; a share of them when None.

        Raises:
            ValueError: vectors that are too few, of another shape, or not finite.
            ImportError: faiss is not installed.
        """
        faiss = _faiss()
        vectors = np.ascontiguousarray(vectors, np.float32)
        if vectors.ndim != 2 or len(vectors) < _LEAST:
            raise ValueError(f"vectors of shape {vectors.shape}, expected at least {_LEAST} rows")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector is not finite")
        n_lists = 1 << round(math.log2(2 * math.sqrt(len(vectors))))
        index = faiss.index_factory(vectors.shape[1], f"IVF{n_lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64  # few are no reason to warn
        index.train(vectors)
        index.add(vectors)
        probed = max(8, round(n_lists * _PROBED_SHARE)) if n_probe is None else n_probe
        n_checked = min(len(vectors), _CHECKED * n_best)
        return cls(faiss.serialize_index(index).tobytes(), vectors, min(probed, n_lists), n_checked)

    @property
    def n_lists(self) -> int:
        """Lists that the vectors are in."""
        return int(self._index.nlist)

    def probing(self, n_probe: int) -> Self:
        """The same index, with searches that look into so many lists."""
        return type(self)(self.to_bytes(), self.vectors, n_probe, self.n_checked)

    def __len__(self) -> int:
        return len(self.vectors)

    def to_bytes(self) -> bytes:
        """The index without the vectors, for a file."""
        content: bytes = _faiss().serialize_index(self._index).tobytes()
        return content

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(B, d) queries -> numbers of the best vectors (B, k), best first, and their inner products (B, k).

        Equal products are ordered by number. Where fewer than k were found, -1 and -inf fill up.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        _, found = self._index.search(queries, min(len(self), max(k, self.n_checked)))
        found.sort(axis=1)  # numbers rise, so that a stable sort by score orders ties by number
        scores = np.matmul(self.vectors.take(found, axis=0, mode="wrap"), queries[:, :, None])[:, :, 0]
        scores[found < 0] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        items = np.full((len(queries), k), -1, np.int64)
        products = np.full((len(queries), k), -np.inf, np.float32)
        items[:, : best.shape[1]] = np.take_along_axis(found, best, axis=1)
        products[:, : best.shape[1]] = np.take_along_axis(scores, best, axis=1)
        return items, products


def _check_lists(faiss: Any, index: Any) -> None:
    """Whether a search stays inside what was read, which faiss itself takes for granted.

    Raises:
        ValueError: it would not.
    """
    codec, lists, coarse = index.sq, index.invlists, index.quantizer
    fits = index.metric_type == faiss.METRIC_INNER_PRODUCT and codec.qtype == faiss.ScalarQuantizer.QT_8bit
    fits = fits and codec.d == index.d and codec.code_size == index.d == lists.code_size
    fits = fits and codec.trained.size() == 2 * index.d and lists.nlist == index.nlist
    fits = fits and (coarse.ntotal, coarse.d) == (index.nlist, index.d)
    if not fits:
        raise ValueError("an inverted file whose parts do not fit together")
    n_entries = [lists.list_size(number) for number in range(index.nlist)]
    if sum(n_entries) != index.ntotal:
        raise ValueError(f"an inverted file with {sum(n_entries)} entries for {index.ntotal} vectors")
    found = np.concatenate(
        [faiss.rev_swig_ptr(lists.get_ids(number), n) for number, n in enumerate(n_entries) if n > 0]
    )
    if found.min() < 0 or found.max() >= index.ntotal or np.bincount(found, minlength=index.ntotal).max() != 1:
        raise ValueError("an inverted file whose entries are not each vector once")


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("an index needs the package faiss-cpu: pip install 'polytempo[index]'") from error
    faiss.omp_set_num_threads(1)  # a worker is scaled by processes
    return faiss

"""An index finds nearly all of what looking at every vector finds, and scores as that does."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from stream.bundle.index import VectorIndex
from tests.bench.growth_vocabulary import made_up

pytestmark = pytest.mark.skipif(find_spec("faiss") is None, reason="the extra `index` is not installed")

VECTORS, QUERIES = made_up(5_000)


@pytest.fixture(scope="module")
def index() -> VectorIndex:
    """One over the made-up vectors."""
    return VectorIndex.build(VECTORS)


def test_it_finds_nearly_all_of_the_best_hundred_with_their_exact_products(index: VectorIndex) -> None:
    """Recall is at least .98; scores are the products themselves and fall."""
    items, scores = index.search(QUERIES, 100)
    products = QUERIES @ VECTORS.T
    best = np.argsort(-products, axis=1, kind="stable")[:, :100]
    assert np.mean([len(set(a) & set(b)) / 100 for a, b in zip(best, items, strict=True)]) >= 0.98
    np.testing.assert_allclose(scores, np.take_along_axis(products, items, axis=1), rtol=1e-5, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 100 for row in items.tolist())


def test_an_event_gets_the_same_in_any_batch(index: VectorIndex) -> None:
    """Alone or among others."""
    together, _ = index.search(QUERIES, 20)
    for row in range(5):
        assert index.search(QUERIES[row : row + 1], 20)[0].tolist() == together[row : row + 1].tolist()


def test_what_was_written_is_read_as_the_same_index(index: VectorIndex) -> None:
    """Bytes in, the same answers out; building again gives the same bytes."""
    again = VectorIndex(index.to_bytes(), VECTORS, index.n_probe, index.n_checked)
    for one, other in zip(index.search(QUERIES, 50), again.search(QUERIES, 50), strict=True):
        np.testing.assert_array_equal(one, other)
    assert VectorIndex.build(VECTORS).to_bytes() == index.to_bytes()
    assert len(again) == len(VECTORS)


def test_equal_products_are_ordered_by_number() -> None:
    """Every vector is there four times."""
    vectors = np.repeat(VECTORS[:400], 4, axis=0)
    items, scores = VectorIndex.build(vectors).search(QUERIES[:3], 40)
    for row, of in zip(items, scores, strict=True):
        for place in range(39):
            assert of[place] > of[place + 1] or row[place] < row[place + 1]


def test_what_is_not_there_is_minus_one() -> None:
    """One list looked into holds fewer than are asked for."""
    index = VectorIndex.build(VECTORS, n_probe=1)
    items, scores = index.search(QUERIES, 2_000)
    assert ((items < 0) == np.isneginf(scores)).all()
    assert (items < 0).any()


@pytest.mark.parametrize(
    ("content", "n", "n_probe", "said"),
    [
        (b"nonsense", 5_000, 8, "not an index"),
        (None, 4_999, 8, "beside vectors"),
        (None, 5_000, 0, "looked into"),
        (None, 5_000, 10_000, "looked into"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    index: VectorIndex, content: bytes | None, n: int, n_probe: int, said: str
) -> None:
    """Before anybody is answered with it."""
    with pytest.raises(ValueError, match=said):
        VectorIndex(index.to_bytes() if content is None else content, VECTORS[:n], n_probe, 200)


@pytest.mark.parametrize("vectors", [VECTORS[:1_023], VECTORS[0], np.full((2_000, 8), np.nan, np.float32)])
def test_of_such_vectors_no_index_is_built(vectors: np.ndarray) -> None:
    """Too few, no matrix, not finite."""
    with pytest.raises(ValueError, match="vector"):
        VectorIndex.build(vectors)

"""A bundle whose index, vectors and manifest do not belong together is refused with the exact reason."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.bundle import load as load_module
from stream.bundle.errors import BundleError
from stream.bundle.index import VectorIndex
from stream.bundle.load import load_bundle
from tests.bundle.damage import replace_file, rewrite
from tests.bundle.models import N_LARGE, large
from training.nets.query import vectors_of

pytestmark = pytest.mark.skipif(find_spec("faiss") is None, reason="the extra `index` is not installed")

INDEX, VECTORS = "index.faiss", "vectors.f32"
OTHER = vectors_of(large(seed=1))
"""Of a model with as many items."""

Copy = Callable[[str], Path]


@pytest.fixture
def copy(indexed_bundles: Path, tmp_path: Path) -> Copy:
    """Copy one of the bundles into the test's own folder."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(indexed_bundles / name, tmp_path / name))

    return copied


def refused(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    return caught.value


def made(kind: str, vectors: Any, *, l2: bool = False, ids: Any = None) -> bytes:
    """An index by faiss itself."""
    import faiss

    metric = faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(vectors.shape[1], kind, metric)
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    if ids is None:
        index.add(vectors)
    else:
        index.add_with_ids(vectors, ids)
    content: bytes = faiss.serialize_index(index).tobytes()
    return content


@pytest.mark.parametrize("name", ["indexed", "fused-indexed"])
@pytest.mark.parametrize("file", [INDEX, VECTORS])
def test_a_flipped_byte_a_cut_and_a_missing_file_are_named(copy: Copy, name: str, file: str) -> None:
    """By the hash, the length, and the list of files."""
    folder = copy(name)
    whole = (folder / file).read_bytes()
    for at in np.linspace(0, len(whole) - 1, 8).astype(int).tolist():
        (folder / file).write_bytes(whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :])
        error = refused(folder)
        assert (error.path.name, error.reason) == (file, "its SHA-256")
    os.truncate(folder / file, len(whole) // 2)
    assert refused(folder).reason == "its length"
    (folder / file).unlink()
    assert "missing" in refused(folder).reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda _: b"nonsense", "not an index of the kind"),
        (lambda whole: whole[:3], "not an index of the kind"),
        (lambda whole: whole[: len(whole) // 2], "not an index"),
        (lambda whole: whole[:-1], "not an index"),
        (lambda _: made("IVF16,Flat", OTHER), "not an index of the kind"),
        (lambda _: made("IVF16,SQ4", OTHER), "do not fit together"),
        (lambda _: made("IVF16,SQ8", OTHER, l2=True), "do not fit together"),
        (lambda _: made("IVF16,SQ8", OTHER, ids=np.arange(N_LARGE) + 1), "each vector once"),
        (lambda _: made("IVF16,SQ8", OTHER, ids=np.arange(N_LARGE) // 2), "each vector once"),
        (lambda _: made("IVF16,SQ8", OTHER[:-1]), "an index of 2999 vectors of 17, beside vectors (3000, 17)"),
        (lambda _: made("IVF16,SQ8", OTHER[:, :-1].copy()), "an index of 3000 vectors of 16"),
        (lambda _: made("IVF4,SQ8", OTHER), "8 lists can be looked into"),
    ],
)
def test_an_index_that_does_not_fit_is_refused_though_its_hash_does(
    copy: Copy, content: Callable[[bytes], bytes], reason: str
) -> None:
    """Before anything is searched for."""
    folder = copy("indexed")
    replace_file(folder, INDEX, content((folder / INDEX).read_bytes()))
    error = refused(folder)
    assert error.path.name == INDEX
    assert reason in error.message


@pytest.mark.parametrize("name", ["indexed", "fused-indexed"])
@pytest.mark.parametrize("file", [INDEX, VECTORS])
def test_an_index_or_vectors_of_another_vocabulary_are_refused_by_the_golden_outputs(
    copy: Copy, name: str, file: str
) -> None:
    """They are of the right size."""
    folder = copy(name)
    other = VectorIndex.build(OTHER, n_best=40).to_bytes() if file == INDEX else OTHER.astype("<f4").tobytes()
    replace_file(folder, file, other)
    assert "does not compute its golden outputs" in refused(folder).message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (OTHER[:-1].tobytes(), "its length, for 3000 items of 17 floats: expected 204000 bytes, found 203932"),
        (OTHER.astype("<f8").tobytes(), "found 408000"),
        (np.full_like(OTHER, np.nan).tobytes(), "is not finite"),
    ],
)
def test_vectors_that_are_none_are_refused(copy: Copy, content: bytes, reason: str) -> None:
    """Too few, too wide, no numbers."""
    folder = copy("indexed")
    replace_file(folder, VECTORS, content)
    error = refused(folder)
    assert error.path.name == VECTORS
    assert reason in error.message


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("indexed", lambda m: m.pop("index"), "files are exactly"),
        ("indexed", lambda m: m["index"].update(n_query=16), "its length, for 3000 items of 16 floats"),
        ("indexed", lambda m: m["index"].update(n_probe=100_000), "100000 lists can be looked into"),
        ("indexed", lambda m: m["index"].update(n_probe=0), "positive sizes"),
        ("indexed", lambda m: m["index"].update(n_checked=39), "an index checks 40 to 3000 items, not 39"),
        ("indexed", lambda m: m["index"].update(n_checked=3001), "an index checks 40 to 3000 items, not 3001"),
        ("indexed", lambda m: m["index"].update(metric="l2"), "unknown field `metric`"),
        ("fused-indexed", lambda m: m["index"].update(n_query=16), "asked with 16 floats, the query has 17"),
        ("fused-indexed", lambda m: m.pop("retrieval"), "files are exactly"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    copy: Copy, name: str, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    """The sizes agree with the files, the model, and each other."""
    folder = copy(name)
    rewrite(folder, change)
    assert reason in refused(folder).message


def test_without_faiss_the_bundle_is_refused_and_says_what_to_install(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a worker starts to answer."""
    folder = copy("indexed")
    monkeypatch.setitem(sys.modules, "faiss", None)
    error = refused(folder)
    assert error.path.name == INDEX
    assert "faiss-cpu is not installed" in error.message
    assert "polytempo[index]" in error.hint


@pytest.mark.parametrize("file", [INDEX, VECTORS])
def test_a_file_beyond_its_limit_is_not_read(copy: Copy, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Whatever the manifest says of it."""
    monkeypatch.setitem(load_module.MAX_BYTES, file, 100)
    error = refused(copy("indexed"))
    assert error.path.name == file
    assert "too large" in error.message

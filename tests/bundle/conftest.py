"""Bundles to test with: exported once, copied for each test that harms them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundle.models import write_fused, write_fused_indexed, write_indexed, write_ranker, write_recurrent


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with whole bundles: `ranker`, `ranker-2` (other weights), `recurrent` and `fused`. Not to be changed."""
    home = tmp_path_factory.mktemp("models")
    write_ranker(home / "ranker")
    write_ranker(home / "ranker-2", seed=1)
    write_recurrent(home / "recurrent")
    write_fused(home / "fused")
    return home


@pytest.fixture(scope="session")
def indexed_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bundles that search an index: `indexed`, and `fused-indexed` with a ranker behind it."""
    pytest.importorskip("faiss", reason="the extra `index` is not installed")
    home = tmp_path_factory.mktemp("indexed")
    write_indexed(home / "indexed")
    write_fused_indexed(home / "fused-indexed")
    return home


@pytest.fixture
def copy(bundles: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy one of the bundles into the test's own folder."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(bundles / name, tmp_path / name))

    return copied

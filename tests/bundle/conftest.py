"""Bundles to test with: exported once, copied for each test that harms them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundle.models import write_fused, write_ranker, write_recurrent


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with whole bundles: `ranker`, `ranker-2` (other weights), `recurrent` and `fused`. Not to be changed."""
    home = tmp_path_factory.mktemp("models")
    write_ranker(home / "ranker")
    write_ranker(home / "ranker-2", seed=1)
    write_recurrent(home / "recurrent")
    write_fused(home / "fused")
    return home


@pytest.fixture
def copy(bundles: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy one of the bundles into the test's own folder."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(bundles / name, tmp_path / name))

    return copied

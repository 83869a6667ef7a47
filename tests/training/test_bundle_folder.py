"""A bundle gets its place whole or not at all, and nothing else is ever replaced."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from stream.bundle.errors import BundleError
from stream.bundle.load import load_bundle
from tests.bundle.models import write_ranker


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_another_bundle_in_the_way_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    write_ranker(tmp_path / "a")
    before = contents(tmp_path / "a")
    with pytest.raises(BundleError, match=r"another bundle is in the way.*ranker@2.*ranker@1"):
        write_ranker(tmp_path / "a", seed=1)
    assert contents(tmp_path / "a") == before
    write_ranker(tmp_path / "a")  # the very same one is no conflict
    assert contents(tmp_path / "a") == before
    write_ranker(tmp_path / "a", seed=1, replace=True)
    assert load_bundle(tmp_path / "a").reference == "ranker@2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("text")
    with pytest.raises(BundleError, match="not a bundle"):
        write_ranker(tmp_path / "thesis", replace=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "text"


def test_a_failure_on_the_way_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ranker(tmp_path / "a")
    before = contents(tmp_path / "a")

    def fail(path: Path) -> NoReturn:
        raise BundleError(path, "refused for the test")

    monkeypatch.setattr("training.bundle_folder.load_bundle", fail)
    with pytest.raises(BundleError, match="refused for the test"):
        write_ranker(tmp_path / "a", seed=1, replace=True)
    assert contents(tmp_path / "a") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]

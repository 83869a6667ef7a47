"""Which bundle is active, and how a worker hears of another one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.bundle.channel import BundleWatcher, Channel, activate, read_channel, resolve, rollback
from stream.bundle.errors import BundleError
from stream.bundle.load import load_bundle

Copy = Callable[[str], Path]


@pytest.fixture
def channel(copy: Copy, tmp_path: Path) -> Path:
    """A channel on `ranker`, with `ranker-2` beside it."""
    copy("ranker-2")
    activate(tmp_path / "live.json", copy("ranker"))
    return tmp_path / "live.json"


def test_a_folder_resolves_to_itself_and_a_channel_to_its_active_bundle(channel: Path, tmp_path: Path) -> None:
    assert resolve(tmp_path / "ranker") == tmp_path / "ranker"
    assert resolve(channel) == tmp_path / "ranker"
    assert load_bundle(resolve(channel)).reference == "ranker@1"


def test_activating_keeps_the_one_before_and_rolling_back_exchanges_them(channel: Path, tmp_path: Path) -> None:
    assert read_channel(channel) == Channel("ranker", None)
    assert activate(channel, tmp_path / "ranker-2") == Channel("ranker-2", "ranker")
    assert rollback(channel) == Channel("ranker", "ranker-2")
    assert rollback(channel) == Channel("ranker-2", "ranker")
    assert read_channel(channel) == Channel("ranker-2", "ranker")


def test_activating_what_is_active_keeps_the_previous_one(channel: Path, tmp_path: Path) -> None:
    activate(channel, tmp_path / "ranker-2")
    assert activate(channel, tmp_path / "ranker-2") == Channel("ranker-2", "ranker")


def test_the_channel_moves_with_its_folder_and_names_far_bundles_in_full(
    channel: Path, bundles: Path, tmp_path: Path
) -> None:
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.copytree(tmp_path, moved)
    assert resolve(moved / "live.json") == moved / "ranker"
    activate(channel, bundles / "recurrent")
    assert resolve(channel) == (bundles / "recurrent").resolve()


def test_a_refused_bundle_is_not_activated_and_leaves_no_trace(channel: Path, tmp_path: Path) -> None:
    (tmp_path / "ranker-2" / "parity.npz").write_bytes(b"damaged")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BundleError, match=r"parity\.npz"):
        activate(channel, tmp_path / "ranker-2")
    assert read_channel(channel) == Channel("ranker", None)
    assert sorted(tmp_path.iterdir()) == before


def test_rolling_back_to_a_bundle_that_was_damaged_since_is_refused(channel: Path, tmp_path: Path) -> None:
    activate(channel, tmp_path / "ranker-2")
    (tmp_path / "ranker" / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx"):
        rollback(channel)
    assert read_channel(channel).active == "ranker-2"


def test_there_is_nothing_to_roll_back_to_at_first(channel: Path) -> None:
    with pytest.raises(BundleError, match="no previous bundle"):
        rollback(channel)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"active": 1}', '{"active": "x", "more": 1}', "[" * 70_000])
def test_a_file_that_is_no_channel_is_refused_and_never_overwritten(
    tmp_path: Path, bundles: Path, content: str
) -> None:
    file = tmp_path / "notes.json"
    file.write_text(content)
    with pytest.raises(BundleError, match=r"notes\.json"):
        resolve(file)
    with pytest.raises(BundleError, match=r"notes\.json"):
        activate(file, bundles / "ranker")
    assert file.read_text() == content


def test_nothing_is_reported_while_nothing_changes(channel: Path) -> None:
    watcher = BundleWatcher(channel)
    assert [watcher.poll() for _ in range(3)] == [None, None, None]
    assert watcher.problem is None


def test_each_change_of_a_channel_is_reported_once(channel: Path, tmp_path: Path) -> None:
    """time -> activate ranker-2 · poll poll · rollback · poll poll"""
    watcher = BundleWatcher(channel)
    activate(channel, tmp_path / "ranker-2")
    assert [watcher.poll(), watcher.poll()] == [tmp_path / "ranker-2", None]
    rollback(channel)
    assert [watcher.poll(), watcher.poll()] == [tmp_path / "ranker", None]


def test_a_bundle_replaced_in_its_folder_is_reported(copy: Copy, tmp_path: Path) -> None:
    copy("ranker"), copy("ranker-2")
    watcher = BundleWatcher(tmp_path / "ranker")
    (tmp_path / "ranker").rename(tmp_path / "old")
    assert watcher.poll() is None
    assert watcher.problem is not None
    (tmp_path / "ranker-2").rename(tmp_path / "ranker")
    assert watcher.poll() == tmp_path / "ranker"
    assert watcher.problem is None


def test_a_half_copied_bundle_is_not_reported_before_its_last_byte(
    channel: Path, bundles: Path, tmp_path: Path
) -> None:
    """manifest · half of the model · all of it · vocabulary · parity: only then is there a bundle"""
    watcher = BundleWatcher(channel)
    half = tmp_path / "half"
    half.mkdir()
    channel.write_text(json.dumps({"active": "half"}))
    model = (bundles / "ranker-2" / "model.onnx").read_bytes()
    shutil.copy(bundles / "ranker-2" / "manifest.json", half)
    assert watcher.poll() is None
    (half / "model.onnx").write_bytes(model[: len(model) // 2])
    assert watcher.poll() is None
    (half / "model.onnx").write_bytes(model)
    assert watcher.poll() is None
    shutil.copy(bundles / "ranker-2" / "vocabulary.json", half)
    assert watcher.poll() is None
    shutil.copy(bundles / "ranker-2" / "parity.npz", half)
    assert watcher.poll() == half


@pytest.mark.parametrize("content", ["", '{"act', '{"active": "nowhere"}'])
def test_a_channel_that_points_nowhere_is_a_problem_until_it_points_somewhere(
    channel: Path, tmp_path: Path, content: str
) -> None:
    watcher = BundleWatcher(channel)
    channel.write_text(content)
    assert watcher.poll() is None
    assert watcher.problem is not None
    channel.write_text('{"active": "ranker-2"}')
    assert watcher.poll() == tmp_path / "ranker-2"


def test_the_same_bundle_written_again_or_touched_is_no_change(channel: Path, tmp_path: Path) -> None:
    watcher = BundleWatcher(channel)
    os.utime(tmp_path / "ranker" / "manifest.json")
    shutil.copy(tmp_path / "ranker" / "model.onnx", tmp_path / "again")
    (tmp_path / "again").replace(tmp_path / "ranker" / "model.onnx")
    channel.write_text('{"active": "ranker", "previous": "ranker-2"}')
    assert watcher.poll() is None
    assert watcher.problem is None

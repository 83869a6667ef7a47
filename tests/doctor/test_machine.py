"""The doctor looks at bundles, folders and running workers."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream.doctor.findings import error, is_well, ok, unknown, warning
from stream.doctor.machine import check_bundle, check_data, check_worker
from stream.operations.http import HttpServer, json_page
from stream.operations.listen import Listen, Token

ROOT = Path(__file__).resolve().parents[2]
TOKEN = Token("a-token-of-sixteen-characters")


def test_a_bundle_is_loaded_for_good(tmp_path: Path) -> None:
    assert check_bundle(ROOT / "models" / "shop-ranker").status == "ok"
    broken = shutil.copytree(ROOT / "models" / "shop-ranker", tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"nothing")
    found = check_bundle(broken)
    assert found.status == "error"
    assert "model.onnx" in found.detail
    assert check_bundle(tmp_path / "nothing").status == "error"


def test_a_folder_that_is_not_there_yet_is_judged_by_where_it_will_be(tmp_path: Path) -> None:
    assert {each.check: each.status for each in check_data(tmp_path / "a" / "b", store="memory")} == {
        "data": "ok",
        "snapshot": "unknown",
    }


def test_a_folder_that_cannot_be_one_a_full_disk_and_a_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    (found,) = check_data(file / "below", store="memory")
    assert (found.check, found.status) == ("data", "error")
    usage: Any = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (tmp_path / "shop-item-statistics.npz").write_bytes(b"0" * 100)
    assert {each.check: each.status for each in check_data(tmp_path, store="rocksdb", prefix="shop-")} == {
        "data": "warning",
        "store": "error",
        "snapshot": "ok",
    }


@pytest.fixture
def status() -> Iterator[tuple[str, dict[str, Any]]]:
    """An address that answers as a worker does, and what it says."""
    document: dict[str, Any] = {"ready": True, "objections": [], "models": {"default": "shop@1"}, "up_s": 12.5}
    server = HttpServer(Listen("127.0.0.1", 0), {"/status": lambda _: json_page(document)}, TOKEN)
    server.start()
    yield server.url, document
    server.stop()


def test_a_worker_is_asked_how_it_is(status: tuple[str, dict[str, Any]]) -> None:
    url, document = status
    assert check_worker(url, TOKEN) == ok("worker", f"{url} is ready, shop@1, up 12 s")
    assert check_worker(url, None).hint.startswith("Set POLYTEMPO_HTTP_TOKEN")
    document |= {"ready": False, "objections": [{"kind": "stalled", "detail": "3 events wait"}]}
    assert "stalled: 3 events wait" in check_worker(f"{url}/", TOKEN).detail
    document.clear()
    assert "no worker" in check_worker(url, TOKEN).detail
    assert "nobody answers" in check_worker("http://127.0.0.1:1", TOKEN).detail


def test_only_errors_are_ill() -> None:
    assert is_well([ok("a", ""), warning("b", ""), unknown("c", "")])
    assert not is_well([ok("a", ""), error("b", "")])

"""`polytempo bundle`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.cli.main import main


def test_show_tells_what_a_bundle_says_about_itself(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(bundles / "recurrent")]) == 0
    shown = capsys.readouterr().out
    assert "recurrent@1" in shown
    assert "state: float32 (B, 16)" in shown
    assert "5m 1h 1d 7d 30d" in shown


def test_show_as_json_is_one_line(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(bundles / "ranker"), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    facts = json.loads(line)
    assert facts["reference"] == "ranker@1"
    assert facts["metrics"] == {"made-up/hr@10": 0.5}


def test_verify_exits_with_2_and_the_reason_for_a_damaged_bundle(
    copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy("ranker")
    assert main(["bundle", "verify", str(folder)]) == 0
    assert "ok ranker@1" in capsys.readouterr().out
    (folder / "vocabulary.json").write_text('["x"]')
    assert main(["bundle", "verify", str(folder), "--json"]) == 2
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["ok"] is False
    assert "vocabulary.json" in answer["reason"]
    assert "vocabulary.json" in captured.err


def test_activate_and_rollback_say_what_serves_now(
    copy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    channel = str(tmp_path / "live.json")
    for name in ("ranker", "ranker-2"):
        assert main(["bundle", "activate", channel, str(copy(name)), "--json"]) == 0
    assert main(["bundle", "rollback", channel, "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["active"] for answer in answers] == ["ranker", "ranker-2", "ranker"]
    assert main(["bundle", "verify", channel]) == 0

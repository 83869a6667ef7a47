"""`polytempo backtest` as people call it."""

from __future__ import annotations

import json
import re
import signal
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stream.cli import backtest as command
from stream.cli.main import main
from tests.training.backtest_log import START_MS, table
from tests.worker.bundles import bundle

SINCE = ("--since", str(START_MS + 900_000))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.parquet"
    table(1200).write_parquet(path)
    return path


def test_its_last_line_has_the_figures_of_every_bundle(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundles = ["--bundle", str(bundle("ranker")), "-b", str(bundle("ranker-2"))]
    assert main(["backtest", "--log", str(log), *SINCE, *bundles, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(said["bundles"]) == {"ranker@1", "ranker@2"}
    assert set(said["baselines"]) == {"popularity", "popularity_1h", "co_visitation"}
    for figures in said["bundles"].values():
        assert {"hr_at_10", "ndcg_at_10", "mrr_at_10", "n_targets", "events_per_s"} <= set(figures)
        assert 0 < figures["mrr_at_10"] < figures["ndcg_at_10"] < figures["hr_at_10"] < 1
    assert {(each["from"], each["to"]) for each in said["differences"]} == {
        ("ranker@1", "ranker@2"),
        *((baseline, name) for baseline in said["baselines"] for name in said["bundles"]),
    }


class Tags(HTMLParser):
    """Which tags are opened, and whether all are closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.opened.append(tag)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.stack and self.stack[-1] in ("tr", "td", "th", "li") and self.stack[-1] != tag:
            self.stack.pop()
        assert self.stack.pop() == tag


def test_its_report_is_one_file_that_fetches_nothing(log: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    assert main(["backtest", "--log", str(log), *SINCE, "-b", str(bundle("ranker")), "--report", str(report)]) == 0
    text = report.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.stack == []
    assert tags.opened.count("svg") >= 6
    assert not {"script", "link", "img", "iframe"} & set(tags.opened)
    assert re.findall(r"https?://|url\(|@import", text) == []
    for heading in ("Overall", "Over time", "Differences", "Coverage", "What scores mean", "Cost", "Examples"):
        assert heading in text
    assert "NaN" not in text
    assert "nan" not in re.findall(r'"[^"]*"', text)


def test_ctrl_c_stops_and_the_same_command_goes_on(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["backtest", "--log", str(log), *SINCE, "-b", str(bundle("ranker")), "--json"]
    assert main(arguments) == 0
    whole = json.loads(capsys.readouterr().out.splitlines()[-1])

    n_shown = 0
    bar = command._bar

    def interrupted(title: str) -> object:
        @contextmanager
        def inner():  # type: ignore[no-untyped-def]
            with bar(title) as show:

                def count(n_done: int, n_all: int) -> None:
                    nonlocal n_shown
                    n_shown += 1
                    if n_shown == 100:
                        signal.raise_signal(signal.SIGINT)
                    show(n_done, n_all)

                yield count

        return inner()

    monkeypatch.setattr(command, "_bar", interrupted)
    work = tmp_path / "work"
    assert main([*arguments, "--work", str(work)]) == 130
    assert len(list(work.glob("*.part.npz"))) == 1
    assert main([*arguments, "--work", str(work)]) == 0
    resumed = json.loads(capsys.readouterr().out.splitlines()[-1])
    for kind in ("bundles", "baselines"):
        for name, figures in resumed[kind].items():
            assert {**figures, "seconds": 0, "events_per_s": 0} == {
                **whole[kind][name],
                "seconds": 0,
                "events_per_s": 0,
            }


def test_a_study_compares_ways_of_keeping_statistics(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = ["--delay", "0s", "--delay", "20m", "--own-statistics", "1", "--own-statistics", "8"]
    assert main(["backtest", "--log", str(log), *SINCE, *ways, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(each["delay"], each["own_statistics"]) for each in said["study"]] == [
        ("0s", None), ("20m", None), ("0s", 1), ("0s", 8),
    ]  # fmt: skip
    rates = [each["baselines"]["co_visitation"]["hr_at_10"] for each in said["study"]]
    assert rates[0] == rates[2] > max(rates[1], rates[3])
    study = tmp_path / "study.html"
    assert main(["backtest", "--log", str(log), *SINCE, *ways, "--report", str(study)]) == 0
    assert "8 workers apart" in capsys.readouterr().out
    text = study.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.stack == []
    assert tags.opened.count("svg") == 1
    assert text.count("20m late") == 2
    assert re.findall(r"https?://|url\(|@import|<script", text) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs events"),
        (["--log", "nowhere.parquet", "--topic", "events"], "needs events"),
        (["--log", "nowhere.parquet"], "there is no file"),
        (["--log", "LOG", "--no-baselines"], "nothing to judge"),
        (["--log", "LOG", "--since", "2100-01-01"], "no target in this range"),
        (["--log", "LOG", "--sample", "0"], "no share"),
        (["--log", "LOG", "--where", "device"], "no FIELD=VALUE"),
        (["--log", "LOG", "--where", "planet=3"], "no context field 'planet'"),
        (["--log", "LOG", "--only-type", "wink"], "no event type is called 'wink'"),
        (["--log", "LOG", "--target", "horizon"], "horizon"),
        (["--log", "LOG", "--k", "0"], "1 at least"),
    ],
)
def test_what_cannot_be_done_is_said(
    log: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backtest", *(str(log) if each == "LOG" else each for each in arguments)]) == 2
    assert message in capsys.readouterr().err

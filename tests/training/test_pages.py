"""Reports and plots as people see them: opened in a real browser without network, at a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stream.core.scales import HOUR_MS
from tests.bench.growth_chart import drawn
from tests.browser import DESKTOP, PHONE, Browser, browser, missing
from tests.training.backtest_log import START_MS, material
from training.backtest.analysis import Analysis, analyse
from training.backtest.judged import Judged, judged_targets
from training.backtest.report import write_report
from training.backtest.run import BASELINES, Example, Outcome
from training.backtest.significance import Interval
from training.backtest.study import write_study
from training.compare.report import Entry, write_files

NOT_HERE = missing()
pytestmark = pytest.mark.skipif(NOT_HERE is not None, reason=f"needs a browser: {NOT_HERE}")

WAYS = [*((each, None) for each in ("0s", "10s", "1m", "5m", "1h", "24h")), *(("0s", each) for each in (1, 4, 16))]
LEAST_PX = 10.0
"""Letters below this are not read on a phone."""


def analysed(*lengths: float) -> Analysis:
    """Baselines and a bundle for each of `lengths`: the smaller, the better its lists."""
    small = material()
    spread = replace(small.log, ts_ms=START_MS + (small.log.ts_ms - START_MS) * 9)  # a working day instead of an hour
    small = replace(small, log=spread)
    judged = Judged(from_ms=START_MS + 4 * HOUR_MS)
    targets = judged_targets(small.log, small.types, small.fields, judged)
    wanted, rng = small.log.item[targets.row], np.random.default_rng(0)
    bundles = {f"a-model-with-a-long-name-{number}@1": each for number, each in enumerate(lengths)}
    outcomes = []
    for name, length in {**dict(zip(BASELINES, (70, 40, 25), strict=True)), **bundles}.items():
        items = np.stack([rng.permutation(50)[:10] for _ in wanted]).astype(np.int32)
        place = rng.exponential(length, len(wanted)).astype(np.int64) + 1
        place[place > 10] = 0
        items[items == wanted[:, None]] = -2
        hit = np.flatnonzero(place)
        items[hit, place[hit] - 1] = wanted[hit]
        scores = np.sort(rng.random((len(wanted), 10)).astype(np.float32))[:, ::-1].copy()
        examples = tuple(
            Example(which, ("item-1", "item-23", "item-4"), tuple(f"item-{n}" for n in range(10)),
                    tuple(1 - n / 10 for n in range(10)), (("co-visited:last", "popular:continuing:30m"),) * 10)
            for which in range(0, 200, 40)
        )  # fmt: skip
        outcomes.append(
            Outcome(name, np.arange(len(wanted)), place, items, scores, 2000, len(wanted), 1.0 + len(name),
                    examples if name in bundles else ())
        )  # fmt: skip
    return analyse(small, targets, judged, outcomes)


def compared() -> list[Entry]:
    """Two protocols of eight models each."""
    models = ["popularity", "popularity_1h", "co_visitation", "last_repeat", "lstm_seq2seq", "tempo", "transformer"]
    figures: dict[str, float | None] = {
        "mrr_at_10": 0.1, "coverage": 0.4, "novelty": 3.0, "us_per_event": 21.5, "state_bytes": 896.0, "train_s": 321.0,
        "n_parameters": 123_456.0,
    }  # fmt: skip
    return [
        Entry(model, protocol, (0, 1), at, at, (at.mean, at.mean), at, at, figures)
        for protocol in ("loo", "time")
        for n, model in enumerate([*models, "tempo_without_physical_time"])
        for at in (Interval(0.02 * n + 0.02, 0.02 * n + 0.01, 0.02 * n + 0.04, 0.04),)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of page and plot that a command saves."""
    folder = tmp_path_factory.mktemp("pages")
    write_report(analysed(12, 16), folder / "report.html", title="two models on a small log")
    ways = [analysed(12), analysed(20)]
    write_study(WAYS, [ways[n % 2] for n in range(len(WAYS))], folder / "study.html", title="a study")
    write_files(compared(), folder, title="Comparison on ratings")
    sizes = [10, 100, 1000, 10_000]
    points = [{"n": n, "us_per_event": 20 + n / 500, "refresh_ms": 0.1 + n / 90, "bytes_per_item": 752} for n in sizes]
    figures = dict.fromkeys(("history", "users", "items", "scales", "partitions", "vocabulary"), points)
    (folder / "growth.svg").write_text(drawn(figures), encoding="utf-8")
    names = {"report": "report.html", "study": "study.html", "comparison": "comparison.html", "growth": "growth.svg"}
    return {name: folder / file for name, file in names.items()}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all pages."""
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize(("name", "n_plots"), [("report", 8), ("study", 1), ("comparison", 2)])
def test_a_page_is_whole_and_fits(
    chromium: Browser, pages: dict[str, Path], name: str, n_plots: int, width: int
) -> None:
    """Plots drawn, nothing fetched, nothing complained of, nothing cut off, and letters that can be read."""
    chromium.open(pages[name], width)
    assert chromium.complaints() == []
    sizes = chromium.ask(
        "return [...document.querySelectorAll('svg')].map(s => [s.clientWidth, s.clientHeight, "
        "s.querySelectorAll('polyline, circle, rect').length])"
    )
    assert len(sizes) >= n_plots
    assert all(wide > 200 and tall > 60 and n_marks > 0 for wide, tall, n_marks in sizes), sizes
    assert chromium.ask("return document.documentElement.scrollWidth") <= width
    assert chromium.too_wide() == []
    assert chromium.cut_off() == []
    assert chromium.overlapping() == []
    assert chromium.smallest_words_px() >= LEAST_PX


def test_the_plot_of_growth_is_whole(chromium: Browser, pages: dict[str, Path]) -> None:
    """Wide as it is, it is for a desk."""
    chromium.open(pages["growth"], DESKTOP)
    assert chromium.complaints() == []
    assert chromium.ask("return document.querySelectorAll('polyline').length") == 6 * 3
    assert chromium.cut_off() == []
    assert chromium.overlapping() == []


def test_a_page_that_fetches_is_found_out(chromium: Browser, tmp_path: Path) -> None:
    """The check above would see it."""
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><img src="https://example.com/logo.png"><p style="width: 2000px">Wide.</p>')
    chromium.open(page, PHONE)
    assert "example.com" in chromium.complaints()[0]
    assert chromium.too_wide() == ["P"]

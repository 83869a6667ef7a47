"""The comparison on a log of ratings: its protocol, its baselines, and one run from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from training.films import Settings, Task, baseline_ranks, figures, main, ranks, read_ratings, seen_items, split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty users who walk through twenty films in order, each from one of their own, a minute apart."""
    user, step = np.repeat(np.arange(40), 8), np.tile(np.arange(8), 40)
    frame = pl.DataFrame(
        {"user_id": user, "item_id": (user + step) % 20, "rating": 1 + step % 5, "ts_ms": (step * 40 + user) * 60_000}
    )
    path = tmp_path / "ratings.parquet"
    frame.sort("ts_ms").write_parquet(path)
    return path


def test_a_rank_counts_what_is_not_seen_and_ties_against_the_target() -> None:
    scores = np.array([[5, 4, 3, 3, 1], [1, 1, 1, 1, 1]], np.float32)
    seen = np.array([[True, False, False, False, False], [False] * 5])
    assert ranks(scores, seen, np.array([3, 2])).tolist() == [3, 5]


def test_the_figures_are_their_formulas() -> None:
    hr, ndcg = figures(np.array([1, 2, 10, 11]))
    assert hr == 0.75
    assert ndcg == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 4)


def test_seen_is_what_the_user_had_before_the_target(data: Path) -> None:
    sequences = read_ratings(data)
    task = split(sequences, Settings())
    seen = seen_items(sequences, task.rows)
    assert seen.sum(axis=1).tolist() == [7] * 40
    assert not seen[np.arange(40), sequences.item[task.rows] - 1].any()


def test_co_visitation_knows_what_follows_and_popularity_does_not(data: Path) -> None:
    task = split(read_ratings(data), Settings())
    assert figures(baseline_ranks("co_visitation", task, Settings()))[1] > 0.9
    assert figures(baseline_ranks("popularity", task, Settings()))[1] < 0.6


def test_nothing_after_the_cut_is_learnt_from(data: Path) -> None:
    task: Task = split(read_ratings(data), Settings(protocol="time", cut=0.5))
    assert task.train.ts_ms.max() < task.whole.ts_ms[task.rows].min()
    assert len(task.train) == 159  # what is at the cut is after it
    assert len(task.rows) == 161


@pytest.mark.parametrize("protocol", ["loo", "time"])
def test_the_command_line_ends_with_a_row_for_every_model(
    protocol: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", "1", "--d", "8", "--seeds", "1", "--protocol", protocol, "--json"]
    main(["--data", str(data), *options])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = ["popularity", "co_visitation", "moving_average", "lstm_seq2seq", "transformer", "tempo"]
    assert [row["model"] for row in rows] == names
    for row in rows:
        assert {"model", "hr_at_10", "ndcg_at_10", "us_per_event", "state_bytes", "train_s"} <= set(row)
        assert 0 <= row["ndcg_at_10"] <= row["hr_at_10"] <= 1

"""The LSTM's decoders, each asked about its own horizon."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.compare.ratings import sequences, write_log
from training.compare.horizons import judge_horizons, main
from training.compare.task import split
from training.nets.lstm_seq2seq import LstmSeq2Seq, LstmSeq2SeqConfig
from training.sequences import SequenceBatch


class Oracle(LstmSeq2Seq):
    """Its decoder of the day knows that users walk on item by item; the others like what lies furthest away."""

    def sequence(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        number = torch.tensor([int(item) for item in sequences().vocabulary])
        at = number[batch.item - 1]  # (B, T)
        ahead = (number - at.unsqueeze(-1)) % 20  # (B, T, V) how far each film lies ahead
        queries = ahead.float().unsqueeze(2).repeat(1, 1, 4, 1)
        queries[:, :, 2] *= -1
        return queries, torch.ones(*at.shape, 4) / 4

    def horizon_logits(self, queries: torch.Tensor) -> torch.Tensor:
        return queries


def test_a_decoder_is_asked_about_what_comes_within_its_horizon() -> None:
    """Events of one user are forty minutes apart, so one of them lies within the hour and all others within the day."""
    task = split(sequences(), "time", cut=0.5)
    found = {each.name: each for each in judge_horizons(Oracle(LstmSeq2SeqConfig(20, d=20)), task, max_length=8)}
    assert list(found) == ["hour", "day", "week"]
    assert found["day"].n_moments == len(task.rows)
    assert found["day"].hit_rate == found["day"].recall == 1.0
    assert found["day"].gain.low > 0
    assert found["hour"].gain.mean == found["week"].gain.mean == 0, "these say what the next event's says"
    assert np.isclose(found["hour"].recall, found["hour"].next_recall)


def test_the_command_trains_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data", str(write_log(tmp_path / "ratings.parquet")), "--epochs", "1", "--json"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["horizon"] for row in rows] == ["hour", "day", "week"]
    assert all(0 <= row["recall_at_10"] <= row["hr_at_10"] <= 1 for row in rows)

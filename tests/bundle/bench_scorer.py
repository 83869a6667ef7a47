"""What a run of the scorer costs on one thread: `python -m tests.bundle.bench_scorer`.

Prints one line of JSON: for each model and batch size the median and the 99th percentile of a run in microseconds, and
the median for each event of the batch.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from stream.bundle.load import load_bundle
from stream.bundle.scorer import OnnxScorer
from stream.core.candidates import CandidateSpec
from stream.core.features import FeatureSpec, menu
from tests.bundle.models import Ranker, write_ranker, write_recurrent
from training.module_scorer import example_inputs
from training.nets.recurrent import Recurrent, RecurrentConfig

BATCHES = (1, 16, 64, 256)
N_VOCABULARY = 3400
FEATURES = FeatureSpec(candidates=CandidateSpec(n=128))


class TwoLayers(Ranker):
    """64 and 32 hidden units, as the ranker that wins on the news log."""

    def __init__(self, n_features: int, n_context: int) -> None:
        super().__init__(n_features, n_context, 64)
        self.score = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))  # type: ignore[assignment]


def measure(scorer: OnnxScorer, seconds: float = 1.0) -> dict[str, dict[str, float]]:
    figures = {}
    for n_rows in BATCHES:
        inputs = example_inputs(scorer.inputs, n_rows=n_rows, n_vocabulary=N_VOCABULARY)
        runs_us = []
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            scorer.score(inputs)
            runs_us.append((time.perf_counter() - begin) * 1e6)
        median, p99 = np.percentile(runs_us[len(runs_us) // 10 :], (50, 99)).tolist()
        figures[str(n_rows)] = {
            "run_us": round(median, 1),
            "p99_us": round(p99, 1),
            "us_per_event": round(median / n_rows, 2),
        }
    return figures


def main() -> None:
    torch.set_num_threads(1)
    offered = menu(FEATURES)
    widths = [int(offered[name].shape[-1]) for name in ("candidate_features", "context_features")]
    with tempfile.TemporaryDirectory() as home:
        write_ranker(Path(home, "ranker"), module=TwoLayers(*widths), features=FEATURES)
        write_recurrent(
            Path(home, "recurrent"),
            module=Recurrent(RecurrentConfig(N_VOCABULARY, n_state=64, n_best=100)),
            n_state=64,
            vocabulary=[f"item-{number}" for number in range(N_VOCABULARY)],
        )
        ranker, recurrent = (load_bundle(Path(home, name)).scorer for name in ("ranker", "recurrent"))
        report = {
            f"two-stage, C=128, F={widths[0]}, G={widths[1]}, 64-32-1": measure(ranker),
            f"recurrent, d=64, V={N_VOCABULARY}, k=100": measure(recurrent),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

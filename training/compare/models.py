"""One model of a comparison: trained on a task's training part, scored on its targets, timed as a worker serves it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream.bundle.load import load_bundle
from stream.bundle.manifest import TrainingWindow
from stream.bundle.parity import take_rows
from stream.core.features import FeatureSpec
from stream.core.scales import DEFAULT_SCALES
from stream.core.state import StateSpec
from training.compare.task import ScoreRows, Task
from training.config import SequenceTraining
from training.export import RetrievalModel, write_bundle
from training.fit import fit
from training.fusion import fusion_inputs
from training.losses import (
    CatalogueLoss,
    draw_negatives,
    full_cross_entropy,
    sampled_cross_entropy,
    unseen_cross_entropy,
)
from training.module_scorer import example_inputs
from training.nets.fusion import Fusion
from training.sequence_models import (
    SequenceModel,
    batches_for,
    build,
    fit_config,
    inputs_of,
    n_state_of,
    parts_of,
)
from training.sequences import SequenceBatch, UserSequences, pad, window_totals

__all__ = [
    "N_HISTORY",
    "N_NEGATIVES",
    "Loss",
    "by_position",
    "score_in_steps",
    "score_with",
    "serve",
    "serve_fusion",
    "train_model",
]

Loss = Literal["full", "unseen", "sampled"]
"""Over the whole catalogue; over what of it the user did not have; against negatives drawn by popularity from that."""
N_NEGATIVES: Final = 256
N_HISTORY: Final = 100
"""Events that models without state look back on: their record holds as many."""


def train_model(
    settings: SequenceTraining,
    train: UserSequences,
    *,
    seed: int,
    loss: Loss = "full",
    on_step: Callable[[int, int], None] | None = None,
    categories: Tensor | None = None,
) -> tuple[SequenceModel, float]:
    """Train to the end of the cycle.

    Args:
        loss: see `Loss`.
        on_step: called with the steps taken and all that there will be.
        categories: (V,) category of each item from 1, 0 for none, for the models that can use them.

    Returns:
        The model, and the processor seconds of training: on one thread, what it takes on an idle machine.
    """
    torch.manual_seed(seed)
    model = build(settings, len(train.vocabulary), n_history=N_HISTORY, scales=DEFAULT_SCALES, categories=categories)
    epoch = batches_for(settings, train, n_history=N_HISTORY, scales=DEFAULT_SCALES, seed=seed)
    n_steps = settings.epochs * sum(1 for _ in epoch(0))
    of_batch = _loss(loss, train)
    started = time.process_time()
    fit(
        model,
        epoch,
        lambda batch: model.loss(batch, of_batch()),
        fit_config(settings, seed, patience=False),
        on_step=None if on_step is None else lambda done: on_step(done, n_steps),
    )
    return model, time.process_time() - started


def _loss(name: Loss, train: UserSequences) -> Callable[[], CatalogueLoss]:
    """What makes a batch's loss."""
    if name == "full":
        return lambda: full_cross_entropy
    if name == "unseen":
        return lambda: unseen_cross_entropy
    count = np.bincount(train.item, minlength=len(train.vocabulary) + 1)[1:] + 1.0
    log_q = torch.from_numpy(np.log(count / count.sum())).float()

    def sampled() -> CatalogueLoss:
        negatives = draw_negatives(log_q, N_NEGATIVES)
        return partial(sampled_cross_entropy, negatives=negatives, log_q=log_q)

    return sampled


def score_with(model: SequenceModel, whole: UserSequences) -> ScoreRows:
    """The model in the form that is trained."""
    columns: dict[str, NDArray[Any]] = {
        "gap_s": whole.gap_s(),
        "target": whole.target(),
        "windows": window_totals(whole, DEFAULT_SCALES),
    }

    def score(_: NDArray[np.int64], spans: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = pad(whole, spans, columns=columns).to(device)
        with torch.no_grad():
            return np.asarray(model.predict(batch, batch.length - 1).cpu().numpy(), np.float32)

    device = next(model.parameters()).device
    model.eval()
    return score


def score_in_steps(model: Any, whole: UserSequences, *, half: bool) -> ScoreRows:
    """A recurrent model in the form that is served, event by event.

    Args:
        half: whether the state goes through half precision between events, as in the worker's records.
    """
    gap_s = whole.gap_s()

    def score(_: NDArray[np.int64], spans: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = pad(whole, spans, columns={"gap_s": gap_s})
        with torch.no_grad():
            return np.asarray(_after(model, batch, half=half).numpy(), np.float32)

    model.eval()
    return score


def _after(model: Any, batch: SequenceBatch, *, half: bool) -> Tensor:
    """Scores (B, V) after each sequence's last event."""
    n_rows, n_steps = batch.item.shape
    state = torch.zeros(n_rows, model.config.n_state)
    query = torch.zeros(n_rows, model.config.d)
    for at in range(n_steps):
        now = (batch.item[:, at], batch.kind[:, at], batch.gap_s[:, at], batch.value[:, at])
        queries, alpha, state = model.step(*now, state)
        state = state.half().float() if half else state
        last = (batch.length == at + 1).unsqueeze(1)
        query = torch.where(last, (alpha.unsqueeze(-1) * queries).sum(dim=-2), query)
    scores: Tensor = model.logits(query)
    return scores


def serve(settings: SequenceTraining, model: SequenceModel, vocabulary: list[str]) -> float:
    """Export the model to a bundle, load it as a worker does, and time it.

    Returns:
        Microseconds an event in ONNX Runtime on one thread, in batches of 64, the best of many.
    """
    return _timed(
        {
            "module": model,
            "inputs": inputs_of(settings),
            "features": FeatureSpec(state=StateSpec(n_ring=N_HISTORY), n_history=N_HISTORY),
            "space": "vocabulary",
            "n_state": n_state_of(settings, model),
            "parts": parts_of(model),
        },
        vocabulary,
    )


def serve_fusion(before: RetrievalModel, model: Fusion, features: FeatureSpec, vocabulary: list[str]) -> float:
    """The same of a ranker and the sequence model that goes before it: both graphs together, features not counted."""
    return _timed(
        {
            "module": model,
            "inputs": fusion_inputs(features),
            "features": features,
            "space": "candidates",
            "retrieval": before,
        },
        vocabulary,
    )


def _timed(what: dict[str, Any], vocabulary: list[str]) -> float:
    with tempfile.TemporaryDirectory(prefix="polytempo-compare-") as folder:
        path = Path(folder) / "bundle"
        write_bundle(
            path,
            name="measured",
            version=1,
            training=TrainingWindow(0, 1, 0, "measurement", "polytempo compare"),
            vocabulary=vocabulary,
            **what,
        )
        bundle = load_bundle(path)
    scorers = [each for each in (bundle.retriever, bundle.scorer) if each is not None]
    return sum(_best_us(scorer, len(vocabulary)) for scorer in scorers)


def _best_us(scorer: Any, n_vocabulary: int) -> float:
    rows = take_rows(example_inputs(scorer.inputs, n_rows=64, n_vocabulary=n_vocabulary), 64)
    best_s = float("inf")
    for _ in range(60):
        started = time.perf_counter()
        scorer.score(rows)
        best_s = min(best_s, time.perf_counter() - started)
    return best_s / 64 * 1e6


def by_position(task: Task) -> Task:
    """The same events a second apart, so that time says no more than order."""
    return replace(task, train=_even(task.train), whole=_even(task.whole))


def _even(sequences: UserSequences) -> UserSequences:
    return replace(sequences, ts_ms=np.arange(len(sequences), dtype=np.int64) * 1000)

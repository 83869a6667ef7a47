"""The sequence models, tiny, with what a test must know of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream.core.events import EventTypes
from stream.core.features import FeatureSpec
from stream.core.state import StateSpec
from training.nets.lstm_seq2seq import LstmSeq2Seq, LstmSeq2SeqConfig
from training.nets.moving_average import MovingAverage, MovingAverageConfig
from training.nets.tempo import Tempo, TempoConfig
from training.nets.transformer import Transformer, TransformerConfig
from training.sequences import UserSequences, pad, window_totals

torch.set_num_threads(1)  # on tensors this small, threads only wait for each other

N_ITEMS = 30
N_HISTORY = 12
FEATURES = FeatureSpec(state=StateSpec(n_ring=16), n_history=N_HISTORY)
VOCABULARY = [f"item-{number}" for number in range(N_ITEMS)]
EVENT = ("item", "kind", "gap_s", "value", "state")
CATEGORIES = torch.arange(N_ITEMS) % 4


@dataclass(frozen=True, slots=True)
class Net:
    """A model, what it is served, and its state's size."""

    build: Callable[[], Any]
    inputs: tuple[str, ...]
    n_state: int = 0
    parts: tuple[str, ...] = ()


TEMPO = TempoConfig(N_ITEMS, d=16, n_best=N_ITEMS)
LSTM = LstmSeq2SeqConfig(N_ITEMS, d=16, n_best=N_ITEMS)

NETS = {
    "moving_average": Net(
        lambda: MovingAverage(MovingAverageConfig(N_ITEMS, d=16, n_history=N_HISTORY, n_best=N_ITEMS), CATEGORIES),
        ("history_items", "history_age_s", "history_kinds", "windows"),
    ),
    "transformer": Net(
        lambda: Transformer(TransformerConfig(N_ITEMS, d=16, n_history=N_HISTORY, n_best=N_ITEMS)),
        ("history_items", "history_age_s", "history_kinds", "history_values"),
    ),
    "lstm_seq2seq": Net(lambda: LstmSeq2Seq(LSTM), EVENT, LSTM.n_state),
    "tempo": Net(lambda: Tempo(TEMPO), EVENT, TEMPO.n_state, Tempo(TEMPO).parts),
}


def build(name: str, seed: int = 0) -> Any:
    """An untrained model; what starts at zero is shaken, so that nothing is invisible to a test."""
    torch.manual_seed(seed)
    model = NETS[name].build()
    assert isinstance(model, nn.Module)
    with torch.no_grad():
        for parameter in model.parameters():
            if bool((parameter == 0).all()):
                parameter.normal_(std=0.3)
    return model.eval()


def made_up(
    n_users: int = 3, n_events: int = N_HISTORY, seed: int = 0, *, unknown: float = 0.15, ties: bool = True
) -> UserSequences:
    """Users with events seconds to weeks apart; some of unknown items, some of the same second."""
    rng = np.random.default_rng(seed)
    n = n_users * n_events
    gap_ms = (rng.lognormal(9.0, 3.0, (n_users, n_events)) * (rng.random((n_users, n_events)) < 0.8)).astype(np.int64)
    gap_ms += 0 if ties else 1
    kind = rng.integers(0, 8, n)
    return UserSequences(
        user_ids=[f"user-{number}" for number in range(n_users)],
        vocabulary=VOCABULARY,
        start=np.arange(n_users + 1, dtype=np.int64) * n_events,
        item=np.where(rng.random(n) < unknown, 0, rng.integers(1, N_ITEMS + 1, n)).astype(np.int64),
        kind=kind,
        ts_ms=(1_700_000_000_000 + np.cumsum(gap_ms, axis=1)).ravel(),
        value=np.where(rng.random(n) < 0.5, 0, rng.normal(0, 50, n)).astype(np.float32),
        positive=EventTypes().weight_table()[kind] > 0,
    )


def scores_after(model: Any, sequences: UserSequences, n_events: int | None = None) -> Tensor:
    """(U, V) scores after each user's first `n_events` events, in the form that is trained."""
    spans = np.stack([sequences.start[:-1], sequences.start[1:]], axis=1)
    batch = pad(sequences, spans, columns={"windows": window_totals(sequences, FEATURES.state.scales)})
    last = batch.length - 1 if n_events is None else torch.full_like(batch.length, n_events - 1)
    with torch.no_grad():
        scores: Tensor = model.predict(batch, last)
    return scores

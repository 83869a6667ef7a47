"""The sequence models by kind: how each is built from its settings, and what it is fed, in training and served."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final

from torch import Tensor, nn

from stream.core.scales import WindowSpec
from training.config import (
    LstmTraining,
    MovingAverageTraining,
    SequenceTraining,
    TempoTraining,
    TransformerTraining,
)
from training.fit import Batches, FitConfig
from training.losses import CatalogueLoss
from training.nets.lstm_seq2seq import LstmSeq2Seq, LstmSeq2SeqConfig
from training.nets.moving_average import MovingAverage, MovingAverageConfig
from training.nets.tempo import Tempo, TempoConfig
from training.nets.transformer import Transformer, TransformerConfig
from training.sequences import HORIZONS_MS, SequenceBatch, UserSequences, batches

__all__ = [
    "KINDS",
    "SequenceModel",
    "batches_for",
    "build",
    "fit_config",
    "inputs_of",
    "item_tables",
    "n_state_of",
    "parts_of",
]

KINDS: Final[dict[str, type[SequenceTraining]]] = {
    "moving_average": MovingAverageTraining,
    "lstm_seq2seq": LstmTraining,
    "transformer": TransformerTraining,
    "tempo": TempoTraining,
}
"""Settings by kind, the simplest model first."""

_EVENT: Final = ("item", "kind", "gap_s", "value", "state")


class SequenceModel(nn.Module, ABC):
    """What every model of `training.nets` offers beside `forward`; only for types, none inherits from it."""

    @abstractmethod
    def loss(self, batch: SequenceBatch, catalogue_loss: CatalogueLoss) -> Tensor:
        """A scalar."""

    @abstractmethod
    def predict(self, batch: SequenceBatch, at: Tensor) -> Tensor:
        """Scores (B, V) right after event `at` (B,) of each sequence."""


def build(
    model: SequenceTraining,
    n_items: int,
    *,
    n_history: int,
    scales: Sequence[WindowSpec],
    categories: Tensor | None = None,
) -> SequenceModel:
    """An untrained model.

    Args:
        n_items: size of the vocabulary.
        n_history: events that a model without state looks back on.
        scales: the windows that a model of moving averages is told.
        categories: (V,) category of each item from 1, 0 for none, for the models that can use them.
    """
    made: Any
    match model:
        case MovingAverageTraining():
            spans_s = tuple(scale.span_ms / 1000 for scale in scales)
            made = MovingAverage(
                MovingAverageConfig(
                    n_items, model.d, spans_s, n_history=n_history, n_best=model.n_best, dropout=model.dropout
                ),
                categories,
            )
        case LstmTraining():
            made = LstmSeq2Seq(LstmSeq2SeqConfig(n_items, model.d, n_best=model.n_best, dropout=model.dropout))
        case TransformerTraining():
            made = Transformer(
                TransformerConfig(
                    n_items, model.d, model.n_layers, model.n_heads, n_history, model.n_best, model.dropout
                )
            )
        case TempoTraining():
            made = Tempo(
                TempoConfig(
                    n_items,
                    d=model.d,
                    n_layers=model.n_layers,
                    n_scales=model.n_scales,
                    decomposed=model.decomposed,
                    n_best=model.n_best,
                    dropout=model.dropout,
                )
            )
        case _:
            raise TypeError(f"{type(model).__name__} are settings of no sequence model")
    found: SequenceModel = made
    return found


def item_tables(model: SequenceTraining, *, n_history: int, scales: Sequence[WindowSpec]) -> frozenset[str]:
    """Names of the weights that have a row for each item: those that another vocabulary makes longer."""
    few, more = (build(model, n, n_history=n_history, scales=scales).state_dict() for n in (1, 2))
    return frozenset(name for name, tensor in few.items() if tensor.shape != more[name].shape)


def inputs_of(model: SequenceTraining) -> tuple[str, ...]:
    """What it is served, by name from the menu of features."""
    if isinstance(model, MovingAverageTraining):
        return ("history_items", "history_age_s", "history_kinds", "windows")
    if isinstance(model, TransformerTraining):
        return ("history_items", "history_age_s", "history_kinds", "history_values")
    return _EVENT


def n_state_of(model: SequenceTraining, module: nn.Module) -> int:
    """Floats of state per user; 0 for a model that reads the ring of recent events."""
    return int(module.config.n_state) if "state" in inputs_of(model) else 0  # type: ignore[union-attr, arg-type]


def parts_of(module: nn.Module) -> tuple[str, ...]:
    """Names of what its scores are the sum of, if it says."""
    return tuple(getattr(module, "parts", ()))


def fit_config(model: SequenceTraining, seed: int, *, patience: bool = True) -> FitConfig:
    """The settings as the training loop takes them."""
    return FitConfig(
        n_epochs=model.epochs,
        learning_rate=model.learning_rate,
        weight_decay=model.weight_decay,
        seed=seed,
        patience=model.patience if patience and model.patience > 0 else None,
        bf16=model.bf16,
    )


def batches_for(
    model: SequenceTraining, sequences: UserSequences, *, n_history: int, scales: Sequence[WindowSpec], seed: int
) -> Batches:
    """The epochs of a model: with the targets and windows that it learns from, and no more of the past than it will
    be given."""
    looks_back = "state" not in inputs_of(model)

    def epoch(epoch: int) -> Iterator[SequenceBatch]:
        return batches(
            sequences,
            n_batch=model.batch,
            max_length=min(n_history, model.length) if looks_back else model.length,
            seed=seed,
            epoch=epoch,
            horizons_ms=HORIZONS_MS if isinstance(model, LstmTraining) else (),
            scales=scales if isinstance(model, MovingAverageTraining) else (),
        )

    return epoch

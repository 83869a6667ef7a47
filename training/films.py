"""Sequence models compared on a log of ratings: `python -m training.films --data FILE` prints one table.

Two protocols, both over the full catalogue with the items that the user had before removed; a tie with the target
counts against it.

    loo    each user's last event is predicted from all before it; the one before last chooses nothing unless asked to
    time   everything before a moment is learnt from, everything after it predicted, with the weights as they are

Leave-one-out flatters, for others' later events are among what is learnt from. Both are therefore reported.

Besides the models: popularity in the training part, and co-visitation: what followed the user's last items, in the
training part, within three events, nearer ones counting more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from stream.bundle.load import load_bundle
from stream.bundle.manifest import TrainingWindow
from stream.bundle.parity import take_rows
from stream.core.features import FeatureSpec
from stream.core.scales import DEFAULT_SCALES
from stream.core.state import StateSpec
from training.export import example_inputs, write_bundle
from training.fit import FitConfig, Fitted, fit
from training.losses import full_cross_entropy
from training.metrics import hit_rate, ndcg
from training.nets.lstm_seq2seq import LstmSeq2Seq, LstmSeq2SeqConfig
from training.nets.moving_average import MovingAverage, MovingAverageConfig
from training.nets.tempo import Tempo, TempoConfig
from training.nets.transformer import Transformer, TransformerConfig
from training.sequences import (
    HORIZONS_MS,
    UserSequences,
    batches,
    cut_sequences,
    frequent_items,
    leave_one_out,
    pad,
    split_at,
    window_totals,
)

__all__ = ["MODELS", "Figures", "Settings", "figures", "main", "read_ratings"]

MODELS: Final = ("moving_average", "lstm_seq2seq", "transformer", "tempo")
BASELINES: Final = ("popularity", "co_visitation")
Protocol = Literal["loo", "time"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a comparison is run.

    Attributes:
        protocol: see above.
        d: width of the models; 64 as in the figures to beat.
        n_layers: of the models that have layers.
        n_scales: of tempo.
        max_length: events of a piece in training, and of a context.
        n_batch: pieces in a batch.
        dropout: of all models.
        physical: False gives the models one second between all events: decay by position.
        cut: share of the events before the cut of the protocol `time`.
        choose: whether the best epoch is chosen on each user's event before last, rather than the last one taken.
    """

    protocol: Protocol = "loo"
    d: int = 64
    n_layers: int = 1
    n_scales: int = 4
    max_length: int = 200
    n_history: int = 100
    n_batch: int = 16
    dropout: float = 0.2
    physical: bool = True
    cut: float = 0.8
    choose: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of the table; names are those that `polytempo compare --json` uses.

    Attributes:
        hr_at_10: share of the targets among the first ten.
        ndcg_at_10: mean of 1 / log2(1 + rank) of targets among the first ten, 0 for others.
        us_per_event: in ONNX Runtime on one thread, in batches of 64; NaN where not measured.
        state_bytes: recurrent state in the user's record; 0 for models that read the ring of recent events.
        train_s: processor seconds of training, evaluation left out: on one thread, what it takes on an idle machine.
    """

    model: str
    hr_at_10: float
    ndcg_at_10: float
    us_per_event: float = float("nan")
    state_bytes: int = 0
    train_s: float = 0.0
    n_parameters: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is learnt from, and what is predicted: rows (R,) of `whole`, each from the events before it."""

    train: UserSequences
    whole: UserSequences
    rows: NDArray[np.int64]


def read_ratings(path: Path) -> UserSequences:
    """A Parquet file with the columns user_id, item_id, rating and ts_ms; all its items are the vocabulary."""
    frame = pl.read_parquet(path).select(
        pl.col("user_id").cast(pl.String),
        pl.col("item_id").cast(pl.String),
        "ts_ms",
        pl.lit("rating").alias("event_type"),
        pl.col("rating").cast(pl.Float32).alias("value"),
    )
    return cut_sequences(frame, frequent_items(frame))


def split(sequences: UserSequences, settings: Settings) -> Task:
    """The task of a protocol."""
    if settings.protocol == "loo":
        train, rows = leave_one_out(sequences)
    else:
        cut_ms = int(np.quantile(sequences.ts_ms, settings.cut, method="lower"))
        train, rows = split_at(sequences, cut_ms)
    return Task(train, sequences, rows)


def contexts(task: Task, settings: Settings) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Targets in batches of like length: rows (b,), and the spans (b, 2) of the events before them."""
    user = np.searchsorted(task.whole.start, task.rows, side="right") - 1
    start = np.maximum(task.whole.start[user], task.rows - settings.max_length)
    order = np.argsort(task.rows - start, kind="stable")
    for chunk in np.array_split(order, max(1, len(order) // 64)):
        yield task.rows[chunk], np.stack([start[chunk], task.rows[chunk]], axis=1)


def seen_items(sequences: UserSequences, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(b, V) what each row's user had before it."""
    seen = np.zeros((len(rows), len(sequences.vocabulary) + 1), bool)
    starts = sequences.start[np.searchsorted(sequences.start, rows, side="right") - 1]
    for at, (start, row) in enumerate(zip(starts.tolist(), rows.tolist(), strict=True)):
        seen[at, sequences.item[start:row]] = True
    return seen[:, 1:]


def ranks(scores: NDArray[np.float32], seen: NDArray[np.bool_], target: NDArray[np.int64]) -> NDArray[np.int64]:
    """(b,) rank of each target from 1 among the items not seen; a tie counts against it."""
    own = scores[np.arange(len(target)), target - 1]
    better = (scores >= own[:, None]) & ~seen
    better[np.arange(len(target)), target - 1] = False
    return np.asarray(better.sum(axis=1) + 1, np.int64)


def figures(rank: NDArray[np.int64]) -> tuple[float, float]:
    """HR@10 and NDCG@10 of one target each."""
    return hit_rate(rank), ndcg(rank)


def model_ranks(model: Any, task: Task, settings: Settings) -> NDArray[np.int64]:
    """(R,) rank of every target, in no particular order."""
    columns = _columns(task.whole)
    found = []
    model.eval()
    for rows, spans in contexts(task, settings):
        batch = pad(task.whole, spans, columns=columns)
        with torch.no_grad():
            scores = model.predict(batch, batch.length - 1).numpy()
        found.append(ranks(scores, seen_items(task.whole, rows), task.whole.item[rows]))
    return np.concatenate(found)


def baseline_ranks(name: str, task: Task, settings: Settings) -> NDArray[np.int64]:
    """The same for popularity and co-visitation."""
    n_items, train = len(task.train.vocabulary), task.train
    popularity = np.bincount(train.item, minlength=n_items + 1).astype(np.float32)
    popularity[0] = 0
    followed = np.zeros((n_items + 1, n_items + 1), np.float32)
    user = train.user()
    for lag in (1, 2, 3):
        together = user[lag:] == user[:-lag]
        np.add.at(followed, (train.item[:-lag][together], train.item[lag:][together]), 1 / lag)
    followed /= popularity[:, None] + 5  # rare items speak quietly
    found = []
    for rows, spans in contexts(task, settings):
        scores = np.tile(popularity / popularity.sum(), (len(rows), 1))
        if name == "co_visitation":
            scores *= 0.01  # decides where nothing else does
            for lag in (1, 2, 3):
                place = np.maximum(spans[:, 1] - lag, spans[:, 0])
                scores += followed[task.whole.item[place]] * (rows - lag >= spans[:, 0])[:, None] / lag
        found.append(ranks(scores[:, 1:], seen_items(task.whole, rows), task.whole.item[rows]))
    return np.concatenate(found)


def build(name: str, n_items: int, settings: Settings) -> nn.Module:
    """A model by name, in the sizes of the comparison."""
    d, dropout = settings.d, settings.dropout
    if name == "moving_average":
        return MovingAverage(MovingAverageConfig(n_items, d=d, n_history=settings.n_history, dropout=dropout))
    if name == "lstm_seq2seq":
        return LstmSeq2Seq(LstmSeq2SeqConfig(n_items, d=d, dropout=dropout))
    if name == "transformer":
        return Transformer(TransformerConfig(n_items, d=d, n_layers=2, n_history=settings.n_history, dropout=dropout))
    return Tempo(TempoConfig(n_items, d=d, n_layers=settings.n_layers, n_scales=settings.n_scales, dropout=dropout))


def train_model(
    name: str, task: Task, settings: Settings, config: FitConfig, *, show: bool = False
) -> tuple[nn.Module, Fitted, float]:
    """Train on the task's training part; with `choose`, on what is before each user's last event there.

    Returns the model, what came of it, and the processor seconds of training.
    """
    torch.manual_seed(config.seed)
    model: Any = build(name, len(task.train.vocabulary), settings)
    train, inner = task.train, None
    if settings.choose:
        train, rows = leave_one_out(task.train)
        inner = Task(train, task.train, rows)
    train = train if settings.physical else _by_position(train)
    # A history model must not learn from more than it will be given.
    max_length = settings.n_history if name in {"transformer", "moving_average"} else settings.max_length
    spent = [0.0]

    def evaluate() -> float:
        started = time.process_time()
        value = figures(model_ranks(model, inner, settings))[1] if inner is not None else 0.0
        spent[0] += time.process_time() - started
        return value

    def an_epoch(epoch: int) -> Iterator[Any]:
        return batches(
            train,
            n_batch=settings.n_batch,
            max_length=max_length,
            seed=config.seed,
            epoch=epoch,
            horizons_ms=HORIZONS_MS if name == "lstm_seq2seq" else (),
            scales=DEFAULT_SCALES if name == "moving_average" else (),
        )

    started = time.process_time()
    fitted = fit(
        model,
        an_epoch,
        lambda batch: model.loss(batch, full_cross_entropy),
        config,
        evaluate=None if inner is None else evaluate,
        show=show,
    )
    return model, fitted, time.process_time() - started - spent[0]


def serve(name: str, model: Any, vocabulary: Sequence[str], settings: Settings, folder: Path) -> tuple[float, int]:
    """Export to a bundle, load it as a worker does: microseconds an event in batches of 64, and bytes of state."""
    inputs = {
        "moving_average": ("history_items", "history_age_s", "history_kinds", "windows"),
        "transformer": ("history_items", "history_age_s", "history_kinds", "history_values"),
    }.get(name, ("item", "kind", "gap_s", "value", "state"))
    n_state = model.config.n_state if "state" in inputs else 0
    spec = FeatureSpec(state=StateSpec(n_ring=max(32, settings.n_history)), n_history=settings.n_history)
    write_bundle(
        folder / name,
        module=model,
        inputs=inputs,
        features=spec,
        space="vocabulary",
        name=name,
        version=1,
        training=TrainingWindow(0, 1, 0, "measurement", "training.films"),
        vocabulary=vocabulary,
        n_state=n_state,
    )
    scorer = load_bundle(folder / name).scorer
    rows = take_rows(example_inputs(scorer.inputs, n_rows=64, n_vocabulary=len(vocabulary)), 64)
    best_s = float("inf")
    for _ in range(60):
        started = time.perf_counter()
        scorer.score(rows)
        best_s = min(best_s, time.perf_counter() - started)
    return best_s / 64 * 1e6, 2 * n_state


def compare(
    sequences: UserSequences,
    names: Sequence[str],
    settings: Settings,
    config: FitConfig,
    *,
    seeds: int = 1,
    served: bool = False,
    show: bool = False,
) -> Iterator[Figures]:
    """A row for each baseline, then one for each model and seed."""
    task = split(sequences, settings)
    shown = task if settings.physical else replace(task, whole=_by_position(task.whole))
    for name in BASELINES:
        yield Figures(name, *figures(baseline_ranks(name, task, settings)))
    for name in names:
        for seed in range(config.seed, config.seed + seeds):
            model, _, train_s = train_model(name, task, settings, replace(config, seed=seed), show=show)
            row = Figures(name, *figures(model_ranks(model, shown, settings)), train_s=train_s, seed=seed)
            row = replace(row, n_parameters=sum(p.numel() for p in model.parameters()))
            if served:
                with tempfile.TemporaryDirectory() as folder:
                    us, n_bytes = serve(name, model, sequences.vocabulary, settings, Path(folder))
                row = replace(row, us_per_event=us, state_bytes=n_bytes)
            yield row


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.films", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Parquet with user_id, item_id, rating, ts_ms")
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    parser.add_argument("--protocol", choices=["loo", "time"], default="loo")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.01, help="weight decay")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("--layers", type=int, default=1, help="of tempo")
    parser.add_argument("--scales", type=int, default=4, help="of tempo")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--by-position", action="store_true", help="one second between all events")
    parser.add_argument("--choose", action="store_true", help="choose the epoch on each user's event before last")
    parser.add_argument("--served", action="store_true", help="export each model and time it")
    parser.add_argument("--json", action="store_true", help="end with the rows as JSON")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = Settings(
        protocol=given.protocol,
        d=given.d,
        n_layers=given.layers,
        n_scales=given.scales,
        n_batch=given.batch,
        dropout=given.dropout,
        physical=not given.by_position,
        choose=given.choose,
    )
    config = FitConfig(given.epochs, given.rate, given.decay, seed=given.seed)
    names = MODELS if given.model == "all" else (given.model,)
    sequences = read_ratings(given.data)
    show = sys.stderr.isatty()
    table = Table("model", "seed", "HR@10", "NDCG@10", "train s", "parameters", "µs/event", "state bytes")
    rows = []
    for row in compare(sequences, names, settings, config, seeds=given.seeds, served=given.served, show=show):
        rows.append(row)
        us = "" if np.isnan(row.us_per_event) else f"{row.us_per_event:.1f}"
        cells = (f"{row.hr_at_10:.3f}", f"{row.ndcg_at_10:.3f}", f"{row.train_s:.0f}", f"{row.n_parameters:,}")
        table.add_row(row.model, str(row.seed), *cells, us, str(row.state_bytes))
    Console().print(table)
    if given.json:
        # NaN is no JSON.
        plain = [{k: None if v != v else v for k, v in asdict(row).items()} for row in rows]
        print(json.dumps(plain))


def _columns(sequences: UserSequences) -> dict[str, NDArray[Any]]:
    return {
        "gap_s": sequences.gap_s(),
        "target": sequences.target(),
        "windows": window_totals(sequences, DEFAULT_SCALES),
    }


def _by_position(sequences: UserSequences) -> UserSequences:
    """The same events a second apart, so that time says no more than order."""
    return replace(sequences, ts_ms=np.arange(len(sequences), dtype=np.int64) * 1000)


if __name__ == "__main__":
    main()

"""A whole comparison, a row for each model, protocol and seed. Rows that were finished are kept and not made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training.backtest.significance import gains
from training.compare.baselines import BASELINES, baseline
from training.compare.models import by_position, score_in_steps, score_with, serve, train_model
from training.compare.task import Found, K, Protocol, Task, look, split
from training.config import SequenceTraining, TempoTraining
from training.metrics.beyond import coverage, novelty
from training.reporter import Quiet, Reporter
from training.sequence_models import KINDS, SequenceModel, n_state_of
from training.sequences import UserSequences

__all__ = ["Contender", "Options", "Result", "Row", "ablations", "compare", "contenders"]

_BASELINE_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Contender:
    """A line of the table.

    Attributes:
        name: of the line.
        settings: of a model; None for a baseline.
        physical: False gives the model one second between all events: decay by position.
        state: how a recurrent model is evaluated: as it is trained, all events at once, or event by event with its
            state in single or in half precision.
    """

    name: str
    settings: SequenceTraining | None = None
    physical: bool = True
    state: Literal["none", "single", "half"] = "none"


@dataclass(frozen=True, slots=True)
class Options:
    """How a comparison is run.

    Attributes:
        protocols: see `training.compare.task`.
        seeds: of models; baselines have none.
        cut: share of the events before the moment of the protocol `time`.
        choose: judge on a part of the training part, see `training.compare.task.split`.
        repeats: whether what a user had may be recommended again.
        served: whether models are exported and timed.
    """

    protocols: tuple[Protocol, ...] = ("loo", "time")
    seeds: tuple[int, ...] = (0,)
    cut: float = 0.8
    choose: bool = False
    repeats: bool = False
    served: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One line: figures at 10, over the whole catalogue.

    Attributes:
        hr_at_10, ndcg_at_10, mrr_at_10: see `training.metrics.single`.
        coverage, novelty: see `training.metrics.beyond`.
        us_per_event: see `training.compare.models.serve`; None where not measured.
        state_bytes: recurrent state in the user's record; 0 for models that read the ring of recent events.
        train_s: processor seconds of training, evaluation left out.
    """

    model: str
    protocol: Protocol
    seed: int
    hr_at_10: float
    ndcg_at_10: float
    mrr_at_10: float
    coverage: float
    novelty: float
    us_per_event: float | None = None
    state_bytes: int = 0
    train_s: float = 0.0
    n_parameters: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A row, and what pairs it with others.

    Attributes:
        place: (R,) each target's place, 0 for none.
        user: (R,) the user of each target.
        kept: whether it was there from an earlier run.
    """

    row: Row
    place: NDArray[np.int64]
    user: NDArray[np.int64]
    kept: bool = False


def contenders(models: Sequence[SequenceTraining]) -> list[Contender]:
    """All baselines, then models with these settings."""
    kinds = {settings: kind for kind, settings in KINDS.items()}
    return [*(Contender(name) for name in BASELINES), *(Contender(kinds[type(model)], model) for model in models)]


def ablations(settings: TempoTraining) -> list[Contender]:
    """Tempo, and tempo without one thing at a time."""
    return [
        Contender("tempo", settings),
        Contender("tempo, event by event", settings, state="single"),
        Contender("tempo, event by event, state in fp16", settings, state="half"),
        Contender("tempo, one scale", msgspec.structs.replace(settings, n_scales=1)),
        Contender("tempo, time by position", settings, physical=False),
    ]


def compare(
    sequences: UserSequences,
    wanted: Sequence[Contender],
    options: Options,
    *,
    folder: Path | None = None,
    report: Reporter | None = None,
    categories: torch.Tensor | None = None,
) -> Iterator[Result]:
    """A result for each contender, protocol and seed, baselines first.

    Args:
        folder: where finished rows are kept, and found by a later run with the same data and settings.
        categories: (V,) category of each item from 1, 0 for none, for the models that can use them.
    """
    report = report or Quiet()
    data = _digest(sequences)
    n_rows = sum(len(_seeds(each, options)) for each in wanted) * len(options.protocols)
    number = 0
    for protocol in options.protocols:
        task = split(sequences, protocol, cut=options.cut, choose=options.choose, repeats=options.repeats)
        trained: dict[tuple[Any, ...], tuple[SequenceModel, float]] = {}  # for contenders that share their weights
        popularity = np.bincount(task.train.item, minlength=len(sequences.vocabulary) + 1)[1:]
        for contender in wanted:
            for seed in _seeds(contender, options):
                number += 1
                store = _Store(folder, f"{protocol}-{contender.name}-{seed}", _key(data, contender, options, seed))
                result = store.load(task.users())
                if result is None:
                    name = f"{number}/{n_rows} {contender.name}, {protocol}, seed {seed}"
                    row, found = _judge(contender, task, seed, options, name, report, trained, categories)
                    row = replace(
                        row,
                        coverage=coverage(found.lists, len(popularity), K),
                        novelty=float(novelty(found.lists, popularity, K).mean()),
                    )
                    result = Result(row, found.place, task.users())
                    store.save(result)
                yield result


def _judge(
    contender: Contender,
    task: Task,
    seed: int,
    options: Options,
    name: str,
    report: Reporter,
    trained: dict[tuple[Any, ...], tuple[SequenceModel, float]],
    categories: torch.Tensor | None,
) -> tuple[Row, Found]:
    settings = contender.settings
    if settings is None:
        report.stage(name, 1)
        found = look(task, baseline(contender.name, task), max_length=_BASELINE_LENGTH)
        return _row(contender.name, task, seed, found), found
    task = task if contender.physical else by_position(task)
    key = (settings, contender.physical, seed)
    if key not in trained:
        report.stage(name, 1)
        trained[key] = train_model(settings, task.train, seed=seed, on_step=_Steps(report, name), categories=categories)
    model, train_s = trained[key]
    if contender.state == "none":
        score = score_with(model, task.whole)
    else:
        score = score_in_steps(model, task.whole, half=contender.state == "half")
    found = look(task, score, max_length=settings.length)
    row = _row(contender.name, task, seed, found)
    row = replace(
        row,
        train_s=round(train_s, 1),
        n_parameters=sum(p.numel() for p in model.parameters()),
        state_bytes=2 * n_state_of(settings, model),
    )
    if options.served:
        row = replace(row, us_per_event=round(serve(settings, model, task.whole.vocabulary), 1))
    return row, found


class _Steps:
    """Tells a reporter of steps; how many there will be is known at the first."""

    def __init__(self, report: Reporter, name: str) -> None:
        self._report, self._name, self._begun = report, name, False

    def __call__(self, done: int, n_steps: int) -> None:
        if not self._begun:
            self._report.stage(self._name, n_steps)
            self._begun = True
        self._report.at(done)


def _row(name: str, task: Task, seed: int, found: Found) -> Row:
    gain = {metric: float(each.mean()) if len(each) > 0 else 0.0 for metric, each in gains(found.place, K).items()}
    return Row(name, task.protocol, seed, gain["hr"], gain["ndcg"], gain["mrr"], 0.0, 0.0)


def _seeds(contender: Contender, options: Options) -> tuple[int, ...]:
    return options.seeds if contender.settings is not None else (0,)


def _digest(sequences: UserSequences) -> str:
    found = hashlib.sha256(json.dumps(sequences.vocabulary).encode())
    for column in ("start", "item", "kind", "ts_ms", "value", "positive"):
        found.update(np.ascontiguousarray(getattr(sequences, column)).tobytes())
    return found.hexdigest()


def _key(data: str, contender: Contender, options: Options, seed: int) -> str:
    """Stands for everything that a row depends on, but for the code."""
    settings = None if contender.settings is None else msgspec.json.encode(contender.settings).decode()
    said: list[Any] = [data, contender.name, settings, contender.physical, contender.state, seed]
    said += [options.cut, options.choose, options.repeats, options.served and contender.settings is not None]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


class _Store:
    """The files of one row: `NAME.json` with the row and its key, `NAME.npy` with the places."""

    def __init__(self, folder: Path | None, name: str, key: str) -> None:
        safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
        self._path = None if folder is None else folder / "rows" / safe
        self._key = key

    def load(self, user: NDArray[np.int64]) -> Result | None:
        """The finished row; None if there is none, or one of other data or settings."""
        if self._path is None or not self._path.with_suffix(".json").exists():
            return None
        content = json.loads(self._path.with_suffix(".json").read_text())
        if content["key"] != self._key:
            return None
        place = np.load(self._path.with_suffix(".npy"), allow_pickle=False)
        return Result(Row(**content["row"]), place, user, kept=True) if len(place) == len(user) else None

    def save(self, result: Result) -> None:
        """The places first: a row that is there is whole."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        np.save(self._path.with_suffix(".npy"), result.place)
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps({"key": self._key, "row": asdict(result.row)}, indent=1) + "\n")
        aside.replace(self._path.with_suffix(".json"))

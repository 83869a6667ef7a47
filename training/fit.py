"""One training loop for every sequence model: AdamW on one cycle, stopped early, resumed exactly.

What a run depends on is its configuration, its data and its seed. Randomness comes from PyTorch's generator, which a
checkpoint keeps, and from the order of batches, which follows from seed and epoch: a run that was killed and resumed
ends with the same bits as one that was not. A checkpoint holds tensors, numbers and strings only, and is read with
PyTorch's restricted loader: it cannot run code.

Several processes share each batch (`training.processes`). What they come to is what one process comes to, up to the
rounding of sums, where nothing is drawn by chance (dropout, horizons); a checkpoint of n processes is gone on from by
any number of them.
"""

from __future__ import annotations

import copy
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from training.processes import ALONE, Processes
from training.sequences import SequenceBatch

__all__ = ["Checkpoint", "FitConfig", "Fitted", "Journal", "fit"]


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How to train, with the reason for each default.

    Attributes:
        n_epochs: at most; one-cycle schedules want a number that is known beforehand.
        learning_rate: the peak of the cycle.
        weight_decay: on matrices; vectors (gains, biases, time constants) are left to the data.
        clip: largest norm of the gradient; long gaps make for steep steps at the start.
        seed: of weights, dropout and order.
        patience: epochs without a better figure on the later slice before it ends; None trains to the end. The weights
            of the best epoch are kept either way.
        bf16: half-width products where the device has units for them. Off: on processors without, it only rounds.
    """

    n_epochs: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    patience: int | None = None
    bf16: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where to keep what is needed to go on: a file, replaced in one step, after each epoch and `every` steps.

    `about` is kept beside it for whoever reads the file: strings, numbers, tensors, and lists and tables of them.
    """

    path: Path
    every: int = 200
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Fitted:
    """What came of it.

    Attributes:
        losses: mean training loss of each epoch.
        figures: the later slice's figure after each epoch, higher is better; empty where there is none.
        best_epoch: from 1, the epoch whose weights the model has now.
        n_steps: steps taken.
    """

    losses: list[float] = field(default_factory=list)
    figures: list[float] = field(default_factory=list)
    best_epoch: int = 0
    n_steps: int = 0


class Batches(Protocol):
    """An epoch's batches, the same ones in the same order whenever the epoch is asked for."""

    def __call__(self, epoch: int) -> Iterator[SequenceBatch]:
        """The batches of epoch 0, 1, …"""
        ...


class Journal(Protocol):
    """Where a training notes down what it sees."""

    def step(self, n_steps: int, *, loss: float, rate: float, gradient: float) -> None:
        """After a step: its loss, the learning rate that it was taken with, the gradient's norm before clipping."""
        ...

    def epoch(self, n_steps: int, *, loss: float, figure: float | None) -> None:
        """After an epoch: its mean loss, and the later slice's figure if there is one."""
        ...


def fit(
    model: nn.Module,
    batches: Batches,
    loss: Callable[[SequenceBatch], Tensor],
    config: FitConfig,
    *,
    evaluate: Callable[[], float] | None = None,
    checkpoint: Checkpoint | None = None,
    show: bool = False,
    on_step: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
    journal: Journal | None = None,
) -> Fitted:
    """Train `model` in place, on the device where it is.

    Args:
        batches: each epoch's batches; all epochs have as many.
        loss: of one batch, in training mode; counts each of its targets alike.
        evaluate: the figure of the later slice, higher is better; called after each epoch in evaluation mode.
        checkpoint: read before the first step if it exists, and written on the way.
        show: whether a bar shows loss, rate and time left.
        on_step: called after each step with the number of steps taken.
        processes: those that share each batch; `loss` is then of this process's rows, see `Processes.of_all`. Only the
            first judges epochs and writes checkpoints.
        journal: told of each step and epoch.

    Raises:
        ValueError: the checkpoint is of another configuration or of other weights, or the loss is not finite.
    """
    device = next(model.parameters()).device
    n_per_epoch = sum(1 for _ in batches(0))
    if n_per_epoch == 0:
        raise ValueError("there is nothing to learn from: no batch")
    optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), lr=config.learning_rate)
    n_total = config.n_epochs * n_per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=n_total + 1)
    torch.manual_seed(config.seed)
    run = _Run(model, optimizer, schedule, config, n_total, processes, journal)
    processes.same_weights(model)
    if checkpoint is not None:
        content = processes.content(lambda: checkpoint.path.read_bytes() if checkpoint.path.exists() else None)
        if content is not None:
            run.load(checkpoint.path, content)
    keep = checkpoint if processes.rank == 0 else None
    with _bar(show) as bar:
        task = bar.add_task("training", total=n_total, completed=run.done.n_steps, loss=float("nan"), rate=0.0)
        while run.epoch < config.n_epochs and not run.stopped:
            model.train()
            for batch in islice(batches(run.epoch), run.n_in_epoch, None):
                processes.seed(config.seed, run.done.n_steps)
                with _autocast(device, wanted=config.bf16):
                    value = loss(processes.share(batch).to(device))
                run.step(value)
                bar.update(task, advance=1, loss=run.total / run.n_in_epoch, rate=bar.tasks[0].speed or 0.0)
                if keep is not None and run.done.n_steps % keep.every == 0:
                    run.save(keep)
                if on_step is not None:
                    on_step(run.done.n_steps)
            model.eval()
            with torch.no_grad():
                run.end_epoch(None if evaluate is None else processes.figure(evaluate))
            if keep is not None:
                run.save(keep)
    run.restore_best()
    model.eval()
    return run.done


class _Run:
    """Everything that a step changes, and so everything that a checkpoint keeps."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.OneCycleLR,
        config: FitConfig,
        n_total: int,
        processes: Processes,
        journal: Journal | None,
    ) -> None:
        self.processes, self.journal = processes, journal
        self.model, self.optimizer, self.schedule, self.config = model, optimizer, schedule, config
        self.n_total = n_total
        self.epoch, self.n_in_epoch, self.total = 0, 0, 0.0
        self.stopped = False
        self.done = Fitted()
        self.best: dict[str, Tensor] = {}

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, summed over the processes."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
        value = self.processes.add_up(self.model, loss).item()
        if not math.isfinite(value):
            raise ValueError(f"the loss is {value} at step {self.done.n_steps + 1}: try a lower learning rate")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.done.n_steps += 1
        self.n_in_epoch += 1
        self.total += value
        if self.journal is not None:
            self.journal.step(self.done.n_steps, loss=value, rate=float(rate), gradient=norm.item())

    def end_epoch(self, figure: float | None) -> None:
        """Note the epoch down, keep its weights if it was the best, and decide whether to go on."""
        done = self.done
        done.losses.append(self.total / max(1, self.n_in_epoch))
        self.epoch, self.n_in_epoch, self.total = self.epoch + 1, 0, 0.0
        if self.journal is not None:
            self.journal.epoch(done.n_steps, loss=done.losses[-1], figure=figure)
        if figure is None:
            done.best_epoch = self.epoch
            return
        done.figures.append(figure)
        if figure > max(done.figures[:-1], default=-float("inf")):
            done.best_epoch = self.epoch
            self.best = copy.deepcopy(self.model.state_dict())
        self.stopped = self.config.patience is not None and self.epoch - done.best_epoch >= self.config.patience

    def restore_best(self) -> None:
        """Give the model the weights of the best epoch."""
        if self.best:
            self.model.load_state_dict(self.best)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write aside, then rename: a kill at any moment leaves the old checkpoint or the new one."""
        path = checkpoint.path
        content = {
            "about": dict(checkpoint.about),
            "config": asdict(self.config),
            "n_total": self.n_total,
            "at": [self.epoch, self.n_in_epoch, self.total, self.stopped],
            "done": asdict(self.done),
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": _plain(self.schedule.state_dict()),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        aside = path.with_name(f".{path.name}.new")
        with aside.open("wb") as opened:
            torch.save(content, opened)
            opened.flush()
            os.fsync(opened.fileno())
        aside.replace(path)

    def load(self, path: Path, stored: bytes) -> None:
        """Go on from what the checkpoint at `path` holds."""
        content = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
        if content["config"] != asdict(self.config) or content["n_total"] != self.n_total:
            raise ValueError(
                f"{path} is of another run: {content['config']} with {content['n_total']} steps, "
                f"where this one is {asdict(self.config)} with {self.n_total}. Remove it, or train as it was trained."
            )
        try:
            self.model.load_state_dict(content["model"])
        except RuntimeError as error:
            raise ValueError(f"{path} holds the weights of another model: {error}") from error
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.epoch, self.n_in_epoch, self.total, self.stopped = content["at"]
        self.done, self.best = Fitted(**content["done"]), content["best"]
        torch.set_rng_state(content["random"])
        if content["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(content["random_cuda"])


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay pulls matrices towards 0; a time constant or a gain has no reason to go there."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's state without the functions that newer versions of PyTorch keep in it."""
    return {name: value for name, value in state.items() if not callable(value)}


def _autocast(device: torch.device, *, wanted: bool) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def _bar(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=not show,
    )

"""One training and all rows that come of it: what a process of a comparison does at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from stream.core.catalogue import ItemUpdate
from training.backtest.significance import gains
from training.compare.baselines import baseline
from training.compare.contenders import Contender, Options
from training.compare.fused import Fused, fuse
from training.compare.models import by_position, score_in_steps, score_with, serve, serve_fusion, train_model
from training.compare.rows import Result, Row, Store, digest, key
from training.compare.task import Found, K, Protocol, Task, look, split
from training.config import FusionTraining, SequenceTraining
from training.metrics.beyond import coverage, novelty
from training.reporter import Quiet, Reporter
from training.sequence_models import n_state_of
from training.sequences import UserSequences

__all__ = ["Job", "Judge", "jobs_of"]

_BASELINE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Job:
    """Contenders that share a training, under one protocol and from one seed."""

    protocol: Protocol
    contenders: tuple[Contender, ...]
    seed: int

    @property
    def name(self) -> str:
        """For whoever waits."""
        return f"{self.contenders[0].name}, {self.protocol}, seed {self.seed}"


def jobs_of(wanted: Sequence[Contender], options: Options) -> list[Job]:
    """All that a comparison has to do, protocol by protocol."""
    groups: dict[object, list[Contender]] = {}
    for contender in wanted:
        groups.setdefault(contender.weights, []).append(contender)
    return [
        Job(protocol, tuple(group), seed)
        for protocol in options.protocols
        for group in groups.values()
        for seed in (options.seeds if group[0].settings is not None else (0,))
    ]


@dataclass(slots=True, eq=False)
class Judge:
    """What all jobs of a comparison need.

    Attributes:
        sequences: the log.
        options: how it is run.
        folder: where finished rows are kept.
        items: what is known of items, for the fusion.
        categories: (V,) category of each item from 1, 0 for none, for the models that can use them.
    """

    sequences: UserSequences
    options: Options
    folder: Path | None = None
    items: Sequence[ItemUpdate] = ()
    categories: torch.Tensor | None = None
    _data: str = ""
    _tasks: dict[Protocol, Task] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._data = digest(self.sequences)

    def results(self, job: Job, report: Reporter | None = None) -> list[Result]:
        """A result for each contender of a job; those that are kept are not made again."""
        task = self._task(job.protocol)
        stores = [
            Store(self.folder, f"{job.protocol}-{each.name}-{job.seed}", key(self._data, each, self.options, job.seed))
            for each in job.contenders
        ]
        found = [store.load(task.users()) for store in stores]
        missing = [each for each, result in zip(job.contenders, found, strict=True) if result is None]
        made = iter(self._judged(job, missing, task, report or Quiet())) if missing else iter(())
        results = []
        for store, kept in zip(stores, found, strict=True):
            result = kept
            if result is None:
                result = next(made)
                store.save(result)
            results.append(result)
        return results

    def _judged(self, job: Job, missing: Sequence[Contender], task: Task, report: Reporter) -> Iterator[Result]:
        """Results of the contenders that are missing, in their order."""
        popularity = np.bincount(task.train.item, minlength=len(task.whole.vocabulary) + 1)[1:]
        settings = missing[0].settings
        started = time.process_time()
        if settings is None:
            report.stage(job.name, 1)
            rows = self._baselines(missing, task)
        elif isinstance(settings, FusionTraining):
            rows = self._fusions(settings, missing, task, job, report)
        else:
            rows = self._models(settings, missing, task, job, report)
        for row, found in rows:
            told = replace(
                row,
                coverage=coverage(found.lists, len(popularity), K),
                novelty=float(novelty(found.lists, popularity, K).mean()),
                row_s=round(time.process_time() - started, 1),
            )
            yield Result(told, found.place, task.users())
            started = time.process_time()

    def _baselines(self, missing: Sequence[Contender], task: Task) -> Iterator[tuple[Row, Found]]:
        for contender in missing:
            found = look(task, baseline(contender.name, task), max_length=_BASELINE_LENGTH)
            yield _row(contender.name, task, 0, found), found

    def _models(
        self, settings: SequenceTraining, missing: Sequence[Contender], task: Task, job: Job, report: Reporter
    ) -> Iterator[tuple[Row, Found]]:
        first = missing[0]
        task = task if first.physical else by_position(task)
        report.stage(job.name, 1)
        model, train_s = train_model(
            settings,
            task.train,
            seed=job.seed,
            loss=first.loss or self.options.loss,
            on_step=_Steps(report, job.name),
            categories=self.categories,
        )
        us = serve(settings, model, task.whole.vocabulary) if self.options.served else None
        for contender in missing:
            score: Callable[..., object]
            if contender.state == "none":
                score = score_with(model, task.whole)
            else:
                score = score_in_steps(model, task.whole, half=contender.state == "half")
            found = look(task, score, max_length=settings.length)
            row = _row(contender.name, task, job.seed, found)
            yield (
                replace(
                    row,
                    train_s=round(train_s, 1),
                    n_parameters=sum(p.numel() for p in model.parameters()),
                    state_bytes=(4 if contender.state == "single" else 2) * n_state_of(settings, model),
                    us_per_event=None if us is None else round(us, 1),
                ),
                found,
            )

    def _fusions(
        self, settings: FusionTraining, missing: Sequence[Contender], task: Task, job: Job, report: Reporter
    ) -> Iterator[tuple[Row, Found]]:
        withouts = [each.settings.without for each in missing if isinstance(each.settings, FusionTraining)]
        fused: Fused = fuse(
            task, self.items, settings, withouts=withouts, seed=job.seed, on_step=_Steps(report, job.name)
        )
        for contender, without in zip(missing, withouts, strict=True):
            found, model = fused.found[without], fused.models[without]
            us = (
                serve_fusion(fused.member.model, model, fused.spec, fused.member.vocabulary)
                if self.options.served
                else None
            )
            row = _row(contender.name, task, job.seed, found)
            parameters = [*fused.member.retriever.net.parameters(), *model.parameters()]
            yield (
                replace(
                    row,
                    train_s=round(fused.train_s, 1),
                    n_parameters=sum(p.numel() for p in parameters),
                    state_bytes=2 * fused.member.retriever.n_state,
                    us_per_event=None if us is None else round(us, 1),
                ),
                found,
            )

    def _task(self, protocol: Protocol) -> Task:
        if protocol not in self._tasks:
            given = self.options
            self._tasks[protocol] = split(
                self.sequences, protocol, cut=given.cut, choose=given.choose, repeats=given.repeats
            )
        return self._tasks[protocol]


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

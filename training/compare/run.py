"""A whole comparison, a row for each model, protocol and seed, by several processes. Finished rows are kept."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from stream.core.catalogue import ItemUpdate
from training.compare.contenders import Contender, Options
from training.compare.jobs import Job, Judge, jobs_of
from training.compare.rows import Result
from training.reporter import Quiet, Reporter
from training.sequences import UserSequences

__all__ = ["compare"]


def compare(
    sequences: UserSequences,
    wanted: Sequence[Contender],
    options: Options,
    *,
    folder: Path | None = None,
    report: Reporter | None = None,
    items: Sequence[ItemUpdate] = (),
    categories: torch.Tensor | None = None,
    processes: int = 1,
) -> Iterator[list[Result]]:
    """The results so far, in the order of the table, each time that some have come.

    Args:
        folder: where finished rows are kept, and found by a later run with the same data and settings.
        items: what is known of items, for the fusion.
        categories: (V,) category of each item from 1, 0 for none, for the models that can use them.
        processes: that work side by side, each on as many threads as PyTorch has here.
    """
    report = report or Quiet()
    judge = Judge(sequences, options, folder, items, categories)
    jobs = jobs_of(wanted, options)
    place = {
        (protocol, contender.name, seed): number
        for number, (protocol, contender, seed) in enumerate(
            (protocol, contender, seed)
            for protocol in options.protocols
            for contender in wanted
            for seed in (options.seeds if contender.settings is not None else (0,))
        )
    }
    done: dict[int, Result] = {}
    results = _one_by_one(judge, jobs, report) if processes == 1 else _side_by_side(judge, jobs, report, processes)
    for some in results:
        done |= {place[each.row.protocol, each.row.model, each.row.seed]: each for each in some}
        yield [done[number] for number in sorted(done)]


def _one_by_one(judge: Judge, jobs: Sequence[Job], report: Reporter) -> Iterator[list[Result]]:
    for job in jobs:
        yield judge.results(job, report)


def _side_by_side(judge: Judge, jobs: Sequence[Job], report: Reporter, n: int) -> Iterator[list[Result]]:
    report.stage("models", len(jobs))
    pool = ProcessPoolExecutor(
        n,
        mp_context=multiprocessing.get_context("spawn"),  # a fork of a process with threads may hang
        initializer=_begin,
        initargs=(judge, torch.get_num_threads()),
    )
    try:
        futures: dict[Future[list[Result]], Job] = {pool.submit(_work, job): job for job in jobs}
        for number, future in enumerate(as_completed(futures), start=1):
            results = future.result()
            report.at(number, f"{futures[future].name} is done")
            yield results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_JUDGE: list[Any] = []
"""Of this process, when it is one of several."""


def _begin(judge: Judge, n_threads: int) -> None:
    torch.set_num_threads(n_threads)
    _JUDGE[:] = [judge]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A comparison that was killed leaves nobody behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Job) -> list[Result]:
    results: list[Result] = _JUDGE[0].results(job)
    return results

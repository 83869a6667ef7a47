"""The passes of a backtest, one after another or in several processes, each of which can be stopped and resumed.

    task        what recommends      whose targets        in the folder
    0-baselines the baselines        all users            0-baselines.npz       when it is done
    1-part-0    the first bundle     every second user    1-part-0.part.npz     while it is not
    1-part-1    the first bundle     the other half

Every process replays all events, because item statistics are made by all users; what is divided is the scoring, which
is where the time goes. So no figure depends on the number of processes.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.bundle.load import load_bundle
from stream.errors import PolytempoError
from training.backtest.material import Material
from training.backtest.run import Conditions, Example, Outcome, Run, Share, merged
from training.targets import Targets

__all__ = ["Backtest", "Task", "tasks_of"]

_CHECKPOINT_S: Final = 300.0
_LOOK_S: Final = 0.2
_FINGERPRINT: Final = "backtest.json"


@dataclass(frozen=True, slots=True)
class Task:
    """One pass.

    Attributes:
        number: which run it belongs to; runs are the baselines and the bundles in their order.
        bundle: its folder; None for the baselines.
        share: whose targets.
    """

    number: int
    bundle: Path | None
    share: Share

    @property
    def label(self) -> str:
        """Names its files."""
        name = f"{self.number}-baselines" if self.bundle is None else f"{self.number}"
        return name if self.share.of == 1 else f"{name}-part-{self.share.part}"


def tasks_of(
    bundles: Sequence[Path], *, baselines: bool = True, n_processes: int = 1, n_workers: int | None = None
) -> list[Task]:
    """The passes of a backtest.

    Args:
        bundles: their folders.
        baselines: whether there is a pass for the baselines.
        n_processes: processes that share the work.
        n_workers: study what becomes of statistics that so many workers keep for themselves; None shares them.
    """
    runs: list[Path | None] = [None] if baselines else []
    runs += bundles
    tasks: list[Task] = []
    for number, bundle in enumerate(runs):
        if n_workers is not None:
            shares = [Share(part, n_workers, alone=True) for part in range(n_workers)]
        else:
            # A baseline's list costs little beside the replay itself, so more processes would only repeat that.
            n_parts = 1 if bundle is None else max(1, n_processes // max(1, len(bundles)))
            shares = [Share(part, n_parts) for part in range(n_parts)]
        tasks += [Task(number, bundle, share) for share in shares]
    return tasks


class Backtest:
    """All passes over one material.

    Args:
        material: the events.
        targets: what is judged.
        conditions: how it is recommended.
        folder: where results go, and where unfinished passes are kept.
        keep: whether the folder outlives the program, so that checkpoints are worth writing.

    Raises:
        PolytempoError: the folder holds another backtest.
    """

    def __init__(
        self, material: Material, targets: Targets, conditions: Conditions, folder: Path, *, keep: bool = True
    ) -> None:
        self.material = material
        self.targets = targets
        self.conditions = conditions
        self.folder = folder
        self._keep = keep

    def claim(self, tasks: Sequence[Task]) -> None:
        """Make the folder this backtest's own.

        Raises:
            PolytempoError: it is another's already.
        """
        bundles = {
            str(task.number): (task.bundle / "manifest.json").read_text() for task in tasks if task.bundle is not None
        }
        mine = {
            "events": self.material.fingerprint(),
            "targets": [int(self.targets.row.sum()), len(self.targets)],
            "conditions": repr(self.conditions),
            "tasks": [task.label for task in tasks],
            "bundles": bundles,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / _FINGERPRINT
        if file.exists():
            there = msgspec.json.decode(file.read_bytes())
            differing = [name for name, value in mine.items() if there.get(name) != value]
            if differing:
                raise PolytempoError(
                    f"{self.folder} holds another backtest: its {', '.join(differing)} differ.",
                    "Name another folder, or repeat the command that it belongs to.",
                )
        elif any(self.folder.iterdir()):
            raise PolytempoError(f"{self.folder} is not empty and holds no backtest.", "Name another folder.")
        else:
            file.write_bytes(msgspec.json.encode(mine))

    def go(
        self,
        tasks: Sequence[Task],
        *,
        n_processes: int = 1,
        on_progress: Callable[[int, int], None] | None = None,
        stopped: Callable[[], bool] | None = None,
    ) -> list[Outcome] | None:
        """Do what is not done yet. None when it was stopped; what was begun is then kept for the next time.

        Args:
            on_progress: called with events replayed and events to replay, over all passes.

        Raises:
            PolytempoError: a bundle is refused, or a process failed.
        """
        self.claim(tasks)
        done_before = [self._has(task) for task in tasks]
        n_of = [self._n_events(task) for task in tasks]
        n_all = sum(n_of)
        if n_processes == 1:
            n_over = sum(n for n, done in zip(n_of, done_before, strict=True) if done)
            for task, n, done in zip(tasks, n_of, done_before, strict=True):
                if done:
                    continue

                def progress(n_here: int, n_over: int = n_over) -> None:
                    if on_progress is not None:
                        on_progress(n_over + n_here, n_all)

                if not self._do(task, progress, stopped):
                    return None
                n_over += n
        elif not self._side_by_side(tasks, n_of, done_before, n_processes, on_progress, stopped):
            return None
        parts: dict[tuple[int, str], list[Outcome]] = {}
        for task in tasks:
            for outcome in _read(self.folder / f"{task.label}.npz"):
                parts.setdefault((task.number, outcome.name), []).append(outcome)
        return [merged(several) for several in parts.values()]

    def _n_events(self, task: Task) -> int:
        log = self.material.log
        mine = self.targets.scored[task.share.has(log.user[self.targets.row], log.user_ids)]
        if len(mine) == 0:
            return 0
        users = log.user[: int(mine.max()) + 1]
        return int(task.share.has(users, log.user_ids).sum()) if task.share.alone else len(users)

    def _has(self, task: Task) -> bool:
        return (self.folder / f"{task.label}.npz").exists()

    def _do(self, task: Task, on_progress: Callable[[int], None], stopped: Callable[[], bool] | None) -> bool:
        """One pass, from its checkpoint if there is one; whether it is done."""
        bundle = None if task.bundle is None else load_bundle(task.bundle)
        run = Run(self.material, self.targets, bundle, self.conditions, task.share)
        unfinished = self.folder / f"{task.label}.part.npz"
        if unfinished.exists():
            try:
                with np.load(unfinished, allow_pickle=False) as stored:
                    run.resume(dict(stored))
            except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise PolytempoError(f"{unfinished} cannot be resumed: {error}.", "Delete it to begin anew.") from error
        while True:
            due_s = time.monotonic() + _CHECKPOINT_S

            def pause(due_s: float = due_s) -> bool:
                return (stopped is not None and stopped()) or (self._keep and time.monotonic() > due_s)

            done = run.go(on_progress, pause)
            if done:
                _write(self.folder / f"{task.label}.npz", _as_arrays(run.outcomes()))
                unfinished.unlink(missing_ok=True)
                return True
            if self._keep:
                _write(unfinished, run.checkpoint())
            if stopped is not None and stopped():
                return False

    def _side_by_side(
        self,
        tasks: Sequence[Task],
        n_of: Sequence[int],
        done_before: Sequence[bool],
        n_processes: int,
        on_progress: Callable[[int, int], None] | None,
        stopped: Callable[[], bool] | None,
    ) -> bool:
        # Not forked: the parent may hold threads of ONNX Runtime and of Kafka clients.
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        counts = context.Array("q", [n if done else 0 for n, done in zip(n_of, done_before, strict=True)])
        waiting = [number for number, done in enumerate(done_before) if not done]
        running: dict[int, Any] = {}
        failed: list[int] = []
        try:
            while (waiting and not stop.is_set()) or running:
                while waiting and len(running) < n_processes and not stop.is_set():
                    number = waiting.pop(0)
                    process = context.Process(target=_in_child, args=(self, tasks[number], number, counts, stop))
                    process.start()
                    running[number] = process
                time.sleep(_LOOK_S)
                if on_progress is not None:
                    on_progress(sum(counts[:]), sum(n_of))
                if stopped is not None and stopped():
                    stop.set()
                for number in [number for number, process in running.items() if process.exitcode is not None]:
                    if running.pop(number).exitcode != 0:
                        failed.append(number)
                        stop.set()
        finally:
            stop.set()
            for process in running.values():
                process.join()
        if failed:
            file = self.folder / f"{tasks[failed[0]].label}.error"
            why = file.read_text() if file.exists() else "it was killed, perhaps for want of memory"
            raise PolytempoError(f"a process of the backtest failed: {why}")
        return all(self._has(task) for task in tasks)


def _in_child(backtest: Backtest, task: Task, number: int, counts: Any, stop: Any) -> None:
    # Ctrl-C reaches the whole group of processes; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    error_file = backtest.folder / f"{task.label}.error"

    def progress(n_here: int) -> None:
        counts[number] = n_here

    try:
        backtest._do(task, progress, stop.is_set)
        error_file.unlink(missing_ok=True)
    except Exception:  # noqa: BLE001 - whatever it is, the parent reports it
        error_file.write_text(traceback.format_exc())
        raise SystemExit(1) from None


def _as_arrays(outcomes: Sequence[Outcome]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for number, outcome in enumerate(outcomes):
        for name in ("at", "place", "items", "scores"):
            arrays[f"{number}/{name}"] = getattr(outcome, name)
        words = {
            "name": outcome.name,
            "n_events": outcome.n_events,
            "n_scored": outcome.n_scored,
            "seconds": outcome.seconds,
            "examples": outcome.examples,
        }
        arrays[f"{number}/words"] = np.frombuffer(msgspec.json.encode(words), np.uint8)
    return arrays


def _read(file: Path) -> list[Outcome]:
    with np.load(file, allow_pickle=False) as stored:
        arrays: Mapping[str, NDArray[Any]] = dict(stored)
    outcomes = []
    for number in range(len(arrays) // 5):
        words = msgspec.json.decode(arrays[f"{number}/words"].tobytes())
        examples = msgspec.convert(words.pop("examples"), tuple[Example, ...])
        columns: dict[str, Any] = {name: arrays[f"{number}/{name}"] for name in ("at", "place", "items", "scores")}
        outcomes.append(Outcome(**columns, **words, examples=examples))
    return outcomes


def _write(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    aside = file.with_name(f".{file.name}.tmp")
    with aside.open("wb") as opened:
        np.savez(opened, **arrays)  # type: ignore[arg-type]
    aside.replace(file)

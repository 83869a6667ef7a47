"""Bars for long work in stages: one for each stage, with what it has to say behind it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import TaskID

from stream.cli.console import progress

__all__ = ["Bars"]


class Bars:
    """A reporter that draws; use it as a context."""

    def __init__(self) -> None:
        self._progress = progress()
        self._task: TaskID | None = None
        self._name, self._total = "", 1

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        self._progress.stop()

    def stage(self, name: str, total: int) -> None:
        """Begin a bar; the same name again only tells its length."""
        if self._task is not None and name == self._name:
            self._total = max(total, 1)
            self._progress.update(self._task, total=self._total)
            return
        self._finish()
        self._name, self._total = name, max(total, 1)
        self._task = self._progress.add_task(name, total=self._total)

    def at(self, done: int, note: str = "") -> None:
        """Move the bar on."""
        if self._task is not None:
            description = f"{self._name} [dim]{note}[/]" if note else self._name
            self._progress.update(self._task, completed=done, description=description)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=self._total)

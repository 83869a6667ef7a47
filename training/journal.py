"""What a training sees, for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stream.errors import PolytempoError
from training.config import Config

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

__all__ = ["TensorBoard", "tensorboard"]


class TensorBoard:
    """Writes curves and hyper-parameters; a `training.fit.Journal`.

    A run that goes on after a stop writes beside what is there: the steps since its last checkpoint appear twice.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def step(self, n_steps: int, *, loss: float, rate: float, gradient: float) -> None:
        """After a step."""
        for name, value in (("train/loss", loss), ("train/rate", rate), ("train/gradient_norm", gradient)):
            self._add(name, value, n_steps)

    def epoch(self, n_steps: int, *, loss: float, figure: float | None) -> None:
        """After an epoch."""
        self._add("epoch/loss", loss, n_steps)
        if figure is not None:
            self._add("epoch/choose_ndcg@10", figure, n_steps)

    def end(self, config: Config, metrics: Mapping[str, float]) -> None:
        """The run's settings beside what it came to, and its validation figures."""
        for name, value in metrics.items():
            self._add(f"validation/{name}", value, 0)
        settings: dict[str, Any] = {"seed": config.seed, **msgspec.to_builtins(config.model)}
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in settings.items()
        }
        figures = {f"hparam/{name}": value for name, value in metrics.items() if "/" not in name}
        self._writer.add_hparams(plain, figures, run_name=".")

    def _add(self, name: str, value: float, n_steps: int) -> None:
        self._writer.add_scalar(name, value, n_steps)


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[TensorBoard | None]:
    """Writes to `folder`; None where no folder is wanted.

    Raises:
        PolytempoError: the package is not installed.
    """
    if folder is None:
        yield None
        return
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise PolytempoError(
            "logs for TensorBoard need the package tensorboard.", "pip install 'polytempo[tensorboard]'"
        ) from error
    writer = SummaryWriter(str(folder))
    try:
        yield TensorBoard(writer)
    finally:
        writer.close()

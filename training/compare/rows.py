"""A row of a comparison, and the files in which finished ones are kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.compare.contenders import Contender, Options
from training.compare.task import Protocol
from training.sequences import UserSequences

__all__ = ["Result", "Row", "Store", "digest", "key"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line: figures at 10, over the whole catalogue.

    Attributes:
        hr_at_10, ndcg_at_10, mrr_at_10: see `training.metrics.single`.
        coverage, novelty: see `training.metrics.beyond`.
        us_per_event: see `training.compare.models.serve`; None where not measured.
        state_bytes: recurrent state in the user's record; 0 for models that read the ring of recent events.
        train_s: processor seconds of training, evaluation left out.
        row_s: processor seconds of the whole row, training among it unless an earlier row's was used again.
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
    row_s: float = 0.0


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


def digest(sequences: UserSequences) -> str:
    """Stands for a log."""
    found = hashlib.sha256(json.dumps(sequences.vocabulary).encode())
    for column in ("start", "item", "kind", "ts_ms", "value", "positive"):
        found.update(np.ascontiguousarray(getattr(sequences, column)).tobytes())
    return found.hexdigest()


def key(data: str, contender: Contender, options: Options, seed: int) -> str:
    """Stands for everything that a row depends on; for the code, its version does."""
    settings = None if contender.settings is None else msgspec.json.encode(contender.settings).decode()
    said: list[Any] = [version("polytempo"), data, contender.name, settings, contender.physical, contender.state]
    said += [contender.loss or options.loss, seed, options.cut, options.choose, options.repeats]
    said += [options.served and contender.settings is not None]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


class Store:
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

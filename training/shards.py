"""Training rows on disk: a folder of Parquet shards and a description, for trainers of any kind.

    rows.json            what the rows are: features by name, where they come from, whether they are complete
    rows-00000.parquet   a row for each target that was among its candidates, in the order of the log
    rows-00001.parquet   ...
    checkpoint.npz       where an interrupted replay stands; gone when it is done

Columns of a shard:

    user_id, scored_ms, target_ms, target_item    whose row, as of when, and what came next, when
    scored, row                                   rows of both events in the log that was replayed
    n_candidates, label                           candidates that there were, and which of them was the target
    candidate_features                            C * F numbers, candidate after candidate, 0 beyond `n_candidates`
    context_features                              G numbers
    others                                        what a sequence model before the ranker said, where there is one

Features are in half precision, as they are trained on, and stored as 32 bits since Parquet's readers know those.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from stream.core.features import FeatureSpec, TensorSpec, candidate_feature_names, context_feature_names
from stream.errors import PolytempoError
from training.log import Log
from training.rows import Recorded, Room, Rows
from training.targets import Targets

__all__ = ["CHECKPOINT", "Description", "ShardWriter", "read_description", "read_rows", "scored_of", "shards_of"]

CHECKPOINT: Final = "checkpoint.npz"
_DESCRIPTION: Final = "rows.json"
_ROWS_AT_ONCE: Final = 1024
_HALF: Final = ("candidate_features", "context_features")


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a folder of rows holds.

    Attributes:
        features: the feature specification, and the digest that stands for it and its code.
        candidate_features, context_features: the features' names, in their order.
        inputs: further columns, which a sequence model gives.
        n_candidates: C.
        source: the topic or the file.
        from_ms, until_ms: targets of `[from_ms, until_ms)`.
        period_ms: age of the item statistics at most.
        seen: which items are no candidates, as a policy says it.
        log: stands for the events that were replayed.
        n_targets, n_rows: targets, and those among their candidates; 0 until the folder is complete.
        complete: whether all rows are there.
    """

    format: Literal[1] = 1
    features: dict[str, Any]
    feature_digest: str
    candidate_features: tuple[str, ...]
    context_features: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    n_candidates: int
    source: str
    from_ms: int
    until_ms: int
    period_ms: int
    seen: str
    log: str
    n_targets: int = 0
    n_rows: int = 0
    complete: bool = False

    @classmethod
    def of(cls, spec: FeatureSpec, **facts: Any) -> Description:
        """The description of rows with these features."""
        return cls(
            features=dict(spec.to_json()),
            feature_digest=spec.digest(),
            candidate_features=tuple(candidate_feature_names(spec)),
            context_features=tuple(context_feature_names(spec)),
            n_candidates=spec.candidates.n,
            **facts,
        )

    @property
    def spec(self) -> FeatureSpec:
        """The feature specification."""
        return FeatureSpec.from_json(self.features)


class ShardWriter:
    """Writes rows into shards; what is not yet flushed is lost when the program ends.

    Args:
        folder: is made.
        description: what the rows are.

    Raises:
        PolytempoError: the folder holds something else.
    """

    def __init__(self, folder: Path, description: Description) -> None:
        self.folder = folder
        self.n_shards = 0
        self.n_rows = 0
        self.done: Description | None = None
        """What is there, if it is complete."""
        self._description = description
        self._waiting: list[pl.DataFrame] = []
        file = folder / _DESCRIPTION
        if file.exists():
            there = read_description(folder)
            if msgspec.structs.replace(there, complete=False, n_targets=0, n_rows=0) != description:
                raise PolytempoError(
                    f"{folder} holds other rows.", "Name another folder, or repeat the command that it belongs to."
                )
            self.done = there if there.complete else None
            return
        if folder.exists() and any(folder.iterdir()):
            raise PolytempoError(f"{folder} is not empty and holds no rows.", "Name another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_text(description))

    def add(self, part: Recorded, log: Log, scored: NDArray[np.int64]) -> None:
        """Keep the rows of a batch.

        Args:
            scored: (R,) the rows' scored events, as rows of the log.
        """
        if len(part.row) == 0:
            return
        columns: dict[str, Any] = {
            "user_id": [log.user_ids[user] for user in log.user[part.row].tolist()],
            "scored_ms": log.ts_ms[scored],
            "target_ms": log.ts_ms[part.row],
            "target_item": [log.item_ids[item] for item in log.item[part.row].tolist()],
            "scored": scored,
            "row": part.row,
            "n_candidates": part.n_candidates,
            "label": part.label.astype(np.int16),
        }
        for name in (*_HALF, *self._description.inputs):
            flat = part.inputs[name].reshape(len(part.row), -1)
            if name in _HALF:
                flat = flat.astype(np.float16)
            columns[name] = flat.astype(np.float32 if flat.dtype.kind == "f" else np.int32)
        self._waiting.append(pl.DataFrame(columns))
        if sum(len(frame) for frame in self._waiting) >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as a shard."""
        if not self._waiting:
            return
        frame = pl.concat(self._waiting)
        self._waiting = []
        name = _name(self.n_shards)
        aside = self.folder / f".{name}.tmp"
        frame.write_parquet(aside, compression="zstd")
        aside.replace(self.folder / name)
        self.n_shards += 1
        self.n_rows += len(frame)

    def go_on(self, n_shards: int, n_rows: int) -> None:
        """Go on behind so many shards; later ones, which were written after the last checkpoint, are made again."""
        self.n_shards, self.n_rows = n_shards, n_rows
        for file in self.folder.glob("rows-*.parquet"):
            if file.name >= _name(n_shards):
                file.unlink()

    def finish(self, n_targets: int) -> Description:
        """Everything is there."""
        self.flush()
        done = msgspec.structs.replace(self._description, n_targets=n_targets, n_rows=self.n_rows, complete=True)
        (self.folder / _DESCRIPTION).write_bytes(_text(done))
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return done


def read_description(folder: Path) -> Description:
    """What a folder holds.

    Raises:
        PolytempoError: it holds no rows, or such of another version.
    """
    try:
        return msgspec.json.decode((folder / _DESCRIPTION).read_bytes(), type=Description)
    except OSError as error:
        raise PolytempoError(f"{folder} holds no rows.", "`polytempo rows --out FOLDER` makes them.") from error
    except msgspec.MsgspecError as error:
        raise PolytempoError(f"{folder / _DESCRIPTION} cannot be read: {error}.") from error


def shards_of(folder: Path) -> list[Path]:
    """Its shards, in order."""
    return sorted(folder.glob("rows-*.parquet"))


def read_rows(
    folder: Path, into: Path, *, inputs: Mapping[str, TensorSpec], from_ms: int = 0, until_ms: int = 2**62
) -> Rows:
    """Rows of targets of `[from_ms, until_ms)`, as training takes them; one shard at a time is in memory.

    Args:
        folder: of the shards.
        into: where the rows are laid out; must exist.
        inputs: what the scorer to be trained wants.

    Raises:
        PolytempoError: the folder is incomplete, made by other code, or lacks an input.
        ValueError: there is no row.
    """
    described = read_description(folder)
    spec = described.spec
    if not described.complete:
        raise PolytempoError(f"the rows in {folder} are not complete.", "Repeat the command that makes them.")
    if spec.digest() != described.feature_digest:
        raise PolytempoError(
            f"the rows in {folder} were made by a version of polytempo that computes other features.",
            "Make them again.",
        )
    missing = [name for name in inputs if name not in ("candidates", *_HALF, *described.inputs)]
    if missing:
        raise PolytempoError(f"the rows in {folder} lack {', '.join(missing)}.", "Make them with the bundle.")
    room = Room(spec, inputs, described.n_rows, into)
    sizes = {"candidate_features": (spec.candidates.n, len(described.candidate_features))}
    sizes |= {name: inputs[name].shape[1:] for name in described.inputs if name in inputs}  # type: ignore[misc]
    for file in shards_of(folder):
        frame = pl.read_parquet(file).filter((pl.col("target_ms") >= from_ms) & (pl.col("target_ms") < until_ms))
        if len(frame) == 0:
            continue
        columns = {
            name: frame[name].to_numpy().reshape(len(frame), *sizes.get(name, (-1,)))
            for name in (*_HALF, *described.inputs)
        }
        room.add(
            columns,
            frame["n_candidates"].to_numpy(),
            frame["label"].to_numpy().astype(np.int64),
            frame["row"].to_numpy(),
        )
    kept = room.n_rows / max(described.n_rows, 1)  # of a part of the range, the recall is taken to be that of all
    return room.rows(round(described.n_targets * kept))


def scored_of(targets: Targets, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R,) the scored events of targets, by the targets' rows (R,)."""
    return targets.scored[np.searchsorted(targets.row, rows)]


def _name(number: int) -> str:
    return f"rows-{number:05}.parquet"


def _text(description: Description) -> bytes:
    return msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n"

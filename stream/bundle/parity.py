"""Golden inputs and outputs: whether this machine computes what the PyTorch module computed when the bundle was made.

`parity.npz` holds arrays `in.<name>` and `out.<name>` of the same number of rows.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.bundle.scorer import check_shapes
from stream.core.features import TensorSpec
from stream.core.seam import Scorer

__all__ = [
    "ABSOLUTE",
    "RELATIVE",
    "Parity",
    "check_parity",
    "check_parts",
    "difference",
    "read_parity",
    "take_rows",
    "write_parity",
]

RELATIVE: Final = 1e-4
ABSOLUTE: Final = 1e-5
PARTS: Final = 1e-4

MAX_ROWS: Final = 4096
MAX_UNPACKED_BYTES: Final = 256 << 20

WARM_UP: Final = (1, 16, 64, 256)
"""Batch sizes that are run before a bundle serves: ONNX Runtime plans its memory on the first run of each shape."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Parity:
    """Inputs, and the outputs that belong to them, each array (n rows, ...)."""

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]


def write_parity(parity: Parity) -> bytes:
    """The content of `parity.npz`; the same arrays give the same bytes (NumPy stamps entries with a fixed time)."""
    arrays = {f"in.{name}": array for name, array in sorted(parity.inputs.items())}
    arrays |= {f"out.{name}": array for name, array in sorted(parity.outputs.items())}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_parity(content: bytes, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> Parity:
    """Read `parity.npz` and compare it with the declared inputs and outputs. Never unpickles.

    Raises:
        ValueError: not a NumPy archive, other arrays than declared, pickled objects, too large, or wrong shapes.
    """
    wanted = {f"in.{name}": spec for name, spec in inputs.items()}
    wanted |= {f"out.{name}": spec for name, spec in outputs.items()}
    try:
        arrays = _unpacked(content, wanted)
    except ValueError:
        raise
    except Exception as error:  # of what damage makes zipfile, zlib, tokenize and NumPy raise there is no list
        raise ValueError(f"it is not a NumPy archive: {error}") from error
    for name, spec in wanted.items():
        if arrays[name].dtype != np.dtype(spec.dtype):
            raise ValueError(f"{name}: expected {spec.dtype}, found {arrays[name].dtype}")
    sizes = check_shapes(arrays, wanted)
    if not 1 <= sizes["B"] <= MAX_ROWS:
        raise ValueError(f"it has {sizes['B']} rows, not 1 to {MAX_ROWS}")
    return Parity(
        {name: arrays[f"in.{name}"] for name in inputs},
        {name: arrays[f"out.{name}"] for name in outputs},
    )


def take_rows(arrays: Arrays, n_rows: int) -> dict[str, NDArray[Any]]:
    """The first `n_rows` rows, starting over at the end: any batch size out of a stored one."""
    n_stored = len(next(iter(arrays.values())))
    rows = np.arange(n_rows) % n_stored
    return {name: array[rows] for name, array in arrays.items()}


def check_parity(scorer: Scorer, parity: Parity) -> None:
    """Recompute the golden outputs at the stored batch size, one by one, and at several larger ones.

    Raises:
        ValueError: an output differs by more than 1e-4 relative and 1e-5 absolute (says which, where and by how much),
            or parts do not add up to their score.
    """
    check_parts(parity.outputs)
    n_stored = len(next(iter(parity.inputs.values())))
    for n_rows in sorted({n_stored, *(size for size in WARM_UP if size > 1), 2 * n_stored + 1}):
        _compare(scorer, take_rows(parity.inputs, n_rows), take_rows(parity.outputs, n_rows), f"a batch of {n_rows}")
    for row in sorted({0, n_stored // 2, n_stored - 1}):
        one = slice(row, row + 1)
        inputs = {name: array[one] for name, array in parity.inputs.items()}
        outputs = {name: array[one] for name, array in parity.outputs.items()}
        _compare(scorer, inputs, outputs, f"a batch of 1 (row {row})")


def check_parts(outputs: Arrays) -> None:
    """Whether `parts` (B, k, G), where there are any, sum to `scores` (B, k) to 1e-4; -inf of padding aside.

    Raises:
        ValueError: they do not; says where and by how much.
    """
    if "parts" not in outputs:
        return
    scores = outputs["scores"]
    total = outputs["parts"].sum(axis=-1, dtype=np.float64)
    wrong = np.isfinite(scores) & ~np.isclose(total, scores, rtol=PARTS, atol=PARTS)
    if wrong.any():
        row, column = (int(index[0]) for index in np.nonzero(wrong))
        raise ValueError(
            f"parts[{row}, {column}] sum to {total[row, column]:.7g}, the score is {scores[row, column]:.7g}"
        )


def _compare(scorer: Scorer, inputs: Arrays, expected: Arrays, batch: str) -> None:
    try:
        found = scorer.score(inputs)
    except Exception as error:  # the runtime's exceptions share no base class but this one
        raise ValueError(f"it fails on {batch}: {error}") from error
    problem = difference(expected, found)
    if problem is not None:
        raise ValueError(f"on {batch}, {problem}")


def difference(expected: Arrays, found: Arrays) -> str | None:
    """How two outputs of a scorer differ beyond tolerance; None if they do not.

    Items must be equal, but two may have changed places whose scores are closer than the tolerance, and the last ones
    may have given way to others as good.
    """
    for name, golden in expected.items():
        given = found[name]
        if given.dtype != golden.dtype or given.shape != golden.shape:
            return f"{name}: expected {golden.dtype} {golden.shape}, found {given.dtype} {given.shape}"
        if name == "items":
            continue
        close = np.isclose(given, golden, rtol=RELATIVE, atol=ABSOLUTE)
        if name == "parts":  # items that changed places took theirs along
            close |= (expected["items"] != found["items"])[..., None]
        if not close.all():
            where = tuple(int(index[0]) for index in np.nonzero(~close))
            return f"{name}{list(where)}: expected {golden[where]:.7g}, found {given[where]:.7g}"
    if "items" not in expected:
        return None
    items, scores = expected["items"], expected["scores"]
    for row, column in np.argwhere(found["items"] != items).tolist():
        other, score = found["items"][row, column], scores[row, column]
        # Where the golden row has the item that was found, or, if nowhere, just behind its end.
        golden = scores[row, items[row] == other] if (items[row] == other).any() else scores[row].min(keepdims=True)
        if not np.isclose(golden, score, rtol=RELATIVE, atol=ABSOLUTE).any():
            return f"items[{row}, {column}]: expected {items[row, column]}, found {other}"
    return None


def _unpacked(content: bytes, wanted: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if set(entries) != set(wanted) or len(entries) != len(wanted):
        raise ValueError(f"its arrays: expected {sorted(wanted)}, found {sorted(entries)}")
    n_bytes = sum(entry.file_size for entry in entries.values())
    if n_bytes > MAX_UNPACKED_BYTES:
        raise ValueError(f"it unpacks to {n_bytes} bytes, more than {MAX_UNPACKED_BYTES}")
    with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
        return {name: loaded[name] for name in wanted}

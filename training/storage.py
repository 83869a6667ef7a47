"""Where arrays as long as a log are put: in memory, or in files that the system pages in and out as it sees fit.

Pages of a file count as the process's own while they are there, but cost nobody his memory: under pressure they are
written back and let go of. Files have no name, so that nothing stays of them however a run ends.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["InFiles", "Storage", "in_memory", "stretches"]

_STRETCH: Final = 1 << 20


class Storage(Protocol):
    """Makes arrays."""

    def __call__(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of zeros, which take no room until something is written over them."""
        ...


def in_memory(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """In memory."""
    return np.zeros(shape, dtype)


@dataclass(frozen=True, slots=True)
class InFiles:
    """In nameless files of a folder, each there for as long as its array is.

    Attributes:
        folder: must exist, on a file system with room for what is written.
    """

    folder: Path

    def __call__(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """See `Storage`."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if n_bytes == 0:
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.truncate(n_bytes)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))  # the map keeps the file


def stretches(start: int, stop: int, n: int = _STRETCH) -> Iterator[slice]:
    """The rows from `start` to `stop` (excluded), so many at a time: what is made of them in passing stays small."""
    for at in range(start, stop, n):
        yield slice(at, min(at + n, stop))

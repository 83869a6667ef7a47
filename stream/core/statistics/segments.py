"""The value of a context field as a small code, by which statistics find their column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.core.events import segment_keys
from stream.core.statistics.spec import SegmentField

__all__ = ["SegmentCodes"]


@dataclass(slots=True)
class SegmentCodes:
    """Sorted keys of a field's values, for turning keys into codes."""

    keys: NDArray[np.uint32]
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, segment: SegmentField) -> SegmentCodes:
        """The codes of a field: its values from 1."""
        keys = segment_keys(segment.values)
        order = np.argsort(keys)
        return cls(keys[order], (order + 1).astype(np.int32))

    def encode(self, keys: NDArray[np.uint32]) -> NDArray[np.int32]:
        """Code of each key, 0 for missing and for other values; any shape."""
        if len(self.keys) == 0:
            return np.zeros(keys.shape, np.int32)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.codes[at], 0).astype(np.int32)

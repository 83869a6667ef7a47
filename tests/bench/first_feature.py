"""A scorer that costs next to nothing, to see what everything else costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stream.core.features import FeatureSpec, TensorSpec, menu

__all__ = ["FirstFeature"]


class FirstFeature:
    """The cheapest scorer there is: a candidate's first feature."""

    n_state = 0
    space: Literal["candidates", "vocabulary"] = "candidates"

    def __init__(self, spec: FeatureSpec) -> None:
        offered = menu(spec)
        wanted = ("candidates", "candidate_features", "context_features")
        self.inputs: Mapping[str, TensorSpec] = {name: offered[name] for name in wanted}

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every candidate with its first feature."""
        return {"items": inputs["candidates"], "scores": np.ascontiguousarray(inputs["candidate_features"][:, :, 0])}

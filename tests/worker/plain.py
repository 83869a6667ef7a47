"""Bundles without files: scorers that one can compute by hand, and that answer an event the same in any batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stream.core.candidates import CandidateSpec
from stream.core.distributions import Binned
from stream.core.features import FeatureSpec, TensorSpec, menu
from stream.core.scales import DAY_MS
from stream.core.seam import Scorer
from stream.core.statistics import CoVisitationChannel, PopularityChannel, SegmentField, StatisticsSpec

__all__ = ["FEATURES", "N_STATE", "VOCABULARY", "PlainBundle", "PlainRanker", "PlainRecurrent"]

FEATURES = FeatureSpec(
    statistics=StatisticsSpec(
        popularity=(
            PopularityChannel(30 * 60_000, "continuing"),
            PopularityChannel(DAY_MS),
            PopularityChannel(DAY_MS, field="device"),
        ),
        co_visitation=(CoVisitationChannel(DAY_MS, "next"), CoVisitationChannel(DAY_MS, "any")),
        segments=(SegmentField("device", ("phone", "desk")),),
        n_slots=16,
    ),
    candidates=CandidateSpec(lists=(("all:1d", 50), ("continuing:30m", 20))),
)
VOCABULARY = [f"item-{number}" for number in range(40)]
N_STATE = 8


class PlainRanker:
    """The score is a weighted sum of a candidate's features."""

    n_state = 0
    space: Literal["candidates", "vocabulary"] = "candidates"

    def __init__(self, spec: FeatureSpec = FEATURES) -> None:
        offered = menu(spec)
        self.inputs: Mapping[str, TensorSpec] = {name: offered[name] for name in ("candidates", "candidate_features")}
        width = offered["candidate_features"].shape[-1]
        assert isinstance(width, int)
        self._weights = np.random.default_rng(0).normal(size=width)

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        candidates = inputs["candidates"]
        scores = (inputs["candidate_features"] * self._weights).sum(-1)  # row by row, whatever the batch
        return {"items": candidates, "scores": np.where(candidates < 0, -np.inf, scores).astype(np.float32)}


class PlainRecurrent:
    """The state fades by half and takes in a vector of the item; what is close to it is recommended."""

    n_state = N_STATE
    space: Literal["candidates", "vocabulary"] = "vocabulary"

    def __init__(self, seed: int = 0) -> None:
        offered = menu(FEATURES, N_STATE)
        self.inputs: Mapping[str, TensorSpec] = {name: offered[name] for name in ("item", "kind", "gap_s", "state")}
        self.vectors = np.random.default_rng(seed).normal(size=(len(VOCABULARY) + 1, N_STATE)).astype(np.float32)

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        state = np.float32(0.5) * inputs["state"] + self.vectors[inputs["item"]]
        scores = (state[:, None, :] * self.vectors[None, 1:]).sum(-1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :20]
        return {
            "items": best.astype(np.int64) + 1,
            "scores": np.take_along_axis(scores, best, axis=1).astype(np.float32),
            "state": state.astype(np.float32),
        }


@dataclass(frozen=True, slots=True)
class PlainBundle:
    """What the processor needs of a bundle."""

    scorer: Scorer = field(default_factory=PlainRanker)
    features: FeatureSpec = FEATURES
    vocabulary: list[str] = field(default_factory=list)
    parts: tuple[str, ...] = ()
    reference: str = "plain@1"
    tag: int = 1
    retriever: Scorer | None = None
    distributions: Mapping[str, Binned] = field(default_factory=dict)

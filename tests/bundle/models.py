"""Two small models that are written to bundles, and the same models in NumPy: fakes that are oracles as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stream.bundle.manifest import Manifest, TrainingWindow
from stream.bundle.scorer import check_shapes
from stream.core.candidates import CandidateSpec
from stream.core.content import N_TOKENS
from stream.core.features import FeatureSpec, TensorSpec, menu
from stream.core.scales import DAY_MS, HOUR_MS
from training.export import RetrievalModel, write_bundle
from training.indexing import IndexSettings
from training.nets.fusion import WordedFusion
from training.nets.ranker import RankerConfig
from training.nets.recurrent import Recurrent, RecurrentConfig
from training.nets.retrieval import WordedRetriever, tell_items
from training.nets.tempo import Tempo, TempoConfig

__all__ = [
    "ASKING_INPUTS",
    "FEATURES",
    "FUSED",
    "FUSED_INPUTS",
    "N_LARGE",
    "N_STATE",
    "N_VOCABULARY",
    "RANKER_INPUTS",
    "RECURRENT_INPUTS",
    "FakeRanker",
    "FakeRecurrent",
    "Ranker",
    "asking",
    "fused",
    "large",
    "ranker",
    "recurrent",
    "write_fused",
    "write_fused_indexed",
    "write_indexed",
    "write_ranker",
    "write_recurrent",
]

FEATURES: Final = FeatureSpec()
RETURNING: Final = replace(FEATURES, statistics=replace(FEATURES.statistics, returns=(DAY_MS, 6 * HOUR_MS)))
"""With what users come back to."""
FUSED: Final = FeatureSpec(candidates=CandidateSpec(n_retrieved=20), n_content=32)
N_VOCABULARY: Final = 60
N_LARGE: Final = 3_000
"""Items of a vocabulary that is searched with an index; a real one has ten times as many."""
N_STATE: Final = 16
RANKER_INPUTS: Final = ("candidates", "candidate_features", "context_features")
RECURRENT_INPUTS: Final = ("item", "kind", "gap_s", "value", "state")
ASKING_INPUTS: Final = ("item", "item_content", "kind", "gap_s", "value", "state")
FUSED_INPUTS: Final = (*RANKER_INPUTS, "candidate_index", "candidate_content", "query")
TRAINING: Final = TrainingWindow(0, 86_400_000, 1000, "made up", "polytempo train tests")

Arrays = Mapping[str, NDArray[Any]]


class Ranker(nn.Module):
    """Candidates (B, C) with their features (B, C, F) and context (B, G) -> scores (B, C), -inf for padding."""

    def __init__(self, n_features: int, n_context: int, n_hidden: int = 16) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_features + n_context, n_hidden)
        self.score = nn.Linear(n_hidden, 1)

    def forward(
        self, candidates: Tensor, candidate_features: Tensor, context_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        context = context_features.unsqueeze(1).expand(-1, candidates.shape[1], -1)
        hidden = torch.relu(self.hidden(torch.cat([candidate_features, context], dim=-1)))
        return candidates, torch.where(candidates < 0, -torch.inf, self.score(hidden).squeeze(-1))


class FakeRanker:
    """`Ranker` in NumPy."""

    def __init__(self, module: Ranker) -> None:
        offered = menu(FEATURES)
        self.inputs: Mapping[str, TensorSpec] = {name: offered[name] for name in RANKER_INPUTS}
        self.n_state = 0
        self.space: Literal["candidates", "vocabulary"] = "candidates"
        self._weights = _weights(module)

    def score(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        check_shapes(inputs, self.inputs)
        w = self._weights
        candidates, features = inputs["candidates"], inputs["candidate_features"]
        context = np.repeat(inputs["context_features"][:, None], candidates.shape[1], axis=1)
        both = np.concatenate([features, context], axis=-1)
        hidden = np.maximum(0, both @ w["hidden.weight"].T + w["hidden.bias"])
        scores = (hidden @ w["score.weight"].T + w["score.bias"])[..., 0]
        return {"items": candidates, "scores": np.where(candidates < 0, -np.inf, scores).astype(np.float32)}


class FakeRecurrent:
    """`Recurrent` in NumPy, written from the equations of the GRU and not from the module's code."""

    def __init__(self, module: Recurrent) -> None:
        offered = menu(FEATURES, N_STATE)
        self.inputs: Mapping[str, TensorSpec] = {name: offered[name] for name in RECURRENT_INPUTS}
        self.n_state = N_STATE
        self.space: Literal["candidates", "vocabulary"] = "vocabulary"
        self._weights = _weights(module)
        self._n_best = module.n_best

    def score(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        check_shapes(inputs, self.inputs)
        w = self._weights
        gap_s = np.maximum(inputs["gap_s"], 0)[:, None]
        faded = inputs["state"] * np.exp(-gap_s * np.exp(w["log_rate"]))
        time = np.concatenate([np.log1p(gap_s) / 10, inputs["gap_s"][:, None] <= 0], axis=1)
        value = np.nan_to_num(inputs["value"])[:, None]
        said = w["items.weight"][inputs["item"]] + w["kinds.weight"][inputs["kind"]]
        said = said + time @ w["gap.weight"].T + w["gap.bias"]
        said = said + np.sign(value) * np.log1p(np.abs(value)) * w["value.weight"].T
        reset_x, keep_x, new_x = np.split(said @ w["gates_in.weight"].T + w["gates_in.bias"], 3, axis=1)
        reset_h, keep_h, new_h = np.split(faded @ w["gates_state.weight"].T + w["gates_state.bias"], 3, axis=1)
        keep = _sigmoid(keep_x + keep_h)
        state = (1 - keep) * np.tanh(new_x + _sigmoid(reset_x + reset_h) * new_h) + keep * faded
        centred = state - state.mean(axis=1, keepdims=True)
        normal = centred / np.sqrt(state.var(axis=1, keepdims=True) + 1e-5) * w["norm.weight"] + w["norm.bias"]
        logits = normal @ w["items.weight"][1:].T + w["bias"]
        best = np.argsort(-logits, axis=1, kind="stable")[:, : self._n_best]
        return {
            "items": best.astype(np.int64) + 1,
            "scores": np.take_along_axis(logits, best, axis=1).astype(np.float32),
            "state": state.astype(np.float32),
        }


def ranker(seed: int = 0) -> Ranker:
    """An untrained ranker that fits the menu of `FEATURES`."""
    torch.manual_seed(seed)
    offered = menu(FEATURES)
    return Ranker(_width(offered["candidate_features"]), _width(offered["context_features"]))


def recurrent(seed: int = 0) -> Recurrent:
    """An untrained recurrent model."""
    torch.manual_seed(seed)
    return Recurrent(RecurrentConfig(N_VOCABULARY, n_state=N_STATE, n_best=20))


def large(seed: int = 0) -> Tempo:
    """An untrained model of many items, which lie in clusters as trained ones do."""
    torch.manual_seed(seed)
    net = Tempo(TempoConfig(N_LARGE, d=16, n_layers=1, n_scales=2, n_best=40))
    with torch.no_grad():
        centres = torch.randn(60, 16)
        net.events.items.weight[1:] = centres[torch.randint(60, (N_LARGE,))] + 0.4 * torch.randn(N_LARGE, 16)
        net.bias += 0.3 * torch.randn(N_LARGE)
    return net


def asking(seed: int = 0, net: Tempo | None = None) -> WordedRetriever:
    """An untrained sequence model that goes before a ranker; items have two words each."""
    torch.manual_seed(seed)
    net = Tempo(TempoConfig(N_VOCABULARY, d=8, n_layers=1, n_scales=2)) if net is None else net
    n_items = net.config.n_items
    tokens = torch.zeros(n_items + 1, N_TOKENS, dtype=torch.int64)
    tokens[1:, :2] = torch.randint(1, FUSED.n_content + 1, (n_items, 2))
    tell_items(net, tokens, FUSED.n_content)
    return WordedRetriever(net, n_best=20)


def fused(before: WordedRetriever, seed: int = 0) -> WordedFusion:
    """An untrained ranker that hears it."""
    torch.manual_seed(seed)
    offered = menu(FUSED)
    config = RankerConfig(_width(offered["candidate_features"]), _width(offered["context_features"]), (16, 8))
    return WordedFusion(config, before.representation(), before.words())


def write_fused(path: Path, *, seed: int = 0, net: Tempo | None = None, **changes: Any) -> Manifest:
    """A bundle of a sequence model and the ranker behind it at `path`."""
    before = asking(seed, net)
    fields: dict[str, Any] = {
        "module": fused(before, seed),
        "inputs": FUSED_INPUTS,
        "features": FUSED,
        "space": "candidates",
        "name": "fused",
        "version": seed + 1,
        "training": TRAINING,
        "vocabulary": [f"item-{number}" for number in range(before.net.config.n_items)],
        "retrieval": RetrievalModel(before, ASKING_INPUTS, before.n_state),
    }
    return write_bundle(path, **(fields | changes))


def write_fused_indexed(path: Path, **changes: Any) -> Manifest:
    """The same, of a sequence model that searches many items with an index."""
    fields: dict[str, Any] = {"net": large(), "name": "fused-indexed", "index": IndexSettings(above=1_000)}
    return write_fused(path, **(fields | changes))


def write_indexed(path: Path, *, seed: int = 0, **changes: Any) -> Manifest:
    """A recurrent bundle that searches many items with an index, and says what scores are the sum of."""
    net = large(seed)
    fields: dict[str, Any] = {
        "module": net,
        "inputs": RECURRENT_INPUTS,
        "features": FEATURES,
        "space": "vocabulary",
        "name": "indexed",
        "version": seed + 1,
        "training": TRAINING,
        "vocabulary": [f"item-{number}" for number in range(N_LARGE)],
        "n_state": net.config.n_state,
        "parts": net.parts,
        "index": IndexSettings(above=1_000),
    }
    return write_bundle(path, **(fields | changes))


def write_ranker(path: Path, *, seed: int = 0, **changes: Any) -> Manifest:
    """A two-stage bundle at `path`."""
    fields: dict[str, Any] = {
        "module": ranker(seed),
        "inputs": RANKER_INPUTS,
        "features": FEATURES,
        "space": "candidates",
        "name": "ranker",
        "version": seed + 1,
        "training": TRAINING,
        "metrics": {"made-up/hr@10": 0.5},
    }
    return write_bundle(path, **(fields | changes))


def write_recurrent(path: Path, *, seed: int = 0, **changes: Any) -> Manifest:
    """A recurrent bundle at `path`."""
    fields: dict[str, Any] = {
        "module": recurrent(seed),
        "inputs": RECURRENT_INPUTS,
        "features": FEATURES,
        "space": "vocabulary",
        "name": "recurrent",
        "version": seed + 1,
        "training": TRAINING,
        "vocabulary": [f"item-{number}" for number in range(N_VOCABULARY)],
        "n_state": N_STATE,
    }
    return write_bundle(path, **(fields | changes))


def _weights(module: nn.Module) -> dict[str, NDArray[np.float64]]:
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)


def _width(spec: TensorSpec) -> int:
    width = spec.shape[-1]
    assert isinstance(width, int)
    return width

"""From a module to a bundle: the same bytes each time, and nothing that breaks the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stream.bundle.errors import BundleError
from stream.bundle.load import load_bundle
from stream.core.features import menu
from stream.core.scales import DEFAULT_SCALES
from tests.bundle.models import FEATURES, RECURRENT_INPUTS, Ranker, write_ranker, write_recurrent
from training.module_scorer import example_inputs


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_same_module_gives_the_same_bytes(tmp_path: Path) -> None:
    write_recurrent(tmp_path / "a")
    write_recurrent(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_golden_inputs_are_the_rows_that_were_given(tmp_path: Path) -> None:
    rows = example_inputs(
        {name: menu(FEATURES, 16)[name] for name in RECURRENT_INPUTS}, n_rows=5, n_vocabulary=9, seed=3
    )
    write_recurrent(tmp_path / "a", example=rows)
    parity = load_bundle(tmp_path / "a").parity
    assert set(parity.inputs) == set(RECURRENT_INPUTS)
    assert all(np.array_equal(parity.inputs[name], rows[name]) for name in rows)


def test_the_scales_are_those_of_the_feature_specification(tmp_path: Path) -> None:
    assert write_ranker(tmp_path / "a").scales_ms == tuple(scale.span_ms for scale in DEFAULT_SCALES)


def test_inputs_that_are_not_on_the_menu_or_not_taken_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'moon'"):
        write_ranker(tmp_path / "a", inputs=["candidates", "moon"])
    with pytest.raises(ValueError, match="forward takes"):
        write_ranker(tmp_path / "a", inputs=["candidates", "candidate_features"])


class FixesBatch(nn.Module):
    """Writes the batch size that it was traced with into the graph."""

    def forward(self, candidates: Tensor, context_features: Tensor) -> tuple[Tensor, Tensor]:
        n_rows = int(candidates.shape[0])
        weights = torch.ones(n_rows, 1) * float(n_rows)
        return candidates, candidates.float() * weights + context_features[:, :1] * len(range(n_rows))


class Nan(Ranker):
    """Divides by zero."""

    def forward(
        self, candidates: Tensor, candidate_features: Tensor, context_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        items, scores = super().forward(candidates, candidate_features, context_features)
        return items, (scores - scores) / 0


class TwoShapes(nn.Module):
    """Gives one score less than items."""

    def forward(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        return candidates, candidates[:, 1:].float()


@pytest.mark.parametrize(
    ("module", "inputs", "reason"),
    [
        (FixesBatch(), ["candidates", "context_features"], "export|differ|its"),
        (Nan(33, 21), ["candidates", "candidate_features", "context_features"], "NaN"),
        (TwoShapes(), ["candidates"], "scores float32"),
    ],
)
def test_a_module_that_breaks_the_contract_is_refused(
    tmp_path: Path, module: nn.Module, inputs: list[str], reason: str
) -> None:
    changes: dict[str, Any] = {"module": module, "inputs": inputs}
    with pytest.raises((ValueError, BundleError), match=reason):
        write_ranker(tmp_path / "a", **changes)
    assert not list(tmp_path.iterdir())

"""From a module to a bundle: the same bytes each time, no trace of the machine, all or nothing."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from stream.bundle.errors import BundleError
from stream.bundle.load import load_bundle
from stream.core.features import TensorSpec, menu
from stream.core.scales import DEFAULT_SCALES
from tests.bundle.models import FEATURES, RECURRENT_INPUTS, Ranker, ranker, write_ranker, write_recurrent
from training.export import OPSET, ModuleScorer, example_inputs, export_module


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_same_module_gives_the_same_bytes(tmp_path: Path) -> None:
    write_recurrent(tmp_path / "a")
    write_recurrent(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_no_file_names_this_machine(tmp_path: Path) -> None:
    write_recurrent(tmp_path / "a")
    for name, content in contents(tmp_path / "a").items():
        for folder in (str(Path.cwd()), str(Path.home()), sys.prefix, str(tmp_path), "site-packages"):
            assert folder.encode() not in content, f"{name} names {folder}"
        assert b".py" not in content, name
        assert b"File " not in content, name


def test_the_graph_is_of_the_pinned_opset_and_carries_no_notes(tmp_path: Path) -> None:
    write_ranker(tmp_path / "a")
    model = onnx.load(tmp_path / "a" / "model.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    onnx.checker.check_model(model)


def test_nothing_needs_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write_ranker(tmp_path / "a")


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


def test_another_bundle_in_the_way_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    write_ranker(tmp_path / "a")
    before = contents(tmp_path / "a")
    with pytest.raises(BundleError, match=r"another bundle is in the way.*ranker@2.*ranker@1"):
        write_ranker(tmp_path / "a", seed=1)
    assert contents(tmp_path / "a") == before
    write_ranker(tmp_path / "a")  # the very same one is no conflict
    assert contents(tmp_path / "a") == before
    write_ranker(tmp_path / "a", seed=1, replace=True)
    assert load_bundle(tmp_path / "a").reference == "ranker@2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("text")
    with pytest.raises(BundleError, match="not a bundle"):
        write_ranker(tmp_path / "thesis", replace=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "text"


def test_a_failure_on_the_way_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ranker(tmp_path / "a")
    before = contents(tmp_path / "a")

    def fail(path: Path) -> NoReturn:
        raise BundleError(path, "refused for the test")

    monkeypatch.setattr("training.export.load_bundle", fail)
    with pytest.raises(BundleError, match="refused for the test"):
        write_ranker(tmp_path / "a", seed=1, replace=True)
    assert contents(tmp_path / "a") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_the_module_is_left_in_the_mode_it_was_in(tmp_path: Path) -> None:
    module = ranker().train()
    write_ranker(tmp_path / "a", module=module)
    assert module.training


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


def test_every_named_axis_is_free_in_the_graph() -> None:
    """The menu has fixed lengths today; a specification with free ones exports as well."""

    class Mean(nn.Module):
        def forward(self, candidates: Tensor, candidate_features: Tensor) -> tuple[Tensor, Tensor]:
            return candidates, candidate_features.mean(dim=-1)

    specs = {
        "candidates": TensorSpec("int64", ("B", "C")),
        "candidate_features": TensorSpec("float32", ("B", "C", 4)),
    }
    scorer = ModuleScorer(Mean(), inputs=specs, n_state=0, space="candidates")
    model = onnx.load_from_string(export_module(scorer, example_inputs(specs)))
    dims = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert dims == [["B", "C"], ["B", "C", 4]]

"""The graph of a module: of one version, free where it must be, without a trace of the machine."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import NoReturn

import onnx
import pytest
from torch import Tensor, nn

from stream.core.features import TensorSpec
from tests.bundle.models import ranker, write_ranker, write_recurrent
from training.module_scorer import ModuleScorer, example_inputs
from training.onnx_export import OPSET, export_module


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


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


def test_the_module_is_left_in_the_mode_it_was_in(tmp_path: Path) -> None:
    module = ranker().train()
    write_ranker(tmp_path / "a", module=module)
    assert module.training


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

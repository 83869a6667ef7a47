"""A recurrent graph without what it says of a state gives the same state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from stream.bundle.load import load_bundle
from stream.bundle.stepping import only_output
from tests.bundle.models import N_VOCABULARY
from tests.bundle.test_ending import a_model


def test_only_what_leads_to_the_state_is_left() -> None:
    """x -> next_state is one operator of four, and needs none of the weights."""
    left = only_output(a_model(), "next_state")
    assert left is not None
    model = onnx.load_from_string(left)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Neg"]
    assert (len(model.graph.initializer), [output.name for output in model.graph.output]) == (0, ["next_state"])
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(ort.InferenceSession(left).run(None, {"x": x})[0], -x)


def within(graph: onnx.GraphProto) -> None:
    """A node with a graph of its own, which may read whatever is outside."""
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "inner", [], [])
    graph.node[0].attribute.append(helper.make_attribute("body", inner))


@pytest.mark.parametrize(("change", "name"), [(within, "next_state"), (lambda _: None, "nobody")])
def test_what_cannot_be_told_stays_whole(change: Callable[[onnx.GraphProto], None], name: str) -> None:
    assert only_output(a_model(change), name) is None


def test_a_graph_that_is_all_needed_stays_whole() -> None:
    left = only_output(a_model(), "next_state")
    assert left is not None
    assert only_output(left, "next_state") is None


@pytest.mark.parametrize("n_rows", [1, 3, 64])
def test_the_state_alone_is_the_state(bundles: Path, n_rows: int) -> None:
    scorer = load_bundle(bundles / "recurrent").scorer
    assert scorer.step is not None
    rng = np.random.default_rng(n_rows)
    inputs = {
        "item": rng.integers(0, N_VOCABULARY, n_rows),
        "kind": rng.integers(0, 2, n_rows),
        "gap_s": rng.exponential(1000, n_rows).astype(np.float32),
        "value": np.zeros(n_rows, np.float32),
        "state": rng.standard_normal((n_rows, scorer.n_state)).astype(np.float32),
    }
    np.testing.assert_allclose(scorer.step(inputs), scorer.score(inputs)["state"], rtol=1e-5, atol=1e-6)
